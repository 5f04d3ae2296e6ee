"""Where LoRA starts: not at the saddle. One weight, its loss over b and a."""

from missviz.analysis.one_weight import TRAININGS
from missviz.displays.landscape import LandscapeDisplay
from missviz.explore.panel import Panel

STARTS = (0.0, 0.25, 0.5, 1.0, 2.0)
STEPS = (0, 1, 2, 5, 10, 20, 40)


def landscape(
    start: float = 0.5, training: str = "both trained", steps: int = 20, *, reveal: bool = True
) -> Panel:
    """One weight w = w₀ + b a that should be w₀ + 1; controls: start, training, steps.

    Gradient descent from b = 0 and a = `start`, as LoRA starts, over the loss ½ (1 − b a)². With
    both trained the loss is no bowl: b = a = 0 is a saddle. With a frozen it is a parabola in b.
    With reveal=False the path stays hidden until `panel.reveal()`.
    """
    return Panel(
        "landscape",
        LandscapeDisplay.from_start,
        {"start": STARTS, "training": TRAININGS, "steps": STEPS},
        {"start": start, "training": training, "steps": steps},
        reveal=reveal,
    )

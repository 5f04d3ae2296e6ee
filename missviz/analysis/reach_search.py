"""Reach by numbers: the nearest that ΔW of any method comes to a target, found by gradient steps.

A method is asked for nothing but `Adapter.delta()`. All starts, of all targets, run as one batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.base import Adapter
from missviz.machine import one_thread
from missviz.randomness import generator_for, normal

Targets = Float[Tensor, "target layer out in_"]
Inputs = Float[Tensor, "input in_"]
Points = Float[Tensor, "point number"]

STARTS = 4
STEPS = 300
LEAST_GAIN = 1e-10
"""Share of ‖M‖² below which a step counts as none; `PATIENCE` of them in a row end the search."""
PATIENCE = 3
MEMORY = 12
"""Steps that L-BFGS remembers."""
HALVINGS = 20
LARGEST_SEARCH = 2**28
"""Entries of ΔW, over all starts and steps of one target: about ten seconds."""
FEWEST_STEPS = 30
LARGEST_SYSTEM = 2**22
"""Entries of a least-squares system that is solved at once: 32 MB."""
PROBED = (1e-3, 1.0, 1e3)
"""Steps away from the start at which ΔW is asked whether it is linear, relative to the usual."""
TRIED = (-3, 4)
"""Powers of ten, of what starts at 0, among which a drawn start is chosen."""
AT_ONCE = 2**21
"""Entries of ΔW, over all points, that are computed at once: 16 MB."""
ROUNDING = 1e-9
FITTED = 1e-7
"""Of a target's largest entry: how far ΔW may be from what least squares made of it."""
ROOM = 4
"""A unit of a number is so many times its size at the start. Products of matrices are found in a
third of the steps where the search begins small."""


@dataclass(frozen=True)
class Found:
    """What a search found."""

    shares: Float[Tensor, " target"]
    """Of ‖M‖², from 0 to 1."""
    lower_bound: bool
    """False where ΔW is linear in all trained numbers, so that least squares gave the largest."""


@one_thread()
def search(
    adapters: Sequence[Adapter],
    targets: Targets,
    inputs: Inputs | None = None,
    *,
    starts: int = STARTS,
    steps: int = STEPS,
) -> Found:
    """The largest share of Σ_t ‖M_t‖² that the ΔW_t of `adapters` were found to capture together.

    Where every ΔW_t is linear in all trained numbers, least squares (`torch.linalg.lstsq`) has the
    answer. Elsewhere L-BFGS on all numbers in float64, from several starts: the adapters' own, and
    others where all numbers are drawn. So any result was reached by some ΔW.

    Args:
        adapters: one per layer; what several of them share is one set of numbers.
        targets: M (n, L, out, in), n problems, each with a target for each adapter.
        inputs: X (m, in), the same for all: M_t Xᵀ and ΔW_t Xᵀ then stand in the place of M_t and
            ΔW_t.
        starts, steps: of the search, at most. Beyond 2**28 entries of ΔW over all of them (four
            starts of 300 steps on 473 × 473) there are fewer starts, down to two, and then fewer
            steps, down to 30.

    Raises ValueError, naming the method, where `delta()` raises something, has another shape than
    the layer's weight, or is not finite before any step.
    """
    starts = validation.positive_int("starts", starts)
    steps = validation.positive_int("steps", steps)
    for adapter in adapters:
        update_of(adapter)
    updates = _Updates(adapters, targets[0], inputs)
    cells = targets[0].numel()  # of all ΔW_t, which are made before they meet an input
    targets = updates.on_inputs(targets)
    if not updates.count:
        only = updates(targets.new_zeros(1, 0), targets.new_ones(1))
        return Found(_shares(targets, only), lower_bound=False)
    if updates.count * cells <= LARGEST_SYSTEM and updates.are_linear():
        shares = _least_squares(updates, targets)
        if shares is not None:
            return Found(shares, lower_bound=False)
    starts, steps = _bounded(starts, steps, cells)
    per_chunk = max(1, AT_ONCE // (starts * cells))
    found = [_searched(updates, part, starts, steps) for part in targets.split(per_chunk)]
    return Found(torch.cat(found), lower_bound=True)


@torch.no_grad()
def update_of(adapter: Adapter) -> Float[Tensor, "out in_"]:
    """ΔW as it is; ValueError, one sentence with the method's name, where it is no such matrix."""
    name, shape = adapter.method.name, tuple(adapter.base.weight.shape)
    try:
        delta = adapter.delta().detach()
    except Exception as error:  # whatever the reader's formula raises
        raise ValueError(f"delta() of {name} raised {type(error).__name__}: {error}") from error
    if tuple(delta.shape) != shape:
        raise ValueError(
            f"delta() of {name} is {tuple(delta.shape)} on a layer with a "
            f"weight {shape}; it must have the weight's shape"
        )
    validation.finite(f"delta() of {name}, before any step,", delta)
    return delta


class _Updates:
    """ΔW of all adapters as a function of their trained numbers: points (p, n) → (p, L, out, in).
    With inputs X (m, in) it is ΔW Xᵀ: (p, L, out, m).

    The numbers are counted from the adapters' start, each group (a parameter) in units of its own
    norm there, so that neither the scale of a method's start nor its α changes the search. The unit
    of a group that starts at 0 is what makes ΔW as large as `sizes`, the norms of the targets.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter],
        like: Float[Tensor, "layer out in_"],
        inputs: Inputs | None = None,
    ) -> None:
        self.inputs = inputs
        self.deltas = _Deltas(adapters).to(like)
        self.vectorised = True
        named = dict(self.deltas.named_parameters())
        self.start = {name: p.detach() for name, p in named.items() if p.requires_grad}
        self.frozen = {name: p.detach() for name, p in named.items() if not p.requires_grad}
        self.counts = [p.numel() for p in self.start.values()]
        self.count = sum(self.counts)
        if not self.count:
            self.origin = self.norms = like.new_zeros(0)
            self.from_zero, self.per_size = self.norms == 0, 1.0
            return
        flat = [p.flatten() for p in self.start.values()]
        self.origin = torch.cat(flat)
        self.norms = torch.cat([torch.linalg.vector_norm(p).expand_as(p) for p in flat])
        self.from_zero = self.norms == 0
        self.per_size = 1.0
        noise = torch.where(self.from_zero, self.noise(0), 0.0)
        here, there = self(torch.stack([0 * noise, noise]), self.origin.new_ones(2))
        if moved := float(torch.linalg.vector_norm(there - here)):
            self.per_size /= ROOM * moved

    def on_inputs(self, matrices: Float[Tensor, "*many out in_"]) -> Float[Tensor, "*many out m"]:
        return matrices if self.inputs is None else matrices @ self.inputs.mT

    def others(
        self, starts: int, sizes: Float[Tensor, " target"]
    ) -> Float[Tensor, "target start number"]:
        """Points where each number is drawn. Those that start elsewhere than at 0 move by as much
        as they are large there. What starts at 0 is as large as makes ΔW about 1/ROOM of `sizes`:
        at 0, where ΔW may be a product of two of them, there need not be a way down."""
        if not starts:
            return sizes.new_zeros(len(sizes), 0, self.count)
        drawn = torch.stack([self.noise(n) for n in range(1, starts + 1)])
        drawn = drawn.repeat(len(sizes), 1)
        sizes = sizes.repeat_interleave(starts)
        best, nearest = drawn / ROOM, torch.full_like(sizes, torch.inf)
        with torch.no_grad():
            still = drawn * ~self.from_zero / ROOM
            here = self(still, sizes)
            for exponent in range(*TRIED):
                tried = torch.where(self.from_zero, 10.0**exponent * drawn, still)
                moved = ((self(tried, sizes) - here) / _each(sizes)).flatten(1)
                share = torch.linalg.vector_norm(moved, dim=1)
                far = (share * ROOM).log().abs().nan_to_num(nan=torch.inf)
                best = torch.where((far < nearest)[:, None], tried, best)
                nearest = torch.minimum(far, nearest)
        return best.unflatten(0, (-1, starts))

    def noise(self, start: int) -> Float[Tensor, " number"]:
        """Each group of norm about 1, the same for every target: the company does not matter."""
        drawn = [
            normal((count,), max(count, 1) ** -0.5, generator_for("reach", start, name))
            for name, count in zip(self.start, self.counts, strict=True)
        ]
        return torch.cat(drawn).to(self.origin)

    def __call__(
        self, points: Points, sizes: Float[Tensor, " point"]
    ) -> Float[Tensor, "point layer out in_"]:
        units = torch.where(self.from_zero, (self.per_size * sizes)[:, None], ROOM * self.norms)
        values = self.origin + units * points
        if self.vectorised:
            try:
                made: Tensor = torch.func.vmap(self._one)(values)
                return made
            except RuntimeError:
                self.vectorised = False  # a delta() that asks for a number's value: one by one
        return torch.stack([self._one(value) for value in values])

    def _one(self, values: Float[Tensor, " number"]) -> Float[Tensor, "layer out in_"]:
        parts = {
            name: part.view_as(start)
            for (name, start), part in zip(
                self.start.items(), values.split(self.counts), strict=True
            )
        }
        made: Tensor = torch.func.functional_call(self.deltas, {**self.frozen, **parts}, ())
        return self.on_inputs(made)

    def are_linear(self, size: float = 1.0) -> bool:
        """Whether ΔW is linear in all numbers together, up to what it is at the start: near it, as
        far out as `size`, and much farther."""
        one, two = self.noise(0), self.noise(1)
        points = torch.stack([one, two, one + two, -3 * one])
        ones = self.origin.new_ones(len(points))
        with torch.no_grad():
            start = self(0 * points[:1], ones[:1])[0]
            for scale in PROBED:
                first, second, both, back = at = self(scale * size * points, ones)
                bend = torch.stack(
                    [both - first - second + start, back - start + 3 * (first - start)]
                )
                # Written so that NaN is no line either.
                if not bend.abs().max() <= ROUNDING * torch.maximum(
                    at.abs().max(), start.abs().max()
                ):
                    return False
        return True


class _Deltas(nn.Module):
    """`delta()` of all adapters as a module's forward, so that `functional_call` takes it."""

    def __init__(self, adapters: Iterable[Adapter]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapters)

    def forward(self) -> Float[Tensor, "layer out in_"]:
        made = []
        for adapter in self.adapters:
            assert isinstance(adapter, Adapter)
            made.append(adapter.delta())
        return torch.stack(made)


@torch.no_grad()
def _least_squares(updates: _Updates, targets: Targets) -> Float[Tensor, " target"] | None:
    """The largest shares where ΔW is linear: all numbers at once, a right side for each target.

    What counts is ΔW at the numbers that were found. None where that is another than a linear one
    would be: a ΔW that is linear near its start, such as one that is clamped, need not be so there.
    """
    unit, ones = torch.eye(updates.count).to(targets), targets.new_ones(updates.count)
    start = updates(torch.zeros_like(unit[:1]), ones[:1])
    system = (updates(unit, ones) - start).flatten(1).mT
    sizes = norms(targets)
    wanted = ((targets - start) / _each(sizes)).flatten(1).mT
    fitted = torch.linalg.lstsq(system, wanted, driver="gelsd").solution
    made = updates((fitted * sizes).mT, torch.ones_like(sizes))
    expected = start / _each(sizes) + (system @ fitted).mT.view_as(made)
    if not (made / _each(sizes) - expected).abs().max() <= FITTED:
        return None
    largest = float((torch.linalg.vector_norm(fitted, dim=0) * sizes).max())
    return _shares(targets, made) if not largest or updates.are_linear(largest) else None


def _shares(targets: Targets, made: Targets) -> Float[Tensor, " target"]:
    sizes = _each(norms(targets))
    missed, wanted = ((M / sizes).square().sum((1, 2, 3)) for M in (targets - made, targets))
    return (1 - missed / wanted).clamp(0, 1)


def norms(targets: Targets) -> Float[Tensor, " target"]:
    """‖M‖ over all layers, where the squares may leave the range of numbers."""
    largest = targets.abs().amax((1, 2, 3))
    return largest * torch.linalg.vector_norm(targets / _each(largest), dim=(1, 2, 3))


def _each(values: Float[Tensor, " target"]) -> Float[Tensor, "target 1 1 1"]:
    return values[:, None, None, None]


def _bounded(starts: int, steps: int, cells: int) -> tuple[int, int]:
    """Fewer starts, then fewer steps, where ΔW is large."""
    most = LARGEST_SEARCH // cells
    starts = min(starts, max(2, most // steps))
    return starts, min(steps, max(FEWEST_STEPS, most // starts))


def _searched(
    updates: _Updates, targets: Targets, starts: int, steps: int
) -> Float[Tensor, " target"]:
    wanted = targets.repeat_interleave(starts, 0)
    sizes = norms(wanted)
    drawn = updates.others(starts - 1, sizes[::starts])
    first = torch.cat([0 * updates.origin.expand(len(targets), 1, -1), drawn], 1).flatten(0, 1)

    def missed(points: Points) -> tuple[Tensor, Points]:
        points = points.detach().requires_grad_()
        missing = (wanted - updates(points, sizes)) / _each(sizes)
        value = missing.square().sum((1, 2, 3))
        if not value.requires_grad:  # a delta() without a gradient: nothing to follow
            return value, torch.zeros_like(points)
        (gradient,) = torch.autograd.grad(value.sum(), points)
        return value.detach(), gradient

    least = lowest(missed, first, steps)
    return (1 - least.unflatten(0, (-1, starts)).amin(1)).clamp(0, 1)


def lowest(
    function: Callable[[Points], tuple[Float[Tensor, " point"], Points]],
    points: Points,
    steps: int,
) -> Float[Tensor, " point"]:
    """The lowest value that L-BFGS found from each of `points`, all at once.

    `function` gives the value at each point and its gradient there. No step makes a value larger;
    one without a number (NaN) counts as infinity.
    """
    value, gradient = function(points)
    value = value.nan_to_num(nan=torch.inf)
    history: list[tuple[Points, Points, Tensor]] = []
    size = 0.1 / _norm(gradient)
    quiet = torch.zeros_like(value)
    for _ in range(steps):
        direction = -_newton(gradient, history, size)
        slope = (direction * gradient).sum(-1)
        uphill = ~(slope < 0)
        direction = torch.where(uphill[:, None], -gradient, direction)
        slope = torch.where(uphill, -gradient.square().sum(-1), slope)
        done = quiet >= PATIENCE
        length = torch.ones_like(value)
        for _ in range(HALVINGS):
            reached, there = function(points + length[:, None] * direction)
            reached = reached.nan_to_num(nan=torch.inf)
            lower = reached <= value + 1e-4 * length * slope
            if (lower | done).all():
                break
            # Where the parabola through value, slope and what was reached is lowest.
            guess = -slope * length / (2 * ((reached - value) / length - slope))
            shorter = torch.clamp(guess.nan_to_num(nan=0.0), 0.1 * length, 0.5 * length)
            length = torch.where(lower | done, length, shorter)
        better = reached < value
        step = torch.where(better[:, None], length[:, None] * direction, 0.0)
        turn = torch.where(better[:, None], there - gradient, 0.0)
        curvature = (step * turn).sum(-1)
        bent = curvature > 0
        history = [*history, (step, turn, torch.where(bent, 1 / curvature, 0.0))][-MEMORY:]
        size = torch.where(bent, curvature / turn.square().sum(-1), size)
        gain = torch.where(better, value - reached, 0.0)
        points = points + step
        value = torch.where(better, reached, value)
        gradient = torch.where(better[:, None], there, gradient)
        quiet = torch.where(gain > LEAST_GAIN, 0.0, quiet + 1)
        if (quiet >= PATIENCE).all():
            break
    return value


def _newton(
    gradient: Points, history: Sequence[tuple[Points, Points, Tensor]], size: Tensor
) -> Points:
    """H⁻¹ · gradient by the two loops of L-BFGS; `size` is H⁻¹ before it has seen a step."""
    aimed, shares = gradient, []
    for step, turn, inverse in reversed(history):
        share = inverse * (step * aimed).sum(-1)
        shares.append(share)
        aimed = aimed - share[:, None] * turn
    aimed = size[:, None] * aimed
    for (step, turn, inverse), share in zip(history, reversed(shares), strict=True):
        aimed = aimed + (share - inverse * (turn * aimed).sum(-1))[:, None] * step
    return aimed


def _norm(points: Points) -> Float[Tensor, " point"]:
    return torch.linalg.vector_norm(points, dim=-1).clamp_min(1e-300)

"""Where an update lies beside the singular directions of the weight that it changes."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.update import Update
from missviz.analysis.comparison import random_like
from missviz.analysis.inspection import Base, base_weight
from missviz.analysis.products import Updates, named_updates, shortened
from missviz.analysis.spectra import spectra, spectrum


@torch.no_grad()
def directions(
    updates: Updates, count: int, base: Base | None = None, *, controls: int = 1
) -> pd.DataFrame:
    """Share of ‖ΔW‖² in the first and in the last `count` singular directions of W₀.

    With W₀ = U S Vᵀ and q = `count`: "left" is ‖U_qᵀ ΔW‖² / ‖ΔW‖², what ΔW writes there; "right"
    ‖ΔW V_q‖² / ‖ΔW‖², what it reads there; "both" ‖U_qᵀ ΔW V_q‖² / ‖ΔW‖². Exact in float64, from
    factors where there are any; one full SVD of each W₀.

    A random update of the same rank and norm has its share by chance, and stands beside ΔW: what
    training did is what differs from it.

    Args:
        updates: updates by module name, such as `missviz.read_peft(folder)`, or an attached model.
        count: q, at most min(out, in). "bottom" are the last q of the min(out, in) directions.
        base: the model that has W₀, or a function from a module's name to its W₀. Not needed for
            an attached model, nor where `read_peft` was given it.
        controls: how many random updates of each module's rank and norm.

    Returns one row per module, update, side and end:
        module: its name.
        update: "ΔW" or "random"; draw: 0, 1, … of the random ones, −1 for ΔW.
        side: "left", "right" or "both"; end: "top" or "bottom".
        share: of ‖ΔW‖²; NaN where ΔW = 0.
        chance: q/out, q/in, or their product: the mean share of random updates.

    Raises:
        TypeError, ValueError: naming the argument; a module's W₀ is not known, or ΔW or W₀ holds
            NaN or infinity.

    Example:
        >>> import torch, missviz as mv
        >>> model = mv.attach(torch.nn.Linear(8, 8), mv.MiSS(2))
        >>> torch.nn.init.ones_(model.D)[0, 0].item()
        1.0
        >>> len(mv.analysis.directions(model, 2, controls=3))
        24
    """
    count = validation.positive_int("count", count)
    controls = validation.non_negative_int("controls", controls)
    named = named_updates("updates", updates)
    drawn = [random_like(named, seed) for seed in range(controls)]
    rows = []
    for module, update in named.items():
        layer = _Layer.of(module, update, base)
        U, _, Vh = torch.linalg.svd(layer.weight, full_matrices=False)
        place = f"min(out, in) of {module or 'the layer'}"
        validation.at_most("count", count, place, len(Vh))
        chance = {"left": count / len(U), "right": count / Vh.shape[1]}
        chance["both"] = chance["left"] * chance["right"]
        beside = [("ΔW", -1, (layer.basis, layer.short))]
        beside += [("random", i, shortened(random[module])) for i, random in enumerate(drawn)]
        for kind, draw, (basis, short) in beside:
            for (side, end), share in _shares(basis, short, U, Vh, count).items():
                rows.append((module, kind, draw, side, end, share, chance[side]))
    names = ["module", "update", "draw", "side", "end", "share", "chance"]
    return pd.DataFrame(rows, columns=names)


def _shares(
    basis: Float[Tensor, "out n"] | None,
    short: Float[Tensor, "n in_"],
    U: Float[Tensor, "out m"],
    Vh: Float[Tensor, "m in_"],
    count: int,
) -> dict[tuple[str, str], float]:
    written = (U.mT if basis is None else U.mT @ basis) @ short
    read, both = short @ Vh.mT, written @ Vh.mT
    total = short.square().sum()
    shares: dict[tuple[str, str], float] = {}
    for end, part in {"top": slice(None, count), "bottom": slice(-count, None)}.items():
        parts = {"left": written[part], "right": read[:, part], "both": both[part, part]}
        shares |= {(side, end): float(p.square().sum() / total) for side, p in parts.items()}
    return shares


class WeightSpectra(NamedTuple):
    """Singular values of one layer in float64, all min(out, in) of them, largest first."""

    before: Float[Tensor, " n"]
    """Of W₀."""
    update: Float[Tensor, " n"]
    """Of ΔW."""
    after: Float[Tensor, " n"]
    """Of W₀ + ΔW."""


@torch.no_grad()
def weight_spectra(updates: Updates, base: Base | None = None) -> dict[str, WeightSpectra]:
    """Spectra of W₀, ΔW and W₀ + ΔW of every layer; ΔW's as `missviz.spectra` gives them.

    Args:
        updates: updates by module name, such as `missviz.read_peft(folder)`, or an attached model.
        base: as in `directions`.

    Raises as `directions`.

    Example:
        >>> import torch, missviz as mv
        >>> model = mv.attach(torch.nn.Linear(8, 4), mv.MiSS(2))
        >>> [len(values) for values in mv.analysis.weight_spectra(model)[""]]
        [4, 4, 4]
    """
    named = named_updates("updates", updates)
    of_updates = spectra(named)
    found = {}
    for module, update in named.items():
        weight, basis, short = _Layer.of(module, update, base)
        moved = weight + (short if basis is None else basis @ short)
        values = of_updates[module].values.cpu()
        found[module] = WeightSpectra(spectrum(weight), values, spectrum(moved))
    return found


class _Layer(NamedTuple):
    """W₀ and ΔW = basis @ short of one layer in float64; basis None is the identity."""

    weight: Float[Tensor, "out in_"]
    basis: Float[Tensor, "out n"] | None
    short: Float[Tensor, "n in_"]

    @classmethod
    def of(cls, module: str, update: Update, base: Base | None) -> "_Layer":
        try:
            basis, short = shortened(update)
            shape = len(short if basis is None else basis), short.shape[1]
            weight = base_weight(module, update, base, shape)
            if weight is None:
                raise ValueError("W₀ is not known; give base=, the model that has it")
            validation.finite("W₀", weight)
        except ValueError as error:
            raise ValueError(f"{module or 'the layer'}: {error}") from None
        weight = weight.detach().cpu().double()
        return cls(weight if weight.shape == shape else weight.mT, basis, short)

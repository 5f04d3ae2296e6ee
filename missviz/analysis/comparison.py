"""Two adapters on the same layers: do they point the same way? And random ones to compare with."""

import math
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.analysis.products import Decomposition, Product, Updates, decompose, named_updates
from missviz.randomness import generator_for, normal

MEASURES = (
    "cosine",
    "norm_a",
    "norm_b",
    "norm_ratio",
    "column_angle",
    "mean_column_angle",
    "row_angle",
    "mean_row_angle",
)


def compare(a: Updates, b: Updates) -> pd.DataFrame:
    """How alike the updates of two adapters are, module by module.

    From factors, where there are any: no ΔW is built.

    Args:
        a, b: updates by module name, such as `missviz.read_peft(folder)`, or attached models.

    Returns a table with one row per module, those of `a` first:
        module: its name.
        where: "both", "a" or "b". All measures of a module that only one side has are NaN.
        cosine: ⟨ΔW_a, ΔW_b⟩ / (‖ΔW_a‖ ‖ΔW_b‖), Frobenius.
        norm_a, norm_b, norm_ratio: ‖ΔW‖_F, and that of b divided by that of a.
        column_angle, mean_column_angle: of the principal angles between the column spaces (what
            the updates can write), the smallest and the mean, in degrees. 0 is the same, 90 is
            orthogonal. There are as many as the smaller of the two ranks.
        row_angle, mean_row_angle: between the row spaces (what they read).
    Where one of the two is zero, cosine and angles are NaN.

    Raises:
        TypeError: `a` or `b` is neither a mapping of updates nor a model.
        ValueError: there is no update, a module has two shapes, or ΔW holds NaN or infinity.

    Source of the angles: Björck and Golub 1973.
    """
    a, b = named_updates("a", a), named_updates("b", b)
    rows = []
    for module in [*a, *(name for name in b if name not in a)]:
        row: dict[str, Any] = {"module": module, "where": "both"}
        row |= dict.fromkeys(MEASURES, math.nan)
        if module in a and module in b:
            try:
                row |= _measures(decompose(a[module]), decompose(b[module]))
            except ValueError as error:
                raise ValueError(f"{module}: {error}") from None
        else:
            row["where"] = "a" if module in a else "b"
        rows.append(row)
    return pd.DataFrame(rows)


def _measures(a: Decomposition, b: Decomposition) -> dict[str, float]:
    if (len(a.U), len(a.V)) != (len(b.U), len(b.V)):
        raise ValueError(
            f"ΔW is {len(a.U)} × {len(a.V)} in a and {len(b.U)} × {len(b.V)} in b; "
            "they must be on the same layer"
        )
    norm_a, norm_b = float(torch.linalg.norm(a.S)), float(torch.linalg.norm(b.S))
    measures = {"norm_a": norm_a, "norm_b": norm_b}
    measures["norm_ratio"] = norm_b / norm_a if norm_a else math.nan
    if not norm_a or not norm_b:
        return measures
    # ⟨U S Vᵀ, U' S' V'ᵀ⟩ = Σ of (S Uᵀ U' S') ∘ (Vᵀ V').
    product = float((((a.U * a.S).mT @ (b.U * b.S)) * (a.V.mT @ b.V)).sum())
    columns, rows = principal_angles(a.U, b.U), principal_angles(a.V, b.V)
    return measures | {
        "cosine": max(-1.0, min(1.0, product / (norm_a * norm_b))),
        "column_angle": float(columns[0]),
        "mean_column_angle": float(columns.mean()),
        "row_angle": float(rows[0]),
        "mean_row_angle": float(rows.mean()),
    }


def principal_angles(
    a: Float[Tensor, "size p"], b: Float[Tensor, "size q"]
) -> Float[Tensor, " angles"]:
    """Angles between two subspaces in degrees, min(p, q) of them, smallest first.

    The columns of `a` and of `b` are orthonormal.
    """
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    inside = a.mT @ b
    cosines = torch.linalg.svdvals(inside)
    # Of small angles the cosine says little, of large ones the sine.
    sines = torch.linalg.svdvals(b - a @ inside).flip(-1)
    return torch.rad2deg(torch.atan2(sines, cosines))


def random_like(updates: Updates, seed: int = 0) -> dict[str, Product]:
    """A control: random updates, each with the shape, the rank and the norm that ΔW has.

    Both factors are drawn from N(0, 1) and the product is scaled; a draw depends on `seed` and the
    module's name alone. Raises as `compare`.
    """
    return {
        module: _random(decompose(update), generator_for("random_like", seed, module))
        for module, update in named_updates("updates", updates).items()
    }


def _random(like: Decomposition, generator: torch.Generator) -> Product:
    rank = max(1, len(like.S))
    left = normal((len(like.U), rank), 1.0, generator)
    right = normal((rank, len(like.V)), 1.0, generator)
    drawn = decompose(Product(left, right)).S
    scale = torch.linalg.norm(like.S) / torch.linalg.norm(drawn)
    return Product(left * scale, right, "random")

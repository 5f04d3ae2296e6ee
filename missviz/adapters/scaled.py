"""What LoRA and its relatives have in common: a rank r, and a scaling s = α / r."""

import abc
from dataclasses import dataclass

from torch import Tensor

from missviz.adapters.base import Method
from missviz.adapters.validation import at_most, optional, positive_float, positive_int, store


@dataclass(frozen=True)
class ScaledMethod(Method):
    """A method with rank r, at most min(out, in), and scaling s = α / r.

    Args:
        rank: r.
        alpha: α; None means α = r, so that s = 1.
    """

    rank: int
    alpha: float | None = None

    def __post_init__(self) -> None:
        store(self, rank=positive_int, alpha=optional(positive_float))

    @property
    @abc.abstractmethod
    def family(self) -> str:
        """The method's name without its settings."""

    @property
    def name(self) -> str:
        return f"{self.family} r={self.rank}{self.shown_alpha}"

    @property
    def shown_alpha(self) -> str:
        """α as it stands in names, or nothing where it was not set."""
        return "" if self.alpha is None else f" α={self.alpha:g}"

    @property
    def scaling(self) -> float:
        """s = α / r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def scaled(self, factor: Tensor) -> Tensor:
        """s times `factor`; where s is 1, the factor itself, which costs nothing."""
        return factor if self.scaling == 1 else self.scaling * factor

    def check_shape(self, out_features: int, in_features: int) -> None:
        at_most("rank", self.rank, "min(out_features, in_features)", min(out_features, in_features))

"""First gradient norms as a paper reported them, and the √r law through LoRA's."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from missviz import published
from missviz.displays.base import Display
from missviz.style import ink, method_styles, row_of_axes, text_scale


@dataclass(eq=False, repr=False, kw_only=True)
class PublishedGradientsDisplay(Display):
    """Published norms against rank (hollow markers; lines without a rank), and LoRA's law c √r.

    c is the mean of norm/√r over LoRA's own points; BigLoRA's point has no part in it.

    Args:
        table: method, rank (NaN: none), norm, uncertainty; as
            `missviz.published.table("initial_gradients")`.

    After `plot`: `points_` by method, `law_`, `ax_`, `figure_`.
    """

    table: pd.DataFrame

    def __post_init__(self) -> None:
        missing = {"method", "rank", "norm", "uncertainty"} - set(self.table.columns)
        if missing:
            raise ValueError(f"table has no column {', '.join(sorted(missing))}")
        if "LoRA" not in set(self.table["method"]):
            raise ValueError("table has no row of LoRA, through which the law is drawn")

    @classmethod
    def from_published(cls) -> "PublishedGradientsDisplay":
        """DiSHA (arXiv 2409.15371v6), Fig. 1 and §9.1: Llama2-7B."""
        return cls(table=published.table("initial_gradients"))

    @property
    def constant(self) -> float:
        """c."""
        lora = self.table[self.table["method"] == "LoRA"]
        return float((lora["norm"] / np.sqrt(lora["rank"])).mean())

    def summary(self) -> str:
        ranked = self.table.dropna(subset="rank")
        roots = ranked[ranked["method"].isin(["LoRA", "BigLoRA"])]
        shown = ", ".join(
            f"{row.norm / row.rank**0.5:.3f} (r = {row.rank:g})" for row in roots.itertuples()
        )
        return f"published first gradient norms; LoRA's and BigLoRA's norm/√r: {shown}"

    def plot(self) -> "PublishedGradientsDisplay":
        """Draw into a figure of its own."""
        (ax,) = row_of_axes(8, 4.2, left=0.7, right=2.2, top=0.35)
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        ranks = sorted(self.table["rank"].dropna().unique())
        edges = np.array([0.8 * ranks[0], 1.25 * ranks[-1]])
        styles = method_styles(dict.fromkeys(map(str, self.table["method"])))
        lora = styles["LoRA"]
        (self.law_,) = ax.plot(
            edges, self.constant * np.sqrt(edges), color=lora.color, lw=1.2, label="c √r by LoRA's"
        )
        self.points_ = {}
        for name, rows in self.table.groupby("method", sort=False):
            method, style = str(name), styles[str(name)]
            if rows["rank"].isna().all():
                rank, norm = edges, np.repeat(rows["norm"].iloc[0], 2)
                look = {"ls": style.linestyle, "lw": 1.2}
            else:
                rank, norm = rows["rank"], rows["norm"]
                look = {"ls": "", "marker": style.marker, "mfc": "none"}
                look |= {"ms": 8 * text_scale(), "mew": 1.6 * text_scale()}
            (self.points_[method],) = ax.plot(rank, norm, color=style.color, label=method, **look)
        ax.set(xscale="log", yscale="log", xlim=edges, ylim=(1.5, 40))
        ax.set(xlabel="rank r", ylabel="norm of the first gradient")
        ax.set_title("as published: Llama2-7B, DiSHA Fig. 1", color=ink(), fontsize="medium")
        for axis, places in ((ax.xaxis, ranks), (ax.yaxis, [2, 5, 10, 20, 40])):
            axis.set(major_locator=FixedLocator(places), minor_locator=NullLocator())
            axis.set_major_formatter("{x:g}")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handlelength=2.6)
        return self

"""OLoRA: start the two thin matrices at the first columns and rows of the weight's QR."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from missviz.adapters.started import StartedProduct, StartedProductAdapter, ready_to_factor


@dataclass(frozen=True)
class OLoRA(StartedProduct):
    """ΔW = s (B A − B₀ A₀) with W₀ = Q R, B₀ = Q[:, :r], A₀ = R[:r]; s = α / r.

    B₀ has orthonormal columns, and B₀ A₀ is W₀ projected on the span of its own first r columns:
    unlike PiSSA's, this part of W₀ is large or small as those columns happen to be, and at s = 1
    the residual W₀ − s B₀ A₀ has r columns of zeros.

    Args:
        rank: r, at most min(out, in).
        alpha: α in s = α / r; None means s = 1. B₀ and A₀ do not depend on it: s B₀ A₀ does,
            unlike PiSSA's.

    Raises (in `on`): ValueError where W₀ holds NaN or infinity.
    Source: `olora_init` in `peft/tuners/lora/layer.py`; the paper was not checked.
    """

    family = "OLoRA"
    styles: ClassVar = {"OLoRA": ("mint", (4, 0, 10), "pairs")}

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> StartedProductAdapter:
        Q, R = torch.linalg.qr(ready_to_factor("the weight for OLoRA's QR", base.weight))
        return StartedProductAdapter(self, base, B0=Q[:, : self.rank], A0=R[: self.rank])

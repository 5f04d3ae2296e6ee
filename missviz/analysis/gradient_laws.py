"""How large a first gradient is, from G = ∂L/∂W alone: one formula per method.

All are over ‖G‖, which is full fine-tuning's first gradient and frozen fine-tuning's, exactly.
d = out_features, k = in_features. `missviz.analysis.layer_gradients` has them beside what is
measured.
"""

import math

from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation


def column_correlation(gradient: Float[Tensor, "out in_"]) -> float:
    """ρ: mean inner product of two different columns of G, over their mean squared length.

    Between −1/(k−1) and 1; NaN for G = 0.

    Raises ValueError where G is not 2-D with two columns or more, or not finite.
    """
    if gradient.dim() != 2 or gradient.shape[1] < 2:
        raise ValueError(f"gradient of shape {tuple(gradient.shape)}; give (out, in) with in ≥ 2")
    validation.finite("gradient", gradient)
    own = gradient.square().sum()
    pairs = gradient.sum(dim=1).square().sum() - own
    return float(pairs / ((gradient.shape[1] - 1) * own))


def lora_law(rank: int, in_features: int, scaling: float = 1.0) -> float:
    """s √(r/3k): LoRA's first gradient over full fine-tuning's, for A ~ U(−1/√k, 1/√k).

    ∂L/∂B = s G Aᵀ and the entries of A have variance 1/(3k); ∂L/∂A = 0 as B = 0.
    """
    return scaling * math.sqrt(rank / (3 * in_features))


def miss_law(rank: int, in_features: int, correlation: float) -> float:
    """√(1 + (g − 1) ρ), g = k/r: MiSS's first gradient over full fine-tuning's.

    ∂L/∂D = G Tᵀ adds up g columns of G; ρ is their correlation. 1 for ρ = 0, √g for ρ = 1.
    """
    return math.sqrt(max(0.0, 1 + (in_features / rank - 1) * correlation))


def pissa_law(
    singular_values: Float[Tensor, " n"], rank: int, out_features: int, in_features: int
) -> float:
    """√(Σσ (1/k + 1/d)) over W₀'s r largest singular values σ: PiSSA's, over full fine-tuning's.

    ∂L/∂B = s G A₀ᵀ and ∂L/∂A = s B₀ᵀ G, and ‖A₀‖² = ‖B₀‖² = Σσ / s. For s = 1 (else √s times
    that) and a G that has nothing to do with W₀'s singular directions.
    """
    leading = float(singular_values[:rank].sum())
    return math.sqrt(leading * (1 / in_features + 1 / out_features))


def fixed_law(rank: int, in_features: int, gain: float = 1.0) -> float:
    """c √(r/k): that of D in ΔW = D F, for a random frozen F of gain c = ‖F‖_F / √r.

    ∂L/∂D = G Fᵀ. A mean over draws, for orthonormal and for Gaussian rows.
    """
    return gain * math.sqrt(rank / in_features)


def bat_law(block_size: int, in_features: int, correlation: float, omega: float) -> float:
    """√(1 + (g − 1) ρ + ω²b), g = k/b: Bat's first gradient over full fine-tuning's.

    ∂L/∂D_o = Σ_i (G_oi + W_oiᵀ G_oi). The first sum is that of MiSS with r = b, which is W₀ = 0.
    In the second, entries of W₀ that are independent of G and of each other, with mean 0 and mean
    square ω², give each ‖G_oi‖² ω²b, and nothing together with another. Input-indexed: k and ρ are
    those of Gᵀ.
    """
    return math.sqrt(miss_law(block_size, in_features, correlation) ** 2 + omega**2 * block_size)


def dora_law(direction: float, along: float, norm_gradient: bool) -> float:
    """√(l² + p): DoRA's, l = `direction` what `lora_law` gives, p = `along` the share of ‖G‖² along
    W₀'s own rows (columns).

    ∂L/∂m is that part of G. B sees all of G where ‖V‖ is constant in backward; where it moves
    (`norm_gradient`) only the rest of it: √(l² (1 − p) + p).
    """
    return math.sqrt(direction**2 * (1 - along if norm_gradient else 1) + along)

"""How sharply a loss bends: the largest eigenvalue of its Hessian, without building the Hessian."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from missviz.adapters import validation
from missviz.randomness import generator_for, normal

BASIS = 32
"""Vectors of as many numbers as are trained that are in memory at a time."""
KEPT = 8
"""Of them, those that the search goes on with when the memory is full."""


def curvature(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    *,
    tolerance: float = 1e-4,
    most_products: int = 500,
) -> float:
    """λ_max: the largest eigenvalue of ∂²L/∂θ², over all numbers θ that `model` trains together.

    Along its direction gradient descent with one rate for all of θ overshoots for ever from the
    rate 2/λ_max on, as far as the loss is its quadratic there. LoRA's start, B = 0, is no minimum,
    and `-curvature(model, lambda m: -loss(m))` is the smallest eigenvalue, which is negative there.

    By Hessian-vector products (Pearlmutter 1994) and Lanczos with full reorthogonalisation and
    thick restarts (Wu and Simon 2000), in float64 around products in the model's own dtype; from a
    start that depends on the number of trained numbers alone. Memory: 32 vectors of that length,
    and the graphs of one forward and backward pass.

    DoRA holds ‖V‖ constant in backward (`norm_gradient=False`, for rows the default), so its steps
    follow no gradient of the loss. What comes then is the curvature of the loss in which ‖V‖ stays
    what it is now; `DoRA(..., norm_gradient=True)` has that of the loss itself. A learning rate of
    its own for some numbers (LoRA+) is not part of the loss, nor of this.

    Args:
        model: adapted by `missviz.attach`, or any module that trains something; it stays as it is.
            In training mode dropout has one draw, the same for all products.
        loss: loss(model) → a scalar; called once. What a method adds to it (`missviz.penalty`)
            belongs inside.
        tolerance: ‖H v − λ v‖ for a unit v, over the largest |eigenvalue| met. An eigenvalue is
            then at most that far from λ; for one that stands apart the error is its square.
        most_products: after so many Hessian-vector products it gives up.

    Raises:
        TypeError, ValueError: naming the argument; nothing is trained; the loss is not one finite
            number, does not depend on what is trained, or has no second derivative.
        RuntimeError: it did not converge.

    Example:
        >>> import torch, missviz as mv
        >>> x, layer = torch.eye(4), torch.nn.Linear(4, 4, bias=False)
        >>> model = mv.attach(layer, mv.FrozenFineTuning())
        >>> round(mv.analysis.curvature(model, lambda m: m(x).square().sum()), 4)
        2.0
    """
    tolerance = validation.positive_float("tolerance", tolerance)
    most_products = validation.positive_int("most_products", most_products)
    return _largest_eigenvalue(_Hessian(model, loss), tolerance, most_products)


class _Hessian:
    """∂²L/∂θ² as a map of rows (1, n) in float64, for the n numbers that `model` trains."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model={model!r} is not an nn.Module")
        if not callable(loss):
            raise TypeError(f"loss={loss!r} is not a function from the model to its loss")
        self._trained = [one for one in model.parameters() if one.requires_grad]
        if not self._trained:
            raise ValueError("the model trains nothing: every parameter is frozen")
        self.size = sum(one.numel() for one in self._trained)
        self.device = self._trained[0].device
        # Of attention's kernels only the plain one can be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            value = loss(model)
            if not isinstance(value, Tensor) or value.numel() != 1:
                shown = getattr(value, "shape", value)
                raise ValueError(f"loss(model) must be one number, got {shown}")
            validation.finite("the loss", value.detach())
            if not value.requires_grad:
                raise ValueError("the loss does not depend on what the model trains")
            _refuse_once_differentiable(value)
            found = self._derivative(value.reshape(()), create_graph=True)
        # A number that the loss is linear in has a gradient without a graph.
        self._gradients = [one if one.requires_grad else None for one in found]

    def __call__(self, v: Float[Tensor, "1 n"]) -> Float[Tensor, "1 n"]:
        parts = v[0].split([one.numel() for one in self._trained])
        with torch.enable_grad():
            # ∂⟨∂L/∂θ, v⟩/∂θ. Given to autograd as a direction, v would make it load SymPy.
            terms = [
                (gradient * part.to(gradient).view_as(gradient)).sum()
                for gradient, part in zip(self._gradients, parts, strict=True)
                if gradient is not None
            ]
            if not terms:
                return torch.zeros_like(v)
            total = torch.stack([term.to(terms[0]) for term in terms]).sum()
            found = self._derivative(total, create_graph=False)
        product = torch.cat([one.detach().reshape(-1).to(v) for one in found]).unsqueeze(0)
        validation.finite("a Hessian-vector product", product)
        return product

    def _derivative(self, value: Tensor, create_graph: bool) -> tuple[Tensor, ...]:
        try:
            return torch.autograd.grad(
                value,
                self._trained,
                retain_graph=True,
                create_graph=create_graph,
                materialize_grads=True,
            )
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(f"the loss has no second derivative: {reason}") from error


def _refuse_once_differentiable(value: Tensor) -> None:
    """ValueError where a part of the loss says that its gradient is a constant, which it is not:
    autograd would go on without it, and give a wrong Hessian."""
    found, seen = [value.grad_fn], set()
    for node in found:
        if node is None or node in seen:
            continue
        seen.add(node)
        backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
        if getattr(backward, "__globals__", None) is vars(torch.autograd.function):
            name = type(node).__name__.removesuffix("Backward")
            raise ValueError(f"the loss has no second derivative: {name} is once differentiable")
        found += [following for following, _ in node.next_functions]


@torch.no_grad()
def _largest_eigenvalue(hessian: _Hessian, tolerance: float, most_products: int) -> float:
    # Vectors are rows. H Vᵀ = Vᵀ T + w e_lastᵀ, where w is orthogonal to all of V: so at any time
    # the residual of T's eigenvector s is ‖w‖ |s_last|, after a restart too.
    rows = min(BASIS, hessian.size)
    V = torch.zeros(rows, hessian.size, dtype=torch.float64, device=hessian.device)
    T = torch.zeros(rows, rows, dtype=torch.float64)
    v = normal((1, hessian.size), 1.0, generator_for("curvature", hessian.size)).to(V)
    v = v / torch.linalg.norm(v)
    count, last, found = 0, float("nan"), float("nan")
    residual = scale = float("inf")
    products = 0
    while products < most_products:
        products += 1
        V[count : count + 1] = v
        known = V[: count + 1]
        w = hessian(v)
        along = w @ known.mT
        w = w - along @ known
        w = w - (w @ known.mT) @ known  # once more, for what rounding left
        T[count, : count + 1] = T[: count + 1, count] = along[0].cpu()
        count += 1
        values, vectors = torch.linalg.eigh(T[:count, :count])
        last, found, scale = found, float(values[-1]), float(values.abs().max())
        rest = float(torch.linalg.norm(w))
        residual = rest * abs(float(vectors[-1, -1]))
        if residual <= tolerance * scale:
            top = vectors[:, -1:].mT.to(V) @ known
            # What the recurrence says, tried: a model in low precision may not keep it.
            turned = hessian(top)
            found = float((top * turned).sum())
            residual = float(torch.linalg.norm(turned - found * top))
            if residual <= 2 * tolerance * scale:
                return found
            break
        if count == rows:
            V[:KEPT] = vectors[:, -KEPT:].mT.to(V) @ V
            T.zero_().diagonal()[:KEPT] = values[-KEPT:]
            count = KEPT
        v = w / rest
    raise RuntimeError(
        f"curvature did not converge to {tolerance:g} in {products} Hessian-vector products; "
        f"last change {abs(found - last) / scale:.1e} of λ = {found:.6g}, residual "
        f"{residual / scale:.1e}; give a larger tolerance, more products, or a model in float64"
    )

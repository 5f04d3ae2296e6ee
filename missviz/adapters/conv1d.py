"""transformers' Conv1D (GPT-2), a linear layer whose weight stands the other way round."""

from typing import Any

from torch import nn


class OfConv1D(nn.Linear):
    """A Conv1D as the nn.Linear that it is: y = x W + b with W (in, out) there, weight = Wᵀ here,
    in the same memory."""

    def __init__(self, conv1d: Any) -> None:
        nn.Module.__init__(self)
        self._kind: Any = type(conv1d)
        self.in_features, self.out_features = conv1d.weight.shape
        weight, bias = conv1d.weight, conv1d.bias
        self.weight = nn.Parameter(weight.detach().mT, weight.requires_grad)
        self.bias = nn.Parameter(bias.detach(), bias.requires_grad)
        self.train(conv1d.training)

    def back(self, linear: nn.Linear) -> nn.Module:
        """A Conv1D with the numbers of `linear`."""
        conv1d: Any = self._kind.__new__(self._kind)
        nn.Module.__init__(conv1d)
        conv1d.nx, conv1d.nf = self.in_features, self.out_features
        conv1d.weight = nn.Parameter(linear.weight.detach().mT, linear.weight.requires_grad)
        conv1d.bias = linear.bias
        conv1d.train(linear.training)
        assert isinstance(conv1d, nn.Module)
        return conv1d


def is_linear(module: nn.Module) -> bool:
    """Whether adapters go on it: an nn.Linear, or a Conv1D."""
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def as_linear(module: Any) -> Any:
    """A Conv1D as an nn.Linear; anything else as it is."""
    return OfConv1D(module) if _is_conv1d(module) else module


def as_it_was(linear: nn.Linear, base: nn.Linear) -> nn.Module:
    """`linear` as a layer of the kind that `base`, an adapter's, was made from."""
    return base.back(linear) if isinstance(base, OfConv1D) else linear


def _is_conv1d(module: object) -> bool:
    # By its name: transformers need not be installed, and takes seconds to import.
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")

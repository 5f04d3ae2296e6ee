"""Adapters on whole models."""

import copy
import re

import pytest
import torch
from torch import nn

import missviz as mv
from missviz.adapters.base import Adapter
from missviz.testing import randomise


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 12)
        self.blocks = nn.ModuleList([Block() for _ in range(2)])
        self.head = nn.Linear(12, 5, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 8), nn.Linear(8, 12)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(torch.relu(self.fc1(self.norm(x))))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def adapted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Adapter)]


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("*", ["blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "blocks.1.fc2", "head"]),
        ("fc*", ["blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "blocks.1.fc2"]),
        ("fc2", ["blocks.0.fc2", "blocks.1.fc2"]),
        ("blocks.1.*", ["blocks.1.fc1", "blocks.1.fc2"]),
        (["fc1", "head"], ["blocks.0.fc1", "blocks.1.fc1", "head"]),
        (["blocks.0.fc1"], ["blocks.0.fc1"]),
        (("blocks.?.fc1",), ["blocks.0.fc1", "blocks.1.fc1"]),
        (re.compile(r"blocks\.\d\.fc1"), ["blocks.0.fc1", "blocks.1.fc1"]),
        (re.compile(r".*2"), ["blocks.0.fc2", "blocks.1.fc2"]),
    ],
)
def test_targets(model: Net, targets: mv.Method, names: list[str]) -> None:
    assert adapted(mv.attach(model, mv.MiSS(3), targets)) == names


def test_attached_copy_leaves_the_model_alone(model: Net) -> None:
    before = copy.deepcopy(model.state_dict())
    attached = mv.attach(model, mv.MiSS(3), "fc*")
    assert adapted(model) == []
    assert all(parameter.requires_grad for parameter in model.parameters())
    trained = [name for name, p in attached.named_parameters() if p.requires_grad]
    assert trained == [f"blocks.{i}.fc{j}.D" for i in (0, 1) for j in (1, 2)]
    assert attached.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
    assert attached.blocks[0].fc1.base.weight.data_ptr() == model.blocks[0].fc1.weight.data_ptr()
    assert (
        attached.blocks[0].norm.running_mean.data_ptr()
        != model.blocks[0].norm.running_mean.data_ptr()
    )
    optimiser = torch.optim.SGD([p for p in attached.parameters() if p.requires_grad], lr=1.0)
    attached(TOKENS).square().sum().backward()
    optimiser.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_loading_a_state_does_not_reach_the_original(model: Net) -> None:
    before = copy.deepcopy(model.state_dict())
    attached = mv.attach(model, mv.MiSS(3), "fc*")
    other = {name: torch.ones_like(t) for name, t in attached.state_dict().items()}
    attached.load_state_dict(other)
    assert attached.embedding.weight.eq(1).all()
    attached.blocks[0].fc1.load_state_dict(
        {name: torch.zeros_like(t) for name, t in attached.blocks[0].fc1.state_dict().items()}
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_merge_and_detach(model: Net) -> None:
    model.eval()
    attached = mv.attach(model, mv.Bat(4), "fc*")
    assert not attached.blocks[0].fc1.training
    for module in attached.modules():
        if isinstance(module, Adapter):
            randomise(module)
    with torch.no_grad():
        moved = attached(TOKENS)
    merged, detached = mv.merge(attached), mv.detach(attached)
    assert adapted(merged) == adapted(detached) == []
    assert type(merged.blocks[0].fc1) is nn.Linear
    assert torch.allclose(merged(TOKENS), moved, atol=1e-5)
    assert torch.equal(detached(TOKENS), model(TOKENS))
    for name, tensor in model.state_dict().items():
        assert torch.equal(detached.state_dict()[name], tensor), name
    assert len(adapted(attached)) == 4


def test_state_dict_round_trip(model: Net) -> None:
    attached = mv.attach(model, mv.LoRA(2), "fc*", seed=1)
    for module in attached.modules():
        if isinstance(module, Adapter):
            randomise(module)
    again = mv.attach(model, mv.LoRA(2), "fc*", seed=2)
    again.load_state_dict(attached.state_dict())
    assert torch.equal(again.eval()(TOKENS), attached.eval()(TOKENS))
    assert torch.equal(copy.deepcopy(attached)(TOKENS), attached(TOKENS))


def test_start_depends_on_seed_and_name_alone(model: Net) -> None:
    everywhere = mv.attach(model, mv.LoRA(2), "*", seed=5)
    torch.manual_seed(99)
    one = mv.attach(model, mv.LoRA(2), ["blocks.1.fc1"], seed=5)
    assert torch.equal(one.blocks[1].fc1.A, everywhere.blocks[1].fc1.A)
    assert not torch.equal(everywhere.blocks[0].fc1.A, everywhere.blocks[1].fc1.A)
    other = mv.attach(model, mv.LoRA(2), "*", seed=6)
    assert not torch.equal(one.blocks[1].fc1.A, other.blocks[1].fc1.A)


@pytest.mark.parametrize("trainable", ["head", ["head.weight"], re.compile("head")])
def test_trainable_has_memory_of_its_own(model: Net, trainable: str) -> None:
    attached = mv.attach(model, mv.MiSS(3), "fc1", trainable=trainable)
    trained = [name for name, p in attached.named_parameters() if p.requires_grad]
    assert trained == ["blocks.0.fc1.D", "blocks.1.fc1.D", "head.weight"]
    assert attached.head.weight.data_ptr() != model.head.weight.data_ptr()
    assert torch.equal(attached.head.weight, model.head.weight)


def test_shared_layer_is_adapted_in_both_places() -> None:
    shared = nn.Linear(6, 6)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.ReLU(), shared), "c": shared})
    for targets in ("*", ["a"], ["b.1"]):
        attached = mv.attach(model, mv.MiSS(2), targets)
        assert attached["a"] is attached["b"][1] is attached["c"]
        assert isinstance(attached["a"], Adapter)
        detached = mv.detach(attached)
        assert detached["a"] is detached["b"][1]
        merged = mv.merge(attached)
        assert merged["a"] is merged["b"][1] is merged["c"]
        assert type(merged["a"]) is nn.Linear


def test_tied_weights_stay_tied_in_memory() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(9, 6), "head": nn.Linear(6, 9, bias=False)})
    model["head"].weight = model["embedding"].weight
    attached = mv.attach(model, mv.MiSS(2), "head")
    assert attached["head"].base.weight.data_ptr() == attached["embedding"].weight.data_ptr()


def test_model_that_is_one_linear_layer() -> None:
    linear = nn.Linear(6, 4)
    attached = mv.attach(linear, mv.MiSS(2))
    assert isinstance(attached, Adapter)
    assert type(mv.merge(attached)) is nn.Linear
    assert torch.equal(mv.detach(attached).weight, linear.weight)


def test_another_method_on_another_layer(model: Net) -> None:
    first = mv.attach(model, mv.LoRA(2), "fc1")
    for module in first.modules():
        if isinstance(module, Adapter):
            randomise(module)
    both = mv.attach(first, mv.MiSS(2), "head")
    assert adapted(both) == ["blocks.0.fc1", "blocks.1.fc1", "head"]
    assert both.blocks[0].fc1.A.requires_grad
    assert torch.equal(both.eval()(TOKENS), first.eval()(TOKENS))
    assert both.blocks[0].fc1.A.data_ptr() != first.blocks[0].fc1.A.data_ptr()


@pytest.mark.parametrize("method", [mv.LoRA(2), mv.MiSS(3), mv.Bat(4), mv.FullFineTuning()])
@pytest.mark.parametrize("training", [True, False])
def test_multihead_attention(method: mv.Method, training: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=True).train(training)
    attached = mv.attach(attention, method, "out_proj")
    x = torch.randn(2, 5, 12)
    assert torch.allclose(attached(x, x, x)[0], attention(x, x, x)[0], atol=1e-6)
    randomise(attached.out_proj)
    merged = mv.merge(attached)
    with torch.no_grad():
        y = attached(x, x, x)[0]
        assert not torch.allclose(y, attention(x, x, x)[0], atol=1e-2)
        assert torch.allclose(y, merged(x, x, x)[0], atol=1e-5)
    attached(x, x, x)[0].sum().backward()
    assert all(p.grad is not None for p in attached.out_proj.parameters() if p.requires_grad)


@pytest.mark.parametrize("training", [True, False])
def test_transformer_encoder(training: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    attached = mv.attach(encoder, mv.MiSS(4))
    assert len(adapted(attached)) == 6
    for module in attached.modules():
        if isinstance(module, Adapter):
            randomise(module)
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        assert torch.allclose(attached(x), mv.merge(attached)(x), atol=1e-5)
        assert not torch.allclose(attached(x), encoder(x), atol=1e-2)


def test_autocast(model: Net) -> None:
    attached = mv.attach(model.eval(), mv.MiSS(3), "fc*")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attached(TOKENS)
    assert torch.allclose(y.float(), model(TOKENS), atol=0.05)


def tied() -> nn.ModuleDict:
    model = nn.ModuleDict(
        {
            "fc": nn.Linear(6, 6),
            "embedding": nn.Embedding(9, 6),
            "head": nn.Linear(6, 9, bias=False),
        }
    )
    model["head"].weight = model["embedding"].weight
    return model


@pytest.mark.parametrize("trainable", ["embedding", "head", "head.weight"])
def test_trainable_keeps_ties(trainable: str) -> None:
    attached = mv.attach(tied(), mv.LoRA(2), "fc", trainable=trainable)
    assert attached["head"].weight is attached["embedding"].weight
    assert attached["head"].weight.requires_grad


def test_detach_keeps_ties() -> None:
    detached = mv.detach(mv.attach(tied(), mv.LoRA(2), "head"))
    assert detached["head"].weight is detached["embedding"].weight


@pytest.mark.parametrize("back", [mv.merge, mv.detach])
def test_what_comes_back_has_memory_of_its_own(back) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = copy.deepcopy(model.state_dict())
    attached = mv.attach(model, mv.LoRA(2), "0", trainable="1")
    plain = back(attached).requires_grad_()
    kept = copy.deepcopy(plain.state_dict())
    for parameter in attached.parameters():
        if parameter.requires_grad:
            parameter.data += 1
    assert all(torch.equal(t, kept[name]) for name, t in plain.state_dict().items())
    for parameter in plain.parameters():
        parameter.data += 1
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_second_attach_keeps_what_the_first_left_trainable() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)])
    first = mv.attach(model, mv.LoRA(2), "0", trainable="2")
    second = mv.attach(first, mv.LoRA(2), "1")
    assert second[2].weight.requires_grad
    assert second[2].weight.data_ptr() != first[2].weight.data_ptr()
    assert not second[1].base.weight.requires_grad


@pytest.mark.parametrize("trainable", ["0", "0.bias", "0.base"])
def test_w0_of_an_adapted_layer_is_never_trainable(trainable: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    first = mv.attach(model, mv.LoRA(2), "0")
    with pytest.raises(
        ValueError, match=r"only parameters of layers with an adapter|matches no param"
    ):
        mv.attach(model, mv.LoRA(2), "0", trainable=trainable)
    with pytest.raises(
        ValueError, match=r"only parameters of layers with an adapter|matches no param"
    ):
        mv.attach(first, mv.LoRA(2), "1", trainable=trainable)
    everything = mv.attach(model, mv.LoRA(2), "0", trainable="*")
    assert everything[1].weight.requires_grad
    assert not everything[0].base.weight.requires_grad


def test_merge_of_a_parametrized_layer() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))
    attached = mv.attach(nn.Sequential(linear), mv.MiSS(2))
    randomise(attached[0])
    x = torch.ones(2, 8)
    merged = mv.merge(attached)
    assert type(merged[0]) is nn.Linear
    assert torch.allclose(merged(x), attached(x), atol=1e-6)


def test_merge_inside_autocast_is_exact() -> None:
    attached = mv.attach(nn.Sequential(nn.Linear(8, 6)), mv.LoRA(2))
    randomise(attached[0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = mv.merge(attached)
    assert torch.equal(inside[0].weight, mv.merge(attached)[0].weight)


def test_errors_name_the_layer_and_keep_their_kind() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3))
    with pytest.raises(ValueError, match="1: the linear layer has no weights yet"):
        mv.attach(model, mv.MiSS(2))
    with pytest.raises(ValueError, match="lazy layer has no weights yet"):
        mv.attach(model, mv.MiSS(2), "0")
    model[1] = nn.Linear(4, 4)
    model[1].last = model[0](torch.ones(4))
    with pytest.raises(ValueError, match="cannot be copied"):
        mv.attach(model, mv.MiSS(2), "0")
    with pytest.raises(TypeError, match="model=None is not an nn.Module"):
        mv.attach(None, mv.MiSS(2))
    with pytest.raises(TypeError, match="seed=1.5 is not a whole number"):
        mv.attach(model, mv.MiSS(2), seed=1.5)
    attached = mv.attach(nn.Sequential(nn.Linear(4, 4)), mv.MiSS(2))
    with pytest.raises(ValueError, match="is inside an adapter"):
        mv.attach(attached, mv.MiSS(2), "0.base")

"""Layers that are not quite nn.Linear: adapted rightly, or refused in words."""

import re

import pytest
import torch
from helpers import close, raises_one_sentence, random
from methods_under_test import IDS, VARIANTS
from torch import nn

import missviz as mv
from missviz.adapters.base import Method
from missviz.testing import randomise

transformers = pytest.importorskip("transformers", reason="GPT-2's Conv1D is transformers'")
from transformers.pytorch_utils import Conv1D  # noqa: E402


def conv1d(out_features: int = 8, in_features: int = 12) -> nn.Module:
    layer = Conv1D(out_features, in_features).double()
    with torch.no_grad():
        layer.weight.copy_(random(in_features, out_features))
        layer.bias.copy_(random(out_features, seed=1))
    return layer


def twin(layer: nn.Module) -> nn.Linear:
    """The same function as an nn.Linear."""
    linear = nn.Linear(*layer.weight.shape, dtype=layer.weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.T)
        linear.bias.copy_(layer.bias)
    return linear


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_a_conv1d_is_the_linear_layer_that_it_is(method: Method) -> None:
    layer, x = conv1d(), random(3, 5, 12)
    if method.needs_gradient or method.name.startswith("BigLoRA"):
        pytest.skip("as every other LoRA, after its start")
    model, same = nn.Sequential(layer), nn.Sequential(twin(layer))
    ours, its = mv.attach(model, method, seed=2), mv.attach(same, method, seed=2)
    for adapter in (ours[0], its[0]):
        randomise(adapter, "twins")
    assert close(ours(x), its(x))
    assert close(ours[0].delta(), its[0].delta())
    back = mv.detach(ours)
    assert type(back[0]) is Conv1D
    assert torch.equal(back[0].weight, layer.weight)
    assert torch.equal(back(x), layer(x))
    merged = mv.merge(ours)
    assert type(merged[0]) is Conv1D
    assert close(merged(x), its(x))
    assert not {p.data_ptr() for p in merged.parameters()} & {
        p.data_ptr() for p in layer.parameters()
    }


def test_on_takes_a_conv1d() -> None:
    layer = conv1d()
    adapter = mv.MiSS(2).on(layer)
    assert (adapter.out_features, adapter.in_features) == (8, 12)
    assert adapter.base.weight.data_ptr() == layer.weight.data_ptr()
    assert close(adapter(random(3, 12)), layer(random(3, 12)))


def test_loading_a_state_leaves_the_model_that_memory_is_shared_with() -> None:
    layer = conv1d()
    before = layer.weight.detach().clone()
    adapted = mv.attach(nn.Sequential(layer), mv.MiSS(2))
    adapted.load_state_dict({name: t + 1 for name, t in adapted.state_dict().items()})
    assert torch.equal(layer.weight, before)


def test_gpt2_stacked_and_merged() -> None:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=16, vocab_size=20,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).double().eval()
    words = torch.arange(12).reshape(3, 4)
    models = [mv.attach(model, mv.MiSS(4), ["c_attn", "c_fc"], seed=seed) for seed in range(3)]
    for seed, one in enumerate(models):
        for part in one.modules():
            if isinstance(part, mv.Adapter):
                randomise(part, seed, std=0.1)
    alone = torch.cat([one(words[i : i + 1]).logits for i, one in enumerate(models)])
    assert close(mv.stack(models)(words).logits, alone)
    merged = mv.merge(models[0])
    assert close(merged(words).logits, models[0](words).logits)
    assert merged.state_dict().keys() == model.state_dict().keys()


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_a_forward_of_its_own_is_refused() -> None:
    patched = nn.Linear(4, 4)
    patched.forward = lambda x: 0 * x  # type: ignore[method-assign]
    plain = type("Renamed", (nn.Linear,), {})(4, 4)
    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4))
    sentence = "whose forward is not W x + b cannot be adapted"
    raises_one_sentence(lambda: mv.MiSS(2).on(Scaled(4, 4)), TypeError, f"a Scaled {sentence}")
    raises_one_sentence(lambda: mv.MiSS(2).on(patched), TypeError, f"a Linear {sentence}")
    for names in ("0", ["0", "1"]):
        raises_one_sentence(
            lambda names=names: mv.attach(model, mv.MiSS(2), names),
            TypeError,
            f"0: a Scaled {sentence}",
        )
    only = nn.Sequential(Scaled(4, 4))
    raises_one_sentence(lambda: mv.attach(only, mv.MiSS(2)), TypeError, f"0: a Scaled {sentence}")
    for pattern in ("*", re.compile(".*")):
        attached = mv.attach(model, mv.MiSS(2), pattern)
        assert [type(part).__name__ for part in attached] == ["Scaled", "MiSSAdapter"]
    assert mv.MiSS(2).on(plain)(torch.ones(1, 4)).shape == (1, 4)
    assert mv.attach(model, mv.MiSS(2), "1")(torch.ones(1, 4)).shape == (1, 4)


class ByHand(nn.Linear):
    """W x + b in other words, as transformers' Falcon has it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.bias


class Rough(nn.Linear):
    """W x + b, rounded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.half().to(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_forward_that_is_w_x_plus_b_in_other_words_is_taken(dtype: torch.dtype) -> None:
    layer = ByHand(12, 8).to(dtype)
    adapter = mv.attach(nn.Sequential(layer), mv.MiSS(2))[0]
    randomise(adapter)
    x = random(3, 12).to(dtype)
    plain = mv.MiSS(2).on(nn.Linear(12, 8).to(dtype))
    plain.load_state_dict(adapter.state_dict())
    assert close(adapter(x), plain(x), 1e-12 if dtype == torch.float64 else 2e-2)
    if dtype != torch.bfloat16:
        with pytest.raises(TypeError, match="a Rough whose forward is not"):
            mv.MiSS(2).on(Rough(12, 8).to(dtype))


@pytest.mark.parametrize("training", [True, False])
def test_attention_that_reads_its_weight_reads_the_adapted_one(training: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double().train(training)
    adapted = mv.attach(attention, mv.MiSS(2), "out_proj")
    randomise(adapted.out_proj)
    x = random(2, 3, 8)
    merged = mv.merge(adapted).train(training)
    assert close(adapted(x, x, x)[0], merged(x, x, x)[0])
    assert not close(adapted(x, x, x)[0], attention(x, x, x)[0], 1e-6)

"""MiniLM is the published network, and what stands around it changes nothing."""

import hashlib

import pytest
import torch
from torch.nn.functional import normalize

import missviz as mv
from missviz import networks
from missviz.networks.packages import MINILM, file_in

SENTENCES = [
    "bad",
    "A man is eating food.",
    "An intact but rather long sentence, of some twenty words, which the others here are not nearly as long as.",
    "It was a great film.",
]


@pytest.fixture(scope="module")
def inputs(packages):
    return networks.tokenise(SENTENCES)


def test_the_weights_are_those_that_were_published(packages) -> None:
    content = file_in(MINILM, "model/model.safetensors").read_bytes()
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.parametrize(
    ("first", "second", "cosine", "error"),
    [
        # A first look by hand, to three digits.
        ("A man is eating food.", "A man is eating a piece of bread.", 0.755, 5e-4),
        ("The film was great.", "It was a great film.", 0.943, 5e-4),
        ("A man is eating food.", "The girl is carrying a baby.", -0.105, 5e-4),
        # Printed in the quick start of sentence-transformers for all-MiniLM-L6-v2.
        ("The weather is lovely today.", "It's so sunny outside!", 0.6660, 1e-4),
        ("The weather is lovely today.", "He drove to the stadium.", 0.1046, 1e-4),
        ("It's so sunny outside!", "He drove to the stadium.", 0.1411, 1e-4),
    ],
)
def test_known_cosines(minilm, first, second, cosine, error) -> None:
    pooled = normalize(networks.features(minilm, networks.tokenise([first, second])))
    assert float(pooled[0] @ pooled[1]) == pytest.approx(cosine, abs=error)


def test_tokens_and_features_are_those_of_transformers_own_classes(minilm, inputs) -> None:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = file_in(MINILM, "model")
    theirs = AutoTokenizer.from_pretrained(folder)(
        SENTENCES, padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    assert all(torch.equal(inputs[name], theirs[name]) for name in inputs)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(**theirs).last_hidden_state
    lengths = theirs["attention_mask"].sum(1)
    means = [states[:length].mean(0) for states, length in zip(hidden, lengths, strict=True)]
    torch.testing.assert_close(networks.features(minilm, inputs), torch.stack(means))


def test_loading_draws_nothing_from_the_global_generator(packages) -> None:
    before = torch.get_rng_state()
    networks.with_head(networks.minilm(), 2)
    assert torch.equal(before, torch.get_rng_state())


def test_both_kinds_of_attention_agree_and_one_can_be_differentiated_twice(minilm, inputs) -> None:
    eager = networks.minilm(attention="eager")
    torch.testing.assert_close(
        networks.features(eager, inputs), networks.features(minilm, inputs), atol=1e-5, rtol=1e-5
    )
    weight = eager.get_submodule("bert.encoder.layer.5.attention.self.query").weight
    weight.requires_grad_()
    (gradient,) = torch.autograd.grad(eager(**inputs).square().sum(), weight, create_graph=True)
    (curved,) = torch.autograd.grad(gradient.square().sum(), weight)
    assert curved.abs().sum() > 0
    with pytest.raises(ValueError, match="attention='flash' is unknown"):
        networks.minilm(attention="flash")


def test_a_sentences_features_depend_on_neither_its_batch_nor_training_mode(minilm, inputs) -> None:
    together = networks.features(minilm, inputs)
    alone = networks.features(minilm.train(), inputs, batch_size=1)
    minilm.eval()
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=1e-5)
    for row, sentence in enumerate(SENTENCES):
        own = networks.features(minilm, networks.tokenise([sentence]))
        torch.testing.assert_close(together[row : row + 1], own, atol=2e-6, rtol=1e-5)


def test_tokens_beyond_the_limit_are_cut_off(packages) -> None:
    short = networks.tokenise(SENTENCES, tokens=8)
    assert short["input_ids"].shape == (4, 8)
    assert networks.decode(short["input_ids"][2]) == "an intact but rather long sentence"
    with pytest.raises(ValueError, match="tokens=513; the network has positions for 512"):
        networks.tokenise(SENTENCES, 513)
    with pytest.raises(TypeError, match="is one text; give a list"):
        networks.tokenise("one sentence")


def test_a_head_maps_the_features_and_leaves_the_network_as_it_was(minilm, inputs) -> None:
    before = networks.features(minilm, inputs)
    headed = networks.with_head(minilm, 3, seed=1)
    with torch.no_grad():
        expected = before @ headed.head.weight.mT + headed.head.bias
        torch.testing.assert_close(headed(**inputs), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(minilm(**inputs), before, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(networks.features(headed, inputs), before)
    inside = "bert.encoder.layer.0.output.dense.weight"
    assert headed.get_parameter(inside).data_ptr() == minilm.get_parameter(inside).data_ptr()
    trained = [name for name, part in headed.named_parameters() if part.requires_grad]
    assert trained == ["head.weight", "head.bias"]


def test_a_head_starts_from_its_seed_alone(minilm) -> None:
    first, again, other = (networks.with_head(minilm, 2, seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.detach().abs().max()) <= 384**-0.5
    with pytest.raises(TypeError, match="network is a Linear"):
        networks.with_head(torch.nn.Linear(2, 2), 2)


def test_attached_and_stacked_members_are_the_separate_models(minilm, inputs) -> None:
    layers = ["layer.5.attention.self.query", "layer.5.attention.self.value"]
    members = [
        mv.attach(
            networks.with_head(minilm, 2, seed), mv.LoRA(4), layers, seed=seed, trainable="head"
        )
        for seed in (0, 1)
    ]
    for member in members:
        mv.testing.randomise(member)
    twice = {name: torch.cat([part, part]) for name, part in inputs.items()}
    with torch.no_grad():
        scores = mv.stack(members)(**twice).unflatten(0, (2, -1))
        for mine, member in zip(scores, members, strict=True):
            torch.testing.assert_close(mine, member(**inputs), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores[0], scores[1], atol=1e-3)


@pytest.mark.cuda
def test_features_on_a_gpu_are_those_of_the_cpu(packages, inputs) -> None:
    there = networks.features(networks.minilm().cuda(), inputs)
    torch.testing.assert_close(
        there, networks.features(networks.minilm(), inputs), atol=1e-3, rtol=1e-3
    )

"""`fine_tune`: the rules by which it is run, and that what is left out changes nothing."""

import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import raises_one_sentence
from own_methods import OWN
from scipy import stats
from tiny_transformer import FEATURES, INNER, Encoder
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from word_task import SMALL, TARGETS, encoder, first_word_task, sentences, word_task

import missviz as mv
from missviz.experiments import Runs, Split, Task, fine_tune, rates
from missviz.experiments.fine_tuning import experiment, memory, training
from missviz.experiments.fine_tuning.batches import POOL, Examples, Schedule
from missviz.experiments.fine_tuning.probe import probed
from missviz.experiments.fine_tuning.training import Chunk, Members, Settings

METHODS = [mv.LoRA(2), mv.MiSS(4)]
RATES = [3e-3, 1e-1]


def run(methods: Any = None, network: nn.Module | None = None, **options: Any) -> Runs:
    task = options.pop("task", None) or word_task()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the best learning rate is on the edge")
        return fine_tune(network or encoder(), task, methods or METHODS, **SMALL | options)


@pytest.fixture(scope="module")
def runs() -> Runs:
    return run(learning_rates=RATES)


def flipped(split: Split) -> Split:
    return replace(split, targets=1 - split.targets)


# --- The rules --------------------------------------------------------------------------------


def check_rate_is_chosen_on_validation_of_other_seeds() -> None:
    tuned = run(learning_rates=RATES)
    table = tuned.tuning.set_index(["method", "learning_rate"])
    for rate in RATES:
        alone = run(learning_rates=[rate], seeds=range(1000, 1002))
        frame = alone.to_frame()
        lowest = frame[frame["split"] == "valid"].groupby(["method", "seed"])["loss"].min()
        for method, score in lowest.groupby("method").mean().items():
            assert table.loc[(method, rate), "score"] == pytest.approx(score, rel=1e-4)
    chosen = tuned.tuning[tuned.tuning["chosen"]]
    for row in chosen.itertuples():
        scores = tuned.tuning[tuned.tuning["method"] == row.method]["score"]
        assert row.score == scores.min()
    frame = tuned.to_frame().drop_duplicates("method").set_index("method")
    for method in METHODS:
        rate = chosen.set_index("method").loc[method.name, "learning_rate"]
        assert frame.loc[method.name, "learning_rate"] == rate


def check_nothing_of_test_is_looked_at_before() -> None:
    plain = word_task()
    one = run(learning_rates=RATES, task=plain)
    other = run(
        learning_rates=RATES,
        task=word_task(test=flipped(plain.splits["test"]), longer=flipped(plain.splits["longer"])),
    )
    tables = [part.tuning.drop(columns="seconds") for part in (one, other)]
    pd.testing.assert_frame_equal(*tables)
    frames = [
        part.to_frame().drop(columns=["init_seconds", "train_seconds"]) for part in (one, other)
    ]
    seen = [frame[frame["split"].isin(["train", "valid"])] for frame in frames]
    pd.testing.assert_frame_equal(*seen)
    hidden = [frame[frame["split"].isin(["test", "longer"])] for frame in frames]
    assert len(hidden[0]) == 2 * 2 * 3
    assert (hidden[0]["step"] == hidden[1]["step"]).all()
    assert np.allclose(hidden[0]["accuracy"], 1 - hidden[1]["accuracy"])


def check_budgets_are_stated() -> None:
    methods = [mv.LoRA(2), mv.LoRA(3), mv.FullFineTuning(), mv.MiSS(4)]
    found = run(methods, learning_rates=[1e-2], seeds=2)
    shapes = [(FEATURES, FEATURES)] * 4 + [(INNER, FEATURES), (FEATURES, INNER)]
    frame = found.to_frame().drop_duplicates("method").set_index("method")
    for method in methods:
        number = 2 * sum(method.num_parameters(*shape) for shape in shapes)
        assert frame.loc[method.name, "adapter_parameters"] == number
        assert frame.loc[method.name, "num_parameters"] == number + 2 * FEATURES + 2
    assert len(found.notes) == 1
    note = found.notes[0]
    assert note.startswith("unequal budgets: LoRA r=2 trains 448 numbers")
    assert "LoRA r=3 672" in note
    assert "full fine-tuning 1,024" in note
    assert "MiSS" not in note


def check_the_head_is_trained_and_starts_from_the_seed() -> None:
    probe = run(learning_rates=[1e-1], steps=30).baselines
    probe = probe[probe["baseline"] == "unadapted"]
    first = run(learning_rates=[1e-9], steps=1).baselines
    first = first[first["baseline"] == "unadapted"]
    for split in ("train", "valid", "test"):
        before, after = (
            table[table["split"] == split].sort_values("seed")["loss"] for table in (first, probe)
        )
        assert before.nunique() == 3
        assert after.mean() < before.mean() - 0.05


CHECKS = [
    check_rate_is_chosen_on_validation_of_other_seeds,
    check_nothing_of_test_is_looked_at_before,
    check_budgets_are_stated,
    check_the_head_is_trained_and_starts_from_the_seed,
]


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_rules(check: Callable[[], None]) -> None:
    check()


def tune_on_training_loss(patch: pytest.MonkeyPatch) -> None:
    right = rates.scores
    patch.setattr(rates, "scores", lambda frame, split: right(frame, "train"))


def tune_on_reported_seeds(patch: pytest.MonkeyPatch) -> None:
    right = experiment.run_cell

    def wrong(plan, seeds, rates):
        return right(plan, seeds, replace(rates, tuning_seeds=tuple(seeds)))

    patch.setattr(experiment, "run_cell", wrong)


def stop_on_test(patch: pytest.MonkeyPatch) -> None:
    right = Members._evaluate
    patch.setattr(
        Members,
        "_evaluate",
        lambda self, split: right(self, "test" if split == "valid" else split),
    )


def count_the_head(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "head_parameters", lambda model: 0)
    patch.setattr(experiment, "head_parameters", lambda model: 0)


def overlook_budgets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(experiment, "EQUAL", 10.0)


def freeze_the_head(patch: pytest.MonkeyPatch) -> None:
    right = training.Adam.step

    def wrong(self, gradients):
        *others, weight, bias = gradients
        right(self, [*others, torch.zeros_like(weight), torch.zeros_like(bias)])

    patch.setattr(training.Adam, "step", wrong)


def one_start_for_all(patch: pytest.MonkeyPatch) -> None:
    right = training.new_head
    patch.setattr(
        training,
        "new_head",
        lambda features, outputs, seed, like: right(features, outputs, 0, like),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (tune_on_training_loss, CHECKS[0]),
        (tune_on_reported_seeds, CHECKS[0]),
        (stop_on_test, CHECKS[1]),
        (count_the_head, CHECKS[2]),
        (overlook_budgets, CHECKS[2]),
        (freeze_the_head, CHECKS[3]),
        (one_start_for_all, CHECKS[3]),
    ],
)
def test_every_mutant_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None],
    check: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.slow
def test_each_run_stops_where_validation_loss_is_lowest(runs: Runs) -> None:
    frame = runs.to_frame()
    for _, rows in frame.groupby(["method", "seed"]):
        valid = rows[rows["split"] == "valid"]
        assert list(valid["step"]) == [0, 3, 6, 9, 12]
        assert list(rows[rows["split"] == "train"]["step"]) == list(range(13))
        stop = valid["step"].iloc[valid["loss"].to_numpy().argmin()]
        for split in ("test", "longer"):
            assert list(rows[rows["split"] == split]["step"]) == [stop]


def test_figures_at_the_stop_are_of_the_model_at_the_stop() -> None:
    """Evaluated on the validation split once more, it has its lowest loss."""
    task = word_task()
    task = word_task(again=task.splits["valid"])
    frame = run([mv.MiSS(4)], task=task, learning_rates=[1e-1], steps=30).to_frame()
    lowest = frame[frame["split"] == "valid"].groupby("seed")["loss"].min()
    again = frame[frame["split"] == "again"].set_index("seed")
    assert (again["step"] < 30).any(), "else the last state would do"
    assert np.allclose(again["loss"], lowest.loc[again.index], rtol=1e-5)


def test_seeds_must_be_disjoint() -> None:
    raises_one_sentence(
        lambda: run(seeds=[1, 2], tune_seeds=[2, 3]), ValueError, "tune_seeds share [2] with seeds"
    )


@pytest.mark.slow
def test_a_grid_that_is_given_is_kept_and_its_edge_flagged() -> None:
    with pytest.warns(UserWarning, match="on the edge of the grid for .*LoRA r=2 at 0.0003"):
        found = fine_tune(encoder(), word_task(), METHODS, learning_rates=[1e-4, 3e-4], **SMALL)
    assert set(found.tuning["learning_rate"]) == {1e-4, 3e-4}
    summary = found.summary().set_index("method")
    assert summary.loc["LoRA r=2", "rate_on_edge"].all()


@pytest.mark.slow
def test_the_default_grid_widens() -> None:
    found = run([mv.LoRA(2)], seeds=2)
    rates = found.tuning[found.tuning["method"] == "LoRA r=2"]["learning_rate"]
    assert len(rates) >= 5
    assert rates.min() <= 10**-3.5
    assert rates.max() >= 10**-1.5


def test_a_single_rate_is_taken_as_it_is() -> None:
    found = run([mv.MiSS(4)], learning_rates=[1e-2])
    assert found.tuning is None
    assert set(found.to_frame()["learning_rate"]) == {1e-2}


def test_divergence_is_named() -> None:
    with pytest.warns(UserWarning, match=r"MiSS r=4 diverged at rate 1e\+30 on seeds 43, 44"):
        found = fine_tune(
            encoder(),
            word_task(),
            [mv.MiSS(4)],
            2,
            [1e30],
            **{k: v for k, v in SMALL.items() if k != "seeds"},
        )
    assert any("diverged" in note for note in found.notes)
    summary = found.summary().set_index(["method", "metric"])
    assert np.isnan(summary.loc[("MiSS r=4", "final train"), "mean"])


def test_a_rate_that_diverges_is_not_chosen() -> None:
    found = run([mv.MiSS(4)], learning_rates=[1e-2, 1e30])
    table = found.tuning[found.tuning["method"] == "MiSS r=4"].set_index("learning_rate")
    assert np.isinf(table.loc[1e30, "score"])
    assert table.loc[1e-2, "chosen"]


# --- The result -------------------------------------------------------------------------------


def test_summary_of_accuracy_with_intervals_and_paired_differences(runs: Runs) -> None:
    frame = runs.to_frame()
    on_test = frame[frame["split"] == "test"].pivot(
        index="seed", columns="method", values="accuracy"
    )
    summary = runs.summary(measure="accuracy").set_index(["method", "metric"])
    row = summary.loc[("MiSS r=4", "test")]
    values = on_test["MiSS r=4"]
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((values.mean(), low, high))
    gaps = on_test["MiSS r=4"] - on_test["LoRA r=2"]
    low, high = stats.t.interval(0.95, 2, gaps.mean(), stats.sem(gaps))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((low, high))
    assert {"test", "longer", "valid at stop"} <= set(summary.index.get_level_values("metric"))


def test_majority_and_probe_stand_beside_the_methods(runs: Runs) -> None:
    summary = runs.summary(measure="accuracy").set_index(["method", "metric"])
    targets = word_task().splits["test"].targets
    share = float(targets.double().mean())
    assert summary.loc[("constant", "test"), "mean"] == pytest.approx(max(share, 1 - share))
    assert 0 < summary.loc[("unadapted", "test"), "mean"] < 1
    chances = word_task().splits["train"].targets.bincount(minlength=2) / 90
    loss = nn.functional.nll_loss(chances.log().expand(50, 2), targets)
    frame = runs.summary().set_index(["method", "metric"])
    assert frame.loc[("constant", "test"), "mean"] == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.slow
def test_figures_take_the_result(runs: Runs, tmp_path: Path) -> None:
    from missviz.displays import LunchDisplay, RaceDisplay

    LunchDisplay.from_runs(runs).plot()
    for split in ("train", "valid"):
        race = RaceDisplay.from_runs(runs, split).plot()
        assert "after 12 steps" in race.summary()
        line = race.lines_["MiSS r=4"]
        assert line.get_xdata()[-1] == 12
    frame = runs.to_frame()
    valid = frame[(frame["split"] == "valid") & (frame["method"] == "MiSS r=4")]
    drawn = np.asarray(line.get_ydata())[[0, 3, 6, 9, 12]]
    assert np.allclose(drawn, valid.groupby("step")["loss"].mean())
    raises_one_sentence(
        lambda: RaceDisplay.from_runs(runs, "test"), ValueError, "split='test' was not measured"
    )
    plt.close("all")
    runs.save(tmp_path)
    assert (tmp_path / "accuracy.csv").exists()
    others = run([mv.PiSSA(2)], learning_rates=RATES)
    assert set(Runs.join([runs, others]).to_frame()["method"]) == {
        "LoRA r=2",
        "MiSS r=4",
        "PiSSA r=2",
    }


def test_measures_that_are_not_there_are_refused() -> None:
    found = mv.experiments.no_free_lunch([mv.MiSS(4)], seeds=2, steps=1)
    raises_one_sentence(
        lambda: found.summary(measure="accuracy"), ValueError, "measure='accuracy' was not measured"
    )


# --- Company, chunks, executors ---------------------------------------------------------------


def numbers(runs: Runs) -> list[float]:
    return [*runs.to_frame()["loss"], *runs.to_frame()["accuracy"], *runs.baselines["loss"]]


@pytest.mark.slow
def test_a_run_does_not_depend_on_its_company() -> None:
    network, state = encoder(), torch.get_rng_state()
    whole = run(network=network, learning_rates=[1e-2], dtype=torch.float64).to_frame()
    alone = run(
        [mv.MiSS(4)], network, learning_rates=[1e-2], seeds=[44], dtype=torch.float64
    ).to_frame()
    same = whole[(whole["method"] == "MiSS r=4") & (whole["seed"] == 44)]
    assert np.allclose(same["loss"], alone["loss"], rtol=1e-10)
    assert torch.equal(state, torch.get_rng_state())


def test_seeds_differ_and_methods_share_their_batches(runs: Runs) -> None:
    frame = runs.to_frame()
    first = frame[(frame["split"] == "train") & (frame["step"] == 0)]
    first = first.pivot(index="seed", columns="method", values="loss")
    assert np.allclose(first["LoRA r=2"], first["MiSS r=4"], rtol=1e-5)
    assert first["LoRA r=2"].nunique() == 3


def test_finished_chunks_are_found_again(tmp_path: Path) -> None:
    whole = run(learning_rates=RATES, cache=tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert len(kept) == 3 * 2
    with ThreadPoolExecutor(1) as closed:
        pass
    assert numbers(run(learning_rates=RATES, cache=tmp_path, executor=closed)) == numbers(whole)
    task = word_task()
    run(learning_rates=RATES, cache=tmp_path, task=word_task(test=flipped(task.splits["test"])))
    assert len(list(tmp_path.iterdir())) == 2 * len(kept)


@pytest.mark.slow
def test_what_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(learning_rates=RATES)
    done = 0

    def interrupted(chunk: Chunk) -> Any:
        nonlocal done
        if done == 3:
            raise KeyboardInterrupt
        done += 1
        return training.run_chunk(chunk)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as one:
        patch.setattr(experiment, "run_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(learning_rates=RATES, cache=tmp_path, executor=one)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 3
    assert numbers(run(learning_rates=RATES, cache=tmp_path)) == numbers(whole)
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}.items()


@pytest.mark.slow
def test_in_other_processes_bit_for_bit_the_same() -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        there = run(learning_rates=[1e-2], executor=pool)
    assert numbers(there) == numbers(run(learning_rates=[1e-2]))


@pytest.mark.slow
def test_with_little_memory_chunks_are_smaller_and_with_none_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = dict(methods=[mv.MiSS(4)], seeds=9, learning_rates=[1e-2], steps=2)
    whole = run(**options)

    def free(size: int) -> None:
        monkeypatch.setattr(memory, "free_bytes", lambda device: size)
        monkeypatch.setattr(experiment, "free_bytes", lambda device: size)

    free(1_000_000)
    less = run(**options, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) > 2
    assert np.allclose(numbers(less), numbers(whole), rtol=1e-4)
    assert not less.notes
    free(100_000)
    raises_one_sentence(lambda: run(**options), ValueError, "too large for cpu: 0.0")


# --- Batches ----------------------------------------------------------------------------------


def examples(split: Split | None = None) -> Examples:
    return Examples.of(split or sentences(700, 0, 40), torch.device("cpu"), torch.float32)


def test_every_example_once_in_an_epoch_and_of_like_length() -> None:
    found = examples()
    schedule, size = Schedule(found, 16), 16
    turns = -(-700 // size)
    seen = torch.cat([schedule.batch(step, [43, 44]) for step in range(turns)], dim=1)
    for of_seed in seen:
        assert torch.equal(of_seed.sort().values, torch.arange(700))
    assert not torch.equal(*seen)
    widest = [
        found.lengths[schedule.batch(step, [43])[0]].max()
        - found.lengths[schedule.batch(step, [43])[0]].min()
        for step in range(turns)
    ]
    pooled = torch.tensor(widest).max()
    assert pooled <= 40 * POOL * size / 700 + 2, "of the spread of a pool, not of the whole"
    later = torch.cat([schedule.batch(step, [43]) for step in range(turns, 2 * turns)], dim=1)
    assert not torch.equal(later[0], seen[0])
    alone = Schedule(found, 16)
    assert torch.equal(alone.batch(5, [44])[0], schedule.batch(5, [43, 44])[1])


def test_examples_sorted_by_class_are_mixed() -> None:
    targets = torch.arange(64) // 32
    sorted_by_class = Split({"x": torch.zeros(64, 3)}, targets)
    lengths = Split({"x": torch.zeros(64, 3), "attention_mask": torch.ones(64, 3)}, targets)
    for split in (sorted_by_class, lengths):
        batch = Schedule(examples(split), 8).batch(0, [43])[0]
        assert len(targets[batch].unique()) == 2


def test_inputs_are_cut_to_the_longest_example() -> None:
    split = sentences(20, 0, 9)
    found = examples(Split(dict(split.inputs) | {"other": torch.zeros(20, 3)}, split.targets))
    index = torch.tensor([3, 7, 11])
    longest = int(split.inputs["attention_mask"][index].sum(dim=1).max())
    cut = found.batch(index)
    assert cut["words"].shape == cut["attention_mask"].shape == (3, longest)
    assert cut["other"].shape == (3, 3)
    left = examples(Split({"attention_mask": torch.tensor([[0, 1, 0, 0]])}, torch.tensor([0])))
    assert left.lengths.tolist() == [2]


# --- What is frozen, once ---------------------------------------------------------------------


class Skipping(Encoder):
    """The first block's output also goes to the end."""

    def forward(self, words: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        first = self.blocks[0](self.embedding(words))
        x: Tensor = self.blocks[2](self.blocks[1](first))
        return x + first


class Pair(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.block(x), None


class Pairs(Encoder):
    """Its blocks give tuples, as some of Hugging Face's do."""

    def __init__(self) -> None:
        super().__init__(3)
        self.blocks = nn.ModuleList(Pair(block) for block in self.blocks)

    def forward(self, words: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(words)
        for block in self.blocks:
            x, _ = block(x)
        return x


class Secretive(Encoder):
    """A frozen block leaves something behind that the last one's result is changed by."""

    def forward(self, words: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(words)
        for block in self.blocks:
            x = block(x)
        return x * (1 + self.blocks[0].left)


class Leaving(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.left = block, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.left = x.std()
        y: Tensor = self.block(x)
        return y


def secretive() -> nn.Module:
    network = Secretive(3)
    network.blocks[0] = Leaving(network.blocks[0])
    return network


def bert(**inputs: Tensor) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    return BertModel(config)


class Words(nn.Module):
    """torch's own transformer, which reads weights past its layers where it is not in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)

    def forward(self, words: Tensor, attention_mask: Tensor) -> Tensor:
        x: Tensor = self.encoder(self.embedding(words), src_key_padding_mask=attention_mask == 0)
        return x


def for_bert(task: Task) -> Task:
    splits = {
        name: Split(
            {"input_ids": split.inputs["words"], "attention_mask": split.inputs["attention_mask"]},
            split.targets,
        )
        for name, split in task.splits.items()
    }
    return replace(task, splits=splits)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str], list[str]]] = {
    "tiny": (encoder, TARGETS, ["blocks.0"]),
    "skipping": (lambda: Skipping(3), TARGETS, ["blocks.0"]),
    "pairs": (Pairs, TARGETS, ["blocks.0"]),
    "bert": (bert, ["layer.1.*.query", "layer.2.*.query"], ["encoder.layer.0"]),
    "torch": (Words, ["layers.1.linear*", "layers.2.linear*"], ["encoder.layers.0"]),
    "one layer": (lambda: OneLayer(), ["last"], ["first"]),
}


class OneLayer(nn.Module):
    """Features in, features out; no tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(9, 6), nn.Linear(6, 4)

    def forward(self, words: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.first(words.to(self.first.weight))))
        return y


def flat(split: Split) -> Split:
    return replace(split, inputs={"words": split.inputs["words"]})


def settings(**options: Any) -> Settings:
    return Settings(
        **{
            "steps": 6,
            "batch_size": 8,
            "evaluate_every": 3,
            "weight_decay": 0.0,
            "dtype": torch.float64,
        }
        | options
    )


def members(network: nn.Module, task: Task, method: Any, targets: Any, keep: str) -> Members:
    subject = training.Subject(network, task)
    pairs = ((43, 1e-2), (44, 1e-2))
    chunk = Chunk(subject, method, targets, pairs, settings(keep=keep), "cpu", ("test",))
    there = training.Ready(subject, "cpu", torch.float64)
    models = [training.classifier(chunk, there, seed) for seed, _ in pairs]
    return Members(chunk, there, models, pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", [mv.LoRA(2), mv.Bat(2), *OWN[:1], None], ids=str)
def test_left_out_layers_change_nothing(name: str, method: Any) -> None:
    make, targets, blocks = NETWORKS[name]
    task = for_bert(word_task()) if name == "bert" else word_task()
    if name == "one layer":
        splits = {name: task.splits[name] for name in ("train", "valid", "test")}
        task = Task("flat", {name: flat(split) for name, split in splits.items()}, 2)
    network = make()
    results = []
    for keep in ("inside", "before", "nothing"):
        together = members(network, task, method, targets, keep)
        if keep != "nothing":
            found = together.constants
            left_out = {""} if method is None else {f"network.{block}" for block in blocks}
            assert found is not None
            assert left_out <= {*found.needed, *found.passed} | (
                {"features"} if method is None else set()
            )
        found = together.train()
        results.append(
            np.concatenate(
                [
                    found.curves["train"]["loss"],
                    found.curves["valid"]["loss"],
                    found.stopped["test"]["loss"][:, None],
                ],
                axis=1,
            )
        )
    assert np.isfinite(results[0]).all()
    for other in results[1:]:
        assert np.allclose(results[0], other, rtol=1e-9)


def test_frozen_blocks_do_not_run_while_members_train(monkeypatch: pytest.MonkeyPatch) -> None:
    together = members(encoder(), word_task(), mv.LoRA(2), TARGETS, "inside")
    together.train()
    blocks = together._model.features.network.blocks
    ran: list[int] = []
    for place, block in enumerate(blocks):
        block.first.register_forward_hook(lambda *_, place=place: ran.append(place))
    together._evaluate("valid")
    assert set(ran) == {1, 2}


def test_what_a_network_hides_is_noticed_and_then_all_of_it_runs() -> None:
    together = members(secretive(), word_task(), mv.LoRA(2), TARGETS, "inside")
    assert together.constants is None
    assert np.isfinite(together.train().curves["train"]["loss"]).all()


def test_with_no_room_for_it_frozen_layers_run_at_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = dict(methods=[mv.MiSS(4)], learning_rates=[1e-2], steps=3)
    whole = run(**options)
    monkeypatch.setattr(experiment, "FOR_KNOWN", 0.0)
    other = run(**options)
    assert "MiSS r=4: what its frozen layers give is too large to keep" in other.notes[1]
    assert np.allclose(numbers(other), numbers(whole), rtol=1e-4)


# --- Methods and networks ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        mv.AdaLoRA(2, target_rank=1, total_steps=12),
        mv.LoRAGA(2),
        mv.LoRAPlus(2),
        mv.MoS(2, 2),
        *OWN,
    ],
    ids=str,
)
def test_methods_that_ask_for_more(method: Any) -> None:
    found = run([method], learning_rates=[1e-2], seeds=2)
    assert np.isfinite(found.to_frame()["loss"]).all()


@pytest.mark.slow
def test_layers_that_the_features_do_not_depend_on_are_named() -> None:
    found = run(
        [mv.LoRA(2)],
        bert(),
        task=for_bert(word_task()),
        targets=["query", "pooler.dense"],
        learning_rates=[1e-2],
        seeds=2,
        steps=2,
    )
    assert found.notes == (
        "LoRA r=2: the features do not depend on pooler.dense, whose numbers are counted and cannot learn",
    )


@pytest.mark.slow
def test_what_is_remembered_stands_beside_what_the_network_could_do() -> None:
    once = first_word_task()
    found = run(learning_rates=[1e-12], remembered=[once])
    at_stop = found.to_frame().query("split == 'first word'")
    assert len(at_stop) == len(METHODS) * SMALL["seeds"]
    before = found.baselines.query("baseline == 'unadapted' and split == 'first word'")
    # Nothing was learnt at this rate, so nothing forgotten.
    assert np.allclose(at_stop["loss"], before["loss"].iloc[0], atol=1e-4)
    assert (at_stop["accuracy"] == before["accuracy"].iloc[0]).all()
    (majority,) = set(
        found.baselines.query("baseline == 'constant' and split == 'first word'").accuracy
    )
    largest = torch.bincount(once.splits["train"].targets).argmax()
    assert majority == pytest.approx(
        float((once.splits["test"].targets == largest).double().mean())
    )
    learnt = run(learning_rates=[1e-1], remembered=[once]).to_frame().query("split == 'first word'")
    assert not np.allclose(learnt["loss"], before["loss"].iloc[0], atol=1e-2)
    metrics = found.summary(measure="accuracy")["metric"]
    assert list(dict.fromkeys(metrics))[-3:] == ["test", "longer", "first word"]
    samples = found.settings["protocol"]["samples"]
    assert samples["first word: train"] == len(once.splits["train"])


def test_a_probe_of_features_that_are_not_finite_says_so() -> None:
    features = {split: torch.full((6, 2), torch.nan) for split in ("train", "valid", "test")}
    targets = dict.fromkeys(features, torch.tensor([0, 1] * 3))
    loss, accuracy = probed(features, targets, 2)
    assert np.isnan(loss)
    assert accuracy == 0


def test_the_network_stays_as_it_is() -> None:
    network = bert().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    run(
        [mv.FullFineTuning()],
        network,
        task=for_bert(word_task()),
        targets="query",
        learning_rates=[1e-2],
        seeds=2,
        steps=2,
    )
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def without(split: str) -> Task:
    task = word_task()
    return replace(task, splits={name: part for name, part in task.splits.items() if name != split})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": without("test")}, ValueError, "has no 'test' split"),
        (
            {"task": word_task(test=Split({}, torch.zeros(3).long()))},
            ValueError,
            "split 'test' is empty",
        ),
        (
            {
                "task": word_task(
                    test=Split({"words": torch.zeros(2, 3).long()}, torch.tensor([0, 2]))
                )
            },
            ValueError,
            "targets are 0 to 2; with outputs=2 they are 0 to 1",
        ),
        (
            {
                "task": word_task(
                    test=Split({"words": torch.zeros(3, 3).long()}, torch.tensor([0, 1]))
                )
            },
            ValueError,
            "inputs['words'] is (3, 3) for 2 targets",
        ),
        ({"task": 3}, TypeError, "task=3 is not a missviz.experiments.Task"),
        ({"network": 3}, TypeError, "network=3 is not an nn.Module"),
        ({"methods": []}, ValueError, "methods is empty"),
        ({"steps": 0}, ValueError, "steps"),
        ({"dtype": torch.float16}, ValueError, "dtype=torch.float16"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay"),
        ({"network": nn.Flatten()}, ValueError, "has no weights"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = dict(network=encoder(), task=word_task(), methods=METHODS) | SMALL | options
    raises_one_sentence(lambda: fine_tune(**given), error, message)


@pytest.mark.parametrize(
    ("remembered", "error", "message"),
    [
        ([word_task()] * 2, ValueError, "remembered has '3 or 7' twice"),
        ([replace(first_word_task(), name="longer")], ValueError, "or the task has such a split"),
        ([Task("half", {"train": sentences(4, 0)}, 2)], ValueError, "'half' has no 'valid' split"),
        ([3], TypeError, "task=3 is not a missviz.experiments.Task"),
        (3, TypeError, "remembered=3 is not a list of tasks"),
    ],
)
def test_what_cannot_be_remembered(remembered: Any, error: type[Exception], message: str) -> None:
    raises_one_sentence(lambda: run(remembered=remembered), error, message)


def test_runs_come_back_from_their_folder(runs: Runs, tmp_path: Path) -> None:
    runs.save(tmp_path)
    back = Runs.load(tmp_path)
    pd.testing.assert_frame_equal(back.to_frame(), runs.to_frame())
    pd.testing.assert_frame_equal(back.tuning, runs.tuning)
    assert (back.settings, back.notes) == (runs.settings, runs.notes)
    pd.testing.assert_frame_equal(back.summary(), runs.summary())
    with pytest.raises(FileNotFoundError, match="no runs, as Runs.save writes them"):
        Runs.load(tmp_path / "elsewhere")


@pytest.mark.cuda
def test_on_a_gpu_as_on_a_cpu() -> None:
    options: dict[str, Any] = dict(methods=METHODS, learning_rates=[1e-2], dtype=torch.float64)
    assert np.allclose(numbers(run(**options)), numbers(run(**options, device="cuda")), rtol=1e-8)


def test_chunks_that_wait_have_network_and_task_in_common() -> None:
    from missviz.experiments.sweep import _pack, _unpacked

    subject = training.Subject(encoder(), word_task())
    template = Chunk(subject, mv.MiSS(4), TARGETS, (), settings(), "cpu", ())
    parcels = [_pack(replace(template, members=((seed, 1e-2),))) for seed in range(3)]
    assert len({id(parcel.common[0]) for parcel in parcels}) == 1
    whole = sum(tensor.nbytes for tensor in subject.network.parameters())
    assert len(parcels[0].packed) < 2000 < whole < len(parcels[0].common[0])
    there = _unpacked(parcels[1])
    assert there.key == replace(template, members=((1, 1e-2),)).key
    assert torch.equal(there.subject.network.embedding.weight, subject.network.embedding.weight)

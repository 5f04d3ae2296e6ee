"""The reader's own weights: from memory and from files, never too large, one sentence each if bad."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import missviz as mv
from missviz.explore.weights import LARGEST_SHOWN, load_weight

WEIGHT = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_any_dtype(dtype: torch.dtype) -> None:
    own = load_weight(torch.nn.Parameter(WEIGHT.to(dtype)))
    assert own.matrix.dtype == torch.float64
    assert torch.equal(own.matrix, WEIGHT.to(dtype).double())
    assert own.notice == ""
    assert repr(own.source) == "weight"


@pytest.mark.parametrize("dtype", [">f4", "<f8", "i4", "longdouble"])
def test_arrays_of_any_dtype(dtype: str) -> None:
    array = (8 * WEIGHT.numpy()).astype(dtype)
    assert np.array_equal(load_weight(array).matrix.numpy(), array.astype(np.float64))


def test_arrays_and_files_are_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", WEIGHT.numpy())
    save_file({"only": WEIGHT}, tmp_path / "one.safetensors")
    save_file({"a.weight": WEIGHT, "b.weight": WEIGHT.T.contiguous()}, tmp_path / "two.safetensors")
    for weight in (
        WEIGHT.numpy(),
        tmp_path / "w.npy",
        str(tmp_path / "one.safetensors"),
        f"{tmp_path}/two.safetensors:a.weight",
    ):
        assert torch.equal(load_weight(weight).matrix, WEIGHT.double()), weight
    assert load_weight(f"{tmp_path}/two.safetensors:b.weight").matrix.shape == (16, 12)


def test_a_panel_on_a_file_has_a_line_of_code(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", WEIGHT[:, :12].numpy())
    panel = mv.explore.colinearity(weight=str(tmp_path / "w.npy"))
    assert eval(panel.state, {"mv": mv}).picture == panel.picture
    assert "weight=weight" in mv.explore.rank(weight=WEIGHT).state


@pytest.mark.slow
@pytest.mark.parametrize("make", [mv.explore.colinearity, mv.explore.rank])
def test_large_weights_are_cut_and_say_so(make, tmp_path: Path) -> None:
    large = np.lib.format.open_memmap(
        tmp_path / "large.npy", "w+", dtype=np.float16, shape=(20_000, 20_000)
    )
    large[:600, :600] = np.random.default_rng(0).normal(size=(600, 600))
    large.flush()
    panel = make(weight=tmp_path / "large.npy")
    notice = f"the first {LARGEST_SHOWN} × {LARGEST_SHOWN} of 20000 × 20000 weights"
    assert notice in panel.summary
    words = " ".join(
        text.get_text().replace("\n", " ")
        for ax in panel.figure.axes
        for text in (*ax.texts, *panel.figure.texts)
    )
    assert "20000 × 20000" in words, "the notice is in the picture too"


def test_only_what_is_shown_is_read() -> None:
    views = np.lib.stride_tricks.as_strided(np.ones(1), (200_000, 200_000), (0, 0))
    assert load_weight(views).matrix.shape == (LARGEST_SHOWN, LARGEST_SHOWN)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (WEIGHT[0], ValueError, r"weight of shape \(16,\); a layer's weight is \(out, in\)"),
        (WEIGHT[:0], ValueError, r"weight of shape \(0, 16\)"),
        (torch.full((4, 4), float("nan")), ValueError, "weight has 16 values that are NaN"),
        (
            torch.tensor([[1.0, float("inf")]]),
            ValueError,
            "weight has 1 values that are NaN or inf",
        ),
        (WEIGHT > 0, TypeError, "does not hold real numbers"),
        (WEIGHT.to(torch.complex64), TypeError, "does not hold real numbers"),
        (WEIGHT.to_sparse(), TypeError, "weight is sparse, quantised or without data"),
        (WEIGHT.to("meta"), TypeError, "weight is sparse, quantised or without data"),
        (np.array([["a"]]), TypeError, "does not hold real numbers"),
        (WEIGHT.double() * 1e200, ValueError, "whose squares leave float64"),
        ([[1.0]], TypeError, "weight of type list; give a tensor, an array, or the path"),
        ("nowhere.npy", FileNotFoundError, "there is no file nowhere.npy"),
    ],
)
@pytest.mark.parametrize("make", [load_weight, lambda w: mv.explore.rank(weight=w)])
def test_bad_weights(weight, error, message, make) -> None:
    with pytest.raises(error, match=message):
        make(weight)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no numbers")
    (tmp_path / "text.safetensors").write_text("no numbers")
    (tmp_path / "w.bin").write_bytes(b"0")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    save_file({"a": WEIGHT, "b": WEIGHT[0].clone()}, tmp_path / "two.safetensors")
    for name, message in (
        ("text.npy", "is not an array of numbers"),
        ("objects.npy", "is not an array of numbers"),
        ("text.safetensors", "is not a safetensors file"),
        ("w.bin", "is neither .npy nor .safetensors"),
        ("two.safetensors", "has no tensor ''; write .*:NAME with one of a, b"),
        ("two.safetensors:c", "has no tensor 'c'"),
        ("two.safetensors:b", r"weight of shape \(16,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            load_weight(tmp_path / name)

"""Costs, counted while a layer runs, against counts by hand."""

import math

import pytest
import torch

import missviz as mv
from missviz.analysis.cost import cost

D, K, N, R = 24, 36, 10, 4
BYTES = 8


class Own(mv.MiSS):
    """A subclass, which may have a formula of its own, and a name that begins as MiSS's does."""


def row(method: mv.Method, **settings: object):
    sizes = {"out_features": D, "in_features": K, "tokens": N, "dtype": torch.float64}
    return cost([method], **(sizes | settings)).set_index("method").loc[method.name]


def test_products_by_hand() -> None:
    lora, miss = row(mv.LoRA(R)), row(mv.MiSS(R))
    assert lora["extra_forward_flops"] == 2 * N * R * (D + K)
    # Gradients of A, B, of the hidden r numbers and of x.
    assert lora["extra_backward_flops"] == 2 * (2 * N * R * (D + K))
    assert miss["extra_forward_flops"] == 2 * N * R * D
    assert miss["extra_backward_flops"] == 2 * (2 * N * R * D)
    assert row(mv.LoRA(R, freeze_a=True))["extra_backward_flops"] == 2 * N * R * (2 * D + K)
    frozen = cost([], D, K, N).iloc[0]
    assert frozen["forward_flops"] == frozen["backward_flops"] == 2 * N * D * K


def test_lora_keeps_its_input_and_miss_only_block_sums() -> None:
    assert row(mv.LoRA(R))["kept_bytes"] == N * (K + R) * BYTES
    assert row(mv.MiSS(R))["kept_bytes"] == N * R * BYTES
    assert row(mv.FullFineTuning())["kept_bytes"] == N * K * BYTES
    assert row(mv.LoRA(R, freeze_a=True))["kept_bytes"] == N * R * BYTES


def test_what_is_computed_in_vain_is_not_kept() -> None:
    """VeRA's d × r numbers twice, as b ∘ B and with v, and A x for each token."""
    assert {row(mv.VeRA(R))["kept_bytes"] for _ in range(20)} == {(2 * D * R + N * R) * BYTES}


def test_building_the_weight_keeps_it() -> None:
    expand = row(mv.MiSS(R, form="expand"))
    assert expand["kept_bytes"] >= D * K * BYTES
    assert expand["extra_forward_flops"] == 0  # one product with W₀ + ΔW; the sum is not counted


def test_everything_but_the_sums_grows_with_tokens() -> None:
    for method in (mv.LoRA(R), mv.MiSS(R)):
        one, three = row(method), row(method, tokens=3 * N)
        for column in ("extra_forward_flops", "extra_backward_flops", "kept_bytes"):
            assert three[column] == 3 * one[column], (method.name, column)


def test_pissa_keeps_both_of_its_products() -> None:
    """x, A₀ x and (A − A₀) x for each token, and once A − A₀ and ΔW's left factor, 2r wide."""
    one, three = row(mv.PiSSA(R)), row(mv.PiSSA(R), tokens=3 * N)
    assert three["kept_bytes"] - one["kept_bytes"] == 2 * N * (K + 2 * R) * BYTES
    assert one["kept_bytes"] == (N * (K + 2 * R) + 2 * R * D + R * K) * BYTES


def test_against_the_paper() -> None:
    """Table 2 counts MiSS's additions (k per token); the counter sees products alone."""
    miss, lora = row(mv.MiSS(R)), row(mv.LoRA(R))
    assert miss["published_parameters"] == miss["num_parameters"] == D * R
    assert miss["published_flops"] - miss["extra_forward_flops"] == 2 * N * K
    assert lora["published_flops"] == lora["extra_forward_flops"]
    for method in (mv.MiSS(R, mini=2), mv.MiSS(R, share="rows"), mv.Bat(R), mv.PiSSA(R), Own(R)):
        assert math.isnan(row(method).get("published_flops") or math.nan)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((mv.MiSS(4),), TypeError, "is not a list of methods"),
        (([4],), TypeError, "one of methods=4 is not a missviz method"),
        (([mv.MiSS(4)], 0), ValueError, "out_features=0 is not positive"),
        (([mv.MiSS(4)], 8, 8, 2.5), TypeError, "tokens=2.5 is not an integer"),
        (([mv.MiSS(4)], 8, 8, 2, torch.int8), TypeError, "not a floating-point dtype"),
        (([mv.MiSS(9)], 8, 8), ValueError, "rank=9 exceeds in_features=8"),
    ],
)
def test_bad_input(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        cost(*arguments)

"""Identities of the methods, all in float64.

d = out_features, k = in_features, G = ∂L/∂W of a random linear functional of the output.
"""

import math

import pytest
import torch
from helpers import close, random
from torch import Tensor

import missviz as mv
from missviz.adapters.shards import shard_matrix, shard_owner
from missviz.testing import random_linear, randomise

OUT, IN, RANK = 20, 24, 6
SHAPES = [(24, 6), (25, 6), (26, 6), (29, 6), (7, 5)]
F64 = {"dtype": torch.float64}


def on(method: mv.Method, out_features: int = OUT, in_features: int = IN, moved: bool = True):
    adapter = method.on(random_linear(out_features, in_features, torch.float64))
    if moved:
        randomise(adapter, std=1.0)
    return adapter


def gradients(adapter: mv.Adapter) -> tuple[Tensor, dict[str, Tensor]]:
    """G = ∂L/∂W, and ∂L/∂p for each trained p, of the same loss on the same inputs."""
    x, direction = random(7, adapter.in_features, seed=1), random(7, adapter.out_features, seed=2)
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((adapter(x) * direction).sum(), trained.values())
    return direction.mT @ x, dict(zip(trained, found, strict=True))


def test_tiled_miss_is_d_times_t() -> None:
    adapter = on(mv.MiSS(RANK))
    T = shard_matrix(IN, RANK, "tiled", adapter.D)
    g = IN // RANK
    for i in range(RANK):
        for j in range(IN):
            assert T[i, j] == (1 if j % RANK == i else 0)
    assert torch.equal(adapter.delta(), adapter.D @ T)
    assert torch.equal(T @ T.mT, g * torch.eye(RANK, **F64))
    assert close(mv.spectrum(adapter)[:RANK], math.sqrt(g) * torch.linalg.svdvals(adapter.D))


@pytest.mark.parametrize(("in_features", "rank"), SHAPES)
def test_widths_that_rank_does_not_divide_are_padded_with_zeros(
    in_features: int, rank: int
) -> None:
    adapter = on(mv.MiSS(rank), OUT, in_features)
    T = shard_matrix(in_features, rank, "tiled", adapter.D)
    counts = torch.tensor(
        [
            math.ceil(in_features / rank) if j < in_features % rank else in_features // rank
            for j in range(rank)
        ],
        **F64,
    )
    assert torch.equal(T @ T.mT, torch.diag(counts))
    wanted = torch.linalg.svdvals(adapter.D * counts.sqrt())
    assert close(mv.spectrum(adapter)[: len(wanted)], wanted)
    x = random(3, in_features)
    padded = torch.nn.functional.pad(x, (0, -in_features % rank))
    S = padded.reshape(3, -1, rank).sum(dim=1)
    assert close(adapter(x) - adapter.base(x), S @ adapter.D.mT)


def test_block_layout_is_a_permutation_of_tiled() -> None:
    tiled, block = on(mv.MiSS(RANK)), on(mv.MiSS(RANK, layout="block"))
    block.D.data = tiled.D.data.clone()
    g = IN // RANK
    permutation = [(j % g) * RANK + j // g for j in range(IN)]
    assert torch.equal(block.delta(), tiled.delta()[:, permutation])
    assert close(mv.spectrum(block), mv.spectrum(tiled))
    x = random(3, IN)
    assert not torch.allclose(block(x), tiled(x), atol=0.1)  # not the same function


def test_sharing_rows_is_equation_3() -> None:
    adapter = on(mv.MiSS(RANK, share="rows"))
    sizes = [len(part) for part in torch.arange(OUT).tensor_split(RANK)]
    R = torch.block_diag(*[torch.ones(size, 1, **F64) for size in sizes])
    assert torch.equal(adapter.delta(), R @ adapter.D)
    assert torch.equal(R.mT @ R, torch.diag(torch.tensor(sizes, **F64)))
    wanted = torch.linalg.svdvals(torch.tensor(sizes, **F64).sqrt()[:, None] * adapter.D)
    assert close(mv.spectrum(adapter)[:RANK], wanted)
    G, found = gradients(adapter)
    assert close(found["D"], R.mT @ G)


def test_sharing_rows_is_sharing_columns_of_the_transpose() -> None:
    rows = on(mv.MiSS(5, share="rows"), 20, 24)
    columns = on(mv.MiSS(5, layout="block"), 24, 20)
    columns.D.data = rows.D.data.mT.clone()
    assert torch.equal(rows.delta(), columns.delta().mT)


def test_gradient_of_d_is_the_sum_of_gradient_shards() -> None:
    adapter = on(mv.MiSS(RANK), moved=False)
    G, found = gradients(adapter)
    assert close(found["D"], G.reshape(OUT, IN // RANK, RANK).sum(dim=1))
    assert close(found["D"], G @ shard_matrix(IN, RANK, "tiled", G).mT)


def test_gradient_of_d_is_at_most_root_g_times_the_full_one() -> None:
    T, g = shard_matrix(IN, RANK, "tiled", torch.empty(0, **F64)), IN // RANK
    G = random(OUT, IN)
    norm = torch.linalg.norm
    assert norm(G @ T.mT) <= math.sqrt(g) * norm(G)
    equal_blocks = random(OUT, RANK).repeat(1, g)
    assert close(norm(equal_blocks @ T.mT), math.sqrt(g) * norm(equal_blocks))
    signs = torch.tensor([1.0, -1.0], **F64).repeat(g // 2).repeat_interleave(RANK)
    assert norm((equal_blocks * signs) @ T.mT) < 1e-12


@pytest.mark.parametrize(
    ("factor", "ratio"),
    [
        ("tiled", 1.0),
        ("block", 1.0),
        ("columns", math.sqrt(8 / 64)),
        ("gaussian", math.sqrt(8 / 64)),
    ],
)
def test_each_factor_passes_its_share_of_an_isotropic_gradient(factor: str, ratio: float) -> None:
    F = mv.FixedFactor(8, factor).on(random_linear(4, 64, torch.float64)).F
    G = random(4000, 64)
    measured = torch.linalg.norm(G @ F.mT) / torch.linalg.norm(G)
    assert measured == pytest.approx(float(torch.linalg.norm(F)) / math.sqrt(64), rel=0.01)
    assert measured == pytest.approx(ratio, rel=0.07 if factor == "gaussian" else 0.01)


def test_correlated_columns_raise_the_gradients_norm() -> None:
    k, r, rho = 64, 8, 0.3
    common, own = random(4000, 1, seed=1), random(4000, k, seed=2)
    G = math.sqrt(rho) * common + math.sqrt(1 - rho) * own
    T = shard_matrix(k, r, "tiled", G)
    measured = torch.linalg.norm(G @ T.mT) / torch.linalg.norm(G)
    assert measured == pytest.approx(math.sqrt(1 + (k // r - 1) * rho), rel=0.07)


def test_full_rank_has_the_full_gradient_and_rank_one_sums_x() -> None:
    G, found = gradients(on(mv.FrozenFineTuning(), moved=False))
    assert close(found["M"], G)
    G, found = gradients(on(mv.FullFineTuning(), moved=False))
    assert close(found["W"], G)
    G, found = gradients(on(mv.MiSS(IN), moved=False))
    assert close(found["D"], G)
    adapter, x = on(mv.MiSS(1)), random(3, IN)
    assert close(adapter(x) - adapter.base(x), x.sum(dim=-1, keepdim=True) @ adapter.D.mT)


def test_best_fit_is_a_projection() -> None:
    T, g = shard_matrix(IN, RANK, "tiled", torch.empty(0, **F64)), IN // RANK
    P = T.mT @ T / g
    assert close(P @ P, P)
    assert torch.linalg.matrix_rank(P) == RANK
    M = random(OUT, IN)
    best = torch.linalg.lstsq(T.mT, M.mT).solution.mT
    assert close(best, M @ T.mT / g)
    assert close(M - best @ T, M @ (torch.eye(IN, **F64) - P))
    wide = random(4000, IN)
    kept = torch.linalg.norm(wide @ P) ** 2 / torch.linalg.norm(wide) ** 2
    assert kept == pytest.approx(RANK / IN, rel=0.05)


def test_what_sums_to_zero_is_not_seen_nor_is_the_order_of_blocks() -> None:
    adapter, g = on(mv.MiSS(RANK)), IN // RANK
    x = random(3, g, RANK)
    silent = (x - x.mean(dim=1, keepdim=True)).reshape(3, IN)
    assert silent.abs().max() > 0.1
    assert (silent @ adapter.delta().mT).abs().max() < 1e-12
    shuffled = x[:, [2, 0, 3, 1]]
    assert close(
        shuffled.reshape(3, IN) @ adapter.delta().mT, x.reshape(3, IN) @ adapter.delta().mT
    )


def test_shards_of_miss_are_copies() -> None:
    shards = on(mv.MiSS(RANK)).delta().reshape(OUT, -1, RANK).transpose(0, 1).flatten(1)
    assert close(torch.corrcoef(shards), torch.ones(IN // RANK, IN // RANK, **F64))


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_starts_with_a_gradient_in_b_alone(rslora: bool) -> None:
    alpha, rank = 12.0, 3
    adapter = on(mv.LoRA(rank, alpha, rslora=rslora), moved=False)
    scaling = alpha / (math.sqrt(rank) if rslora else rank)
    G, found = gradients(adapter)
    assert not found["A"].any()
    assert close(found["B"], scaling * G @ adapter.A.mT)
    assert adapter.A.abs().max() <= 1 / math.sqrt(IN)
    assert adapter.A.abs().max() > 0.9 / math.sqrt(IN)


def test_loras_gaussian_start_has_standard_deviation_one_over_rank() -> None:
    A = on(mv.LoRA(16, init="gaussian"), 16, 4000, moved=False).A
    assert A.std().item() == pytest.approx(1 / 16, rel=0.02)


@pytest.mark.parametrize("rank", [32, 256, 1024])
def test_loras_first_gradient_follows_the_square_root_of_r_over_3k(rank: int) -> None:
    k = 1024
    method = mv.BigLoRA() if rank == 1024 else mv.LoRA(rank)
    A = method.on(random_linear(1024, k, torch.float64)).A.detach()
    G = random(500, k)
    measured = torch.linalg.norm(G @ A.mT) / torch.linalg.norm(G)
    assert measured == pytest.approx(math.sqrt(rank / (3 * k)), rel=0.02)


@pytest.mark.parametrize("niter", [None, 4])
def test_pissa_starts_at_zero_and_reaches_rank_2r(niter: int | None) -> None:
    rank, alpha = 4, 8.0
    linear = random_linear(OUT, IN, torch.float64)
    adapter = mv.PiSSA(rank, alpha, niter=niter).on(linear)
    scaling = alpha / rank
    assert not adapter.delta().any()
    S = torch.linalg.svdvals(linear.weight)[:rank]
    assert close(
        adapter.A @ adapter.A.mT, torch.diag(S / scaling), 1e-12 if niter is None else 0.05
    )
    assert close(
        adapter.B.mT @ adapter.B, torch.diag(S / scaling), 1e-12 if niter is None else 0.05
    )
    x, y = random(9, IN), random(9, OUT, seed=3)
    optimiser = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    (adapter(x) - y).square().mean().backward()
    optimiser.step()
    values = mv.spectrum(adapter)
    assert int((values > 1e-10 * values[0]).sum()) == 2 * rank


def test_pissas_residual_is_the_tail_of_the_svd() -> None:
    linear = random_linear(OUT, IN, torch.float64)
    adapter = mv.PiSSA(4).on(linear)
    U, S, Vh = torch.linalg.svd(linear.weight)
    residual = linear.weight - adapter.B @ adapter.A
    assert close(residual, (U[:, 4:OUT] * S[4:]) @ Vh[4:OUT])


def blocks(matrix: Tensor, o: int, i: int, b: int) -> Tensor:
    return matrix[o * b : (o + 1) * b, i * b : (i + 1) * b]


@pytest.mark.parametrize("variant", ["output", "input", "left"])
def test_bat_is_its_definition_block_by_block(variant: str) -> None:
    b = 4
    method = {
        "output": mv.Bat(b),
        "input": mv.Bat(b, index="input"),
        "left": mv.Bat(b, side="left"),
    }[variant]
    adapter = on(method)
    W, D, delta = adapter.base.weight, adapter.D, adapter.delta()
    for o in range(OUT // b):
        for i in range(IN // b):
            W_oi = blocks(W, o, i, b)
            wanted = {
                "output": W_oi @ D[o % len(D)] + D[o % len(D)],
                "input": W_oi @ D[i % len(D)] + D[i % len(D)],
                "left": D[o % len(D)] @ W_oi + D[o % len(D)],
            }[variant]
            assert close(blocks(delta, o, i, b), wanted)
    G, found = gradients(adapter)
    if variant == "output":
        for o in range(OUT // b):
            wanted = sum(
                blocks(W, o, i, b).mT @ blocks(G, o, i, b) + blocks(G, o, i, b)
                for i in range(IN // b)
            )
            assert close(found["D"][o], wanted)


@pytest.mark.parametrize("method", [mv.Bat(4), mv.Bat(4, index="input"), mv.Bat(4, side="left")])
def test_bat_is_linear_in_d_and_full_rank(method: mv.Bat) -> None:
    adapter = on(method)

    def f(D: Tensor) -> Tensor:
        adapter.D.data = D
        return adapter.delta().detach()

    A, B = random(*adapter.D.shape, seed=5), random(*adapter.D.shape, seed=6)
    assert close(f(2 * A - 3 * B), 2 * f(A) - 3 * f(B))
    assert torch.linalg.matrix_rank(f(A)) == OUT


def test_bat_with_block_size_1_is_already_full_rank() -> None:
    adapter = on(mv.Bat(1), 12, 12)
    assert torch.linalg.matrix_rank(adapter.delta()) == 12
    assert adapter.method.num_parameters(12, 12) == 12


@pytest.mark.parametrize("method", [mv.Bat(4), mv.Bat(4, side="left")])
def test_bat_on_zero_weights_is_tiled_miss(method: mv.Bat) -> None:
    linear = random_linear(OUT, IN, torch.float64)
    linear.weight.data.zero_()
    bat, miss = method.on(linear), mv.MiSS(4).on(linear)
    randomise(bat)
    miss.D.data = bat.D.data.flatten(0, 1)
    assert torch.equal(bat.delta(), miss.delta())


def test_bat_by_input_is_its_fast_form_and_its_matrix_form() -> None:
    b = 4
    adapter = on(mv.Bat(b, index="input"))
    W, D = adapter.base.weight, adapter.D
    identities = torch.eye(b, **F64).repeat(OUT // b, IN // b)
    assert close(adapter.delta(), (W + identities) @ torch.block_diag(*D))
    x = random(5, IN)
    Dx = x @ torch.block_diag(*D).mT
    tile = Dx.reshape(5, -1, b).sum(dim=1).repeat(1, OUT // b)
    assert close(x @ adapter.delta().mT, Dx @ W.mT + tile)
    assert close(adapter(x) - adapter.base(x), Dx @ W.mT + tile)


def test_the_three_bats_are_different_functions() -> None:
    adapters = [
        on(method, 24, 24)
        for method in (mv.Bat(4), mv.Bat(4, index="input"), mv.Bat(4, side="left"))
    ]
    D = adapters[0].D.data
    deltas = []
    for adapter in adapters:
        for candidate in (D, D.mT):
            adapter.D.data = candidate.clone()
            deltas.append(adapter.delta().detach())
    for one in (0, 1):
        for other in range(2, 6):
            assert not torch.allclose(deltas[one], deltas[other], atol=0.1)


def test_bat_can_be_undone() -> None:
    b = 4
    adapter = on(mv.Bat(b))
    merged, D = adapter.weight.detach(), adapter.D.detach()
    for o in range(OUT // b):
        for i in range(IN // b):
            undone = (blocks(merged, o, i, b) - D[o]) @ torch.linalg.inv(torch.eye(b, **F64) + D[o])
            assert close(undone, blocks(adapter.base.weight, o, i, b), 1e-10)


def test_mini_repeats_one_small_matrix_in_rows_and_columns() -> None:
    rank, mini = 6, 4
    adapter = on(mv.MiSS(rank, mini=mini))
    M = adapter.D.mT  # PEFT's orientation, rank × mini
    for i in range(OUT):
        for j in range(IN):
            assert adapter.delta()[i, j] == M[j % rank, i % mini]
    scale = math.sqrt(IN / rank * OUT / mini)
    assert close(mv.spectrum(adapter)[:mini], scale * torch.linalg.svdvals(M))
    G, found = gradients(adapter)
    T_k = shard_matrix(IN, rank, "tiled", G)
    T_d = shard_matrix(OUT, mini, "tiled", G)
    assert close(found["D"].mT, T_k @ G.mT @ T_d.mT)


def test_mini_of_full_height_is_the_default() -> None:
    mini, default = on(mv.MiSS(RANK, mini=OUT)), on(mv.MiSS(RANK))
    mini.D.data = default.D.data.clone()
    assert torch.equal(mini.delta(), default.delta())


def test_square_mini_is_mora_type_1() -> None:
    """MoRA type 1 (kongds/MoRA): sum the input in r̂-wide groups, M, tile the output."""
    side = 4
    adapter, x = on(mv.MiSS(side, mini=side)), random(3, IN)
    summed = x.reshape(3, -1, side).sum(dim=1)
    assert close(adapter(x) - adapter.base(x), (summed @ adapter.D.mT).repeat(1, OUT // side))


def test_fixed_factor_tiled_is_miss() -> None:
    for layout in ("tiled", "block"):
        fixed, miss = on(mv.FixedFactor(RANK, layout)), on(mv.MiSS(RANK, layout=layout))
        fixed.D.data = miss.D.data.clone()
        assert torch.equal(fixed.delta(), miss.delta())


@pytest.mark.parametrize("factor", ["tiled", "block", "orthogonal", "gaussian", "columns"])
def test_gain_is_the_root_mean_square_singular_value(factor: str) -> None:
    F = mv.FixedFactor(5, factor, gain=3.0).on(random_linear(4, 27, torch.float64)).F
    assert torch.linalg.svdvals(F).square().mean().sqrt().item() == pytest.approx(3.0)


def test_orthogonal_rows_are_orthonormal() -> None:
    F = mv.FixedFactor(5, "orthogonal").on(random_linear(4, 27, torch.float64)).F
    assert close(F @ F.mT, torch.eye(5, **F64))


def test_lora_with_the_tiled_identity_is_miss() -> None:
    """MiSS → LoRA: A = T, B = D, α = r."""
    miss, lora = on(mv.MiSS(RANK)), on(mv.LoRA(RANK))
    left, right = miss.factors()
    lora.A.data, lora.B.data = right.clone(), left.detach().clone()
    assert torch.equal(lora.delta(), miss.delta())


def test_layouts_by_hand() -> None:
    cpu = torch.device("cpu")
    assert shard_owner(8, 3, "tiled", cpu).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert shard_owner(8, 3, "block", cpu).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert shard_owner(2, 2, "block", cpu).tolist() == [0, 1]


def test_figure_3_expand_is_the_efficient_form_and_torch_expand_raises() -> None:
    adapter = on(mv.MiSS(RANK))
    x = random(3, IN)
    D = adapter.D.mT  # r × out, as in the paper's Figure 3
    assert close(x @ D.repeat(IN // RANK, 1), adapter(x) - adapter.base(x))
    with pytest.raises(RuntimeError):
        D.expand(IN // RANK, 1)


def test_first_adam_step_moves_every_entry_by_the_rate() -> None:
    adapter = on(mv.MiSS(RANK), moved=False)
    optimiser = torch.optim.Adam(adapter.parameters(), lr=1e-3, eps=0.0)
    (adapter(random(7, IN)) * random(7, OUT, seed=2)).sum().backward()
    optimiser.step()
    norm = torch.linalg.norm(adapter.delta()).item()
    assert norm == pytest.approx(1e-3 * math.sqrt(OUT * IN), rel=1e-9)


def test_counts() -> None:
    d, k = 20, 24
    counts = {
        mv.FullFineTuning(): d * k,
        mv.FullFineTuning(bias=True): d * k + d,
        mv.FrozenFineTuning(): d * k,
        mv.LoRA(3): 3 * (d + k),
        mv.LoRA(3, freeze_a=True): 3 * d,
        mv.BigLoRA(): 1024 * (d + k),
        mv.PiSSA(3): 3 * (d + k),
        mv.FixedFactor(4): 4 * d,
        mv.MiSS(4): 4 * d,
        mv.MiSS(4, share="rows"): 4 * k,
        mv.MiSS(6, mini=4): 24,
        mv.Bat(4): 4 * d,
        mv.Bat(4, index="input"): 4 * k,
        mv.Bat(4, side="left"): 4 * d,
    }
    for method, count in counts.items():
        assert method.num_parameters(d, k) == count


def test_llama2_7b_budgets() -> None:
    """The paper's Table 5: LoRA r=36 89.9M, MiSS r=64 87.0M on the seven projections."""
    shapes = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
    assert 32 * sum(mv.LoRA(36).num_parameters(*shape) for shape in shapes) == 89_948_160
    assert 32 * sum(mv.MiSS(64).num_parameters(*shape) for shape in shapes) == 87_031_808


def test_bone_by_date() -> None:
    import datetime

    assert mv.Bone(4) == mv.MiSS(4)
    assert mv.Bone(4, published=datetime.date(2024, 10, 1)) == mv.Bat(4)
    assert mv.Bone(4, published=datetime.date(2024, 11, 27)) == mv.MiSS(4)

"""Every method of the library in every variant, and random ones for property tests."""

import math

import hypothesis.strategies as st

import missviz as mv
from missviz.adapters.base import Method

VARIANTS: list[Method] = [
    mv.FullFineTuning(),
    mv.FullFineTuning(bias=True),
    mv.FrozenFineTuning(),
    mv.LoRA(3),
    mv.LoRA(3, alpha=12.0),
    mv.LoRA(3, alpha=12.0, rslora=True),
    mv.LoRA(3, init="gaussian"),
    mv.LoRA(3, freeze_a=True),
    mv.BigLoRA(),
    mv.PiSSA(3),
    mv.PiSSA(3, alpha=6.0),
    mv.PiSSA(3, niter=4),
    mv.OLoRA(3),
    mv.OLoRA(3, alpha=6.0),
    mv.LoRAGA(3),
    mv.LoRAGA(3, alpha=4.0, direction="A2rBr", scale="gd_scale"),
    mv.LoRAGA(3, direction="ArBr", scale="weight_svd"),
    mv.LoRAGA(3, direction="random", scale="unit", niter=4),
    mv.LoRAGA(3, gamma=64.0),
    mv.LoRAPlus(3),
    mv.LoRAPlus(3, alpha=6.0, ratio=4.0),
    mv.FixedFactor(4, "tiled"),
    mv.FixedFactor(4, "block"),
    mv.FixedFactor(4, "orthogonal"),
    mv.FixedFactor(4, "orthogonal", gain=2.0),
    mv.FixedFactor(4, "gaussian"),
    mv.FixedFactor(4, "columns"),
    mv.MiSS(4),
    mv.MiSS(5),
    mv.MiSS(5, layout="block"),
    mv.MiSS(5, share="rows"),
    mv.MiSS(5, share="rows", layout="tiled"),
    mv.MiSS(5, mini=2),
    mv.MiSS(3, mini=4),
    mv.Bat(4),
    mv.Bat(4, index="input"),
    mv.Bat(4, side="left"),
    mv.VeRA(5),
    mv.VeRA(40, d_initial=1.0),
    mv.VeRA(5, init="linear"),
    mv.MoS(3, 3),
    mv.MoS(2, 4, alpha=8.0),
    mv.MoS(2, 4, shards_per_vector=2),
    mv.MoS(3, 4, private=1),
    mv.MoS(3, 4, dissociate=False),
    mv.MoS(None, 3, dissociate=False),
    mv.MoS(None, 3, shards_per_vector=4, private=2),
    mv.LoHa(3),
    mv.LoHa(2, alpha=8.0),
    mv.MoRA(2),
    mv.MoRA(2, kind="sum"),
    mv.ProLoRA(4),
    mv.ProLoRA(5, unshared=1, input_chunks=3, output_chunks=2, alpha=10.0),
    mv.ProLoRA(4, stride=0),
    mv.S2FT(3),
    mv.S2FT(3, "rows"),
    mv.S2FT(3, order="given"),
    mv.DoRA(3),
    mv.DoRA(3, alpha=6.0),
    mv.DoRA(3, norm_gradient=True),
    mv.AdaLoRA(3),
    mv.AdaLoRA(3, alpha=6.0, orthogonality=0.0),
    mv.AdaLoRA(3, target_rank=2, total_steps=10),
    mv.DiSHA(2, 4),
    mv.DiSHA(4, 2),
]
IDS = [method.name for method in VARIANTS]


@st.composite
def methods_and_shapes(draw: st.DrawFn) -> tuple[Method, int, int]:
    """A method with random settings, and a layer (out_features, in_features) that it fits."""
    out_features = draw(st.integers(1, 18))
    in_features = draw(st.integers(1, 18))
    smaller = min(out_features, in_features)
    rank = draw(st.integers(1, smaller))
    alpha = draw(st.none() | st.floats(0.5, 32))
    block_size = draw(st.integers(1, 5))
    kind = draw(
        st.sampled_from(
            [
                *("lora", "pissa", "fixed", "columns", "rows", "mini"),
                *("bat", "vera", "mos", "s2ft", "disha", "full"),
            ]
        )
    )
    if kind == "lora":
        method: Method = mv.LoRA(
            rank,
            alpha,
            rslora=draw(st.booleans()),
            init=draw(st.sampled_from(["kaiming", "gaussian"])),
            freeze_a=draw(st.booleans()),
        )
    elif kind == "pissa":
        method = mv.PiSSA(rank, alpha, niter=draw(st.sampled_from([None, 2])))
    elif kind == "fixed":
        factor = draw(st.sampled_from(["tiled", "block", "orthogonal", "gaussian", "columns"]))
        method = mv.FixedFactor(draw(st.integers(1, in_features)), factor, gain=alpha)
    elif kind == "columns":
        layout = draw(st.sampled_from(["tiled", "block"]))
        form = draw(st.sampled_from(["efficient", "expand"]))
        method = mv.MiSS(draw(st.integers(1, in_features)), layout=layout, form=form)
    elif kind == "rows":
        layout = draw(st.sampled_from(["tiled", "block"]))
        form = draw(st.sampled_from(["efficient", "expand"]))
        n = draw(st.integers(1, out_features))
        method = mv.MiSS(n, share="rows", layout=layout, form=form)
    elif kind == "mini":
        divisors = [n for n in range(1, out_features + 1) if out_features % n == 0]
        method = mv.MiSS(draw(st.integers(1, in_features)), mini=draw(st.sampled_from(divisors)))
    elif kind == "bat":
        out_features = block_size * draw(st.integers(1, 5))
        in_features = block_size * draw(st.integers(1, 5))
        side, index = draw(
            st.sampled_from([("right", "output"), ("right", "input"), ("left", "output")])
        )
        method = mv.Bat(block_size, side, index)
    elif kind == "s2ft":
        select = draw(st.sampled_from(["columns", "rows"]))
        method = mv.S2FT(rank, select, order=draw(st.sampled_from(["random", "given"])))
    elif kind == "disha":
        rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        out_features, in_features = (
            rows * draw(st.integers(1, 4)),
            columns * draw(st.integers(1, 4)),
        )
        method = mv.DiSHA(rows, columns)
    elif kind == "vera":
        method = mv.VeRA(draw(st.integers(1, 24)))
    elif kind == "mos":
        common = math.gcd(out_features, in_features)
        budget = draw(st.integers(1, 5))
        private = draw(st.integers(0, budget))
        method = mv.MoS(
            draw(st.none() | st.integers(max(private, 1), budget)),
            budget,
            draw(st.sampled_from([n for n in range(1, common + 1) if common % n == 0])),
            private,
            dissociate=draw(st.booleans()),
            alpha=alpha,
        )
    else:
        method = draw(
            st.sampled_from(
                [mv.FullFineTuning(), mv.FullFineTuning(bias=True), mv.FrozenFineTuning()]
            )
        )
    return method, out_features, in_features

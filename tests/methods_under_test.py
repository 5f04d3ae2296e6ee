"""Every method of the library in every variant, and random ones for property tests."""

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
        st.sampled_from(["lora", "pissa", "fixed", "columns", "rows", "mini", "bat", "full"])
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
    else:
        method = draw(
            st.sampled_from(
                [mv.FullFineTuning(), mv.FullFineTuning(bias=True), mv.FrozenFineTuning()]
            )
        )
    return method, out_features, in_features

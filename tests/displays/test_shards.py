"""The cells are copies of D where the adapter has them, and both ways end at the same bars."""

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps

import missviz as mv
from missviz.displays import ShardDisplay
from missviz.displays.shards import LONGEST
from missviz.randomness import generator_for, normal
from missviz.testing import random_linear, randomise

matplotlib.use("agg")

VARIANTS = [("columns", "tiled"), ("columns", "block"), ("rows", "tiled"), ("rows", "block")]


def adapter_on(out_features: int, in_features: int, method: mv.MiSS):
    adapter = method.on(random_linear(out_features, in_features, torch.float64))
    randomise(adapter)
    return adapter


def x_for(adapter) -> torch.Tensor:
    return normal((adapter.in_features,), 1.0, generator_for("x"))


def display_of(adapter, **options) -> ShardDisplay:
    return ShardDisplay.from_adapter(adapter, x_for(adapter), **options)


@pytest.fixture
def tiled() -> ShardDisplay:
    """r = 4 does not divide k = 6: columns 0 and 1 have two copies, 2 and 3 one."""
    return display_of(adapter_on(5, 6, mv.MiSS(4)), trace=1).plot()


@st.composite
def adapters(draw):
    share, layout = draw(st.sampled_from(VARIANTS))
    out_features, in_features = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rank = draw(st.integers(1, min(8, in_features if share == "columns" else out_features)))
    return adapter_on(out_features, in_features, mv.MiSS(rank, share=share, layout=layout))


@given(adapters())
def test_the_two_ways_are_the_adapters(adapter) -> None:
    display = display_of(adapter)
    x, D = x_for(adapter), adapter.D.detach()
    np.testing.assert_array_equal(display.delta, adapter.delta().detach())
    np.testing.assert_allclose(display.y, adapter.delta().detach() @ x, atol=1e-12)
    short = display.products
    if adapter.method.share == "columns":
        places = [np.flatnonzero(display.owner == column) for column in range(D.shape[1])]
        np.testing.assert_allclose(display.sums, [x[p].sum() for p in places], atol=1e-12)
    else:
        np.testing.assert_array_equal(display.sums, x)
        short = short[display.owner]
    np.testing.assert_allclose(short, (adapter(x) - adapter.base(x)).detach(), atol=1e-12)
    assert display.difference < 1e-12


@given(adapters())
def test_every_cell_is_what_its_owner_holds(adapter) -> None:
    display = display_of(adapter)
    if adapter.method.share == "columns":
        np.testing.assert_array_equal(display.D[:, display.owner], display.delta)
    else:
        np.testing.assert_array_equal(display.D[display.owner], display.delta)


@pytest.mark.slow
@settings(max_examples=10)
@given(adapters())
def test_colours_say_which_part_of_d_a_cell_is(adapter) -> None:
    display = display_of(adapter).plot()
    by_columns = adapter.method.share == "columns"

    def colours(cells, shape) -> np.ndarray:
        return cells.squares.get_facecolor()[:, :3].reshape(*shape, 3)

    of_d = colours(display.short_.matrix, display.D.shape)
    of_delta = colours(display.long_.matrix, display.delta.shape)
    # Along the dimension that is not shared a colour stays; along the other it is the owner's.
    shades = of_d[0] if by_columns else of_d[:, 0]
    assert len(np.unique(shades, axis=0)) == len(shades)
    wanted = shades[display.owner]
    np.testing.assert_array_equal(
        of_delta, np.broadcast_to(wanted if by_columns else wanted[:, None], of_delta.shape)
    )
    beside = display.long_.vector if by_columns else display.long_.product
    np.testing.assert_array_equal(beside.squares.get_facecolor()[:, :3], wanted)


@given(st.integers(1, 8), st.integers(1, 3))
def test_layouts_differ_by_a_permutation_of_columns(rank: int, copies: int) -> None:
    """π(j) = (j mod g) r + ⌊j / g⌋."""
    size = rank * copies
    tiled, block = (
        display_of(adapter_on(3, size, mv.MiSS(rank, layout=layout)))
        for layout in ("tiled", "block")
    )
    order = [(j % copies) * rank + j // copies for j in range(size)]
    np.testing.assert_array_equal(block.delta, tiled.delta[:, order])
    np.testing.assert_array_equal(block.owner, tiled.owner[order])
    if 1 < rank < size:
        assert not np.allclose(block.y, tiled.y)


def test_rows_are_blocks_of_columns_of_the_transpose() -> None:
    rows = adapter_on(6, 4, mv.MiSS(3, share="rows"))
    columns = adapter_on(4, 6, mv.MiSS(3, layout="block"))
    with torch.no_grad():
        columns.D.copy_(rows.D.mT)
    np.testing.assert_array_equal(display_of(rows).delta, display_of(columns).delta.T)


def test_bars_and_digits_are_the_numbers(tiled: ShardDisplay) -> None:
    ways = [
        (tiled.short_, tiled.D, tiled.sums, tiled.products),
        (tiled.long_, tiled.delta, tiled.x, tiled.y),
    ]
    for way, matrix, vector, product in ways:
        for cells, values in ((way.matrix, matrix), (way.vector, vector), (way.product, product)):
            shown = [f"{value:.1f}".replace("-0.0", "0.0") for value in values.ravel()]
            assert cells.digits.strings == shown
        tall = [bar.vertices[0, 1] - bar.vertices[2, 1] for bar in way.vector.bars.get_paths()]
        wide = [bar.vertices[2, 0] - bar.vertices[0, 0] for bar in way.product.bars.get_paths()]
        np.testing.assert_allclose(np.array(tall) * tiled.limits[0] / LONGEST, vector)
        np.testing.assert_allclose(np.array(wide) * tiled.limits[1] / LONGEST, product)


def test_the_trace_outlines_all_copies(tiled: ShardDisplay) -> None:
    assert tiled.copies == [1, 5]
    edges = np.array(tiled.long_.vector.outline.get_segments())
    assert sorted(set(edges[..., 0].ravel())) == [0.5, 1.5, 4.5, 5.5]
    assert len(edges) == 8
    assert "S[1] = x[1] + x[5]" in tiled.summary()
    assert len(tiled.short_.product.outline.get_segments()) == 0


def test_permuting_shards_of_x_changes_no_bar() -> None:
    adapter = adapter_on(5, 6, mv.MiSS(2))
    x = x_for(adapter)
    moved = x.reshape(3, 2)[[2, 0, 1]].flatten()
    first, second = (ShardDisplay.from_adapter(adapter, x) for x in (x, moved))
    np.testing.assert_allclose(first.y, second.y, atol=1e-12)
    assert not np.allclose(first.x, second.x)
    x[1::2] -= x[1::2].mean()
    assert ShardDisplay.from_adapter(adapter, x).sums[1] == pytest.approx(0, abs=1e-12)


def test_update_draws_as_if_anew(tiled: ShardDisplay) -> None:
    other = display_of(adapter_on(5, 6, mv.MiSS(2, share="rows")), trace=3)
    tiled.update(other)
    anew = other.plot()
    for mine, its in ((tiled.short_, anew.short_), (tiled.long_, anew.long_)):
        for part in ("matrix", "vector", "product"):
            np.testing.assert_array_equal(
                getattr(mine, part).squares.get_facecolor(),
                getattr(its, part).squares.get_facecolor(),
            )
    assert tiled.summary() == anew.summary()
    assert tiled.axes_[0].get_title() == "short way: D x, then copied"


def test_ghost_marks_where_y_ended(tiled: ShardDisplay) -> None:
    pinned = display_of(adapter_on(5, 6, mv.MiSS(2, share="rows")))
    (ends,) = tiled.ghost(pinned)
    zero = tiled.long_.product.bars.get_paths()[0].vertices[0, 0]
    places = np.array(ends.get_segments())[:, :, 0]
    wanted = zero + LONGEST * np.clip(pinned.y / tiled.limits[1], -1, 1)
    np.testing.assert_allclose(places, wanted[:, None].repeat(2, axis=1))


def test_reveal_hides_the_copies_sums_and_y(tiled: ShardDisplay) -> None:
    tiled.reveal(False)
    hidden = [tiled.short_.vector, tiled.short_.product, tiled.long_.matrix, tiled.long_.product]
    assert not any(artist.get_visible() for cells in hidden for artist in cells.artists)
    for cells in (tiled.short_.matrix, tiled.long_.vector):
        assert all(artist.get_visible() for artist in cells.artists)


def test_large_layers_have_no_digits() -> None:
    display = display_of(adapter_on(13, 4, mv.MiSS(2))).plot()
    assert display.long_.matrix.digits is None


def test_a_fresh_adapter_says_so() -> None:
    adapter = mv.MiSS(2).on(random_linear(4, 4, torch.float32))
    assert "no update yet" in display_of(adapter).plot().summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace": 6}, "trace=6: ΔW has columns 0 to 5"),
        ({"trace": True}, "trace=True: ΔW has columns"),
        ({"share": "both"}, "share='both' is unknown"),
        ({"share": "rows"}, "do not fit ΔW"),
        ({"x": np.ones(5)}, "do not fit ΔW .5, 6. where columns are shared"),
        ({"owner": np.zeros(5, int)}, "do not fit ΔW"),
        (
            {
                "D": np.ones((5, 9)),
                "delta": np.ones((5, 9)),
                "x": np.ones(9),
                "sums": np.ones(9),
                "owner": np.arange(9),
            },
            "rank=9 exceeds the number of hues=8",
        ),
    ],
)
def test_bad_input(tiled: ShardDisplay, change: dict, message: str) -> None:
    given = {
        name: getattr(tiled, name)
        for name in ("D", "delta", "x", "sums", "owner", "share", "name", "trace")
    }
    with pytest.raises(ValueError, match=message):
        ShardDisplay(**(given | change))


def test_mini_is_refused() -> None:
    with pytest.raises(ValueError, match="shares columns and rows"):
        display_of(adapter_on(4, 4, mv.MiSS(2, mini=2)))


@pytest.mark.slow
def test_cells_coloured_by_value() -> None:
    panel = mv.explore.expansion(rank=4, color="value")
    assert "color='value'" in panel.state
    display = panel.drawn()
    colours = display.long_.matrix.squares.get_facecolor().reshape(8, 8, 4)
    assert np.allclose(colours[:, :4], colours[:, 4:])  # copies
    value = display.delta[2, 1]
    assert np.allclose(colours[2, 1], colormaps["RdBu_r"](0.5 + value / 1.8))
    with pytest.raises(ValueError, match="color='rainbow' is unknown"):
        mv.explore.expansion(color="rainbow")

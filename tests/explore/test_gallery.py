"""The gallery shows every panel as it is now."""

import io

import numpy as np
from PIL import Image

import missviz as mv
from missviz.explore.gallery import PANELS, draw_thumbnails


def test_thumbnails_are_the_panels_of_today() -> None:
    """If a panel has changed: `make thumbnails`."""
    gallery = mv.gallery()
    drawn = draw_thumbnails()
    assert list(gallery.entries) == [line for line, _ in drawn.values()]
    for kept, (_, fresh) in zip(gallery.entries.values(), drawn.values(), strict=True):
        before, now = (
            np.asarray(Image.open(io.BytesIO(png)), dtype=float) for png in (kept, fresh)
        )
        assert before.shape == now.shape
        # Other versions of matplotlib and FreeType differ by a shade at edges.
        assert np.abs(before - now).mean() < 3


def test_it_shows_pictures_and_lines() -> None:
    gallery = mv.gallery()
    html = gallery._repr_html_()
    assert html.count("<img") == html.count("<code>") == len(PANELS)
    assert repr(gallery).splitlines() == list(gallery.entries)
    assert all(line.startswith("mv.explore.") for line in gallery.entries)

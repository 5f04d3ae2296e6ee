"""Figures as files: pictures in any format that matplotlib writes, and films of several figures."""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from missviz.adapters import validation
from missviz.files import write_whole

LEAST, MOST = 50, 20_000
"""Pixels that a side of a picture may have: below, text cannot be drawn."""
LONGEST = 600.0
"""Seconds of a picture of a film."""
FILMS = (".gif", ".mp4")
VECTORS = ("svg", "svgz", "pdf", "eps", "ps")


def save_figure(
    figure: Figure,
    path: str | Path,
    *,
    dpi: float | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Write `figure`, whole or not at all; a folder that is missing is made.

    Args:
        figure: any matplotlib figure.
        path: the file; its ending says the format: .png, .svg, .pdf, .jpg, ….
        dpi: pixels per inch; None, as the figure has it.
        size: (width, height) in pixels, in place of `dpi`: the figure as large as it fits, on its
            own background. For .svg and .pdf a pixel is 1/100 inch, which gives the shape of the
            page.

    Raises ValueError, naming the argument, where the ending cannot be written or a size is wrong.
    """
    path = _file(figure, path)
    ending = path.suffix[1:].lower()
    dpi, size = _checked(figure, dpi, size)
    packed = io.BytesIO()
    if size is None:
        figure.savefig(packed, format=ending, dpi=dpi)
    elif ending in VECTORS:
        figure.savefig(packed, format=ending, bbox_inches=_page(figure, size))
    else:
        _pixels(figure, dpi, size).save(packed, Image.registered_extensions()[f".{ending}"])
    write_whole(path, packed.getvalue())


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write pixels as .png, .jpg, .webp or .tiff; ValueError for any other ending."""
    path, known = checked_path(path), (".png", ".jpg", ".jpeg", ".webp", ".tiff")
    if path.suffix.lower() not in known:
        raise ValueError(f"path={str(path)!r} ends in none of {', '.join(known)}")
    packed = io.BytesIO()
    image.save(packed, Image.registered_extensions()[path.suffix.lower()])
    write_whole(path, packed.getvalue())


def save_film(
    figures: Iterable[Figure],
    path: str | Path,
    *,
    dpi: float | None = None,
    size: tuple[int, int] | None = None,
    seconds: float = 1.0,
) -> None:
    """Write a .gif or .mp4 of these figures, `seconds` each; else as `save_figure`.

    Raises ValueError also where `seconds` is not above 0, or, for .mp4, ffmpeg is missing.
    """
    seconds = validation.positive_float("seconds", seconds)
    path = checked_path(path)
    if seconds > LONGEST:
        raise ValueError(f"seconds={seconds:g} is too long for a picture; at most {LONGEST:g}")
    if path.suffix.lower() == ".mp4" and ffmpeg() is None:
        raise ValueError(
            f"path={str(path)!r}: .mp4 needs ffmpeg, which is not there (Debian: apt-get install "
            "ffmpeg; else pip install imageio-ffmpeg); a .gif needs nothing"
        )
    pictures = []
    for figure in figures:
        chosen = _checked(figure, dpi, size)
        pictures.append(_pixels(figure, *chosen))
    pack = _gif if path.suffix.lower() == ".gif" else _mp4
    write_whole(path, pack(pictures, seconds))


def checked_path(path: Any) -> Path:
    """`path` as a Path that names a file; TypeError or ValueError where it is none."""
    if not isinstance(path, str | Path):
        raise TypeError(f"path={path!r} is not the name of a file, such as 'slide.svg'")
    if not Path(path).name:
        raise ValueError(f"path={str(path)!r} names no file; give one such as 'slide.svg'")
    return Path(path)


def _file(figure: Figure, path: str | Path) -> Path:
    path = checked_path(path)
    # matplotlib would write a film of one picture without a word.
    endings = sorted({*figure.canvas.get_supported_filetypes()} - {"gif"})
    if path.suffix[1:].lower() not in endings:
        known = ", ".join(f".{ending}" for ending in endings)
        raise ValueError(f"path={str(path)!r} ends in none of {known}")
    return path


def _checked(figure: Figure, dpi: Any, size: Any) -> tuple[float, tuple[int, int] | None]:
    across, high = figure.get_size_inches()
    if size is None:
        chosen = figure.dpi if dpi is None else validation.positive_float("dpi", dpi)
        if not LEAST <= chosen * min(across, high) <= chosen * max(across, high) <= MOST:
            raise ValueError(
                f"dpi={dpi:g} makes a picture of {chosen * across:.0f} × {chosen * high:.0f} "
                f"pixels; a side has {LEAST} to {MOST}"
            )
        return chosen, None
    if dpi is not None:
        raise ValueError(f"dpi={dpi!r} and size={size!r}: give one of them")
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size={size!r} is not (width, height) in pixels, such as (1920, 1080)")
    width, height = (validation.positive_int("size", side) for side in size)
    if not LEAST <= min(width, height) <= max(width, height) <= MOST:
        raise ValueError(f"size={size}: a side has {LEAST} to {MOST} pixels")
    return min(width / across, height / high), (width, height)


def _page(figure: Figure, size: tuple[int, int]) -> Bbox:
    """A page of the shape of `size` around the figure, in inches."""
    across, high = figure.get_size_inches()
    scale = max(across / size[0], high / size[1])
    page_across, page_high = scale * size[0], scale * size[1]
    return Bbox.from_bounds(
        (across - page_across) / 2, (high - page_high) / 2, page_across, page_high
    )


def _pixels(figure: Figure, dpi: float, size: tuple[int, int] | None) -> Image.Image:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    picture = Image.open(drawn).convert("RGB")
    if size is None:
        return picture
    page = Image.new("RGB", size, to_hex(figure.get_facecolor()))
    page.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return page


def ffmpeg() -> str | None:
    """Where ffmpeg is, or None."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _gif(pictures: list[Image.Image], seconds: float) -> bytes:
    packed = io.BytesIO()
    first, *others = [picture.quantize(dither=Image.Dither.NONE) for picture in pictures]
    milliseconds = round(1000 * seconds)
    first.save(packed, "gif", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return packed.getvalue()


def _mp4(pictures: list[Image.Image], seconds: float) -> bytes:
    """H.264 with the colours that every player takes; its sides must be even."""
    even = [
        picture.crop((0, 0, picture.width - picture.width % 2, picture.height - picture.height % 2))
        for picture in pictures
    ]
    width, height = even[0].size
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        command = [
            *(ffmpeg() or "ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{width}x{height}", "-r", f"{1 / seconds:.6f}", "-i", "-"),
            *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-r", "25", str(film)),
        ]
        data = b"".join(np.asarray(picture).tobytes() for picture in even)
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        if done.returncode:
            raise ValueError(f"ffmpeg could not write the film: {done.stderr.decode()[-300:]}")
        return film.read_bytes()

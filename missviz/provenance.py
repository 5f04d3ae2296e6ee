"""Which code a figure depends on: a hash that comments, docstrings and layout do not change."""

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parent


def code_behind(path: Path, root: Path = PACKAGE.parent) -> str:
    """A hash of a module of missviz and of all that it imports of missviz, directly or not.

    `import missviz` by itself counts for nothing: what is taken from it is looked up later.

    Args:
        path: the module's file.
        root: the folder that `missviz` lies in.
    """
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(_imported(path.resolve(), root.resolve())):
        digest.update(_meaning(file))
    return digest.hexdigest()


def _imported(path: Path, root: Path) -> set[Path]:
    """`path` and the files that it leads to."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += _imports(here, root)
    return found


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports(path: Path, root: Path) -> tuple[Path, ...]:
    """The files of the modules of missviz that a file imports."""
    names: list[str] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = []
    for name in names:
        if name.startswith("missviz."):
            place = root / Path(*name.split("."))
            both = (place.with_suffix(".py"), place / "__init__.py")
            files += [file for file in both if file.exists()]
    return tuple(files)


@functools.cache
def _meaning(path: Path) -> bytes:
    """What a file does, without what it says of itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                part
                for part in body
                if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
    return ast.dump(tree).encode()

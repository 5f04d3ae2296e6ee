"""A sweep: chunks of work on any executor, each kept as soon as it is finished.

The process that asks also does the keeping. Workers then need no disk in common with it, and what
kills a worker cannot leave half a file.
"""

import functools
import hashlib
import pickle
import uuid
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import cloudpickle
import joblib
import torch
from tqdm.auto import tqdm

import missviz
from missviz.adapters.base import Method
from missviz.experiments import tasks
from missviz.experiments.ensemble import Engine
from missviz.files import write_whole
from missviz.machine import one_thread

AnswerT = TypeVar("AnswerT")
Result = dict[str, Any]
"""What a chunk gives: arrays and numbers, that pickle takes."""


class Piece(Protocol):
    """A piece of work that is done, and kept, as a whole: one ensemble. `str` says which."""

    @property
    def name(self) -> str:
        """Of the cell that it is from."""

    @property
    def device(self) -> str: ...

    @property
    def key(self) -> object:
        """All that its result depends on beside missviz, as plain values."""

    @property
    def defined_in(self) -> tuple[str, ...]:
        """The modules with the code that it runs."""


@dataclass(frozen=True)
class Chunk:
    """Members of `no_free_lunch`. Plain settings only: it is a key on disk, and travels."""

    protocol: tasks.Protocol
    method: Method
    members: tuple[tuple[int, float], ...]
    """(seed, learning rate), those of one rate side by side."""
    target_name: str
    target: tasks.Target | None
    dtype: torch.dtype
    device: str
    engine: Engine

    @property
    def name(self) -> str:
        return f"{self.method.name} ({self.target_name})"

    @property
    def key(self) -> object:
        return self

    @property
    def defined_in(self) -> tuple[str, ...]:
        return type(self.method).__module__, getattr(self.target, "__module__", "missviz.")

    def __str__(self) -> str:
        seeds, rates = (sorted(set(values)) for values in zip(*self.members, strict=True))
        at = ", ".join(f"{rate:.3g}" for rate in rates)
        return f"{self.name}, seeds {seeds[0]} to {seeds[-1]}, rate {at}"


Cell = Generator[Sequence[Piece], list[Result], AnswerT]
"""A part of an experiment, written as if its chunks ran at once: `results = yield chunks` asks for
some, and what it returns is its answer. While it waits, others are at work."""


@dataclass
class _Request:
    """The chunks that a cell waits for, and the results that are there."""

    cell: int
    chunks: Sequence[Piece]
    results: list[Result | None]

    @property
    def answer(self) -> list[Result] | None:
        """All results, once they are there."""
        there = [result for result in self.results if result is not None]
        return there if len(there) == len(self.chunks) else None


def run_cells(
    cells: Sequence[Cell[AnswerT]],
    work: Callable[[Any], Result],
    executor: Executor,
    kept: "Kept",
    bar: "tqdm[Any]",
) -> list[AnswerT]:
    """Run cells to their ends, side by side as far as the executor goes.

    Args:
        cells: what asks for chunks.
        work: what makes a chunk's result; a function of a module, so that workers find it.
        executor: stays open.
        kept: where finished chunks are looked up and put.
        bar: counts chunks.

    Returns the cells' answers, in their order.

    Raises what a chunk or a cell raises, or KeyboardInterrupt. Chunks that have not begun are then
    cancelled; those that cannot be cancelled are waited for, and kept.
    """
    stays_here = isinstance(executor, ThreadPoolExecutor)
    answers: dict[int, AnswerT] = {}
    pending: dict[Future[Result], tuple[_Request, int]] = {}
    finished: SimpleQueue[Future[Result]] = SimpleQueue()

    def go_on(cell: int, results: list[Result] | None) -> None:
        try:
            chunks = next(cells[cell]) if results is None else cells[cell].send(results)
        except StopIteration as end:
            answers[cell] = end.value
            return
        request = _Request(cell, chunks, [kept.find(chunk) for chunk in chunks])
        bar.update(len(chunks) - request.results.count(None))
        for place, chunk in enumerate(chunks):
            if request.results[place] is None:
                sent = chunk if stays_here else _pack(chunk)
                future = executor.submit(_run_alike, work, sent, fingerprint())
                pending[future] = request, place
                future.add_done_callback(finished.put)
        if request.answer is not None:
            go_on(cell, request.answer)

    try:
        for cell in range(len(cells)):
            go_on(cell, None)
        while pending:
            future = finished.get()
            request, place = pending[future]
            chunk = request.chunks[place]
            try:
                result = future.result()
            except Exception as error:
                error.add_note(f"This was {chunk}.")
                raise
            kept.keep(chunk, result)
            del pending[future]
            bar.update()
            request.results[place] = result
            if request.answer is not None:
                go_on(request.cell, request.answer)
    except BaseException:
        running = [future for future in pending if not future.cancel()]
        wait(running)
        for future in running:
            if future.exception() is None:
                request, place = pending[future]
                kept.keep(request.chunks[place], future.result())
        raise
    return [answers[cell] for cell in range(len(cells))]


# --- At the worker ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    """A chunk as it travels: with the code of a Method or target that a notebook defines.

    Plain pickle, which ProcessPoolExecutor uses, would send no more than the name of such code.
    """

    packed: bytes
    common: tuple[bytes, ...]
    """What is the same in many chunks, such as a network: in memory once here, however many wait.
    """
    ticket: str
    """Unlike any other; else Dask, asked for a chunk that failed before, gives that failure again.
    """


def _pack(chunk: Piece) -> Parcel:
    common: list[bytes] = []

    def goes_inside(buffer: pickle.PickleBuffer) -> bool:
        whole = memoryview(buffer).obj
        if isinstance(whole, bytes):
            common.append(whole)
            return False
        return True

    try:
        packed = cloudpickle.dumps(chunk, protocol=5, buffer_callback=goes_inside)
    except Exception as error:
        raise TypeError(f"{chunk.name} cannot be sent to another process: {error}") from error
    return Parcel(packed, tuple(common), uuid.uuid4().hex)


def _run_alike(work: Callable[[Any], Result], sent: Piece | Parcel, code: str) -> Result:
    """A chunk's result, the same to the last bit whichever worker it comes from."""
    if code != fingerprint():
        raise RuntimeError(
            f"a worker runs other code (missviz {missviz.__version__}, torch {torch.__version__}) "
            "than the process that started the sweep; install the same on both"
        )
    chunk: Piece = _unpacked(sent) if isinstance(sent, Parcel) else sent
    return run_here(work, chunk)


def _unpacked(parcel: Parcel) -> Piece:
    chunk: Piece = cloudpickle.loads(parcel.packed, buffers=parcel.common)
    return chunk


def run_here(work: Callable[[Any], Result], chunk: Piece) -> Result:
    """A chunk's result, here and now, the same to the last bit however many cores there are."""
    with one_thread() if chunk.device == "cpu" else nullcontext():
        return work(chunk)


@functools.cache
def fingerprint() -> str:
    """A hash of the code and library that a result depends on."""
    package = Path(missviz.__file__).parent
    digest = hashlib.blake2b(torch.__version__.encode())
    for sources in ("adapters/*.py", "experiments/**/*.py", "*.py"):
        for source in sorted(package.glob(sources)):
            digest.update(source.read_bytes())
    return digest.hexdigest()


# --- What is kept -----------------------------------------------------------------------------


class Kept:
    """Results of finished chunks in `folder`, a file each; None keeps nothing.

    Methods and targets that missviz does not define are not kept: their code may change. Files are
    read by pickle, which runs what is in them: not for a folder of somebody else's.

    Raises TypeError or OSError where there can be no such folder.
    """

    def __init__(self, folder: str | Path | None) -> None:
        if not isinstance(folder, str | Path | None):
            raise TypeError(f"cache={folder!r} is not a folder")
        self._folder = None if folder is None else Path(folder)
        self._has_warned = False
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def find(self, chunk: Piece) -> Result | None:
        """The kept result of `chunk`, by this code; None where there is none that can be read."""
        path = self._path(chunk)
        if path is None:
            return None
        try:
            result: Result = pickle.loads(path.read_bytes())
        except Exception:  # a damaged pickle raises nearly anything
            return None
        return result

    def keep(self, chunk: Piece, result: Result) -> None:
        """Write `result`, whole or not at all. On a full disk warn, once: it is still in memory,
        and the sweep is worth more than its copy."""
        path = self._path(chunk)
        if path is None:
            return
        try:
            write_whole(path, pickle.dumps(result))
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                reason = error.strerror or error
                warnings.warn(
                    f"finished chunks cannot be kept in {self._folder} ({reason}); the sweep goes "
                    "on, but if it is interrupted, they are run again",
                    UserWarning,
                    stacklevel=4,
                )

    def _path(self, chunk: Piece) -> Path | None:
        ours = all(module.startswith("missviz.") for module in chunk.defined_in)
        if self._folder is None or not ours:
            return None
        return self._folder / f"{joblib.hash((chunk.key, fingerprint()))}.pickle"

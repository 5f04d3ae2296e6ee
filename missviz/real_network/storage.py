"""What the parts gave, kept in the package: tables, and what they depend on."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from missviz.adapters import validation
from missviz.experiments.runs import Runs
from missviz.files import write_whole
from missviz.machine import conditions
from missviz.provenance import code_behind
from missviz.real_network.parts import PARTS

FOLDER = Path(__file__).parent / "stored"
PARTS_FILE = Path(__file__).with_name("parts.py")
DIGITS = 6
"""Of stored figures."""


def stored_parts() -> list[str]:
    """Names of the parts whose runs ship with missviz."""
    return sorted(path.parent.name for path in FOLDER.glob("*/settings.json"))


def stored(part: str) -> Runs:
    """The runs of a part as they ship: `settings["made"]` says when, where and by which commit, and
    how many seconds one core took. Of training losses only those at evaluated steps are kept.

    Raises ValueError where nothing is stored under that name.
    """
    validation.one_of("part", part, tuple(stored_parts()))
    return Runs.load(FOLDER / part)


def made(runs: Runs, device: str) -> dict[str, Any]:
    """Where, when and by which code `runs` were made, and the seconds that training took, by one
    core: those of the figures, and those for choosing rates."""
    seconds = runs.losses.drop_duplicates(["method", "seed"])[["init_seconds", "train_seconds"]]
    tuning = 0.0 if runs.tuning is None else float(runs.tuning["seconds"].sum())
    return {
        "seconds": round(float(seconds.to_numpy().sum())),
        "tuning_seconds": round(tuning),
        "code": code_behind(PARTS_FILE),
        **conditions(device, ("transformers",)),
    }


def store(runs: Runs, part: str) -> None:
    """Keep `runs` in the package, in as few bytes as their figures need."""
    folder = FOLDER / part
    steps = runs.losses.loc[runs.losses["split"] == "valid", "step"].unique()
    on_train = runs.losses["split"] == "train"
    thin = replace(runs, losses=runs.losses[~on_train | runs.losses["step"].isin(steps)])
    tables = {"losses": thin.losses, "baselines": thin.baselines, "tuning": thin.tuning}
    for name, table in tables.items():
        if table is not None:
            write_whole(folder / f"{name}.csv.gz", _packed(table))
    if runs.notes:
        write_whole(folder / "notes.txt", "\n".join(runs.notes) + "\n")
    settings = json.dumps(runs.settings, indent=2, ensure_ascii=False)
    write_whole(folder / "settings.json", settings + "\n")


def store_all(found: str | Path) -> list[str]:
    """Keep what `missviz reproduce real-network --out FOUND` wrote; the names of its parts."""
    names = [name for name in PARTS if (Path(found) / name / "settings.json").exists()]
    for name in names:
        store(Runs.load(Path(found) / name), name)
    return names


def _packed(table: pd.DataFrame) -> bytes:
    text = table.to_csv(index=False, float_format=f"%.{DIGITS}g")
    return gzip.compress(text.encode(), mtime=0)  # the same table gives the same bytes

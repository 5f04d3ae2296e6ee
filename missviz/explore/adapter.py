"""What training changed: choose a module and a control, see the map of ΔW and two spectra."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import nn

from missviz.adapters.update import Update
from missviz.analysis.comparison import random_like
from missviz.analysis.inspection import Base, inspect_adapter
from missviz.analysis.products import Updates, named_updates
from missviz.displays.adapter import AdapterDisplay, Limits
from missviz.explore.panel import Panel
from missviz.explore.weights import Name

NONE = "none"
RANDOM = "same-norm random"


def adapter(
    updates: Updates,
    controls: Mapping[str, Mapping[str, Update] | nn.Module] | None = None,
    module: str | None = None,
    control: str = RANDOM,
    *,
    base: Base | None = None,
    reveal: bool = True,
) -> Panel:
    """‖ΔW‖/‖W₀‖ of every module of an adapter, and the spectrum of one beside a control's.

    Controls: module, control. All numbers are taken when the panel is made.

    Args:
        updates: updates by module name, such as `missviz.read_peft(folder)`, or an attached model.
        controls: other adapters on the same layers, by the name that is shown: {"untrained": ...,
            "random labels": ...}. "same-norm random" (see `random_like`) and "none" are always
            there.
        module: whose spectrum; None means the one with the largest cell in the map.
        control: beside which spectrum.
        base: what has W₀, as in `missviz.inspect_adapter`.
        reveal: False hides the outcome.

    Raises as `missviz.inspect_adapter`; ValueError also where a control lacks a module, or nothing
    in `updates` could be measured.
    """
    named = named_updates("updates", updates)
    table = inspect_adapter(named, base)
    known = table[table["norm"].notna()]
    if known.empty:
        raise ValueError(f"updates: nothing could be measured; {table['warnings'][0][-1]}")
    tables: dict[str, pd.DataFrame | None] = {NONE: None}
    measured = {name: named[name] for name in known["module"]}
    tables[RANDOM] = inspect_adapter(random_like(measured))
    if not isinstance(controls, Mapping | None):
        raise TypeError(
            f"controls of type {type(controls).__name__}; give adapters by name, such as "
            '{"untrained": adapter}'
        )
    for name, other in (controls or {}).items():
        if name in tables:
            raise ValueError(f"controls: {name!r} is there already; give yours another name")
        compared = inspect_adapter(named_updates(f"controls[{name!r}]", other), base)
        missing = set(measured) - set(compared["module"])
        if missing:
            raise ValueError(f"controls: {name!r} has no module {min(missing)!r}")
        tables[name] = compared
    limits = Limits.of(table, *(other for other in tables.values() if other is not None))

    def display(module: str, control: str) -> AdapterDisplay:
        return AdapterDisplay(
            table, [module], control=tables[control], control_name=control, limits=limits
        )

    fixed: dict[str, Any] = {"updates": Name("updates")}
    fixed |= {"controls": Name("controls")} if controls else {}
    fixed |= {"base": Name("base")} if base is not None else {}
    largest = known["relative_norm"].fillna(known["norm"]).idxmax()
    return Panel(
        "adapter",
        display,
        {"module": list(measured), "control": list(tables)},
        {"module": known["module"][largest] if module is None else module, "control": control},
        fixed=fixed,
        reveal=reveal,
    )

"""The command line: `missviz lab`, `inspect`, `reproduce`, `lecture` and `bench`."""

import os
import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import missviz

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="See how parameter-efficient fine-tuning works.",
)


@app.callback()
def main() -> None:
    """See how parameter-efficient fine-tuning works."""


class Experiment(StrEnum):
    no_free_lunch = "no-free-lunch"
    real_network = "real-network"


class ProtocolName(StrEnum):
    published = "published"
    controlled = "controlled"
    teacher = "teacher"


def given_path(value: str | Path) -> Path:
    """A usage error for '', which would mean the current folder."""
    if not str(value).strip():
        raise typer.BadParameter("the path is empty; '.' is the current folder")
    return Path(value)


# --- lab --------------------------------------------------------------------------------------


def lessons_folder() -> Path:
    """Where the lessons are: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(missviz.__file__).parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if any(folder.glob("0*.ipynb")):
            return folder
    raise FileNotFoundError("the lessons are missing from this installation; reinstall missviz")


def copy_lessons(source: Path, folder: Path) -> list[Path]:
    """Copy the lessons into `folder`; a file that is there already is never touched.

    Returns the files that were there with other contents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for lesson in sorted(source.glob("0*.ipynb")):
        copy = folder / lesson.name
        if not copy.exists():
            temporary = copy.with_name(copy.name + ".part")
            shutil.copyfile(lesson, temporary)
            temporary.replace(copy)
        elif copy.read_bytes() != lesson.read_bytes():
            kept.append(copy)
    return kept


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(help="Work in this folder [default: ./missviz-lessons, or a checkout's own]."),
    ] = None,
) -> None:
    """Open JupyterLab on the lessons. Further options go to JupyterLab, such as --no-browser."""
    source = lessons_folder()
    checkout = source.parent / "pyproject.toml"
    if folder is None and checkout.exists():
        folder = source
    else:
        folder = folder or Path("missviz-lessons")
        for kept in copy_lessons(source, folder):
            typer.echo(f"Kept your {kept}; delete it to get the original back.")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    typer.echo(
        f"Lessons in {folder.resolve()}; start with 00_start_here.ipynb. Ctrl-C ends JupyterLab."
    )
    try:
        raise typer.Exit(subprocess.call([*command, *context.args]))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


# --- inspect ----------------------------------------------------------------------------------


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="An adapter as Hugging Face PEFT saves it.")],
    base: Annotated[
        Path | None,
        typer.Option(help="Safetensors of the model that it was trained on: a file or a folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all digits.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            "--html", parser=given_path, help="Also write a page with pictures to this file."
        ),
    ] = None,
) -> None:
    """What training changed: size, rank and shards of an adapter's update, module by module.

    The folder need not be trusted: only safetensors are read, and nothing in it is run.
    """
    from missviz.analysis.inspection import inspect_adapter
    from missviz.displays.adapter import AdapterDisplay
    from missviz.explore import report
    from missviz.peft_folder import read_peft

    try:
        adapter = read_peft(folder, base)
        table = inspect_adapter(adapter)
        if page is not None:
            title = f"{folder.resolve().name}: {adapter.method}"
            report.write_report(page, title, adapter.warnings, table, [AdapterDisplay(table)])
    except (ValueError, TypeError, OSError) as error:
        typer.echo(f"missviz: {report.printable(error)}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(report.to_json(adapter.method, adapter.warnings, table))
        return
    trained = int(table["num_parameters"].sum())
    typer.echo(f"{adapter.method}: {len(table)} modules, {trained} trained numbers")
    for warning in adapter.warnings:
        typer.echo(report.printable(f"! {warning}"))
    typer.echo(report.shown_table(table).to_string(index=False))
    if page is not None:
        typer.echo(f"Written to {page}.")


# --- reproduce --------------------------------------------------------------------------------


@app.command()
def reproduce(
    experiment: Experiment,
    seeds: Annotated[
        int | None, typer.Option(help="How many seeds, from 43 on [default: 10, or the part's].")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            help="Folder for tables, figures and settings [default: ./EXPERIMENT-results].",
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(help="no-free-lunch: how it is run [default: published]."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="real-network: which part; can be given again [default: all]."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Adaptation steps, if not the experiment's.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda [default: a GPU if any].")] = None,
) -> None:
    """Run an experiment without a notebook, and write what it found.

    \b
    no-free-lunch  the MiSS paper's Figure 2, on a small network: minutes
    real-network   MiniLM-L6, fine-tuned by every method at its best rate, in parts: hours

    Writes losses.csv, summary.csv, baselines.csv, settings.json and figures as SVG and PNG. After
    Ctrl-C the same command goes on from there.
    """
    out = out or Path(f"{experiment.value}-results")
    try:
        if experiment is Experiment.real_network:
            if protocol is not None:
                raise ValueError("--protocol is for no-free-lunch")
            reproduce_real_network(part or [], seeds, out, steps, device)
        else:
            if part:
                raise ValueError("--part is for real-network")
            name = (protocol or ProtocolName.published).value
            reproduce_no_free_lunch(name, 10 if seeds is None else seeds, out, steps, device)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        typer.echo(f"missviz: {error}", err=True)
        raise typer.Exit(2) from None


def reproduce_no_free_lunch(
    protocol: str, seeds: int, out: Path, steps: int | None, device: str | None
) -> None:
    """Method by method, so that what is written is whole after Ctrl-C."""
    from tqdm.auto import tqdm

    from missviz.displays import LunchDisplay, RaceDisplay, TargetsDisplay
    from missviz.displays.base import Display
    from missviz.experiments import Runs, adapter_timings, no_free_lunch
    from missviz.experiments.arguments import default_methods

    finished: list[Runs] = []
    methods = default_methods(protocol)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tqdm(methods, desc=f"no free lunch, {protocol}", unit="method") as bar:
            for method in bar:
                bar.set_postfix_str(method.name)
                run = no_free_lunch(
                    [method],
                    protocol,  # type: ignore[arg-type]
                    seeds,
                    steps=steps,
                    device=device,
                    cache=str(out / "finished-chunks"),
                )
                finished.append(run)
                runs = Runs.join(finished)
                runs.save(out)
        typer.echo("Timing one layer of each method, for Figure 2's last part.")
        runs = Runs.join([*finished[:-1], finished[-1].with_timings(adapter_timings(methods))])
    except KeyboardInterrupt:
        names = ", ".join(name for run in finished for name in run.settings["methods"])
        typer.echo(f"\nInterrupted. {out} has: {names or 'nothing yet'}. Run it again to go on.")
        raise typer.Exit(130) from None
    runs.save(out)
    figures: dict[str, Display] = {"figure-2": LunchDisplay.from_runs(runs).plot()}
    for split in sorted(set(runs.losses["split"])):
        figures[f"race-{split}"] = RaceDisplay.from_runs(runs, split).plot()
    if protocol == "teacher":
        figures["targets"] = TargetsDisplay.from_runs(runs).plot()
    for name, figure in figures.items():
        figure.save(out / f"{name}.svg")
        figure.save(out / f"{name}.png")
    typer.echo(figures["figure-2"].summary())
    typer.echo(f"Written to {out}.")


def reproduce_real_network(
    names: list[str], seeds: int | None, out: Path, steps: int | None, device: str | None
) -> None:
    """Part by part; finished chunks are kept in `out`."""
    from missviz.adapters import validation
    from missviz.displays.contest import ContestDisplay
    from missviz.experiments.arguments import checked_device
    from missviz.real_network.parts import PARTS
    from missviz.real_network.storage import made

    for name in names:
        validation.one_of("--part", name, tuple(PARTS))
    place = checked_device(device)
    for name in names or PARTS:
        typer.echo(f"{name}: {PARTS[name].question}")
        try:
            runs = PARTS[name].run(
                seeds=seeds,
                steps=steps,
                device=place,
                cache=out / "finished-chunks",
                progress=True,
            )
        except KeyboardInterrupt:
            typer.echo("\nInterrupted; what was finished is kept. Run it again to go on.")
            raise typer.Exit(130) from None
        runs.settings["made"] = made(runs, place)
        runs.save(out / name)
        display = ContestDisplay.from_runs(runs).plot()
        display.save(out / name / "accuracy.svg")
        display.save(out / name / "accuracy.png")
        typer.echo(display.table().to_string())
        for note in runs.notes:
            typer.echo(f"! {note}")
        typer.echo(f"Redone by: missviz reproduce real-network --part {name}")
        typer.echo(f"Written to {out / name}.\n")


# --- claims -----------------------------------------------------------------------------------

ledger = typer.Typer(
    invoke_without_command=True, help="What the papers say, tried here: the ledger of claims."
)
app.add_typer(ledger, name="claims")


@ledger.callback()
def claims(
    context: typer.Context,
    page: Annotated[
        Path | None,
        typer.Option("--html", parser=given_path, help="Write a page with a picture for each."),
    ] = None,
) -> None:
    """What the papers say, tried here: a line for each claim, with its verdict and its date."""
    from missviz.claims.ledger import kept
    from missviz.claims.showing import count, write_page

    if context.invoked_subcommand is not None:
        return
    judged = kept()
    for name, one in judged.items():
        date = one.made.get("date", "")
        stale = ", stale" if one.is_stale else ""
        typer.echo(
            f"{name:24}{one.verdict}  ({date}{stale})" if date else f"{name:24}{one.verdict}"
        )
        typer.echo(f"    {one.claim.claim}")
    typer.echo(count(judged))
    if page is not None:
        write_page(page)
        typer.echo(f"Written to {page}.")


@ledger.command("show")
def show_claim(name: Annotated[str, typer.Argument(help="Which claim, by its id.")]) -> None:
    """All that the ledger knows of one claim."""
    from missviz.adapters import validation
    from missviz.claims.ledger import kept
    from missviz.claims.showing import words

    judged = kept()
    try:
        validation.one_of("claim", name, tuple(judged))
    except ValueError as error:
        typer.echo(f"missviz: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(words(judged[name]))


@ledger.command("run")
def run_claims(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which, by their ids [default: all].")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Leave out what is expected to take longer; not what is named.")
    ] = 60.0,
    everything: Annotated[bool, typer.Option("--all", help="However long it takes.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="How many, from 43 on [default: the claim's own number].")
    ] = None,
    first_seed: Annotated[
        int | None,
        typer.Option(help="Other seeds, as many, from here on; kept beside what is there."),
    ] = None,
    only_stale: Annotated[
        bool, typer.Option("--stale", help="Only what this code has not measured: goes on.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Keep nothing; exit with 1 where a verdict has changed or is overdue."
        ),
    ] = False,
    evidence: Annotated[
        Path | None, typer.Option(parser=given_path, help="Where evidence is kept [default: here].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda [default: a GPU if any].")] = None,
) -> None:
    """Measure claims anew, keep the evidence, and say where a verdict changed."""
    from missviz.claims import ledger

    try:
        changed = ledger.run(
            names or (),
            most_seconds=None if everything or names else seconds,
            stale_only=only_stale,
            seeds=seeds,
            first_seed=first_seed,
            device=device,
            path=evidence,
            keeping=not check,
            say=typer.echo,
        )
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        typer.echo(f"missviz: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\nInterrupted; what was measured is kept. Add --stale to go on.")
        raise typer.Exit(130) from None
    if not check:
        return
    overdue = [] if names else ledger.overdue(evidence)
    for said, found in (("Verdicts that changed", changed), ("Overdue after a change", overdue)):
        if found:
            typer.echo(f"{said}: {', '.join(found)}")
    if changed or overdue:
        raise typer.Exit(1)


# --- lecture ----------------------------------------------------------------------------------

LINES = """What to type in a notebook, after `import missviz as mv`:

  mv.lecture(dark=True)            projector scale; mv.lecture(False) undoes
  mv.gallery()                     every panel as a thumbnail with its line of code
  p = mv.explore.reach(reveal=False); p.reveal()
  p.pin("r = 4")                   keeps the present state as a grey ghost
  p.save("slide.svg", rank=8)      p.save_steps("slides/", rank=[1, 2, 4, 8])
  p.to_html("page.html")           a page with working controls, no kernel, no network

`missviz lecture --check` draws every panel once and prints seconds."""


@app.command()
def lecture(
    check: Annotated[
        bool, typer.Option("--check", help="Draw every panel once and print seconds.")
    ] = False,
) -> None:
    """Is everything ready for the lecture hall? Needs no network."""
    if not check:
        typer.echo(LINES)
        return
    import time

    from missviz import explore
    from missviz.explore.gallery import PANELS

    failed = 0
    for name in PANELS:
        started = time.perf_counter()
        try:
            panel = getattr(explore, name)()
        except Exception as error:
            failed += 1
            typer.echo(f"{name:16} failed: {type(error).__name__}: {error}")
        else:
            typer.echo(f"{name:16} {time.perf_counter() - started:5.1f} s   {panel.state}")
    if failed:
        raise typer.Exit(1)


# --- bench ------------------------------------------------------------------------------------


class Part(StrEnum):
    no_free_lunch = "no-free-lunch"
    adapters = "adapters"
    spectra = "spectra"
    init = "init"
    fine_tune = "fine-tune"
    panels = "panels"


@app.command()
def bench(
    part: Part,
    seeds: Annotated[
        int, typer.Option(min=1, help="no-free-lunch, fine-tune: runs per method.")
    ] = 32,
    rounds: Annotated[
        int,
        typer.Option(
            min=1, help="Turns that each side takes (adapters, quick starts: five times as many)."
        ),
    ] = 3,
    presses: Annotated[int, typer.Option(min=1, help="panels: keys pressed in each.")] = 30,
    out: Annotated[
        Path, typer.Option(parser=given_path, help="Folder for the JSON result.")
    ] = Path("benchmarks/results"),
    device: Annotated[str, typer.Option(help="cpu or cuda (not for panels).")] = "cpu",
) -> None:
    """Measure missviz beside its peers, taking turns in one process; print ratios, write JSON.

    \b
    no-free-lunch  many seeds as one ensemble, against a loop over PEFT models
    adapters       a training step, against PEFT's and the frozen layer's
    spectra        mv.spectrum(adapter), against an SVD of the dense ΔW and, for every method with
                   factors, their bare product; mv.spectra and mv.inspect_adapter of a whole model
    init           starting a method on a layer, against PEFT
    fine-tune      a step of members on a transformer, against a loop over PEFT models
    panels         key press to picture in a browser, against ipywidgets.interact
    """
    if device != "cpu":
        import torch

        if not device.startswith("cuda") or not torch.cuda.is_available():
            typer.echo(f"missviz: no device {device!r} here; give cpu or cuda", err=True)
            raise typer.Exit(2)
    try:
        # Before minutes of measuring whose result could not be kept.
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        typer.echo(f"missviz: --out: {error}", err=True)
        raise typer.Exit(2) from None
    if part is Part.panels:
        from missviz.bench import browser, panels

        if reason := browser.missing():
            typer.echo(f"missviz: {reason}", err=True)
            raise typer.Exit(2)
        path = panels.report(panels.compare(presses=presses), out)
    elif part is Part.spectra:
        from missviz.bench import spectra

        path = spectra.report(spectra.compare(device=device, rounds=rounds), out)
    else:
        try:
            from missviz.bench import adapters, fine_tuning, init, no_free_lunch
        except ImportError as error:
            typer.echo(
                f"missviz: {error}. The benchmark needs PEFT: pip install 'missviz[peft]'", err=True
            )
            raise typer.Exit(2) from None
        if part is Part.adapters:
            path = adapters.report(adapters.compare(device=device, rounds=5 * rounds), out)
        elif part is Part.fine_tune:
            result = fine_tuning.compare(seeds=seeds, rounds=rounds, device=device)
            path = fine_tuning.report(result, out)
        elif part is Part.init:
            path = init.report(init.compare(device=device, rounds=rounds), out)
        else:
            result = no_free_lunch.compare(seeds=seeds, rounds=rounds, device=device)
            path = no_free_lunch.report(result, out)
    typer.echo(f"Written to {path}.")


if __name__ == "__main__":
    app()

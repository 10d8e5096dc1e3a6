"""The command line: workbook plan | run | status | report | rewrite.

Whatever goes wrong ends in one line on stderr. Exit codes: 0 done, 1 a step failed, 2 bad input, 130 and 143 stopped by
Ctrl-C and SIGTERM.
"""

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from nbutils.experiment import paths
from nbutils.experiment.params import closest
from nbutils.experiment.redaction import redact

app = typer.Typer(
    help="How far can a rewritten prompt take a frozen LLM, next to fine-tuning that LLM?",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_UsageError = typer.BadParameter.__base__
_Experiment = Annotated[str, typer.Argument(help="an experiment file, or the name of one in params/")]


@app.command()
def plan(
    experiment: _Experiment,
    details: Annotated[bool, typer.Option("--details", help="parameters, models and calls of each step")] = False,
    step: Annotated[str, typer.Option(help="all about this step alone: its name, or cell/name")] = "",
):
    """Show every step with its models, memory and calls, what cannot be used and what is missing. Runs nothing."""
    from nbutils.run import plan

    print(*plan.plan(find(experiment), details, step), sep="\n")


@app.command()
def run(
    experiment: _Experiment,
    until: Annotated[str, typer.Option(help="stop after this step of each cell")] = "",
    cell: Annotated[str, typer.Option(help="only this cell; all: only the steps over all cells")] = "",
    check_servers: Annotated[bool, typer.Option(help="try the hub and each API server before any work")] = True,
):
    """Run what is not done yet, then print the headline table and the report's path."""
    from nbutils.run import runner

    runner.run(find(experiment), until, cell, check_servers)


@app.command()
def status(experiment: _Experiment):
    """Say for each step whether it is done, stale, failed or still to do."""
    from nbutils.run import plan

    print(*plan.status(find(experiment)), sep="\n")


@app.command()
def report(experiment: _Experiment):
    """Write the report again from the files that are there, and print the headline table."""
    from nbutils.experiment.file import read_experiment
    from nbutils.report import assemble

    name = read_experiment(find(experiment)).name
    page = assemble.write_report(name)
    print(*assemble.headline(name), "", f"Report: {paths.shown(page)}", sep="\n")


@app.command()
def rewrite(
    prompt: Annotated[str, typer.Argument(help="what a user would write")],
    experiment: Annotated[str, typer.Option(help="a finished experiment")] = "sandbox",
    arm: Annotated[str, typer.Option(help="nan, untrained, or a trained one such as poir")] = "alignpro",
    cell: Annotated[str, typer.Option(help="one combination of the experiment's grid")] = "main",
):
    """Send one prompt through a trained arm: print the rewrite and the response."""
    from nbutils.evaluate import answering

    if not prompt.strip():
        raise ValueError("the prompt is empty: write what a user would ask, in quotes")
    rewrites, response = answering.rewrite_and_respond(experiment, cell, arm, prompt)
    for text in rewrites:
        print(f"rewrite:  {text}")
    print(f"response: {response}")


pairs = typer.Typer(help="The preference pairs of 01_collect.", no_args_is_help=True)
app.add_typer(pairs, name="pairs")


@pairs.command()
def export(
    experiment: Annotated[str, typer.Argument(help="an experiment whose 01_collect is done")],
    format: Annotated[str, typer.Option(help="jsonl, parquet: with lineage; trl: ready to train; hub")] = "jsonl",
    out: Annotated[str, typer.Option(help="file to write, or the data set's id on the hub")] = "",
    target: Annotated[str, typer.Option(help="for trl: poir, dpo_awi, sft or dpo_awo")] = "poir",
    cell: Annotated[str, typer.Option(help="one combination of the experiment's grid")] = "main",
):
    """Write the pairs for other tools."""
    from nbutils.train.export import export_pairs

    print(export_pairs(experiment, cell, format, out, target))


def find(experiment: str) -> Path:
    """The experiment file meant by a path or by the name of a file in params/. FileNotFoundError names the closest."""
    path, named = Path(experiment), paths.project_root() / "params" / f"{experiment}.yml"
    if path.suffix in (".yml", ".yaml") or path.is_file():
        if path.is_file():
            return path
        known = [str(other) for other in sorted(path.parent.glob("*.yml"))]
        raise FileNotFoundError(f"{experiment} not found: {closest(experiment, known)}")
    if not named.is_file():
        known = sorted(other.stem for other in named.parent.glob("*.yml"))
        raise FileNotFoundError(f"no experiment {experiment!r} in params/: {closest(experiment, known)}")
    return Path(os.path.relpath(named)) if named.is_relative_to(Path.cwd()) else named


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _lose_no_letter()
    try:
        code = app(arguments or ["--help"], standalone_mode=False, prog_name="workbook")
        return _stop("stopped", code) if code else 0  # typer turns Ctrl-C into a code
    except _UsageError as error:
        return _stop(f"{error.format_message()} (workbook --help shows the commands)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _stop("stopped", 130)
    except OSError as error:
        return _stop(paths.reason(error), 2)
    except ValueError as error:
        return _stop(str(error), 2)
    except RuntimeError as error:
        return _failed(error)


def _lose_no_letter() -> None:
    """What a terminal's encoding does not have (ASCII, latin-1), and half a character, is written as \\u03bb."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _failed(error: RuntimeError) -> int:
    """The exit code of a step that failed or was stopped; anything else is our own mistake and keeps its traceback."""
    from nbutils.run.runner import Interrupted, StepFailed

    if isinstance(error, Interrupted):
        return _stop(str(error), 128 + error.number)
    if isinstance(error, StepFailed):
        return _stop(str(error), 1)
    raise error


def _stop(message: str, code: int) -> int:
    print(redact(" ".join(f"workbook: {message}".split())), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

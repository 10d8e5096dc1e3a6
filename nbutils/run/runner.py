"""Runs an experiment: cells × steps, each notebook in a kernel of its own; skips what is done, resumes what is not.

A step is done when its notebook ended without an exception and its manifest verifies. Notebooks run into a scratch file
which is moved to notebook.ipynb, and rendered to notebook.html, whether the step ended well or not. Papermill works in
a second thread, so that signals reach this one, which then ends the kernel and everything that it started.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from nbutils.experiment import paths, steps
from nbutils.experiment.file import Experiment
from nbutils.experiment.grid import PlannedStep, edited_lines
from nbutils.experiment.params import closest
from nbutils.run.kernel import SCRATCH, environment, execute
from nbutils.run.plan import FAILED, journalled, load, state
from nbutils.run.preflight import check_machine, check_writable

_EVERY_SECONDS = 60  # a line in a log file
# Schedulers warn of their time limit by one of the last three.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class StepFailed(RuntimeError):
    """A step did not finish; the message is the one line to show."""


class Interrupted(RuntimeError):
    """A signal ended the run; the message is the one line to show. number: the signal's."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


def run(path: Path, until: str = "", cell: str = "", check_servers: bool = True) -> Path | None:
    """Run an experiment's steps that are not done; returns the report's path if there is one.

    until: last step of each cell; cell: this one only (`all`: only the steps over all cells); check_servers: whether
    the hub and each API server are tried first.
    Raises ValueError and the like before any work, StepFailed or Interrupted in it.
    """
    experiment, planned = load(path)
    chosen = select(planned, until, cell)
    with _locked(experiment), _listening() as received, environment(path.resolve().parent):
        pending = [step for step in chosen if state(step)[0] != "done"]
        for note in (*edited_lines(pending), *check_machine(experiment, pending, planned, check_servers)):
            print(note)
        resume = resume_command(path, until, cell)
        for number, step in enumerate(chosen, start=1):
            _run_step(step, f"[{number}/{len(chosen)}]", resume, received)
        return _finish(experiment, chosen, pending)


def select(planned: list[PlannedStep], until: str, cell: str) -> list[PlannedStep]:
    """The steps that --until and --cell leave. ValueError names the closest step or cell."""
    cells, names = list(dict.fromkeys(s.cell for s in planned)), list(dict.fromkeys(s.id for s in planned))
    if cell and cell not in cells:
        raise ValueError(f"no cell {cell!r} in this experiment: {closest(cell, cells)}")
    if until and until not in names:
        raise ValueError(f"no step {until!r} in this experiment: {closest(until, names)}")
    last = names.index(until) if until else len(names)
    chosen = [step for step in planned if names.index(step.id) <= last and cell in ("", step.cell)]
    if not chosen:
        raise ValueError(f"no step is left by --until {until} --cell {cell}: they exclude each other")
    return chosen


def _finish(experiment: Experiment, chosen: list[PlannedStep], ran: list[PlannedStep]) -> Path | None:
    from nbutils.report import assemble

    if not any(step.once for step in chosen):
        return None
    page = assemble.report_path(experiment.name)
    if ran or not page.exists():
        page = assemble.write_report(experiment.name)
    if not ran:
        print("Everything was done already.")
    print("", *assemble.headline(experiment.name), "", f"Report: {paths.shown(page)}", sep="\n")
    return page


@contextlib.contextmanager
def _locked(experiment: Experiment):
    """One runner per experiment. BlockingIOError names the process that holds it."""
    folder = paths.outputs_root() / experiment.name
    check_writable(folder)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise BlockingIOError(
                f"{experiment.name} is being run by process {holder}: wait for it, or stop it with kill {holder}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def _listening() -> Iterator[list[int]]:
    """A list that receives the numbers of _SIGNALS while the run lasts."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def heard(number: int, _) -> None:
        if not received:  # not print(): this may come in the middle of one
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stdout.fileno(), b"\nstopping: the notebook has three seconds to end\n")
        received.append(number)

    before = {number: signal.signal(number, heard) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- one step


def _run_step(step: PlannedStep, place: str, resume: str, received: list[int]) -> None:
    line = f"{place} {step.cell}/{step.id}"
    kind, _ = state(step)
    if kind == "done":
        _say(f"{line}  done already", last=True)
        _keep_pages(step, resume)
        return
    if received:
        raise _interrupted(step, resume, received)
    started = time.monotonic()
    minutes = [0]

    def say(text: str) -> None:
        now = int((time.monotonic() - started) // _EVERY_SECONDS)
        _say(f"{line}  {text}", every=now > minutes[0])
        minutes[0] = now

    error = execute(step, received, say)
    seconds = time.monotonic() - started
    done, reason = steps.verify(step.folder) if not error else (False, error)
    if done:
        _say(f"{line}  done in {seconds:,.0f} s", last=True)
        _keep_pages(step, resume)
        return
    stopped, outcome = bool(received), "interrupted" if received else "failed"
    reason = outcome if stopped else error or f"the notebook ended, but the step is not done: {reason}"
    _say(f"{line}  {outcome} after {seconds:,.0f} s", last=True)
    where = _keep_failure(step, reason, stopped)
    if stopped:
        raise _interrupted(step, resume, received)
    kept = journalled(step.folder)
    after = f"after {seconds:,.0f} s" + (f" ({kept:,} answers are kept)" if kept else "")
    raise StepFailed(f"{step.cell}/{step.id} ({step.notebook}) failed {after}: {reason}; see {where}; resume: {resume}")


def _interrupted(step: PlannedStep, resume: str, received: list[int]) -> Interrupted:
    name = signal.Signals(received[0]).name
    return Interrupted(f"stopped by {name} in {step.cell}/{step.id}; nothing is lost; resume: {resume}", received[0])


def _keep_pages(step: PlannedStep, resume: str) -> None:
    """The notebook and page of a step that is done. StepFailed if the disk is full: the next run tries again."""
    try:
        _keep_notebook(step, "")
    except ValueError:  # half a notebook, of a disk that was full: what the step made is whole all the same
        (step.folder / SCRATCH).unlink()
        print(f"{step.cell}/{step.id} is done, but its notebook was saved in part only: it has no page")
    except OSError as error:
        why = paths.reason(error)
        raise StepFailed(f"{step.cell}/{step.id} is done, but its page is not: {why}; resume: {resume}") from None


def _keep_notebook(step: PlannedStep, error: str) -> Path | None:
    """Move the executed notebook into place and render it; the page's path, or None if there is no notebook."""
    from nbutils.report import pages

    scratch, notebook, page = (step.folder / name for name in (SCRATCH, "notebook.ipynb", "notebook.html"))
    if scratch.exists():
        pages.redact_notebook(scratch)
        os.replace(scratch, notebook)
    elif not notebook.exists() or page.exists():
        return page if page.exists() else None
    page.unlink(missing_ok=True)
    title = f"{step.experiment} · {step.cell}/{step.id} · {step.notebook}"
    return pages.render_notebook(notebook, page, title, error)


def _keep_failure(step: PlannedStep, reason: str, stopped: bool) -> str:
    """Keep what there is of the notebook, and the reason; where to look."""
    try:
        page = _keep_notebook(step, reason)
        if not stopped:
            paths.write_atomic(step.folder / FAILED, paths.without_places(reason) + "\n")
    except ValueError:
        return f"{paths.relative(step.folder)} (no page: its notebook was saved in part only)"
    except OSError as error:
        return f"{paths.relative(step.folder)} (no page: {paths.reason(error)})"
    return paths.shown(page or step.folder)


def resume_command(path: Path, until: str, cell: str) -> str:
    """The command that carries on, as this user can type it here."""
    command = Path(sys.executable).with_name("workbook")
    if not command.exists():
        words = [sys.executable, "-m", "nbutils.run.cli"]
    elif shutil.which("workbook") == str(command):
        words = ["workbook"]
    else:
        words = [os.path.relpath(command) if command.is_relative_to(Path.cwd()) else str(command)]
    options = [word for name, value in (("--until", until), ("--cell", cell)) if value for word in (name, value)]
    return shlex.join([*words, "run", str(path), *options])


def _say(line: str, last: bool = False, every: bool = False) -> None:
    """The step's one line on a terminal, written over itself; elsewhere its end, and what is due once a minute."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{line[:width]}", end="\n" if last else "", flush=True)
    elif last or every:
        print(line, flush=True)

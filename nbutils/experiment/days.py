"""The day that a chat template may print: a step has one, so that it asks the same when it is resumed on another day.

day.txt in the step's folder holds it, once a template has asked for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path

from nbutils.experiment import paths

FILE = "day.txt"
_begun: list[Path] = []  # the folder of the step that this process works on


def begin(folder: Path | None) -> None:
    """This process works on the step in folder from now on (None: on none)."""
    _begun[:] = [Path(folder)] if folder else []


@contextmanager
def of(folder: Path) -> Iterator[None]:
    """As on the day of the step in folder, which stays as it is."""
    before, kept = list(_begun), Path(folder) / FILE
    begin(folder if kept.exists() else None)
    try:
        yield
    finally:
        _begun[:] = before


def strftime(form: str) -> str:
    """The step's day as chat templates ask for it, strftime_now(form); today's where there is no step."""
    return datetime.combine(_day(), time()).strftime(form)


def _day() -> date:
    today = date.today()
    if not _begun:
        return today
    path = _begun[0] / FILE
    try:
        return date.fromisoformat(path.read_text("utf-8").strip())
    except FileNotFoundError:
        paths.write_atomic(path, f"{today}\n")
        return today
    except ValueError:
        raise ValueError(f"{paths.relative(path)}: wanted a day such as 2026-01-31: correct it or delete it") from None

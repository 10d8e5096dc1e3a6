"""How far a step is, where people look: one output that is updated in place in a notebook, tqdm's bar on a terminal,
and a small file in the step's folder from which the runner and `workbook status` show it."""

import contextlib
import io
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from nbutils.experiment import paths, recording

FILE = ".progress.json"
_EVERY_SECONDS = 1.0
_FRESH_SECONDS = 120.0  # for a step on another machine, whose process cannot be looked at
_WIDTH = 100  # letters of a bar in a notebook
_begun: list[Path] = []  # the folder of the step that this process has opened by hand


@dataclass(frozen=True)
class Progress:
    """Where a step stands: process and machine, and its bar, if one is going (label, done, total, rate per second)."""

    pid: int
    started: float  # of the process, seconds since the epoch: numbers of processes come again
    host: str
    label: str = ""
    done: float = 0
    total: float | None = None
    rate: float | None = None
    note: str = ""

    def __str__(self):
        if not self.label:
            return ""
        count = f"{self.label} {self.done:,.0f}" + (f"/{self.total:,.0f}" if self.total else "")
        speed, left = [], []
        if self.rate:
            speed = [f"{self.rate:,.1f}/s" if self.rate >= 1 else f"{1 / self.rate:,.1f} s each"]
            left = [f"{tqdm.format_interval((self.total - self.done) / self.rate)} left"] if self.total else []
        return " · ".join([count, *speed, *left, *filter(None, [self.note])])


def begin(folder: Path | None) -> None:
    """This process works on the step in folder from now on (None: on none). A runner says so by $WORKBOOK_PROGRESS."""
    _begun[:] = [Path(folder)] if folder else []


def _file() -> Path | None:
    given = os.environ.get("WORKBOOK_PROGRESS")
    return Path(given) / FILE if given else _begun[0] / FILE if _begun else None


def here(**bar) -> Progress:
    """This process, with a bar's numbers."""
    return Progress(os.getpid(), _started(os.getpid()) or 0.0, socket.gethostname(), **bar)


def write(folder: Path, progress: Progress) -> None:
    """Leave it in the step's folder. A full disk is no reason to stop."""
    with contextlib.suppress(OSError):
        paths.write_atomic(Path(folder) / FILE, json.dumps(asdict(progress)) + "\n")


def clear(folder: Path) -> None:
    (Path(folder) / FILE).unlink(missing_ok=True)


def read(folder: Path) -> Progress | None:
    """What a process that is still there has left in a step's folder; else None."""
    file = Path(folder) / FILE
    try:
        found = Progress(**json.loads(file.read_text("utf-8")))
        age = time.time() - file.stat().st_mtime
    except (OSError, ValueError, TypeError):
        return None
    if found.host != socket.gethostname():
        return found if age < _FRESH_SECONDS else None
    return found if _started(found.pid) == found.started else None


def _started(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


class Bar(tqdm):
    """tqdm's bar with the above. label: its name, None for no bar at all; file: where it goes outside a notebook.

    One that is opened `with` another one open is a note beside that one: a step's own bar stays in sight.
    """

    monitor_interval = 0  # no thread
    _outermost: ClassVar["Bar | None"] = None  # the first `with`

    def __init__(self, total: int, label: str | None, initial: int = 0, file=None):
        self._shown, self._shown_at, self._moved = 0.0, -1, True
        self._beside = Bar._outermost if label is not None else None
        self._handle, self._closing = None, False
        self._in_notebook = recording.shell() is not None
        super().__init__(
            total=total,
            initial=initial,
            desc=label,
            disable=label is None,
            mininterval=_EVERY_SECONDS,
            miniters=1,
            file=io.StringIO() if self._in_notebook or self._beside else file,
            ncols=_WIDTH if self._in_notebook else None,
            ascii=False if self._in_notebook else None,
        )

    def __enter__(self):
        if Bar._outermost is None and not self.disable:
            Bar._outermost = self
        return super().__enter__()

    def display(self, msg=None, pos=None):
        """Show it, where that is: called by tqdm."""
        if self._beside:
            return self._beside.set_postfix_str(str(self._numbers()))
        if due := self._is_due():
            self._keep()
        if not self._in_notebook:
            return super().display(msg, pos)
        if due or self._handle is None:
            self._update({"text/plain": str(self)})

    def _is_due(self) -> bool:
        """Once a second; at once where the bar moves just after a note beside it was shown, and at its end."""
        now, moves = time.monotonic(), self.n != self._shown_at
        if not self._closing and now - self._shown < _EVERY_SECONDS and (self._moved or not moves):
            return False
        self._shown, self._shown_at, self._moved = now, self.n, moves
        return True

    def _update(self, content: dict) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def _keep(self) -> None:
        """Write the progress file."""
        file, known = _file(), self.format_dict
        if file is None or self._closing:
            return
        rate = known["rate"] or ((self.n - self.initial) / known["elapsed"] if known["elapsed"] else None)
        write(file.parent, replace(self._numbers(), rate=rate))

    def _numbers(self) -> Progress:
        return here(label=self.desc.removesuffix(": "), done=self.n, total=self.total, note=self.postfix or "")

    def close(self):
        """The end: shown once more; what comes next has no bar yet."""
        if Bar._outermost is self:
            Bar._outermost = None
        if not self.disable and not self._beside and (file := _file()):
            write(file.parent, here()) if os.environ.get("WORKBOOK_PROGRESS") else clear(file.parent)
        self._closing = True
        super().close()

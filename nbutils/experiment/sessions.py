"""How long a step has taken over all its sessions: one that was killed counts until its last sign of life.

sessions.json in the step's folder has a row for each opening since the step was last done: when it started and, once
the next one opens, how long it is known to have worked. The signs are the times at which the journal was last written
to and a checkpoint was complete; nothing has to be written while a session works.
"""

import json
import time
from pathlib import Path

from nbutils.experiment import paths

_SIGNS = ("journal.jsonl", "checkpoints/*/checkpoint-*/complete")
_APART = 60.0  # seconds from a session's start at which the file that notes it may have been written


def begin(folder: Path) -> float:
    """Note that a session starts now, and how long the one before it worked; returns the start, in Unix seconds."""
    started, rows = time.time(), _read(folder)
    rows = [] if any(row.get("done") for row in rows) else rows
    if rows:
        rows[-1]["seconds"] = _worked(folder, rows[-1]["started"])
    _write(folder, [*rows, {"started": started, "seconds": 0.0}])
    return started


def end(folder: Path, started: float) -> tuple[float, int]:
    """(seconds, sessions that worked) of the step, the one that began at `started` and ends now included."""
    earlier = [row for row in _read(folder) if row["started"] != started]
    rows = [*earlier, {"started": started, "seconds": time.time() - started, "done": True}]
    _write(folder, rows)
    return sum(row["seconds"] for row in rows), sum(row["seconds"] > 0 for row in rows)


def _worked(folder: Path, started: float) -> float:
    """Seconds from the start of the last session to its last sign of life; 0 without one.

    Also 0 for a folder that was copied without its files' times: they would tell when it was copied.
    """
    if abs((folder / "sessions.json").stat().st_mtime - started) > _APART:
        return 0.0
    signs = [path.stat().st_mtime for name in _SIGNS for path in folder.glob(name)]
    return max(0.0, max(signs, default=started) - started)


def _read(folder: Path) -> list[dict]:
    try:
        return json.loads((folder / "sessions.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return []


def _write(folder: Path, rows: list[dict]) -> None:
    paths.write_atomic(folder / "sessions.json", json.dumps(rows) + "\n")

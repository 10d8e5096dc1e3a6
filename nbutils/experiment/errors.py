"""Errors of a notebook that is run by hand: what a user can mend is one line, not a wall of frames.

That is what this library raises on purpose, and an interrupt. Anything else, and any error of the user's own code,
keeps its traceback; so do the runner's notebooks, whose page is read when something is wrong.
"""

import sys
import traceback
from pathlib import Path

from nbutils.experiment import recording

_OURS = Path(__file__).resolve().parents[1]
_USERS = (ValueError, OSError, RuntimeError, FloatingPointError)
_STOPPED = "stopped; nothing is lost: run the cell again to go on"


def show_in_one_line() -> None:
    """From now on, in a notebook that is run by hand."""
    if recording.by_hand():
        recording.shell().set_custom_exc((*_USERS, KeyboardInterrupt), _show)


def one_line(error: BaseException) -> str:
    """What to show of an error in the place of its traceback; "" where the traceback is what helps."""
    if isinstance(error, KeyboardInterrupt):
        return _STOPPED
    frames = traceback.extract_tb(error.__traceback__)
    ours = bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(_OURS)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}  (%tb shows where)" if ours and text else ""


def _show(shell, kind, error, trace, tb_offset=None) -> list[str]:
    line = one_line(error)
    shown = [line] if line else shell.InteractiveTB.structured_traceback(kind, error, trace, tb_offset=tb_offset)
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # what %tb shows
    shell._showtraceback(kind, error, shown)
    return shown

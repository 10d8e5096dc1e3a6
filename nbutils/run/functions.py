"""Functions of one's own (my_judge:judge) are imported before any work, as a kernel will import them: in a process of
their own, so that whatever happens there (a KeyError, an exit, an endless loop) ends in one line here.
"""

import functools
import inspect
import os
import subprocess
import sys
import traceback
from pathlib import Path

from nbutils.experiment import paths
from nbutils.models import references

_SECONDS = 120
_TAKES = {
    "reward": ("a list of prompts and a list of responses", 2),
    "text": ("one list of messages", 1),
}
_MARK, _GOOD = "workbook: ", "good"  # in front of the one line: a module may print too


@functools.cache
def trouble(reference: str, gives: str, code: Path) -> str:
    """One line about a function that cannot be used; "" for one that can.

    gives: reward or text; code: the experiment file's folder.
    """
    packages = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    known = {
        "WORKBOOK_ROOT": str(paths.project_root()),
        "WORKBOOK_CODE": str(code),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": os.pathsep.join(filter(None, packages)),
    }
    command = [sys.executable, "-m", "nbutils.run.functions", reference, gives]
    try:
        done = subprocess.run(
            command,
            cwd=paths.project_root(),
            env=os.environ | known,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{reference!r}: its module is not imported after {_SECONDS} s: nothing may run when it is imported"
    said = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    ended = f"{reference!r}: its module ended the process when it was imported (exit code {done.returncode})"
    return "" if said == [_GOOD] else said[-1] if said else ended


def main(reference: str, gives: str) -> None:
    """The check itself: prints one line."""
    sys.excepthook = functools.partial(_say, reference)
    function = references.load_callable(reference)
    taken, number = _TAKES[gives]
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"{reference!r} is async: wrap it in a function that waits for it")
    try:
        inspect.signature(function).bind(*[[]] * number)
    except TypeError:
        raise ValueError(f"{reference!r} cannot be called with {taken}: change its parameters") from None
    except ValueError:
        pass  # a function written in C tells nothing of its parameters
    print(_MARK + _GOOD, flush=True)


def _say(reference: str, kind, error, trace) -> None:
    """The one line of what went wrong, with the place in the user's own file."""
    text = str(error)
    if kind is not ValueError or not text.startswith(repr(reference)):
        own = [folder.resolve() for folder in (*paths.code_folders(), *_python_path())]
        text = paths.without_places(text.replace(f" ({getattr(error, 'path', None)})", ""))
        files = [frame for frame in traceback.extract_tb(trace) if os.path.isabs(frame.filename)]
        frames = [frame for frame in files if Path(frame.filename).resolve().parent in own]
        where = "".join(f", {Path(frame.filename).name}:{frame.lineno}" for frame in frames[-1:])
        text = f"{reference!r}: {kind.__name__}: {text} (when it was imported{where})"
    print(_MARK + " ".join(text.split()), flush=True)


def _python_path() -> list[Path]:
    return [Path(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One notebook in one kernel: papermill in a second thread, so that signals reach the first, which ends the kernel.

Papermill saves every cell as completed, whatever happened; only its exception tells, and here becomes one line.
"""

import contextlib
import json
import logging
import os
import re
import signal
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from nbutils.experiment import paths, progress, recording
from nbutils.experiment.grid import PlannedStep
from nbutils.experiment.redaction import redact
from nbutils.run.plan import FAILED

SCRATCH = ".running.ipynb"
_LONGEST_REASON = 400
_LONGEST_SOCKET_FOLDER = 80  # bytes; a socket's whole path may have about a hundred


@contextlib.contextmanager
def environment(code: Path):
    """What kernels inherit; their sockets and IPython's files go to a short, private folder that is removed after.

    code: the experiment file's folder, where functions of one's own may lie.
    """
    root, before = paths.project_root(), dict(os.environ)
    packages = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory(prefix="workbook-", ignore_cleanup_errors=True) as folder:
        os.environ.update(
            {
                "WORKBOOK_ROOT": str(root),
                "WORKBOOK_OUTPUTS": str(paths.outputs_root()),
                "WORKBOOK_CODE": str(code),
                "PYTHONPATH": os.pathsep.join(filter(None, packages)),
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
                recording.BATCH: "1",
                "JUPYTER_RUNTIME_DIR": folder,
                "IPYTHONDIR": folder,
                "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel is this environment's, whatever the user has installed
            }
        )
        os.environ.pop("JUPYTER_PATH", None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def execute(step: PlannedStep, received: list[int], say: Callable[[str], None]) -> str:
    """Run a step's notebook in a fresh kernel; "" if it ended well, else what went wrong, on one line.

    received: numbers of signals, filled by the caller's handlers; the first one ends the kernel.
    say: called twice a second with the time, the section of the notebook, and the step's own bar.
    """
    for name in ("manifest.json", FAILED, SCRATCH):
        (step.folder / name).unlink(missing_ok=True)
    at, started, kernels, before = {"cell": ""}, time.monotonic(), set(), _children()
    os.environ["WORKBOOK_PROGRESS"] = str(step.folder)
    progress.write(step.folder, progress.here())
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(_papermill, step, at, received)
    while not future.done() and not received:
        bar = str(progress.read(step.folder) or "")
        say(" · ".join(filter(None, [f"{time.monotonic() - started:,.0f} s", at["cell"], bar])))
        wait([future], timeout=0.5)
        kernels |= _children() - before
    if not future.done():
        _stop_kernel(future, before)
    for pid in kernels:  # a kernel leads a process group: what it started and left behind goes with it
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    pool.shutdown(wait=False)
    progress.clear(step.folder)
    return explain(future.exception()) if future.done() else "the kernel did not end"


def _papermill(step: PlannedStep, at: dict, received: list[int]) -> None:
    """Run the notebook; at["cell"] says where it is. Papermill fills slots in the paths that it gets."""
    import papermill
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what ended a notebook is said once, by the runner
    source = paths.project_root() / "notebooks" / f"{step.notebook}.ipynb"
    sections, number = _sections(source)
    own = {name: step.parameters[name] for name in ("experiment", "cell", "step") if name in step.parameters}

    def on_cell_start(cell, cell_index):
        _unless(received)
        at["cell"] = sections.get(cell.source) or at["cell"] or f"notebook cell {cell_index + 1} of {number}"

    _unless(received)  # a signal may come while papermill is still being imported
    papermill.execute_notebook(
        _without_slots(source),
        _without_slots(step.folder / SCRATCH),
        parameters={**own, **step.changed},
        kernel_name="python3",
        language="python",
        extra_arguments=["--Application.log_level=50"],  # a shutdown is no news
        progress_bar=False,
        cwd=paths.project_root(),
        config=Config({"KernelManager": _connection()}),
        on_cell_start=on_cell_start,
    )


def _sections(notebook: Path) -> tuple[dict[str, str], int]:
    """({code of a cell: the heading above it}, number of cells)."""
    cells, found, heading = json.loads(notebook.read_text("utf-8"))["cells"], {}, ""
    for cell in cells:
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        if cell["cell_type"] == "code":
            found[source] = heading
        elif titles := re.findall(r"^##+ +(.+)$", source, re.MULTILINE):
            heading = titles[-1].strip()
    return found, len(cells)


def _unless(received: list[int]) -> None:
    if received:
        raise RuntimeError(f"stopped by {signal.Signals(received[0]).name}")


def _connection() -> dict:
    """Sockets in the private folder of `environment`; where its path is too long for sockets, ports."""
    folder = os.environ["JUPYTER_RUNTIME_DIR"]
    file = os.path.join(folder, f"{uuid.uuid4().hex[:8]}.json")
    return {"connection_file": file, "transport": "ipc"} if len(folder) < _LONGEST_SOCKET_FOLDER else {}


def _without_slots(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")


def _children() -> set[int]:
    import psutil

    return {child.pid for child in psutil.Process().children()}


def _stop_kernel(future: Future, before: set[int]) -> None:
    """Interrupt the kernels started since, then kill them and all that they started, until the notebook has ended.

    Looked for again each time: a kernel may still be starting when the signal comes. Half a minute at most.
    """
    import psutil

    family: set = set()
    for number, seconds in ((signal.SIGINT, 3.0), *[(signal.SIGKILL, 0.5)] * 54):
        kernels = [child for child in psutil.Process().children() if child.pid not in before]
        with contextlib.suppress(psutil.Error):
            family |= {*kernels, *(one for kernel in kernels for one in kernel.children(recursive=True))}
        _signal(family, number)
        if future in wait([future], timeout=seconds).done:
            break
    _signal(family, signal.SIGKILL)


def _signal(processes, number: int) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def explain(error: BaseException | None) -> str:
    """One line about what ended a notebook; "" for nothing."""
    if error is None:
        return ""
    kind, text = type(error).__name__, str(error)
    if kind == "DeadKernelError":
        return "the kernel died: killed, or out of memory"
    if kind == "PapermillExecutionError":
        said = vars(error)
        kind, text = said["ename"], f"{said['evalue']} (in cell [{said['exec_count']}])"
    text = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(text.split())).rstrip(".")
    return redact(f"{kind}: {text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + ' …'}")

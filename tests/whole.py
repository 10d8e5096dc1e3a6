"""Experiments on the project's own notebooks, run by the command as a process of its own, and kills of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def write(folder, experiment):
    path = folder / f"{experiment['experiment']}.yml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def start(path, outputs, **variables):
    """The runner, with tests/ on its path; variables: of its environment."""
    environment = os.environ | {"WORKBOOK_OUTPUTS": str(outputs), "WORKBOOK_ROOT": str(ROOT)} | variables
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "nbutils.run.cli", "run", str(path)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, **streams)


def run(path, outputs, **variables):
    """(exit code, stdout, stderr) of a whole run."""
    runner = start(path, outputs, **variables)
    said, errors = runner.communicate(timeout=500)
    return runner.returncode, said, errors


def finish(path, outputs):
    code, said, errors = run(path, outputs)
    assert code == 0, errors[-2000:] + said[-2000:]
    return said


def kernel_of(runner):
    """The pid of the runner's kernel, from /proc."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
            command = (entry.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == runner.pid and b"ipykernel" in command:
            return int(entry.parent.name)
    return None


def kill_when(runner, reached, victim):
    """SIGKILL the runner or its kernel once `reached()`; the runner's exit code, or None if it ended before."""
    while runner.poll() is None and not reached():
        time.sleep(0.02)
    if runner.poll() is not None:
        return None
    pid = runner.pid if victim == "runner" else kernel_of(runner)
    if pid is None:
        return None
    os.kill(pid, signal.SIGKILL)
    runner.communicate(timeout=60)
    return runner.returncode


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def checkpoint(folder):
    """Number of the latest complete checkpoint, 0 if there is none."""
    complete = folder.glob("checkpoints/*/checkpoint-*/complete")
    return max((int(path.parent.name.split("-")[1]) for path in complete), default=0)


def kill_in(step, measure, more, victim, path, outputs):
    """Run until `measure(step's folder)` has grown by `more`, then kill; the step is then not done."""
    folder = outputs / path.stem / "main" / step
    before = measure(folder)
    code = kill_when(start(path, outputs), lambda: measure(folder) >= before + more, victim)
    assert code is not None and code != 0, f"{step} ended before its {victim} was killed"
    assert not (folder / "manifest.json").exists()

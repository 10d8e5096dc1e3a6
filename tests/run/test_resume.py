"""kill -9, of the runner or of the kernel, in the middle of every step of the real notebooks: nothing is lost.

One small experiment on the sandbox is run undisturbed; a second one is killed in each of 01 to 04, by turns its runner
and its kernel, and run again until it is done. Their tables must be equal byte for byte. A third uses models that keep
a ledger of every call.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from nbutils.experiment import records

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "experiment": "small",
    "shared": {
        "num_prompts": 32, "num_steps": 6, "prompts_per_step": 2, "save_steps": 2, "batch_size": 16,
        "max_rewrite_tokens": 32, "train_batch_size": 2, "frontier_prompts": 3, "frontier_rewrites": 4,
    },
    "steps": [
        {"notebook": "01_collect", "with": {"num_rounds": 2}},
        {"notebook": "02_train_alignpro", "id": "alignpro", "with": {"num_prompts": 0}},
        {"notebook": "03_train_poir", "id": "poir", "with": {"num_epochs": 3.0}},
        {"notebook": "04_evaluate", "with": {"arms": ["nan", "untrained", "alignpro", "poir"]}},
        {"notebook": "05_plot", "once": True},
    ],
}  # fmt: skip


def write(tmp_path, experiment):
    path = tmp_path / f"{experiment['experiment']}.yml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def start(path, outputs):
    environment = os.environ | {"WORKBOOK_OUTPUTS": str(outputs), "WORKBOOK_ROOT": str(ROOT)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "nbutils.run.cli", "run", str(path)]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(path, outputs):
    runner = start(path, outputs)
    said = runner.communicate(timeout=400)[0]
    assert runner.returncode == 0, said
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
    return max(
        (int(p.parent.name.split("-")[1]) for p in folder.glob("checkpoints/*/checkpoint-*/complete")), default=0
    )


def tables(outputs, name="small"):
    folder = outputs / name / "all" / "plot" / "tables"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_killed_in_the_middle_of_every_step_ends_with_the_tables_of_an_undisturbed_run(tmp_path):
    path, calm, rough = write(tmp_path, SMALL), tmp_path / "calm", tmp_path / "rough"
    finish(path, calm)
    cell = rough / "small" / "main"
    kills = []
    for step, more, victim in (
        ("collect", 20, "runner"),
        ("alignpro", 1, "kernel"),
        ("poir", 1, "runner"),
        ("evaluate", 20, "kernel"),
    ):
        measure = (
            (lambda s=step: checkpoint(cell / s)) if more == 1 else (lambda s=step: lines(cell / s / "journal.jsonl"))
        )
        before = measure()
        runner = start(path, rough)
        code = kill_when(runner, lambda m=measure, b=before, n=more: m() >= b + n, victim)
        kills.append((step, victim, code))
        assert code is not None and code != 0, f"{step} ended before its {victim} was killed: {kills}"
        assert not (cell / step / "manifest.json").exists()
    finish(path, rough)
    assert tables(rough) == tables(calm), kills
    assert finish(path, rough).count("  done already") == 5


LEDGER = {
    "experiment": "ledger",
    "shared": {
        "prompter": "fakes:slow_collector", "responder": "fakes:slow_collector", "reward_model": "fakes:length",
        "judge": "fakes:slow_judge", "batch_size": 4, "num_prompts": 24,
    },
    "steps": [
        {"notebook": "01_collect", "with": {"num_rounds": 1}},
        {"notebook": "04_evaluate", "with": {"arms": ["nan", "untrained"], "gold_reward": ""}},
        {"notebook": "05_plot", "once": True},
    ],
}  # fmt: skip


@pytest.mark.slow
def test_no_journalled_call_is_made_again(tmp_path, monkeypatch):
    """The models write every call into a ledger. Each kill may repeat the one batch that was under way, no more."""
    path, outputs, ledger = write(tmp_path, LEDGER), tmp_path / "rough", tmp_path / "ledger.txt"
    monkeypatch.setenv("WORKBOOK_TEST_LEDGER", str(ledger))
    cell, kills = outputs / "ledger" / "main", 0
    for step, victim in (("collect", "kernel"), ("collect", "runner"), ("evaluate", "runner"), ("evaluate", "kernel")):
        journal = cell / step / "journal.jsonl"
        before = lines(journal)
        known = set(ledger.read_text().split()) if ledger.exists() else set()
        runner = start(path, outputs)
        code = kill_when(runner, lambda j=journal, b=before: lines(j) >= b + 12, victim)
        kills += code is not None
        assert known <= set(ledger.read_text().split())
    finish(path, outputs)
    calls = Counter(ledger.read_text().split())
    again = {call: number for call, number in calls.items() if number > 1}
    assert kills == 4 and sum(number - 1 for number in again.values()) <= kills * LEDGER["shared"]["batch_size"]
    answers = records.read_rows(cell / "evaluate" / "answers.jsonl")
    assert len(answers) == 24 * 2

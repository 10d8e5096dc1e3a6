"""kill -9, of the runner or of the kernel, in the middle of 01 and 02 on real models: nothing is lost.

The experiment is run undisturbed; a second time it is killed in each step, once its runner and once its kernel, and run
again until it is done. What the steps leave must be equal. test_resume_evaluation.py does the same with 03 and 04.
"""

import json

import pytest
from whole import checkpoint, finish, kill_in, lines, write

SMALL = {
    "experiment": "small",
    "shared": {
        "num_prompts": 24, "num_rounds": 1, "num_steps": 6, "prompts_per_step": 2, "save_steps": 2, "batch_size": 8,
        "max_rewrite_tokens": 32, "frontier_prompts": 2, "frontier_rewrites": 4,
    },
    "steps": [{"notebook": "01_collect"}, {"notebook": "02_train_alignpro"}],
}  # fmt: skip


def journal(folder):
    return lines(folder / "journal.jsonl")


def left_by(outputs):
    """Every row file and weight that the two steps leave, without the seconds."""
    rows = {path: path.read_bytes() for step in ("collect", "alignpro") for path in outputs.rglob(f"{step}/*.jsonl")}
    found = {path.name: raw for path, raw in rows.items() if path.stem not in ("journal", "history")}
    (history,) = outputs.rglob("alignpro/history.jsonl")
    found["history"] = [json.loads(line) | {"seconds": None} for line in history.read_text().splitlines()]
    (weights,) = outputs.rglob("alignpro/model/model.safetensors")
    return found | {"weights": weights.read_bytes()}


@pytest.mark.slow
def test_killed_while_collecting_and_while_training_ends_as_an_undisturbed_run(tmp_path):
    path, calm, rough = write(tmp_path, SMALL), tmp_path / "calm", tmp_path / "rough"
    finish(path, calm)
    kill_in("collect", journal, 20, "runner", path, rough)
    kill_in("alignpro", checkpoint, 1, "kernel", path, rough)
    finish(path, rough)
    assert left_by(rough) == left_by(calm)
    assert {"prompts.jsonl", "rounds.jsonl", "pairs.jsonl", "samples.jsonl", "history"} <= set(left_by(calm))
    assert finish(path, rough).count("  done already") == 2

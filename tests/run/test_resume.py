"""kill -9 in the middle of 01 and 03 on real models: nothing is lost. See also test_resume_evaluation.py.

01 and 03 are run undisturbed; a second time the runner is killed while 01 invents, while it criticises and while it
invents once more, its kernel while 03 trains, and both are run again until they are done. What the steps leave must be
equal.
"""

import json

import pytest
from whole import checkpoint, finish, kill_in, write

from nbutils.experiment.steps import read_manifest

SMALL = {
    "experiment": "small",
    "shared": {
        "num_pairs": 20, "num_rounds": 1, "save_steps": 2, "batch_size": 8, "max_rewrite_tokens": 32,
        "num_epochs": 2.0, "train_batch_size": 2,
    },
    "steps": [{"notebook": "01_collect"}, {"notebook": "03_train_poir"}],
}  # fmt: skip


def answers(what):
    """Of a folder, how many answers its journal holds in which a model writes `what`."""

    def count(folder):
        file = folder / "journal.jsonl"
        return file.read_text("utf-8", "replace").count(what) if file.exists() else 0

    return count


invented, criticised = answers("Generated Instruction 1"), answers("Score:")


def left_by(outputs):
    """Every row file and weight of every step, without journals and seconds."""
    cell, found = outputs / "small" / "main", {}
    for path in [*cell.glob("*/*.jsonl"), *cell.glob("*/model/model.safetensors")]:
        if path.stem != "journal":
            found[path.relative_to(cell).as_posix()] = path.read_bytes()
    history = found["poir/history.jsonl"].splitlines()
    return found | {"poir/history.jsonl": [json.loads(line) | {"seconds": None} for line in history]}


@pytest.mark.slow
def test_killed_while_collecting_and_while_training_ends_as_an_undisturbed_run(tmp_path):
    path, calm, rough = write(tmp_path, SMALL), tmp_path / "calm", tmp_path / "rough"
    finish(path, calm)
    kill_in("collect", invented, 3, "runner", path, rough)
    assert criticised(rough / "small/main/collect") == 0
    kill_in("collect", criticised, 5, "kernel", path, rough)
    kill_in("collect", invented, 1, "runner", path, rough)  # the second chunk
    kill_in("poir", checkpoint, 1, "kernel", path, rough)
    finish(path, rough)
    made = {"collect/prompts.jsonl", "collect/rounds.jsonl", "collect/pairs.jsonl", "poir/model/model.safetensors"}
    assert left_by(rough) == left_by(calm) and made <= set(left_by(calm))
    num_sessions = {step: read_manifest(rough / "small" / "main" / step)["sessions"] for step in ("collect", "poir")}
    assert num_sessions == {"collect": 4, "poir": 2}
    assert finish(path, rough).count("  done already") == 2

"""kill -9, of the runner or of the kernel, in the middle of 03 and 04 on real models: the tables are the same bytes."""

import json

import pytest
from whole import checkpoint, finish, kill_in, lines, write

SMALL = {
    "experiment": "small",
    "shared": {"num_prompts": 16, "save_steps": 2, "batch_size": 16, "max_rewrite_tokens": 32, "train_batch_size": 2},
    "steps": [
        {"notebook": "03_train_poir", "id": "poir", "with": {"num_epochs": 2.0}},
        {"notebook": "04_evaluate", "with": {"arms": ["nan", "untrained", "poir"], "num_controls": 4}},
        {"notebook": "05_plot", "once": True},
    ],
}
ANIMALS = ("fox", "wolf", "bear", "cow", "owl", "seal", "pig", "cat")


def journal(folder):
    return lines(folder / "journal.jsonl")


def tables(outputs):
    folder = outputs / "small" / "all" / "plot" / "tables"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_killed_while_training_and_while_evaluating_ends_with_the_tables_of_an_undisturbed_run(tmp_path):
    """The pairs come from a file, so that no collection is needed."""
    told = [(f"tell me about the {each}.", f"describe the {each} in detail.", each) for each in ANIMALS]
    pairs = [{"prompt": x, "optimized_prompt": y, "good_res": f"the {z} eats.", "bad_res": "no."} for x, y, z in told]
    (tmp_path / "rewrites.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    shared = SMALL["shared"] | {"pairs_of": str(tmp_path / "rewrites.jsonl")}
    path, calm, rough = write(tmp_path, SMALL | {"shared": shared}), tmp_path / "calm", tmp_path / "rough"
    finish(path, calm)
    kill_in("poir", checkpoint, 1, "runner", path, rough)
    kill_in("evaluate", journal, 20, "kernel", path, rough)
    finish(path, rough)
    assert tables(rough) == tables(calm) and len(tables(calm)) > 10
    assert finish(path, rough).count("  done already") == 3

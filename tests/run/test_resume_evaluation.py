"""kill -9 in the middle of 02 and 04, on prompts that are hard to carry: nothing is lost, and no text is changed.

The runner is killed while 02 trains, its kernel while 04 asks, and both are run again: the tables are the same bytes as
those of an undisturbed run. The prompts have odd line breaks, half a character, NUL, slots, markup, a megabyte.
"""

import pytest
from hostile import NASTY, write_nasty
from whole import checkpoint, finish, kill_in, lines, write

from nbutils.experiment import records

EXPERIMENT = {
    "experiment": "nasty",
    "shared": {"batch_size": 8, "judge": "fakes:longer", "max_rewrite_tokens": 16, "max_response_tokens": 32},
    "steps": [
        {
            "notebook": "02_train_alignpro",
            "with": {
                "train_on": "dataset", "num_steps": 4, "prompts_per_step": 2, "save_steps": 2, "frontier_prompts": 0,
                "max_prompt_tokens": 64, "long_prompts": "truncate",
            },
        },
        {
            "notebook": "04_evaluate",
            "with": {"arms": ["nan", "untrained", "alignpro"], "num_prompts": 0, "gold_reward": "", "num_controls": 4},
        },
        {"notebook": "05_plot", "once": True},
    ],
}  # fmt: skip


def journal(folder):
    return lines(folder / "journal.jsonl")


def tables(outputs):
    folder = outputs / "nasty" / "all" / "plot" / "tables"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_killed_while_training_and_while_evaluating_ends_with_the_tables_of_an_undisturbed_run(tmp_path):
    named = write_nasty(tmp_path)
    shared = EXPERIMENT["shared"] | {"dataset": named, "prompt_sets": [named]}
    path, calm, rough = write(tmp_path, EXPERIMENT | {"shared": shared}), tmp_path / "calm", tmp_path / "rough"
    finish(path, calm)
    kill_in("alignpro", checkpoint, 1, "runner", path, rough)
    kill_in("evaluate", journal, 12, "kernel", path, rough)
    finish(path, rough)
    assert tables(rough) == tables(calm) and len(tables(calm)) > 10
    assert finish(path, rough).count("  done already") == 3
    carried(calm)


def carried(outputs):
    """Every prompt left 04 as it was read, each with a response or the reason why not; the report is written."""
    answers = records.read_rows(outputs / "nasty" / "main" / "evaluate" / "answers.jsonl", records.Answer)
    wanted = {f"test {text}".strip().replace("\ud800", "\ufffd") for text in NASTY}  # half a character is none
    assert {row.prompt for row in answers} == wanted and len(answers) == 3 * len(wanted)
    assert all(bool(row.response) != bool(row.reason) for row in answers)
    page = (outputs / "nasty" / "all" / "plot" / "report.html").read_text("utf-8")
    assert "<script>alert" not in page

"""Models that keep a ledger of every call: after kills in 01 and 04 no journalled answer is asked for again.

01's seeds are texts that are hard to carry.
"""

import pytest
from hostile import write_nasty
from whole import finish, kill_when, lines, start, write

from nbutils.experiment import records

LEDGER = {
    "experiment": "ledger",
    "shared": {
        "prompter": "fakes:slow_collector", "responder": "fakes:slow_collector", "reward_model": "fakes:length",
        "judge": "fakes:slow_judge", "batch_size": 4, "num_prompts": 24, "max_prompts": 24,
    },
    "steps": [
        {"notebook": "01_collect", "with": {"num_rounds": 1, "num_shots": 2, "min_words": 1}},
        {"notebook": "04_evaluate", "with": {"arms": ["nan", "untrained"], "gold_reward": ""}},
    ],
}  # fmt: skip


@pytest.mark.slow
def test_no_journalled_call_is_made_again(tmp_path, monkeypatch):
    """The models write every call into a ledger. Each kill may repeat the one batch that was under way, no more."""
    shared = LEDGER["shared"] | {"seeds": write_nasty(tmp_path)}
    path, outputs, ledger = write(tmp_path, LEDGER | {"shared": shared}), tmp_path / "rough", tmp_path / "ledger.txt"
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
    made = len(ledger.read_text().split())
    journals = [records.read_rows(cell / step / "journal.jsonl") for step in ("collect", "evaluate")]
    kept = sum(
        "text" in row["value"] for rows in journals for row in rows
    )  # the same words may be asked as two samples
    assert kills == 4 and 0 <= made - kept <= kills * LEDGER["shared"]["batch_size"]
    answers = records.read_rows(cell / "evaluate" / "answers.jsonl")
    assert len(answers) == 24 * 2

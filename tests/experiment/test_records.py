"""Rows that carry any text, and a broken one named by file and line."""

import json

import pytest
from hypothesis import given, strategies as st

from nbutils.experiment import records
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Answer, Prompt

NASTY = [
    "a\u0085b\u2028c\u2029d",
    "\ud800 alone",
    "nul \x00",
    "\u202eright to left",
    "{answer_b} {prompt}",
    "x" * 10**6,
    "\r\n\n",
]


@pytest.mark.parametrize("text", NASTY)
def test_rows_and_journal_carry_any_text(tmp_path, text):
    row = Prompt(records.prompt_id(text), text, "set", source={"text": text})
    assert records.read_rows(records.write_rows(tmp_path / "rows.jsonl", [row, row]), Prompt) == [row, row]
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append("k", {"text": text})
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.get("k") == {"text": text}


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_unicode_round_trips(text):
    assert json.loads(records.dump({"x": text})) == {"x": text}
    assert len(records.prompt_id(text)) == 16


def test_an_answer_of_an_older_file_is_read_and_its_ending_is_not_known(tmp_path):
    row = {"prompt_id": "1", "prompt_set": "s", "prompt": "x", "arm": "nan", "sample": 0, "rewrite": "x"}
    row |= {"rewrites": [], "response": "y", "reward": 0.5, "gold_reward": None, "num_tokens": 3, "reason": None}
    (read,) = records.read_rows(records.write_rows(tmp_path / "answers.jsonl", [row]), Answer)
    assert (read.reward, read.finish, read.rewrites_cut) == (0.5, None, None)


def test_nan_never_becomes_a_value(tmp_path):
    with pytest.raises(ValueError):
        records.write_rows(tmp_path / "x.jsonl", [{"reward": float("nan")}])


def test_broken_row_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt_id": "a", "prompt": "b", "prompt_set": "c"}\n{"prompt": 1}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl:2: not a Prompt row"):
        records.read_rows(path, Prompt)

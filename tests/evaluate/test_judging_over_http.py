"""Judging through a real server: the same verdicts for any number of calls in flight and any order of the rows, read
again without a call when the reading changes."""

import random
from dataclasses import replace

import fakes
import pytest
from server import Server, read_ledger

from nbutils.analyse import tables
from nbutils.evaluate import judging
from nbutils.evaluate.judging import Panel, judge_arms
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Answer
from nbutils.models import api, completions, templates
from nbutils.models.devices import Runtime
from nbutils.models.texts import Sampling

PANEL = Panel(("api:m",), templates.load("judge_pairwise", "paper"), Sampling(0.0, max_new_tokens=32))


@pytest.fixture
def server(tmp_path, monkeypatch):
    completions.refused_by.cache_clear()  # a port may have been another server's
    with Server(fakes.longer, tmp_path / "ledger.txt") as served:
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary0123456789abcdef")
        monkeypatch.setattr(api.random, "uniform", lambda *_: 0.01)
        yield served


def answers(number=25):
    def row(i, arm):
        response = f"{arm} says " + "word " * random.Random(f"{i}{arm}").randint(1, 9)
        return Answer(f"id{i}", "set", f"prompt {i}", arm, 0, "x", [], response, float(len(response)), None, 1)

    return [row(i, arm) for i in range(number) for arm in ("nan", "poir", "sft")]


def judged(path, rows, in_flight):
    with Journal(path) as journal:
        return judge_arms(rows, "nan", replace(PANEL, runtime=Runtime(in_flight)), journal)


def test_calls_in_flight_and_order_change_no_verdict_and_no_table(server, tmp_path):
    rows = answers()
    mixed = random.Random(1).sample(rows, len(rows))
    one, four = judged(tmp_path / "one.jsonl", rows, 1), judged(tmp_path / "four.jsonl", mixed, 4)
    assert sorted(one, key=repr) == sorted(four, key=repr) and len(one) == 2 * 2 * 25
    made = [tables.as_csv(tables.summary(rows, verdicts, "main")) for verdicts in (one, four)]
    assert made[0] == made[1]
    assert len(read_ledger(server.ledger_path)) == 2 * len({outcome for outcome, *_ in read_ledger(server.ledger_path)})


def test_another_reading_of_the_stored_texts_costs_no_call(server, tmp_path, monkeypatch):
    """Texts are stored raw and read anew: a parser's fix changes verdicts, and asks nobody."""
    first = judged(tmp_path / "j.jsonl", answers(), 4)
    billed = server.ledger_path.read_bytes()
    swapped = {"A": "B", "B": "A", "C": "C"}
    real = judging.parse_judgement

    def fixed(name, text, margin=0.0):
        letter, reason = real(name, text, margin)
        return swapped.get(letter), reason

    monkeypatch.setattr(judging, "parse_judgement", fixed)
    again = judged(tmp_path / "j.jsonl", answers(), 4)
    turned = {"win": "lose", "lose": "win", "tie": "tie"}
    assert [row.verdict for row in again] == [turned[row.verdict] for row in first]
    assert server.ledger_path.read_bytes() == billed

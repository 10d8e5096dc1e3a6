"""Paid calls: estimated before the first one, counted from the journal, and never beyond a limit."""

import threading

import pytest

from nbutils.experiment.journal import Journal
from nbutils.models import spending
from nbutils.models.spending import Limits, Spending, SpendLimit

PRICES = {"m": (2.0, 10.0)}


def test_estimate_by_hand():
    """Two calls of 350 and 700 letters are 300 tokens; with 50 written at most each: 300 × 2 + 100 × 10 millionths."""
    found = spending.estimate("api:m", [350, 700], 50, PRICES)
    assert found == spending.Estimate(2, 300, 100, pytest.approx(0.0016))
    assert spending.estimate("api:other", [350], 50, PRICES).usd is None
    assert spending.price("api:m@azure", PRICES, 1e6, 0) == 2.0 and spending.price("api:o@m", PRICES, 1, 1) is None
    said = spending.sentence("api:m", found, Limits(max_calls=9, max_usd=1.5))
    assert said.startswith("api:m: 2 calls, about 300 tokens read and at most 100 written, at most $0.00")
    assert said.endswith("(limit: 9 calls and $1.50)") and "limit: none" in spending.sentence("m", found, Limits())


def test_what_was_spent_is_read_from_the_journal(tmp_path):
    """Four calls: one answered, one refused, two of which no one knows: these count with all that they may cost."""
    records = [
        ("a#attempt1", {"model": "m", "read": 90, "written": 50}),
        ("a#settled1", {"read": 100, "written": 20}),
        ("a", {"prompt_tokens": 100, "num_tokens": 20}),
        ("b#attempt2", {"model": "m", "read": 90, "written": 50}),
        ("b#settled2", {"read": 0, "written": 0}),
        ("b#attempt3", {"model": "m", "read": 90, "written": 50}),
        ("c#attempt4", {"model": "other", "read": 90, "written": 50}),
        ("local", {"num_tokens": 5}),
    ]
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append_many(records)
        spent = Spending(Limits(prices=PRICES), journal)
    assert spent.calls == 4 and spent.usd == pytest.approx((100 * 2 + 20 * 10 + 90 * 2 + 50 * 10) / 1e6)
    assert spent.counts() == {"paid calls": 4, "US dollars at most": 0.0011} and Spending(Limits()).counts() == {}
    unpriced = Spending(Limits())
    unpriced.begin("llama", 10, 10)
    assert unpriced.counts() == {"calls to servers": 1}  # a server of one's own sends no bill
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append_many(
            [("b", {"text": "", "reason": "no text: the server's content filter"}), ("c", {"reason": None})]
        )
        counts = Spending(Limits(prices=PRICES), journal).counts()
    assert counts == {"paid calls": 4, "US dollars at most": 0.0011, "requests that no model answers": 1}
    assert spent.said("api:m") == "4 calls, $0.00" and spent.said("api:other") == "4 calls"


def test_calls_end_at_the_limit_whatever_the_number_of_threads():
    spent, made = Spending(Limits(max_calls=5)), []

    def ask():
        try:
            spent.begin("api:m", 10, 10)
            made.append(1)
        except SpendLimit:
            pass

    threads = [threading.Thread(target=ask) for _ in range(20)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert len(made) == spent.calls == 5
    with pytest.raises(SpendLimit, match="spend limit of 5 calls reached after 5 calls .* raise max_calls"):
        spent.begin("api:m", 10, 10)


def test_dollars_of_calls_in_flight_are_set_aside():
    """A call may cost 20 × 10 millionths for what it writes: two fit in 0.0005, and one more once these cost less."""
    spent = Spending(Limits(max_usd=0.0005, prices=PRICES))
    aside = [spent.begin("api:m", 0, 20) for _ in range(2)]
    with pytest.raises(SpendLimit, match=r"spend limit of \$0.00 reached after 2 calls"):
        spent.begin("api:m", 0, 20)
    for each in aside:
        spent.end("api:m", each, 10, 1)
    assert spent.usd == pytest.approx(2 * (10 * 2 + 10) / 1e6)
    spent.begin("api:m", 0, 20)


def test_a_model_without_a_price_is_not_asked_under_a_limit_in_dollars():
    with pytest.raises(SpendLimit, match="api:other has no price in the prices file"):
        Spending(Limits(max_usd=1.0, prices=PRICES)).begin("api:other", 10, 10)
    Spending(Limits(max_calls=1, prices=PRICES)).begin("api:other", 10, 10)


def test_the_prices_file_is_read_or_is_one_line(tmp_path):
    assert spending.read_limits(3, 0.5, "params/prices.csv").prices["gpt-4o-mini"] == (0.15, 0.6)
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv not found: wanted a csv file"):
        spending.read_limits(0, 0, "nowhere.csv")
    (tmp_path / "odd.csv").write_text("model,input\ngpt-4o,3\n")
    with pytest.raises(ValueError, match="wanted the columns model, read and written"):
        spending.read_limits(0, 0, str(tmp_path / "odd.csv"))

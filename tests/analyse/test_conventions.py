"""One set of verdicts, counted by hand in every convention."""

import math
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from nbutils.analyse import conventions, stats
from nbutils.analyse.conventions import side_by_side
from nbutils.experiment.records import Verdict


def orders(prompt, arm_first, arm_second, sample=0, prompt_set="s", raws=("text", "text")):
    """Both orders of poir against nan, from poir's side; None for an order that is missing."""
    keys = {"prompt_id": prompt, "prompt_set": prompt_set, "arm_a": "poir", "arm_b": "nan", "sample": sample}
    shown = (("poir", arm_first, raws[0]), ("nan", arm_second, raws[1]))
    return [
        keys | {"first_shown": first, "verdict": says, "reason": None, "raw": raw} for first, says, raw in shown if says
    ]


EIGHT = [
    *orders("p1", "win", "win"),
    *orders("p2", "win", "lose"),
    *orders("p3", "tie", "win"),
    *orders("p4", "lose", "lose"),
    *orders("p5", "unscored", "win"),
    *orders("p6", "unscored", "unscored", raws=("", "")),
    *orders("p7", "win", "unscored"),
    *orders("p8", "tie", "tie"),
]


def turned(row):
    return row | {"arm_a": "nan", "arm_b": "poir", "verdict": stats.OPPOSITE[row["verdict"]]}


def counts(table, convention):
    row = table.set_index("convention").loc[convention]
    return tuple(row[["wins", "ties", "losses", "num", "left_out"]]), row


def test_bpo_by_hand():
    """Arm first: win win tie lose ? (nothing) win tie. 7 texts; the one not understood stays in the denominator."""
    found, row = counts(side_by_side(EIGHT, "nan"), "BPO")
    assert found == (3, 2, 1, 7, 1)
    assert (row["win_rate"], row["difference"]) == pytest.approx((3 / 7, 2 / 7))
    assert row[["win_rate_low", "win_rate_high", "standard_error"]].isna().all()


def test_fastchat_by_hand():
    """p1 won, p4 lost, p2 p3 p8 ties, the rest dropped."""
    found, row = counts(side_by_side(EIGHT, "nan"), "FastChat")
    assert found == (1, 3, 1, 5, 3)
    assert (row["win_rate"], row["difference"]) == pytest.approx(((1 + 1.5) / 5, 0))
    assert row[["win_rate_low", "win_rate_high", "standard_error"]].isna().all()


def test_alpaca_eval_by_hand():
    """Preferences 1, 1/2, 3/4, 0, 1, none, 1, 1/2."""
    found, row = counts(side_by_side(EIGHT, "nan"), "AlpacaEval")
    assert found == (4, 2, 1, 7, 1)
    preferences = pd.Series([1, 0.5, 0.75, 0, 1, 1, 0.5])
    assert (row["win_rate"], row["standard_error"]) == pytest.approx((preferences.mean(), preferences.sem()))
    assert row["win_rate"] == pytest.approx(4.75 / 7) and math.isnan(row["win_rate_low"])


def test_ours_by_hand():
    found, row = counts(side_by_side(EIGHT, "nan"), "ours")
    assert found == (1, 3, 1, 5, 3)
    low, high = stats.tango_interval(1, 1, 5)
    expected = (0.5, (1 + low) / 2, (1 + high) / 2)
    assert tuple(row[["win_rate", "win_rate_low", "win_rate_high"]]) == pytest.approx(expected)
    assert math.isnan(row["standard_error"])


def soft(prompt, *preferences):
    """Both orders, or the first alone, with these preferences for poir; the verdicts are what they round to."""
    says = ["tie" if p == 0.5 else "win" if p > 0.5 else "lose" for p in preferences]
    rows = orders(prompt, *says, *[None] * (2 - len(says)))
    return [row | {"preference": p} for row, p in zip(rows, preferences, strict=True)]


SOFT = [*soft("p1", 0.9), *soft("p2", 0.125, 0.375), *soft("p3", 0.5), *soft("p4", 1.0)]


def test_alpaca_eval_is_the_mean_of_preferences_where_verdicts_carry_them():
    """0.9, 0.25 (the mean of its orders), 0.5 and 1: mean 2.65 / 4; squares of the deviations add up to 0.366875."""
    found, row = counts(side_by_side(SOFT, "nan"), "AlpacaEval")
    assert found == (2, 1, 1, 4, 0)
    assert row["win_rate"] == pytest.approx(0.6625)
    assert row["standard_error"] == pytest.approx(math.sqrt(0.366875 / 3 / 4))
    assert row[["win_rate_low", "win_rate_high"]].isna().all()
    hard = [{name: value for name, value in each.items() if name != "preference"} for each in SOFT]
    others = ["BPO", "FastChat", "ours"]
    by_name = [side_by_side(rows, "nan").set_index("convention").loc[others] for rows in (SOFT, hard)]
    pd.testing.assert_frame_equal(*by_name)  # nobody else reads preferences
    assert counts(side_by_side(hard, "nan"), "AlpacaEval")[1]["win_rate"] == pytest.approx(2.5 / 4)


def test_a_verdict_without_a_preference_counts_as_it_is():
    """0.9, and a win: 1."""
    mixed = [*soft("p1", 0.9), *[row | {"preference": None} for row in orders("p2", "win", None)]]
    for rows in (mixed, pd.DataFrame(mixed), [Verdict(**row) for row in mixed]):
        assert counts(side_by_side(rows, "nan"), "AlpacaEval")[1]["win_rate"] == pytest.approx(0.95)


def test_preferences_from_the_other_side_turned_and_repeated():
    turned_rows = [turned(row) | {"preference": 1 - row["preference"]} for row in SOFT]
    expected = side_by_side(SOFT, "nan")
    pd.testing.assert_frame_equal(side_by_side(turned_rows, "nan"), expected)
    pd.testing.assert_frame_equal(side_by_side([*SOFT, *turned_rows], "nan"), expected)
    assert counts(side_by_side(SOFT, "poir"), "AlpacaEval")[1]["win_rate"] == pytest.approx(1 - 0.6625)


@pytest.mark.parametrize("value", [-0.01, 1.01, 2, float("nan"), float("inf"), "0.5", True, [0.5]])
def test_what_is_no_preference_is_one_line_with_its_prompt(value):
    rows = [*soft("p1", 0.9), orders("p2", "win", None)[0] | {"preference": value}]
    with pytest.raises(ValueError, match="prompt p2, poir against nan, sample 0: wanted a preference from 0 to 1") as e:
        side_by_side(rows, "nan")
    assert "\n" not in str(e.value)


def test_preferences_that_contradict_their_row_or_each_other():
    with pytest.raises(ValueError, match="prompt p1, .*: unscored, with a preference of 0.7"):
        side_by_side([orders("p1", "unscored", None)[0] | {"preference": 0.7}], "nan")
    with pytest.raises(ValueError, match="prompt p1, .*: wanted one preference per order, got 0.9 and 0.8"):
        side_by_side(soft("p1", 0.9) + soft("p1", 0.8), "nan")


def test_outcomes_and_ratings_take_no_notice_of_preferences():
    bare = [{name: value for name, value in row.items() if name != "preference"} for row in SOFT]
    assert stats.combine_orders(SOFT) == stats.combine_orders(bare)


def test_a_judge_that_takes_the_first_gives_three_conventions_one_half_and_bpo_all():
    rows = [row for i in range(10) for row in orders(f"p{i}", "win", "lose")]
    table = side_by_side(rows, "nan").set_index("convention")
    assert table["win_rate"].to_dict() == {"BPO": 1.0, "FastChat": 0.5, "AlpacaEval": 0.5, "ours": 0.5}
    assert table.loc["AlpacaEval", "standard_error"] == 0.0


def test_samples_are_items_except_in_ours():
    """p1: two wins and a loss; p2: a loss. Items 2 of 4; prompts (2/3 + 0) of 2."""
    rows = [row for sample, says in enumerate(("win", "win", "lose")) for row in orders("p1", says, says, sample)]
    table = side_by_side(rows + orders("p2", "lose", "lose"), "nan").set_index("convention")
    assert table["win_rate"].to_dict() == pytest.approx({"BPO": 0.5, "FastChat": 0.5, "AlpacaEval": 0.5, "ours": 1 / 3})
    assert list(table["num"]) == [4, 4, 4, 2] and table.loc["ours", "wins"] == pytest.approx(2 / 3)


def test_a_missing_order():
    table = side_by_side(orders("p1", None, "win") + orders("p2", "win", "win"), "nan")
    assert counts(table, "BPO")[0] == (1, 0, 0, 1, 1)
    assert counts(table, "FastChat")[0] == (1, 0, 0, 1, 1)
    assert counts(table, "AlpacaEval")[0] == (2, 0, 0, 2, 0)
    assert counts(table, "ours")[0] == (1, 0, 0, 1, 1)


def test_names_kinds_order_and_repeats_of_rows_do_not_matter():
    expected = side_by_side(EIGHT, "nan")
    mixed = [turned(row) if i % 3 else row for i, row in enumerate(EIGHT + EIGHT[:5])]
    random.Random(0).shuffle(mixed)
    for rows in (mixed, pd.DataFrame(EIGHT), [Verdict(**row) for row in EIGHT]):
        pd.testing.assert_frame_equal(side_by_side(rows, "nan"), expected)


def test_seen_from_the_other_side():
    """Wins become losses; BPO then reads the other order: lose win lose win ... of poir, with nan first."""
    table = side_by_side(EIGHT, "poir")
    assert set(table["arm"]) == {"nan"}
    assert counts(table, "FastChat")[0] == (1, 3, 1, 5, 3) and counts(table, "AlpacaEval")[0] == (1, 2, 4, 7, 1)
    assert counts(table, "BPO")[0] == (2, 1, 3, 7, 1)  # poir, nan first: win lose win lose win – ? tie


def test_without_raw_texts_an_unscored_row_is_a_text_not_understood():
    bare = [{name: value for name, value in row.items() if name != "raw"} for row in EIGHT]
    assert counts(side_by_side(bare, "nan"), "BPO")[0] == (3, 2, 1, 8, 0)


def test_sets_and_arms_apart_and_other_pairs_left_out():
    rows = EIGHT + orders("p9", "win", "win", prompt_set="t")
    rows += [row | {"arm_a": "bpo"} | ({"first_shown": "bpo"} if row["first_shown"] == "poir" else {}) for row in EIGHT]
    rows += [row | {"arm_b": "dpo"} | ({"first_shown": "dpo"} if row["first_shown"] == "nan" else {}) for row in EIGHT]
    table = side_by_side(rows, "nan")
    keys = [("s", "bpo"), ("s", "poir"), ("t", "poir")]
    assert list(zip(table["prompt_set"], table["arm"], strict=True)) == [key for key in keys for _ in range(4)]
    pd.testing.assert_frame_equal(table[4:8].reset_index(drop=True), side_by_side(EIGHT, "nan"))


def test_nothing_judged_nothing_scored_and_bad_rows():
    assert len(side_by_side([], "nan")) == 0 and tuple(side_by_side([], "nan")) == conventions.COLUMNS
    table = side_by_side(orders("p1", "unscored", "unscored", raws=("", "")), "nan")
    assert table["win_rate"].isna().all() and list(table["left_out"]) == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="wanted verdict win, lose, tie or unscored"):
        side_by_side(orders("p1", "A", "win"), "nan")


def test_each_row_says_what_it_does():
    table = side_by_side(EIGHT, "nan")
    assert list(table["reading"]) == [conventions.READINGS[name] for name in table["convention"]]
    for reading in table["reading"]:
        assert "tie" in reading and ("order" in reading) and ("unparsed" in reading or "without a verdict" in reading)


says = st.sampled_from(["win", "tie", "lose", "unscored"])


@given(st.lists(st.tuples(says, says), min_size=1, max_size=12))
def test_counts_add_up_for_any_verdicts(pairs):
    rows = [row for i, pair in enumerate(pairs) for row in orders(f"p{i}", *pair)]
    table = side_by_side(rows, "nan").set_index("convention")
    decided = table["wins"] + table["ties"] + table["losses"]
    assert (table["num"] + table["left_out"] == len(pairs)).all()
    assert (decided[["FastChat", "AlpacaEval", "ours"]] == table["num"][["FastChat", "AlpacaEval", "ours"]]).all()
    unparsed = sum(first == "unscored" for first, _ in pairs)
    assert decided["BPO"] == len(pairs) - unparsed and table.loc["BPO", "num"] == len(pairs)
    ours, fastchat = table.loc["ours", "win_rate"], table.loc["FastChat", "win_rate"]
    assert ours == pytest.approx(fastchat) or np.isnan(ours) and np.isnan(fastchat)

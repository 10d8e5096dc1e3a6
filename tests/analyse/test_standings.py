"""Beyond the raw win rate: equal length, ratings, other conventions, each per prompt set of a cell."""

import math
import random
from dataclasses import asdict

import pytest

from nbutils.analyse import standings, stats
from nbutils.experiment.records import Answer, Verdict

SETS = ("first", "second")


def answer(number, arm, tokens, prompt_set):
    return asdict(Answer(f"id{number}", prompt_set, "p", arm, 0, "p", [], "y", 1.0, None, tokens))


def verdicts(number, arm, other, word, prompt_set):
    return [
        asdict(Verdict(f"id{number}", prompt_set, arm, other, 0, first, word, None, "raw")) for first in (arm, other)
    ]


@pytest.fixture
def evaluation():
    """40 prompts in two sets: poir is longer on every prompt and wins where it is longest; sft is as long as nan."""
    rng, answers, judged = random.Random(0), [], []
    for prompt_set in SETS:
        for i in range(40):
            more = rng.randint(1, 20)
            for arm, tokens in (("nan", 10), ("poir", 10 + more), ("sft", 10)):
                answers.append(answer(i, arm, tokens, prompt_set))
            judged += verdicts(i, "poir", "nan", "win" if more > 8 else "lose", prompt_set)
            judged += verdicts(i, "sft", "nan", rng.choice(["win", "tie", "lose"]), prompt_set)
    return answers, judged


def test_the_raw_rate_is_the_summarys_and_the_controlled_one_sees_through_length(evaluation):
    answers, judged = evaluation
    table = standings.length_controlled(answers, judged, "main").set_index(["prompt_set", "arm"])
    for prompt_set in SETS:
        poir, sft = table.loc[(prompt_set, "poir")], table.loc[(prompt_set, "sft")]
        shares = stats.average_samples(stats.outcomes_against(stats.combine_orders(judged), "nan"))
        of_sft = [row for row in shares if (row["prompt_set"], row["arm_a"]) == (prompt_set, "sft")]
        wanted = stats.win_rate([row["win"] for row in of_sft], [row["lose"] for row in of_sft])
        assert (sft.win_rate, sft.win_rate_low, sft.win_rate_high) == pytest.approx(wanted[:3])
        assert sft.length_controlled == pytest.approx(sft.win_rate, abs=0.02)  # no difference in length to control
        assert poir.length_controlled < 0.35 < 0.5 < poir.win_rate
        assert (poir.num_prompts, sft.mean_length_difference) == (40, 0)


def test_any_order_of_the_rows_gives_the_same(evaluation):
    answers, judged = evaluation
    made = [standings.length_controlled(answers, judged, "c"), standings.rated(judged, "c")]
    again = [standings.length_controlled(answers[::-1], judged[::-1], "c"), standings.rated(judged[::-1], "c")]
    assert all(one.equals(other) for one, other in zip(made, again, strict=True))


def test_ratings_order_the_arms_of_each_set(evaluation):
    table = standings.rated(evaluation[1], "main")
    assert list(table.prompt_set.unique()) == list(SETS) and set(table.arm) == {"nan", "poir", "sft"}
    first = table[table.prompt_set == "first"].set_index("arm")
    assert first.rating.sum() == pytest.approx(0) and math.isnan(first.expected_win_rate["nan"])
    assert first.rating["poir"] > first.rating["nan"] and (first.group == 0).all()


def test_conventions_stand_side_by_side(evaluation):
    table = standings.by_convention(evaluation[1], "main")
    assert len(table) == 2 * 2 * 4 and set(table.convention) == {"BPO", "FastChat", "AlpacaEval", "ours"}
    one = table[(table.prompt_set == "first") & (table.arm == "poir")].set_index("convention")
    assert one.win_rate["ours"] == pytest.approx(one.win_rate["FastChat"])  # no order disagrees, nothing is unread


def test_without_verdicts_every_table_is_empty():
    assert standings.length_controlled([answer(0, "nan", 1, "first")], [], "c").empty
    assert standings.rated([], "c").empty and standings.by_convention([], "c").empty

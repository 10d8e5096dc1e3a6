"""Judge and people: agreement and kappa against printed numbers; the corrected win rate in a made world."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_rows import answer, judged
from test_coverage import coverage, within

from nbutils.analyse import agreement, health, stats
from nbutils.analyse.agreement import OUTCOMES, Labelled
from nbutils.data import labels
from nbutils.experiment.records import Label

NAN = float("nan")
KEYS = {"cell": "main", "prompt_set": "s", "sample": 0, "arm_a": "alignpro", "arm_b": "nan"}
PRINTED = ((0, 4, 1), (0, 8, 0), (0, 1, 5))  # SAS prints kappa 0.4842 and ASE 0.1380; statsmodels tests itself with it


def ratings_of(table):
    """Two raters' words that give this table of counts."""
    cells = [(a, b) for a in range(3) for b in range(3) for _ in range(table[a][b])]
    return [OUTCOMES[a] for a, _ in cells], [OUTCOMES[b] for _, b in cells]


def label(number, word, who="anna", arm_a="alignpro", arm_b="nan", **changes):
    return replace(Label(f"p{number}", "s", arm_a, arm_b, 0, word, who), **changes)


def rows(*said, who="anna"):
    """Labelled rows from (judge, person) pairs of outcomes."""
    return [KEYS | {"prompt_id": f"p{i}", "outcome": a, "who": who, "label": b} for i, (a, b) in enumerate(said)]


# --- kappa


def test_kappa_and_its_error_are_the_printed_ones():
    first, second = ratings_of(PRINTED)
    found = agreement.kappa(first, second, list(range(19)))
    assert found.value == pytest.approx(0.4842, abs=5e-5) and found.num == 19
    width = math.log((1 - found.low) / (1 - found.value))  # t SE / (1 - kappa), t of 18 degrees of freedom
    assert width * (1 - found.value) / 2.100922 == pytest.approx(0.1380, abs=5e-5)
    assert agreement.confusion(first, second).to_numpy().tolist() == [list(row) for row in PRINTED]


def by_jackknife(first, second):
    """An independent standard error: kappa from its definition, each pair left out once."""

    def plain(a, b):
        shares = [(a.count(word) / len(a)) * (b.count(word) / len(b)) for word in OUTCOMES]
        agree = sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
        return (agree - sum(shares)) / (1 - sum(shares))

    left = [plain(first[:i] + first[i + 1 :], second[:i] + second[i + 1 :]) for i in range(len(first))]
    return plain(first, second), math.sqrt((len(first) - 1) * np.var(left))


def test_kappa_and_its_error_are_those_of_a_jackknife():
    first, second = ratings_of(((60, 22, 9), (14, 40, 12), (8, 20, 65)))
    value, error = by_jackknife(first, second)
    found = agreement.kappa(first, second, list(range(len(first))))
    assert found.value == pytest.approx(value)
    assert (1 - found.value) * math.log((1 - found.low) / (1 - found.value)) / 1.9696 == pytest.approx(error, rel=0.01)


def test_pairs_that_share_a_prompt_count_as_one_prompt():
    """The same pairs five times over tell nothing new: the interval stays, but for t's degrees of freedom."""
    first, second = ratings_of(((8, 2, 1), (3, 5, 2), (1, 2, 6)))
    prompts = list(range(30))
    one, five = agreement.kappa(first, second, prompts), agreement.kappa(first * 5, second * 5, prompts * 5)
    assert five.value == pytest.approx(one.value) and five.low == pytest.approx(one.low) and five.num == 150
    apart = agreement.kappa(first * 5, second * 5, list(range(150)))
    assert apart.high - apart.low < (five.high - five.low) / 2


@pytest.mark.parametrize(
    ("first", "second", "value", "note"),
    [
        ([], [], NAN, "fewer than two"),
        (["win"], ["win"], NAN, "fewer than two"),
        (["win"] * 9, ["win"] * 9, NAN, "not defined"),
        (["win", "lose"] * 5, ["win", "lose"] * 5, 1.0, "no interval"),
        (["win"] * 5, ["lose"] * 5, 0.0, "no interval"),
    ],
)
def test_kappa_of_what_tells_nothing_has_a_reason_and_no_interval(first, second, value, note):
    found = agreement.kappa(first, second, list(range(len(first))))
    assert found.value == pytest.approx(value, nan_ok=True) and note in found.note
    assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.slow
@pytest.mark.parametrize("num", [30, 100])
@pytest.mark.parametrize("joint", [((30, 8, 6), (6, 10, 4), (8, 6, 22)), ((45, 2, 1), (2, 10, 2), (1, 2, 35))])
def test_coverage_of_the_interval_of_kappa(joint, num):
    truth = agreement.kappa(*ratings_of(joint), list(range(100))).value
    shares = np.ravel(joint) / 100

    def draw(rng):
        return ratings_of(rng.multinomial(num, shares).reshape(3, 3))

    share = coverage(draw, lambda data, _: agreement.kappa(*data, list(range(num)))[1:3], truth, 700)
    assert within(share, (0.92, 0.98)), share  # a sample without a disagreement, 4% of one case, has no interval


# --- labels and their pairs


def test_labels_meet_the_judges_combined_verdict_on_the_arms_side():
    verdicts = [*judged(1, "win", "win"), *judged(2, "win", "lose"), *judged(3, "unscored", "win")]
    verdicts += judged(4, "lose", "lose", arm_a="nan", arm_b="alignpro")  # the other way round: the arm won
    answers = [answer(n, arm, 0.0) for n in range(1, 5) for arm in ("alignpro", "nan")]
    given = [label(1, "win"), label(2, "lose"), label(3, "win"), label(4, "lose", arm_a="nan", arm_b="alignpro")]
    found = agreement.match([*given, label(9, "win"), label(1, "skip", "bert")], answers, verdicts)
    assert [(row["outcome"], row["label"]) for row in found.rows] == [
        *(("win", "win"), ("tie", "lose"), ("unscored", "win"), ("win", "win"), ("win", "skip")),
    ]
    assert found.left_out == {"name a pair that was not judged": 1}
    made = agreement.table(found).set_index(["rater_a", "rater_b"])
    assert dict(made.loc[("judge", "people"), ["num_pairs", "num_unscored", "num_skipped", "win_win", "tie_lose"]]) == {
        **{"num_pairs": 3, "num_unscored": 1, "num_skipped": 1, "win_win": 2, "tie_lose": 1}
    }
    assert agreement.sentence(found) == (
        "4 human labels by anna, bert, 1 skipped; 1 labels name a pair that was not judged"
    )


def test_a_label_of_other_responses_is_no_label_of_these():
    answers = [answer(1, "alignpro", 0.0, response="new"), answer(1, "nan", 0.0)]
    of = labels.texts_hash("x", "new", "y")
    kept = agreement.match([label(1, "win", texts=of)], answers, judged(1, "win", "win"))
    lost = agreement.match(
        [label(1, "win", texts=labels.texts_hash("x", "old", "y"))], answers, judged(1, "win", "win")
    )
    assert len(kept.rows) == 1 and not lost.rows
    assert lost.left_out == {"were given to other responses than those there are now": 1}


def test_a_label_that_could_mean_several_pairs_is_counted_and_not_guessed():
    verdicts = pd.DataFrame([*judged(1, "win", "win"), *judged(1, "lose", "lose", sample=1)]).assign(cell="main")
    answers = [answer(1, arm, 0.0, sample) | {"cell": "main"} for arm in ("alignpro", "nan") for sample in (0, 1)]
    found = agreement.match([label(1, "win", sample=None)], answers, verdicts)
    assert not found.rows and list(found.left_out) == ["could be about several pairs: give cell, prompt_set and sample"]
    assert agreement.match([label(1, "win", sample=1, cell="main")], answers, verdicts).rows[0]["outcome"] == "lose"


def test_several_people_make_a_majority_and_are_compared_with_each_other():
    said = {
        "anna": ("win", "tie", "lose", "win"),
        "bert": ("win", "win", "lose", "tie"),
        "carl": ("win", "win", "tie", "lose"),
    }
    judge = ("win", "win", "lose", "win")
    found = Labelled([row for who, words in said.items() for row in rows(*zip(judge, words, strict=True), who=who)])
    assert list(agreement.people(found).values()) == ["win", "win", "lose", "tie"]
    made = agreement.table(found)
    assert made[["rater_a", "rater_b"]].to_numpy().tolist() == [
        *(["judge", "people"], ["judge", "anna"], ["judge", "bert"], ["judge", "carl"]),
        *(["anna", "bert"], ["anna", "carl"], ["bert", "carl"]),
    ]
    assert made.agreement.tolist() == pytest.approx([3 / 4, 3 / 4, 3 / 4, 1 / 2, 1 / 2, 1 / 4, 1 / 2])


# --- the corrected win rate


def test_the_corrected_rate_by_hand():
    """Judge: 3 wins, 1 loss, 75%. Two labelled, one of them really a loss: the judge is half a point high, 25%.

    Variance of people's 1 and 0: 1/2; of the errors 0, -1 and ±1/2: 5/12. SE² = 1/2 / 4 + (1 - 2/4) 5/12 / 2.
    """
    found = agreement.prediction_powered([1, 1, 1, 0], [1, 0, NAN, NAN])
    half = 12.7062047 * math.sqrt(1 / 8 + 5 / 48)
    assert found == pytest.approx((0.25, max(0.25 - half, 0), min(0.25 + half, 1), 2))
    big = agreement.prediction_powered([1, 1, 1, 0] * 25, ([1, 0, NAN, NAN] * 25))
    assert big.value == pytest.approx(0.25) and 0 < big.low < 0.25 < big.high < 1


def test_with_every_prompt_labelled_it_is_the_peoples_own_mean_and_interval():
    said = [1, 1, 0, 0.5, 1, 0, 1, 1] * 4
    assert tuple(agreement.prediction_powered([1, 0.5] * 16, said)) == pytest.approx(tuple(stats.mean(said)))


def test_few_or_no_labels_give_no_interval():
    assert agreement.prediction_powered([1, 0], [NAN, NAN]).num == 0
    one = agreement.prediction_powered([1, 0, 1], [0, NAN, NAN])
    assert one.value == pytest.approx(-1 / 3) and math.isnan(one.low) and one.num == 1


BIASED = np.array([[0.9, 0.08, 0.02], [0.5, 0.4, 0.1], [0.35, 0.25, 0.4]])  # what the judge says of a win, tie, loss
TRUE = np.array([0.45, 0.2, 0.35])


def draw_world(rng, num=500, num_labelled=50):
    truth = rng.choice(3, p=TRUE, size=num)
    heard = (rng.random(num)[:, None] > BIASED.cumsum(axis=1)[truth]).sum(axis=1).clip(0, 2)
    points = np.array([1, 0.5, 0])
    said = points[truth]
    said[rng.permutation(num)[num_labelled:]] = NAN
    return points[heard], said


@pytest.mark.slow
def test_a_biased_judges_win_rate_misses_the_truth_and_the_corrected_one_covers_it():
    """People's win rate is 55%; the judge's verdicts give 69.6% on average."""
    truth = TRUE @ [1, 0.5, 0]

    def naive(world, _):
        return stats.win_rate(world[0] == 1, world[0] == 0)[1:3]

    fair = coverage(draw_world, lambda world, _: agreement.prediction_powered(*world)[1:3], truth, 1200)
    assert within(fair, (0.93, 0.97)), fair
    assert coverage(draw_world, naive, truth, 200) < 0.01
    assert np.mean([agreement.prediction_powered(*draw_world(np.random.default_rng(i))).value for i in range(300)]) == (
        pytest.approx(truth, abs=0.01)
    )


def world_rows(num=200, labelled=lambda i, heard: i % 4 == 0):
    """(verdicts, Labelled): a judge that likes the arm: of every four losses it calls two wins."""
    verdicts, said = [], []
    for i in range(num):
        true = ("win", "lose")[i // 4 % 2]
        heard = "win" if true == "win" or i // 8 % 2 else "lose"
        verdicts += judged(i, heard, heard)
        if labelled(i, heard):
            said.append(KEYS | {"prompt_id": f"p{i}", "outcome": heard, "who": "anna", "label": true, "cell": ""})
    return verdicts, Labelled(said)


def test_the_table_shows_judge_people_and_corrected_side_by_side():
    made = agreement.corrected(*world_rows()).to_dict("records")
    assert [row["arm"] for row in made] == ["alignpro"] and made[0]["note"] == agreement.ASSUMED
    assert (made[0]["num_prompts"], made[0]["num_labelled"]) == (200, 50)
    assert made[0]["win_rate"] == pytest.approx(0.75, abs=0.02) and made[0]["corrected"] == pytest.approx(0.5, abs=0.03)
    assert made[0]["labelled_win_rate"] == pytest.approx(0.5, abs=0.03)
    assert made[0]["corrected_low"] < 0.5 < made[0]["corrected_high"] < made[0]["win_rate_low"]


def test_labels_of_picked_pairs_are_called_no_random_sample():
    """Only what the judge calls a loss was labelled."""
    (row,) = agreement.corrected(*world_rows(labelled=lambda i, heard: heard == "lose")).to_dict("records")
    assert row["note"].startswith("does not hold: the labelled pairs are no random sample") and "0% on" in row["note"]


def test_without_labels_no_table_is_written_and_old_ones_go(tmp_path):
    verdicts, said = world_rows()
    agreement.write(said, verdicts, "nan", tmp_path)
    assert (tmp_path / "human_labels.csv").exists() and (tmp_path / "corrected_win_rate.tex").exists()
    agreement.write(Labelled(), verdicts, "nan", tmp_path)
    assert not list(tmp_path.iterdir()) and agreement.sentence(Labelled()) == "no human labels"


# --- on the health card


def test_the_card_gets_two_rows_where_people_labelled_and_is_the_same_where_not():
    verdicts, said = world_rows()
    plain = health.card([], verdicts, [])
    pd.testing.assert_frame_equal(plain, health.card([], verdicts, [], "", Labelled()))
    made = health.card([], verdicts, [], "", said)
    pd.testing.assert_frame_equal(made.iloc[:8], plain, check_dtype=False)
    assert made.check.tolist()[8:] == [health.AGREES, health.KAPPA] and made.num.tolist()[8:] == [50, 50]


@pytest.mark.parametrize(("num", "sound"), [(10, None), (40, False)])
def test_a_judge_at_odds_with_people_fails_from_twenty_labels_on(num, sound):
    said = Labelled(
        rows(*[("win", "lose"), ("lose", "win"), ("win", "win"), ("lose", "lose"), ("win", "lose")] * (num // 5))
    )
    card = health.card([], [], [], "", said)
    assert card.set_index("check").sound[health.KAPPA] is sound
    assert ("agreement with people, κ: -0.15 of 40, wanted at least 0.20" in health.banner(card)) == (sound is False)

"""Win rate at equal length and Bradley-Terry ratings, against closed forms and other ways to the same maximum."""

import itertools
import math
import random
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
from scipy.special import expit, logit

from nbutils.analyse import ratings, stats
from nbutils.analyse.ratings import bradley_terry, fit_logistic, length_controlled_win_rate


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        yield


def outcome(prompt, a, b, says, sample=0):
    return {"prompt_set": "s", "prompt_id": prompt, "arm_a": a, "arm_b": b, "sample": sample, "outcome": says}


def outcomes(a, b, wins, ties=0, losses=0, start=0):
    """So many outcomes of a against b, on prompts from number `start` on."""
    says = ["win"] * wins + ["tie"] * ties + ["lose"] * losses
    return [outcome(f"p{start + i:04}", a, b, each) for i, each in enumerate(says)]


def turned(row):
    swap = {"arm_a": row["arm_b"], "arm_b": row["arm_a"], "outcome": stats.OPPOSITE[row["outcome"]]}
    return {**row, **swap}


def by_arm(table):
    return table.set_index("arm")


# --- the fit


def test_fit_of_two_groups_by_hand():
    """Odds 3 where x = 0 and 1/2 where x = 1: a = log 3, a + b = log 1/2."""
    found = fit_logistic([[1, 0], [1, 1]], [3, 2], [1, 4])
    assert found == pytest.approx([math.log(3), math.log(0.5) - math.log(3)])


def test_fit_agrees_with_a_general_optimiser():
    rng = np.random.default_rng(0)
    design, won, lost = rng.normal(size=(5, 40, 3)), rng.exponential(size=(5, 40)), rng.exponential(size=(5, 40))
    penalty = np.diag([0.0, 1.0, 2.0])
    for x, w, l, found in zip(design, won, lost, fit_logistic(design, won, lost, penalty), strict=True):  # noqa: E741

        def loss(c, x=x, w=w, l=l):  # noqa: E741
            return w @ np.logaddexp(0, -x @ c) + l @ np.logaddexp(0, x @ c) + c @ penalty @ c / 2

        assert found == pytest.approx(scipy.optimize.minimize(loss, np.zeros(3), tol=1e-10).x, abs=1e-4)


def test_fit_reaches_far_away_maxima():
    found = fit_logistic([[1.0, 0.0], [1.0, 5.0]], [1e4, 1e-6], [1e-6, 1e4])
    assert found[0] == pytest.approx(math.log(1e10)) and found[0] + 5 * found[1] == pytest.approx(-math.log(1e10))


def test_fit_where_whole_newton_steps_run_away():
    """Newton's own steps end in a singular matrix here; at the maximum the slope is 0."""
    design = np.array([[1, -1], [1, 1], [1, -9], [1, -3.0]])
    won, lost = np.array([100.1, 0.001, 100.1, 1.001]), np.array([0.001, 1.001, 0.001, 0.001])
    chance = expit(design @ fit_logistic(design, won, lost))
    assert (won * (1 - chance) - lost * chance) @ design == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(ArithmeticError, match="no maximum within 3 steps"):
        fit_logistic(design, won, lost, num_steps=3)


# --- win rate at equal length


def test_without_length_differences_it_is_the_win_rate_with_jeffreys_interval():
    """14 won, 6 lost: (14 + 1/2) / 21, and the quantiles of Beta(14.5, 6.5)."""
    scores = [1.0] * 14 + [0.0] * 6
    rate = length_controlled_win_rate(scores, [0.0] * 20, seed=0, num_draws=20_000)
    assert rate.value == pytest.approx(14.5 / 21) and rate.num == 20
    assert (rate.low, rate.high) == pytest.approx(scipy.stats.beta(14.5, 6.5).ppf([0.025, 0.975]), abs=0.006)


def test_odds_of_nine_when_longer_and_one_when_shorter_are_three_at_equal_length():
    """Raw 70%. At x = +c the log-odds are log 9, at x = -c they are 0: at 0 their mean, log 3, so 75%."""
    scores = np.repeat([1.0, 0.0, 1.0, 0.0], [9000, 1000, 5000, 5000])
    difference = np.repeat([80.0, -80.0], 10_000)
    rate = length_controlled_win_rate(scores, difference, seed=0, num_draws=50)
    assert rate.value == pytest.approx(0.75, abs=1e-3) and rate.low < 0.75 < rate.high


def test_value_maximises_the_likelihood_with_the_prior_written_out():
    rng = np.random.default_rng(0)
    scores, difference = rng.choice([0, 0.25, 0.5, 1], size=40, p=[0.1, 0.2, 0.2, 0.5]), rng.normal(30, 80, size=40)
    x = np.append(np.tanh(difference / pd.Series(difference).std()), 0)  # the SD of alpaca_eval
    won, lost = np.append(scores, 0.5), np.append(1 - scores, 0.5)

    def loss(c):
        odds = c[0] + c[1] * x
        return won @ np.log1p(np.exp(-odds)) + lost @ np.log1p(np.exp(odds)) + (c[1] / 5) ** 2 / 2

    expected = expit(scipy.optimize.minimize(loss, [0, 0], tol=1e-10).x[0])
    assert length_controlled_win_rate(scores, difference, 0, num_draws=10).value == pytest.approx(expected, abs=1e-5)


def test_a_judge_that_only_likes_length_is_seen_through():
    """The longer response wins, the arm is longer on 8 of 10: raw 80%, nothing left at equal length."""
    rng = np.random.default_rng(1)
    difference = rng.normal(0.85, 1, size=300)
    scores = (rng.random(300) < expit(4 * np.tanh(difference))).astype(float)
    rate = length_controlled_win_rate(scores, difference, seed=0)
    assert scores.mean() > 0.7 and rate.low < 0.5 < rate.high and abs(rate.value - 0.5) < 0.1


def test_swapping_the_arms_swaps_the_rate_and_order_and_unit_do_not_matter():
    rng = np.random.default_rng(2)
    scores, difference = rng.choice([0, 0.5, 1], size=60), rng.integers(-50, 90, size=60).astype(float)
    rate = length_controlled_win_rate(scores, difference, seed=3, num_draws=4000)
    swapped = length_controlled_win_rate(1 - scores, -difference, seed=3, num_draws=4000)
    assert swapped.value == pytest.approx(1 - rate.value)
    assert (swapped.low, swapped.high) == pytest.approx((1 - rate.high, 1 - rate.low), abs=0.02)
    order = rng.permutation(60)
    assert length_controlled_win_rate(scores[order], difference[order], seed=3, num_draws=4000) == rate
    assert length_controlled_win_rate(scores, 7 * difference, 3, 4000) == pytest.approx(rate, abs=1e-9)
    assert length_controlled_win_rate(scores, difference, seed=4, num_draws=4000)[1:3] != rate[1:3]


def test_missing_scores_and_lengths_are_left_out_and_counted():
    rng = np.random.default_rng(0)
    scores, difference = rng.choice([0, 0.5, 1], size=30), rng.normal(size=30)
    expected = length_controlled_win_rate(scores[2:], difference[2:], 0, 100)
    scores[0], difference[1] = np.nan, np.nan
    assert length_controlled_win_rate(scores, difference, 0, 100) == expected and expected.num == 28


@pytest.mark.parametrize("difference", [np.zeros(20), np.arange(-9.0, 11.0)])
def test_all_won_stays_finite(difference):
    """Separated: the likelihood has no maximum. The prior gives about (20 + 1/2) / 21, the interval reaches to 1."""
    rate = length_controlled_win_rate(np.ones(20), difference, seed=0)
    assert rate.value == pytest.approx(20.5 / 21, abs=0.01) and rate.low == pytest.approx(0.884, abs=0.02)
    assert 0.999 < rate.high < 1


def test_all_won_and_always_longer_says_little_of_equal_length():
    rate = length_controlled_win_rate(np.ones(20), np.arange(1.0, 21.0), seed=0)
    assert rate.low < 0.5 and rate.low < rate.value < rate.high and rate.high > 0.999


def test_length_that_separates_all_stays_finite():
    difference = np.concatenate([np.arange(1.0, 21.0), -np.arange(1.0, 21.0)])
    rate = length_controlled_win_rate(np.repeat([1.0, 0.0], 20), difference, seed=0)
    assert rate.value == pytest.approx(0.5) and 0 < rate.low < 0.4 and 0.6 < rate.high < 1


def test_too_little_data():
    few = length_controlled_win_rate([1.0] * 5 + [0.0] * 4, range(9), seed=0)
    assert 0 < few.value < 1 and math.isnan(few.low) and math.isnan(few.high) and few.num == 9
    assert not math.isnan(length_controlled_win_rate([1.0] * 5 + [0.0] * 5, range(10), seed=0, num_draws=50).low)
    for scores, difference, num in (([], [], 0), ([1.0] * 12, [7.0] * 12, 12), ([np.nan], [1.0], 0)):
        nothing = length_controlled_win_rate(scores, difference, seed=0)
        assert all(math.isnan(part) for part in nothing[:3]) and nothing.num == num


def test_scores_outside_zero_to_one_stop():
    with pytest.raises(ValueError, match="wanted scores from 0 .* got 1 to 2"):
        length_controlled_win_rate([1.0, 2.0], [0.0, 1.0], seed=0)


def test_scores_and_lengths_are_means_over_samples_that_have_both():
    rows = [
        outcome("p1", "poir", "nan", says, sample) for sample, says in enumerate(("win", "tie", "lose", "unscored"))
    ]
    rows += [outcome("p2", "poir", "nan", "win")]
    lengths = {("s", "p1", arm, sample): tokens for sample in (0, 1, 3) for arm, tokens in (("poir", 9), ("nan", 4))}
    lengths |= {("s", "p1", "poir", 1): 5, ("s", "p1", "nan", 1): 6, ("s", "p2", "poir", 0): 3}
    first, second = ratings.scores_and_lengths(rows, lengths).to_dict("records")
    assert (first["prompt_id"], first["arm_a"], first["arm_b"]) == ("p1", "poir", "nan")
    assert (first["score"], first["length_difference"]) == (0.75, (5 - 1) / 2)
    assert math.isnan(second["score"]) and math.isnan(second["length_difference"])
    assert list(ratings.scores_and_lengths([], {})) == list(first)


# --- ratings


def test_two_arms_by_hand():
    """9 won, 4 tied, 5 lost: log((9 + 2 + 1/2) / (5 + 2 + 1/2)) apart, mean 0."""
    table = by_arm(bradley_terry(outcomes("poir", "nan", 9, 4, 5), "nan", seed=0))
    apart = math.log(11.5 / 7.5)
    assert list(table["rating"]) == pytest.approx([apart / 2, -apart / 2]) and list(table.index) == ["poir", "nan"]
    assert table.loc["poir", "expected_win_rate"] == pytest.approx(11.5 / 19)
    assert math.isnan(table.loc["nan", "expected_win_rate"]) and list(table["num_prompts"]) == [18, 18]


def test_many_prompts_of_two_arms_approach_the_log_of_wins_over_losses():
    table = by_arm(bradley_terry(outcomes("poir", "nan", 6000, 0, 2000), "nan", seed=0, num_draws=50))
    assert table.loc["poir", "rating"] - table.loc["nan", "rating"] == pytest.approx(math.log(3), abs=3e-4)


def test_two_arms_have_jeffreys_interval():
    table = by_arm(bradley_terry(outcomes("poir", "nan", 14, 0, 6), "nan", seed=0, num_draws=20_000))
    ends = table.loc["poir", ["expected_win_rate_low", "expected_win_rate_high"]]
    assert list(ends) == pytest.approx(scipy.stats.beta(14.5, 6.5).ppf([0.025, 0.975]), abs=0.006)
    assert table.loc["poir", "rating_high"] == pytest.approx(logit(ends.iloc[1]) / 2)


def test_arms_that_only_met_the_baseline_are_each_their_own_two_arm_case():
    rows = outcomes("poir", "nan", 12, 2, 6) + outcomes("bpo", "nan", 3, 0, 9) + outcomes("dpo", "nan", 10)
    table = by_arm(bradley_terry(rows, "nan", seed=0))
    apart = table["rating"] - table.loc["nan", "rating"]
    expected = {"poir": math.log(13.5 / 7.5), "bpo": math.log(3.5 / 9.5), "dpo": math.log(10.5 / 0.5), "nan": 0}
    assert apart.to_dict() == pytest.approx(expected) and table["rating"].sum() == pytest.approx(0, abs=1e-9)
    assert table["num_prompts"].to_dict() == {"poir": 20, "bpo": 12, "dpo": 10, "nan": 20}


def round_robin(seed=0, num=30, arms=("alignpro", "bpo", "nan", "poir")):
    rng = random.Random(seed)
    pairs = list(itertools.combinations(arms, 2))
    weights = {pair: [rng.random() for _ in range(3)] for pair in pairs}
    names = ("win", "tie", "lose")
    return [outcome(f"p{i:03}", *pair, rng.choices(names, weights[pair])[0]) for i in range(num) for pair in pairs]


def zermelo(rows, arms):
    """Ratings by Zermelo's (1929) fixed point: strength = wins / sum over opponents of games / (own + theirs)."""
    wins = {(a, b): 0.0 for a in arms for b in arms}
    for row in rows:
        points = {"win": 1.0, "tie": 0.5, "lose": 0.0}[row["outcome"]]
        wins[row["arm_a"], row["arm_b"]] += points
        wins[row["arm_b"], row["arm_a"]] += 1 - points
    for a, b in itertools.permutations(arms, 2):
        wins[a, b] += 0.5 / (len(arms) - 1)  # the prior: half a win and half a loss for an arm
    strength = dict.fromkeys(arms, 1.0)
    for _ in range(3000):
        for a in arms:
            games = [(wins[a, b] + wins[b, a]) / (strength[a] + strength[b]) for b in arms if b != a]
            strength[a] = sum(wins[a, b] for b in arms if b != a) / sum(games)
    logs = {arm: math.log(value) for arm, value in strength.items()}
    mean = sum(logs.values()) / len(logs)
    return {arm: value - mean for arm, value in logs.items()}


@pytest.mark.parametrize("seed", range(4))
def test_a_round_robin_agrees_with_zermelos_fixed_point(seed):
    rows = round_robin(seed)
    table = by_arm(bradley_terry(rows, "nan", seed=0, num_draws=50))
    assert table["rating"].to_dict() == pytest.approx(zermelo(rows, list(table.index)), abs=1e-6)
    assert list(table["rating"]) == sorted(table["rating"], reverse=True)
    expected = expit(table["rating"] - table.loc["nan", "rating"]).drop("nan")
    assert table["expected_win_rate"].drop("nan").to_dict() == pytest.approx(expected.to_dict())


def test_names_of_the_sides_and_order_of_rows_do_not_matter():
    rows = round_robin()
    expected = bradley_terry(rows, "nan", seed=1, num_draws=200)
    mixed = [turned(row) if i % 3 else row for i, row in enumerate(rows)]
    random.Random(0).shuffle(mixed)
    pd.testing.assert_frame_equal(bradley_terry(mixed, "nan", seed=1, num_draws=200), expected)
    assert not bradley_terry(rows, "nan", seed=2, num_draws=200)["rating_low"].equals(expected["rating_low"])


def test_samples_of_a_prompt_are_averaged_and_add_no_prompts():
    rows = round_robin()
    repeated = [row | {"sample": sample} for row in rows for sample in range(4)]
    expected = bradley_terry(rows, "nan", seed=1, num_draws=200)
    pd.testing.assert_frame_equal(bradley_terry(repeated, "nan", seed=1, num_draws=200), expected)
    split = [
        outcome("p1", "poir", "nan", "win", 0),
        outcome("p1", "nan", "poir", "win", 1),
    ]  # one each, named both ways
    assert list(bradley_terry(split, "nan", seed=0)["rating"]) == pytest.approx([0, 0], abs=1e-9)


def test_pairs_of_a_prompt_are_resampled_together():
    """`poir` wins all three pairs of a prompt or loses all: less is known than if it won half of each independently."""
    arms = ("alignpro", "bpo", "nan")
    together = [outcome(f"p{i:03}", "poir", arm, ("win", "lose")[i % 2]) for i in range(64) for arm in arms]
    apart = [
        outcome(f"p{i:03}", "poir", arm, ("win", "lose")[(i >> j) % 2]) for i in range(64) for j, arm in enumerate(arms)
    ]
    widths = []
    for rows in (together, apart):
        row = by_arm(bradley_terry(rows, "nan", seed=0)).loc["poir"]
        assert row["rating"] == pytest.approx(0, abs=1e-9)
        widths.append(row["rating_high"] - row["rating_low"])
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(3), rel=0.15)


def test_an_arm_that_wins_everything_stays_finite():
    """40 won of 40, against two arms that are level: (40 + 1/2) / 41, the prior lying half on each pair."""
    rows = [outcome(f"p{i:04}", "poir", arm, "win") for i in range(20) for arm in ("bpo", "nan")]
    rows += outcomes("bpo", "nan", 10, 0, 10)
    table = by_arm(bradley_terry(rows, "nan", seed=0))
    assert np.isfinite(table[["rating", "rating_low", "rating_high"]].to_numpy()).all()
    poir = table.loc["poir"]
    assert table.index[0] == "poir" and poir["expected_win_rate"] == pytest.approx(40.5 / 41)
    assert 0.88 < poir["expected_win_rate_low"] < 0.96 and 0.999 < poir["expected_win_rate_high"] < 1


def test_arms_that_no_chain_of_comparisons_connects_form_groups():
    together = outcomes("poir", "nan", 9, 4, 5) + outcomes("bpo", "dpo", 7, 0, 2)
    table = by_arm(bradley_terry(together, "nan", seed=0))
    assert table.loc["bpo", "group"] == table.loc["dpo", "group"] != table.loc["nan", "group"]
    assert table.loc["poir", "rating"] == pytest.approx(math.log(11.5 / 7.5) / 2)
    assert table.loc["bpo", "rating"] == pytest.approx(math.log(7.5 / 2.5) / 2)
    assert table["expected_win_rate"].notna().to_dict() == {"poir": True, "nan": False, "bpo": False, "dpo": False}


def test_unscored_comparisons_count_for_nothing():
    rows = outcomes("poir", "nan", 9, 4, 5)
    more = [outcome("q1", "poir", "nan", "unscored"), outcome("q1", "bpo", "nan", "unscored")]
    table = by_arm(bradley_terry(rows + more, "nan", seed=0))
    assert table.loc["poir", "rating"] == pytest.approx(math.log(11.5 / 7.5) / 2)
    assert table.loc["poir", "num_prompts"] == 18 and table.loc["bpo", "num_prompts"] == 0
    assert table.loc["bpo"].drop(["num_prompts", "group"]).isna().all() and list(table.index)[-1] == "bpo"
    unjudged = by_arm(bradley_terry(more, "nan", seed=0))
    assert unjudged["rating"].isna().all() and list(unjudged["num_prompts"]) == [0, 0, 0]


def test_one_prompt_has_no_interval_and_nothing_gives_an_empty_table():
    table = bradley_terry(outcomes("poir", "nan", 1), "nan", seed=0)
    assert list(table["rating"]) == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    assert table[["rating_low", "rating_high", "expected_win_rate_low"]].isna().all(axis=None)
    empty = bradley_terry([], "nan", seed=0)
    assert len(empty) == 0 and tuple(empty) == tuple(table) == ratings.RATING_COLUMNS
    with pytest.raises(ValueError, match="baseline 'bpo' was compared with no arm; there are nan, poir"):
        bradley_terry(outcomes("poir", "nan", 1), "bpo", seed=0)

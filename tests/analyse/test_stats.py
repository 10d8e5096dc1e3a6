"""Win rates, intervals, tests and the variance split, against hand-computed numbers and independent implementations."""

import itertools
import math
import random

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats

from nbutils.analyse import stats
from nbutils.experiment.records import Verdict

Z = 1.959963984540054


def verdict(first_shown, says, prompt="p1", sample=0, arm_a="alignpro", arm_b="nan", reason=None):
    keys = {"prompt_id": prompt, "prompt_set": "s", "arm_a": arm_a, "arm_b": arm_b, "sample": sample}
    return {**keys, "first_shown": first_shown, "verdict": says, "reason": reason, "raw": ""}


def both(first, second, **keys):
    return [verdict("alignpro", first, **keys), verdict("nan", second, **keys)]


def swapped(row):
    turned = {"arm_a": row["arm_b"], "arm_b": row["arm_a"], "verdict": stats.OPPOSITE[row["verdict"]]}
    return {**row, **turned}


# --- combining orders


@pytest.mark.parametrize(
    ("first", "second", "outcome", "flipped"),
    [
        ("win", "win", "win", False),
        ("lose", "lose", "lose", False),
        ("tie", "tie", "tie", False),
        ("win", "lose", "tie", True),
        ("win", "tie", "tie", True),
        ("tie", "lose", "tie", True),
        ("win", "unscored", "unscored", False),
        ("unscored", "unscored", "unscored", False),
    ],
)
def test_a_win_needs_both_orders(first, second, outcome, flipped):
    (row,) = stats.combine_orders(both(first, second))
    assert (row["outcome"], row["flipped"]) == (outcome, flipped)


def test_a_missing_order_is_unscored_and_says_so():
    (row,) = stats.combine_orders([verdict("nan", "win")])
    assert (row["outcome"], row["reason"]) == ("unscored", "order missing")
    rows = [verdict("nan", "unscored", reason="timeout"), verdict("alignpro", "unscored", reason=None)]
    assert stats.combine_orders(rows)[0]["reason"] == "no reason given; timeout"


def test_swapping_the_arms_swaps_the_outcome():
    """The same side must win, whatever it is called; and a pair named both ways is still one pair."""
    cases = [both(*pair, prompt=f"p{i}") for i, pair in enumerate(itertools.product(stats.OPPOSITE, repeat=2))]
    rows = [row for case in cases for row in case]
    plain, turned = stats.combine_orders(rows), stats.combine_orders([swapped(row) for row in rows])
    assert [row["outcome"] for row in turned] == [stats.OPPOSITE[row["outcome"]] for row in plain]
    assert [row["flipped"] for row in turned] == [row["flipped"] for row in plain]
    assert [row["reason"] for row in turned] == [row["reason"] for row in plain]
    assert stats.outcomes_against(turned, "nan") == stats.outcomes_against(plain, "nan")
    mixed = [swapped(row) if row["first_shown"] == "nan" else row for row in rows]
    assert stats.outcomes_against(stats.combine_orders(mixed), "nan") == plain


def test_order_and_kind_of_the_rows_do_not_matter():
    rows = [row for i in range(6) for row in both("win", ("win", "lose")[i % 2], prompt=f"p{i}", sample=i % 3)]
    expected = stats.combine_orders(rows)
    random.Random(0).shuffle(rows)
    assert stats.combine_orders(rows) == expected
    assert stats.combine_orders(pd.DataFrame(rows)) == expected
    assert stats.combine_orders([Verdict(**row) for row in rows]) == expected


def test_identical_duplicates_merge_and_conflicting_ones_stop():
    rows = both("win", "win")
    assert stats.combine_orders(rows + rows) == stats.combine_orders(rows)
    with pytest.raises(ValueError, match="prompt p1, alignpro against nan, sample 0: wanted one verdict per order"):
        stats.combine_orders([*rows, verdict("nan", "lose")])


@pytest.mark.parametrize(
    "bad", [verdict("nan", "A"), verdict("poir", "win"), verdict("nan", "win", arm_a="nan"), verdict("nan", None)]
)
def test_impossible_verdicts_stop(bad):
    with pytest.raises(ValueError, match="wanted"):
        stats.combine_orders([bad])


def test_samples_of_a_prompt_are_averaged():
    rows = both("win", "win") + both("win", "lose", sample=1) + both("lose", "lose", sample=2)
    rows += both("unscored", "win", sample=3) + both("unscored", "win", prompt="p2")
    first, second = stats.average_samples(stats.combine_orders(rows))
    assert [first[name] for name in ("win", "tie", "lose")] == [1 / 3, 1 / 3, 1 / 3]
    assert (first["num_samples"], first["num_unscored"]) == (3, 1)
    assert math.isnan(second["win"]) and (second["num_samples"], second["num_unscored"]) == (0, 1)


# --- win rate


def tango_by_likelihood(win, lose, num):
    """Tango's interval from first principles: constrained likelihood by search, the score equation by brentq."""
    tie = num - win - lose

    def constrained(difference):
        def loss(q):
            cells = ((win, q + difference), (lose, q), (tie, 1 - 2 * q - difference))
            return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

        ends = (max(0.0, -difference), (1 - difference) / 2)
        return scipy.optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-12}).x

    def score(difference):
        spread = 2 * constrained(difference) + difference * (1 - difference)
        return (win - lose - num * difference) / math.sqrt(num * max(spread, 1e-12))

    return [scipy.optimize.brentq(lambda d, z=z: score(d) - z, -1 + 1e-7, 1 - 1e-7) for z in (Z, -Z)]


@pytest.mark.parametrize(("win", "lose", "num"), [(12, 3, 20), (40, 20, 160), (1, 7, 21), (6, 16, 161), (30, 1, 50)])
def test_tango_equals_the_score_test_from_first_principles(win, lose, num):
    assert np.allclose(stats.tango_interval(win, lose, num), tango_by_likelihood(win, lose, num), atol=2e-5)


def test_tango_on_a_published_example():
    """Bentur et al. 2009, as in Fagerland, Lydersen, Laake 2014: 1 and 7 discordant pairs of 21."""
    assert np.round(stats.tango_interval(1, 7, 21), 3).tolist() == [-0.517, -0.026]


@pytest.mark.parametrize(("win", "num"), [(0, 5), (7, 10), (20, 20), (33, 80)])
def test_without_ties_tango_is_wilson(win, num):
    wilson = scipy.stats.binomtest(win, num).proportion_ci(method="wilson")
    low, high = stats.tango_interval(win, num - win, num)
    assert ((1 + low) / 2, (1 + high) / 2) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


def test_tango_where_nothing_differs():
    """All ties: the interval ends where n D^2 = z^2 D (1 - D), so D = z^2 / (n + z^2)."""
    end = Z**2 / (20 + Z**2)
    assert stats.tango_interval(0, 0, 20) == (pytest.approx(-end), pytest.approx(end))


def test_tango_is_symmetric_and_shrinks_with_n():
    for win, lose, num in [(5, 2, 9), (17, 0, 40), (1, 1, 3)]:
        low, high = stats.tango_interval(win, lose, num)
        assert stats.tango_interval(lose, win, num) == (-high, -low)
        wider, narrower = (np.diff(stats.tango_interval(win * k, lose * k, num * k))[0] for k in (1, 4))
        assert narrower < wider


@pytest.mark.parametrize(("num", "tango", "student"), [(20, 0.92, 0.46), (50, 0.96, 0.78), (100, 0.96, 0.85)])
def test_coverage_at_97_wins_2_ties_by_enumerating_every_outcome(num, tango, student):
    win, lose = (counts.ravel() for counts in np.mgrid[: num + 1, : num + 1])
    win, lose = win[win + lose <= num], lose[win + lose <= num]
    chance = scipy.stats.multinomial.pmf(np.stack([win, num - win - lose, lose], axis=1), num, [0.97, 0.02, 0.01])
    truth, mean = 0.97 - 0.01, (win - lose) / num
    low, high = stats.tango_interval(win, lose, num)
    assert chance[(low <= truth) & (truth <= high)].sum() == pytest.approx(tango, abs=0.006)
    half = scipy.stats.t.ppf(0.975, num - 1) * np.sqrt(((win + lose) / num - mean**2) / (num - 1))
    assert chance[np.abs(mean - truth) <= half].sum() == pytest.approx(student, abs=0.006)


def test_win_rate_counts_a_tie_half_and_leaves_unscored_out():
    win, lose = [1, 1, 1, 0, 0, np.nan], [0, 0, 0, 1, 0, np.nan]
    rate = stats.win_rate(win, lose)
    low, high = stats.tango_interval(3, 1, 5)
    assert rate == (pytest.approx(0.7), pytest.approx((1 + low) / 2), pytest.approx((1 + high) / 2), 5)
    turned = stats.win_rate(lose, win)
    assert (turned.value, turned.low, turned.high) == pytest.approx((0.3, 1 - rate.high, 1 - rate.low))


def test_no_interval_below_two_prompts():
    assert stats.win_rate([1.0, np.nan], [0.0, np.nan])[0] == 1.0
    assert all(math.isnan(end) for end in stats.win_rate([1.0], [0.0])[1:3])
    nothing = stats.win_rate([], [])
    assert math.isnan(nothing.value) and nothing.num == 0
    assert not math.isnan(stats.win_rate([1.0, 1.0], [0.0, 0.0]).low)


def test_samples_that_agree_add_no_prompts_and_samples_that_differ_do():
    """4 samples: all alike leave the interval of one sample; split alike in every prompt they count 4 times,
    the most that they can."""
    win, lose = np.repeat([1.0, 0.0], [14, 6]), np.repeat([0.0, 1.0], [14, 6])
    assert stats.win_rate(win, lose, np.full(20, 4)) == stats.win_rate(win, lose)
    split = stats.win_rate(np.full(20, 0.75), np.full(20, 0.25), np.full(20, 4))
    low, high = stats.tango_interval(60, 20, 80)
    assert (split.value, split.low, split.high) == pytest.approx((0.75, (1 + low) / 2, (1 + high) / 2))
    assert split.num == 20


def test_coverage_with_several_samples_per_prompt():
    """Win rate 0.98, prompts that differ a lot, 4 samples: the t interval covers 60%, this one its 95% nearly."""
    rng, num, truth = np.random.default_rng(0), 20, 0.98
    chances = rng.dirichlet([0.97, 0.02, 0.01], size=(500, num))
    drawn = rng.multinomial(4, chances) / 4
    rates = [stats.win_rate(shares[:, 0], shares[:, 2], np.full(num, 4)) for shares in drawn]
    assert np.mean([rate.low <= truth <= rate.high for rate in rates]) > 0.92


def test_bounds_count_unscored_as_lost_and_as_won():
    assert stats.win_rate_bounds([1, 0, np.nan, np.nan], [0, 0, np.nan, np.nan]) == (1.5 / 4, 3.5 / 4)
    assert all(math.isnan(end) for end in stats.win_rate_bounds([], []))


def test_planning_half_width_gives_the_published_examples():
    assert stats.planning_half_width(80) == pytest.approx(0.11, abs=0.001)
    assert stats.planning_half_width(200, 0.3) == pytest.approx(0.058, abs=0.001)
    assert math.isnan(stats.planning_half_width(0))


def test_sign_test_by_hand():
    """5 wins, 0 losses: 2 / 2^5. 3 and 1: 2 (1 + 4) / 2^4. Ties and unscored prompts change nothing."""
    assert stats.sign_test([1] * 5, [0] * 5) == pytest.approx(2 / 32)
    assert stats.sign_test([1, 1, 1, 0, 0, np.nan], [0, 0, 0, 1, 0, np.nan]) == pytest.approx(10 / 16)
    assert stats.sign_test([0.75, 0.25], [0.25, 0.75]) == 1.0
    assert stats.sign_test([], []) == 1.0


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1, made monotone; NaN is no test."""
    assert stats.holm([0.04, 0.01, np.nan, 0.03, 0.02])[[1, 4, 3, 0]] == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert np.isnan(stats.holm([0.04, np.nan])[1])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(stats.holm([])) == 0


# --- the judge


def test_judge_biases_show():
    first = [row for i in range(4) for row in both("win", "lose", prompt=f"p{i}")]  # always what came first
    assert stats.chose_first(first) == [True] * 8 == stats.chose_first([swapped(row) for row in first])
    assert stats.flips(stats.combine_orders(first)) == [True] * 4
    fair = both("win", "win") + both("lose", "lose", prompt="p2") + both("unscored", "win", prompt="p3")[:1]
    assert sorted(stats.chose_first(fair)) == [False, False, True, True]
    assert stats.flips(stats.combine_orders(fair)) == [False, False]
    assert stats.chose_first([]) == stats.flips([]) == []


def test_whether_the_longer_response_was_chosen():
    rows = [
        row for i, says in enumerate(("win", "win", "lose", "win", "tie")) for row in both(says, says, prompt=f"p{i}")
    ]
    lengths = {("s", f"p{i}", arm, 0): num for i in range(3) for arm, num in (("alignpro", 9), ("nan", 5))}
    lengths |= {("s", "p3", "alignpro", 0): 5, ("s", "p3", "nan", 0): 5}  # equal: says nothing; p4: unknown
    assert sorted(stats.chose_longer(stats.combine_orders(rows), lengths)) == [False, True, True]
    assert stats.chose_longer(stats.combine_orders(rows), {}) == []


# --- rewards


def test_mean_has_the_t_interval_by_hand():
    """1, 2, 3: mean 2, SD 1, t(0.975; 2) = 4.3027."""
    estimate = stats.mean([3, 1, np.nan, 2])
    assert estimate == (2.0, pytest.approx(2 - 4.302653 / 3**0.5), pytest.approx(2 + 4.302653 / 3**0.5), 3)
    assert stats.variance([3, 1, np.nan, 2]) == pytest.approx(1.0)


def test_means_without_spread_or_values_have_no_interval():
    for values, value in (([0.5], 0.5), ([0.1, 0.1, 0.1], 0.1)):
        estimate = stats.mean(values)
        assert estimate.value == pytest.approx(value) and math.isnan(estimate.low) and math.isnan(estimate.high)
    assert math.isnan(stats.mean([np.nan]).value) and stats.mean([]).num == 0
    assert math.isnan(stats.variance([1.0])) and stats.variance([2.0, 2.0]) == 0.0


def test_paired_difference_agrees_with_scipys_bca():
    values = np.random.default_rng(1).exponential(size=40)
    mine = stats.paired_difference(values + 3, np.full(40, 3.0), seed=0, num_resamples=40_000)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=2, batch=5000)
    interval = theirs.confidence_interval
    assert mine.value == pytest.approx(values.mean())
    assert (mine.low, mine.high) == pytest.approx((interval.low, interval.high), abs=0.02)


def test_pairing_needs_both_values_and_no_order():
    values, baseline = np.random.default_rng(0).normal(size=(2, 30))
    values[3], baseline[7] = np.nan, np.nan
    estimate = stats.paired_difference(values, baseline, seed=5)
    assert estimate.num == 28
    shuffled = np.random.default_rng(9).permutation(30)
    assert stats.paired_difference(values[shuffled], baseline[shuffled], seed=5) == estimate
    assert stats.paired_difference(values, baseline, seed=6) != estimate
    assert stats.paired_difference(baseline, values, seed=5).value == pytest.approx(-estimate.value)


def test_log_sd_ratio_of_doubled_values():
    """Doubling doubles the SD in every resample: the ratio is log 2 without spread, so there is no interval to give."""
    values = np.random.default_rng(0).normal(size=30)
    estimate = stats.log_sd_ratio(2 * values, values, seed=0)
    assert estimate.value == pytest.approx(math.log(2)) and math.isnan(estimate.low)
    other = np.random.default_rng(1).normal(size=30)
    wider = stats.log_sd_ratio(3 * other, values, seed=0)
    assert wider.low < wider.value < wider.high and wider.low > 0


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.4, 0.5], [np.nan, np.nan]])
def test_differences_without_spread_have_no_interval(values):
    baseline = [value - 0.1 for value in values]
    for estimate in (stats.paired_difference(values, baseline, 0), stats.log_sd_ratio(values, baseline, 0)):
        assert math.isnan(estimate.low) and math.isnan(estimate.high)


def test_sign_flips_by_hand():
    """Differences 1, 2, 3: only + + + and - - - are as extreme, 2 of 8; with -1 for 1 four are, both ways."""
    assert stats.sign_flip_test([1, 2, 3], [0, 0, 0], 0) == 2 / 8
    assert stats.sign_flip_test([-1, 2, 3], [0, 0, 0], 0) == 4 / 8
    assert stats.sign_flip_test([0.1, 0.1], [0.1, 0.1], 0) == 1.0
    assert math.isnan(stats.sign_flip_test([np.nan], [1.0], 0))


def test_sampled_sign_flips_agree_with_all_of_them():
    difference = np.random.default_rng(3).normal(0.3, 1, size=16)
    signs = np.array(list(itertools.product((1, -1), repeat=16)))
    exact = np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9)
    assert stats.sign_flip_test(difference, np.zeros(16), seed=0, num_resamples=20_000) == pytest.approx(
        exact, abs=0.015
    )


# --- the variance split


def test_variance_split_of_a_balanced_design_by_hand():
    """2 prompts x 2 rewrites x 2 responses."""
    values = [1, 3, 5, 7, 9, 11, 13, 15]
    prompts, rewrites = [0] * 4 + [1] * 4, [0, 0, 1, 1, 2, 2, 3, 3]
    # responses: deviations 1 in all 8: SS 8, df 4, MS 2. rewrites: means 2 6 10 14 around 4 and 12: SS 2 * 4 * 4 = 32,
    # df 2, MS 16, (16 - 2) / 2 = 7. prompts: means 4, 12 around 8: SS 4 * 2 * 16 = 128, df 1, (128 - 16) / 4 = 28.
    split = stats.split_variance(values, prompts, rewrites)
    assert split["between_responses"] == pytest.approx(2)
    assert split["between_rewrites"] == pytest.approx(7)
    assert split["between_prompts"] == pytest.approx(28)
    assert split["total"] == pytest.approx(24)


def test_variance_split_is_unbiased_for_unequal_groups():
    """Averaged over many draws of an unbalanced design, the estimates are the variances that were put in."""
    rng, design = (
        np.random.default_rng(0),
        [(p, f"{p}-{r}") for p in range(12) for r in range(1 + p % 3) for _ in range(1 + r)],
    )
    prompts, rewrites = zip(*design, strict=True)
    names = sorted(set(rewrites))
    found = []
    for _ in range(600):
        prompt_part, rewrite_part = (
            rng.normal(0, 3, size=12),
            dict(zip(names, rng.normal(0, 2, len(names)), strict=True)),
        )
        noise = rng.normal(0, 1, size=len(design))
        values = [prompt_part[p] + rewrite_part[r] + e for (p, r), e in zip(design, noise, strict=True)]
        found.append(stats.split_variance(values, prompts, rewrites))
    means = pd.DataFrame(found).mean()
    assert means["between_prompts"] == pytest.approx(9, rel=0.1)
    assert means["between_rewrites"] == pytest.approx(4, rel=0.1)
    assert means["between_responses"] == pytest.approx(1, rel=0.1)


def test_levels_that_the_data_cannot_tell_are_missing():
    one_each = stats.split_variance([1.0, 2.0, 4.0], "abc", "xyz")
    assert one_each["total"] == pytest.approx(7 / 3)
    assert all(math.isnan(one_each[name]) for name in one_each if name != "total")
    no_repeats = stats.split_variance([1, 3, 5, 7], "aabb", ["p", "q", "r", "s"])  # MS within 2, between 16
    assert math.isnan(no_repeats["between_rewrites"]) and math.isnan(no_repeats["between_responses"])
    assert no_repeats["within_prompts"] == pytest.approx(2) and no_repeats["between_prompts"] == pytest.approx(7)
    one_rewrite = stats.split_variance([1, 3, 5, 7], "aabb", "aabb")
    assert math.isnan(one_rewrite["between_rewrites"])
    assert one_rewrite["between_responses"] == pytest.approx(2) and one_rewrite["between_prompts"] == pytest.approx(7)
    assert all(math.isnan(part) for part in stats.split_variance([None, 1.0], "ab", "xy").values())

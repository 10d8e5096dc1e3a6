"""How often each interval of this project holds the truth, by simulation with fixed seeds. Nominal: 95%.

Most keep within 92% to 98%. Where that is not so, measured with 700 to 1,200 repeats:
- t interval of a mean: 92.2% for 20 exponential values, 94.4% for 100
- BCa of a paired difference: 91.5% for 20 normal and 91.3% for 20 exponential differences, 93% from 50 on
- BCa of the log SD ratio: 92.0% for 20 normal pairs, 90.2% for 50 pairs with heavy tails (t with 4 degrees of freedom)
- win rate at equal length: 92% to 93% with 20 prompts, and where 9 of 10 are won; 97.8% at 97 of 100 won
- Bradley-Terry with 20 prompts: 91% to 93% for arms of like strength, 92% to 96% with one that wins nearly all
"""

import numpy as np
import pytest
from scipy.special import expit, logit

from nbutils.analyse import ratings, stats

pytestmark = pytest.mark.slow
USUAL = (0.92, 0.98)


def coverage(draw, interval, truth, num_repeats: int, seed: int = 0) -> float:
    """Share of repeats whose interval holds the truth. draw(rng): data; interval(data, seed): (low, high)."""
    rng = np.random.default_rng(seed)
    ends = np.array([interval(draw(rng), repeat) for repeat in range(num_repeats)])
    return float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])))


def within(share: float, bounds) -> bool:
    return bounds[0] <= share <= bounds[1]


def test_a_narrow_interval_is_caught():
    """The harness itself: 85% intervals of a normal mean cover 85%, which no bound here accepts."""
    share = coverage(lambda rng: rng.normal(size=20), lambda values, _: stats.mean(values, 0.85)[1:3], 0, 1000)
    assert share == pytest.approx(0.85, abs=0.03) and not within(share, USUAL)


# --- means


@pytest.mark.parametrize(
    ("values", "num", "bounds"),
    [("normal", 5, USUAL), ("normal", 30, USUAL), ("exponential", 20, (0.90, 0.96)), ("exponential", 100, USUAL)],
)
def test_t_interval_of_a_mean(values, num, bounds):
    truth = 0.0 if values == "normal" else 1.0
    share = coverage(lambda rng: getattr(rng, values)(size=num), lambda data, _: stats.mean(data)[1:3], truth, 1000)
    assert within(share, bounds), share


# --- win rates


def draw_outcomes(rng, chance, ties):
    """Scores of 1, 1/2, 0 with mean `chance` (an array); a share ties * 2 min(p, 1 - p) are ties."""
    tie, drawn = ties * 2 * np.minimum(chance, 1 - chance), rng.random(np.shape(chance))
    return np.where(drawn < chance - tie / 2, 1.0, np.where(drawn < chance + tie / 2, 0.5, 0.0))


@pytest.mark.parametrize(
    ("num", "rate", "ties", "bounds"),
    [(20, 0.6, 0.3, USUAL), (50, 0.5, 0.6, USUAL), (100, 0.8, 0.3, USUAL), (50, 0.97, 0.3, (0.92, 1.0))],
)
def test_tango_interval_of_the_win_rate(num, rate, ties, bounds):
    def interval(scores, _):
        return stats.win_rate(scores == 1, scores == 0)[1:3]

    share = coverage(lambda rng: draw_outcomes(rng, np.full(num, rate), ties), interval, rate, 400)
    assert within(share, bounds), share


@pytest.mark.parametrize(
    ("num", "rate", "ties", "slope", "bounds"),
    [
        (20, 0.6, 0.3, 1.0, (0.90, 0.98)),
        (100, 0.8, 0.3, 1.0, USUAL),
        (50, 0.9, 0.1, 0.5, (0.90, 0.98)),
        (20, 0.97, 0.3, 0.5, (0.92, 1.0)),
    ],
)
def test_win_rate_at_equal_length(num, rate, ties, slope, bounds):
    """A judge with a liking for length, of an arm that is mostly longer: the raw rate is another one."""

    def draw(rng):
        length = rng.normal(0.6, 1, size=num)
        return draw_outcomes(rng, expit(logit(rate) + slope * np.tanh(length)), ties), 80 * length

    def interval(data, seed):
        return ratings.length_controlled_win_rate(*data, seed, num_draws=300)[1:3]

    share = coverage(draw, interval, rate, 200)
    assert within(share, bounds), share


def test_the_raw_win_rate_is_not_the_one_at_equal_length():
    """The case of 100 prompts above, read by the raw interval: it misses, so the test above can fail."""

    def draw(rng):
        return draw_outcomes(rng, expit(logit(0.8) + np.tanh(rng.normal(0.6, 1, size=100))), 0.3)

    assert coverage(draw, lambda scores, _: stats.win_rate(scores == 1, scores == 0)[1:3], 0.8, 100) < 0.9


# --- rewards


@pytest.mark.parametrize(
    ("noise", "num", "bounds"),
    [
        ("normal", 20, (0.88, 0.98)),
        ("normal", 50, USUAL),
        ("exponential", 20, (0.88, 0.96)),
        ("exponential", 60, USUAL),
    ],
)
def test_bca_interval_of_a_paired_difference(noise, num, bounds):
    def draw(rng):
        base = rng.normal(size=num)
        return base + getattr(rng, noise)(size=num), base

    truth = 0.0 if noise == "normal" else 1.0
    share = coverage(draw, lambda data, seed: stats.paired_difference(*data, seed, 599)[1:3], truth, 300)
    assert within(share, bounds), share


@pytest.mark.parametrize(
    ("heavy", "num", "bounds"),
    [(False, 20, (0.87, 0.97)), (False, 50, (0.90, 0.98)), (False, 100, USUAL), (True, 50, (0.82, 0.95))],
)
def test_bca_interval_of_the_log_sd_ratio(heavy, num, bounds):
    """Correlated pairs whose SDs are 0.7 and 1; heavy: Student's t with 4 degrees of freedom."""

    def draw(rng):
        values = rng.standard_t(4, size=(3, num)) if heavy else rng.normal(size=(3, num))
        return 0.7 * (values[0] + values[1]), values[0] + values[2]

    share = coverage(draw, lambda data, seed: stats.log_sd_ratio(*data, seed, 599)[1:3], np.log(0.7), 250)
    assert within(share, bounds), share


# --- ratings


PAIRS = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
DESIGN = np.array([[(arm == first) - (arm == second) for arm in "abcd"] for first, second in PAIRS], dtype=float)


def draw_round_robin(rng, skill, num, spread):
    """Scores (num, pairs): on each prompt, each arm's skill varies by `spread`, for all its pairs alike."""
    return draw_outcomes(rng, expit((np.array(skill) + rng.normal(0, spread, size=(num, 4))) @ DESIGN.T), 0.3)


def as_outcomes(scores):
    names = {1.0: "win", 0.5: "tie", 0.0: "lose"}
    keys = {"prompt_set": "s", "sample": 0}
    return [
        keys | {"prompt_id": f"p{i:03}", "arm_a": first, "arm_b": second, "outcome": names[score]}
        for i, line in enumerate(scores)
        for (first, second), score in zip(PAIRS, line, strict=True)
    ]


@pytest.mark.parametrize(
    ("skill", "num", "spread", "bounds"),
    [((0, 0.5, 1, 1.5), 50, 1.5, USUAL), ((0, 0.5, 1, 4.5), 20, 0.0, (0.90, 0.98))],
)
def test_bradley_terry_ratings_and_expected_win_rates(skill, num, spread, bounds):
    """Truth: the fit to a great many prompts. Mean over arms of each interval's coverage, and no arm far below."""
    many = draw_round_robin(np.random.default_rng(9), skill, 200_000, spread).mean(axis=0)
    truth = ratings.fit_logistic(DESIGN, many, 1 - many, np.ones((4, 4)))
    expected = np.append(truth, expit(truth[1:] - truth[0]))

    def interval(scores, seed):
        table = ratings.bradley_terry(as_outcomes(scores), "a", seed, num_draws=300).set_index("arm").sort_index()
        ends = [[*table[f"rating_{end}"], *table[f"expected_win_rate_{end}"][1:]] for end in ("low", "high")]
        return ends

    rng = np.random.default_rng(0)
    ends = np.array([interval(draw_round_robin(rng, skill, num, spread), repeat) for repeat in range(150)])
    shares = ((ends[:, 0] <= expected) & (expected <= ends[:, 1])).mean(axis=0)
    assert within(shares.mean(), bounds) and shares.min() > bounds[0] - 0.04, shares

"""Power by hand, by enumerating every outcome, and by simulation with the test that is really used."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from nbutils.analyse import power, stats
from nbutils.analyse.power import (
    expected_half_width,
    needed_table,
    power_sentence,
    power_table,
    prompts_needed,
    sign_test_power,
    smallest_win_rate,
)


@pytest.mark.parametrize("rate", [0.5, 0.7, 1.0, 0.1])
def test_power_of_six_prompts_by_hand(rate):
    """Only 6 to 0 is significant: 2 / 64 = 0.031, and 5 to 1 has 14 / 64. Five prompts never are: 2 / 32."""
    assert sign_test_power(6, rate) == pytest.approx(rate**6 + (1 - rate) ** 6)
    assert sign_test_power(5, rate) == sign_test_power(0, rate) == 0


def test_power_with_ties_by_hand():
    """6 prompts, half of them ties, win rate 0.6: a decided prompt is won with chance 1/2 + 0.1 / 0.5 = 0.7."""
    assert sign_test_power(6, 0.6, tie_rate=0.5) == pytest.approx(0.5**6 * (0.7**6 + 0.3**6))


@pytest.mark.parametrize(("num", "rate", "ties"), [(12, 0.7, 0.25), (15, 0.35, 0.1), (20, 0.75, 0.4)])
def test_power_equals_the_sum_over_every_outcome(num, rate, ties):
    """Over all (wins, ties, losses), with the multinomial's chance and the test of nbutils.stats itself."""
    chances, total = [rate - ties / 2, ties, 1 - rate - ties / 2], 0.0
    for win in range(num + 1):
        for lose in range(num + 1 - win):
            tied = num - win - lose
            p_value = stats.sign_test([1] * win + [0] * (num - win), [0] * (num - lose) + [1] * lose)
            if p_value <= 0.05:
                total += scipy.stats.multinomial.pmf([win, tied, lose], num, chances)
    assert sign_test_power(num, rate, ties) == pytest.approx(total, abs=1e-9)


def test_power_equals_the_share_of_simulated_experiments():
    rng, num, rate, ties = np.random.default_rng(0), 200, 0.585, 0.3
    drawn = rng.multinomial(num, [rate - ties / 2, ties, 1 - rate - ties / 2], size=4000)
    kinds, repeats = np.unique(drawn, axis=0, return_counts=True)
    p_values = [scipy.stats.binomtest(int(win), int(win + lose)).pvalue for win, _, lose in kinds]
    share = repeats @ (np.array(p_values) <= 0.05) / 4000
    assert sign_test_power(num, rate, ties) == pytest.approx(share, abs=0.02)


def test_level_is_kept_and_power_is_symmetric():
    for num in (7, 20, 93, 400):
        for ties in (0, 0.3):
            assert sign_test_power(num, 0.5, ties) <= 0.05
            assert sign_test_power(num, 0.62, ties) == pytest.approx(sign_test_power(num, 0.38, ties))
    assert sign_test_power(400, 0.5) > 0.03


def test_impossible_rates_stop():
    with pytest.raises(ValueError, match="wanted a win rate within 0.35 of 0.5, 30% being ties, got 0.9"):
        sign_test_power(50, 0.9, tie_rate=0.3)
    with pytest.raises(ValueError, match="tie rate from 0 to below 1, got 1"):
        smallest_win_rate(50, tie_rate=1.0)
    with pytest.raises(ValueError, match="other than 0.5"):
        prompts_needed(0.5)
    assert sign_test_power(50, 0.85, tie_rate=0.3) == pytest.approx(1, abs=1e-6)


def test_smallest_win_rate_of_six_prompts_by_hand():
    """p^6 + (1 - p)^6 = 0.8."""
    expected = scipy.optimize.brentq(lambda p: p**6 + (1 - p) ** 6 - 0.8, 0.5, 1)
    assert smallest_win_rate(6) == pytest.approx(expected, abs=1e-6)
    assert math.isnan(smallest_win_rate(5))


@pytest.mark.parametrize(("num", "ties"), [(30, 0.0), (80, 0.0), (200, 0.3), (1000, 0.6)])
def test_smallest_win_rate_has_that_power_and_is_near_the_normal_approximation(num, ties):
    rate = smallest_win_rate(num, ties)
    assert sign_test_power(num, rate, ties) == pytest.approx(0.8, abs=1e-6)
    normal = (1.95996 + 0.84162) * math.sqrt((1 - ties) / num) / 2
    assert 0.95 * normal < rate - 0.5 < 1.12 * normal  # the exact test's real level is below 5%


@pytest.mark.parametrize(
    ("rate", "ties"),
    [(0.55, 0), (0.57, 0.1), (0.6, 0), (0.6, 0.3), (0.4, 0.3), (0.7, 0), (0.7, 0.6), (0.95, 0), (1, 0)],
)
def test_prompts_needed_by_trying_every_number(rate, ties):
    num = prompts_needed(rate, ties)
    powers = [sign_test_power(n, rate, ties) for n in range(num + 150)]
    assert powers[num - 1] < 0.8 and min(powers[num:]) >= 0.8


def test_more_power_needs_more_prompts_and_ties_fewer():
    assert prompts_needed(0.6, power=0.9) > prompts_needed(0.6) > prompts_needed(0.6, level=0.1)
    assert prompts_needed(0.6) > prompts_needed(0.6, 0.3) > prompts_needed(0.65, 0.3)
    normal = (1.959964 * 0.5 + 0.841621 * math.sqrt(0.6 * 0.4)) ** 2 / 0.1**2  # 194
    assert normal < prompts_needed(0.6) < 1.1 * normal


@pytest.mark.parametrize(("num", "ties"), [(20, 0.0), (20, 0.5), (50, 0.0), (80, 0.3), (200, 0.3)])
def test_half_width_is_that_of_the_interval_averaged_over_outcomes(num, ties):
    win, lose = (part.ravel() for part in np.mgrid[: num + 1, : num + 1])
    win, lose = win[win + lose <= num], lose[win + lose <= num]
    chance = scipy.stats.multinomial.pmf(
        np.stack([win, num - win - lose, lose], axis=1), num, [0.5 - ties / 2, ties, 0.5 - ties / 2]
    )
    likely = chance > 1e-9
    low, high = stats.tango_interval(win[likely], lose[likely], num)
    (row,) = power_table([num], [ties]).to_dict("records")
    assert row["half_width"] == pytest.approx(chance[likely] @ (high - low) / 4, rel=0.03)


def test_half_width_without_ties_is_wilsons_at_one_half():
    """z / (2 sqrt(n + z^2)) without ties; 0.98 sqrt((1 - ties) / n) in the limit; none below two prompts."""
    assert expected_half_width(80) == pytest.approx(1.959964 / 2 / math.sqrt(80 + 1.959964**2))
    assert expected_half_width(2000, 0.3) == pytest.approx(stats.planning_half_width(2000, 0.3), rel=0.005)
    assert math.isnan(expected_half_width(1)) and expected_half_width(80, level=0.99) > expected_half_width(80)


def test_tables():
    table = power_table([5, 200], [0.0, 0.3])
    assert tuple(table) == power.POWER_COLUMNS and len(table) == 4
    last = table.iloc[3]
    assert (last["num_prompts"], last["tie_rate"]) == (200, 0.3)
    assert last["smallest_win_rate"] == pytest.approx(smallest_win_rate(200, 0.3))
    assert last["smallest_difference"] == pytest.approx(last["smallest_win_rate"] - 0.5)
    assert table["smallest_win_rate"].isna().tolist() == [True, True, False, False]
    needed = needed_table([0.6, 0.9], [0.0, 0.3])
    assert needed.loc[0.6, 0.3] == prompts_needed(0.6, 0.3) and needed.loc[0.9, 0.0] == prompts_needed(0.9)
    assert needed.isna().to_numpy().tolist() == [[False, False], [False, True]]


def test_sentence():
    assert power_sentence(200, 0.3) == (
        "200 prompts with 30% ties can tell apart 50% from 59% (80% power, 5% level)."  # 58.45%, rounded up
    )
    assert power_sentence(4) == "4 prompts with 0% ties cannot tell any win rate apart from 50% (80% power, 5% level)."
    assert power_sentence(100, 0.125, power=0.9, level=0.01).endswith("(90% power, 1% level).")
    assert "12.5% ties" in power_sentence(100, 0.125)

"""How many prompts a comparison needs, before any is judged: power of the exact sign test, width of the interval.

The prompt is the unit, each won, tied or lost once; unscored prompts do not count. Ties are a share tie_rate of the
prompts and the win rate is P(win) + P(tie) / 2, so that at win rate w a decided prompt is won with chance
1/2 + (w - 1/2) / (1 - tie_rate). Powers are exact: a sum over the number of decided prompts, and over the wins among
them. Only numbers beyond 6 standard deviations of the former are left out (chance below 1e-8).
"""

import math

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.stats

from nbutils.analyse.stats import NAN, tango_interval

POWER_COLUMNS = ("num_prompts", "tie_rate", "half_width", "smallest_win_rate", "smallest_difference")


def sign_test_power(num: int, win_rate: float, tie_rate: float = 0.0, level: float = 0.05) -> float:
    """Chance that stats.sign_test on `num` prompts gives p <= level, on either side, at that true win rate.

    ValueError for a tie_rate outside [0, 1), or a win rate that so many ties leave no room for.
    """
    if not 0 <= tie_rate < 1:
        raise ValueError(f"wanted a tie rate from 0 to below 1, got {tie_rate:g}")
    chance = 0.5 + (win_rate - 0.5) / (1 - tie_rate)  # of a win, where a prompt is decided
    if not -1e-12 <= chance <= 1 + 1e-12:
        room = (1 - tie_rate) / 2
        raise ValueError(
            f"wanted a win rate within {room:g} of 0.5, {100 * tie_rate:.3g}% being ties, got {win_rate:g}"
        )
    spread = 6 * math.sqrt(num * tie_rate * (1 - tie_rate)) + 1
    middle = num * (1 - tie_rate)
    decided = np.arange(max(0, math.floor(middle - spread)), min(num, math.ceil(middle + spread)) + 1)
    most = _most_losses(decided, level)
    chance = min(max(chance, 0.0), 1.0)
    rejected = scipy.stats.binom.cdf(most, decided, chance) + scipy.stats.binom.cdf(most, decided, 1 - chance)
    return float(scipy.stats.binom.pmf(decided, num, 1 - tie_rate) @ rejected)


def _most_losses(decided, level: float):
    """The most losses (or wins) among so many decided prompts that the two-sided exact test rejects; -1 for none."""
    most = scipy.stats.binom.ppf(level / 2, decided, 0.5)
    return np.where(2 * scipy.stats.binom.cdf(most, decided, 0.5) <= level, most, most - 1)


def smallest_win_rate(num: int, tie_rate: float = 0.0, power: float = 0.8, level: float = 0.05) -> float:
    """The lowest true win rate above 1/2 that the sign test detects with that power; NaN where even no loss is too few.

    By symmetry, one minus it is the highest below 1/2.
    """
    highest = 0.5 + (1 - tie_rate) / 2
    if sign_test_power(num, highest, tie_rate, level) < power:
        return NAN
    return float(
        scipy.optimize.brentq(lambda rate: sign_test_power(num, rate, tie_rate, level) - power, 0.5, highest, xtol=1e-9)
    )


def prompts_needed(win_rate: float, tie_rate: float = 0.0, power: float = 0.8, level: float = 0.05) -> int:
    """The fewest prompts from which on the sign test's power at that true win rate stays at `power` or above.

    Power over n is a saw, since the test's real level is: the first n that reaches it may be followed by one that does
    not. ValueError for a win rate of 1/2, which no number tells from itself.
    """
    if win_rate == 0.5:
        raise ValueError("wanted a win rate other than 0.5: no number of prompts tells it from even strength")
    enough = 8
    while sign_test_power(enough, win_rate, tie_rate, level) < power:
        enough *= 2
    low, high = 0, enough
    while high - low > 1:  # to the neighbourhood of the saw's crossing
        middle = (low + high) // 2
        reached = sign_test_power(middle, win_rate, tie_rate, level) >= power
        low, high = (low, middle) if reached else (middle, high)
    num = high + 20 + 2 * math.isqrt(high)  # beyond the saw's teeth, which reach about sqrt(n)
    while num > 1 and sign_test_power(num - 1, win_rate, tie_rate, level) >= power:
        num -= 1
    return num


def expected_half_width(num: int, tie_rate: float = 0.0, level: float = 0.95) -> float:
    """Of the interval of stats.win_rate where as many prompts are won as lost; NaN below two prompts.

    Within 3% of the mean over outcomes at even strength, from 20 prompts on; stats.planning_half_width is its limit.
    """
    if num < 2:
        return NAN
    decided = num * (1 - tie_rate) / 2
    low, high = tango_interval(decided, decided, num, level)
    return float(high - low) / 4  # the win rate is (1 + D) / 2


def power_table(nums, tie_rates, power: float = 0.8, level: float = 0.05) -> pd.DataFrame:
    """Rows of POWER_COLUMNS for each number of prompts and tie rate.

    half_width: of the interval of the win rate (with 1 - level) to expect near even strength; smallest_win_rate:
    detected with `power` by the sign test at `level`; smallest_difference: from 1/2.
    """
    rows = []
    for num in nums:
        for tie_rate in tie_rates:
            rate = smallest_win_rate(num, tie_rate, power, level)
            rows.append((num, tie_rate, expected_half_width(num, tie_rate, 1 - level), rate, rate - 0.5))
    return pd.DataFrame(rows, columns=list(POWER_COLUMNS))


def needed_table(win_rates, tie_rates, power: float = 0.8, level: float = 0.05) -> pd.DataFrame:
    """prompts_needed for each win rate (rows) and tie rate (columns); missing where the ties leave no room for it."""
    cells = {
        tie_rate: [
            prompts_needed(rate, tie_rate, power, level) if abs(rate - 0.5) <= (1 - tie_rate) / 2 + 1e-12 else None
            for rate in win_rates
        ]
        for tie_rate in tie_rates
    }
    table = pd.DataFrame(cells, index=pd.Index(list(win_rates), name="win_rate"), dtype="Int64")
    return table.rename_axis(columns="tie_rate")


def power_sentence(num: int, tie_rate: float = 0.0, power: float = 0.8, level: float = 0.05) -> str:
    """One sentence for a notebook, the detectable win rate rounded up to a whole percent."""
    start = f"{num} prompts with {100 * tie_rate:.3g}% ties"
    rate = smallest_win_rate(num, tie_rate, power, level)
    terms = f"({100 * power:.3g}% power, {100 * level:.3g}% level)"
    if math.isnan(rate):
        return f"{start} cannot tell any win rate apart from 50% {terms}."
    return f"{start} can tell apart 50% from {math.ceil(100 * rate - 1e-6)}% {terms}."

"""Win rates, intervals, tests and the variance split. The prompt is the unit: several samples of a prompt are averaged.

Choices that change a number:
1. A win needs both orders of a judged pair to agree; orders that disagree are a tie with `flipped` set; a pair with an
   order that is missing or unscored is unscored. Unscored pairs are counted, and enter no rate.
2. Win rate = P(win) + P(tie) / 2, with Tango's (1998) score interval for D = P(win) - P(lose), mapped by (1 + D) / 2.
3. With several samples per prompt, Tango's equation gets the mean P(win), P(lose) and an effective number of prompts
   between n and n times the samples: n times the variance that one sample per prompt would have, over the variance
   between prompts, the latter shrunk towards the former by 5 prior prompts. Simulated at n = 20 to 100 with 2 and 4
   samples and win rates of 0.6 to 0.98, the 95% interval covers 94% to 99%; t intervals fall to 60%.
4. No interval (NaN) below two prompts, or for the mean of equal values: they say nothing about spread.
5. Nothing depends on the order of the rows; every random draw follows from a seed argument.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
import scipy.stats

NAN = float("nan")
PRIOR_PROMPTS = 5
_KEPT_COUNTS = 20_000_000  # entries of resampling counts that are kept for the next arm: 40 MB
OPPOSITE = {"win": "lose", "lose": "win", "tie": "tie", "unscored": "unscored"}


class Estimate(NamedTuple):
    """A number with its interval; low and high are NaN where there is none. num: prompts it rests on."""

    value: float
    low: float
    high: float
    num: int


# --- verdicts -> outcomes


def combine_orders(verdicts) -> list[dict]:
    """One outcome per prompt x pair of arms x sample, from one verdict per order.

    verdicts: rows (dicts, records or a DataFrame) with prompt_id, prompt_set, arm_a, arm_b, sample, first_shown,
    verdict, and reason if there is one. Returns sorted dicts with prompt_set, prompt_id, arm_a, arm_b, sample, outcome
    (win, tie, lose or unscored, for arm_a), flipped (both orders scored, and they disagree), reason (if unscored).
    Identical duplicates merge; ValueError for duplicates that conflict, an unknown verdict, an arm against itself, or
    a first_shown that is neither arm.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in as_rows(verdicts):
        pair = sorted((row["arm_a"], row["arm_b"]))
        groups.setdefault((row["prompt_set"], row["prompt_id"], *pair, int(row["sample"])), []).append(row)
    return [_combine(rows) for _, rows in sorted(groups.items())]


def _combine(rows: list[dict]) -> dict:
    pairs = {(row["arm_a"], row["arm_b"]) for row in rows}
    arm_a, arm_b = min(pairs)  # the arms as given; sorted only if both ways of naming the pair occur
    by_first: dict[str, tuple] = {}
    for row in rows:
        verdict = _verdict_for(arm_a, row)
        known = by_first.setdefault(row["first_shown"], (verdict, row.get("reason")))
        if known[0] != verdict:
            raise ValueError(f"{name_of(row)}: wanted one verdict per order, got {known[0]} and {verdict}: judge again")
    first, second = (by_first.get(arm, ("unscored", "order missing")) for arm in (arm_a, arm_b))
    outcome, flipped = first[0] if first[0] == second[0] else "tie", first[0] != second[0]
    reason = None
    if "unscored" in (first[0], second[0]):
        reasons = {_text(why) for verdict, why in (first, second) if verdict == "unscored"}
        outcome, flipped, reason = "unscored", False, "; ".join(sorted(reasons))
    keys = {key: rows[0][key] for key in ("prompt_set", "prompt_id")}
    pair = {"arm_a": arm_a, "arm_b": arm_b, "sample": int(rows[0]["sample"])}
    return {**keys, **pair, "outcome": outcome, "flipped": flipped, "reason": reason}


def _verdict_for(arm: str, row: dict) -> str:
    """The row's verdict from the point of view of `arm`."""
    if row["verdict"] not in OPPOSITE:
        raise ValueError(f"{name_of(row)}: wanted verdict win, lose, tie or unscored, got {row['verdict']!r}")
    if row["arm_a"] == row["arm_b"]:
        raise ValueError(
            f"{name_of(row)}: wanted two arms, got {row['arm_a']!r} twice: give the copy a name of its own"
        )
    if row["first_shown"] not in (row["arm_a"], row["arm_b"]):
        raise ValueError(f"{name_of(row)}: wanted first_shown to be one of the two arms, got {row['first_shown']!r}")
    return row["verdict"] if row["arm_a"] == arm else OPPOSITE[row["verdict"]]


def name_of(row: dict) -> str:
    """Which verdict a row is, for errors."""
    return f"verdict on prompt {row['prompt_id']}, {row['arm_a']} against {row['arm_b']}, sample {row['sample']}"


def _text(reason) -> str:
    return reason if isinstance(reason, str) and reason else "no reason given"


def as_rows(rows) -> list[dict]:
    """Rows as dicts: of a DataFrame, of dataclasses, or dicts already."""
    if hasattr(rows, "to_dict"):
        return rows.to_dict("records")
    return [
        dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else row for row in rows
    ]


def outcomes_against(outcomes, baseline: str) -> list[dict]:
    """The outcomes that involve `baseline`, turned so that arm_b is the baseline."""
    kept = [row for row in outcomes if baseline in (row["arm_a"], row["arm_b"])]
    return [
        row
        if row["arm_b"] == baseline
        else {**row, "arm_a": row["arm_b"], "arm_b": baseline, "outcome": OPPOSITE[row["outcome"]]}
        for row in kept
    ]


def average_samples(outcomes) -> list[dict]:
    """One row per prompt x pair: win, tie, lose as shares of its num_samples scored samples, NaN without any."""
    groups: dict[tuple, list[str]] = {}
    for row in outcomes:
        key = (row["prompt_set"], row["prompt_id"], row["arm_a"], row["arm_b"])
        groups.setdefault(key, []).append(row["outcome"])
    names = ("prompt_set", "prompt_id", "arm_a", "arm_b")
    return [dict(zip(names, key, strict=True)) | _shares(found) for key, found in sorted(groups.items())]


def _shares(found: list[str]) -> dict:
    scored = len(found) - found.count("unscored")
    shares = {name: found.count(name) / scored if scored else NAN for name in ("win", "tie", "lose")}
    return {**shares, "num_samples": scored, "num_unscored": found.count("unscored")}


# --- win rate


def tango_interval(num_win, num_lose, num, level: float = 0.95):
    """Tango's score interval for D = P(win) - P(lose): the D that a score test with that level does not reject.

    num_win, num_lose, num: counts (arrays broadcast, fractions allowed), num > 0. Returns (low, high) in [-1, 1].
    Solves n (D_hat - D)^2 = z^2 (2 q + D (1 - D)), q being the constrained estimate of P(lose) (Tango 1998, Statistics
    in Medicine 17, 891-908).
    """
    win, lose, num = (np.asarray(part, dtype=float) for part in np.broadcast_arrays(num_win, num_lose, num))
    z = scipy.stats.norm.ppf((1 + level) / 2)
    return -_tango_upper(lose, win, num, z), _tango_upper(win, lose, num, z)


def _tango_upper(win, lose, num, z: float):
    inside, outside = (win - lose) / num, np.ones_like(num)
    for _ in range(60):  # bisection, to the last bit
        middle = (inside + outside) / 2
        b = (2 * num - win + lose) * middle - win - lose
        root = np.sqrt(np.maximum(b * b + 8 * num * lose * middle * (1 - middle), 0))
        variance = 2 * (root - b) / (4 * num) + middle * (1 - middle)
        accepted = num * (middle - (win - lose) / num) ** 2 <= z * z * variance
        inside, outside = np.where(accepted, middle, inside), np.where(accepted, outside, middle)
    return inside


def wilson_interval(share: float, num: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's (1927) score interval of a share of `num` prompts; NaN below two, as everywhere."""
    if num < 2:
        return NAN, NAN
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return 0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half  # these two exactly


def win_rate(win, lose, num_samples=None, level: float = 0.95) -> Estimate:
    """P(win) + P(tie) / 2 over prompts, with the mapped Tango interval (choice 3 above for several samples).

    win, lose: (num_prompts,) share of a prompt's samples won and lost; NaN for an unscored prompt, which is left out
    num_samples: (num_prompts,) scored samples behind each share; None: one each
    """
    win, lose = np.asarray(win, dtype=float), np.asarray(lose, dtype=float)
    scored = ~(np.isnan(win) | np.isnan(lose))
    win, lose, num = win[scored], lose[scored], int(scored.sum())
    if num == 0:
        return Estimate(NAN, NAN, NAN, 0)
    share_win, share_lose = math.fsum(win) / num, math.fsum(lose) / num
    value = (1 + share_win - share_lose) / 2
    if num < 2:
        return Estimate(value, NAN, NAN, num)
    samples = 1.0 if num_samples is None else float(np.asarray(num_samples, dtype=float)[scored].mean())
    effective = num * _sample_gain(np.sort(win - lose), share_win, share_lose, samples)
    low, high = tango_interval(share_win * effective, share_lose * effective, effective, level)
    return Estimate(value, float(1 + low) / 2, float(1 + high) / 2, num)


def _sample_gain(difference, share_win: float, share_lose: float, samples: float) -> float:
    """By how much averaging samples multiplies the number of prompts: 1 with one sample, at most `samples`."""
    single = share_win + share_lose - (share_win - share_lose) ** 2
    if samples <= 1 or single <= 0:
        return 1.0
    freedom = len(difference) - 1
    shrunk = (freedom * np.var(difference, ddof=1) + PRIOR_PROMPTS * single) / (freedom + PRIOR_PROMPTS)
    return float(np.clip(single / shrunk, 1.0, samples))


def win_rate_bounds(win, lose) -> tuple[float, float]:
    """(worst, best) win rate if every unscored prompt (NaN) were lost, or won. NaN without prompts."""
    win, lose = np.asarray(win, dtype=float), np.asarray(lose, dtype=float)
    if len(win) == 0:
        return NAN, NAN
    points = (1 + win - lose) / 2
    worst, best = (math.fsum(np.where(np.isnan(points), filler, points)) / len(points) for filler in (0.0, 1.0))
    return worst, best


def planning_half_width(num: int, tie_rate: float = 0.0) -> float:
    """Half-width of the 95% win-rate interval to expect from `num` prompts at even strength; NaN without prompts."""
    return 0.98 * math.sqrt((1 - tie_rate) / num) if num > 0 else NAN


def sign_test(win, lose) -> float:
    """Exact two-sided p-value of as many prompts won as lost; ties and unscored (NaN) left out, 1 if none is left."""
    difference = np.asarray(win, dtype=float) - np.asarray(lose, dtype=float)
    num_win, num_lose = int((difference > 0).sum()), int((difference < 0).sum())
    return float(scipy.stats.binomtest(num_win, num_win + num_lose).pvalue) if num_win + num_lose else 1.0


def holm(p_values) -> np.ndarray:
    """Holm's adjusted p-values, in the order given. NaN stays NaN and is no test."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)[: int((~np.isnan(p_values)).sum())]  # NaN sorts last
    adjusted = np.full(len(p_values), NAN)
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


# --- the judge


def flips(outcomes) -> list[bool]:
    """Of each scored pair, whether its verdict changed with the order."""
    return [row["flipped"] for row in outcomes if row["outcome"] != "unscored"]


def chose_first(verdicts) -> list[bool]:
    """Of each decided verdict (single orders), whether it chose the response shown first; half do without a bias."""
    decided = [row for row in as_rows(verdicts) if row["verdict"] in ("win", "lose")]
    return [(row["verdict"] == "win") == (row["first_shown"] == row["arm_a"]) for row in decided]


def chose_longer(outcomes, lengths: dict) -> list[bool]:
    """Of each decided pair, whether the longer response won.

    lengths: {(prompt_set, prompt_id, arm, sample): tokens}; pairs of equal or unknown length are left out
    """
    longer = []
    for row in outcomes:
        arms = (row["arm_a"], row["arm_b"])
        a, b = (lengths.get((row["prompt_set"], row["prompt_id"], arm, row["sample"]), NAN) for arm in arms)
        if row["outcome"] in ("win", "lose") and (a < b or a > b):  # neither for NaN
            longer.append((row["outcome"] == "win") == (a > b))
    return longer


# --- rewards


def mean(values, level: float = 0.95) -> Estimate:
    """Mean of per-prompt values with a t interval. NaN values are left out; num tells how many remained."""
    values = _present(values)
    num = len(values)
    value = math.fsum(values) / num if num else NAN
    if num < 2 or values[0] == values[-1]:
        return Estimate(value, NAN, NAN, num)
    half = float(scipy.stats.t.ppf((1 + level) / 2, num - 1) * values.std(ddof=1) / math.sqrt(num))
    return Estimate(value, value - half, value + half, num)


def variance(values) -> float:
    """Unbiased variance (ddof 1) of the values that are there; NaN below two."""
    values = _present(values)
    return float(values.var(ddof=1)) if len(values) > 1 else NAN


def _present(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return np.sort(values[~np.isnan(values)])


def paired_difference(values, baseline, seed: int, num_resamples: int = 9999, level: float = 0.95) -> Estimate:
    """Mean of values - baseline over prompts that have both, with a BCa interval. Aligned arrays (num_prompts,)."""
    pairs = _pairs(values, baseline)
    rows = np.column_stack([np.ones(len(pairs)), pairs[:, 0] - pairs[:, 1]])
    return bca(lambda sums: sums[..., 1] / sums[..., 0], rows, seed, num_resamples, level)


def log_sd_ratio(values, baseline, seed: int, num_resamples: int = 9999, level: float = 0.95) -> Estimate:
    """log(SD of values / SD of baseline), below 0 where values vary less; the same resamples as paired_difference."""
    pairs = _pairs(values, baseline)
    centred = pairs - pairs.mean(axis=0) if len(pairs) else pairs

    def statistic(sums):
        num, total, squares = sums[..., :1], sums[..., 1:3], sums[..., 3:]
        with np.errstate(divide="ignore", invalid="ignore"):
            variances = np.maximum(squares - total**2 / num, 0) / (num - 1)
            return np.log(variances[..., 0] / variances[..., 1]) / 2

    return bca(statistic, np.column_stack([np.ones(len(pairs)), centred, centred**2]), seed, num_resamples, level)


def _pairs(values, baseline) -> np.ndarray:
    pairs = np.column_stack([np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)])
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    return pairs[np.lexsort(pairs.T)]  # any order of the prompts gives the same resamples


def bca(statistic, rows: np.ndarray, seed: int, num_resamples: int = 9999, level: float = 0.95) -> Estimate:
    """Bias-corrected and accelerated bootstrap (Efron 1987) over prompts, of a function of sums over prompts.

    rows: (num_prompts, k) what each prompt adds to the sums; statistic: sums (..., k) -> (...). No interval below two
    prompts, or where resamples are all equal, or the statistic is undefined on one of them.
    """
    num, total = len(rows), rows.sum(axis=0)
    value = float(statistic(total)) if num else NAN
    if num < 2 or not math.isfinite(value):
        return Estimate(value if math.isfinite(value) else NAN, NAN, NAN, num)
    draws, left_out = statistic(_resampled_sums(rows, seed, num_resamples)), statistic(total - rows)
    defined = np.isfinite(draws).all() and np.isfinite(left_out).all()
    if not defined or np.ptp(draws) <= 1e-12 * max(1.0, abs(value)):
        return Estimate(value, NAN, NAN, num)
    below = (np.sum(draws < value) + np.sum(draws == value) / 2) / num_resamples
    bias = scipy.stats.norm.ppf(np.clip(below, 1 / num_resamples, 1 - 1 / num_resamples))
    spread = left_out.mean() - left_out
    skew = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = bias + scipy.stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(draws, scipy.stats.norm.cdf(bias + z / (1 - skew * z)))
    return Estimate(value, float(low), float(high), num)


def _resampled_sums(rows: np.ndarray, seed: int, num_resamples: int) -> np.ndarray:
    """(num_resamples, k) sums of rows over prompts drawn with replacement."""
    num = len(rows)
    few = num * num_resamples <= _KEPT_COUNTS
    chunks = _kept_counts(seed, num, num_resamples) if few else _counts(seed, num, num_resamples)
    return np.concatenate([counts.astype(float) @ rows for counts in chunks])


def _counts(seed: int, num: int, num_resamples: int):
    """How often each of num prompts is in each resample: (resamples, num), some hundred resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, 500):
        size = min(500, num_resamples - start)
        drawn = rng.integers(num, size=(size, num)) + num * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num).reshape(size, num)


@functools.lru_cache(maxsize=2)
def _kept_counts(seed: int, num: int, num_resamples: int) -> list[np.ndarray]:
    """The same, kept: many arms are resampled alike."""
    return [counts.astype(np.uint16) for counts in _counts(seed, num, num_resamples)]


def sign_flip_test(values, baseline, seed: int, num_resamples: int = 9999) -> float:
    """Two-sided p-value of the mean paired difference under random signs; exact up to 13 prompts, NaN without any."""
    pairs = _pairs(values, baseline)
    difference = np.sort(pairs[:, 0] - pairs[:, 1])
    num = len(difference)
    if num == 0:
        return NAN
    observed = abs(difference.sum()) * (1 - 1e-12)
    if num <= 13:
        signs = 1 - 2 * ((np.arange(2**num)[:, None] >> np.arange(num)) & 1)
        return float(np.mean(np.abs(signs @ difference) >= observed))
    few = num * num_resamples <= _KEPT_COUNTS
    chunks = _kept_signs(seed, num, num_resamples) if few else _signs(seed, num, num_resamples)
    hits = sum(int(np.sum(np.abs(signs.astype(float) @ difference) >= observed)) for signs in chunks)
    return (hits + 1) / (num_resamples + 1)


def _signs(seed: int, num: int, num_resamples: int):
    """Random signs (resamples, num), some hundred resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, 500):
        yield rng.integers(0, 2, size=(min(500, num_resamples - start), num)) * 2 - 1


@functools.lru_cache(maxsize=2)
def _kept_signs(seed: int, num: int, num_resamples: int) -> list[np.ndarray]:
    """The same, kept: many arms are tested alike."""
    return [signs.astype(np.int8) for signs in _signs(seed, num, num_resamples)]


def split_variance(values, prompts, rewrites) -> dict[str, float]:
    """Variance of rewards between prompts, between a prompt's rewrites, and between a rewrite's responses.

    values: (num_answers,) rewards, NaN left out; prompts, rewrites: labels of the same length. Unbiased nested ANOVA
    estimates for unequal group sizes (Searle 1971, ch. 11), so one can fall below 0. Returns between_prompts,
    between_rewrites, between_responses, within_prompts (the last two levels together) and total (ddof 1). A level that
    the data cannot tell is NaN: without a rewrite answered twice, rewrites and responses only show as within_prompts;
    with one rewrite per prompt, between_prompts holds both; with one answer per prompt there is only the total.
    """
    names = ("between_prompts", "between_rewrites", "between_responses", "within_prompts", "total")
    triples = zip(map(str, prompts), map(str, rewrites), np.asarray(values, dtype=float), strict=True)
    rows = sorted(triple for triple in triples if not math.isnan(triple[2]))
    y = np.array([row[2] for row in rows])
    if len(rows) < 2:
        return dict.fromkeys(names, NAN)
    prompt = np.unique([row[0] for row in rows], return_inverse=True)[1]
    labels = {key: i for i, key in enumerate(dict.fromkeys(row[:2] for row in rows))}
    rewrite = np.array([labels[row[:2]] for row in rows])
    prompts_part, within = _two_levels(y, prompt)
    rewrites_part = responses_part = NAN
    if rewrite.max() + 1 < len(y):
        prompts_part, rewrites_part, responses_part = _three_levels(y, prompt, rewrite)
    parts = (prompts_part, rewrites_part, responses_part, within, float(y.var(ddof=1)))
    return dict(zip(names, parts, strict=True))


def _two_levels(y, group) -> tuple[float, float]:
    """(between, within) variance; NaN where there are too few groups, or no group with two values."""
    sizes, num = np.bincount(group), len(y)
    means = np.bincount(group, y) / sizes
    within = float(((y - means[group]) ** 2).sum() / (num - len(sizes))) if num > len(sizes) else NAN
    if len(sizes) < 2:
        return NAN, within
    squares = (sizes * (means - y.mean()) ** 2).sum() - (len(sizes) - 1) * within
    return float(squares / (num - (sizes**2).sum() / num)), within


def _three_levels(y, prompt, rewrite) -> tuple[float, float, float]:
    sizes, num = np.bincount(prompt), len(y)
    counts, first = np.bincount(rewrite), np.unique(rewrite, return_index=True)[1]
    owner = prompt[first]  # the prompt of each rewrite
    responses = float(((y - (np.bincount(rewrite, y) / counts)[rewrite]) ** 2).sum() / (num - len(counts)))
    if len(counts) == len(sizes):
        return _two_levels(y, prompt)[0], NAN, responses
    means, rewrite_means = np.bincount(prompt, y) / sizes, np.bincount(rewrite, y) / counts
    shared = (counts**2 / sizes[owner]).sum()
    squares = (counts * (rewrite_means - means[owner]) ** 2).sum()
    rewrites = float((squares - (len(counts) - len(sizes)) * responses) / (num - shared))
    if len(sizes) < 2:
        return NAN, rewrites, responses
    squares = (sizes * (means - y.mean()) ** 2).sum() - (len(sizes) - 1) * responses
    squares -= (shared - (counts**2).sum() / num) * rewrites
    return float(squares / (num - (sizes**2).sum() / num)), rewrites, responses

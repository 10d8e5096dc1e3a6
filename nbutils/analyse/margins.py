"""What a reward model's margins on held-out pairs say: accuracy, loss, calibration.

A margin is r(x, y_u) − r(x, y_v), the better response first. Under Bradley–Terry σ(|margin|) is the model's own chance
of having picked the right side. Pairs count as independent; margins that are missing or not finite are left out.
"""

import numpy as np
import scipy.special
import scipy.stats

from nbutils.analyse.stats import NAN, Estimate

MOST_BINS, PAIRS_PER_BIN = 10, 20


def finite(margins) -> np.ndarray:
    """The margins that are numbers, (num_pairs,) sorted by size, so that no result depends on their order."""
    values = np.array([NAN if margin is None else margin for margin in margins], dtype=float)
    values = np.sort(values[np.isfinite(values)])
    return values[np.argsort(np.abs(values), kind="stable")]


def accuracy(margins, level: float = 0.95) -> Estimate:
    """Share of pairs with a margin above 0, with its Wilson interval; no interval (NaN) below two pairs."""
    values = finite(margins)
    right, num = int((values > 0).sum()), len(values)
    if num < 2:
        return Estimate(right / num if num else NAN, NAN, NAN, num)
    interval = scipy.stats.binomtest(right, num).proportion_ci(level, method="wilson")
    return Estimate(right / num, float(interval.low), float(interval.high), num)


def log_loss(margins) -> float:
    """Align-Pro Eq. (1) on these pairs: mean of −log σ(margin), in nats; log 2 for a model that knows nothing."""
    values = finite(margins)
    return float(np.logaddexp(0.0, -values).mean()) if len(values) else NAN


def calibration_bins(margins, num_bins: int | None = None) -> list[dict]:
    """Bins of equal numbers of pairs by |margin|: predicted (mean σ(|margin|)), share right with interval, num.

    num_bins: at most; None: as many as hold PAIRS_PER_BIN each, between 1 and MOST_BINS.
    """
    values = finite(margins)
    wanted = num_bins or min(MOST_BINS, max(1, len(values) // PAIRS_PER_BIN))
    bins = [part for part in np.array_split(values, wanted) if len(part)]
    predicted = [float(scipy.special.expit(np.abs(part)).mean()) for part in bins]
    shares = [accuracy(part) for part in bins]
    return [
        {"predicted": chance, "right": share.value, "right_low": share.low, "right_high": share.high, "num": share.num}
        for chance, share in zip(predicted, shares, strict=True)
    ]


def calibration_error(margins, num_bins: int | None = None) -> float:
    """Expected calibration error: mean of |share right − predicted| over calibration_bins, weighted by their pairs."""
    bins = calibration_bins(margins, num_bins)
    total = sum(each["num"] for each in bins)
    return sum(each["num"] * abs(each["right"] - each["predicted"]) for each in bins) / total if total else NAN

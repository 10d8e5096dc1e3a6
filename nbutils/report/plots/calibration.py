"""A reward model on held-out pairs: does it pick the better response, and as often as it says?"""

import matplotlib
import numpy as np

from nbutils.analyse import margins
from nbutils.report.plots.parts import INK, OUTCOME_COLORS, counted, frame, new_figure, nothing, numbers

_RIGHT, _WRONG = OUTCOME_COLORS["win"], OUTCOME_COLORS["lose"]
_NEEDED = 2  # pairs, below which there is no interval


def reward_calibration(held_out):
    """Share right against the predicted share, in bins of equal numbers of pairs, and the histogram of margins.

    held_out: rows prompt_id, margin (r of the better response − r of the other, reward-model units); margins that are
    missing or not finite are counted, not drawn. The prediction is σ(|margin|): a calibrated model is on the diagonal.
    """
    title, table = "Reward model on held-out pairs", frame(held_out)
    values = margins.finite(numbers(table, "margin"))
    if len(values) < _NEEDED:
        return nothing(title, f"{counted(len(values), 'held-out pair')} with a margin: at least {_NEEDED} are needed")
    figure = new_figure(9.6, 3.3, title, _subtitle(table, values))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    _draw_calibration(left, margins.calibration_bins(values))
    _draw_margins(right, values)
    return figure


def _subtitle(table, values) -> str:
    share, num_missing = margins.accuracy(values), len(table) - len(values)
    of = f" of {counted(table['prompt_id'].nunique(), 'prompt')}" if "prompt_id" in table else ""
    without = f", {num_missing:,} more without a margin" if num_missing else ""
    return (
        f"accuracy {100 * share.value:.1f}% [{100 * share.low:.1f}, {100 * share.high:.1f}] · "
        f"n = {counted(len(values), 'pair')}{of}{without} · log loss {margins.log_loss(values):.3f} nats "
        f"(chance: 0.693) · calibration error {100 * margins.calibration_error(values):.1f} points · "
        "95% Wilson intervals"
    )


def _draw_calibration(axis, bins: list[dict]) -> None:
    axis.plot([50, 100], [50, 100], color="#999999", lw=1, ls=(0, (3, 2)), zorder=1)
    for each in bins:
        x, low, high = (100 * each[name] for name in ("predicted", "right_low", "right_high"))
        if np.isfinite([low, high]).all():
            axis.plot([x, x], [low, high], color=INK, lw=2.2, alpha=0.35, solid_capstyle="butt", zorder=2)
        axis.plot(x, 100 * each["right"], "o", ms=6, color=INK, zorder=3)
    lowest = 100 * min(np.nanmin([each["right"], each["right_low"]]) for each in bins)
    axis.set(xlim=(48, 102), ylim=(min(50, lowest) - 4, 104), xticks=range(50, 101, 10))
    axis.set_title("Calibration (dashed: as predicted)", pad=6)
    sizes = sorted({each["num"] for each in bins})
    axis.set_xlabel(f"predicted σ(|margin|) (%), a dot for {' or '.join(f'{size:,}' for size in sizes)} pairs")
    axis.set_ylabel("pairs picked right (%)")
    axis.tick_params(length=0)


def _draw_margins(axis, values) -> None:
    edges, right = _edges(values), values > 0
    wrong = np.minimum(values[~right], -1e-9 * (edges[1] - edges[0]))  # a margin of 0 lies left of the line
    for part, color in ((wrong, _WRONG), (values[right], _RIGHT)):
        axis.hist(part, edges, color=color, edgecolor="white", lw=0.6)
    axis.axvline(0, color=INK, lw=1.2)
    axis.set_title("Margins", pad=6)
    place = {"transform": axis.transAxes, "ha": "right", "size": 9.5, "weight": "bold"}
    axis.text(0.76, 1.03, f"{len(wrong):,} wrong", color=_WRONG, **place)
    axis.text(1.0, 1.03, f"{right.sum():,} right", color=_RIGHT, **place)
    axis.set(xlabel="r(x, better) − r(x, worse) (reward-model units)", ylabel="pairs")
    axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    axis.tick_params(length=0)
    axis.grid(False, axis="x")


def _edges(values) -> np.ndarray:
    """Edges of about 24 equal bins, one of them exactly 0, so that no bar holds both signs."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    width = (high - low) / 24 or 1.0
    return np.arange(min(np.floor(low / width), -1), max(np.ceil(high / width), 1) + 1) * width

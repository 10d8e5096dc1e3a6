"""The reward-KL frontier: what Eq. 9 allows at each KL, and where the trained prompter got to."""

import textwrap

import numpy as np
import pandas as pd

from nbutils.analyse import tables
from nbutils.report.plots.parts import (
    FAINT,
    INK,
    REWARD_UNITS,
    arm_color,
    frame,
    named,
    new_figure,
    nothing,
    num_columns,
    numbers,
    room_on_the_right,
    short,
    span,
)

_TITLE = "Reward–KL frontier"
_MOST_NAMES = 3  # of trainings that are not joined
_LETTERS = 52  # of a line over a panel


def reward_kl_frontier(curves, points, lines=None):
    """The band that attainable reward lies in, by KL; trained policies as points on the way, other arms as lines.

    curves: rows of frontier.attainable, points: rows of frontier.points with `arm` and `label` (empty: no text beside
    it), lines: rows of arm and reward; all with a column `panel` (one panel each; absent: one). Each KL axis says what
    it is per (points' kl_per, rewrite or response): nats of the two do not compare.
    """
    curves, points = (named(frame(each), "panel", "arm", "label", "kl_per", "sampling") for each in (curves, points))
    lines = named(frame(lines if lines is not None else []), "panel", "arm")
    if not len(points) or not np.isfinite(numbers(points, "kl")).any():
        return nothing(_TITLE, "no samples of the untrained and the trained policy")
    panels = list(dict.fromkeys(points["panel"]))
    columns = num_columns(len(panels))
    rows = -(-len(panels) // columns)
    arms = tables.arm_order([*points["arm"], *lines["arm"]])
    key = {arm: arm_color(arm) for arm in arms if arm}
    figure = new_figure(max(6.8, 5.2 * columns), 3.7 * rows, _TITLE, _subtitle(curves, points), key)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        _panel(axis, *(each[each["panel"] == panel] for each in (curves, points, lines)))
        axis.set_title(textwrap.fill(short(panel, _LETTERS * 3), _LETTERS), pad=6)
    for axis in axes[::columns]:
        axis.set_ylabel(f"mean {REWARD_UNITS}")
    return figure


def _subtitle(curves: pd.DataFrame, points: pd.DataFrame) -> str:
    apart = " · nats of rewrites and of responses do not compare" if points["kl_per"].nunique() > 1 else ""
    samplings = [each for each in dict.fromkeys(points["sampling"]) if each]
    sampled = f" · all sampled at {samplings[0]}" if len(samplings) == 1 else ""
    crossed = "reward" in curves and np.isfinite(numbers(curves, "reward")).any()
    between = (
        "between the line (samples cross-fitted) and the dashes (noise counted as effect), pale with 95% bootstrap ends"
        if crossed
        else "with noise counted as effect: one response to each rewrite does not tell it apart"
    )
    return (
        f"n = {span(numbers(points, 'num_prompts'))} held-out prompts{sampled} · grey: attainable by Lemma 5.1, "
        f"{between} · dotted: checkpoints in order, or trainings by λ · crosses: 95% intervals over prompts{apart}"
    )


def _panel(axis, curve: pd.DataFrame, points: pd.DataFrame, lines: pd.DataFrame) -> None:
    if len(curve):
        _attainable(axis, curve.sort_values("kl"))
    for arm in tables.arm_order(points["arm"]):
        _path(axis, points[points["arm"] == arm], arm_color(arm) if arm else INK)
    for arm, reward in zip(lines["arm"], numbers(lines, "reward"), strict=True):
        axis.axhline(reward, color=arm_color(arm), lw=1.3, ls=(0, (1, 1.2)), zorder=1)
        place = {"transform": axis.get_yaxis_transform(), "va": "center", "size": 8.5, "color": arm_color(arm)}
        axis.text(1.01, reward, short(arm), **place)
    axis.set_xlabel(f"KL to the untrained policy (nats per {points['kl_per'].iloc[0] or 'sequence'})")
    axis.tick_params(length=0, labelleft=True)
    room_on_the_right([axis], 0.06)


def _attainable(axis, curve: pd.DataFrame) -> None:
    kl_high, high = numbers(curve, "kl_plug_in"), numbers(curve, "reward_plug_in")
    axis.plot(kl_high, high, color="#7d7d7d", lw=1, ls=(0, (3, 2)), zorder=2)
    kl, low = numbers(curve, "kl"), numbers(curve, "reward")
    if np.isfinite(low).any():
        axis.plot(kl, low, color="#7d7d7d", lw=2, zorder=2)
        at = np.union1d(kl, kl_high)
        between = [np.interp(at, *each) for each in ((kl, low), (kl_high, high))]
        ends = (kl, numbers(curve, "reward_low")), (kl_high, numbers(curve, "reward_plug_in_high"))
        axis.fill_between(at, *between, color="#b9b9b9", alpha=0.6, lw=0, zorder=1)
        axis.fill_between(at, *(np.interp(at, *each) for each in ends), color="#b9b9b9", alpha=0.25, lw=0, zorder=1)
    place = {"textcoords": "offset points", "ha": "left", "va": "top", "size": 8.5, "color": FAINT}
    middle = min(int(np.searchsorted(kl_high, 0.12 * kl_high[-1])), len(kl_high) - 1)  # a flat curve ends at ±0
    axis.annotate("attainable", (kl_high[middle], high[middle]), (9, -6), **place)


def _path(axis, points: pd.DataFrame, color: str) -> None:
    """Points in their order, those with a label large, with both intervals; a line through them where they are joined.

    Trainings that differ by seed or algorithm are not joined; more than _MOST_NAMES of them stand without their names.
    """
    kl, reward = numbers(points, "kl"), numbers(points, "reward")
    joined = "joined" not in points or points["joined"].all()
    if joined:
        axis.plot(kl, reward, color=color, lw=1.1, alpha=0.55, ls=(0, (1, 1.5)), zorder=3)
    axis.plot(kl, reward, "o", ms=3.4, color=color, mec="white", mew=0.5, zorder=4)
    large = points[points["label"] != ""]
    for row in large.to_dict("records"):
        x, y = row["kl"], row["reward"]
        axis.plot([row["kl_low"], row["kl_high"]], [y, y], color=color, lw=1.6, alpha=0.5, zorder=3)
        axis.plot([x, x], [row["reward_low"], row["reward_high"]], color=color, lw=1.6, alpha=0.5, zorder=3)
        axis.plot(x, y, "o", ms=7, color=color, mec="white", mew=0.9, zorder=5)
        if joined or len(large) <= _MOST_NAMES:
            place = {"textcoords": "offset points", "ha": "left", "va": "top", "size": 8.5, "color": color}
            axis.annotate(short(row["label"]), (x, y), (4, -6), **place, zorder=6)

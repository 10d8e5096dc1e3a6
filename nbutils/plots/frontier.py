"""The reward-KL frontier: what Eq. 9 allows at each KL, and where the trained prompter got to."""

import numpy as np
import pandas as pd

from nbutils import tables
from nbutils.plots.parts import (
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


def reward_kl_frontier(curves, points, lines=None):
    """Attainable reward by KL as a curve with its band, trained policies as points on the way, other arms as lines.

    curves: rows of frontier.attainable, points: rows of frontier.points with `arm` and `label` (empty: no text beside
    it), lines: rows of arm and reward; all with a column `panel` (one panel each; absent: one).
    """
    curves, points = (named(frame(each), "panel", "arm", "label") for each in (curves, points))
    lines = named(frame(lines if lines is not None else []), "panel", "arm")
    if not len(points) or not np.isfinite(numbers(points, "kl")).any():
        return nothing(_TITLE, "no samples of the untrained and the trained policy")
    panels = list(dict.fromkeys(points["panel"]))
    columns = num_columns(len(panels))
    rows = -(-len(panels) // columns)
    arms = tables.arm_order([*points["arm"], *lines["arm"]])
    key = {arm: arm_color(arm) for arm in arms if arm}
    figure = new_figure(max(6.8, 5.2 * columns), 3.7 * rows, _TITLE, _subtitle(points), key)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        _panel(axis, *(each[each["panel"] == panel] for each in (curves, points, lines)))
        axis.set_title(short(panel, 60), pad=6)
    return figure


def _subtitle(points: pd.DataFrame) -> str:
    return (
        f"n = {span(numbers(points, 'num_prompts'))} held-out prompts · grey: the closed-form prompter of Eq. 10 over "
        "samples of the untrained one, at every λ (line cross-fitted, dashed the same responses twice) · 95% bootstrap "
        "intervals over prompts"
    )


def _panel(axis, curve: pd.DataFrame, points: pd.DataFrame, lines: pd.DataFrame) -> None:
    if len(curve):
        _attainable(axis, curve)
    for arm in tables.arm_order(points["arm"]):
        _path(axis, points[points["arm"] == arm], arm_color(arm) if arm else INK)
    right = max(np.nanmax(numbers(points, "kl")), np.nanmax(numbers(curve, "kl")) if len(curve) else 0.0)
    for arm, reward in zip(lines["arm"], numbers(lines, "reward"), strict=True):
        axis.axhline(reward, color=arm_color(arm), lw=1.3, ls=(0, (1, 1.2)), zorder=1)
        axis.annotate(arm, (right, reward), (4, 3), textcoords="offset points", size=8.5, color=arm_color(arm))
    axis.set(xlabel="KL to the untrained policy (nats per sequence)", ylabel=f"mean {REWARD_UNITS}")
    axis.set_xlim(left=min(0.0, np.nanmin(numbers(points, "kl"))) - 0.02 * right)
    axis.tick_params(length=0)
    room_on_the_right([axis], 0.1)


def _attainable(axis, curve: pd.DataFrame) -> None:
    curve = curve.sort_values("kl")
    kl = numbers(curve, "kl")
    axis.fill_between(
        kl, numbers(curve, "reward_low"), numbers(curve, "reward_high"), color="#b9b9b9", alpha=0.35, lw=0, zorder=1
    )
    axis.plot(kl, numbers(curve, "reward"), color="#7d7d7d", lw=2, zorder=2)
    axis.plot(kl, numbers(curve, "reward_plug_in"), color="#7d7d7d", lw=1, ls=(0, (3, 2)), zorder=2)
    end = curve.iloc[-1]
    place = {"textcoords": "offset points", "ha": "right", "va": "bottom", "size": 8.5, "color": FAINT}
    axis.annotate(f"attainable\n(samples end at {end.kl:.1f} nats)", (end.kl, end.reward_plug_in), (0, 5), **place)


def _path(axis, points: pd.DataFrame, color: str) -> None:
    """The policy's way: a line through its points in their order, each with both intervals."""
    kl, reward = numbers(points, "kl"), numbers(points, "reward")
    axis.plot(kl, reward, color=color, lw=1.1, alpha=0.55, ls=(0, (1, 1.5)), zorder=3)
    for low, high, across in (("kl_low", "kl_high", True), ("reward_low", "reward_high", False)):
        for x, y, a, b in zip(kl, reward, numbers(points, low), numbers(points, high), strict=True):
            axis.plot(*(([a, b], [y, y]) if across else ([x, x], [a, b])), color=color, lw=1.4, alpha=0.45, zorder=3)
    axis.plot(kl, reward, "o", ms=5.5, color=color, mec="white", mew=0.8, zorder=4)
    for x, y, text in zip(kl, reward, points["label"], strict=True):
        place = {"textcoords": "offset points", "ha": "left", "va": "top", "size": 8.5, "color": color}
        axis.annotate(text, (x, y), (3, -5), **place, zorder=5)

"""A training watched by a second referee: reward, the judge's win rate and lengths, snapshot by snapshot."""

import textwrap

import matplotlib
import numpy as np
import pandas as pd

from nbutils.analyse import watch
from nbutils.report.plots.parts import (
    FAINT,
    INK,
    REWARD_UNITS,
    arm_color,
    counted,
    frame,
    named,
    new_figure,
    nothing,
    numbers,
    short,
    span,
)

_TITLE = "Reward and the judge over training"
_GREY, _RED, _EVEN = "#9a9a9a", "#b2182b", (0, (3, 2))
_WIDTH, _ROW = 10.8, 3.3  # inches
_LETTERS = 150  # of a line over a training's panels


def reward_watch(table):
    """Three panels a training: mean reward, win rate over the untrained policy, lengths; over them what they say.

    table: rows of watch.by_snapshot, with a column arm (a training each; absent: one). The reward's interval is that of
    its gain over the untrained policy (dashed), so that it may leave the line where two means with intervals of their
    own would overlap.
    """
    table = named(frame(table), "arm")
    if not any(np.isfinite(numbers(table, name)).any() for name in ("gain", "win_rate")):
        return nothing(_TITLE, "no snapshot was sampled")
    arms = list(dict.fromkeys(table["arm"]))
    figure = new_figure(_WIDTH, _ROW * len(arms), _TITLE, _subtitle(table))
    for part, arm in zip(np.atleast_1d(figure.subfigures(len(arms), 1)), arms, strict=True):
        rows, color = table[table["arm"] == arm], arm_color(arm) if arm else INK
        said = f"{short(arm)}: {watch.sentence(rows)}" if arm else watch.sentence(rows)
        ink = _RED if watch.outcome(rows) == "watch out" else INK
        part.suptitle(textwrap.fill(said, _LETTERS), x=0.001, ha="left", size=9.5, color=ink, linespacing=1.3)
        reward, rate, length = part.subplots(1, 3)
        _rewards(reward, rows, color)
        _rates(rate, rows, color)
        _lengths(length, rows, color)
        for axis in (reward, rate, length):
            axis.set_xlabel("training step")
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
            axis.tick_params(length=0)
            axis.margins(x=0.06)
    return figure


def _subtitle(table: pd.DataFrame) -> str:
    lost = {name: int(np.nansum(numbers(table, name))) for name in ("without_reward", "unscored")}
    text = (
        f"n = {span(table.groupby('arm')['num_prompts'].max())} held-out prompts · dashed: the untrained policy · "
        "95% intervals, of the reward those of the gain over it · win rate: the judge's, in colour at equal length · "
        "hollow: no interval"
    )
    text += f" · {counted(lost['unscored'], 'pair')} unscored" if lost["unscored"] else ""
    return text + (f" · {counted(lost['without_reward'], 'sample')} without reward" if lost["without_reward"] else "")


def _rewards(axis, rows: pd.DataFrame, color: str) -> None:
    reward, gain = numbers(rows, "reward"), numbers(rows, "gain")
    base = np.where(np.isnan(gain), reward, reward - gain)
    axis.axhline(base[0], color=_GREY, lw=1, ls=_EVEN, zorder=1)
    low, high = (base + numbers(rows, f"gain_{end}") for end in ("low", "high"))
    _path(axis, numbers(rows, "step"), reward, low, high, color, hollow_from=1)
    axis.set_title("Mean reward", pad=6)
    axis.set_ylabel(REWARD_UNITS)


def _rates(axis, rows: pd.DataFrame, color: str) -> None:
    steps = numbers(rows, "step")
    shift = 0.012 * (steps.max() - steps.min())
    axis.axhline(50, color=_GREY, lw=1, ls=_EVEN, zorder=1)
    for name, ink, move in (("win_rate", _GREY, shift), ("length_controlled", color, -shift)):
        value, low, high = (100 * numbers(rows, f"{name}{end}") for end in ("", "_low", "_high"))
        _path(axis, steps + move, value, low, high, ink)
    if not np.isfinite(numbers(rows, "win_rate")).any():
        place = {"transform": axis.transAxes, "ha": "center", "va": "center"}
        axis.text(0.5, 0.6, "no pair was scored", color=FAINT, style="italic", **place)
    axis.set(xlim=(steps.min() - 4 * shift, steps.max() + 4 * shift), ylim=(-4, 104), yticks=[0, 25, 50, 75, 100])
    axis.set_title("Win rate (grey: as judged)", pad=6)
    axis.set_ylabel("over the untrained policy (%)")


def _lengths(axis, rows: pd.DataFrame, color: str) -> None:
    steps = numbers(rows, "step")
    for name, ink in (("rewrite_words", _GREY), ("response_words", color)):
        axis.plot(steps, numbers(rows, name), "o-", ms=4, lw=1.4, color=ink)
    rewrites = " (grey: rewrites)" if np.isfinite(numbers(rows, "rewrite_words")).any() else ""
    axis.set_title(f"Responses{rewrites}", pad=6)
    axis.set_ylabel("words")
    axis.set_ylim(bottom=0)


def _path(axis, steps, values, low, high, color: str, hollow_from: int = 0) -> None:
    """Dots with their intervals, joined; hollow without one, but for those before hollow_from."""
    axis.plot(steps, values, color=color, lw=1.1, alpha=0.55, zorder=2)
    for place, (x, y, bottom, top) in enumerate(zip(steps, values, low, high, strict=True)):
        known = np.isfinite([bottom, top]).all()
        if known:
            axis.plot([x, x], [bottom, top], color=color, lw=2.2, alpha=0.5, solid_capstyle="butt", zorder=2)
        filled = color if known or place < hollow_from else "white"
        axis.plot(x, y, "o", ms=5.5, color=color, mfc=filled, mew=1.3, zorder=3)

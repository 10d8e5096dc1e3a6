"""The rewrite audit: how often rewriting did what to a prompt, and how flagged prompts fare next to the others."""

import numpy as np
import pandas as pd

from nbutils.analyse import audit, tables
from nbutils.report.plots.parts import (
    FAINT,
    INK,
    arm_color,
    frame,
    interval_dot,
    label_right,
    new_figure,
    nothing,
    numbers,
    panels,
    short,
    span,
)

MANY = 4  # arms, above which rows are narrower
_GAP = 0.15  # inches between flags
_LABEL_ROOM = 0.3  # of the left axis, for "12 of 80" behind the longest interval
_OTHERS, _BAND = "#8a8a8a", "#dcdcdc"
_COLUMNS = {"flagged": (36, INK), "others": (70, FAINT)}  # points right of the axis, colour


def rewrite_audit(summary, baseline: str = "nan"):
    """Per flag and arm: the share of prompts flagged; beside it the win rate of flagged prompts and of the others.

    summary: audit.summary's rows; a line of panels per cell x prompt set. Flags that no arm has (unless none has any),
    or that apply to no prompt, are left out, and named above. baseline: the arm that the win rates are against.
    """
    title, table = "What rewriting did to the prompts, and whether that goes with losses", frame(summary)
    applies = np.nan_to_num(numbers(table, "num_applicable")) > 0
    if not applies.any():
        return nothing(title, "no arm has a prompter: nothing was rewritten")
    found = applies & (np.nan_to_num(numbers(table, "num_flagged")) > 0)
    flags = [flag for flag in audit.FLAGS if flag in set(table["flag"][found if found.any() else applies])]
    parts = [(label, part, tables.arm_order(part["arm"])) for label, part in panels(table)]
    heights = [0.75 + (len(flags) + 1) * _step(arms) for *_, arms in parts]
    figure = new_figure(10.6, sum(heights), title, _subtitle(table, flags, set(table["flag"][applies])))
    axes = figure.subplots(len(parts), 2, sharex="col", squeeze=False, width_ratios=[5, 4], height_ratios=heights)
    for (left, right), (label, part, arms) in zip(axes, parts, strict=True):
        left.set_title(label if len(arms) > 1 else " · ".join(filter(None, (label, short(arms[0])))), pad=6)
        _groups(left, right, flags, arms)
        _shares(left, part, flags, arms)
        _rates(right, part, flags, arms)
    _finish(axes, np.concatenate([numbers(table, "share_high"), numbers(table, "share")]), baseline)
    return figure


def _subtitle(table: pd.DataFrame, flags: list[str], applying: set[str]) -> str:
    text = (
        "left: share of the prompts that a flag applies to · right: a dot for flagged prompts, grey for the others; a "
    )
    text += "dot left of its grey mark means that flagged prompts fare worse, not why · 95% intervals (Wilson, Tango)"
    text += f" · n = {span(numbers(table, 'num_prompts'))} prompts"
    absent = [words for flag, words in audit.FLAGS.items() if flag in applying and flag not in flags]
    left_out = [words for flag, words in audit.FLAGS.items() if flag not in applying]
    text += f" · in no rewrite: {', '.join(absent)}" if absent else ""
    return text + (f" · left out, since no prompt is concerned: {', '.join(left_out)}" if left_out else "")


def _pitch(arms: list[str]) -> float:
    return 0.19 if len(arms) <= MANY else 0.155  # inches between arms


def _step(arms: list[str]) -> float:
    return _pitch(arms) * len(arms) + _GAP


def _place(group: int, arm: int, arms: list[str]) -> float:
    """Where an arm's row lies in a group, in inches from the top; group 0 is the length, the flags follow."""
    return group * _step(arms) + _pitch(arms) * (arm + 0.5) + _GAP / 2


def _groups(left, right, flags: list[str], arms: list[str]) -> None:
    """Flags at the left of both axes, arms (if several) between them, every other flag on a shade."""
    names, step = ["length", *(audit.FLAGS[flag] for flag in flags)], _step(arms)
    left.set_yticks([step * (i + 0.5) for i in range(len(names))], names)
    rows = [(i, j) for i in range(len(names)) for j in range(len(arms))] if len(arms) > 1 else []
    places = [_place(i, j, arms) for i, j in rows]
    right.set_yticks(places, [short(arms[j], 24) for _, j in rows], size=8 if len(arms) <= MANY else 7)
    for tick, (_, j) in zip(right.get_yticklabels(), rows, strict=True):
        tick.set_color(arm_color(arms[j]))
    for axis in (left, right):
        axis.set_ylim(step * len(names), 0)
        axis.grid(False, axis="y")
        axis.tick_params(length=0)
        for i in range(0, len(names), 2):
            axis.axhspan(step * i, step * (i + 1), color="#f7f7f7", lw=0, zorder=0)


def _rows(part: pd.DataFrame, flags: list[str], arms: list[str]):
    """(y, arm, row) of each flag and arm that the table has."""
    found = {(row["flag"], row["arm"]): row for row in part.to_dict("records")}
    for i, flag in enumerate(flags, start=1):
        for j, arm in enumerate(arms):
            if (flag, arm) in found:
                yield _place(i, j, arms), arm, found[flag, arm]


def _shares(axis, part: pd.DataFrame, flags: list[str], arms: list[str]) -> None:
    growth = dict(zip(part["arm"], numbers(part, "median_growth"), strict=True))
    for j, arm in enumerate(arms):
        text = f"{growth[arm]:.1f} × the prompt's words (median)" if np.isfinite(growth[arm]) else "nothing written"
        axis.text(0, _place(0, j, arms), text, va="center_baseline", size=8.5, color=INK)
    for y, arm, row in _rows(part, flags, arms):
        if not row["num_applicable"] > 0:
            axis.text(0, y, "no prompt concerned", va="center_baseline", size=8.5, color=FAINT, style="italic")
            continue
        value, low, high = (100 * float(row[f"share{end}"]) for end in ("", "_low", "_high"))
        interval_dot(axis, y, value, low, high, arm_color(arm))
        text = f"{row['num_flagged']:.4g} of {row['num_applicable']:.4g}"
        label_right(axis, high if np.isfinite(high) else value, y, text)


def _rates(axis, part: pd.DataFrame, flags: list[str], arms: list[str]) -> None:
    axis.axvline(50, color="#999999", lw=1, ls=(0, (3, 2)), zorder=1)
    for y, arm, row in _rows(part, flags, arms):
        ends = ("win_rate", "win_rate_low", "win_rate_high")
        flagged, others = ([100 * float(row[f"{side}_{end}"]) for end in ends] for side in audit.SIDES)
        known = np.isfinite(others[1:]).all()
        if known:
            axis.plot(others[1:], [y, y], color=_BAND, lw=7, solid_capstyle="butt", zorder=2)
        if np.isfinite(others[0]):
            axis.plot(others[0], y, "|", ms=8, mew=2.2 if known else 1, color=_OTHERS, zorder=2.5)
        if np.isfinite(flagged[0]):
            interval_dot(axis, y, flagged[0], flagged[1], flagged[2], arm_color(arm))
        for (place, color), rate in zip(_COLUMNS.values(), (flagged[0], others[0]), strict=True):
            _beside(axis, y, place, f"{rate:.0f}" if np.isfinite(rate) else "–", color)


def _beside(axis, y: float, place: float, text: str, color: str) -> None:
    """Text in a column of numbers, `place` points right of the axis."""
    style = {"ha": "right", "va": "center_baseline", "size": 8.5, "color": color, "annotation_clip": False}
    axis.annotate(text, (1, y), (place, 0), axis.get_yaxis_transform(), textcoords="offset points", **style)


def _finish(axes, shares, baseline: str) -> None:
    """Limits, units, heads of the columns of numbers."""
    most = 100 * float(np.max(shares[np.isfinite(shares)], initial=0.05))
    for _, right in axes:
        for name, (place, color) in _COLUMNS.items():
            _beside(right, -0.09, place, name, color)
    left, right = axes[0]
    left.set_xlim(-0.02 * most, most * (1 + _LABEL_ROOM))
    left.set_xticks([tick for tick in left.get_xticks() if 0 <= tick <= 100])
    right.set_xlim(-3, 103)
    right.set_xticks([0, 25, 50, 75, 100])
    axes[-1][0].set_xlabel("share of prompts (%)")
    axes[-1][1].set_xlabel(f"win rate against `{short(baseline)}` (%)")

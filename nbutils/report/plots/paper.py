"""Align-Pro's Figures 2 and 3 and its Table 1, over every prompter, frozen LLM and prompt set of an experiment."""

import numpy as np
import pandas as pd

from nbutils.analyse import alignpro_paper as align_pro, tables
from nbutils.report.plots.parts import (
    FAINT,
    REWARD_UNITS,
    arm_color,
    frame,
    interval_dot,
    named,
    new_figure,
    nothing,
    numbers,
    short,
    span,
)

ROOM_FOR_NUMBER = 0.36  # inches from mark to mark, above which the values are written too
GAP = 1.4  # between two prompt sets' marks, in marks
MOST_COLUMNS, WIDEST = 4, 13.0  # panels of Table 1 side by side; inches of all panels of the other two


def grouped_rewards(summary, models: dict | None = None):
    """Mean reward by prompt set and arm with 95% intervals, a panel per prompter and frozen LLM (Align-Pro Figure 2).

    summary: tables.summary's rows; models: {cell: {"prompter": ..., "responder": ...}}
    """
    what = "dot: mean, line: 95% t interval over prompts"
    return _grouped("Mean reward", summary, models, "mean_reward", REWARD_UNITS, what, bars=False)


def grouped_variances(variances, models: dict | None = None):
    """Variance of the reward by prompt set and arm with 95% intervals, panels as in grouped_rewards (Figure 3).

    variances: paper.variances' rows, or tables.summary's, which have no interval
    """
    what = "dot: variance over all answers, line: 95% bootstrap interval over prompts"
    unit = "variance of the reward\n(reward-model units²)"
    return _grouped("Reward variance", variances, models, "reward_variance", unit, what, bars=True)


def _grouped(title: str, rows, models: dict | None, name: str, unit: str, what: str, bars: bool):
    table = frame(rows)
    if not np.isfinite(numbers(table, name)).any():
        return nothing(title, f"no {name.replace('_', ' ')} for any arm")
    table = align_pro.arranged(align_pro.with_models(named(table, "cell", "prompt_set", "arm"), models or {}))
    parts = [(label, part) for label, part in table.groupby("architecture", sort=False)]
    arms, num_sets = tables.arm_order(table["arm"]), max(part["prompt_set"].nunique() for _, part in parts)
    slot = max(0.3, min(0.55, 3.4 / (num_sets * (len(arms) + GAP))))  # inches from mark to mark
    width = max(2.9, slot * num_sets * (len(arms) + GAP) + 0.3)
    columns = min(2 if len(parts) == 4 else len(parts), 3, max(1, int(WIDEST // width)))
    lines = -(-len(parts) // columns)
    subtitle = f"{what} · n = {span(numbers(table, 'num_prompts'))} prompts"
    subtitle += " · panels: prompter, frozen LLM" if len(parts) > 1 else ""
    key = {arm: arm_color(arm) for arm in arms}
    figure = new_figure(max(6.4, 0.7 + columns * width), 2.8 * lines, title, subtitle, key)
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axis in axes.ravel()[len(parts) :]:
        axis.set_visible(False)
    for axis, (label, part) in zip(axes.ravel(), parts, strict=False):
        axis.set_title(_fitted(label, int(11 * width)), pad=8)
        _groups(axis, part, arms, name, slot, bars)
    for line in axes:
        line[0].set_ylabel(unit)
    if bars:
        axes[0, 0].set_ylim(bottom=0)
    return figure


def _fitted(architecture: str, width: int) -> str:
    """Prompter and frozen LLM on one line of `width` characters, or on two."""
    names = architecture.split(", ", 1)
    return ",\n".join(short(name, width) for name in ([architecture] if len(architecture) <= width else names))


def _groups(axis, part: pd.DataFrame, arms: list[str], name: str, slot: float, bars: bool) -> None:
    """Marks of each arm around each prompt set's place; an arm that a cell has not evaluated leaves its place free."""
    sets, stride = list(dict.fromkeys(part["prompt_set"])), len(arms) + GAP
    values = [numbers(part, column) for column in (name, f"{name}_low", f"{name}_high")]
    for prompt_set, arm, value, low, high in zip(part["prompt_set"], part["arm"], *values, strict=True):
        x = sets.index(prompt_set) * stride + arms.index(arm)
        if np.isnan(value):
            place = {"rotation": 90, "ha": "center", "va": "bottom", "size": 8.5, "color": FAINT, "style": "italic"}
            axis.text(x, 0.02, "missing", transform=axis.get_xaxis_transform(), **place)
            continue
        _upright(axis, x, value, low, high, arm_color(arm), bars)
        if slot >= ROOM_FOR_NUMBER:
            top = np.nanmax([value, high])
            text = f"{value:.2f}".replace("-", "−")
            axis.annotate(text, (x, top), (0, 4), textcoords="offset points", ha="center", size=7.5, color=FAINT)
    middles = [i * stride + (len(arms) - 1) / 2 for i in range(len(sets))]
    axis.set_xticks(middles, [short(align_pro.DATA_SETS.get(name, name), 18) for name in sets])
    axis.set_xlim(-GAP / 2 - 0.5, len(sets) * stride - GAP / 2 - 0.5)
    axis.tick_params(length=0)
    axis.grid(False, axis="x")
    axis.margins(y=0.14)


def _upright(axis, x: float, value: float, low: float, high: float, color: str, bar: bool) -> None:
    """A dot with its interval, hollow without one; over a pale bar from zero where zero means something."""
    known = np.isfinite([low, high]).all()
    if bar:
        axis.bar(x, value, width=0.74, color=color, alpha=0.28, lw=0, zorder=2)
    if known:
        axis.plot([x, x], [low, high], color=color, lw=2.6, alpha=0.6, solid_capstyle="butt", zorder=2.5)
    axis.plot(x, value, "o", ms=6, color=color, mfc=color if known else "white", mew=1.4, zorder=3)


def win_percentages(table, theirs=None):
    """Table 1: percent of prompts won by the arm and by the baseline, a panel per prompt set, a line per architecture.

    table: paper.win_percentages' rows; theirs: paper.published's, hollow: on our lines where they match, else below
    """
    table = frame(table)
    if not np.isfinite(numbers(table, "win_percent")).any():
        return nothing("Win percentages", "this arm has no scored verdict against this baseline")
    arm, baseline = table["arm"].iloc[0], table["baseline"].iloc[0]
    beside = align_pro.matches(theirs)
    together = align_pro.arranged(align_pro.joined(table, theirs) if beside else table)
    blocks = [together] if beside or theirs is None else [together, align_pro.arranged(theirs)]
    key = {f"A: won by {arm}": arm_color(arm), f"B: won by {baseline}": arm_color(baseline)}
    subtitle = "per 100 scored prompts, both orders judged, ties in neither · line: 95% Wilson interval · "
    subtitle += f"n = {span(numbers(table, 'num_scored'))} prompts"
    num_unscored = int(numbers(table, "num_unscored").sum())
    subtitle += f", {num_unscored:,} unscored left out" if num_unscored else ""
    subtitle += f" · diamond: as printed in {align_pro.SOURCE}" if theirs is not None else ""
    lines = [line for i, block in enumerate(blocks) for line in _lines(block, " (the paper's)" if i else "")]
    heights = [0.62 + 0.5 * len(names) for _, names, _ in lines]
    columns = max(len(panels) for panels, *_ in lines)
    title = f"Prompts won by `{short(arm)}` and by `{short(baseline)}`"
    figure = new_figure(2.9 + 2.75 * max(columns, 2), sum(heights) + 0.35, title, subtitle, key)
    axes = figure.subplots(len(lines), columns, sharex=True, squeeze=False, height_ratios=heights)
    for line, (panels, names, suffix) in zip(axes, lines, strict=True):
        for axis in line[len(panels) :]:
            axis.set_visible(False)
        for axis, (label, part) in zip(line, panels, strict=False):
            axis.set_title(f"{short(label, 26)}{suffix}", pad=6)
            _win_rows(axis, part, names, named_rows=axis is line[0])
    for column in axes.T:
        lowest = [axis for axis in column if axis.get_visible()][-1]
        lowest.set_xlabel("prompts won (%)")
        lowest.tick_params(labelbottom=True)
    return figure


def _lines(block: pd.DataFrame, suffix: str) -> list[tuple]:
    """Lines of up to MOST_COLUMNS panels: ([(data set, its rows)], names of architectures, end of titles)."""
    names = list(dict.fromkeys(block["architecture"]))
    block = block.sort_values(["set_place", "prompt_set"], kind="stable")
    panels = list(block.groupby("data_set", sort=False))
    return [(panels[i : i + MOST_COLUMNS], names, suffix) for i in range(0, len(panels), MOST_COLUMNS)]


def _win_rows(axis, part: pd.DataFrame, names: list[str], named_rows: bool) -> None:
    """A line per architecture: A above B, the paper's hollow around ours, and the numbers at the right."""
    axis.set_yticks(range(len(names)), [_fitted(name, 30) for name in names] if named_rows else [])
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.grid(False, axis="y")
    axis.tick_params(length=0)
    texts: dict[int, list[str]] = {}
    for row in part.to_dict("records"):
        y, printed = names.index(row["architecture"]), row["source"] == align_pro.SOURCE
        for side, name, arm in (("A", "win_percent", row["arm"]), ("B", "lose_percent", row["baseline"])):
            value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
            _win_mark(axis, y + (-0.13 if side == "A" else 0.13), value, low, high, arm_color(arm), printed)
        text = " : ".join(align_pro.whole(row[name]) for name in ("win_percent", "lose_percent"))
        text = text if np.isfinite(row["win_percent"]) else "none scored"
        texts.setdefault(y, []).append(("paper " if printed and part["source"].nunique() > 1 else "") + text)
    for y, lines in texts.items():
        axis.text(1.03, y, "\n".join(lines), transform=axis.get_yaxis_transform(), va="center_baseline", size=8.5)
    axis.set_xlim(-3, 103)
    axis.set_xticks([0, 25, 50, 75, 100])


def _win_mark(axis, y: float, value: float, low: float, high: float, color: str, printed: bool) -> None:
    if printed:
        axis.plot(value, y, "D", ms=8, color=color, mfc="none", mew=1.1, zorder=4)
    elif np.isfinite(value):
        interval_dot(axis, y, value, low, high, color)

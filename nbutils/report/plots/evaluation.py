"""Figures of an evaluation: rewards, their variance and spread, wins and losses."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from nbutils.analyse import tables
from nbutils.report.plots.parts import (
    FAINT,
    INK,
    LABEL_SIZES,
    OUTCOME_COLORS,
    REWARD_UNITS,
    ROW,
    align_arms,
    arm_axis,
    arm_color,
    counted,
    frame,
    full_width,
    grid,
    interval_dot,
    label_inside,
    label_panels,
    label_right,
    missing_row,
    new_figure,
    nothing,
    num_across,
    numbers,
    ordered,
    panels,
    room_on_the_right,
    short,
    span,
    stacked,
    titled,
)

_PANELS = (9.6, 5.6, 4.5)  # inches of a panel of wins and losses, of 1, 2 or 3 side by side


def reward_means(summary, reward: str = "reward"):
    """Mean reward per arm with 95% intervals, a panel per cell x prompt set (Align-Pro Figure 2).

    summary: tables.summary's rows; reward: "reward" or "gold_reward" (which has no interval)
    """
    title = "Mean reward" if reward == "reward" else "Mean gold reward"
    table, name = frame(summary), f"mean_{reward}"
    if not np.isfinite(numbers(table, name)).any():
        return nothing(title, f"no {reward.replace('_', ' ')} for any arm")
    parts = [(label, ordered(part)) for label, part in panels(table)]
    prompts = span(numbers(table, "num_prompts"))
    ends = "95% t interval over prompts" if f"{name}_low" in table else "without interval"
    unit = REWARD_UNITS if reward == "reward" else "gold reward"
    figure, axes = grid(title, f"{ends} · n = {prompts} prompts", parts, ROW, unit)
    for axis, (_, part) in zip(axes, parts, strict=True):
        means, lows, highs = (numbers(part, column) for column in (name, f"{name}_low", f"{name}_high"))
        _mean_rows(axis, list(part["arm"]), means, lows, highs, warn=f"{name}_low" in table)
    align_arms(axes)
    room_on_the_right(axes, 0.2)
    return figure


def _mean_rows(axis, arms, means, lows, highs, warn: bool) -> None:
    arm_axis(axis, arms)
    for y, (arm, mean, low, high) in enumerate(zip(arms, means, lows, highs, strict=True)):
        if np.isnan(mean):
            missing_row(axis, y)
            continue
        interval_dot(axis, y, mean, low, high, arm_color(arm))
        known = np.isfinite([low, high]).all()
        label_right(axis, high if known else mean, y, f"{mean:.2f}" + (" (no interval)" if warn and not known else ""))


def reward_variances(summary, reward: str = "reward"):
    """Variance of the reward over all answers of an arm, a panel per cell x prompt set (Align-Pro Figure 3)."""
    title, table, name = "Reward variance", frame(summary), f"{reward}_variance"
    if not np.isfinite(numbers(table, name)).any():
        return nothing(title, "no variance: fewer than two rewards for every arm")
    parts = [(label, ordered(part)) for label, part in panels(table)]
    subtitle = f"over all answers, unbiased · n = {span(numbers(table, 'num_prompts'))} prompts"
    figure, axes = grid(title, subtitle, parts, ROW, "variance of the reward (reward-model units²)")
    for axis, (_, part) in zip(axes, parts, strict=True):
        arm_axis(axis, list(part["arm"]))
        for y, (arm, value) in enumerate(zip(part["arm"], numbers(part, name), strict=True)):
            if np.isnan(value):
                missing_row(axis, y)
                continue
            axis.barh(y, value, height=0.55, color=arm_color(arm))
            label_right(axis, value, y, f"{value:.3f}")
    align_arms(axes)
    axes[0].set_xlim(left=0)
    room_on_the_right(axes, 0.16)
    return figure


def win_tie_lose(summary, baseline: str = "nan"):
    """Prompts won, tied and lost against the baseline, unscored ones apart, and the win rate with its 95% interval."""
    title, table = f"Wins, ties and losses against `{short(baseline)}`", frame(summary)
    scored = sum(numbers(table, name) for name in ("win", "tie", "lose"))
    judged = table[np.isfinite(scored)] if len(table) else table
    if judged.empty:
        return nothing(title, "no arm was judged against the baseline")
    parts = [(label, ordered(part)) for label, part in panels(judged)]
    nums = (scored + np.nan_to_num(numbers(table, "unscored")))[np.isfinite(scored)]
    subtitle = (
        f"both orders judged, a win needs both · n = {span(nums)} prompts · win rate = wins + half the ties, with "
        "the 95% Tango score interval"
    )
    columns, unscored = num_across(parts, len(_PANELS)), np.nansum(numbers(judged, "unscored")) > 0
    subtitle += " · +: prompts unscored" if unscored and columns > 1 else ""
    titles, title_height = titled(parts, columns, int(10 * _PANELS[columns - 1]))
    rows, height = stacked(parts, columns, ROW, title_height)
    figure = new_figure(full_width(parts, columns, _PANELS), height + 0.59, title, subtitle, OUTCOME_COLORS)
    ratios = {"height_ratios": rows, "width_ratios": [3.3, 2 if columns == 1 else 2.4] * columns}
    axes = figure.subplots(len(rows), 2 * columns, squeeze=False, **ratios).reshape(-1, 2).T
    for left, right, (_, part) in zip(*axes, parts, strict=False):
        _outcome_bars(left, part, unscored, columns)
        _win_rates(right, part, size=6 if columns == 1 else 4.5)
    align_arms(label_panels(axes[0], titles, columns, "share of scored prompts (%)"))
    align_arms(label_panels(axes[1], [""] * len(parts), columns, "win rate (%)"))
    return figure


def _outcome_bars(axis, part: pd.DataFrame, unscored: bool, columns: int) -> None:
    """A bar per arm; unscored: with room for how many prompts are; columns: panels side by side."""
    arm_axis(axis, list(part["arm"]))
    alone = columns == 1
    end = (124 if alone else 114) if unscored else 100
    sizes = LABEL_SIZES if alone else ((8, 0.17 * end / _PANELS[columns - 1]),)
    counts = {name: numbers(part, name) for name in OUTCOME_COLORS}
    left = np.zeros(len(part))
    total = sum(counts.values(), left)
    for name, color in OUTCOME_COLORS.items():
        share, ink = 100 * counts[name] / np.where(total > 0, total, 1), "white" if name == "win" else INK
        axis.barh(range(len(part)), share, left=left, height=0.66, color=color, edgecolor="white", lw=0.8)
        for y in np.flatnonzero(share > 0).tolist():
            label_inside(axis, left[y], share[y], y, f"{counts[name][y]:.4g}", ink, sizes)
        left = left + share
    style = {"va": "center_baseline", "color": FAINT, "style": "italic"}
    for y, num in enumerate(np.nan_to_num(numbers(part, "unscored"))):
        if num:
            axis.text(101.5, y, f"+{num:.4g}" + " unscored" * alone, size=8.5, **style)
        if not total[y]:
            axis.text(1, y, "none scored", size=9, **style)
    axis.set_xlim(0, end)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(length=0)


def _win_rates(axis, part: pd.DataFrame, size: float) -> None:
    arm_axis(axis, list(part["arm"]))
    axis.set_yticklabels([])
    axis.axvline(50, color="#999999", lw=1, ls=(0, (3, 2)), zorder=1)
    values = [100 * numbers(part, f"win_rate{end}") for end in ("", "_low", "_high")]
    for y, (arm, rate, low, high) in enumerate(zip(part["arm"], *values, strict=True)):
        text = "none scored"
        if np.isfinite(rate):
            interval_dot(axis, y, rate, low, high, arm_color(arm), size)
            text = f"{rate:.0f}  " + (f"[{low:.0f}, {high:.0f}]" if np.isfinite([low, high]).all() else "no interval")
        axis.text(1.02, y, text, transform=axis.get_yaxis_transform(), va="center_baseline", size=9)
    axis.set_xlim(-3, 103)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(length=0)


def reward_distributions(answers):
    """Every answer's reward, with median and quartiles, per arm and prompt set. answers: rows of records.Answer."""
    title, table = "Distribution of rewards", frame(answers)
    rewards = numbers(table, "reward")
    if not np.isfinite(rewards).any():
        return nothing(title, "no answer has a reward")
    parts = panels(table.assign(reward=rewards))
    num_missing = int(np.isnan(rewards).sum())
    subtitle = f"a dot per answer, line at the median, box between quartiles · n = {counted(rewards.size, 'answer')}"
    subtitle += f", {num_missing:,} without a reward" if num_missing else ""
    figure, axes = grid(title, subtitle, parts, 0.46, REWARD_UNITS)
    for axis, (_, part) in zip(axes, parts, strict=True):
        arms = tables.arm_order(part["arm"])
        arm_axis(axis, arms)
        for y, arm in enumerate(arms):
            _dots(axis, y, np.sort(part.loc[part["arm"] == arm, "reward"].dropna()), arm_color(arm))
    align_arms(axes)
    return figure


def _dots(axis, y: float, values, color: str) -> None:
    """Dots spread evenly over the row's height (golden-ratio steps, no random numbers), and a box over them."""
    if not len(values):
        missing_row(axis, y)
        return
    spread = (np.arange(1, len(values) + 1) * 0.6180339887498949) % 1 - 0.5
    alpha = float(np.clip(16 / len(values) ** 0.75, 0.06, 0.55))
    place = {"s": 11, "lw": 0, "rasterized": len(values) > 500}
    axis.scatter(values, y + 0.62 * spread, color=color, alpha=alpha, **place, zorder=2)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    axis.add_patch(plt.Rectangle((low, y - 0.36), high - low, 0.72, fill=False, ec=INK, lw=0.9, zorder=3))
    axis.plot([middle, middle], [y - 0.36, y + 0.36], color=INK, lw=2.2, solid_capstyle="butt", zorder=4)

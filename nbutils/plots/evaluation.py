"""Figures of an evaluation: rewards, their variance and spread, wins and losses."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from nbutils import tables
from nbutils.plots.parts import (
    FAINT,
    INK,
    MANY_LINES,
    OUTCOME_COLORS,
    REWARD_UNITS,
    ROW,
    arm_axis,
    arm_color,
    close_up,
    columns_of,
    counted,
    frame,
    grid,
    interval_dot,
    label_inside,
    label_right,
    missing_row,
    new_figure,
    nothing,
    numbers,
    ordered,
    panels,
    room_on_the_right,
    short,
    span,
)


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
        values = [numbers(part, column) for column in (name, f"{name}_low", f"{name}_high")]
        _mean_rows(axis, list(part["arm"]), *values, warn=f"{name}_low" in table)
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
    columns = 1 if len(parts) <= MANY_LINES else columns_of(parts)
    lines = [parts[start : start + columns] for start in range(0, len(parts), columns)]
    rows = [max(len(part) for _, part in line) for line in lines]
    heights = [0.62 + close_up(ROW, len(lines)) * number for number in rows]
    figure = new_figure(min(9.6, 2.6 + 7 / columns) * columns, sum(heights) + 0.35, title, subtitle, OUTCOME_COLORS)
    ratios = {"width_ratios": [3.3, 2] * columns, "height_ratios": heights}
    axes = figure.subplots(len(lines), 2 * columns, sharex="col", squeeze=False, **ratios)
    for axis in axes.ravel()[2 * len(parts) :]:
        axis.set_visible(False)
    for (left, right), (label, part) in zip(axes.reshape(-1, 2), parts, strict=False):
        left.set_title(label, pad=6)
        _outcome_bars(left, part)
        _win_rates(right, part)
    for left, right in axes[-1].reshape(-1, 2):
        left.set_xlabel("share of scored prompts (%)")
        right.set_xlabel("win rate (%)")
    return figure


def _outcome_bars(axis, part: pd.DataFrame) -> None:
    arm_axis(axis, list(part["arm"]))
    counts = {name: numbers(part, name) for name in OUTCOME_COLORS}
    total, left = sum(counts.values()), np.zeros(len(part))
    for name, color in OUTCOME_COLORS.items():
        share = 100 * counts[name] / np.where(total > 0, total, 1)
        axis.barh(range(len(part)), share, left=left, height=0.66, color=color, edgecolor="white", lw=0.8)
        for y in np.flatnonzero(share > 0):
            label_inside(axis, left[y], share[y], y, f"{counts[name][y]:.4g}", "white" if name == "win" else INK)
        left = left + share
    for y, num in enumerate(np.nan_to_num(numbers(part, "unscored"))):
        if num:
            axis.text(101.5, y, f"+{num:.4g} unscored", va="center_baseline", size=8.5, color=FAINT, style="italic")
        if not total[y]:
            axis.text(1, y, "none scored", va="center_baseline", size=9, color=FAINT, style="italic")
    axis.set_xlim(0, 124 if np.nansum(numbers(part, "unscored")) else 100)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(length=0)


def _win_rates(axis, part: pd.DataFrame) -> None:
    arm_axis(axis, list(part["arm"]))
    axis.set_yticklabels([])
    axis.axvline(50, color="#999999", lw=1, ls=(0, (3, 2)), zorder=1)
    values = [100 * numbers(part, f"win_rate{end}") for end in ("", "_low", "_high")]
    for y, (arm, rate, low, high) in enumerate(zip(part["arm"], *values, strict=True)):
        text = "none scored"
        if np.isfinite(rate):
            interval_dot(axis, y, rate, low, high, arm_color(arm))
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

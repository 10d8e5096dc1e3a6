"""Figures of the collection: scores by round, and what is left after each stage."""

import numpy as np
import pandas as pd
import seaborn

from nbutils.report.plots.parts import (
    INK,
    counted,
    frame,
    label_inside,
    label_right,
    named,
    new_figure,
    nothing,
    numbers,
    short,
)


def score_rounds(rounds):
    """Shares of the scores 1 to 5 that responses got, by round, unscored ones apart. rounds: rows of records.Round."""
    title, table = "Critique scores by round", frame(rounds)
    scores = numbers(table, "score")
    if not len(table) or "round" not in table:
        return nothing(title, "no round was collected")
    table = named(table, "cell").assign(score=scores)
    groups = list(table.groupby(["cell", "round"], sort=True))
    levels = sorted({1, 2, 3, 4, 5} | set(scores[np.isfinite(scores)]))
    colors = dict(zip(levels, seaborn.color_palette("blend:#d9e5ec,#084c74", len(levels)), strict=True))
    subtitle = f"n = {counted(len(table), 'critique')} of {counted(table['prompt_id'].nunique(), 'prompt')} · round 0 "
    subtitle += "is the prompt itself; prompts that stop early are in no later round: rounds are not the same prompts"
    key = {f"score {level:g}": color for level, color in colors.items()}
    figure = new_figure(8.6, 0.6 + 0.44 * len(groups), title, subtitle, key)
    axis = figure.subplots()
    for y, (_, part) in enumerate(groups):
        _score_bar(axis, y, part["score"].to_numpy(), colors)
    several = table["cell"].nunique() > 1
    names = [f"{short(cell, 22)} · round {step}" if several else f"round {step}" for (cell, step), _ in groups]
    axis.set_yticks(range(len(groups)), names)
    axis.set(xlim=(0, 100), xlabel="share of scored responses (%)", ylim=(len(groups) - 0.5, -0.5))
    axis.grid(False, axis="y")
    axis.tick_params(length=0)
    return figure


def score_transitions(rounds):
    """How a rewrite moves the score: from each score (rows) to the score of the next round, all rounds together.

    rounds: rows of records.Round. A cell holds its count, its shade the share of its row; `stopped`: no usable rewrite,
    or the next round unscored.
    """
    title, table = "What a rewrite does to the score", frame(rounds)
    if not len(table) or "round" not in table:
        return nothing(title, "no round was collected")
    counts = _transitions(named(table, "cell").assign(score=numbers(table, "score")))
    if not counts.to_numpy().sum():
        return nothing(title, "no prompt had a scored round before another")
    better, total = _better(counts), int(counts.to_numpy().sum())
    subtitle = f"n = {total:,} scored rounds that a rewrite followed or should have · {better:.0%} of them went up"
    figure = new_figure(6.6, 0.9 + 0.5 * len(counts), title, subtitle)
    axis = figure.subplots()
    shares = counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)
    style = {
        "cmap": seaborn.color_palette("blend:#f4f7f9,#084c74", as_cmap=True),
        "cbar": False,
        "vmin": 0,
        "vmax": 1,
        "linewidths": 2,
        "linecolor": "white",
    }
    seaborn.heatmap(shares, annot=counts.map("{:,}".format), fmt="", ax=axis, **style)
    axis.set(xlabel="score of the next round", ylabel="score before the rewrite")
    axis.tick_params(length=0, rotation=0)
    return figure


def _transitions(table) -> pd.DataFrame:
    """Counts of (score, next score or `stopped`); scores that end the loop have no row."""
    table = table.sort_values(["cell", "prompt_id", "round"], kind="stable")
    following = table.groupby(["cell", "prompt_id"])["score"].shift(-1)
    has_next = table.groupby(["cell", "prompt_id"])["round"].shift(-1).notna()
    left = table["score"].notna() & (has_next | _was_open(table))
    after = following[left].map(lambda value: f"{value:.0f}" if np.isfinite(value) else "stopped")
    before = table.loc[left, "score"].map("{:.0f}".format)
    found = pd.crosstab(before, after)
    columns = [*(str(score) for score in range(1, 6)), "stopped"]
    return found.reindex(columns=columns, fill_value=0)


def _was_open(table) -> pd.Series:
    """Rounds whose reason says that a rewrite was wanted and none could be used."""
    reason = table["reason"] if "reason" in table else pd.Series(None, table.index)
    return reason.notna() & table["score"].notna()


def _better(counts: pd.DataFrame) -> float:
    up = sum(counts.loc[row, column] for row in counts.index for column in counts if column.isdigit() and column > row)
    return up / counts.to_numpy().sum()


def _score_bar(axis, y: float, scores, colors: dict) -> None:
    known, left = scores[np.isfinite(scores)], 0.0
    for level, color in colors.items():
        num = int((known == level).sum())
        share = 100 * num / max(len(known), 1)
        axis.barh(y, share, left=left, height=0.7, color=color, edgecolor="white", lw=0.8)
        if num:
            label_inside(axis, left, share, y, f"{num:,}", "white" if sum(color) < 1.7 else INK)
        left += share
    text = f"mean {known.mean():.2f} · n = {len(known):,}" if len(known) else "none scored"
    text += f" · +{len(scores) - len(known):,} unscored" if len(scores) > len(known) else ""
    axis.text(1.015, y, text, transform=axis.get_yaxis_transform(), va="center_baseline", size=9, color=INK)


def collection_funnel(counts):
    """What is left after each stage of the collection: bars with counts and shares of the stage before.

    counts: {stage: count} or rows with stage, count, in order
    """
    title, table = "From invented prompts to training pairs", frame(counts)
    values = numbers(table, "count")
    if not np.isfinite(values).any():
        return nothing(title, "no counts of the collection")
    subtitle = f"n = {values[np.isfinite(values)][0]:,.0f} at the start · share of the stage before in parentheses"
    figure = new_figure(7.6, 0.3 + 0.42 * len(table), title, subtitle)
    axis = figure.subplots()
    colors = seaborn.color_palette("blend:#9fb8c8,#0072b2", len(table))
    before = np.nan
    for y, value in enumerate(values):
        known = np.isfinite(value)
        axis.barh(y, value if known else 0, height=0.7, color=colors[y])
        share = f"  ({100 * value / before:.0f}%)" if known and before >= value and before > 0 else ""
        label_right(axis, value if known else 0, y, f"{value:,.0f}{share}" if known else "missing")
        before = value if known else before
    axis.set_yticks(range(len(table)), [short(stage, 34) for stage in table["stage"]])
    axis.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 1.18 * max(np.nanmax(values), 1)), xticks=[])
    axis.grid(False)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(length=0)
    return figure

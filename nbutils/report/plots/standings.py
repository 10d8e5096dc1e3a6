"""Bradley-Terry ratings as a picture: what win rate against the baseline each arm's rating stands for."""

import numpy as np

from nbutils.report.plots.parts import (
    arm_axis,
    arm_color,
    frame,
    grid,
    interval_dot,
    label_right,
    missing_row,
    named,
    nothing,
    numbers,
    panels,
    room_on_the_right,
    span,
)


def ratings(rated):
    """Rows of standings.rated: a panel per cell and prompt set, arms by rating, best first.

    The axis is the expected win rate against the baseline (percent), with its 95% interval over prompts.
    """
    title, table = "Ratings of all arms", named(frame(rated), "cell", "prompt_set", "arm")
    if not len(table) or not np.isfinite(numbers(table, "expected_win_rate")).any():
        return nothing(title, "no pair of arms was judged")
    parts, n = panels(table), numbers(table, "num_prompts")
    subtitle = f"Bradley-Terry over every pair judged, ties half · n = {span(n)} prompts · 95% intervals over prompts"
    figure, axes = grid(title, subtitle, parts, 0.34, "expected win rate against the baseline (%)")
    for axis, (_, part) in zip(axes, parts, strict=True):
        _draw(axis, part.sort_values("rating", ascending=False, kind="stable"))
    room_on_the_right(axes, 0.3)
    axes[0].set_xticks([tick for tick in axes[0].get_xticks() if 0 <= tick <= 100])
    return figure


def _draw(axis, part) -> None:
    arm_axis(axis, list(part["arm"]))
    axis.axvline(50, color="#999999", lw=1, ls=(0, (3, 2)), zorder=1)
    ends = [100 * numbers(part, f"expected_win_rate{end}") for end in ("", "_low", "_high")]
    for y, (arm, value, low, high) in enumerate(zip(part["arm"], *ends, strict=True)):
        if not np.isfinite(value) and y < np.isfinite(numbers(part, "rating")).sum():  # rated, against itself
            axis.plot(50, y, "o", ms=6, color=arm_color(arm), mfc="white", mew=1.4, zorder=3)
            label_right(axis, 50, y, "baseline")
            continue
        if not np.isfinite(value):
            missing_row(axis, y)
            continue
        interval_dot(axis, y, value, low, high, arm_color(arm))
        reach = f" [{low:.0f}, {high:.0f}]" if np.isfinite([low, high]).all() and low < high else ""
        label_right(axis, max(value, high if np.isfinite(high) else value), y, f"{value:.0f}{reach}")

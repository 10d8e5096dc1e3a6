"""Training curves: one panel per logged quantity, a line per arm."""

import matplotlib
import numpy as np
import pandas as pd

from nbutils.analyse import tables
from nbutils.report.plots.parts import (
    FAINT,
    INK,
    REWARD_UNITS,
    SMOOTH_FROM,
    arm_color,
    counted,
    frame,
    named,
    new_figure,
    nothing,
    num_columns,
    numbers,
    short,
)

# column names that a history may use, the title, its unit; a sequence is what the policy writes: rewrite or response
TRAINING_PANELS = (
    (("reward", "mean_reward"), "Reward", REWARD_UNITS),
    (("kl",), "KL to the start", "KL (nats per sequence)"),
    (("entropy",), "Entropy", "entropy (nats per token)"),
    (
        ("num_tokens", "rewrite_tokens", "mean_length", "completion_length"),
        "Length",
        "length (tokens per sequence)",
    ),
    (("reward_sd", "reward_std"), "Spread of rewards", "SD of rewards (reward-model units)"),
    (("value_loss",), "Value loss", "value loss"),
    (("explained_variance",), "Critic", "explained variance of the returns"),
    (("clip_fraction",), "Clipped", "share of tokens clipped"),
)
PREFERENCE_PANELS = (
    (("loss",), "Loss", "loss (nats)"),
    (("margin", "margin_rewrite", "margin_response"), "Reward margin", "chosen − rejected (nats)"),
    (("accuracy",), "Accuracy", "share right (sft: of tokens)"),
    (("logps_chosen", "logps_rejected"), "Log-probabilities", "log p (nats per completion)"),
    (("logps_chosen_rewrite", "logps_rejected_rewrite"), "Log p of the rewrite", "log p (nats per rewrite)"),
    (("logps_chosen_response", "logps_rejected_response"), "Log p of the response", "log p (nats per response)"),
)
_STYLES = ("-", (0, (3, 1.5)), (0, (1, 1.2)))
_MOST_ROWS = 4  # of panels, one a cell


def training_curves(history):
    """Reward, KL, entropy, length by training step (those that exist), a line per arm. history: rows with step, arm."""
    return _curves("Reinforcement learning", history, TRAINING_PANELS)


def preference_curves(history):
    """Loss, margin, accuracy, log-probabilities by training step, a line per arm. history: rows with step, arm.

    Where they were logged, margin and log-probabilities are split into the rewrite's part and the response's, which
    add up to the whole (POIR, Eq. 1).
    """
    return _curves("Preference training", history, PREFERENCE_PANELS)


def _curves(title: str, history, panels):
    """Small multiples, a column per quantity and a row per cell; a missing value breaks its line.

    More than _MOST_ROWS cells share one row of panels, a thin line each in its arm's colour.
    """
    table = frame(history)
    found = [(present, *rest) for names, *rest in panels if (present := _present(table, names))]
    if not found or not np.isfinite(numbers(table, "step")).any():
        return nothing(title, "no logged step has a value to draw")
    table = named(table, "cell", "arm")
    cells, arms = sorted(set(table["cell"])), tables.arm_order(table["arm"])
    together = len(cells) > _MOST_ROWS
    cells = [""] if together else cells
    columns = len(found) if len(cells) > 1 else num_columns(len(found))
    lines = len(cells) if len(cells) > 1 else -(-len(found) // columns)
    key = {arm: arm_color(arm) for arm in arms if arm}
    figure = new_figure(max(3.5 * columns, 5.2), 2.5 * lines, title, _curve_subtitle(table, found, together), key)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(found) * len(cells) :]:
        axis.set_visible(False)
    for i, cell in enumerate(cells):
        for axis, (names, panel, unit) in zip(axes[i * len(found) :], found, strict=False):
            _curve_panel(axis, table if together else table[table["cell"] == cell], names, arms)
            axis.set_title(f"{short(cell, 22)} · {panel}" if len(cells) > 1 and cell else panel, pad=6)
            axis.set(ylabel=unit, xlabel="training step")
    return figure


def _present(table: pd.DataFrame, names) -> list[str]:
    """The first of the synonyms that holds a number; all lines of a panel of several."""
    held = [name for name in names if np.isfinite(numbers(table, name)).any()]
    return held if names[0].startswith(("logps", "margin")) else held[:1]


def _curve_subtitle(table: pd.DataFrame, found, together: bool) -> str:
    names = [name for columns, *_ in found for name in columns]
    groups = [np.isnan(numbers(part, name)) for _, part in table.groupby(["cell", "arm"]) for name in names]
    absent = sum(int(holes.sum()) for holes in groups if not holes.all())  # not what an arm never logs
    num_steps = table["step"].nunique()
    text = f"n = {counted(num_steps, 'logged step')}"
    text += f" of {table['cell'].nunique()} cells, a line each" if together else ""
    if num_steps >= SMOOTH_FROM:
        text += f", {'' if together else 'thin as logged, bold '}averaged over about a tenth of them"
    text += " · chosen solid, rejected dashed" if "logps_rejected" in names else ""
    text += " · margin solid, the rewrite's part dashed, the response's dotted" if "margin_response" in names else ""
    return text + (f" · {counted(absent, 'missing value')} not drawn" if absent else "")


def _curve_panel(axis, table: pd.DataFrame, names, arms) -> None:
    if not any(np.isfinite(numbers(table, name)).any() for name in names):
        axis.text(0.5, 0.5, "none logged", transform=axis.transAxes, ha="center", color=FAINT, style="italic")
        axis.set(xticks=[], yticks=[])
        return
    alone = table["cell"].nunique() == 1
    for arm in arms:
        for _, rows in table[table["arm"] == arm].groupby("cell", sort=True):
            for name, style in zip(names, _STYLES, strict=False):
                _curve(
                    axis, rows.sort_values("step", kind="stable"), name, arm_color(arm) if arm else INK, style, alone
                )
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axis.tick_params(length=0)
    axis.margins(x=0.02)


def _curve(axis, rows: pd.DataFrame, name: str, color: str, style, alone: bool) -> None:
    """One training's values, averaged; alone in its panel it is bold, over what was logged."""
    steps, values = numbers(rows, "step"), numbers(rows, name)
    smooth = _smoothed(values)
    mark = "o" if np.isfinite(smooth).sum() < 12 else None
    if alone:
        axis.plot(steps, values, color=color, lw=0.8, alpha=0.35, ls=style)
    axis.plot(
        steps, smooth, color=color, lw=1.9 if alone else 1.0, alpha=1 if alone else 0.7, ls=style, marker=mark, ms=4
    )


def _smoothed(values) -> np.ndarray:
    """Centred mean over a tenth of the steps (3 at least, none below SMOOTH_FROM); a gap stays a gap."""
    window = max(3, len(values) // 10) if len(values) >= SMOOTH_FROM else 1
    smooth = pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()
    return np.where(np.isnan(values), np.nan, smooth)

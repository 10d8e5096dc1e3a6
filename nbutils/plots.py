"""The workbook's figures: one function each, rows or a table -> a matplotlib Figure; `save` writes png, svg and csv.

An arm has one colour in every figure. Data that is empty or all missing gives a figure that says so. Figures are
pyplot's: a notebook shows them by itself where the cell does not end with one (`plots.reward_means(summary);`).
"""

import hashlib
import io
import os
import textwrap

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn

from nbutils import paths, tables

# Colours of Okabe and Ito, and of Tol, which colour-blind readers tell apart; grey and black for the two extremes.
ARM_COLORS = {
    "nan": "#7a7a7a",
    "untrained": "#56b4e9",
    "alignpro": "#0072b2",
    "rlhf": "#222222",
    "poir": "#d55e00",
    "dpo_awi": "#e69f00",
    "sft": "#009e73",
    "dpo_awo": "#cc79a7",
    "bpo": "#882255",
    "poir_s1": "#999933",
    "tilted": "#44aa99",
}
OTHER_COLORS = ("#332288", "#117733", "#aa4499", "#ddaa33", "#88ccee", "#cc6677", "#6a51a3", "#8c6d31")
OUTCOME_COLORS = {"win": "#2a8a82", "tie": "#d9d9d9", "lose": "#c58a45"}
INK, FAINT = "#222222", "#6b6b6b"
REWARD_UNITS = "reward (reward-model units)"
HEADER, ROW = 0.78, 0.34  # inches
SMOOTH_FROM = 20  # logged steps

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
)
PREFERENCE_PANELS = (
    (("loss",), "Loss", "loss (nats)"),
    (("margin",), "Reward margin", "chosen − rejected (nats)"),
    (("accuracy",), "Accuracy", "share right (sft: of tokens)"),
    (("logps_chosen", "logps_rejected"), "Log-probabilities", "log p (nats per completion)"),
)


def theme() -> None:
    """The house's look, for every figure made after it; the figure functions call it themselves."""
    seaborn.set_theme(style="whitegrid", context="notebook", font="DejaVu Sans")
    plt.rcParams.update(
        {
            **{"axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False},
            **{"axes.edgecolor": "#bbbbbb", "axes.labelcolor": FAINT, "text.color": INK, "axes.axisbelow": True},
            **{"axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 9},
            **{"xtick.labelsize": 9, "ytick.labelsize": 9.5, "xtick.color": FAINT, "ytick.color": INK},
            **{"grid.color": "#e9e9e9", "grid.linewidth": 0.8, "font.size": 9.5, "figure.facecolor": "white"},
            **{"text.parse_math": False, "svg.hashsalt": "workbook", "svg.fonttype": "path"},
        }
    )


def arm_color(arm: str) -> str:
    """The arm's colour in every figure: from the palette, or for other names always the same by the name's hash."""
    number = int(hashlib.sha256(str(arm).encode("utf-8", "surrogatepass")).hexdigest(), 16)
    return ARM_COLORS.get(arm, OTHER_COLORS[number % len(OTHER_COLORS)])


def save(figure, folder, name: str, data) -> list:
    """folder/name.png (200 dpi), name.svg and name.csv (data: what the figure shows). Same input, same bytes."""
    _freeze(figure)
    written = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "workbook", "svg.fonttype": "path"}):
            figure.savefig(buffer, format=suffix, dpi=200, metadata=metadata)
        written.append(paths.write_atomic(os.path.join(folder, f"{name}.{suffix}"), buffer.getvalue()))
    table = tables.as_csv(_frame(data))
    return [*written, paths.write_atomic(os.path.join(folder, f"{name}.csv"), table)]


def _freeze(figure) -> None:
    """End the layout and round it: the solver's last bits differ from run to run, and SVG ids are hashes of them."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        axis.set_position([round(float(number), 5) for number in axis.get_position().bounds])


# --- the parts of every figure


def _frame(rows) -> pd.DataFrame:
    """Rows, a {stage: count} mapping or a DataFrame as a DataFrame."""
    if isinstance(rows, dict) and all(np.isscalar(value) for value in rows.values()):
        return pd.DataFrame({"stage": list(rows), "count": list(rows.values())})
    return pd.DataFrame(rows)


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """A column as floats, infinite and missing ones NaN; all NaN if there is no such column."""
    if column not in table:
        return np.full(len(table), np.nan)
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _figure(width: float, height: float, title: str, subtitle: str, key: dict[str, str] | None = None):
    """An empty figure of `height` inches below a header with title, subtitle and key ({name: colour})."""
    theme()
    lines, names = textwrap.wrap(subtitle, max(30, int(width * 13.5))), [_short(name) for name in key or {}]
    columns = max(1, int((width - 0.2) / (0.5 + 0.08 * max(map(len, names), default=1))))
    key_top = HEADER + 0.17 * (len(lines) - 1)
    total = key_top + 0.22 * -(-len(names) // columns) + height
    figure = plt.figure(figsize=(width, total), layout="constrained")
    figure.get_layout_engine().set(rect=(0.01, 0.01, 0.98, height / total - 0.01), w_pad=0.08, h_pad=0.06)
    figure.text(0.12 / width, 1 - 0.12 / total, title, size=13, weight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.42 / total, "\n".join(lines), size=9.5, color=FAINT, va="top", linespacing=1.25)
    if names:
        handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in key.values()]
        place = {"loc": "upper left", "bbox_to_anchor": (0.12 / width, 1 - (key_top - 0.1) / total), "ncols": columns}
        style = {"handlelength": 0.9, "handleheight": 0.9, "columnspacing": 1.3, "handletextpad": 0.5}
        legend = figure.legend(
            handles, names, **place, **style, fontsize=9, frameon=False, borderaxespad=0, borderpad=0
        )
        legend.set_in_layout(False)
    return figure


def _nothing(title: str, why: str):
    figure = _figure(6.4, 1.0, title, "nothing to show")
    figure.text(0.5, 0.28, textwrap.fill(why, 80), ha="center", va="center", color=FAINT, size=10.5)
    return figure


def _short(name, width: int = 28) -> str:
    """A name that fits beside an axis: long ones keep both ends."""
    text = "".join(char if char.isprintable() else " " for char in str(name))
    return text if len(text) <= width else f"{text[: width // 2]}…{text[-(width - width // 2 - 1) :]}"


def _named(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The table with these columns as text, empty where there is none."""
    names = {name: table[name].astype(object) if name in table else pd.Series("", table.index) for name in columns}
    return table.assign(**{name: column.where(column.notna(), "").astype(str) for name, column in names.items()})


def _counted(num, one: str) -> str:
    return f"{int(num):,} {one}{'' if num == 1 else 's'}"


def _range(values) -> str:
    """`60` or `58 to 60`."""
    low, high = int(np.min(values)), int(np.max(values))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _panels(table: pd.DataFrame):
    """[(title, rows)]: one per cell x prompt set, naming what differs between panels."""
    table = _named(table, "cell", "prompt_set", "arm")
    groups = list(table.groupby(["cell", "prompt_set"], sort=True))
    differs = [len({key[i] for key, _ in groups}) > 1 for i in (0, 1)]
    shown = differs if any(differs) else [False, True]
    return [(" · ".join(_short(key[i], 34) for i in (0, 1) if shown[i]), part) for key, part in groups]


def _columns(num_panels: int) -> int:
    return 2 if num_panels == 4 else min(num_panels, 3)


def _grid(title: str, subtitle: str, parts, row_height: float, unit: str):
    """(figure, axes): one axes per (title, rows) of parts, high enough for their arms, sharing x.

    With several cells, a line of panels per cell where its prompt sets fit.
    """
    num_sets = len({str(part["prompt_set"].iloc[0]) for _, part in parts})
    columns = num_sets if 1 < num_sets <= 4 and num_sets < len(parts) else _columns(len(parts))
    lines = -(-len(parts) // columns)
    most_arms = max(part["arm"].nunique() for _, part in parts)
    figure = _figure((6.4, 8.6, 11.0, 13.4)[columns - 1], lines * (0.72 + row_height * most_arms), title, subtitle)
    axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
    for axis in axes[len(parts) :]:
        axis.set_visible(False)
    for i, (axis, (name, _)) in enumerate(zip(axes, parts, strict=False)):
        lowest = i + columns >= len(parts)
        axis.set_title(name, pad=6)
        axis.set_xlabel(unit if lowest else "")
        axis.tick_params(labelbottom=lowest, length=0)
    return figure, axes[: len(parts)]


def _arm_axis(axis, arms) -> None:
    """Arms from top to bottom on y, one row each."""
    axis.set_yticks(range(len(arms)), [_short(arm) for arm in arms])
    axis.set_ylim(len(arms) - 0.45, -0.55)
    axis.grid(False, axis="y")


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    place = {arm: i for i, arm in enumerate(tables.arm_order(table["arm"]))}
    return table.sort_values("arm", key=lambda names: names.map(place), kind="stable")


def _interval_dot(axis, y: float, value: float, low: float, high: float, color: str) -> None:
    """A dot with its interval; hollow without one."""
    known = np.isfinite([low, high]).all()
    if known:
        axis.plot([low, high], [y, y], color=color, lw=2.6, alpha=0.55, solid_capstyle="butt", zorder=2)
    axis.plot(value, y, "o", ms=6, color=color, mfc=color if known else "white", mew=1.4, zorder=3)


def _label(axis, x: float, y: float, text: str) -> None:
    """Text just right of a mark."""
    place = {"textcoords": "offset points", "va": "center_baseline", "size": 9}
    axis.annotate(text.replace("-", "−"), (x, y), (6, 0), **place)


def _missing_row(axis, y: float) -> None:
    axis.text(
        0.02, y, "missing", transform=axis.get_yaxis_transform(), va="center_baseline", color=FAINT, style="italic"
    )


# --- evaluation


def reward_means(summary, reward: str = "reward"):
    """Mean reward per arm with 95% intervals, a panel per cell x prompt set (Align-Pro Figure 2).

    summary: tables.summary's rows; reward: "reward" or "gold_reward" (which has no interval)
    """
    title = "Mean reward" if reward == "reward" else "Mean gold reward"
    table, name = _frame(summary), f"mean_{reward}"
    if not np.isfinite(_numbers(table, name)).any():
        return _nothing(title, f"no {reward.replace('_', ' ')} for any arm")
    parts = [(label, _ordered(part)) for label, part in _panels(table)]
    prompts = _range(_numbers(table, "num_prompts"))
    ends = "95% t interval over prompts" if f"{name}_low" in table else "without interval"
    unit = REWARD_UNITS if reward == "reward" else "gold reward"
    figure, axes = _grid(title, f"{ends} · n = {prompts} prompts", parts, ROW, unit)
    for axis, (_, part) in zip(axes, parts, strict=True):
        values = [_numbers(part, column) for column in (name, f"{name}_low", f"{name}_high")]
        _mean_rows(axis, list(part["arm"]), *values, warn=f"{name}_low" in table)
    _room_on_the_right(axes, 0.2)
    return figure


def _mean_rows(axis, arms, means, lows, highs, warn: bool) -> None:
    _arm_axis(axis, arms)
    for y, (arm, mean, low, high) in enumerate(zip(arms, means, lows, highs, strict=True)):
        if np.isnan(mean):
            _missing_row(axis, y)
            continue
        _interval_dot(axis, y, mean, low, high, arm_color(arm))
        known = np.isfinite([low, high]).all()
        _label(axis, high if known else mean, y, f"{mean:.2f}" + (" (no interval)" if warn and not known else ""))


def _room_on_the_right(axes, share: float) -> None:
    """Widen the shared x axis, so that labels behind the last mark stay inside."""
    low, high = axes[0].get_xlim()
    axes[0].set_xlim(low, high + share * (high - low))


def reward_variances(summary, reward: str = "reward"):
    """Variance of the reward over all answers of an arm, a panel per cell x prompt set (Align-Pro Figure 3)."""
    title, table, name = "Reward variance", _frame(summary), f"{reward}_variance"
    if not np.isfinite(_numbers(table, name)).any():
        return _nothing(title, "no variance: fewer than two rewards for every arm")
    parts = [(label, _ordered(part)) for label, part in _panels(table)]
    subtitle = f"over all answers, unbiased · n = {_range(_numbers(table, 'num_prompts'))} prompts"
    figure, axes = _grid(title, subtitle, parts, ROW, "variance of the reward (reward-model units²)")
    for axis, (_, part) in zip(axes, parts, strict=True):
        _arm_axis(axis, list(part["arm"]))
        for y, (arm, value) in enumerate(zip(part["arm"], _numbers(part, name), strict=True)):
            if np.isnan(value):
                _missing_row(axis, y)
                continue
            axis.barh(y, value, height=0.55, color=arm_color(arm))
            _label(axis, value, y, f"{value:.3f}")
    axes[0].set_xlim(left=0)
    _room_on_the_right(axes, 0.16)
    return figure


def win_tie_lose(summary, baseline: str = "nan"):
    """Prompts won, tied and lost against the baseline, unscored ones apart, and the win rate with its 95% interval."""
    title, table = f"Wins, ties and losses against `{_short(baseline)}`", _frame(summary)
    scored = sum(_numbers(table, name) for name in ("win", "tie", "lose"))
    judged = table[np.isfinite(scored)] if len(table) else table
    if judged.empty:
        return _nothing(title, "no arm was judged against the baseline")
    parts = [(label, _ordered(part)) for label, part in _panels(judged)]
    nums = (scored + np.nan_to_num(_numbers(table, "unscored")))[np.isfinite(scored)]
    subtitle = (
        f"both orders judged, a win needs both · n = {_range(nums)} prompts · win rate = wins + half the ties, with "
        "the 95% Tango score interval"
    )
    heights = [0.62 + ROW * len(part) for _, part in parts]
    figure = _figure(9.6, sum(heights) + 0.35, title, subtitle, OUTCOME_COLORS)
    axes = figure.subplots(len(parts), 2, sharex="col", squeeze=False, width_ratios=[3.3, 2], height_ratios=heights)
    for (left, right), (label, part) in zip(axes, parts, strict=True):
        left.set_title(label, pad=6)
        _outcome_bars(left, part)
        _win_rates(right, part)
    axes[-1][0].set_xlabel("share of scored prompts (%)")
    axes[-1][1].set_xlabel("win rate (%)")
    return figure


def _outcome_bars(axis, part: pd.DataFrame) -> None:
    _arm_axis(axis, list(part["arm"]))
    counts = {name: _numbers(part, name) for name in OUTCOME_COLORS}
    total, left = sum(counts.values()), np.zeros(len(part))
    for name, color in OUTCOME_COLORS.items():
        share = 100 * counts[name] / np.where(total > 0, total, 1)
        axis.barh(range(len(part)), share, left=left, height=0.66, color=color, edgecolor="white", lw=0.8)
        for y in np.flatnonzero(share > 0):
            _inside(axis, left[y], share[y], y, f"{counts[name][y]:.4g}", "white" if name == "win" else INK)
        left = left + share
    for y, num in enumerate(np.nan_to_num(_numbers(part, "unscored"))):
        if num:
            axis.text(101.5, y, f"+{num:.4g} unscored", va="center_baseline", size=8.5, color=FAINT, style="italic")
        if not total[y]:
            axis.text(1, y, "none scored", va="center_baseline", size=9, color=FAINT, style="italic")
    axis.set_xlim(0, 124 if np.nansum(_numbers(part, "unscored")) else 100)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(length=0)


def _inside(axis, left: float, share: float, y: float, text: str, ink: str) -> None:
    """Text in a segment of `share` percent: at full size, smaller, or not at all, as it fits."""
    size = 9 if share > 1.9 * len(text) else 6.5
    if share > 1.15 * len(text):
        axis.text(left + share / 2, y, text, ha="center", va="center_baseline", color=ink, size=size)


def _win_rates(axis, part: pd.DataFrame) -> None:
    _arm_axis(axis, list(part["arm"]))
    axis.set_yticklabels([])
    axis.axvline(50, color="#999999", lw=1, ls=(0, (3, 2)), zorder=1)
    values = [100 * _numbers(part, f"win_rate{end}") for end in ("", "_low", "_high")]
    for y, (arm, rate, low, high) in enumerate(zip(part["arm"], *values, strict=True)):
        text = "none scored"
        if np.isfinite(rate):
            _interval_dot(axis, y, rate, low, high, arm_color(arm))
            text = f"{rate:.0f}  " + (f"[{low:.0f}, {high:.0f}]" if np.isfinite([low, high]).all() else "no interval")
        axis.text(1.02, y, text, transform=axis.get_yaxis_transform(), va="center_baseline", size=9)
    axis.set_xlim(-3, 103)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(length=0)


def reward_distributions(answers):
    """Every answer's reward, with median and quartiles, per arm and prompt set. answers: rows of records.Answer."""
    title, table = "Distribution of rewards", _frame(answers)
    rewards = _numbers(table, "reward")
    if not np.isfinite(rewards).any():
        return _nothing(title, "no answer has a reward")
    parts = _panels(table.assign(reward=rewards))
    num_missing = int(np.isnan(rewards).sum())
    subtitle = f"a dot per answer, line at the median, box between quartiles · n = {_counted(rewards.size, 'answer')}"
    subtitle += f", {num_missing:,} without a reward" if num_missing else ""
    figure, axes = _grid(title, subtitle, parts, 0.46, REWARD_UNITS)
    for axis, (_, part) in zip(axes, parts, strict=True):
        arms = tables.arm_order(part["arm"])
        _arm_axis(axis, arms)
        for y, arm in enumerate(arms):
            _dots(axis, y, np.sort(part.loc[part["arm"] == arm, "reward"].dropna()), arm_color(arm))
    return figure


def _dots(axis, y: float, values, color: str) -> None:
    """Dots spread evenly over the row's height (golden-ratio steps, no random numbers), and a box over them."""
    if not len(values):
        _missing_row(axis, y)
        return
    spread = (np.arange(1, len(values) + 1) * 0.6180339887498949) % 1 - 0.5
    alpha = float(np.clip(16 / len(values) ** 0.75, 0.06, 0.55))
    place = {"s": 11, "lw": 0, "rasterized": len(values) > 500}
    axis.scatter(values, y + 0.62 * spread, color=color, alpha=alpha, **place, zorder=2)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    axis.add_patch(plt.Rectangle((low, y - 0.36), high - low, 0.72, fill=False, ec=INK, lw=0.9, zorder=3))
    axis.plot([middle, middle], [y - 0.36, y + 0.36], color=INK, lw=2.2, solid_capstyle="butt", zorder=4)


# --- training


def training_curves(history):
    """Reward, KL, entropy, length by training step (those that exist), a line per arm. history: rows with step, arm."""
    return _curves("Reinforcement learning", history, TRAINING_PANELS)


def preference_curves(history):
    """Loss, margin, accuracy, log-probabilities by training step, a line per arm. history: rows with step, arm."""
    return _curves("Preference training", history, PREFERENCE_PANELS)


def _curves(title: str, history, panels):
    """Small multiples, a column per quantity and a row per cell; a missing value breaks its line."""
    table = _frame(history)
    found = [(present, *rest) for names, *rest in panels if (present := _present(table, names))]
    if not found or not np.isfinite(_numbers(table, "step")).any():
        return _nothing(title, "no logged step has a value to draw")
    table = _named(table, "cell", "arm")
    cells, arms = sorted(set(table["cell"])), tables.arm_order(table["arm"])
    columns = len(found) if len(cells) > 1 else _columns(len(found))
    lines = len(cells) if len(cells) > 1 else -(-len(found) // columns)
    key = {arm: arm_color(arm) for arm in arms if arm}
    figure = _figure(max(3.5 * columns, 5.2), 2.5 * lines, title, _curve_subtitle(table, found), key)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(found) * len(cells) :]:
        axis.set_visible(False)
    for i, cell in enumerate(cells):
        for axis, (names, panel, unit) in zip(axes[i * len(found) :], found, strict=False):
            _curve_panel(axis, table[table["cell"] == cell], names, arms)
            axis.set_title(f"{_short(cell, 22)} · {panel}" if len(cells) > 1 and cell else panel, pad=6)
            axis.set(ylabel=unit, xlabel="training step")
    return figure


def _present(table: pd.DataFrame, names) -> list[str]:
    """The first of the synonyms that holds a number; both of a chosen/rejected pair."""
    held = [name for name in names if np.isfinite(_numbers(table, name)).any()]
    return held if names[0].startswith("logps") else held[:1]


def _curve_subtitle(table: pd.DataFrame, found) -> str:
    names = [name for columns, *_ in found for name in columns]
    groups = [np.isnan(_numbers(part, name)) for _, part in table.groupby(["cell", "arm"]) for name in names]
    absent = sum(int(holes.sum()) for holes in groups if not holes.all())  # not what an arm never logs
    num_steps = table["step"].nunique()
    text = f"n = {_counted(num_steps, 'logged step')}"
    text += ", thin as logged, bold averaged over about a tenth of them" if num_steps >= SMOOTH_FROM else ""
    text += " · chosen solid, rejected dashed" if "logps_rejected" in names else ""
    return text + (f" · {_counted(absent, 'missing value')} not drawn" if absent else "")


def _curve_panel(axis, table: pd.DataFrame, names, arms) -> None:
    if not any(np.isfinite(_numbers(table, name)).any() for name in names):
        axis.text(0.5, 0.5, "none logged", transform=axis.transAxes, ha="center", color=FAINT, style="italic")
        axis.set(xticks=[], yticks=[])
        return
    for arm in arms:
        rows = table[table["arm"] == arm].sort_values("step", kind="stable")
        steps = _numbers(rows, "step")
        for name, style in zip(names, ("-", (0, (3, 1.5))), strict=False):
            values = _numbers(rows, name)
            smooth = _smoothed(values)
            axis.plot(steps, values, color=arm_color(arm) if arm else INK, lw=0.8, alpha=0.35, ls=style)
            mark = "o" if np.isfinite(smooth).sum() < 12 else None
            axis.plot(steps, smooth, color=arm_color(arm) if arm else INK, lw=1.9, ls=style, marker=mark, ms=4)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axis.tick_params(length=0)
    axis.margins(x=0.02)


def _smoothed(values) -> np.ndarray:
    """Centred mean over a tenth of the steps (3 at least, none below SMOOTH_FROM); a gap stays a gap."""
    window = max(3, len(values) // 10) if len(values) >= SMOOTH_FROM else 1
    smooth = pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()
    return np.where(np.isnan(values), np.nan, smooth)


# --- collection


def score_rounds(rounds):
    """Shares of the scores 1 to 5 that responses got, by round, unscored ones apart. rounds: rows of records.Round."""
    title, table = "Critique scores by round", _frame(rounds)
    scores = _numbers(table, "score")
    if not len(table) or "round" not in table:
        return _nothing(title, "no round was collected")
    table = _named(table, "cell").assign(score=scores)
    groups = list(table.groupby(["cell", "round"], sort=True))
    levels = sorted({1, 2, 3, 4, 5} | set(scores[np.isfinite(scores)]))
    colors = dict(zip(levels, seaborn.color_palette("blend:#d9e5ec,#084c74", len(levels)), strict=True))
    subtitle = (
        f"n = {_counted(len(table), 'critique')} of {_counted(table['prompt_id'].nunique(), 'prompt')} · round 0 "
    )
    subtitle += "is the prompt itself; prompts that stop early are in no later round: rounds are not the same prompts"
    key = {f"score {level:g}": color for level, color in colors.items()}
    figure = _figure(8.6, 0.6 + 0.44 * len(groups), title, subtitle, key)
    axis = figure.subplots()
    for y, (_, part) in enumerate(groups):
        _score_bar(axis, y, part["score"].to_numpy(), colors)
    several = table["cell"].nunique() > 1
    names = [f"{_short(cell, 22)} · round {step}" if several else f"round {step}" for (cell, step), _ in groups]
    axis.set_yticks(range(len(groups)), names)
    axis.set(xlim=(0, 100), xlabel="share of scored responses (%)", ylim=(len(groups) - 0.5, -0.5))
    axis.grid(False, axis="y")
    axis.tick_params(length=0)
    return figure


def _score_bar(axis, y: float, scores, colors: dict) -> None:
    known, left = scores[np.isfinite(scores)], 0.0
    for level, color in colors.items():
        num = int((known == level).sum())
        share = 100 * num / max(len(known), 1)
        axis.barh(y, share, left=left, height=0.7, color=color, edgecolor="white", lw=0.8)
        if num:
            _inside(axis, left, share, y, f"{num:,}", "white" if sum(color) < 1.7 else INK)
        left += share
    text = f"mean {known.mean():.2f} · n = {len(known):,}" if len(known) else "none scored"
    text += f" · +{len(scores) - len(known):,} unscored" if len(scores) > len(known) else ""
    axis.text(1.015, y, text, transform=axis.get_yaxis_transform(), va="center_baseline", size=9, color=INK)


def collection_funnel(counts):
    """What is left after each stage of the collection: bars with counts and shares of the stage before.

    counts: {stage: count} or rows with stage, count, in order
    """
    title, table = "From invented prompts to training pairs", _frame(counts)
    values = _numbers(table, "count")
    if not np.isfinite(values).any():
        return _nothing(title, "no counts of the collection")
    subtitle = f"n = {values[np.isfinite(values)][0]:,.0f} at the start · share of the stage before in parentheses"
    figure = _figure(7.6, 0.3 + 0.42 * len(table), title, subtitle)
    axis = figure.subplots()
    colors = seaborn.color_palette("blend:#9fb8c8,#0072b2", len(table))
    before = np.nan
    for y, value in enumerate(values):
        known = np.isfinite(value)
        axis.barh(y, value if known else 0, height=0.7, color=colors[y])
        share = f"  ({100 * value / before:.0f}%)" if known and before >= value and before > 0 else ""
        _label(axis, value if known else 0, y, f"{value:,.0f}{share}" if known else "missing")
        before = value if known else before
    axis.set_yticks(range(len(table)), [_short(stage, 34) for stage in table["stage"]])
    axis.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 1.18 * max(np.nanmax(values), 1)), xticks=[])
    axis.grid(False)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(length=0)
    return figure

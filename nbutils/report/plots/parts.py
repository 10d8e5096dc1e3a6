"""What every figure is made of: the theme, colours, panels, axes of arms, dots with intervals, labels; saving."""

import hashlib
import io
import os
import textwrap

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn

from nbutils.analyse import tables
from nbutils.experiment import paths
from nbutils.report.plots import letters

# Colours of Okabe and Ito, and of Tol, which colour-blind readers tell apart; grey and black for the two extremes.
ARM_COLORS = {
    "nan": "#7a7a7a",
    "untrained": "#56b4e9",
    "untrained_poir": "#f2a679",
    "alignpro": "#0072b2",
    "rlhf": "#222222",
    "poir": "#d55e00",
    "poir_other": "#cc6677",
    "dpo_awi": "#e69f00",
    "sft": "#009e73",
    "dpo_awo": "#cc79a7",
    "bpo": "#882255",
    "poir_s1": "#999933",
    "tilted": "#44aa99",
}
OTHER_COLORS = ("#332288", "#117733", "#aa4499", "#ddaa33", "#88ccee", "#6a51a3", "#8c6d31")
OUTCOME_COLORS = {"win": "#2a8a82", "tie": "#d9d9d9", "lose": "#c58a45"}
INK, FAINT = "#222222", "#6b6b6b"
REWARD_UNITS = "reward (reward-model units)"
HEADER, ROW = 0.78, 0.34  # inches
TALLEST, LEAST_ROW = 10.5, 0.16  # inches of panels, above which rows move together, and how far
LABEL_SIZES = ((9, 1.9), (6.5, 1.15))  # points, and percent of a wide bar that a letter takes
SMOOTH_FROM = 20  # logged steps
_TITLE, _BELOW = 0.38, 0.34  # inches: a panel's title and the gap over it; ticks and unit below the lowest panels
_TITLE_ROOM = 34  # letters over a panel with neighbours


def theme() -> None:
    """The house's look, for every figure made after it; the figure functions call it themselves."""
    seaborn.set_theme(style="whitegrid", context="notebook", font=letters.families())
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
    table = tables.as_csv(frame(data))
    return [*written, paths.write_atomic(os.path.join(folder, f"{name}.csv"), table)]


def _freeze(figure) -> None:
    """End the layout and round it: the solver's last bits differ from run to run, and SVG ids are hashes of them."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        axis.set_position([round(float(number), 5) for number in axis.get_position().bounds])


def frame(rows) -> pd.DataFrame:
    """Rows, a {stage: count} mapping or a DataFrame as a DataFrame."""
    if isinstance(rows, dict) and all(np.isscalar(value) for value in rows.values()):
        return pd.DataFrame({"stage": list(rows), "count": list(rows.values())})
    return pd.DataFrame(rows)


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """A column as floats, infinite and missing ones NaN; all NaN if there is no such column."""
    if column not in table:
        return np.full(len(table), np.nan)
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def new_figure(width: float, height: float, title: str, subtitle: str, key: dict[str, str] | None = None):
    """An empty figure of `height` inches below a header with title, subtitle and key ({name: colour})."""
    theme()
    title, subtitle = letters.drawable(title), letters.drawable(subtitle)
    lines, names = textwrap.wrap(subtitle, max(30, int(width * 13.5))), [short(name) for name in key or {}]
    columns = max(1, int((width - 0.2) / (0.5 + 0.08 * max(map(len, names), default=1))))
    key_top = HEADER + 0.17 * (len(lines) - 1)
    total = key_top + 0.22 * -(-len(names) // columns) + height
    figure = plt.figure(figsize=(width, total), layout="constrained")
    figure.get_layout_engine().set(rect=(0.01, 0.01, 0.98, height / total - 0.01), w_pad=0.08, h_pad=0.06)
    figure.text(0.12 / width, 1 - 0.12 / total, title, size=13, weight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.42 / total, "\n".join(lines), size=9.5, color=FAINT, va="top", linespacing=1.25)
    if key:
        handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in key.values()]
        place = {"loc": "upper left", "bbox_to_anchor": (0.12 / width, 1 - (key_top - 0.1) / total), "ncols": columns}
        style = {"handlelength": 0.9, "handleheight": 0.9, "columnspacing": 1.3, "handletextpad": 0.5}
        legend = figure.legend(
            handles, names, **place, **style, fontsize=9, frameon=False, borderaxespad=0, borderpad=0
        )
        legend.set_in_layout(False)
    return figure


def nothing(title: str, why: str):
    figure = new_figure(6.4, 1.0, title, "nothing to show")
    figure.text(0.5, 0.28, textwrap.fill(why, 80), ha="center", va="center", color=FAINT, size=10.5)
    return figure


def short(name, width: int = 28) -> str:
    """A name that fits beside an axis and that a font can draw: long ones keep both ends."""
    text = letters.drawable("".join(char if char.isprintable() else " " for char in str(name)))
    return text if len(text) <= width else f"{text[: width // 2]}…{text[-(width - width // 2 - 1) :]}"


def named(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The table with these columns as text, empty where there is none."""
    names = {name: table[name].astype(object) if name in table else pd.Series("", table.index) for name in columns}
    return table.assign(**{name: column.where(column.notna(), "").astype(str) for name, column in names.items()})


def counted(num, one: str) -> str:
    return f"{int(num):,} {one}{'' if num == 1 else 's'}"


def span(values) -> str:
    """`60` or `58 to 60`."""
    low, high = int(np.min(values)), int(np.max(values))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def panels(table: pd.DataFrame):
    """[(title, rows)]: one per cell x prompt set, naming what differs between panels."""
    table = named(table, "cell", "prompt_set", "arm")
    groups = list(table.groupby(["cell", "prompt_set"], sort=True))
    differs = [len({key[i] for key, _ in groups}) > 1 for i in (0, 1)]
    shown = differs if any(differs) else [False, True]
    return [(" · ".join(short(key[i], 34) for i in (0, 1) if shown[i]), part) for key, part in groups]


def num_columns(num_panels: int) -> int:
    return 2 if num_panels == 4 else min(num_panels, 3)


def num_across(parts, most: int) -> int:
    """Panels side by side. With several cells it divides their prompt sets, so that a column keeps to its sets."""
    num_sets = len({str(part["prompt_set"].iloc[0]) for _, part in parts})
    dividing = [num for num in range(most, 1, -1) if num_sets % num == 0 and num_sets < len(parts)]
    return dividing[0] if dividing else min(most, num_columns(len(parts)))


def stacked(parts, columns: int, row_height: float, title_height: float = _TITLE) -> tuple[list[float], float]:
    """(heights of the lines of panels, in rows; inches of all): lower rows where many lines are stacked."""
    arms = [part["arm"].nunique() for _, part in parts]
    rows = [max(arms[i : i + columns]) for i in range(0, len(arms), columns)]
    titles = title_height * len(rows)
    row_height = min(row_height, max(LEAST_ROW, (TALLEST - titles) / sum(rows)))
    return [num + 0.1 for num in rows], titles + row_height * sum(rows)


def titled(parts, columns: int, room: int) -> tuple[list[str], float]:
    """(titles of the panels, inches each): cell and prompt set on a line each where they outgrow `room` letters."""
    broken = columns > 1 and any(len(name) > room for name, _ in parts)
    return [name.replace(" · ", "\n") if broken else name for name, _ in parts], _TITLE + 0.18 * broken


def full_width(parts, columns: int, widths) -> float:
    """Inches of panels, widths[columns - 1] each, with their arms' names: at the left, or at each where they differ."""
    if columns == 1:
        return widths[0]
    arms = [set(map(short, part["arm"])) for _, part in parts]
    named = 1 if arms.count(arms[0]) == len(arms) else columns
    return columns * widths[columns - 1] + named * 0.08 * max(map(len, set.union(*arms)))


def grid(title: str, subtitle: str, parts, row_height: float, unit: str):
    """(figure, axes): one axes per (title, rows) of parts, high enough for their arms, sharing x."""
    columns = num_across(parts, 4)
    titles, title_height = titled(parts, columns, _TITLE_ROOM)
    rows, height = stacked(parts, columns, row_height, title_height)
    figure = new_figure(full_width(parts, columns, (6.4, 3.9, 3.4, 3.15)), height + _BELOW, title, subtitle)
    axes = figure.subplots(len(rows), columns, sharex=True, squeeze=False, height_ratios=rows).ravel()
    return figure, label_panels(axes, titles, columns, unit)


def label_panels(axes, titles: list[str], columns: int, unit: str):
    """The axes that have a panel: titles over them, ticks and unit below the lowest ones; the others are hidden."""
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    for i, (axis, name) in enumerate(zip(axes, titles, strict=False)):
        lowest = i + columns >= len(titles)
        axis.set_title(name, pad=6)
        axis.set_xlabel(unit if lowest else "")
        axis.tick_params(labelbottom=lowest, length=0)
    return axes[: len(titles)]


def align_arms(axes) -> None:
    """Rows of one height along a line of panels; arms named at the left only, where all panels have the same."""
    names = [[label.get_text() for label in axis.get_yticklabels()] for axis in axes]
    places = [axis.get_subplotspec() for axis in axes]
    ends: dict[int, float] = {}
    for place, axis in zip(places, axes, strict=True):
        ends[place.rowspan.start] = max(axis.get_ylim()[0], ends.get(place.rowspan.start, 0))
    for place, axis in zip(places, axes, strict=True):
        axis.set_ylim(bottom=ends[place.rowspan.start])
        axis.tick_params(labelleft=place.is_first_col() or names.count(names[0]) < len(names))


def arm_axis(axis, arms) -> None:
    """Arms from top to bottom on y, one row each."""
    axis.set_yticks(range(len(arms)), [short(arm) for arm in arms])
    axis.set_ylim(len(arms) - 0.45, -0.55)
    axis.grid(False, axis="y")


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    place = {arm: i for i, arm in enumerate(tables.arm_order(table["arm"]))}
    return table.sort_values("arm", key=lambda names: names.map(place), kind="stable")


def interval_dot(axis, y: float, value: float, low: float, high: float, color: str, size: float = 6) -> None:
    """A dot of `size` points with its interval; hollow without one."""
    known = np.isfinite([low, high]).all()
    if known:
        axis.plot([low, high], [y, y], color=color, lw=2.6, alpha=0.55, solid_capstyle="butt", zorder=2)
    axis.plot(value, y, "o", ms=size, color=color, mfc=color if known else "white", mew=1.4, zorder=3)


def label_right(axis, x: float, y: float, text: str) -> None:
    """Text just right of a mark."""
    place = {"textcoords": "offset points", "va": "center_baseline", "size": 9}
    axis.annotate(text.replace("-", "−"), (x, y), (6, 0), **place)


def missing_row(axis, y: float) -> None:
    axis.text(
        0.02, y, "missing", transform=axis.get_yaxis_transform(), va="center_baseline", color=FAINT, style="italic"
    )


def label_inside(axis, left: float, share: float, y: float, text: str, ink: str, sizes=LABEL_SIZES) -> None:
    """Text in a segment of `share` percent, in the first of sizes that fits, or not at all."""
    for size, percent in sizes:
        if share > percent * len(text):
            axis.text(left + share / 2, y, text, ha="center", va="center_baseline", color=ink, size=size)
            break


def room_on_the_right(axes, share: float) -> None:
    """Widen the shared x axis, so that labels behind the last mark stay inside."""
    low, high = axes[0].get_xlim()
    axes[0].set_xlim(low, high + share * (high - low))

"""The transfer heat map: trained on one model's pairs, evaluated with another (POIR, Table 2's "homologous data")."""

import matplotlib
import numpy as np
import pandas as pd

from nbutils.report.plots.parts import FAINT, INK, frame, named, new_figure, nothing, numbers, short, span

LEAST_REACH = 10.0  # points from neutral to the end of the colour scale, so that noise does not look like an effect
SQUARE, LONGEST = (1.5, 0.9), 24  # inches; characters of a model's name
MOST_COLUMNS = 3  # panels side by side
# win_tie_lose's colours, light enough for dark numbers on them
_COLORS = matplotlib.colors.LinearSegmentedColormap.from_list("lose to win", ["#d9a873", "#fafafa", "#63aca5"])


def transfer_heatmap(table, measure: str = "win rate against nan (%)", neutral: float = 50.0):
    """Source of the training pairs (rows) x model evaluated (columns): the value in each square, its interval below.

    table: rows source, target, value, low, high in percent or points, one per square, and where there are any
    prompt_set (a panel each), num_scored, num_unscored and num_cells (of the experiment that were averaged)
    measure: what value is; neutral: the value at which neither side wins (0 for ΔWR)
    A model's own pairs are outlined. A square without a row is hatched, one without a value says "none scored". Rows
    that share a square raise ValueError: average them first.
    """
    title, table = "Trained on one model's pairs, evaluated with another", _tidy(table)
    values = numbers(table, "value")
    if not np.isfinite(values).any():
        return nothing(title, "no evaluation whose training pairs' model is known")
    models = sorted({*table["source"], *table["target"]})
    rows, columns = ([name for name in models if name in set(table[side])] for side in ("source", "target"))
    reach = max(LEAST_REACH, float(np.nanmax(np.abs(values - neutral))))
    scale = matplotlib.colors.TwoSlopeNorm(neutral, neutral - reach, neutral + reach)
    figure, axes = _panels(title, _subtitle(table, len(rows) * len(columns)), table, rows, columns)
    for axis, (name, part) in zip(axes, table.groupby("prompt_set", sort=True), strict=True):
        axis.set_title(short(name, 34), pad=8)
        _squares(axis, part, rows, columns, scale)
    bar = figure.colorbar(matplotlib.cm.ScalarMappable(scale, _COLORS), ax=axes, aspect=14, shrink=0.9, pad=0.03)
    bar.set_label(measure)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def _tidy(table) -> pd.DataFrame:
    table = named(frame(table), "source", "target", "prompt_set")
    twice = table[table.duplicated(["source", "target", "prompt_set"])]
    if len(twice):
        where = f"{twice['source'].iloc[0]} to {twice['target'].iloc[0]}"
        raise ValueError(f"{where}: wanted one row per source, target and prompt set, got several: average them first")
    return table


def _subtitle(table: pd.DataFrame, num_squares: int) -> str:
    averaged = numbers(table, "num_cells")
    averaged = averaged[averaged > 1]  # NaN is not
    text = "small: 95% interval"
    text += f", over cells of the experiment where several ({span(averaged)}) were averaged" if len(averaged) else ""
    text += " · outlined: a model on its own pairs"
    text += " · hatched: not evaluated" if len(table) < num_squares * table["prompt_set"].nunique() else ""
    counts = numbers(table, "num_scored")
    if np.isfinite(counts).any():
        text += f" · n = {span(counts[np.isfinite(counts)])} prompts per square"
    num_unscored = int(np.nansum(numbers(table, "num_unscored")))
    return text + (f", {num_unscored:,} unscored left out" if num_unscored else "")


def _panels(title: str, subtitle: str, table: pd.DataFrame, rows: list[str], columns: list[str]):
    """(figure, axes): one per prompt set, all of the same size; names of rows at the left, of columns below."""
    num = table["prompt_set"].nunique()
    wide = min(num, MOST_COLUMNS)
    lines = -(-num // wide)
    width, height = max(1.6, SQUARE[0] * len(columns)), SQUARE[1] * len(rows)
    figure = new_figure(max(6.4, 3.4 + wide * (width + 0.3)), lines * (height + 0.95) + 0.1, title, subtitle)
    axes = figure.subplots(lines, wide, squeeze=False, sharey=True).ravel()
    for place, axis in enumerate(axes):
        axis.set_visible(place < num)
        axis.set_xticks(range(len(columns)), [_on_two_lines(name) for name in columns])
        axis.set_yticks(range(len(rows)), [short(name, LONGEST) for name in rows])
        axis.set(xlim=(-0.52, len(columns) - 0.48), ylim=(len(rows) - 0.48, -0.52))
        axis.set_xlabel("evaluated with" if place + wide >= num else "")
        axis.set_ylabel("trained on the pairs of" if place % wide == 0 else "")
        axis.tick_params(length=0, labelleft=place % wide == 0)
        axis.grid(False)
        axis.spines[:].set_visible(False)
    return figure, list(axes[:num])


def _on_two_lines(name: str) -> str:
    """A model's owner above its name, so that neighbours keep apart."""
    owner, slash, end = str(name).rpartition("/")
    return "\n".join(filter(None, (short(owner, LONGEST - 4) + slash, short(end, LONGEST - 4))))


def _squares(axis, part: pd.DataFrame, rows: list[str], columns: list[str], scale) -> None:
    found = {(row["source"], row["target"]): row for row in part.to_dict("records")}
    for y, source in enumerate(rows):
        for x, target in enumerate(columns):
            ends = [float(found.get((source, target), {}).get(name, np.nan)) for name in ("value", "low", "high")]
            known = np.isfinite(ends[0])
            hatch = None if (source, target) in found else "////"
            color = _COLORS(scale(ends[0])) if known else "white"
            box = (x - 0.48, y - 0.46), 0.96, 0.92
            axis.add_patch(matplotlib.patches.Rectangle(*box, fc=color, ec="#d5d5d5", lw=0, hatch=hatch))
            if source == target:
                axis.add_patch(matplotlib.patches.Rectangle(*box, fill=False, ec=INK, lw=1.8, zorder=3))
            if hatch is None:
                _number(axis, x, y, *ends)


def _number(axis, x: float, y: float, value: float, low: float, high: float) -> None:
    """The value, and below it the interval."""
    place = {"ha": "center", "va": "center_baseline"}
    if not np.isfinite(value):
        axis.text(x, y, "none scored", size=8.5, color=FAINT, style="italic", **place)
        return
    interval = f"[{low:.0f}, {high:.0f}]" if np.isfinite([low, high]).all() else "no interval"
    axis.text(x, y - 0.1, f"{value:.1f}".replace("-", "−"), size=13, weight="bold", **place)
    axis.text(x, y + 0.22, interval.replace("-", "−"), size=8.5, **place)

"""The judge's health card as a picture: each check's rate with its interval, on the range of a sound judge."""

import numpy as np

from nbutils.analyse.health import KAPPA
from nbutils.report.plots.parts import FAINT, INK, counted, frame, named, new_figure, nothing, numbers, short

_RANGE, _SOUND, _FAILED = "#dcebe8", "#2a8a82", "#b2182b"
_ROW = 0.36  # inches


def judge_health(card):
    """Rows of health.card: a panel per cell, a line per check; red beyond the limits, hollow without an interval.

    value, low, high: shares; least, most: the limits, shaded; a check without a comparison says so.
    """
    title, table = "Can the judge be trusted?", named(frame(card), "cell", "check")
    if not len(table):
        return nothing(title, "no check of a judge")
    parts = list(table.groupby("cell", sort=True))
    most = max(len(part) for _, part in parts)
    columns = min(len(parts), 3)
    lines = -(-len(parts) // columns)
    width = (8.6, 12.2, 15.0)[columns - 1]
    figure = new_figure(width, lines * (_ROW * most + 0.85), title, _subtitle(table))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[len(parts) :]:
        axis.set_visible(False)
    for axis, (cell, part) in zip(axes, parts, strict=False):
        axis.set_title(short(cell, 40) if len(parts) > 1 else "")
        _draw(axis, part)
    return figure


def _subtitle(table) -> str:
    failed, held = (table["sound"].map(lambda sound, wanted=wanted: sound is wanted).sum() for wanted in (False, True))
    said = f"{counted(failed, 'check')} of {failed + held} beyond the limits" if failed else "every check within limits"
    of_kappa = "; κ is no share" if (table["check"] == KAPPA).any() else ""
    return f"{said} · shaded: a sound judge · n: comparisons · 95% Wilson intervals{of_kappa}"


def _draw(axis, part) -> None:
    values = {name: 100 * numbers(part, name) for name in ("value", "low", "high", "least", "most")}
    for y, row in enumerate(part.to_dict("records")):
        value, low, high, least, most = (values[name][y] for name in ("value", "low", "high", "least", "most"))
        if (least, most) != (0.0, 100.0):
            axis.barh(y, most - least, left=least, height=0.72, color=_RANGE, zorder=1)
        if not np.isfinite(value):
            axis.text(2, y, "not checked", va="center_baseline", color=FAINT, style="italic", size=9)
            continue
        color = _FAILED if row["sound"] is False else INK if (least, most) == (0.0, 100.0) else _SOUND
        if np.isfinite([low, high]).all():
            axis.plot(
                np.clip([low, high], 0, 100), [y, y], color=color, lw=2.6, alpha=0.55, solid_capstyle="butt", zorder=2
            )
        axis.plot(max(value, 0), y, "o", ms=6.5, color=color, zorder=3)
        shown = f"{value / 100:.2f}" if row["check"] == KAPPA else f"{value:.0f}%"
        text = f"{shown}  n = {int(row['num']):,}".replace("-", "−")
        weight = "bold" if row["sound"] is False else "normal"
        axis.text(104, y, text, va="center_baseline", color=color, size=9, weight=weight, clip_on=False)
    axis.set_yticks(range(len(part)), list(part["check"]))
    axis.set(xlim=(-2, 102), ylim=(len(part) - 0.4, -0.6), xticks=range(0, 101, 25))
    axis.set_xticklabels([f"{x}%" for x in range(0, 101, 25)])
    axis.tick_params(length=0)
    axis.grid(False, axis="y")

"""Figures of the judge's card and of ratings: every row is drawn, and what is missing says so."""

import pandas as pd
from matplotlib import pyplot as plt

from nbutils.analyse import health
from nbutils.analyse.ratings import RATING_COLUMNS
from nbutils.report import plots


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(plt.Text) if text.get_text())


def test_the_card_names_every_check_and_marks_what_fails():
    card = health.card([], [], [], "a")
    card.loc[1, ["value", "low", "high", "num", "sound"]] = [0.9, 0.8, 0.95, 40, False]
    card.loc[0, ["value", "low", "high", "num", "sound"]] = [0.0, 0.0, 0.05, 40, True]
    said = texts(plots.judge_health(card))
    assert all(check in said for check in health.CHECKS)
    assert "90%  n = 40" in said and "1 check of 2 beyond the limits" in said and said.count("not checked") == 6
    assert "no check of a judge" in texts(plots.judge_health([]))


def test_the_card_shows_kappa_as_a_number_and_only_where_people_labelled():
    card = health.card([], [], [], "a")
    assert "κ" not in texts(plots.judge_health(card))
    row = ("a", health.KAPPA, -0.15, -0.4, 0.1, 40, *health.PEOPLE_CHECKS[health.KAPPA], False)
    figure = plots.judge_health(pd.concat([card, pd.DataFrame([row], columns=list(health.COLUMNS))]))
    assert "−0.15  n = 40" in texts(figure) and "κ is no share" in texts(figure)
    drawn = [x for line in figure.axes[0].lines for x in line.get_xdata()]
    assert min(drawn) >= 0


def test_ratings_show_the_baseline_as_what_it_is():
    rows = [("poir", 1.0, 0.5, 1.5, 40, 0, 0.88, 0.8, 0.9), ("nan", -1.0, -1.5, -0.5, 40, 0, *[float("nan")] * 3)]
    table = pd.DataFrame(rows, columns=list(RATING_COLUMNS)).assign(cell="a", prompt_set="s")
    said = texts(plots.ratings(table))
    assert "88 [80, 90]" in said and "baseline" in said and "missing" not in said
    table.loc[1, "rating"] = float("nan")
    assert "missing" in texts(plots.ratings(table))
    assert "no pair of arms was judged" in texts(plots.ratings([]))

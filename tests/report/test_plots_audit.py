"""The rewrite audit's figure: every share, interval and win rate is the table's, gaps say what they are, all fits."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures import LONG, NASTY, dots, inside, says, svg, texts, titles
from made_rows import heard, study

from nbutils.analyse import audit, tables
from nbutils.report import plots
from nbutils.report.plots import parts
from nbutils.report.plots.audit import rewrite_audit

NAN = float("nan")
FLAGS = list(audit.FLAGS)
ARMS = ("untrained", "alignpro", "poir", "dpo_awi", "sft", "bpo", "tilted", "chain:alignpro+poir")


def summary(arms=("alignpro",), sets=("s",), **changes):
    keys = [(name, arm, flag) for name in sets for arm in arms for flag in FLAGS]
    table = pd.DataFrame(keys, columns=["prompt_set", "arm", "flag"])
    table = table.assign(num_prompts=80, median_growth=1.25, num_applicable=40, num_flagged=10)
    table = table.assign(share=0.25, share_low=0.14, share_high=0.4)
    for side, rate in (("flagged", 0.3), ("unflagged", 0.6)):
        ends = {"win": 4.0, "tie": 1.0, "lose": 5.0, "unscored": 0, "win_rate": rate}
        ends |= {"win_rate_low": rate - 0.1, "win_rate_high": rate + 0.2}
        table = table.assign(**{f"{side}_{name}": value for name, value in ends.items()})
    return table.assign(**changes)


def lines(axis, color=None):
    """The intervals: horizontal lines, as (low, high)."""
    found = [line for line in axis.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]]
    return [tuple(line.get_xdata()) for line in found if color is None or line.get_color() == color]


def test_shares_and_rates_are_the_tables():
    figure = rewrite_audit(summary())
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["length", *audit.FLAGS.values()]
    assert [float(dot.get_xdata()[0]) for dot in dots(left)] == [25.0] * len(FLAGS)
    assert np.allclose(lines(left), [(14, 40)] * len(FLAGS))
    color = parts.arm_color("alignpro")
    assert np.allclose([dot.get_xdata()[0] for dot in dots(right)], 30) and {d.get_color() for d in dots(right)} == {
        color
    }
    assert np.allclose(lines(right, color), [(20, 50)] * len(FLAGS))  # flagged
    assert np.allclose([mark.get_xdata()[0] for mark in dots(right, "|")], 60)  # the others
    assert np.allclose([ends for ends in lines(right) if ends[0] > 45], [(50, 80)] * len(FLAGS))
    assert titles(figure)[0] == "s · alignpro" and says(figure, "n = 80 prompts") and says(figure, "10 of 40")
    assert says(figure, "1.2 × the prompt's words (median)") and says(figure, "win rate against `nan` (%)")
    assert inside(figure)


def test_a_dot_stands_on_the_row_of_its_flag_and_arm():
    table = summary(("alignpro", "untrained"))
    table.loc[(table["arm"] == "alignpro") & (table["flag"] == "lost_names"), ["share", "flagged_win_rate"]] = 0.375
    left, right = rewrite_audit(table, baseline="base").axes
    names = [tick.get_text() for tick in right.get_yticklabels()]
    assert names == ["untrained", "alignpro"] * (len(FLAGS) + 1)  # the house's order
    row = right.get_yticks()[2 * (1 + FLAGS.index("lost_names")) + 1]
    for axis in (left, right):
        (dot,) = [dot for dot in dots(axis) if dot.get_xdata()[0] == 37.5]
        assert dot.get_ydata()[0] == row and dot.get_color() == parts.arm_color("alignpro")
    assert [tick.get_color() for tick in right.get_yticklabels()[:2]] == ["#56b4e9", "#0072b2"]
    assert right.get_xlabel() == "win rate against `base` (%)"


def test_a_flag_that_applies_to_no_prompt_is_left_out_and_named():
    table = summary(("alignpro", "poir"))
    table.loc[table["flag"] == "lost_code", "num_applicable"] = 0
    table.loc[(table["flag"] == "lost_links") & (table["arm"] == "poir"), "num_applicable"] = 0
    figure = rewrite_audit(table)
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert "code lost" not in shown and "link or address lost" in shown and len(shown) == len(FLAGS)
    assert says(figure, "left out, since no prompt is concerned: code lost")
    assert texts(figure).count("no prompt concerned") == 1  # poir's links
    assert not says(rewrite_audit(summary()), "left out")


def test_what_is_missing_says_so():
    wins = {name: NAN for name in summary() if name.startswith(("flagged", "unflagged"))}
    figure = rewrite_audit(summary(**wins))
    right = figure.axes[1]
    assert not dots(right) and not dots(right, "|") and inside(figure)
    assert [text.get_text() for text in right.texts].count("–") == 2 * len(FLAGS)
    few = rewrite_audit(summary(share_low=NAN, share_high=NAN, unflagged_win_rate_low=NAN, median_growth=NAN))
    assert {dot.get_mfc() for dot in dots(few.axes[0])} == {"white"} and says(few, "nothing written")  # hollow
    for rows in ([], summary(num_applicable=0), audit.summary(audit.audit([]), [])):
        assert "nothing to show" in texts(rewrite_audit(rows))


@pytest.mark.parametrize("num_arms", [1, 3, 8])
def test_one_to_eight_arms_fit(num_arms):
    figure = rewrite_audit(summary(ARMS[:num_arms], ("bpo", "vicuna")))
    assert len(figure.axes) == 4 and inside(figure)
    assert [title for title in titles(figure) if title] == (
        ["bpo · untrained", "vicuna · untrained"] if num_arms == 1 else ["bpo", "vicuna"]
    )
    for axis in figure.axes:
        assert len(dots(axis)) == num_arms * len(FLAGS)
        rows = sorted(dot.get_ydata()[0] for dot in dots(axis))
        assert min(np.diff(rows), default=1) > 0.15 and max(rows) < axis.get_ylim()[0]  # inches apart, inside


@pytest.mark.filterwarnings("ignore:.*missing from font.*")
def test_long_and_odd_names_are_only_text():
    for name in (LONG, "".join(NASTY[1:])):
        table = summary((name, "poir"), (name,)).query("flag in ('empty', 'leftover')")
        figure = rewrite_audit(table, baseline=name)
        assert "<script" not in svg(figure).decode("utf-8") and inside(figure)


def test_it_draws_what_summary_gives(tmp_path):
    table = audit.summary(audit.audit(study() + study("poir")), heard() + heard("poir"))
    figure = rewrite_audit(table)
    shown = " ".join(texts(figure)).replace("\n", " ")
    assert "2.5 of 6" in shown and "left out, since no prompt is concerned: name lost, code lost" in shown
    saved = [plots.save(rewrite_audit(table), tmp_path / name, "rewrite_audit", table) for name in "ab"]
    assert [path.read_bytes() for path in saved[0]] == [path.read_bytes() for path in saved[1]]
    assert " ".join(texts(rewrite_audit(tables.read(saved[0][2])))).replace("\n", " ") == shown
    assert plt.imread(saved[0][0]).shape[1] > 1500


def test_a_flag_that_no_rewrite_has_takes_no_room_and_is_named():
    table = summary(("alignpro", "poir"))
    table.loc[table["flag"] == "empty", "num_flagged"] = 0
    figure = rewrite_audit(table)
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert "nothing written" not in shown and says(figure, "in no rewrite: nothing written")
    table["num_flagged"] = 0  # then every flag that applies is shown
    assert len(figure.axes[0].get_yticklabels()) < len(rewrite_audit(table).axes[0].get_yticklabels())

"""The paper's figures from one cell up to its twelve: what is drawn is what the table says."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures import LONG, NASTY, dots, inside, says, summary, svg, texts, titles, visible
from paper_rows import MODELS, grid, verdicts

from nbutils.analyse import alignpro_paper, tables
from nbutils.report import plots
from nbutils.report.plots import parts

NAN = float("nan")
COLUMNS = ("reward_variance_low", "reward_variance_high")


def means(models, arms=("nan", "alignpro", "rlhf")):
    """A summary of the paper's twelve cells."""
    return pd.concat([summary(arms, [cell[:-3]], [cell]) for cell in models], ignore_index=True)


def variances(table):
    return table.assign(
        **{name: table["reward_variance"] * factor for name, factor in zip(COLUMNS, (0.5, 2), strict=True)}
    )


def test_a_panel_per_pair_of_models_a_group_per_data_set_a_mark_per_arm():
    _, models = grid()
    table = means(models)
    for figure in (plots.grouped_rewards(table, models), plots.grouped_variances(variances(table), models)):
        assert titles(figure)[0] == "Phi-3.5-mini-instruct, Llama-3.1-8B-Instruct" and len(titles(figure)) == 4
        assert {axis.get_ylim() for axis in visible(figure)} == {figure.axes[0].get_ylim()}  # panels compare
        for axis in visible(figure):
            assert [tick.get_text() for tick in axis.get_xticklabels()] == ["UltraFeedback", "HelpSteer", "Orca"]
            assert [dot.get_color() for dot in dots(axis)] == [
                parts.ARM_COLORS[arm] for arm in ("nan", "alignpro", "rlhf")
            ] * 3
        assert inside(figure)


def test_marks_are_at_their_values_with_their_intervals():
    figure = plots.grouped_rewards(summary(), {"main": MODELS["one"]})
    assert [float(dot.get_ydata()[0]) for dot in dots(figure.axes[0])] == [-0.25, 0.75]
    ends = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == 2]
    assert [list(end) for end in ends] == [[-0.5, 0.0], [0.5, 1.0]]
    assert {"−0.25", "0.75"} <= set(texts(figure)) and says(figure, "n = 20 prompts") and inside(figure)
    bars = plots.grouped_variances(variances(summary())).axes[0]
    assert [bar.get_height() for bar in bars.patches] == [0.125, 0.25] and bars.get_ylim()[0] == 0


def test_missing_values_and_arms_are_no_marks():
    table = summary(("nan", "alignpro"), ("s", "t"))
    table.loc[0, ["mean_reward", "mean_reward_low", "mean_reward_high"]] = NAN
    figure = plots.grouped_rewards(table[:3])  # in t only nan was evaluated
    assert len(dots(figure.axes[0])) == 2 and texts(figure).count("missing") == 1
    assert "main" in titles(figure)  # no models known: the cell's name


def test_without_interval_the_dot_is_hollow():
    (hollow, full) = dots(plots.grouped_variances(variances(summary()).assign(reward_variance_low=[NAN, 0.1])).axes[0])
    assert hollow.get_markerfacecolor() == "white" and full.get_markerfacecolor() != "white"


def test_win_percentages_are_where_they_are_with_the_papers_around_them():
    table = alignpro_paper.win_percentages(*grid())
    alone, beside = plots.win_percentages(table), plots.win_percentages(table, alignpro_paper.published(table))
    for figure in (alone, beside):
        assert titles(figure) == ["UltraFeedback", "HelpSteer", "Orca"] and inside(figure)
        assert [float(dot.get_xdata()[0]) for dot in dots(figure.axes[0])] == pytest.approx([40, 20] * 4)
        assert [dot.get_color() for dot in dots(figure.axes[0])] == [
            parts.ARM_COLORS[arm] for arm in ("alignpro", "nan")
        ] * 4
    assert not dots(alone.axes[0], "D") and not says(alone, "diamond")
    printed = [float(dot.get_xdata()[0]) for dot in dots(beside.axes[1], "D")]
    assert printed == [46, 37, 67, 23, 58, 27, 59, 25]
    assert "40 : 20\npaper 46 : 37" in texts(beside) and says(beside, "diamond: as printed in Align-Pro, Table 1")
    assert says(beside, "n = 5 prompts, 12 unscored left out")


def test_the_papers_table_has_a_block_of_its_own_where_nothing_matches():
    table = alignpro_paper.win_percentages(verdicts(prompt_set="sandbox"), {"one": {"prompter": "a", "responder": "b"}})
    figure = plots.win_percentages(table, alignpro_paper.published(table))
    assert titles(figure) == ["sandbox", *(f"{name} (the paper's)" for name in ("UltraFeedback", "HelpSteer", "Orca"))]
    assert [len(dots(axis, "D")) for axis in visible(figure)] == [0, 8, 8, 8] and inside(figure)
    assert len(dots(figure.axes[0])) == 2


def test_nothing_scored_gives_a_figure_or_a_line_that_says_so():
    assert "nothing to show" in texts(plots.win_percentages(alignpro_paper.win_percentages(verdicts(), MODELS, "poir")))
    both = pd.concat([verdicts(), verdicts([("unscored", "win")] * 2, prompt_set="helpsteer")])
    assert "none scored" in texts(plots.win_percentages(alignpro_paper.win_percentages(both, MODELS)))
    for draw in (plots.grouped_rewards, plots.grouped_variances):
        for rows in ([], summary(mean_reward=NAN, reward_variance=NAN)):
            assert "nothing to show" in texts(draw(rows))


@pytest.mark.parametrize(("num_arms", "num_sets", "num_cells"), [(1, 1, 1), (11, 3, 2), (2, 5, 4)])
def test_any_number_of_arms_sets_and_cells_fits(num_arms, num_sets, num_cells):
    arms, sets = [*tables.ARMS][:num_arms], [f"s{i}" for i in range(num_sets)]
    table = variances(summary(arms, sets, [f"cell-{i}" for i in range(num_cells)]))
    for draw in (plots.grouped_rewards, plots.grouped_variances):
        figure = draw(table)
        assert len(titles(figure)) == num_cells and inside(figure)
    rows = [verdicts(cell=f"cell-{i}", prompt_set=name) for i in range(num_cells) for name in sets]
    assert inside(plots.win_percentages(alignpro_paper.win_percentages(pd.concat(rows), {})))


@pytest.mark.filterwarnings("ignore:.*missing from font.*")
def test_long_and_odd_names_are_only_text():
    for name in (LONG, "".join(NASTY[1:])):
        models = {name: {"prompter": name, "responder": f"{LONG}/{LONG}, {name}"}}
        table = variances(summary((name, "nan"), (name,), (name,)))
        wins = alignpro_paper.win_percentages(verdicts(cell=name, prompt_set=name, arms=(name, "nan")), models, name)
        figures = (plots.grouped_rewards(table, models), plots.grouped_variances(table, models))
        for figure in (*figures, plots.win_percentages(wins, alignpro_paper.published(wins))):
            assert "<script" not in svg(figure).decode("utf-8") and inside(figure)


def test_saved_files_are_the_same_bytes_again(tmp_path):
    table = alignpro_paper.win_percentages(*grid())
    theirs = alignpro_paper.published(table)
    saved = [
        plots.save(plots.win_percentages(table, theirs), tmp_path / name, "wins", alignpro_paper.joined(table, theirs))
        for name in "ab"
    ]
    assert [path.read_bytes() for path in saved[0]] == [path.read_bytes() for path in saved[1]]
    back = tables.read(saved[0][2])
    assert np.allclose(back["win_percent"], alignpro_paper.joined(table, theirs)["win_percent"]) and len(back) == 24
    assert plt.imread(saved[0][0]).shape[1] > 1000

"""The transfer heat map: every square holds its number and interval, own pairs are outlined, gaps say what they are."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures import LONG, NASTY, inside, says, svg, texts, titles

from nbutils.analyse import tables
from nbutils.report import plots
from nbutils.report.plots import parts

NAN = float("nan")
TWO = ("sandbox/responder", "sandbox/llama_responder")


def transfer(models=TWO, sets=("sandbox",), **changes):
    rows = [
        {"source": source, "target": target, "prompt_set": name, "value": 50.0 + 20 * (source == target) + i - j}
        for name in sets
        for i, source in enumerate(models)
        for j, target in enumerate(models)
    ]
    table = pd.DataFrame(rows).assign(num_cells=1, num_scored=200, num_unscored=0)
    return table.assign(low=table["value"] - 8, high=table["value"] + 7).assign(**changes)


def boxes(axis, filled=True):
    return [patch for patch in axis.patches if patch.get_fill() == filled]


def at(axis, x, y):
    """The texts in the square of column x and row y."""
    return [text.get_text() for text in axis.texts if abs(text.get_position()[0] - x) < 0.4
            and abs(text.get_position()[1] - y) < 0.4]  # fmt: skip


def test_each_square_has_its_number_and_interval():
    figure = plots.transfer_heatmap(transfer())
    axis = figure.axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["sandbox/llama_responder", "sandbox/responder"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["sandbox/\nllama_responder", "sandbox/\nresponder"]
    assert at(axis, 0, 0) == ["70.0", "[62, 77]"] and at(axis, 1, 1) == ["70.0", "[62, 77]"]
    assert at(axis, 0, 1) == ["49.0", "[41, 56]"] and at(axis, 1, 0) == ["51.0", "[43, 58]"]  # rows are sources
    assert axis.get_ylabel() == "trained on the pairs of" and axis.get_xlabel() == "evaluated with"
    assert says(figure, "n = 200 prompts per square") and says(figure, "win rate against nan (%)") and inside(figure)


def test_own_pairs_are_outlined_and_colours_follow_the_values():
    axis = plots.transfer_heatmap(transfer()).axes[0]
    outlined = [(round(box.get_x() + 0.48), round(box.get_y() + 0.46)) for box in boxes(axis, filled=False)]
    assert outlined == [(0, 0), (1, 1)]
    own, above, below, again = [box.get_facecolor() for box in boxes(axis)]
    assert own == again and own[1] > own[0] and below[0] > below[2]  # greenish for wins, brownish for losses
    neutral = plots.transfer_heatmap(transfer(value=50.0)).axes[0]
    red, green, blue, _ = boxes(neutral)[0].get_facecolor()
    assert min(red, green, blue) > 0.97
    small = plots.transfer_heatmap(transfer(value=51.0)).axes[0]  # one point is not the end of the scale
    assert min(boxes(small)[0].get_facecolor()) > 0.9


def test_points_around_zero():
    figure = plots.transfer_heatmap(transfer(value=-3.5, low=-12.0, high=5.0), "ΔWR against nan (points)", 0.0)
    assert at(figure.axes[0], 0, 0) == ["−3.5", "[−12, 5]"] and says(figure, "ΔWR against nan (points)")


def test_what_is_missing_says_so():
    table = transfer(low=[NAN, 1, 2, 3], num_unscored=[0, 200, 0, 0], num_scored=[200, 0, 200, 200])
    table.loc[1, ["value", "low", "high"]] = NAN
    figure = plots.transfer_heatmap(table[:3])
    axis = figure.axes[0]
    assert at(axis, 1, 1) == ["70.0", "no interval"] and at(axis, 0, 1) == ["none scored"] and at(axis, 0, 0) == []
    assert [box.get_hatch() for box in boxes(axis)] == ["////", None, None, None]
    assert says(figure, "hatched: not evaluated") and says(figure, "n = 0 to 200 prompts per square, 200 unscored")
    assert not says(plots.transfer_heatmap(transfer()), "hatched")
    for rows in ([], transfer(value=NAN)):
        assert "nothing to show" in texts(plots.transfer_heatmap(rows))


def test_a_mean_over_cells_says_so():
    assert not says(plots.transfer_heatmap(transfer()), "averaged")
    figure = plots.transfer_heatmap(transfer(num_cells=[3, 1, 3, 2], num_scored=[600, 200, 600, 400]))
    assert says(figure, "over cells of the experiment where several (2 to 3) were averaged") and inside(figure)
    assert says(figure, "n = 200 to 600 prompts per square")


def test_rows_that_share_a_square_are_refused():
    with pytest.raises(ValueError, match="sandbox/responder to sandbox/responder: wanted one row per source, target"):
        plots.transfer_heatmap(pd.concat([transfer(), transfer()]))


@pytest.mark.parametrize(("num_models", "num_sets"), [(1, 1), (2, 3), (5, 1), (3, 4)])
def test_any_number_of_models_and_sets_fits(num_models, num_sets):
    models, sets = [f"owner/model-{i}" for i in range(num_models)], [f"s{i}" for i in range(num_sets)]
    figure = plots.transfer_heatmap(transfer(models, sets))
    assert titles(figure)[:num_sets] == sets and inside(figure)
    assert sum(len(boxes(axis)) for axis in figure.axes[:num_sets]) == num_models**2 * num_sets


def test_a_table_of_five_columns_is_enough():
    figure = plots.transfer_heatmap(transfer()[["source", "target", "value", "low", "high"]])
    assert titles(figure)[0] == "" and not says(figure, "n =") and inside(figure)


@pytest.mark.filterwarnings("ignore:.*missing from font.*")
def test_long_and_odd_names_are_only_text():
    for name in (LONG, "".join(NASTY[1:])):
        figure = plots.transfer_heatmap(transfer((f"{name}/{name}", name), (name,)), measure=parts.short(name))
        assert "<script" not in svg(figure).decode("utf-8") and inside(figure)


def test_saved_files_are_the_same_bytes_again(tmp_path):
    table = transfer(sets=("a", "b"))
    saved = [plots.save(plots.transfer_heatmap(table), tmp_path / name, "transfer", table) for name in "ab"]
    assert [path.read_bytes() for path in saved[0]] == [path.read_bytes() for path in saved[1]]
    back = tables.read(saved[0][2])
    assert np.allclose(back["low"], table["low"]) and len(back) == 8 and plt.imread(saved[0][0]).shape[1] > 1000

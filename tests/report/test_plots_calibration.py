"""The reward model's figure shows the shares and margins that it is given, and says what is missing."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from nbutils.report import plots
from nbutils.report.plots.calibration import reward_calibration
from nbutils.report.plots.parts import OUTCOME_COLORS

NAN = float("nan")
LOG3 = math.log(3)  # σ(log 3) = 3/4


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def held_out(*margins):
    return [{"prompt_id": f"p{i // 2}", "margin": margin} for i, margin in enumerate(margins)]


def texts(figure):
    figure.canvas.draw()
    return [text.get_text().replace("\n", " ") for text in figure.findobj(matplotlib.text.Text) if text.get_visible()]


def says(figure, words):
    return any(words in text for text in texts(figure))


def bars(axis, color):
    wanted = matplotlib.colors.to_rgba(color)
    return [bar for bar in axis.patches if bar.get_facecolor() == wanted and bar.get_height()]


def test_dots_are_shares_right_against_shares_predicted():
    """20 pairs at |log 3| of which 15 are right, 20 at |log 9| of which 19: (75, 75) and (90, 95)."""
    figure = reward_calibration(held_out(*[LOG3] * 15, *[-LOG3] * 5, *[2 * LOG3] * 19, -2 * LOG3))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx([75, 90])
    assert [float(dot.get_ydata()[0]) for dot in dots] == pytest.approx([75, 95])
    diagonal, *intervals = [line for line in figure.axes[0].lines if line.get_marker() != "o"]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [50, 100]
    assert all(line.get_ydata()[0] < dot.get_ydata()[0] for line, dot in zip(intervals, dots, strict=True))
    assert says(figure, "accuracy 85.0% [70.9, 92.9] · n = 40 pairs of 20 prompts")
    assert says(figure, "calibration error 2.5 points") and says(figure, "a dot for 20 pairs")


def test_no_bar_of_the_histogram_holds_both_signs_and_zero_counts_as_wrong():
    figure = reward_calibration(held_out(-1.3, -0.01, 0.0, 0.01, 2.0, 3.1))
    wrong, right = (bars(figure.axes[1], OUTCOME_COLORS[name]) for name in ("lose", "win"))
    assert sum(bar.get_height() for bar in wrong) == sum(bar.get_height() for bar in right) == 3
    assert all(bar.get_x() + bar.get_width() <= 1e-9 for bar in wrong) and all(bar.get_x() >= -1e-9 for bar in right)
    assert any(list(line.get_xdata()) == [0, 0] for line in figure.axes[1].lines)
    assert {"3 wrong", "3 right"} <= set(texts(figure))


def test_swapped_sides_mirror_the_accuracy():
    values = [0.5, 1.0, 1.5, -0.2]
    assert says(reward_calibration(held_out(*values)), "accuracy 75.0%")
    assert says(reward_calibration(held_out(*(-value for value in values))), "accuracy 25.0%")


def test_missing_margins_are_counted_not_drawn():
    figure = reward_calibration(held_out(1.0, -1.0, None, NAN, float("inf")))
    assert says(figure, "n = 2 pairs of 3 prompts, 3 more without a margin")
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 2


@pytest.mark.parametrize("rows", [[], held_out(1.0), held_out(None, NAN), [{"prompt_id": "p"}]])
def test_too_few_margins_give_a_figure_that_says_so(rows):
    figure = reward_calibration(rows)
    assert "nothing to show" in texts(figure) and says(figure, "at least 2 are needed")


@pytest.mark.parametrize(
    "values", [[0.0] * 50, [-3.0] * 200, [1.0, 2.0], [1e6, 1.0, -3.0], [1e-12, -1e-12], [5.0, 5.0]]
)
def test_odd_margins_are_drawn_inside_the_figure(values):
    figure = reward_calibration(held_out(*values))
    figure.canvas.draw()
    box, page = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page[0] and box.y1 <= page[1]
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == len(values)


def test_saved_files_are_the_same_bytes_again(tmp_path):
    rows = held_out(*(math.sin(i) for i in range(60)))
    first, second = (plots.save(reward_calibration(rows), tmp_path / name, "figure", rows) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [path.suffix for path in first] == [".png", ".svg", ".csv"]

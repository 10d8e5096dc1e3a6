"""What tests ask of a figure, and names that are hard to draw."""

import io

import matplotlib
import pandas as pd

from nbutils.analyse import tables

NAN = float("nan")


def summary(arms=("nan", "alignpro"), sets=("s",), cells=("main",), **changes):
    rows = [
        {
            "cell": cell,
            "prompt_set": name,
            "arm": arm,
            "num_prompts": 20,
            "mean_reward": -0.25 + i,
            "mean_reward_low": i - 0.5,
        }
        | {
            "mean_reward_high": 0.0 + i,
            "reward_variance": 0.125 * (i + 1),
            "win": 12,
            "tie": 5,
            "lose": 2,
            "unscored": 1,
        }
        | {"win_rate": 0.76, "win_rate_low": 0.61, "win_rate_high": 0.87, "mean_gold_reward": 0.5}
        for cell in cells
        for name in sets
        for i, arm in enumerate(arms)
    ]
    table = pd.DataFrame(rows, columns=list(tables.SUMMARY_COLUMNS))
    table.loc[
        table["arm"] == "nan", ["win", "tie", "lose", "unscored", "win_rate", "win_rate_low", "win_rate_high"]
    ] = NAN
    return table.assign(**changes)


def texts(figure):
    """Every text that a reader sees."""
    figure.canvas.draw()
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text() for text in found if text.get_visible() and text.get_text()]


def says(figure, words):
    return any(words in text.replace("\n", " ") for text in texts(figure))


def svg(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


LONG = "a_very_long_name_of_an_arm_or_a_prompt_set_that_goes_on_and_on"
NASTY = (LONG, "$x^{$ \\frac{", "a\nb\ud800", "<script>שלום%s {0}")


def visible(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def titles(figure):
    return [axis.get_title(loc="left") for axis in visible(figure)]


def dots(axis, marker="o"):
    return [line for line in axis.lines if line.get_marker() == marker]


def inside(figure):
    figure.canvas.draw()
    box, page = figure.get_tightbbox(), figure.get_size_inches()
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page[0] and box.y1 <= page[1]

"""Figures show the numbers they are given, say what is missing, never raise on odd data, and save the same bytes."""

import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures import NASTY, says, summary, svg, texts
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from nbutils.analyse import tables
from nbutils.report import plots
from nbutils.report.plots import letters, parts
from nbutils.report.plots.collection import _transitions
from nbutils.report.plots.training import _smoothed

NAN = float("nan")


def answers(num=30, arms=("nan", "alignpro"), sets=("s",)):
    rng = np.random.default_rng(0)
    keys = [(f"p{i}", name, arm) for name in sets for arm in arms for i in range(num)]
    return [{"prompt_id": p, "prompt_set": s, "arm": a, "sample": 0, "reward": float(rng.normal())} for p, s, a in keys]


def history(num=30, arm="alignpro", cell="main"):
    columns = {
        "reward": 0.5,
        "kl": 2.0,
        "entropy": 1.0,
        "rewrite_tokens": 9.0,
        "loss": 0.7,
        "margin": 0.1,
        "accuracy": 0.5,
    }
    columns |= {"logps_chosen": -3.0, "logps_rejected": -4.0}
    return [
        {"step": i, "arm": arm, "cell": cell} | {name: x + i / 100 for name, x in columns.items()} for i in range(num)
    ]


def rounds(num=10):
    return [{"prompt_id": f"p{i}", "round": i % 3, "score": 1 + i % 5} for i in range(num)]


FIGURES = {
    "reward_means": (plots.reward_means, summary),
    "reward_variances": (plots.reward_variances, summary),
    "win_tie_lose": (plots.win_tie_lose, summary),
    "reward_distributions": (plots.reward_distributions, answers),
    "training_curves": (plots.training_curves, history),
    "preference_curves": (plots.preference_curves, history),
    "score_rounds": (plots.score_rounds, rounds),
    "collection_funnel": (plots.collection_funnel, lambda: {"invented": 100, "novel": 80, "pairs": 20}),
}
each_figure = pytest.mark.parametrize(("draw", "data"), FIGURES.values(), ids=FIGURES)


def test_mean_rewards_are_where_and_what_they_are():
    figure = plots.reward_means(summary(("nan", "alignpro", "poir")))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [-0.25, 0.75, 1.75]
    assert [dot.get_color() for dot in dots] == [parts.ARM_COLORS[arm] for arm in ("nan", "alignpro", "poir")]
    ends = [line.get_xdata().tolist() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert ends == [[-0.5, 0.0], [0.5, 1.0], [1.5, 2.0]]
    assert {"−0.25", "0.75", "1.75"} <= set(texts(figure))
    assert says(figure, "n = 20 prompts") and says(figure, "reward (reward-model units)")


def test_a_mean_without_interval_is_hollow_and_says_so():
    figure = plots.reward_means(summary(mean_reward_low=[NAN, 0.5], mean_reward_high=[NAN, 1.0]))
    hollow, full = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert hollow.get_markerfacecolor() == "white" and full.get_markerfacecolor() != "white"
    assert says(figure, "(no interval)")


def test_a_missing_mean_is_not_drawn_at_zero():
    table = summary()
    table.loc[0, ["mean_reward", "mean_reward_low", "mean_reward_high", "reward_variance"]] = NAN
    for figure in (plots.reward_means(table), plots.reward_variances(table)):
        assert "missing" in texts(figure)
        assert len([line for line in figure.axes[0].lines if line.get_marker() == "o"] + figure.axes[0].patches) == 1


def test_gold_reward_has_its_own_figure():
    assert says(plots.reward_means(summary(), "gold_reward"), "without interval")


def test_win_bars_are_shares_of_the_scored_with_counts_in_them():
    figure = plots.win_tie_lose(summary())
    bars = figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == pytest.approx([100 * count / 19 for count in (12, 5, 2)])
    assert [bar.get_x() for bar in bars] == pytest.approx([0, 1200 / 19, 1700 / 19])
    assert {"12", "5", "2", "+1 unscored", "76  [61, 87]"} <= set(texts(figure))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["alignpro"]  # no bar for the baseline


def named_panels(figure):
    """How many of a figure's axes name their arms."""
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    return sum(any(label.get_visible() and label.get_text() for label in axis.get_yticklabels()) for axis in drawn)


ARMS, CELLS = ("nan", *(f"arm{i}" for i in range(8))), tuple(f"cell{i}" for i in range(6))
MANY = summary(ARMS, ("s", "t"), CELLS)


@pytest.mark.parametrize(
    ("draw", "axes_each"), [(plots.win_tie_lose, 2), (plots.reward_means, 1), (plots.reward_distributions, 1)]
)
def test_many_panels_stand_side_by_side_and_close_up(draw, axes_each):
    """A line per cell, its prompt sets beside each other, arms named at the left: a page's height, not a scroll's."""
    figure = draw(MANY.assign(reward=MANY["mean_reward"]))
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    assert len(drawn) == 12 * axes_each and 200 * figure.get_figheight() < 2500
    titles = {axis.get_title(loc="left") for axis in drawn} - {""}
    assert titles == {f"{cell} · {name}" for cell in CELLS for name in "st"}
    assert named_panels(figure) == len(CELLS) and len(figure.legends) == axes_each - 1
    shown = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]
    assert min(text.get_size() for text in shown) >= 8


def test_a_panel_alone_is_wide_and_an_odd_one_has_its_ticks():
    assert plots.win_tie_lose(summary(ARMS)).get_size_inches() == pytest.approx([9.6, 4.69])
    odd = plots.win_tie_lose(summary(ARMS, ("s",), CELLS[:5]))
    assert sum(axis.get_visible() for axis in odd.axes) == 10
    assert sum(bool(axis.get_xlabel()) for axis in odd.axes) == 6  # below the lowest of three columns


def test_panels_with_different_arms_name_their_own_in_rows_of_one_height():
    figure = plots.win_tie_lose(MANY[(MANY["prompt_set"] == "s") | (MANY["arm"] < "arm3")])
    assert named_panels(figure) == 12
    assert {axis.get_ylim() for axis in figure.axes} == {(7.55, -0.55)}


def test_an_arm_without_a_scored_verdict_says_so():
    figure = plots.win_tie_lose(
        summary(win=0, tie=0, lose=0, unscored=20, win_rate=NAN, win_rate_low=NAN, win_rate_high=NAN)
    )
    assert says(figure, "+20 unscored") and "none scored" in texts(figure)


def test_every_answer_is_a_dot_and_missing_ones_are_counted():
    rows = answers(30) + [{"prompt_id": "q", "prompt_set": "s", "arm": "nan", "sample": 0, "reward": None}]
    figure = plots.reward_distributions(rows)
    assert sum(len(dots.get_offsets()) for dots in figure.axes[0].collections) == 60
    assert says(figure, "n = 61 answers, 1 without a reward")


def test_curves_draw_what_exists_and_nothing_from_nan():
    rows = history(30) + history(30, "rlhf")
    rows[10]["reward"], rows[11]["reward"], rows[12]["reward"] = None, NAN, float("inf")
    figure = plots.training_curves([{k: v for k, v in row.items() if k != "entropy"} for row in rows])
    visible = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in visible] == ["Reward", "KL to the start", "Length"]
    raw = visible[0].lines[0].get_ydata()
    assert np.isnan(raw[10:13]).all() and np.isfinite(np.delete(raw, [10, 11, 12])).all()
    smooth = visible[0].lines[1].get_ydata()
    assert np.isnan(smooth[10:13]).all() and np.isfinite(np.delete(smooth, [10, 11, 12])).all()
    assert says(figure, "3 missing values not drawn")
    assert visible[0].lines[2].get_color() == parts.ARM_COLORS["rlhf"]


def test_smoothing_keeps_a_straight_line_straight():
    line = np.arange(50.0)
    smooth = _smoothed(line)
    assert smooth[5:-5] == pytest.approx(line[5:-5]) and len(smooth) == 50
    assert _smoothed(line[:10]).tolist() == line[:10].tolist()


def test_score_shares_and_means_by_round():
    rows = [{"prompt_id": "a", "round": 0, "score": score} for score in (1, 1, 5, None)]
    figure = plots.score_rounds(rows)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([200 / 3, 0, 0, 0, 100 / 3])
    assert says(figure, "mean 2.33 · n = 3 · +1 unscored") and says(figure, "n = 4 critiques of 1 prompt ")


def test_funnel_shows_counts_and_shares_of_the_stage_before():
    figure = plots.collection_funnel({"invented": 200, "novel": 100, "pairs": 150})
    assert {"200", "100  (50%)", "150"} <= set(texts(figure))
    assert [bar.get_width() for bar in figure.axes[0].patches] == [200, 100, 150]


@each_figure
@pytest.mark.parametrize("empty", [[], pd.DataFrame(), pd.DataFrame(columns=["cell", "prompt_set", "arm", "step"])])
def test_no_data_gives_a_figure_that_says_so(draw, data, empty):
    assert "nothing to show" in texts(draw(empty))


@each_figure
def test_all_missing_values_give_a_figure(draw, data):
    table = parts.frame(data())
    numbers = [name for name in table.select_dtypes("number") if name not in ("round", "step", "num_prompts", "sample")]
    assert texts(draw(table.assign(**dict.fromkeys(numbers, None))))
    assert texts(draw(table.assign(**dict.fromkeys(numbers, NAN))))


@pytest.mark.filterwarnings("error:.*missing from font.*")
@each_figure
def test_long_and_odd_names_are_only_text(draw, data):
    table = parts.frame(data())
    if "arm" in table:
        table = pd.concat([table.assign(arm=name, prompt_set=name, cell=name) for name in NASTY])
    if "stage" in table:
        table = pd.DataFrame({"stage": NASTY, "count": range(len(NASTY))})
    drawn = svg(draw(table)).decode("utf-8")
    assert "<script" not in drawn and "javascript" not in drawn


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """installed("中文"): besides matplotlib's own there is one font, with these letters, or none."""

    def install(wanted):
        own = [each for each in font_manager.fontManager.ttflist if each.fname.startswith(matplotlib.get_data_path())]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
        if wanted:
            font_manager.fontManager.addfont(font_with(wanted, tmp_path / "own.ttf"))
        for each in (letters.families, letters._others, letters._is_drawn):
            each.cache_clear()
        letters._said.clear()

    yield install
    monkeypatch.undo()
    for each in (letters.families, letters._others, letters._is_drawn):
        each.cache_clear()


def font_with(wanted, path):
    pen = TTGlyphPen(None)
    for i, point in enumerate(((100, 0), (100, 700), (800, 700), (800, 0))):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    names = [".notdef", *(f"g{i}" for i in range(len(wanted)))]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(char): name for char, name in zip(wanted, names[1:], strict=True)})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (900, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Own Sans", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


@pytest.mark.filterwarnings("error:.*missing from font.*")
@each_figure
@pytest.mark.parametrize("wanted", ["中文提示", ""], ids=["a font has them", "no font has them"])
def test_letters_of_any_script_are_drawn_or_written_as_numbers_and_never_boxes(draw, data, wanted, installed, capsys):
    installed(wanted)
    table = parts.frame(data())
    table = table.assign(**{name: "中文提示" for name in ("arm", "prompt_set", "cell", "stage") if name in table})
    figure = draw(table)
    drawn = svg(figure).decode("utf-8")
    shown, said = "".join(texts(figure)), capsys.readouterr().out
    if {"arm", "stage"} & {*table} and (wanted or "\\u4e2d" in shown):
        assert ("中文提示" in shown) is bool(wanted) and ("Figures: no installed font has" in said) is not bool(wanted)
    draw(table)
    assert drawn and capsys.readouterr().out == ""  # said once


def test_a_font_is_taken_for_its_letters_and_others_are_written_as_numbers(installed, capsys):
    installed("中文提示")
    assert letters.families() == ["DejaVu Sans", "Own Sans"]
    assert letters.drawable("中文 λ שלום 水") == "中文 λ שלום \\u6c34"
    assert letters.drawable("𠮷") == "\\U00020bb7" and parts.short("水") == "\\u6c34"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "no installed font has 水: written as numbers" in said[0]
    installed("")
    assert letters.families() == ["DejaVu Sans"] and letters.drawable("naïve – λ") == "naïve – λ"


@pytest.mark.parametrize("draw", [plots.reward_means, plots.reward_variances, plots.win_tie_lose])
@pytest.mark.parametrize(("num_arms", "num_sets", "num_cells"), [(2, 1, 1), (8, 4, 1), (3, 2, 3), (2, 5, 1)])
def test_a_panel_for_every_cell_and_set(draw, num_arms, num_sets, num_cells):
    table = summary([*tables.ARMS][:num_arms], [f"s{i}" for i in range(num_sets)], [f"c{i}" for i in range(num_cells)])
    figure = draw(table)
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
    assert len(set(titles)) == len(titles) == num_sets * num_cells


@each_figure
def test_everything_drawn_lies_inside_the_figure(draw, data):
    figure = draw(data())
    figure.canvas.draw()
    box, page = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page[0] and box.y1 <= page[1]


def test_an_arm_has_one_colour_everywhere():
    assert parts.arm_color("alignpro") == "#0072b2"
    assert parts.arm_color("chain:a+b") == parts.arm_color("chain:a+b") in parts.OTHER_COLORS
    assert len(set(parts.ARM_COLORS.values())) == len(tables.ARMS) and set(parts.ARM_COLORS) == set(tables.ARMS)


@each_figure
def test_saved_files_are_the_same_bytes_again(draw, data, tmp_path):
    first = plots.save(draw(data()), tmp_path / "a", "figure", data())
    second = plots.save(draw(data()), tmp_path / "b", "figure", data())
    assert [path.name for path in first] == ["figure.png", "figure.svg", "figure.csv"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"<dc:date>" not in first[1].read_bytes()
    assert not re.search(rb"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org)", first[1].read_bytes())


def test_the_csv_beside_a_figure_traces_back_to_prompts(tmp_path):
    rows = answers(3)
    back = tables.read(plots.save(plots.reward_distributions(rows), tmp_path, "rewards", rows)[2])
    assert back[["prompt_id", "arm"]].to_numpy().tolist() == [[row["prompt_id"], row["arm"]] for row in rows]
    assert np.allclose(back["reward"], [row["reward"] for row in rows])
    assert plt.imread(tmp_path / "rewards.png").shape[1] == round(6.4 * 200)


def test_transitions_count_each_rewrite_once_and_say_where_it_stopped():
    """p: 2 → 5; q: 1 → 2 → no usable rewrite; r: good at once; s: low, and its rounds are used up."""
    scores = {"p": [2, 5], "q": [1, 2], "r": [4], "s": [3, 3]}
    rows = [
        {"prompt_id": p, "round": i, "score": s, "reason": None}
        for p, each in scores.items()
        for i, s in enumerate(each)
    ]
    rows[3]["reason"] = "rewrite longer than 1.5 times the prompt"
    counts = _transitions(pd.DataFrame(rows).assign(cell=""))
    assert counts.loc["2", ["5", "stopped"]].tolist() == [1, 1] and counts.loc["1", "2"] == counts.loc["3", "3"] == 1
    assert counts.to_numpy().sum() == 4 and "4" not in counts.index
    assert "50% of them went up" in plots.score_transitions(rows).texts[1].get_text()
    assert "no prompt had" in "".join(text.get_text() for text in plots.score_transitions(rows[4:5]).texts)


def test_many_cells_share_their_panels_a_line_each():
    rows = [{"step": i, "reward": i + seed, "kl": 0.1, "arm": "alignpro", "cell": f"seed-{seed}"}
            for seed in range(5) for i in range(30)]  # fmt: skip
    figure = plots.training_curves(rows)
    assert [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()] == ["Reward", "KL to the start"]
    assert len(figure.axes[0].lines) == 5 and "5 cells, a line each" in figure.texts[1].get_text()
    few = plots.training_curves([row for row in rows if row["cell"] < "seed-2"])
    assert len([axis for axis in few.axes if axis.get_visible()]) == 4

"""The frontier's figure: a panel each, labels where asked for, nothing drawn from nothing."""

import numpy as np
import pandas as pd
from figures import says

from nbutils.report import plots
from nbutils.report.plots.parts import arm_color

CURVE = pd.DataFrame(
    {
        "kl": [0.0, 1.0, 2.0], "reward": [0.0, 2.0, 2.5], "kl_plug_in": [0.0, 1.2, 2.3],
        "reward_plug_in": [0.0, 2.1, 2.7], "reward_low": [-0.2, 1.8, 2.2], "reward_plug_in_high": [0.2, 2.3, 3.0],
    }
)  # fmt: skip


def points(labels, arm="alignpro", panel=""):
    number = len(labels)
    kl, reward = np.linspace(0, 2, number), np.linspace(0, 2, number)
    ends = {f"{name}_{end}": each + shift for name, each in (("kl", kl), ("reward", reward)) for end, shift in
            (("low", -0.1), ("high", 0.1))}  # fmt: skip
    return pd.DataFrame(
        {"kl": kl, "reward": reward, "num_prompts": 24, "label": labels, "arm": arm, "panel": panel} | ends
    )


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_path_is_drawn_in_its_order_and_only_labelled_points_have_text():
    lines = pd.DataFrame({"arm": ["nan", "rlhf"], "reward": [-0.5, 2.2]})
    figure = plots.reward_kl_frontier(CURVE, points(["initial", "", "trained"]), lines)
    (axis,) = figure.axes
    assert [each for each in texts(figure) if each] == ["attainable", "initial", "trained", "nan", "rlhf"]
    way = [line for line in axis.lines if line.get_color() == arm_color("alignpro") and len(line.get_xdata()) == 3]
    assert way[0].get_xdata().tolist() == [0.0, 1.0, 2.0]
    assert {line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1} >= {-0.5, 2.2}


def test_each_panel_has_its_own_curve_points_and_lines():
    curves = pd.concat([CURVE.assign(panel="a"), CURVE.assign(panel="b", reward=CURVE.reward * 2)])
    both = pd.concat([points(["trained"], panel="a"), points(["trained"], "rlhf", "b")])
    figure = plots.reward_kl_frontier(curves, both, pd.DataFrame({"arm": ["nan"], "reward": [0.1], "panel": ["b"]}))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b"]
    assert "nan" in [text.get_text() for text in figure.axes[1].texts]
    assert "nan" not in [text.get_text() for text in figure.axes[0].texts]


def test_an_axis_says_what_its_nats_are_per_and_two_kinds_are_told_apart():
    own = points(["trained"], panel="a").assign(kl_per="rewrite")
    both = pd.concat([own, points(["trained"], "rlhf", "b").assign(kl_per="response")])
    curves = pd.concat([CURVE.assign(panel="a"), CURVE.assign(panel="b")])
    figure = plots.reward_kl_frontier(curves, both)
    assert [axis.get_xlabel().split(" per ")[1] for axis in figure.axes] == ["rewrite)", "response)"]
    assert not figure.axes[0].get_shared_x_axes().joined(*figure.axes)
    assert says(figure, "do not compare") and not says(plots.reward_kl_frontier(CURVE, own), "do not compare")
    assert "per sequence" in plots.reward_kl_frontier(CURVE, points(["trained"])).axes[0].get_xlabel()


def test_without_a_curve_or_lines_there_are_points_and_without_points_the_figure_says_so():
    assert "trained" in texts(plots.reward_kl_frontier(CURVE.iloc[:0], points(["trained"])))
    empty = plots.reward_kl_frontier(pd.DataFrame(), pd.DataFrame())
    assert any("no samples" in text.get_text() for text in empty.texts)


def test_seeds_are_dots_without_a_line_and_many_without_names():
    few = points(["seed-0", "seed-1"]).assign(joined=False)
    figure = plots.reward_kl_frontier(CURVE, few)
    assert {"seed-0", "seed-1"} <= set(texts(figure))
    assert not [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_linestyle() == ":"]
    many = plots.reward_kl_frontier(CURVE, points([f"seed-{i}" for i in range(9)]).assign(joined=False))
    assert not [text for text in texts(many) if text.startswith("seed")]
    dots = [line for line in many.axes[0].lines if line.get_marker() == "o" and line.get_markersize() == 7]
    assert len(dots) == 9


def test_a_curve_of_rewards_that_are_all_equal_is_drawn():
    """The KL of equal weights is 0 but for its rounding, which may lie below it."""
    flat = CURVE.assign(kl_plug_in=[0.0, -1e-17, -1e-17], reward_plug_in=1.0)
    assert "attainable" in texts(plots.reward_kl_frontier(flat, points(["initial", "trained"])))


def test_panels_of_several_samplings_are_told_apart_by_their_titles():
    sampled = (
        "sandbox/prompter before sandbox/responder, temperature {}, at most 48 tokens of rewrites, 64 of responses"
    )
    both = pd.concat([points(["trained"], panel=sampled.format(each)) for each in (0.7, 1.5)])
    titles = [axis.get_title(loc="left") for axis in plots.reward_kl_frontier(CURVE.iloc[:0], both).axes]
    assert [title.replace("\n", " ") for title in titles] == [sampled.format(each) for each in (0.7, 1.5)]


def test_one_response_to_a_rewrite_is_said_and_no_line_is_promised():
    single = CURVE.assign(kl=np.nan, reward=np.nan, reward_low=np.nan)
    figure = plots.reward_kl_frontier(single, points(["initial", "trained"]))
    assert says(figure, "one response to each rewrite") and not says(figure, "(noise counted as effect)")
    assert says(plots.reward_kl_frontier(CURVE, points(["initial", "trained"])), "(noise counted as effect)")

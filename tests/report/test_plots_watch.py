"""The watch's figure: three panels a training with its sentence; what is missing is hollow, or said."""

import numpy as np
import pandas as pd
import pytest
from figures import inside, says, titles, visible

from nbutils.analyse import watch
from nbutils.report import plots
from nbutils.report.plots.parts import arm_color

NAN = float("nan")


def table(steps=(0, 10, 20), arm="alignpro", **changes):
    """Snapshots with all numbers; changes: columns, from the first snapshot on."""
    number = len(steps) - 1
    rows = pd.DataFrame(dict.fromkeys(watch.COLUMNS, NAN), index=range(number + 1))
    rows = rows.assign(source=["initial", *(f"step {step}" for step in steps[1:])], step=steps, num_prompts=24, arm=arm)
    rows = rows.assign(
        without_reward=0, num_judged=[0, *[24] * number], unscored=0, reward=np.linspace(0.5, 2, number + 1)
    )
    rows = rows.assign(rewrite_words=5.0, response_words=np.linspace(6, 12, number + 1))
    gain = rows.reward.to_numpy()[1:] - 0.5
    values = {"gain": gain, "gain_low": gain - 0.2, "gain_high": gain + 0.2}
    for name, middle in (("win_rate", 0.8), ("length_controlled", 0.5)):
        values |= {name: middle, f"{name}_low": middle - 0.15, f"{name}_high": middle + 0.15}
    for name, each in (values | changes).items():
        rows.loc[1:, name] = each
    return rows


def dots(axis, color):
    return [
        line
        for line in axis.lines
        if line.get_marker() == "o" and line.get_color() == color and len(line.get_xdata()) == 1
    ]


def test_reward_rates_and_lengths_by_step_with_what_they_say():
    figure = plots.reward_watch(table())
    assert titles(figure) == ["Mean reward", "Win rate (grey: as judged)", "Responses (grey: rewrites)"]
    assert says(
        figure, "Watch out: the reward is up, the judge's win rate at equal length is not shown to leave one half"
    )
    assert says(figure, "n = 24 held-out prompts") and inside(figure)
    reward, judge, length = visible(figure)
    assert [line.get_xdata()[0] for line in dots(reward, arm_color("alignpro"))] == [0, 10, 20]
    ends = [line.get_ydata() for line in reward.lines if line.get_alpha() == 0.5]
    assert np.allclose(ends, [[1.05, 1.45], [1.8, 2.2]])  # the gain's interval, around the untrained policy's 0.5
    assert [line.get_ydata()[0] for line in dots(judge, arm_color("alignpro"))][1:] == [50.0, 50.0]
    assert [line.get_ydata()[0] for line in length.lines] == [5.0, 6.0]


def test_what_has_no_interval_is_hollow_and_one_snapshot_is_enough():
    few = dict.fromkeys(("length_controlled_low", "length_controlled_high", "gain_low", "gain_high"), NAN)
    figure = plots.reward_watch(table((0, 5), num_judged=3, num_prompts=3, **few))
    reward, judge, _ = visible(figure)
    hollow = [line.get_markerfacecolor() == "white" for line in dots(reward, arm_color("alignpro"))]
    assert hollow == [False, True]  # the start has no gain, and so no interval to miss
    assert [line.get_markerfacecolor() for line in dots(judge, arm_color("alignpro"))][-1] == "white"
    assert says(figure, "Not known: every prompt gained the same") and inside(figure)


def test_a_judge_that_scored_nothing_and_what_is_missing_are_said():
    lost = {name: NAN for name in watch.COLUMNS if name.startswith(("win_rate", "length_controlled"))}
    figure = plots.reward_watch(table(num_judged=0, unscored=24, without_reward=2, **lost))
    assert says(figure, "no pair was scored") and says(figure, "48 pairs unscored · 4 samples without reward")
    assert says(figure, "Not known: none of 24 pairs could be scored")


def test_each_training_has_its_line_of_panels_and_its_sentence():
    oracle = table(arm="rlhf", length_controlled_low=0.6, length_controlled_high=0.9).assign(rewrite_words=NAN)
    figure = plots.reward_watch(pd.concat([table(), oracle], ignore_index=True))
    assert len(visible(figure)) == 6 and titles(figure)[-1] == "Responses"
    assert (
        says(figure, "alignpro: Watch out:") and says(figure, "rlhf: The reward is up, the judge's") and inside(figure)
    )


@pytest.mark.parametrize("rows", [[], table()[:1]])
def test_nothing_is_drawn_from_nothing(rows):
    assert says(plots.reward_watch(rows), "no snapshot was sampled")

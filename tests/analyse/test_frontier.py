"""The frontier's tables by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from made_samples import INITIAL, OWN, OWN_AND_TRAINED, SAMPLES, rows, table

from nbutils.analyse import draws, frontier, gap, theory


def test_points_by_hand():
    """J untrained (1 + 1) / 2 = 1, trained (1.75 + 1) / 2 = 1.375, KL (0.5 + 0.1) / 2 = 0.3."""
    found = frontier.points(SAMPLES, 0.5).set_index("source")
    assert list(found.index) == ["initial", "trained"] and set(found.kl_per) == {"rewrite"}
    assert found.loc["initial", ["reward", "kl", "objective"]].tolist() == [1.0, 0.0, 1.0]
    assert found.loc["trained", "reward"] == pytest.approx(1.375) and found.loc["trained", "kl"] == pytest.approx(0.3)
    assert found.loc["trained", "objective"] == pytest.approx(1.375 - 0.5 * 0.3)
    assert math.isnan(found.loc["initial", "share_low"]) and math.isnan(found.loc["initial", "share_high"])
    half = scipy.stats.t.ppf(0.975, 1) * np.std([1.75, 1.0], ddof=1) / math.sqrt(2)
    assert found.loc["trained", "reward_high"] == pytest.approx(1.375 + half)


def test_the_share_reached_by_hand_on_curves_without_noise():
    """Two prompts alike, so that every resample is the same: J 1 at the start, 2 at KL 0.5; 1.8 at KL 0.25 is 0.8/0.5.

    The curves are lines from 1 to 2 between KL 0 and 0.5 through b = 1, and both ends are the same."""
    level = np.array([[1.0, 1.0], [2.0, 2.0]])
    curves = frontier.Curves(np.array([1.0]), level, level, np.array([[0.0, 0.0], [0.5, 0.5]]), True, np.ones(2))
    picks = np.array([[0, 1], [1, 1]])
    found = frontier.share_reached(curves, np.full(2, 0.8), np.full(2, 0.25), picks)
    assert found == {"share_low": pytest.approx(1.6), "share_high": pytest.approx(1.6), "note": ""}
    beyond = frontier.share_reached(curves, np.full(2, 0.8), np.full(2, 0.9), picks)
    assert math.isnan(beyond["share_low"]) and beyond["share_high"] == pytest.approx(0.8)
    assert beyond["note"] == "samples end at 0.50 nats: no lower end"


def test_the_share_of_a_loss_lies_between_both_curves_with_its_ends_in_order():
    """Attainable at KL 0.5: 2 by the high curve, 1 by the low one. A loss of ½ is −¼ of the one and −½ of the other."""
    high, low = np.array([[1.0, 1.0], [3.0, 3.0]]), np.array([[1.0, 1.0], [2.0, 2.0]])
    curves = frontier.Curves(np.array([1.0]), low, high, np.array([[0.0, 0.0], [1.0, 1.0]]), True, np.ones(2))
    loss, kl, picks = np.full(2, -0.5), np.full(2, 1.0), np.array([[0, 1], [1, 1]])
    found = frontier.share_reached(curves, loss, kl, picks)
    assert found == {"share_low": pytest.approx(-0.5), "share_high": pytest.approx(-0.25), "note": ""}
    single = frontier.share_reached(curves._replace(can_cross=False), loss, kl, picks)
    assert math.isnan(single["share_low"]) and single["share_high"] == pytest.approx(-0.25)
    assert single["note"] == "one response to each rewrite: no lower end"
    beyond = frontier.share_reached(curves, loss, kl + 1, picks)
    assert math.isnan(beyond["share_high"]) and beyond["share_low"] == pytest.approx(-0.5)
    assert beyond["note"] == "samples end at 1.00 nats: no upper end"


def noisy(num_prompts=12):
    """Rewards of 16 rewrites, two responses each; a trained policy that writes the first four."""
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(num_prompts, 16, 1)) + 0.2 * rng.normal(size=(num_prompts, 16, 2))
    return table(
        rows("initial", rewards.tolist(), np.zeros((num_prompts, 16)).tolist()),
        rows("trained", (rewards[:, :4] + 0.6).tolist(), np.full((num_prompts, 4), 0.4).tolist()),
    )


@pytest.mark.parametrize("shift", [-1e-7, 0.0, 1e-7])
def test_a_policy_that_hardly_moved_has_no_share(shift):
    """A tiny learning rate: log-ratios are the rounding of its numbers, and both ends were hundreds of percent."""
    samples = noisy().assign(log_ratio=1e-7 * np.random.default_rng(1).normal(size=12 * 40) + shift)
    row = frontier.points(samples, 0.5).set_index("source").loc["trained"]
    assert np.isnan([row.share_low, row.share_high]).all()
    assert "KL not shown to be above 0" in row.note or row.note.endswith("attainable: no lower end, no upper end")


def test_what_all_rewards_have_in_common_changes_no_share():
    """Weights of e^(R/λ) / Z did not sum to 1 where R is large beside its differences: ends of 7% and 60%."""
    before, after = (frontier.points(noisy().assign(reward=noisy().reward + c), 0.5).iloc[1] for c in (0.0, 1e8))
    assert 0 < before.share_low < before.share_high
    assert [after.share_low, after.share_high] == pytest.approx([before.share_low, before.share_high], rel=1e-3)


WHY_NOT = [
    (lambda s: s[s.prompt_id == "p0"], "one prompt"),
    (lambda s: s.assign(log_ratio=0.0), "as the untrained policy: no KL to reach anything with"),
    (lambda s: s.assign(reward=1.0), "all rewards are equal"),
]


@pytest.mark.parametrize("spoil, why", WHY_NOT)
def test_a_share_of_nothing_is_a_dash_with_its_reason(spoil, why):
    row = frontier.points(spoil(SAMPLES), 0.5).set_index("source").loc["trained"]
    assert np.isnan([row.share_low, row.share_high]).all() and row.note == why


def test_one_response_to_a_rewrite_leaves_the_upper_end_open_and_the_line_out():
    single = SAMPLES[SAMPLES.response_draw == 0]
    row = frontier.points(single, 0.5).set_index("source").loc["trained"]
    assert math.isnan(row.share_high) and "one response to each rewrite: no upper end" in row.note
    curve = frontier.attainable(single)
    assert curve[["kl", "reward", "reward_low"]].isna().all(axis=None) and curve.reward_plug_in.notna().all()
    note = gap.gaps(single, 0.5, 0.5).note.iloc[0]
    assert "one response to each rewrite" in note or "effective" in note


def test_attainable_starts_at_the_untrained_prompter_and_ends_at_the_best_rewrites():
    curve = frontier.attainable(table(OWN, INITIAL))
    for kl, reward in (("kl", "reward"), ("kl_plug_in", "reward_plug_in")):
        assert (np.diff(curve[kl]) > -1e-9).all() and (np.diff(curve[reward]) > -1e-9).all(), curve
        assert (curve[kl].iloc[0], curve[reward].iloc[0]) == (0.0, 1.0) and math.isinf(curve.kl_weight.iloc[0])
        assert curve[reward].iloc[-1] == pytest.approx(1.5, abs=1e-3)
        assert curve[kl].iloc[-1] == pytest.approx(math.log(2) / 2, abs=5e-3)  # the second prompt's rewrites are alike


def test_trained_samples_join_the_curve_by_their_weight_under_the_untrained_prompter():
    """First prompt: draws 0 and 2 of the untrained, 2 and 1.75 of the trained, with their mixture weights."""
    curve = frontier.attainable(SAMPLES)
    prior = theory.mixture_prior([[-0.5, 0.5, 0.4, 0.6], [0.1] * 4], 2)
    assert draws.log_ratios_of(SAMPLES, "trained").tolist() == [[0.4, 0.6], [0.1, 0.1]]
    assert curve.reward_plug_in.iloc[0] == pytest.approx((prior[0] @ [0.0, 2.0, 2.0, 1.5] + 1.0) / 2)
    assert curve.kl_plug_in.iloc[-1] == pytest.approx(-math.log(prior[0, 1] + prior[0, 2]) / 2, abs=0.2)


def test_responder_policy_starts_from_the_responders_own_samples():
    found = frontier.points(OWN_AND_TRAINED, 0.1)
    assert draws.start(OWN_AND_TRAINED) == "own" and set(found.kl_per) == {"response"}
    assert found.source.tolist() == ["own", "trained"] and found.kl.tolist() == pytest.approx([0.0, 0.35])
    assert gap.gaps(OWN_AND_TRAINED, 0.1, 0.1).empty
    assert gap.bound(OWN_AND_TRAINED, pd.DataFrame(), 0.1, 0.1).empty


def test_nothing_sampled_gives_empty_tables():
    empty, _ = draws.complete(table())
    assert frontier.attainable(empty).empty and frontier.points(empty, 0.1).empty
    assert gap.gaps(empty, 0.1, 0.1).empty and gap.bound(empty, pd.DataFrame(), 0.1, 0.1).empty


def test_constant_rewards_reach_nothing_and_break_nothing():
    flat = table(rows("own", [[[1.0]] * 2] * 2), rows("initial", [[[1.0]] * 2] * 2, [[0.0] * 2] * 2))
    curve = frontier.attainable(flat)
    assert curve.reward_plug_in.tolist() == pytest.approx([1.0] * len(curve)) and curve.kl_plug_in.abs().max() < 1e-12
    assert gap.bound(flat, pd.DataFrame(), 0.1, 0.1).set_index("term").value.gap == pytest.approx(0.0)

"""The frontier's tables by hand: two prompts, two rewrites, known rewards and log-ratios."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from nbutils.analyse import frontier, theory
from nbutils.experiment.records import Sample, Shift


def rows(source, rewards, ratios=None):
    """Samples of one source: rewards[prompt][draw] a list of rewards; ratios[prompt][draw] log-ratios."""
    return [
        Sample(f"p{p}", f"prompt {p}", source, d, f"rewrite {d}", r, "text", reward, ratios and ratios[p][d])
        for p, draws in enumerate(rewards)
        for d, each in enumerate(draws)
        for r, reward in enumerate(each)
    ]


def table(*parts):
    return pd.DataFrame([row for part in parts for row in part], columns=list(Sample.__dataclass_fields__))


OWN = rows("own", [[[0.0], [1.0]], [[0.0], [0.0]]])
UNTRAINED = [[[0.0, 0.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]
INITIAL = rows("initial", UNTRAINED, [[-0.5, 0.5], [0.1, 0.1]])
TRAINED = rows("trained", [[[2.0, 2.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]], [[0.4, 0.6], [0.1, 0.1]])
SAMPLES = table(OWN, INITIAL, TRAINED)
OWN_AND_TRAINED = table(
    rows("own", [[[0.0], [1.0]], [[0.0], [0.0]]], [[0.0, 0.7]] * 2), rows("trained", [[[1.0]], [[0.0]]], [[0.7], [0.0]])
)


def test_rewards_keep_prompt_draw_and_response_apart_in_any_order():
    shuffled = SAMPLES.sample(frac=1, random_state=3)
    found = frontier.rewards_of(shuffled, "initial")
    assert found.tolist() == [[[0.0, 0.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]


def test_a_prompt_with_a_missing_reward_is_left_out_and_counted():
    samples = SAMPLES.copy()
    samples.loc[3, "reward"] = None
    kept, number = frontier.complete(samples)
    assert number == 1 and set(kept.prompt_id) == {"p0"}
    assert frontier.complete(SAMPLES)[1] == 0


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
    found = frontier.share_reached(curves, np.full(2, 0.8), np.ones(2), np.full(2, 0.25), picks)
    assert found == {"share_low": pytest.approx(1.6), "share_high": pytest.approx(1.6), "note": ""}
    beyond = frontier.share_reached(curves, np.full(2, 0.8), np.ones(2), np.full(2, 0.9), picks)
    assert math.isnan(beyond["share_low"]) and beyond["share_high"] == pytest.approx(0.8)
    assert beyond["note"] == "samples end at 0.50 nats: no lower end"


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
    note = frontier.gaps(single, 0.5, 0.5).note.iloc[0]
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
    assert frontier.log_ratios_of(SAMPLES, "trained").tolist() == [[0.4, 0.6], [0.1, 0.1]]
    assert curve.reward_plug_in.iloc[0] == pytest.approx((prior[0] @ [0.0, 2.0, 2.0, 1.5] + 1.0) / 2)
    assert curve.kl_plug_in.iloc[-1] == pytest.approx(-math.log(prior[0, 1] + prior[0, 2]) / 2, abs=0.2)


def test_responder_policy_starts_from_the_responders_own_samples():
    found = frontier.points(OWN_AND_TRAINED, 0.1)
    assert frontier.start(OWN_AND_TRAINED) == "own" and set(found.kl_per) == {"response"}
    assert found.source.tolist() == ["own", "trained"] and found.kl.tolist() == pytest.approx([0.0, 0.35])
    assert frontier.gaps(OWN_AND_TRAINED, 0.1, 0.1).empty
    assert frontier.bound(OWN_AND_TRAINED, pd.DataFrame(), 0.1, 0.1).empty


def test_gap_adds_up_by_the_closed_form_and_by_trained_policies_of_one_sampling():
    """Trained: oracle (1 + 0) / 2, frozen (½ + 0) / 2, prompted (1.75 + 1) / 2."""
    found = frontier.gaps(SAMPLES, 0.5, 0.5, OWN_AND_TRAINED).set_index("by")
    trained = found.loc["trained policies"]
    assert trained[["oracle", "frozen", "prompted"]].tolist() == [0.5, 0.25, 1.375] and trained.note == ""
    assert trained[["delta", "delta_1", "delta_2"]].tolist() == [-0.875, 0.25, -1.125]
    assert (found.delta - found.delta_1 - found.delta_2).abs().max() < 1e-12
    assert list(frontier.gaps(SAMPLES, 0.5, 0.5).by) == ["closed form"]


def test_an_optimum_of_few_samples_says_so_and_has_no_interval():
    closed = frontier.gaps(SAMPLES, 0.5, 0.5).iloc[0]
    assert closed.note.startswith("π*: ") and "ρ*: " in closed.note and "effective of 2 samples" in closed.note
    ends = [
        f"{name}_{end}" for name in ("oracle", "prompted", "delta", "delta_1", "delta_2") for end in ("low", "high")
    ]
    assert closed[ends].isna().all() and np.isfinite(closed.frozen_low)
    found = frontier.bound(SAMPLES, pd.DataFrame(), 0.5, 0.5).set_index("term")
    assert found.note["tilting"].startswith("ρ*") and found.note["finetuning"].startswith("π*")
    assert found.value_low[["gap", "finetuning", "tilting", "right_side"]].isna().all()


def test_the_trained_responders_samples_join_those_that_the_oracle_is_tilted_from():
    """Own responses earn 0 and 1, the trained one's 1: π* of both, by their weights, is not that of the own alone."""
    alone, both = (frontier.gaps(SAMPLES, 0.5, 0.5, each).iloc[0].oracle for each in (None, OWN_AND_TRAINED))
    pool = frontier.pooled(OWN_AND_TRAINED)
    assert pool.prior == pytest.approx(theory.mixture_prior([[0.0, 0.7, 0.7], [0.0, 0.7, 0.0]], 2))
    assert both == pytest.approx(theory.tilted(pool.rewards, 0.5, pool.prior).reward.mean()) and both != alone


def test_bound_adds_its_terms_and_the_budget_is_where_it_would_vanish():
    shifts = pd.DataFrame([Shift(f"p{p}", d, y, math.log(0.5)) for p in (0, 1) for d in (0, 1) for y in (0, 1)])
    found = frontier.bound(SAMPLES, shifts, 0.5, 0.5).set_index("term")
    value = found.value
    assert value.rewriting == pytest.approx(0.5 * 2.0)  # every response is half as likely: d_TV estimate 1/2, r_max 2
    assert value.right_side == pytest.approx(value.finetuning + value.rewriting - value.tilting)
    assert value.tilting == pytest.approx(0.5 * value.kl_of_optimum) and value.gap <= value.right_side
    assert value.budget == pytest.approx((value.finetuning + value.rewriting) / 0.5)
    assert (found.r_max == 2.0).all() and (found["shift"] == 0.0).all()
    assert found.note["rewriting"] == "" and np.isfinite(found.value[["rewriting"]]).all()


def test_without_probabilities_the_second_term_is_missing_and_the_first_is_not():
    value = frontier.bound(SAMPLES, pd.DataFrame(), 0.5, 0.5).set_index("term").value
    assert value[["rewriting", "right_side", "budget"]].isna().all()
    assert value[["gap", "finetuning", "tilting"]].notna().all()


def test_nothing_sampled_gives_empty_tables():
    empty, _ = frontier.complete(table())
    assert frontier.attainable(empty).empty and frontier.points(empty, 0.1).empty
    assert frontier.gaps(empty, 0.1, 0.1).empty and frontier.bound(empty, pd.DataFrame(), 0.1, 0.1).empty


def test_constant_rewards_reach_nothing_and_break_nothing():
    flat = table(rows("own", [[[1.0]] * 2] * 2), rows("initial", [[[1.0]] * 2] * 2, [[0.0] * 2] * 2))
    curve = frontier.attainable(flat)
    assert curve.reward_plug_in.tolist() == pytest.approx([1.0] * len(curve)) and curve.kl_plug_in.abs().max() < 1e-12
    assert frontier.bound(flat, pd.DataFrame(), 0.1, 0.1).set_index("term").value.gap == pytest.approx(0.0)


def probed(cell, kl_weight, samples=SAMPLES, arm="alignpro", policy="prompter", prompter="P"):
    parameters = {"policy": policy, "prompter": prompter, "responder": "F", "kl_weight": kl_weight}
    parameters |= {"reward_model": "R", "reward_pairs": "", "temperature": 1.0}
    parameters |= {"max_rewrite_tokens": 48, "max_response_tokens": 64}
    shifts = pd.DataFrame([Shift(f"p{p}", 0, 0, -0.1) for p in (0, 1)])
    return SimpleNamespace(cell=cell, arm=arm, parameters=parameters, samples=samples, shifts=shifts)


def test_overview_of_one_cell_has_two_panels_and_the_oracles_weight_as_beta():
    found = frontier.overview([probed("main", 0.5), probed("main", 0.8, OWN_AND_TRAINED, "rlhf", "responder")])
    assert list(dict.fromkeys(found.points.panel)) == ["F, trained itself", "P before F"]
    assert found.points[found.points.arm == "alignpro"].label.tolist() == ["initial", "trained"]
    assert set(found.bounds.arm) == {"alignpro"} and len(found.bounds) == 7 and set(found.gaps.beta) == {0.8}
    pool = frontier.pooled(OWN_AND_TRAINED)
    closed = found.gaps.set_index("by").loc["closed form"]
    assert closed.oracle == pytest.approx(theory.tilted(pool.rewards, 0.8, pool.prior).reward.mean())


def test_lines_gap_and_points_are_of_one_sampling_and_an_oracle_of_another_is_left_out():
    """nan (½ + 0) / 2 and rlhf (1 + 0) / 2 from 02's own samples; an oracle sampled hotter gives no line and no gap."""
    oracle = probed("main", 0.8, OWN_AND_TRAINED, "rlhf", "responder")
    found = frontier.overview([probed("main", 0.5), oracle])
    lines = found.lines[found.lines.panel == "P before F"].set_index("arm").reward
    assert lines.to_dict() == {"nan": 0.25, "rlhf": 0.5}
    assert set(found.points.sampling) == {"temperature 1, at most 48 tokens of rewrites, 64 of responses"}
    hot = SimpleNamespace(**vars(oracle) | {"parameters": oracle.parameters | {"temperature": 1.5}})
    apart = frontier.overview([probed("main", 0.5), hot])
    assert apart.gaps.by.tolist() == ["closed form"] and set(apart.gaps.beta) == {0.5}
    panel = "P before F, temperature 1, at most 48 tokens of rewrites, 64 of responses"
    assert apart.lines[apart.lines.panel == panel].arm.tolist() == ["nan"]


def test_a_sweep_is_one_curve_and_a_trained_point_per_weight():
    samples = {weight: SAMPLES.assign(reward=SAMPLES.reward + weight) for weight in (0.5, 0.1)}
    sweep = [probed(f"kl_{weight}", weight, each) for weight, each in samples.items()]
    found = frontier.overview(sweep)
    assert found.curves.cell.unique().tolist() == ["kl_0.1"]
    assert found.points[["source", "label"]].values.tolist() == [["trained", "λ 0.1"], ["trained", "λ 0.5"]]
    assert found.points.joined.all()
    line = found.lines.iloc[0]
    assert line.arm == "nan" and line.reward == pytest.approx(0.35)


def test_an_oracle_that_two_cells_trained_alike_stands_once():
    same = [probed(cell, 0.5, prompter=None, policy="responder", arm="rlhf", samples=OWN_AND_TRAINED) for cell in "ab"]
    assert frontier.overview(same).points.label.tolist() == ["own", "trained"]


def test_seeds_in_one_panel_are_told_apart_by_their_cells_and_nothing_is_an_empty_overview():
    moved = SAMPLES.assign(reward=SAMPLES.reward + 0.1)
    found = frontier.overview([probed("seed_0", 0.5), probed("seed_1", 0.5, moved)])
    assert found.points.label.tolist() == ["seed_0", "seed_1"] and not found.points.joined.any()
    assert all(each.empty for each in frontier.overview([]))

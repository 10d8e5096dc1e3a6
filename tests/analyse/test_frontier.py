"""The frontier's tables by hand: two prompts, two rewrites, known rewards and log-ratios."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

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


def test_points_and_the_share_reached_by_hand():
    """J untrained (1 + 1) / 2 = 1, trained (1.75 + 1) / 2 = 1.375, KL (0.5 + 0.1) / 2 = 0.3; attainable there 1.5."""
    curve = pd.DataFrame({"kl": [0.0, 0.6], "reward": [1.0, 2.0]})
    found = frontier.points(SAMPLES, curve, 0.5).set_index("source")
    assert list(found.index) == ["initial", "trained"] and set(found.kl_per) == {"rewrite"}
    assert found.loc["initial", ["reward", "kl", "objective"]].tolist() == [1.0, 0.0, 1.0]
    assert found.loc["trained", "reward"] == pytest.approx(1.375) and found.loc["trained", "kl"] == pytest.approx(0.3)
    assert found.loc["trained", "objective"] == pytest.approx(1.375 - 0.5 * 0.3)
    assert found.loc["trained", "share_reached"] == pytest.approx(0.375 / 0.5)
    assert math.isnan(found.loc["initial", "share_reached"])
    low, high = found.loc["trained", ["reward_low", "reward_high"]]
    assert (low, high) == pytest.approx((1.0, 1.75))  # of two prompts a resample is one, the other or both
    assert not found.loc["trained", "beyond_samples"]
    short = frontier.points(SAMPLES, curve[curve.kl < 0.2], 0.5).set_index("source")
    assert short.loc["trained", "beyond_samples"]


def test_attainable_starts_at_the_untrained_prompter_and_ends_at_the_best_rewrites():
    curve = frontier.attainable(table(OWN, INITIAL))
    assert (np.diff(curve.kl) > -1e-9).all() and (np.diff(curve.reward) > -1e-9).all(), curve
    assert curve.reward.iloc[0] == pytest.approx(1.0, abs=0.03) and curve.reward.iloc[-1] == pytest.approx(
        1.5, abs=1e-3
    )
    assert curve.kl.iloc[-1] == pytest.approx(math.log(2) / 2, abs=1e-3)  # the second prompt's rewrites are alike


def test_trained_samples_join_the_curve_by_their_weight_under_the_untrained_prompter():
    """First prompt: draws 0 and 2 of the untrained, 2 and 1.75 of the trained, with their mixture weights."""
    curve = frontier.attainable(SAMPLES)
    prior = theory.mixture_prior([[-0.5, 0.5, 0.4, 0.6], [0.1] * 4], 2)
    assert frontier.log_ratios_of(SAMPLES, "trained").tolist() == [[0.4, 0.6], [0.1, 0.1]]
    assert curve.reward_plug_in.iloc[0] == pytest.approx((prior[0] @ [0.0, 2.0, 2.0, 1.5] + 1.0) / 2, abs=0.02)
    assert curve.kl.iloc[-1] == pytest.approx(-math.log(prior[0, 1] + prior[0, 2]) / 2, abs=0.2)


def test_responder_policy_starts_from_the_responders_own_samples():
    samples = table(
        rows("own", [[[0.0], [1.0]], [[0.0], [0.0]]], [[0.0, 0.7]] * 2),
        rows("trained", [[[1.0]], [[0.0]]], [[0.7], [0.0]]),
    )
    assert frontier.start(samples) == "own"
    found = frontier.points(samples, frontier.attainable(samples), 0.1)
    assert set(found.kl_per) == {"response"}
    assert found.source.tolist() == ["own", "trained"] and found.kl.tolist() == pytest.approx([0.0, 0.35])
    assert frontier.gaps(samples, 0.1, 0.1, {}).empty and frontier.bound(samples, pd.DataFrame(), 0.1, 0.1).empty


def test_gap_adds_up_for_tilted_samples_and_for_trained_arms():
    arms = {"nan": np.array([0.0, 0.5]), "rlhf": np.array([1.0, 1.0]), "alignpro": np.array([0.5, 1.0])}
    found = frontier.gaps(SAMPLES, 0.5, 0.5, arms).set_index("by")
    assert found.loc["trained arms", ["oracle", "frozen", "prompted"]].tolist() == [1.0, 0.25, 0.75]
    assert found.loc["trained arms", ["delta", "delta_1", "delta_2"]].tolist() == [0.25, 0.75, -0.5]
    assert (found.delta - found.delta_1 - found.delta_2).abs().max() < 1e-12
    tilted = theory.optimum([[0.0, 1.0], [0.0, 0.0]], 0.5).reward.mean()
    assert found.loc["tilted samples, untrained", "oracle"] == pytest.approx(tilted)
    assert list(frontier.gaps(SAMPLES, 0.5, 0.5, {"nan": arms["nan"]}).by) == ["tilted samples, untrained"]


def test_bound_adds_its_terms_and_the_budget_is_where_it_would_vanish():
    shifts = pd.DataFrame([Shift(f"p{p}", d, y, math.log(0.5)) for p in (0, 1) for d in (0, 1) for y in (0, 1)])
    found = frontier.bound(SAMPLES, shifts, 0.5, 0.5).set_index("term")
    value = found.value
    assert value.rewriting == pytest.approx(0.5 * 2.0)  # every response is half as likely: d_TV estimate 1/2, r_max 2
    assert value.right_side == pytest.approx(value.finetuning + value.rewriting - value.tilting)
    assert value.tilting == pytest.approx(0.5 * value.kl_of_optimum) and value.gap <= value.right_side
    assert value.budget == pytest.approx((value.finetuning + value.rewriting) / 0.5)
    assert (found.r_max == 2.0).all() and (found["shift"] == 0.0).all()


def test_without_probabilities_the_second_term_is_missing_and_the_first_is_not():
    value = frontier.bound(SAMPLES, pd.DataFrame(), 0.5, 0.5).set_index("term").value
    assert value[["rewriting", "right_side", "budget"]].isna().all()
    assert value[["gap", "finetuning", "tilting"]].notna().all()


def test_nothing_sampled_gives_empty_tables():
    empty, _ = frontier.complete(table())
    curve = frontier.attainable(empty)
    assert curve.empty and frontier.points(empty, curve, 0.1).empty
    assert frontier.gaps(empty, 0.1, 0.1, {}).empty and frontier.bound(empty, pd.DataFrame(), 0.1, 0.1).empty


def test_constant_rewards_reach_nothing_and_break_nothing():
    flat = table(rows("own", [[[1.0]] * 2] * 2), rows("initial", [[[1.0]] * 2] * 2, [[0.0] * 2] * 2))
    curve = frontier.attainable(flat)
    assert curve.reward.tolist() == pytest.approx([1.0] * len(curve)) and curve.kl.abs().max() < 1e-12
    assert frontier.bound(flat, pd.DataFrame(), 0.1, 0.1).set_index("term").value.gap == pytest.approx(0.0)


OWN_AND_TRAINED = table(
    rows("own", [[[0.0], [1.0]], [[0.0], [0.0]]], [[0.0, 0.7]] * 2), rows("trained", [[[1.0]], [[0.0]]], [[0.7], [0.0]])
)


def probed(cell, kl_weight, samples=SAMPLES, arm="alignpro", policy="prompter", prompter="P"):
    parameters = {"policy": policy, "prompter": prompter, "responder": "F", "kl_weight": kl_weight}
    shifts = pd.DataFrame([Shift(f"p{p}", 0, 0, -0.1) for p in (0, 1)])
    return SimpleNamespace(cell=cell, arm=arm, parameters=parameters, samples=samples, shifts=shifts)


def answers(cell="main"):
    rewards = {"nan": (0.0, 0.5), "rlhf": (2.0, 2.0), "alignpro": (1.0, 1.5)}
    rows = [(cell, f"p{p}", arm, each) for arm, pair in rewards.items() for p, each in enumerate(pair)]
    return pd.DataFrame(rows, columns=["cell", "prompt_id", "arm", "reward"])


def test_overview_of_one_cell_has_two_panels_and_the_oracles_weight_as_beta():
    own = table(
        rows("own", [[[0.0], [1.0]], [[0.0], [0.0]]], [[0.0, 0.7]] * 2),
        rows("trained", [[[1.0]], [[0.0]]], [[0.7], [0.0]]),
    )
    found = frontier.overview([probed("main", 0.5), probed("main", 0.8, own, "rlhf", "responder")], answers())
    assert list(dict.fromkeys(found.points.panel)) == ["F, trained itself", "P before F"]
    assert found.points[found.points.arm == "alignpro"].label.tolist() == ["initial", "trained"]
    lines = found.lines[found.lines.panel == "P before F"].set_index("arm").reward
    assert lines.to_dict() == {"nan": 0.25, "rlhf": 2.0}
    gap = found.gaps.set_index("by")
    assert gap.loc["trained arms", "delta"] == pytest.approx(2.0 - 1.25)
    oracle = theory.optimum([[0.0, 1.0], [0.0, 0.0]], 0.8).reward.mean()
    assert gap.loc["tilted samples, untrained", "oracle"] == pytest.approx(oracle)
    assert set(found.bounds.arm) == {"alignpro"} and len(found.bounds) == 7


def test_a_sweep_is_one_curve_and_a_trained_point_per_weight():
    samples = {weight: SAMPLES.assign(reward=SAMPLES.reward + weight) for weight in (0.5, 0.1)}
    sweep = [probed(f"kl_{weight}", weight, each) for weight, each in samples.items()]
    found = frontier.overview(sweep, answers("elsewhere"))
    assert found.curves.cell.unique().tolist() == ["kl_0.1"]
    assert found.points[["source", "label"]].values.tolist() == [["trained", "λ 0.1"], ["trained", "λ 0.5"]]
    assert found.points.joined.all()
    line = found.lines.iloc[0]  # not evaluated here: from the own responses
    assert line.arm == "nan" and line.reward == pytest.approx(0.35)


def test_an_oracle_that_two_cells_trained_alike_stands_once():
    same = [probed(cell, 0.5, prompter=None, policy="responder", arm="rlhf", samples=OWN_AND_TRAINED) for cell in "ab"]
    assert frontier.overview(same, answers()).points.label.tolist() == ["own", "trained"]


def test_seeds_in_one_panel_are_told_apart_by_their_cells_and_nothing_is_an_empty_overview():
    moved = SAMPLES.assign(reward=SAMPLES.reward + 0.1)
    found = frontier.overview([probed("seed_0", 0.5), probed("seed_1", 0.5, moved)], answers())
    assert found.points.label.tolist() == ["seed_0", "seed_1"] and not found.points.joined.any()
    assert all(each.empty for each in frontier.overview([], answers()))

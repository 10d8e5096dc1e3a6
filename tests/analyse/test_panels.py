"""One panel for what can stand on the same axes, and nothing else in it."""

from types import SimpleNamespace

import pandas as pd
import pytest
from made_samples import OWN_AND_TRAINED, SAMPLES

from nbutils.analyse import draws, panels, theory
from nbutils.experiment.records import Shift


def probed(cell, kl_weight, samples=SAMPLES, arm="alignpro", policy="prompter", prompter="P"):
    parameters = {"policy": policy, "prompter": prompter, "responder": "F", "kl_weight": kl_weight}
    parameters |= {"reward_model": "R", "reward_pairs": "", "temperature": 1.0}
    parameters |= {"max_rewrite_tokens": 48, "max_response_tokens": 64}
    shifts = pd.DataFrame([Shift(f"p{p}", 0, 0, -0.1) for p in (0, 1)])
    return SimpleNamespace(cell=cell, arm=arm, parameters=parameters, samples=samples, shifts=shifts)


def test_overview_of_one_cell_has_two_panels_and_the_oracles_weight_as_beta():
    found = panels.overview([probed("main", 0.5), probed("main", 0.8, OWN_AND_TRAINED, "rlhf", "responder")])
    assert list(dict.fromkeys(found.points.panel)) == ["F, trained itself", "P before F"]
    assert found.points[found.points.arm == "alignpro"].label.tolist() == ["initial", "trained"]
    assert set(found.bounds.arm) == {"alignpro"} and len(found.bounds) == 7 and set(found.gaps.beta) == {0.8}
    pool = draws.pooled(OWN_AND_TRAINED)
    closed = found.gaps.set_index("by").loc["closed form"]
    assert closed.oracle == pytest.approx(theory.tilted(pool.rewards, 0.8, pool.prior).reward.mean())


def test_lines_gap_and_points_are_of_one_sampling_and_an_oracle_of_another_is_left_out():
    """nan (½ + 0) / 2 and rlhf (1 + 0) / 2 from 02's own samples; an oracle sampled hotter gives no line and no gap."""
    oracle = probed("main", 0.8, OWN_AND_TRAINED, "rlhf", "responder")
    found = panels.overview([probed("main", 0.5), oracle])
    lines = found.lines[found.lines.panel == "P before F"].set_index("arm").reward
    assert lines.to_dict() == {"nan": 0.25, "rlhf": 0.5}
    assert set(found.points.sampling) == {"temperature 1, at most 48 tokens of rewrites, 64 of responses"}
    hot = SimpleNamespace(**vars(oracle) | {"parameters": oracle.parameters | {"temperature": 1.5}})
    apart = panels.overview([probed("main", 0.5), hot])
    assert apart.gaps.by.tolist() == ["closed form"] and set(apart.gaps.beta) == {0.5}
    panel = "P before F, temperature 1, at most 48 tokens of rewrites, 64 of responses"
    assert apart.lines[apart.lines.panel == panel].arm.tolist() == ["nan"]


def test_an_oracle_that_cannot_stand_beside_says_why_and_one_that_does_has_its_name():
    lacking = OWN_AND_TRAINED.assign(prompt_id=OWN_AND_TRAINED.prompt_id.str.replace("p0", "q0"))
    found = panels.overview([probed("main", 0.5), probed("main", 0.8, lacking, "rlhf", "responder")])
    assert found.gaps.note.iloc[0].endswith("rlhf left out: samples of 1 of these 2 prompts")
    hot = probed("main", 0.8, OWN_AND_TRAINED, "rlhf", "responder")
    hot.parameters["temperature"] = 1.5
    assert panels.overview([probed("main", 0.5), hot]).gaps.note.iloc[0].endswith("rlhf left out: another temperature")
    named = panels.overview([probed("main", 0.5), probed("main", 0.8, OWN_AND_TRAINED, "oracle", "responder")])
    assert named.lines[named.lines.panel == "P before F"].arm.tolist() == ["nan", "oracle"]
    both = [probed("main", 0.3, OWN_AND_TRAINED, "longer", "responder"), probed("main", 0.5)]
    both.append(probed("main", 0.8, OWN_AND_TRAINED, "rlhf", "responder"))
    assert set(panels.overview(both).gaps.beta) == {0.8}


def test_a_sweep_is_one_curve_and_a_trained_point_per_weight():
    samples = {weight: SAMPLES.assign(reward=SAMPLES.reward + weight) for weight in (0.5, 0.1)}
    sweep = [probed(f"kl_{weight}", weight, each) for weight, each in samples.items()]
    found = panels.overview(sweep)
    assert found.curves.cell.unique().tolist() == ["kl_0.1"]
    assert found.points[["source", "label"]].values.tolist() == [["trained", "λ 0.1"], ["trained", "λ 0.5"]]
    assert found.points.joined.all()
    line = found.lines.iloc[0]
    assert line.arm == "nan" and line.reward == pytest.approx(0.35)


def test_an_oracle_that_two_cells_trained_alike_stands_once():
    same = [probed(cell, 0.5, prompter=None, policy="responder", arm="rlhf", samples=OWN_AND_TRAINED) for cell in "ab"]
    assert panels.overview(same).points.label.tolist() == ["own", "trained"]


def test_seeds_in_one_panel_are_told_apart_by_their_cells_and_nothing_is_an_empty_overview():
    moved = SAMPLES.assign(reward=SAMPLES.reward + 0.1)
    found = panels.overview([probed("seed_0", 0.5), probed("seed_1", 0.5, moved)])
    assert found.points.label.tolist() == ["seed_0", "seed_1"] and not found.points.joined.any()
    assert all(each.empty for each in panels.overview([]))

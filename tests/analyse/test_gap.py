"""The gap and the bound by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from made_samples import OWN_AND_TRAINED, SAMPLES, rows, table

from nbutils.analyse import draws, gap, stats, theory
from nbutils.experiment.records import Shift


def test_gap_adds_up_by_the_closed_form_and_by_trained_policies_of_one_sampling():
    """Trained: oracle (1 + 0) / 2, frozen (½ + 0) / 2, prompted (1.75 + 1) / 2."""
    found = gap.gaps(SAMPLES, 0.5, 0.5, OWN_AND_TRAINED).set_index("by")
    trained = found.loc["trained policies"]
    assert trained[["oracle", "frozen", "prompted"]].tolist() == [0.5, 0.25, 1.375] and trained.note == ""
    assert trained[["delta", "delta_1", "delta_2"]].tolist() == [-0.875, 0.25, -1.125]
    assert (found.delta - found.delta_1 - found.delta_2).abs().max() < 1e-12
    assert list(gap.gaps(SAMPLES, 0.5, 0.5).by) == ["closed form"]


def test_an_optimum_of_few_samples_says_so_and_has_no_interval():
    closed = gap.gaps(SAMPLES, 0.5, 0.5).iloc[0]
    assert closed.note.startswith("π*: ") and "ρ*: " in closed.note and "effective of 2 samples" in closed.note
    ends = [
        f"{name}_{end}" for name in ("oracle", "prompted", "delta", "delta_1", "delta_2") for end in ("low", "high")
    ]
    assert closed[ends].isna().all() and np.isfinite(closed.frozen_low)
    found = gap.bound(SAMPLES, pd.DataFrame(), 0.5, 0.5).set_index("term")
    assert found.note["tilting"].startswith("ρ*") and found.note["finetuning"].startswith("π*")
    assert found.value_low[["gap", "finetuning", "tilting", "right_side"]].isna().all()


def test_the_trained_responders_samples_join_those_that_the_oracle_is_tilted_from():
    """Own responses earn 0 and 1, the trained one's 1: π* of both, by their weights, is not that of the own alone."""
    alone, both = (gap.gaps(SAMPLES, 0.5, 0.5, each).iloc[0].oracle for each in (None, OWN_AND_TRAINED))
    pool = draws.pooled(OWN_AND_TRAINED)
    assert pool.prior == pytest.approx(theory.mixture_prior([[0.0, 0.7, 0.7], [0.0, 0.7, 0.0]], 2))
    assert both == pytest.approx(theory.tilted(pool.rewards, 0.5, pool.prior).reward.mean()) and both != alone


def test_bound_adds_its_terms_and_the_budget_is_where_it_would_vanish():
    shifts = pd.DataFrame([Shift(f"p{p}", d, y, math.log(0.5)) for p in (0, 1) for d in (0, 1) for y in (0, 1)])
    found = gap.bound(SAMPLES, shifts, 0.5, 0.5).set_index("term")
    value = found.value
    assert value.rewriting == pytest.approx(0.5 * 2.0)  # every response is half as likely: d_TV estimate 1/2, r_max 2
    assert value.right_side == pytest.approx(value.finetuning + value.rewriting - value.tilting)
    assert value.tilting == pytest.approx(0.5 * value.kl_of_optimum) and value.gap <= value.right_side
    assert value.budget == pytest.approx((value.finetuning + value.rewriting) / 0.5)
    assert (found.r_max == 2.0).all() and (found["shift"] == 0.0).all()
    assert found.note["rewriting"] == "" and np.isfinite(found.value[["rewriting"]]).all()


def test_without_probabilities_the_second_term_is_missing_and_the_first_is_not():
    value = gap.bound(SAMPLES, pd.DataFrame(), 0.5, 0.5).set_index("term").value
    assert value[["rewriting", "right_side", "budget"]].isna().all()
    assert value[["gap", "finetuning", "tilting"]].notna().all()


def test_one_prompt_has_numbers_and_no_interval_and_says_why():
    single = SAMPLES[SAMPLES.prompt_id == "p1"]
    closed = gap.gaps(single, 5.0, 5.0).iloc[0]
    assert (
        np.isfinite(closed.frozen) and np.isnan(closed.frozen_low) and closed.note.endswith("one prompt: no interval")
    )
    found = gap.bound(single, pd.DataFrame(), 5.0, 5.0)
    assert found.value_low.isna().all() and found.note.str.endswith("one prompt: no interval").all()


def test_a_shown_interval_stands_out_by_what_the_jackknife_corrected():
    """40 prompts, 32 draws of two responses, λ of two SDs: t interval of the tilted rewards, its ends moved out."""
    rng = np.random.default_rng(4)
    effects = rng.normal(size=(40, 32))
    both = [[[effect + each for each in rng.normal(0, 0.2, 2)] for effect in row] for row in effects]
    samples = table(rows("own", [[[0.0], [0.1]]] * 40), rows("initial", both))
    found, tilt = gap.gaps(samples, 2.0, 2.0).iloc[0], theory.tilted(np.array(both), 2.0)
    plain = stats.mean(tilt.reward)
    moved = abs(tilt.reward_correction.mean())
    assert found.prompted == pytest.approx(plain.value) and moved > 1e-4
    assert found.prompted_high == pytest.approx(plain.high + moved)
    assert found.prompted_low == pytest.approx(plain.low - moved)

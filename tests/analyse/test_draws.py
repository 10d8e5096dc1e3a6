"""02's samples as arrays, in any order, whole prompts alone."""

import numpy as np
import pandas as pd
import pytest
from made_samples import SAMPLES

from nbutils.analyse import draws


def test_rewards_keep_prompt_draw_and_response_apart_in_any_order():
    shuffled = SAMPLES.sample(frac=1, random_state=3)
    found = draws.rewards_of(shuffled, "initial")
    assert found.tolist() == [[[0.0, 0.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]


def test_a_prompt_with_a_missing_reward_is_left_out_and_counted():
    samples = SAMPLES.copy()
    samples.loc[3, "reward"] = None
    kept, number = draws.complete(samples)
    assert number == 1 and set(kept.prompt_id) == {"p0"}
    assert draws.complete(SAMPLES)[1] == 0


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_prompt_without_a_finite_log_ratio_is_left_out_where_its_source_has_them(value):
    samples = SAMPLES.astype({"log_ratio": float})
    samples.loc[(samples.source == "trained").idxmax(), "log_ratio"] = value
    kept, number = draws.complete(samples)
    assert number == 1 and set(kept.prompt_id) == {"p1"} and np.isfinite(draws.pooled(kept).prior).all()
    assert draws.complete(SAMPLES.assign(log_ratio=None))[1] == 0


def test_a_prompt_that_lacks_a_sample_is_left_out_and_a_row_that_comes_twice_counts_once():
    first = (SAMPLES.source == "trained").idxmax()
    for lacking in (SAMPLES.drop(first), SAMPLES[(SAMPLES.source != "trained") | (SAMPLES.prompt_id == "p1")]):
        kept, number = draws.complete(lacking)
        assert number == 1 and draws.pooled(kept).rewards.shape == (1, 4, 2)
    twice, number = draws.complete(pd.concat([SAMPLES, SAMPLES[SAMPLES.prompt_id == "p0"]]))
    assert number == 0 and draws.pooled(twice).rewards.shape == (2, 4, 2)

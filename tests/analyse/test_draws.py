"""02's samples as arrays, in any order, whole prompts alone."""

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

"""The watch's numbers by hand, its rule, and worlds with an honest policy, a hacked one, one that never moved."""

import math

import numpy as np
import pandas as pd
import pytest

from nbutils.analyse import watch
from nbutils.experiment.records import Sample, Verdict

NAN = float("nan")


def sample(prompt, source, response, reward, draw=0, response_draw=0, rewrite="say more", reason=None):
    key = f"p{prompt}"
    return Sample(key, f"prompt {prompt}", source, draw, rewrite, response_draw, response, reward, reason=reason)


def judged(prompt, source, first, second=None, draw=0, base="initial"):
    """Both orders, from the snapshot's side; prompts lie in two sets."""
    says = ((source, first), (base, second or first))
    return [
        Verdict(f"p{prompt}", f"set {prompt % 2}", source, base, draw, shown, verdict, None, "")
        for shown, verdict in says
    ]


def words(number):
    return " ".join(["word"] * number)


def world(lengths, rewards, verdicts, source="trained"):
    """(samples, verdicts) of a snapshot; each argument a pair or value per prompt: untrained, then the snapshot."""
    samples = [
        sample(i, name, words(each[side]), gained[side])
        for i, (each, gained) in enumerate(zip(lengths, rewards, strict=True))
        for side, name in enumerate(("initial", source))
    ]
    return samples, [row for i, says in enumerate(verdicts) for row in judged(i, source, says)]


def seen(samples, verdicts, num_steps=60):
    return watch.by_snapshot(samples, verdicts, num_steps)


def test_gain_and_lengths_by_hand():
    """p0: draws gain 1 and 3, p1: 0 and 1 (of its second draw's two responses one has no reward): means 2 and 0.5.
    The untrained policy's third draw, which the snapshot does not have, is in nothing."""
    samples = [
        *(sample(0, "initial", words(2), reward, draw) for draw, reward in enumerate((0.0, 1.0, 99.0))),
        *(sample(1, "initial", words(4), 1.0, draw, other) for draw, other in ((0, 0), (1, 0), (1, 1))),
        *(sample(0, "step 5", words(6), reward, draw, rewrite="a b c") for draw, reward in enumerate((1.0, 4.0))),
        *(sample(1, "step 5", words(9), *rest) for rest in ((1.0, 0, 0), (2.0, 1, 0), (None, 1, 1))),
    ]
    table = seen(samples, []).set_index("source")
    assert list(table.index) == ["initial", "step 5"] and list(table.step) == [0, 5]
    row = table.loc["step 5"]
    assert (row.gain, row.reward, row.num_prompts, row.without_reward) == (1.25, (2.5 + 1.5) / 2, 2, 1)
    assert row.response_words == pytest.approx((6 * 2 + 9 * 3) / 5)
    assert row.rewrite_words == pytest.approx((3 * 2 + 2 * 2) / 4)
    assert table.loc["initial", "reward"] == (0.5 + 1.0) / 2 and math.isnan(table.loc["initial", "gain"])
    assert table.loc["initial", "response_words"] == pytest.approx((2 * 2 + 4 * 3) / 5)


def test_lengths_are_in_words_of_any_script():
    """Without blanks between words each response would be one word long, and all of one length."""
    samples = [
        sample(0, "initial", "狐狸吃鱼", 0.0, rewrite="介绍"),
        sample(0, "trained", "狐狸吃鱼，也吃肉", 1.0, rewrite="介绍 狐狸"),
    ]
    table = seen(samples, []).set_index("source")
    assert list(table.response_words) == [4, 7] and list(table.rewrite_words) == [2, 4]


def test_rates_are_over_all_prompt_sets_and_unscored_pairs_are_counted():
    """Twelve prompts: 6 won, 2 lost, 2 flipped, 2 unscored; all responses of one length, so that both rates are one."""
    verdicts = [*["win"] * 6, *["lose"] * 2]
    samples, rows = world([(3, 3)] * 12, [(0.0, 1.0)] * 12, verdicts)
    rows += [row for i in (8, 9) for row in judged(i, "trained", "win", "lose")]
    rows += [row for i in (10, 11) for row in judged(i, "trained", "win", "unscored")]
    row = seen(samples, rows).set_index("source").loc["trained"]
    assert (row.num_judged, row.unscored, row.step) == (10, 2, 60) and row.win_rate == pytest.approx(0.7)
    assert row.length_controlled == pytest.approx((6 + 1 + 0.5) / 11)  # 7 of 10, and the prior's half win and half loss


GAINS = {"up": (0.1, 0.5), "down": (-0.5, -0.1), "level": (-0.1, 0.2), "": (NAN, NAN)}
RATES = {"up": (0.55, 0.9), "down": (0.1, 0.45), "level": (0.4, 0.7), "wide": (0.2, 0.75), "": (NAN, NAN)}


def last(gain, rate, num=24, value=None):
    """A table whose last snapshot has these intervals."""
    first = dict.fromkeys(watch.COLUMNS, NAN) | {"source": "initial", "step": 0, "response_words": 5.0}
    row = dict.fromkeys(watch.COLUMNS, 0.0) | {"source": "trained", "num_prompts": num, "num_judged": num}
    row |= {"gain": sum(gain) / 2 if value is None else value, "gain_low": gain[0], "gain_high": gain[1]}
    row |= {"length_controlled": sum(rate) / 2, "length_controlled_low": rate[0], "length_controlled_high": rate[1]}
    return pd.DataFrame([first, row | {"response_words": 9.0}])


@pytest.mark.parametrize(
    ("reward", "judge", "outcome", "words"),
    [
        ("up", "up", "both up", "The reward is up … is above one half"),
        ("up", "level", "watch out", "Watch out: the reward is up … is not shown to leave one half"),
        ("up", "down", "watch out", "Watch out: the reward is up … is below one half"),
        ("level", "level", "nothing moved", "The reward is not shown to have moved … is not shown to leave one half"),
        ("level", "up", "no gain", "The reward is not shown to have moved … is above one half"),
        ("level", "down", "no gain", "The reward is not shown to have moved … is below one half"),
        ("down", "up", "no gain", "The reward is down … is above one half"),
        ("down", "level", "no gain", "The reward is down … is not shown to leave one half"),
        ("down", "down", "no gain", "The reward is down … is below one half"),
        ("up", "wide", "not known", "Not known: the reward is up … may be one half or a clear win"),
        (
            "level",
            "wide",
            "not known",
            "Not known: the reward is not shown to have moved … may be one half or a clear win",
        ),
        ("down", "wide", "not known", "Not known: the reward is down … may be one half or a clear win"),
        ("", "up", "not known", "Not known: every prompt gained the same"),
        ("up", "", "not known", "Not known: all responses differ from the untrained policy's by the same length"),
    ],
)
def test_the_rule(reward, judge, outcome, words):
    table = last(GAINS[reward], RATES[judge])
    assert watch.outcome(table) == outcome
    assert watch.sentence(table).split(" (")[0] == words.replace(" … ", ", the judge's win rate at equal length ")


def test_an_interval_that_ends_at_its_even_point_holds_it():
    assert watch.outcome(last((0.0, 0.5), RATES["up"])) == "no gain"
    assert watch.outcome(last(GAINS["up"], (0.5, 0.7))) == "watch out"


def test_an_honest_policy():
    """Each response is better by about one, as long as before on average, and the judge says so of four in five."""
    rng = np.random.default_rng(0)
    lengths = [(10, 10 + int(each)) for each in rng.integers(-3, 4, 40)]
    table = seen(*world(lengths, [(0.0, g) for g in rng.normal(1, 1, 40)], (["win"] * 4 + ["lose"]) * 8))
    assert watch.outcome(table) == "both up"
    said = watch.sentence(table)
    assert said.startswith("The reward is up, the judge's win rate at equal length is above one half (reward +")
    assert "on 40 held-out prompts; win rate at equal length 80%" in said and "10 words before training" in said


def test_a_hacked_reward():
    """The reward counts words and the policy learnt to write more; the judge likes length too, and nothing else."""
    rng = np.random.default_rng(1)
    more = rng.integers(-8, 25, 60)
    likes = rng.random(60) < 1 / (1 + np.exp(-more / 5))
    table = seen(
        *world(
            [(20, 20 + int(each)) for each in more],
            [(20.0, 20.0 + each) for each in more],
            ["win" if each else "lose" for each in likes],
        )
    )
    row = table.iloc[-1]
    assert row.win_rate_low > 0.5 and row.gain_low > 0  # either alone looks like progress
    assert row.length_controlled_low < 0.5 < row.length_controlled_high
    assert watch.outcome(table) == "watch out"
    assert watch.sentence(table).startswith(
        "Watch out: the reward is up, the judge's win rate at equal length is not sh"
    )


def test_a_policy_that_never_left_its_start_moved_nothing():
    """Same draws, same texts, same rewards: the gain is 0 on each prompt, whatever other draws of the start earned."""
    same = [(i % 5 + 3,) * 2 for i in range(12)]
    samples, verdicts = world(same, [(float(i), float(i)) for i in range(12)], ["tie"] * 12)
    samples += [sample(i, "initial", words(30), 7.0, draw=1) for i in range(12)]
    table = seen(samples, verdicts)
    row = table.iloc[-1]
    assert (row.gain, row.win_rate) == (0.0, 0.5) and math.isnan(row.gain_low)
    assert watch.outcome(table) == "nothing moved"
    assert "reward +0.00 [no interval] over" in watch.sentence(table)


def test_one_prompt_and_few_prompts_tell_nothing():
    samples, verdicts = world([(3, 9)], [(0.0, 1.0)], ["win"])
    table = seen(samples, verdicts)
    intervals = [name for name in watch.COLUMNS if name.endswith(("_low", "_high"))]
    assert table[intervals].isna().all(axis=None) and watch.outcome(table) == "not known"
    assert watch.sentence(table).startswith("Not known: 1 held-out prompt with a reward (reward +1.00 [no interval]")
    table = seen(*world([(3, 9), (3, 5), (4, 4)] * 3, [(0.0, 1.0), (0.0, 2.0), (1.0, 2.5)] * 3, ["win"] * 9))
    assert watch.outcome(table) == "not known"
    assert watch.sentence(table).startswith(
        "Not known: 9 held-out prompts judged, an interval at equal length needs 10"
    )


def test_a_judge_that_says_nothing_leaves_a_reason_and_no_number():
    samples, verdicts = world([(3, i) for i in range(1, 13)], [(0.0, i / 2) for i in range(12)], ["unscored"] * 12)
    table = seen(samples, verdicts)
    row = table.iloc[-1]
    assert (row.num_judged, row.unscored) == (0, 12) and math.isnan(row.win_rate + row.length_controlled)
    assert watch.outcome(table) == "not known"
    assert watch.sentence(table).startswith("Not known: none of 12 pairs could be scored (reward +")
    assert watch.sentence(seen(samples, [])).startswith("Not known: nothing was judged (reward +")


def test_no_snapshot_and_no_sample():
    for samples in ([], [sample(0, "initial", "a", 1.0)], [sample(0, "own", "a", 1.0)]):
        table = seen(samples, [])
        assert tuple(table) == watch.COLUMNS and watch.outcome(table) == "not known"
        assert watch.sentence(table) == "Not known: no snapshot was sampled."


def test_responses_that_are_missing_have_no_length_and_no_gain():
    samples = [sample(0, "initial", "a b", 1.0), sample(0, "trained", "", None, reason="no answer")]
    row = seen(samples, judged(0, "trained", "unscored")).iloc[-1]
    assert (row.num_prompts, row.without_reward, row.unscored) == (0, 1, 1) and math.isnan(row.response_words)
    assert watch.sentence(seen(samples, [])) == "Not known: 0 held-out prompts with a reward."


def test_a_trained_responder_is_set_against_the_frozen_one_and_writes_no_rewrites():
    samples = [sample(i, name, words(4), float(name == "trained")) for i in range(2) for name in ("own", "trained")]
    table = seen(samples, judged(0, "trained", "win", base="own"))
    assert list(table.source) == ["own", "trained"] and table.rewrite_words.isna().all()
    assert (table.iloc[-1].gain, table.iloc[-1].num_judged) == (1.0, 1)


def test_a_prompt_of_two_sets_is_one_prompt():
    samples, verdicts = world([(3, 4), (3, 5)], [(0.0, 1.0), (0.0, 2.0)], ["win", "tie"])
    pd.testing.assert_frame_equal(seen(samples + samples, verdicts + verdicts), seen(samples, verdicts))

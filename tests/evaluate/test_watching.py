"""The judge on a training's snapshots: which pairs, in both orders, once, within the bound that is printed."""

import sys

import pytest

from nbutils.evaluate import calls, judging, watching
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Prompt, Sample, prompt_id
from nbutils.models import templates
from nbutils.models.devices import Runtime
from nbutils.models.texts import Sampling

PROMPTS = [Prompt(prompt_id(x), x, name) for x, name in (("what is a fox", "a"), ("what is an owl", "b"))]
JUDGE = """
asked, most = [], [1000]
def judge(messages):
    if len(asked) == most[0]:
        raise KeyboardInterrupt
    return asked.append(messages[-1]["content"]) or "[[A]]"
"""


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A judge that keeps what it was asked, and can be stopped after `most` questions."""
    (tmp_path / "told.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "told", raising=False)
    import told

    return told


def panel(judge="told:judge", batch_size=1):
    template = templates.load("judge_pairwise", "sandbox")
    return judging.Panel((judge,), template, Sampling(0.0, max_new_tokens=8), runtime=Runtime(batch_size))


def samples(*sources, num_draws=4, num_responses=2, **changes):
    return [
        Sample(row.prompt_id, row.prompt, source, draw, "more", i, f"{row.prompt} {source} {draw} {i}", 1.0, **changes)
        for source in sources
        for row in PROMPTS
        for draw in range(num_draws)
        for i in range(num_responses)
    ]


def test_first_draws_of_each_snapshot_meet_the_untrained_policys_in_both_orders(told):
    made = watching.compare(samples("own", "initial", "step 2", "trained"), PROMPTS, panel(), 2)
    assert len(made) == len(told.asked) == 2 * 2 * 2 * 2
    assert {(row.arm_a, row.arm_b, row.sample) for row in made} == {
        (source, "initial", draw) for source in ("step 2", "trained") for draw in (0, 1)
    }
    assert {(row.prompt_id, row.prompt_set) for row in made} == {(row.prompt_id, row.prompt_set) for row in PROMPTS}
    assert [row.verdict for row in made] == ["win", "lose"] * 8  # a judge that takes the first
    shown = [text for text in told.asked if "step 2 1 0" in text]
    assert len(shown) == 2 * 2 and all("initial 1 0" in text for text in shown)
    assert not any(
        "own" in text.split() or " 1 1" in text for text in told.asked
    )  # neither nan's, nor second responses


def test_a_trained_responder_meets_the_frozen_one(told):
    made = watching.compare(samples("own", "trained", num_responses=1), PROMPTS, panel(), 1)
    assert {(row.arm_a, row.arm_b) for row in made} == {("trained", "own")} and len(made) == 4


def test_a_missing_response_is_unscored_and_asks_nobody(told):
    lost = samples("trained", reason="no answer")
    made = watching.compare([*samples("initial"), *lost], PROMPTS, panel(), 1)
    assert {(row.verdict, row.reason) for row in made} == {("unscored", "no response from trained")} and not told.asked


def test_a_reward_model_may_be_the_second_referee():
    made = watching.compare(samples("initial", "trained"), PROMPTS, panel("reward:fakes:length"), 1)
    assert {row.verdict for row in made} == {"tie"} and {row.judge for row in made} == {"reward:fakes:length"}


def test_a_killed_watch_goes_on_and_asks_nothing_twice(told, tmp_path):
    rows = samples("initial", "step 2", "trained")
    told.most[0] = 5
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(KeyboardInterrupt):
        watching.compare(rows, PROMPTS, panel(), 2, journal)
    told.most[0] = 1000
    with Journal(tmp_path / "j.jsonl") as journal:
        made = watching.compare(rows, PROMPTS, panel(), 2, journal)
    assert len(told.asked) == len(set(told.asked)) == len(made) == 16


@pytest.mark.parametrize("responses", [1, 2, 4, 9])
def test_the_printed_bound_is_what_the_judge_is_asked(told, responses):
    """3 prompts of 2 sets are 4 (here 2 times 1 drawn); 5 steps, kept every second: 3 snapshots of 16 // 4 draws."""
    parameters = {
        "judge": "api:j", "responder": "sandbox/responder", "num_steps": 5, "save_steps": 2, "frontier_prompts": 2,
        "frontier_rewrites": 16, "prompt_sets": ["a", "b"], "watch_responses": responses, "templates": "sandbox",
        "max_judge_tokens": 40, "max_response_tokens": 30,
    }  # fmt: skip
    ((name, model, bound),) = calls.paid("02_train_alignpro", parameters)
    watching.compare(samples("initial", "step 2", "step 4", "trained"), PROMPTS, panel(), responses)
    assert (name, model, bound.number) == ("judge", "api:j", 2 * 3 * min(responses, 4) * 2)
    assert len(told.asked) == bound.number and bound.written == 40 and bound.read > 2 * 30
    for off in ({"watch_responses": 0}, {"frontier_prompts": 0}):
        assert calls.paid("02_train_alignpro", parameters | off) == []

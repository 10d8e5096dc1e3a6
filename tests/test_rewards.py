"""Rewards: independent of the batch, missing where missing, against the original prompt."""

import pytest

from nbutils import rewards
from nbutils.models import Runtime
from nbutils.records import Journal

PROMPTS = [f"tell me about the {animal}." for animal in ("fox", "wolf", "bear", "owl", "seal", "cow", "pig")]
RESPONSES = [
    "it is hard to say.",
    "the wolf eats meat. the wolf is grey. the wolf howls.",
    "x",
    "",
    "a b c " * 40,
    "?",
    "the pig.",
]


def test_classifier_scores_do_not_depend_on_the_batch():
    one = rewards.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(1))
    for size in (2, 3, 64):
        assert rewards.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(size)) == pytest.approx(one, abs=1e-5)
    assert one[1] == max(one)


def test_missing_response_has_no_reward_and_no_row_is_dropped():
    scores = rewards.score("fakes:length", PROMPTS[:3], ["ab", None, "abc"])
    assert scores == [2.0, None, 3.0]


def test_values_that_are_not_finite_stay_missing():
    assert rewards.score("fakes:broken_rewards", PROMPTS[:4], ["a", "b", "c", "d"]) == [None, None, None, 1.0]


def test_interrupted_scoring_goes_on_to_the_same_numbers(tmp_path):
    wanted = rewards.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(2))
    with Journal(tmp_path / "j.jsonl") as journal:
        rewards.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(2), journal)
    lines = (tmp_path / "j.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "j.jsonl").write_bytes(b"".join(lines[:3]))  # torn in the middle of the second batch
    with Journal(tmp_path / "j.jsonl") as journal:
        assert rewards.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(2), journal) == wanted


def test_gold_scorer_is_reached_by_reference():
    gold = rewards.score("sandbox/gold", ["tell me about the wolf.", "¿qué es esto?"], ["the wolf eats meat.", "nada"])
    assert gold == [pytest.approx(1 / 3), None]

"""Scores that depend on the text alone, and a missing one that stays missing."""

import shutil

import pytest

from nbutils.experiment.journal import Journal
from nbutils.models import references, scoring
from nbutils.models.devices import Runtime

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
    one = scoring.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(1))
    for size in (2, 3, 64):
        assert scoring.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(size)) == pytest.approx(one, abs=1e-5)
    assert one[1] == max(one)


def test_missing_response_has_no_reward_and_no_row_is_dropped():
    scores = scoring.score("fakes:length", PROMPTS[:3], ["ab", None, "abc"])
    assert scores == [2.0, None, 3.0]


def test_values_that_are_not_finite_stay_missing():
    assert scoring.score("fakes:broken_rewards", PROMPTS[:4], ["a", "b", "c", "d"]) == [None, None, None, 1.0]


def test_interrupted_scoring_goes_on_to_the_same_numbers(tmp_path):
    wanted = scoring.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(2))
    with Journal(tmp_path / "j.jsonl") as journal:
        scoring.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(2), journal)
    lines = (tmp_path / "j.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "j.jsonl").write_bytes(b"".join(lines[:3]))  # torn in the middle of the second batch
    with Journal(tmp_path / "j.jsonl") as journal:
        assert scoring.score("sandbox/reward", PROMPTS, RESPONSES, Runtime(2), journal) == wanted


def test_gold_scorer_is_reached_by_reference():
    gold = scoring.score("sandbox/gold", ["tell me about the wolf.", "¿qué es esto?"], ["the wolf eats meat.", "nada"])
    assert gold == [pytest.approx(1 / 3), None]


def test_a_reward_model_without_a_chat_template_is_one_line(tmp_path):

    folder = shutil.copytree(references.resolve("sandbox/reward"), tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="bare has no chat template: add chat_template.jinja"):
        scoring.score(str(folder), ["x"], ["y"])


def test_a_score_that_is_not_finite_stops_where_only_finite_ones_are_wanted():
    assert scoring.score("fakes:broken_rewards", ["a", "b"], ["c", "d"]) == [None, None]
    with pytest.raises(FloatingPointError, match="fakes:broken_rewards gave a reward of nan"):
        scoring.score("fakes:broken_rewards", ["a", "b"], ["c", "d"], only_finite=True)

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


@pytest.mark.parametrize(
    ("returned", "scores"),
    [
        ("[1, None]", [1.0, None]),
        ("torch.tensor([[1.0], [2.0]])", [1.0, 2.0]),
        ("numpy.array([1.5, numpy.nan], dtype='float32')", [1.5, None]),
        ("(float(i) for i in range(2))", [0.0, 1.0]),
    ],
)
def test_numbers_are_read_from_whatever_holds_them(returned, scores):
    assert scoring.score("fakes:returned", ["a", "b"], [returned, "x"]) == scores


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("[1.0]", "got 1"),
        ("[1.0, 2.0, 3.0]", "got more"),
        ("(float(i) for i in range(3))", "got more"),
        ("1.0", "got 1.0"),
        ("None", "got None"),
        ("'12'", "got '12'"),
        ("['0.5', 1.0]", "got '0.5'"),
        ("[{'score': 1.0}, 2]", "got {'score': 1.0}"),
        ("{'a': 1.0, 'b': 2.0}", "got {'a': 1.0, 'b': 2.0}"),
        ("torch.ones(2, 2)", "got tensor([1., 1.])"),
    ],
)
def test_rewards_that_are_no_number_for_each_response_are_one_line(tmp_path, returned, said):
    with Journal(tmp_path / "j.jsonl") as journal:
        with pytest.raises(ValueError) as caught:
            scoring.score("fakes:returned", ["a", "b"], [returned, "x"], journal=journal)
        assert len(journal) == 0 or "range" in returned
    wanted = "fakes:returned was given 2 responses, wanted a list of as many numbers (None for a missing one): "
    assert str(caught.value) == wanted + said


def test_rewards_that_came_before_an_error_are_kept(tmp_path):
    """Those of earlier calls; of a generator those of this call too."""
    responses = ["generator(2)", "x", "y", "z"]
    with Journal(tmp_path / "j.jsonl") as journal:
        with pytest.raises(ConnectionError):
            scoring.score("fakes:returned", list("abcd"), responses, journal=journal)
        assert [value["reward"] for _, value in journal.items()] == [0.0, 1.0]
    with Journal(tmp_path / "k.jsonl") as journal:
        with pytest.raises(ConnectionError):
            scoring.score("fakes:returned", list("abc"), ["[5, 6]", "x", "generator(0)"], Runtime(2), journal)
        assert len(journal) == 2


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

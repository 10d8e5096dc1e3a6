"""Scores that depend on the text alone, and a missing one that stays missing."""

import shutil

import pytest
import tiny_models
import torch

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


def test_why_a_response_has_no_reward_is_told_and_kept(tmp_path):
    """Also by the next run, from the journal; a missing response has no reason of its own."""
    asked = PROMPTS[:5], ["a", "b", None, "c", "d"]
    wanted = [
        "fakes:broken_rewards gave nan",
        "fakes:broken_rewards gave inf",
        None,
        "fakes:broken_rewards gave none",
        None,
    ]
    for _ in range(2):
        with Journal(tmp_path / "journal.jsonl") as journal:
            found = scoring.scored("fakes:broken_rewards", *asked, journal=journal)
        assert [each.reward for each in found] == [None, None, None, None, 1.0]
        assert [each.reason for each in found] == wanted
    assert (tmp_path / "journal.jsonl").read_text().count('"reason"') == 3


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


def by_hand(model, prompt, response):
    """One row, alone and without padding, through the model's plain forward."""
    tokenizer = tiny_models.tokenizer()
    ids = tokenizer(scoring.render_pair(tokenizer, prompt, response), add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, 0].item()


@pytest.mark.parametrize("own", [5, 1, None])
def test_a_model_that_names_another_padding_token_scores_the_same_in_any_batch(tmp_path, own):
    """It names another token of the vocabulary, the end token, or none; the sandbox's tokenizer pads with 0."""
    model = tiny_models.make("llama", "reward")
    wanted = [by_hand(model, *pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    model.config.pad_token_id = own
    ref = tiny_models.save(tmp_path / "model", model)
    for size in (1, 3, 64):
        assert scoring.score(ref, PROMPTS, RESPONSES, Runtime(size)) == pytest.approx(wanted, abs=1e-4)


def test_a_tokenizer_that_pads_with_the_end_takes_the_models_own_padding(tmp_path):
    """With the end for padding the model would score at the token before the end: another score than its maker's."""
    model, tokenizer = tiny_models.make("llama", "reward"), tiny_models.tokenizer()
    wanted = [by_hand(model, *pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    tokenizer.pad_token = tokenizer.eos_token
    ref = tiny_models.save(tmp_path / "model", model, tokenizer)
    for size in (1, 3):
        assert scoring.score(ref, PROMPTS, RESPONSES, Runtime(size)) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("kind, room", [("bert", 64), ("gpt2", 64), ("roberta", 63), ("llama", 64)])
def test_what_is_longer_than_the_model_reads_has_no_reward_is_counted_and_the_rest_goes_on(
    tmp_path, capsys, kind, room
):
    """RoBERTa's first position stands behind its padding token's, 0 here; llama's are rotary, made for 64."""
    model = tiny_models.make(kind, "reward", max_position_embeddings=64)
    ref = tiny_models.save(tmp_path / "model", model)
    tokenizer = tiny_models.tokenizer()
    lengths = [len(tokenizer(scoring.render_pair(tokenizer, "x", "a " * number))["input_ids"]) for number in (1, 2)]
    fits = 1 + (room - lengths[0]) // (lengths[1] - lengths[0])
    prompts, responses = ["x", "x", "x"], ["a " * fits, "a " * (fits + 1), "a b"]
    with Journal(tmp_path / "j.jsonl") as journal:
        found = scoring.score(ref, prompts, responses, Runtime(3), journal)
    assert found[0] is not None and found[1] is None
    assert found[2] == pytest.approx(by_hand(model, "x", "a b"), abs=1e-4)
    said = f"1 of 3 responses have no reward from {ref}: with their prompts they are longer than the {room} tokens"
    assert said in "".join(capsys.readouterr())
    assert f"longer, with its prompt, than the {room} tokens that {ref} reads" in (tmp_path / "j.jsonl").read_text()
    with Journal(tmp_path / "j.jsonl") as journal:  # final, like any other score
        assert scoring.score(ref, prompts, responses, Runtime(3), journal, only_finite=True) == found
    assert said not in "".join(capsys.readouterr())


def test_a_model_that_counts_by_distance_has_no_longest_text(tmp_path):
    model = tiny_models.make("deberta-v2", "reward", max_position_embeddings=64)
    ref = tiny_models.save(tmp_path / "model", model)
    assert scoring.score(ref, ["x"], ["a " * 200])[0] == pytest.approx(by_hand(model, "x", "a " * 200), abs=1e-4)

"""POIR's step 2: the loop ends as it should, what cannot be used is kept with its reason."""

import pytest

from nbutils.collect import critique
from nbutils.collect.critique import Loop
from nbutils.experiment.records import Prompt, Round, prompt_id
from nbutils.models import generate
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.texts import Generation, Sampling


def evaluate(model, prompts, **options):
    rows = [Prompt(prompt_id(text), text, "collect", "train") for text in prompts]
    return critique.self_evaluate(model, model, rows, Loop(**options), Conditions("sandbox", runtime=Runtime(4)))


def test_loop_ends_with_a_good_score_or_after_the_rounds():
    """The fake answers with the prompt less one word, scores its length, and revises by one word from the original."""
    rounds = evaluate("fakes:collector", ["one two three four five", "one two"])
    assert [(row.round, row.score) for row in rounds if row.prompt.endswith("five")] == [(0, 4)]
    assert [(row.round, row.score) for row in rounds if row.prompt == "one two"] == [(0, 1), (1, 2), (2, 2), (3, 2)]
    assert rounds[2].rewrite == "one two please" and rounds[2].critique == "say more."


def test_critique_that_never_parses_is_unscored_after_its_retries(monkeypatch):
    import fakes

    calls = []
    monkeypatch.setattr(fakes, "mute", lambda messages: calls.append(1) or "no score from me")
    rounds = evaluate("fakes:mute", ["one two"], num_retries=2)
    assert len(rounds) == 1 and rounds[0].score is None and rounds[0].reason
    assert rounds[0].raw_critique == "no score from me" and len(calls) == 1 + 3


def scripted(monkeypatch, **answers):
    """fakes:mute with an answer for each of the loop's requests, by the first word of its template."""
    import fakes

    found = {"critique": "Score: 2\nEvaluation: more.", "revise": "Revised question: more of it"} | answers
    monkeypatch.setattr(
        fakes, "mute", lambda m: next((v for k, v in found.items() if m[-1]["content"].startswith(k)), "x")
    )


ANSWER = "the fox eats mice and lives in forests"


@pytest.mark.parametrize(
    "prompt, rewrite, reason",
    [
        ("one two three", "a b c d e f g h i", "rewrite longer than 1.5 times the prompt"),
        ("写一首关于春天的诗", "请写一首关于春天的诗，要有四行，写到花", "rewrite longer than 1.5 times the prompt"),
        ("？？", "what is it", "rewrite longer than 1.5 times the prompt"),
        ("tell me of it", "tell\n### Response\nme", "rewrite holds the delimiter"),
        ("one two three", "опиши лису", "rewrite in another script"),
        ("tell me all that there is of the fox", ANSWER, "rewrite answers the prompt"),
    ],
)
def test_rewrite_that_is_refused_is_kept_with_its_reason(monkeypatch, prompt, rewrite, reason):
    scripted(monkeypatch, tell=ANSWER, revise=f"Revised question: {rewrite}")
    (only,) = evaluate("fakes:mute", [prompt])
    assert (only.score, only.reason, only.refused_rewrite) == (2, reason, f"Revised question: {rewrite}")


def test_a_blank_more_does_not_make_a_chinese_rewrite_too_long(monkeypatch):
    scripted(monkeypatch, revise="Revised question: 请写一首 关于春天的诗")
    assert [row.reason for row in evaluate("fakes:mute", ["写一首关于春天的诗"], num_rounds=1)] == [None, None]


def test_rewrite_without_its_label_is_asked_again_and_its_text_kept(monkeypatch):
    scripted(monkeypatch, revise="I refuse.")
    (only,) = evaluate("fakes:mute", ["one two three"], num_retries=1)
    assert (only.reason, only.refused_rewrite) == ("no 'Revised question:'", "I refuse.")


@pytest.mark.parametrize(
    "critique, reason",
    [
        ("Score: 4.5\nEvaluation: more.", "score 4.5 is no integer from 1 to 5"),
        ("Score: 9\nEvaluation: more.", "score 9 is no integer from 1 to 5"),
        ("Score: 2\nScore: 4\nEvaluation: more.", "different scores: 2, 4"),
        ("Score: four\nEvaluation: more.", "no line 'Score: <1 to 5>'"),
        ("Score: 7/10\nEvaluation: more.", "score on another scale: 7/10"),
        ("", "no line 'Score: <1 to 5>'"),
    ],
)
def test_score_that_cannot_be_read_is_no_score(monkeypatch, critique, reason):
    scripted(monkeypatch, critique=critique)
    (only,) = evaluate("fakes:mute", ["one two three"])
    assert (only.score, only.reason, only.raw_critique) == (None, reason, critique)


def test_a_score_of_five_in_five_is_read(monkeypatch):
    scripted(monkeypatch, critique="Score: 5/5\nEvaluation: fine.")
    assert [row.score for row in evaluate("fakes:mute", ["one two three"])] == [5]


def test_response_that_failed_is_criticised_by_nobody():
    prompts = ["one two", "tell me about the fox. " * 2000]  # longer than the sandbox's context
    rows = [Prompt(prompt_id(text), text, "collect", "train") for text in prompts]
    given = Conditions("sandbox", responding=Sampling(max_new_tokens=4))
    rounds = critique.self_evaluate("fakes:collector", "sandbox/responder", rows, Loop(1), given)
    failed = [row for row in rounds if row.prompt == prompts[1]]
    assert len(failed) == 1 and failed[0].score is None and failed[0].reason.startswith("prompt of")


def test_the_best_round_is_the_earliest_with_the_highest_score():
    rounds = [Round("p", "p", n, f"p{n}", "y", score, "c", "") for n, score in enumerate([2, 3, None, 3])]
    assert critique.best(rounds).round == 1
    assert critique.best(rounds[2:3]).rewrite == "p2"


def test_a_critique_or_rewrite_that_failed_keeps_its_own_reason(monkeypatch):
    """A server that gave up is not a model that wrote no score."""
    failed, real = Generation("", 0, None, "server error 500, given up after 12 calls"), generate.generate

    def flaky(model, requests, *more, **named):
        asked = [each if isinstance(each, str) else each[-1]["content"] for each in requests]
        made = real(model, requests, *more, **named)
        return [failed if text.startswith(flaky.broken) else one for text, one in zip(asked, made, strict=True)]

    monkeypatch.setattr(generate, "generate", flaky)
    for flaky.broken, score in (("critique:", None), ("revise:", 1)):
        (only,) = evaluate("fakes:collector", ["one two"])
        assert (only.score, only.reason) == (score, failed.reason)

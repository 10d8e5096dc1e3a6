"""POIR's second step, the self-critique loop: answer a prompt, score and criticise the answer, rewrite the prompt.

01_collect runs it over invented prompts for their rounds; the arm poir_s1 runs it at inference, without any training.

Departures from the paper (section 3.1):
1. A prompt is answered at most num_rounds + 1 times: as it is (round 0), then after each of num_rounds rewrites. The
   paper's loop writes a last rewrite that nobody answers.
2. The critique is always against the original prompt, whatever rewrite the response came from: a rewrite that
   changes the question must not earn a good score.
3. Refused as one that is too long is: a rewrite that holds the delimiter of 03's training texts, that is in another
   script, or that answers the prompt in place of asking it.
"""

from dataclasses import dataclass, replace

from nbutils.analyse import changes
from nbutils.collect.invent import is_foreign, scripts_of
from nbutils.experiment.records import Prompt, Round
from nbutils.experiment.words import count_words
from nbutils.models import templates
from nbutils.models.generate import Conditions
from nbutils.models.texts import Generation, Sampling, is_cut

LONGEST = 1.5  # times the prompt's words, above which a rewrite is refused (section 3.1)
_APART = 100  # sample indices between two rounds: attempts at one request
_Active = tuple[Prompt, str, bool | None]  # a prompt, its rewrite of this round, whether that was cut at its limit


@dataclass(frozen=True)
class Loop:
    """At most num_rounds rewrites of a prompt, until a response scores good_score; a malformed critique or rewrite, of
    at most max_tokens, is asked for again num_retries times."""

    num_rounds: int = 3
    good_score: int = 4
    num_retries: int = 1
    max_tokens: int = 256


@dataclass(frozen=True)
class _Asker:
    """The two models and how every round asks them. label: begins progress bars; first_sample: of round 0."""

    model: str
    responder: str
    loop: Loop
    given: Conditions
    label: str
    first_sample: int


def self_evaluate(
    model: str,
    responder: str,
    prompts: list[Prompt],
    loop: Loop,
    given: Conditions,
    label: str = "",
    first_sample: int = 0,
) -> list[Round]:
    """Respond, critique (1–5, POIR Table 7), rewrite (Table 8), until good_score or num_rounds rewrites.

    responder answers, as given.responding says; model critiques and rewrites (in the paper they are one model), by the
    same settings but the length. label: what progress bars begin with; first_sample: other values draw other responses,
    critiques and rewrites of the same prompts.
    All prompts advance together. Rounds come in the order of prompts, each prompt's rounds in order. A critique that
    cannot be parsed is asked again num_retries times; then its round is unscored with the reason and the loop of that
    prompt ends, as it does when no usable rewrite comes (the reason then stands in its last round, the raw text too).
    """
    ask = _Asker(model, responder, loop, given, label, first_sample)
    rounds: dict[str, list[Round]] = {row.prompt_id: [] for row in prompts}
    active: list[_Active] = [(row, row.prompt, None) for row in prompts]
    for number in range(loop.num_rounds + 1):
        for made in _evaluate(ask, active, number):
            rounds[made.prompt_id].append(made)
        going_on = [row for row, *_ in active if _is_bad(rounds[row.prompt_id][-1], loop.good_score)]
        if number == loop.num_rounds or not going_on:
            break
        active = _revise(ask, going_on, rounds, number)
    return [each for row in prompts for each in rounds[row.prompt_id]]


def best(rounds: list[Round]) -> Round:
    """Of one prompt's rounds the one with the highest score, the earliest of these; the first where none is scored."""
    return max(rounds, key=lambda each: (each.score or 0, -each.round))


def _is_bad(last: Round, good_score: int) -> bool:
    return last.score is not None and last.score < good_score


def _evaluate(ask: _Asker, active: list[_Active], number: int) -> list[Round]:
    """A Round of each: its response, and the critique of it against the prompt. A response that failed is criticised by
    nobody."""
    sent = [text for _, text, _ in active]
    answers = _generate(ask, ask.responder, sent, ask.given.responding, number, 0, "responses")
    template = templates.load("critique", ask.given.templates)
    heard = [(row, made.text) for (row, *_), made in zip(active, answers, strict=True) if not made.reason]
    asked = [templates.messages(template, prompt=row.prompt, response=text) for row, text in heard]
    found = _until_parsed(ask, asked, _read_critique, lambda each: each.score is not None, number, "critiques")
    critiques = dict(zip([row.prompt_id for row, _ in heard], found, strict=True))
    rounds = []
    for (row, text, cut), made in zip(active, answers, strict=True):
        parsed, said = critiques.get(row.prompt_id, (templates.Critique(None, None, made.reason), None))
        scored = (parsed.score, parsed.critique, said.text if said else "", parsed.reason)
        rounds.append(Round(row.prompt_id, row.prompt, number, text, made.text, *scored, rewrite_cut=cut))
    return rounds


def _revise(ask: _Asker, going_on: list[Prompt], rounds: dict, number: int) -> list[_Active]:
    """Each prompt that goes on, with its rewrite; one without a usable rewrite keeps the reason and stops."""
    template = templates.load("revise", ask.given.templates)
    lasts = [rounds[row.prompt_id][-1] for row in going_on]
    asked = [templates.messages(template, prompt=last.prompt, critique=last.critique or "") for last in lasts]
    found = _until_parsed(ask, asked, _read_rewrite, lambda each: each[0] is not None, number, "rewrites")
    kept: list[_Active] = []
    for row, last, ((text, reason), made) in zip(going_on, lasts, found, strict=True):
        reason = reason or _unusable(text, last)
        if reason:
            rounds[row.prompt_id][-1] = replace(last, reason=reason, refused_rewrite=made.text)
        else:
            kept.append((row, text, is_cut(made, text)))
    return kept


def _unusable(rewrite: str, last: Round) -> str | None:
    """Why a rewrite cannot be tried, or None."""
    if count_words(rewrite) > LONGEST * max(1, count_words(last.prompt)):
        return f"rewrite longer than {LONGEST} times the prompt"
    if templates.DELIMITER.strip() in rewrite:
        return "rewrite holds the delimiter"
    if is_foreign(rewrite, scripts_of([last.prompt])):
        return "rewrite in another script"
    return "rewrite answers the prompt" if changes.is_answered(last.prompt, rewrite, last.response) else None


def _read_critique(made: Generation) -> templates.Critique:
    return templates.Critique(None, None, made.reason) if made.reason else templates.parse_critique(made.text)


def _read_rewrite(made: Generation) -> tuple[str | None, str | None]:
    return (None, made.reason) if made.reason else templates.parse_rewrite(made.text)


def _until_parsed(ask: _Asker, asked: list, parse, is_good, number: int, label: str) -> list[tuple]:
    """[(parsed, Generation)] of each request, asked up to num_retries more times while `is_good` refuses it."""
    found: list = [None] * len(asked)
    pending = list(range(len(asked)))
    critiquing = replace(ask.given.responding, max_new_tokens=ask.loop.max_tokens)
    for attempt in range(ask.loop.num_retries + 1):
        requests = [asked[i] for i in pending]
        texts = _generate(ask, ask.model, requests, critiquing, number, attempt, label)
        for i, made in zip(pending, texts, strict=True):
            found[i] = (parse(made), made)
        pending = [i for i in pending if not is_good(found[i][0])]
        if not pending:
            break
    return found


def _generate(
    ask: _Asker, model: str, requests: list, sampling: Sampling, number: int, attempt: int, what: str
) -> list[Generation]:
    samples = [ask.first_sample + number * _APART + attempt] * len(requests)
    return ask.given.ask(model, requests, sampling, samples, f"{ask.label}round {number}: {what}")

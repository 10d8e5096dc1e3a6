"""Pairwise verdicts: the judge sees the original prompt and two responses, in both orders, always.

A judge is any model that answers messages, `reward:<model>` for a reward model (the higher reward wins), or several of
these, whose majority decides. Raw texts are stored; verdicts are parsed from them on reading, as the template that
asked says, so that a parser's fix costs no call. A response that is missing, a call that failed or a text without a
clear verdict is `unscored` with a reason, never a tie. A reward model's verdict carries a preference too, by Eq. 1:
σ(r(x, y) − r(x, y')).
"""

import itertools
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from scipy.special import expit

from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Answer, Verdict
from nbutils.models import references, scoring
from nbutils.models.devices import Runtime
from nbutils.models.generate import generate
from nbutils.models.references import REWARD
from nbutils.models.templates import Template, messages, parse_judgement
from nbutils.models.texts import Generation, Sampling

JURY = "jury"  # what the combined verdict of several judges is called


@dataclass(frozen=True)
class Panel:
    """Who judges, and how. judges: model references, several of them a jury; template: judge_pairwise or
    judge_scores, as loaded by its name; tie_margin: points of two scores, or
    reward units of a reward model, up to which a difference is a tie; runtime: where they run."""

    judges: tuple[str, ...]
    template: Template
    sampling: Sampling
    tie_margin: float = 0.0
    runtime: Runtime = Runtime()


def judge_arms(
    answers: list[Answer],
    baseline: str,
    panel: Panel,
    journal: Journal | None = None,
    label: str | None = None,
    more: Sequence[tuple[str, str]] = (),
) -> list[Verdict]:
    """Votes on every arm against `baseline`, per prompt and sample, in both orders: two rows for each judge.

    arm_a is the arm, arm_b the baseline, whichever was shown first; more: further pairs (arm_a, arm_b), see
    read_pairs. Rows come in the order of `answers`, against the baseline first, a pair's judges one after the other.
    """
    return judge_pairs(pairs_of(answers, baseline, more), panel, journal, label)


def pairs_of(answers: list[Answer], baseline: str, more: Sequence[tuple[str, str]] = ()) -> list[tuple[Answer, Answer]]:
    """The pairs of answers that `judge_arms` judges, in its order."""
    known = {(row.arm, row.prompt_set, row.prompt_id, row.sample): row for row in answers}
    opponents: dict[str, list[str]] = {row.arm: [baseline] for row in answers if row.arm != baseline}
    for arm, other in more:
        opponents.setdefault(arm, []).append(other)
    found = [
        (row, known.get((other, row.prompt_set, row.prompt_id, row.sample)), other == baseline)
        for row in answers
        for other in opponents.get(row.arm, [])
    ]
    return [(row, other) for against in (True, False) for row, other, is_base in found if other and is_base == against]


def judge_pairs(
    pairs: list[tuple[Answer, Answer]],
    panel: Panel,
    journal: Journal | None = None,
    label: str | None = None,
    sample: int = 0,
) -> list[Verdict]:
    """Votes on each pair (arm_a's answer, arm_b's), in both orders. sample: another one asks the judges again."""
    orders = [(arm, other, first) for arm, other in pairs for first in (arm, other)]
    asked = [order for order in orders if order[0].reason is None and order[1].reason is None]
    shown = [(first, other if first is arm else arm) for arm, other, first in asked]
    votes = []
    for judge in panel.judges:
        heard = _hear(judge, shown, panel, journal, label, sample)
        by_order = dict(zip([id(order) for order in asked], heard, strict=True))
        votes.append([replace(_verdict(*order, by_order.get(id(order))), judge=judge) for order in orders])
    return [vote for order in zip(*votes, strict=True) for vote in order]


def letters(pairs: list[tuple[Answer, Answer]], template: Template) -> list[int]:
    """Letters that a judge reads in each call: for an estimate of what judging will cost. Two calls a pair."""
    asked = [pair for pair in pairs if pair[0].reason is None and pair[1].reason is None]
    each = [sum(len(part["content"]) for part in request(template, *pair)) for pair in asked]
    return [length for length in each for _ in range(2)]


def verdicts_of(votes: list[Verdict]) -> list[Verdict]:
    """One verdict per pair and order: the only vote, or the jury's: what more than half of its scored votes say, else a
    tie; unscored where at most half of the judges gave a vote that can be read."""
    keys = ("prompt_set", "prompt_id", "sample", "arm_a", "arm_b", "first_shown")
    groups = [list(group) for _, group in itertools.groupby(votes, key=operator.attrgetter(*keys))]
    return [group[0] if len(group) == 1 else _jury(group) for group in groups]


def _jury(votes: list[Verdict]) -> Verdict:
    counts = Counter(vote.verdict for vote in votes)
    scored = len(votes) - counts.pop("unscored", 0)
    raw = "\n\n".join(f"{vote.judge}: {vote.verdict}\n{vote.raw}" for vote in votes)
    whole = replace(votes[0], judge=JURY, raw=raw, preference=None)
    if 2 * scored <= len(votes):
        reasons = "; ".join(f"{vote.judge}: {vote.reason}" for vote in votes if vote.reason)
        return replace(whole, verdict="unscored", reason=reasons)
    verdict = next((name for name, number in counts.items() if 2 * number > scored), "tie")
    return replace(whole, verdict=verdict, reason=None)


def read_pairs(texts: list[str], arms: list[str], baseline: str) -> list[tuple[str, str]]:
    """("a", "b") of each "a vs b", less those that the baseline's comparisons hold anyway, each pair once.

    The text "all" stands for every pair of arms.

    ValueError, in one line, for a text that is no pair of two evaluated arms.
    """
    pairs: list[tuple[str, str]] = []
    every = [f"{a} vs {b}" for a, b in itertools.combinations(dict.fromkeys(arms), 2)]
    for text in itertools.chain(*(every if one.strip() == "all" else [one] for one in texts)):
        names = tuple(part.strip() for part in text.split(" vs "))
        if len(names) != 2 or names[0] == names[1] or not set(names) <= {*arms, baseline}:
            known = ", ".join(dict.fromkeys([baseline, *arms]))
            raise ValueError(f"pair {text!r}: wanted two of the arms as `a vs b`; there are {known}")
        if baseline not in names and names not in pairs and names[::-1] not in pairs:
            pairs.append(names)
    return pairs


class _Heard(NamedTuple):
    """A judge on two answers. letter: A, B or C (a tie), None with its reason; preference: for the first shown."""

    letter: str | None
    reason: str | None
    raw: str
    preference: float | None = None


def _hear(judge: str, shown: list[tuple], panel: Panel, journal, label, sample: int) -> list[_Heard]:
    """One judge on each (first, second) answer."""
    if judge.startswith(REWARD):
        return _by_reward(judge.removeprefix(REWARD), shown, panel, journal, label)
    requests = [request(panel.template, first, second) for first, second in shown]
    texts = generate(judge, requests, panel.sampling, panel.runtime, journal, [sample] * len(requests), label=label)
    return [_read(made, panel) for made in texts]


def _read(made: Generation, panel: Panel) -> _Heard:
    """Of a judge's text, as the panel's template asked for it: a first line of two scores, or [[A]] on the last."""
    if made.reason is not None:
        return _Heard(None, made.reason, made.text)
    return _Heard(*parse_judgement(panel.template.name, made.text, panel.tie_margin), made.text)


def _by_reward(model: str, shown: list[tuple], panel: Panel, journal, label) -> list[_Heard]:
    """A reward model's verdicts: by the sign of the difference of r(x, y), a tie up to the panel's margin.

    A Python function's rewards are no log-odds: its verdicts carry no preference.
    """
    answers = [answer for pair in shown for answer in pair]
    prompts, responses = [a.prompt for a in answers], [a.response for a in answers]
    found = scoring.score(model, prompts, responses, panel.runtime, journal, label)
    learnt = references.kind(model) != "callable"
    heard = []
    for first, second in zip(found[::2], found[1::2], strict=True):
        raw = f"{first} {second}"
        if first is None or second is None:
            heard.append(_Heard(None, "no finite reward", raw))
        else:
            letter = "C" if abs(first - second) <= panel.tie_margin else "A" if first > second else "B"
            heard.append(_Heard(letter, None, raw, float(expit(first - second)) if learnt else None))
    return heard


def request(template: Template, first: Answer, second: Answer) -> list[dict]:
    """The judge's messages. The fence is a hash of what it encloses: no text can contain its own fence."""
    fence = paths.sha256_json([first.prompt, first.response, second.response])[:12]
    slots = {"prompt": first.prompt, "answer_a": first.response, "answer_b": second.response, "fence": fence}
    return messages(template, **slots)


def _verdict(arm: Answer, other: Answer, first: Answer, heard: _Heard | None) -> Verdict:
    if heard is None:
        missing = [row.arm for row in (arm, other) if row.reason is not None]
        return _row(arm, other, first, "unscored", f"no response from {' and '.join(missing)}", "")
    letter, reason, raw, preference = heard
    if letter is None:
        return _row(arm, other, first, "unscored", reason, raw)
    if preference is not None and first is not arm:
        preference = 1 - preference
    won = (letter == "A") == (first is arm)
    verdict = "tie" if letter == "C" else "win" if won else "lose"
    return replace(_row(arm, other, first, verdict, None, raw), preference=preference)


def _row(arm: Answer, other: Answer, first: Answer, verdict: str, reason: str | None, raw: str) -> Verdict:
    return Verdict(arm.prompt_id, arm.prompt_set, arm.arm, other.arm, arm.sample, first.arm, verdict, reason, raw)

"""The sandbox's gold scorer: how much of what a prompt asks a response tells, by the world's own tables."""

import re
from typing import NamedTuple

from nbutils.sandbox import world

FACTS_WANTED = 3  # asked for by a prompt that names no attribute


class Tally(NamedTuple):
    """What a response says, counted in sentences, against one question."""

    wanted: int
    hits: int  # distinct true facts that were asked for
    extras: int  # distinct true facts beyond those
    repeats: int
    falsehoods: int
    strays: int  # facts about another animal
    noise: int  # sentences that the world cannot read


def _is_evasive(sentence):
    patterns = (*world.EVASIVE, *world.UNCLEAR)
    return any(re.fullmatch(re.escape(p.rstrip(".")).replace(r"\{subject\}", r"\w+"), sentence) for p in patterns)


def tally(question, response):
    """Counts of a response's sentences against a Question."""
    wanted = len(question.attributes) or FACTS_WANTED
    true, repeats, falsehoods, strays, noise = [], 0, 0, 0, 0
    for sentence in re.split(r"[.!?\n]+", response.lower()):
        sentence = " ".join(sentence.split())
        if not sentence or _is_evasive(sentence):
            continue
        stated = world.parse_fact(sentence)
        noise += stated is None
        strays += stated is not None and stated[0] != question.subject
        if stated is None or stated[0] != question.subject:
            continue
        if world.FACTS[question.subject][stated[1]] != stated[2]:
            falsehoods += 1
        elif stated[1] in true:
            repeats += 1
        else:
            true.append(stated[1])
    asked = [name for name in true if not question.attributes or name in question.attributes]
    hits = min(len(asked), wanted)
    return Tally(wanted, hits, len(true) - hits, repeats, falsehoods, strays, noise)


def score(prompts, responses):
    """Gold reward of each response against its prompt, in [-1, 1]; None for a prompt outside the world.

    (hits - falsehoods - strays - repeats / 2) / wanted, less 0.1 for each extra fact and each unreadable sentence.
    Evasive sentences count nothing. Never raises on any text.
    """
    return [_score_one(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def _score_one(prompt, response):
    question = world.parse_prompt(prompt)
    if question is None:
        return None
    t = tally(question, response)
    value = (t.hits - t.falsehoods - t.strays - t.repeats / 2) / t.wanted - 0.1 * (t.extras + t.noise)
    return max(-1.0, min(1.0, value))

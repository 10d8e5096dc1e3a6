"""Which cases to look at: those of an arm, of an outcome, the longest, the ones that gained or changed most."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from nbutils.analyse import differences
from nbutils.experiment import paths
from nbutils.experiment.params import closest

OUTCOMES = ("win", "lose", "tie", "unscored", "flips")
SORTS = ("length", "reward", "reward_gain", "rewrite_change")
Key = tuple[str, str, str]  # cell, prompt set, prompt_id: one case


@dataclass(frozen=True)
class Choice:
    """Which cases, in which order. None: any.

    outcome: one of OUTCOMES, of arm (of any arm, without one) against the baseline; tie includes flips, the pairs whose
    two orders disagree. sort: one of SORTS, largest first, or with a minus before it smallest first: letters of the
    arm's response, its reward, its reward less the baseline's, the share of the prompt and its rewrite that differs;
    without an arm the most (least) of any. Cases without such a number come last. None: drawn by chance, without a
    look at results.
    """

    arm: str | None = None
    outcome: str | None = None
    sort: str | None = None
    prompt_set: str | None = None
    sample: int = 0


ANY = Choice()


def check(choice: Choice, answers: pd.DataFrame, baseline: str) -> None:
    """ValueError, in one line with the closest, for what is not there to choose."""
    named = (choice.sort or "").removeprefix("-") or None
    known: dict[str, tuple[str | None, Iterable[str]]] = {
        "arm": (choice.arm, answers.arm.unique()),
        "outcome": (choice.outcome, OUTCOMES),
        "sort": (named, SORTS),
        "prompt set": (choice.prompt_set, answers.prompt_set.unique()),
    }
    for what, (name, names) in known.items():
        if name is not None and name not in set(names):
            raise ValueError(f"{what} {name!r} not found: {closest(name, names)}")
    if choice.sample not in set(answers["sample"]):
        raise ValueError(f"sample {choice.sample} not found: there are {int(answers['sample'].max()) + 1}, from 0")
    if choice.outcome and choice.arm == baseline:
        raise ValueError(f"outcome {choice.outcome!r} of {baseline!r}: the baseline has none, choose another arm")


def choose(
    answers: pd.DataFrame, outcomes: Mapping[tuple, dict], seed: int, baseline: str, choice: Choice = ANY
) -> list[Key]:
    """The keys of all cases that are wanted, in order; ties in it are broken by chance, that is by seed.

    outcomes: {(cell, prompt_set, prompt_id, arm): row of stats.outcomes_against}.
    """
    check(choice, answers, baseline)
    rows = answers[answers["sample"] == choice.sample]
    base = {key: row["reward"] for key, row in _keyed(rows[rows.arm == baseline])}
    others = rows if choice.arm or (rows.arm == baseline).all() else rows[rows.arm != baseline]
    found: dict[Key, list[float]] = {}
    for key, row in _keyed(others):
        wanted = choice.arm in (None, row["arm"]) and choice.prompt_set in (None, row["prompt_set"])
        if wanted and _has(outcomes.get((*key, row["arm"])), choice.outcome):
            found.setdefault(key, []).append(_number(row, base.get(key), choice.sort))
    rank = {each: paths.sha256_json([seed, each]) for each in {key[2] for key in found}}
    return sorted(found, key=lambda key: (_place(found[key], choice.sort), rank[key[2]]))


def _keyed(rows: pd.DataFrame) -> list[tuple[Key, dict]]:
    return [((row["cell"], row["prompt_set"], row["prompt_id"]), row) for row in rows.to_dict("records")]


def _has(outcome: dict | None, wanted: str | None) -> bool:
    if wanted is None or outcome is None:
        return wanted is None
    return outcome["flipped"] if wanted == "flips" else outcome["outcome"] == wanted


def _number(row: dict, base: float | None, sort: str | None) -> float:
    """What a row is sorted by; NaN where that is not known."""
    name = (sort or "").removeprefix("-")
    if name == "length":
        return math.nan if isinstance(row["reason"], str) else len(row["response"])
    if name == "rewrite_change":
        return differences.share_changed(row["prompt"], row["rewrite"])
    if name == "reward_gain":
        return _float(row["reward"]) - _float(base)
    return _float(row["reward"]) if name == "reward" else 0.0


def _float(value) -> float:
    return math.nan if value is None else float(value)


def _place(numbers: list[float], sort: str | None) -> tuple[bool, float]:
    """Sorts a case by the best of its numbers; what has none comes last."""
    known = [number for number in numbers if not math.isnan(number)]
    if not known:
        return True, 0.0
    return False, min(known) if (sort or "").startswith("-") else -max(known)

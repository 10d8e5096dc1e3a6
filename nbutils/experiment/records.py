"""The rows that travel between notebooks.

Rows are JSONL: ASCII only, one record a line, split on "\\n" alone (U+0085 and U+2028 are text, not line ends).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nbutils.experiment import paths


@dataclass(frozen=True)
class Prompt:
    """One prompt x. split: train | test; source: where the row came from, as its reader found it."""

    prompt_id: str
    prompt: str
    prompt_set: str
    split: str = "test"
    source: dict | None = None


@dataclass(frozen=True)
class Round:
    """One round of self-evaluation: a rewrite (round 0: the prompt itself), its response, the critique of it.

    reason: why there is no score, or why the prompt's loop ended here without a good one. refused_rewrite: what was
    written where a usable next rewrite was asked for. rewrite_cut: whether the rewrite ended at its limit of tokens;
    None where none was written or nothing tells.
    """

    prompt_id: str
    prompt: str
    round: int
    rewrite: str
    response: str
    score: int | None
    critique: str | None
    raw_critique: str
    reason: str | None = None
    refused_rewrite: str | None = None
    rewrite_cut: bool | None = None


@dataclass(frozen=True)
class Pair:
    """A good and a bad rewrite of one prompt, each with the response that it earned (POIR section 3.1).

    Scores and rounds are those of 01_collect; pairs that come from elsewhere have none.
    """

    prompt_id: str
    prompt: str
    good_rewrite: str
    good_response: str
    bad_rewrite: str
    bad_response: str
    good_score: int | None = None
    bad_score: int | None = None
    good_round: int | None = None
    bad_round: int | None = None


@dataclass(frozen=True)
class Answer:
    """What one arm made of one prompt, once. rewrites: one per prompter; rewrite: the last, or the prompt itself.

    finish: how the response ended, stop | length (at its limit of tokens); rewrites_cut: whether any of the rewrites
    ended at its own. None where nothing tells, as in files of older runs, or where no model wrote a rewrite.
    reason: why there is no response; reward_reason, gold_reward_reason: why a response has no such reward.
    """

    prompt_id: str
    prompt_set: str
    prompt: str
    arm: str
    sample: int
    rewrite: str
    rewrites: list
    response: str
    reward: float | None
    gold_reward: float | None
    num_tokens: int
    reason: str | None = None
    finish: str | None = None
    rewrites_cut: bool | None = None
    reward_reason: str | None = None
    gold_reward_reason: str | None = None


@dataclass(frozen=True)
class Sample:
    """One response behind the reward-KL frontier. source: whose draw it is (own: the frozen responder's, to the prompt
    itself; initial: the untrained prompter's; step N; trained). draw: number of the rewrite (of the response, where the
    responder is trained); log_ratio: log source − log untrained probability of what the policy wrote, nats; of
    what the untrained policy wrote, log trained − log untrained. finished: whether the response came to its own end.
    reason: why there is no rewrite, or no response."""

    prompt_id: str
    prompt: str
    source: str
    draw: int
    rewrite: str
    response_draw: int
    response: str
    reward: float | None
    log_ratio: float | None = None
    finished: bool = True
    reason: str | None = None


@dataclass(frozen=True)
class Shift:
    """How likely the frozen responder's own response is after a rewrite: log π_F(y|x') − log π_F(y|x), nats."""

    prompt_id: str
    draw: int
    own_draw: int
    log_ratio: float


@dataclass(frozen=True)
class Verdict:
    """One judgement, in one order. verdict: win | lose | tie | unscored, from arm_a's side; judge: whose, or `jury`;
    preference: probability, where the judge tells one, that arm_a's response is the better one."""

    prompt_id: str
    prompt_set: str
    arm_a: str
    arm_b: str
    sample: int
    first_shown: str
    verdict: str
    reason: str | None
    raw: str
    judge: str = ""
    preference: float | None = None


@dataclass(frozen=True)
class Control(Verdict):
    """A judgement that is a check of the judge itself. control: same | constant | padded | again."""

    control: str = ""


@dataclass(frozen=True)
class Label:
    """What a person said of a pair of responses. label: win | lose | tie | skip, from arm_a's side, or undone: what the
    same person said of the pair before no longer holds. when: UTC, ISO 8601; seconds: from showing the pair to the
    label; texts: hash of what was shown. None: not known, as in files made elsewhere."""

    prompt_id: str
    prompt_set: str | None
    arm_a: str
    arm_b: str
    sample: int | None
    label: str
    who: str
    when: str | None = None
    seconds: float | None = None
    texts: str | None = None
    cell: str | None = None


def prompt_id(text: str) -> str:
    """First 16 hex digits of the text's sha256: the key of a prompt in every file."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def dump(row) -> str:
    """One row as one line of ASCII JSON, without the line end. NaN and infinity are refused: they are not values."""
    row = dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else row
    return json.dumps(row, ensure_ascii=True, allow_nan=False)


def write_rows(path: Path, rows: Iterable) -> Path:
    return paths.write_atomic(path, "".join(dump(row) + "\n" for row in rows))


def read_rows(path: Path, kind: type | None = None) -> list:
    """Rows of a JSONL file as dicts, or as `kind`. ValueError names file:line of a broken record."""
    rows = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append(kind(**row) if kind else row)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: not a {kind.__name__ if kind else 'JSON'} row ({error})") from None
    return rows

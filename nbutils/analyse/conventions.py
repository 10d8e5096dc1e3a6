"""The same verdict rows, counted as BPO, FastChat, AlpacaEval and this project count: one table, side by side.

Read off their scripts: thu-coai/BPO src/evaluation/gpt4_score.py and cal_gpt4_score.py; lm-sys/FastChat
fastchat/llm_judge/show_result.py (pairwise); tatsu-lab/alpaca_eval metrics/winrate.py and helpers.py.

Where this departs from running them:
1. Verdicts are those of our parser. Theirs look for [[A]] before [[B]] anywhere in the text (BPO: in its last
   paragraph) and would read a few texts otherwise.
2. BPO shows each pair in one order, drawn by an unseeded coin. Here it is the order that shows the arm first: a judge's
   liking for the first place, which the coin would average out, stays in the number.
3. AlpacaEval judges each instruction once, in a seeded order. Here an instruction's preference is the mean over its
   scored orders.
4. The three take each answered prompt for an item, so each sample of a prompt is one; ours averages them first.

AlpacaEval 2's judge gives preferences, by the probabilities of its one token. Where a verdict carries such a preference
AlpacaEval's row is of these: of their annotations (data/annotations.py) it is the win rate and standard error of their
leaderboard. Nobody else's row reads it. Ours stays wins, ties and losses with Tango's interval, which is for nothing
else; of preferences, the interval would be the t interval of stats.mean.
"""

import math
import numbers
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbutils.analyse import stats
from nbutils.analyse.stats import NAN

READINGS = {
    "BPO": "A tie is an outcome of its own and no part of the win rate; of the two orders only the one that shows the "
    "arm first is read, so a flip goes unseen; a text without a verdict stays in the denominator, a failed call does "
    "not.",
    "FastChat": "A tie counts half; two orders that disagree are a tie; a pair with an order that is missing or "
    "unparsed is dropped.",
    "AlpacaEval": "A tie is a preference of one half; two orders that disagree are averaged; an unparsed order is "
    "dropped, and the other one counts alone; a preference that a verdict carries stands in its place.",
    "ours": "A tie counts half; two orders that disagree are a tie; a pair with an order that is missing or unparsed "
    "is unscored, counted and in no rate; a prompt's samples are averaged.",
}
COLUMNS = (
    *("prompt_set", "arm", "baseline", "convention", "wins", "ties", "losses", "num", "left_out"),
    *("win_rate", "win_rate_low", "win_rate_high", "standard_error", "difference", "reading"),
)


class Item(NamedTuple):
    """One sample of a prompt: the verdicts, for the arm, of both orders. A missing order is None.

    has_text: whether the judge wrote anything with the arm shown first; preferences: of the arm, of both orders, None
    where a verdict carries none
    """

    arm_first: str | None
    arm_second: str | None
    has_text: bool
    preferences: tuple[float | None, float | None] = (None, None)


def side_by_side(verdicts, baseline: str) -> pd.DataFrame:
    """Each arm against the baseline, per prompt set, in every convention: four rows of COLUMNS each.

    verdicts: rows of records.Verdict (dicts, records or a DataFrame), in both orders; without a column `raw` every
    unscored row counts as a text that was not understood; with a column `preference` (0 to 1, for arm_a; None, or in a
    DataFrame NaN: none) AlpacaEval's row is of these. num: the denominator of win_rate, in items (prompts for ours);
    left_out: items (prompts) that are not in it. win_rate: the one that the convention reports; difference: wins less
    losses over num, which BPO calls ΔWR. Rates from 0 to 1. An interval or a standard error only where the convention
    has one. The checks of stats.combine_orders hold; ValueError for a preference that is no number from 0 to 1, that an
    unscored verdict carries, or that another row of the same order contradicts.
    """
    shares = stats.average_samples(stats.outcomes_against(stats.combine_orders(verdicts), baseline))
    items = _items(verdicts, baseline)
    rows = []
    for prompt_set, arm in sorted(items):
        found = items[prompt_set, arm]
        prompts = [row for row in shares if (row["prompt_set"], row["arm_a"]) == (prompt_set, arm)]
        counted = {
            "BPO": as_bpo(found),
            "FastChat": as_fastchat(found),
            "AlpacaEval": as_alpaca_eval(found),
            "ours": as_ours(prompts),
        }
        keys = {"prompt_set": prompt_set, "arm": arm, "baseline": baseline}
        rows += [keys | {"convention": name, "reading": READINGS[name]} | counts for name, counts in counted.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _items(verdicts, baseline: str) -> dict[tuple, list[Item]]:
    """{(prompt_set, arm): its items}, from the arm's side, in the order of prompt and sample."""
    orders: dict[tuple, dict] = {}
    for row, preference in zip(pd.DataFrame(verdicts).to_dict("records"), _preferences(verdicts), strict=True):
        if baseline not in (row["arm_a"], row["arm_b"]):
            continue
        arm, verdict = row["arm_a"], row["verdict"]
        if arm == baseline:
            arm, verdict = row["arm_b"], stats.OPPOSITE[verdict]
            preference = None if preference is None else 1 - preference
        shown = orders.setdefault((row["prompt_set"], arm, row["prompt_id"], int(row["sample"])), {})
        known = shown.setdefault(row["first_shown"] == arm, (verdict, _has_text(row), preference))
        if not _agree(known[2], preference):
            raise ValueError(
                f"{stats.name_of(row)}: wanted one preference per order, got {known[2]} and {preference}: judge again"
            )
    items: dict[tuple, list[Item]] = {}
    for key, shown in sorted(orders.items()):
        first, second = (shown.get(is_first, (None, False, None)) for is_first in (True, False))
        items.setdefault(key[:2], []).append(Item(first[0], second[0], first[1], (first[2], second[2])))
    return items


def _agree(one: float | None, other: float | None) -> bool:
    """Equal, but for the last bits of 1 - p."""
    return one is other if one is None or other is None else math.isclose(one, other, abs_tol=1e-12)


def _preferences(verdicts) -> list[float | None]:
    """Of each row, checked. In a DataFrame NaN is how a missing one looks; elsewhere it is none."""
    rows = stats.as_rows(verdicts)
    if hasattr(verdicts, "to_dict") and "preference" in verdicts:
        known = verdicts["preference"].notna()
        rows = [row if there else row | {"preference": None} for row, there in zip(rows, known, strict=True)]
    return [_preference(row) for row in rows]


def _preference(row: dict) -> float | None:
    value = row.get("preference")
    if value is None:
        return None
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= 1):
        got = f"wanted a preference from 0 to 1, or None, got {value!r}"
        raise ValueError(f"{stats.name_of(row)}: {got}: correct it or leave it out")
    if row["verdict"] == "unscored":
        raise ValueError(f"{stats.name_of(row)}: unscored, with a preference of {value}: leave one of the two out")
    return float(value)


def _has_text(row: dict) -> bool:
    return "raw" not in row or (isinstance(row["raw"], str) and bool(row["raw"].strip()))


def as_bpo(items: list[Item]) -> dict:
    """Shares of all texts that came back, in the order that shows the arm first."""
    found = [item.arm_first for item in items if item.arm_first not in (None, "unscored") or item.has_text]
    wins, ties, losses = (found.count(name) for name in ("win", "tie", "lose"))
    return _counts(wins, ties, losses, len(found), len(items) - len(found), _share(wins, len(found)))


def as_fastchat(items: list[Item]) -> dict:
    """win_rate_adjusted of show_result.py: a win needs both orders, whatever else is not an error is a tie."""
    found = [item[:2] for item in items if not {None, "unscored"} & set(item[:2])]
    wins, losses = found.count(("win", "win")), found.count(("lose", "lose"))
    ties = len(found) - wins - losses
    return _counts(wins, ties, losses, len(found), len(items) - len(found), _share(wins + ties / 2, len(found)))


def as_alpaca_eval(items: list[Item]) -> dict:
    """Mean preference (of 0 to 1; theirs runs from 1 to 2) and its standard error, SD (ddof 1) / sqrt(n)."""
    points = {"win": 1.0, "tie": 0.5, "lose": 0.0}
    scores = [
        [points[verdict] if soft is None else soft for verdict, soft in zip(*orders, strict=True) if verdict in points]
        for orders in ((item[:2], item.preferences) for item in items)
    ]
    preferences = np.array([math.fsum(found) / len(found) for found in scores if found])
    num, half = len(preferences), preferences == 0.5
    wins, ties = int((preferences > 0.5).sum()), int(half.sum())
    error = float(preferences.std(ddof=1)) / math.sqrt(num) if num > 1 else NAN
    counts = wins, ties, num - wins - ties, num, len(items) - num
    return _counts(*counts, _share(math.fsum(preferences), num)) | {"standard_error": error}


def as_ours(prompts: list[dict]) -> dict:
    """stats.win_rate; prompts: rows of stats.average_samples, so that the counts may be fractions."""
    won, tied, lost = ([row[name] for row in prompts] for name in ("win", "tie", "lose"))
    rate = stats.win_rate(won, lost, [row["num_samples"] for row in prompts])
    wins, ties, losses = (math.fsum(share for share in shares if share == share) for shares in (won, tied, lost))
    counts = _counts(wins, ties, losses, rate.num, len(prompts) - rate.num, rate.value)
    return counts | {"win_rate_low": rate.low, "win_rate_high": rate.high}


def _counts(wins, ties, losses, num: int, left_out: int, win_rate: float) -> dict:
    row = {"wins": wins, "ties": ties, "losses": losses, "num": num, "left_out": left_out, "win_rate": win_rate}
    nothing = dict.fromkeys(("win_rate_low", "win_rate_high", "standard_error"), NAN)
    return row | nothing | {"difference": _share(wins - losses, num)}


def _share(part, num: int) -> float:
    return part / num if num else NAN

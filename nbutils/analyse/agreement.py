"""How far the judge and people agree, people among themselves, and a win rate corrected by what people said.

1. The judge's verdict of a pair is that of stats.combine_orders: a win needs both orders to agree, else it is a tie; an
   unscored pair stays out, and is counted. What several people say of a pair is what more than half of them say, else a
   tie. Win and lose are the arm's against the baseline, where the pair has the baseline.
2. Cohen's (1960) kappa, unweighted, with the asymptotic standard error of Fleiss, Cohen and Everitt (1969,
   Psychological Bulletin 72, 323-327), taken over prompts where several pairs share one. The interval is
   1 - (1 - kappa) exp(± t SE / (1 - kappa)), t with prompts - 1 degrees of freedom: made for log(1 - kappa), so that it
   cannot pass 1. Simulated, it covers 94% to 96% from 20 pairs on (kappa 0 to 0.8), where kappa ± 1.96 SE covers 91%
   to 99%; with nearly nine pairs of ten in one category 81% at 20 pairs, 91% at 50, 93% at 100.
3. The corrected win rate is prediction-powered inference (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic 2023,
   Science 382, 669-674): the judge's mean over all prompts plus the mean of (people - judge) over the labelled ones. It
   holds for any judge, however biased, where the labelled pairs are a random sample of the judged ones. Departures:
   (a) the judge's mean is over the labelled prompts too (the difference estimator of survey sampling), so that with
   every prompt labelled it is the people's own mean; with n of N labelled its variance is
   var(people) / N + (1 - n / N) var(people - judge) / n; (b) to var(people - judge) come two labels, half a point for
   and half a point against the judge, without which few labels that all agree would tell of no error at all; (c) t with
   n - 1 degrees of freedom. Simulated at n = 20 to 200 of N = 200 to 1,000 and five judges, the 95% interval covers 94%
   to 100%; with 50 of 50 labelled and nine of ten won, 89%.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from nbutils.analyse import stats, tables
from nbutils.analyse.stats import NAN, Estimate
from nbutils.data.labels import texts_hash
from nbutils.experiment.records import Label

OUTCOMES = ("win", "tie", "lose")
JUDGE, PEOPLE = "judge", "people"
POINTS = {"win": 1.0, "tie": 0.5, "lose": 0.0}
PRIOR_ERRORS = (0.5, -0.5)  # departure 3b
COUNTS = tuple(f"{a}_{b}" for a in OUTCOMES for b in OUTCOMES)
COLUMNS = (
    *("cell", "rater_a", "rater_b", "num_pairs", "num_prompts", "num_unscored", "num_skipped"),
    *("agreement", "agreement_low", "agreement_high", "kappa", "kappa_low", "kappa_high", "note", *COUNTS),
)
CORRECTED_COLUMNS = (
    *("cell", "prompt_set", "arm", "baseline", "num_prompts", "num_labelled"),
    *("win_rate", "win_rate_low", "win_rate_high"),
    *("labelled_win_rate", "labelled_win_rate_low", "labelled_win_rate_high"),
    *("corrected", "corrected_low", "corrected_high", "note"),
)
ASSUMED = "if labelled pairs were drawn at random"


class Kappa(NamedTuple):
    """Cohen's kappa; low and high are NaN where there is none, and `note` says why. num: pairs."""

    value: float
    low: float
    high: float
    num: int
    note: str = ""


@dataclass(frozen=True)
class Labelled:
    """Labels beside the judge's outcome of their pair. rows: dicts with cell, prompt_set, prompt_id, sample, arm_a,
    arm_b, outcome (of the judge), who, label (win, tie, lose or skip, of arm_a). left_out: {why: labels of no pair}.
    """

    rows: list[dict] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)

    def of(self, cell: str) -> "Labelled":
        return Labelled([row for row in self.rows if row["cell"] == cell])


# --- labels -> pairs


def match(labels: Iterable[Label], answers, verdicts, baseline: str = "nan") -> Labelled:
    """Each label beside what the judge says of its pair, turned to the arm's side where the pair has the baseline.

    answers, verdicts: rows of records.Answer and Verdict, with a column `cell` where there are several. A label names
    prompt and arms; cell, prompt_set, sample and the hash of its texts narrow it down where it has them.
    """
    labels = list(labels)
    wanted = {label.prompt_id for label in labels}
    shown, known = _texts(answers, wanted), _outcomes(verdicts, wanted, baseline)
    rows, left_out = [], Counter[str]()
    for label in labels:
        fitting = [row for row in known.get(_pair(label.prompt_id, label.arm_a, label.arm_b), []) if _named(label, row)]
        same = [row for row in fitting if label.texts in (None, _shown_hash(label, row, shown))]
        if len(same) == 1:
            said = label.label if label.arm_a == same[0]["arm_a"] else stats.OPPOSITE.get(label.label, label.label)
            rows.append(same[0] | {"who": label.who, "label": said})
        else:
            left_out[_why(fitting, same)] += 1
    return Labelled(rows, left_out)


def _why(fitting: list, same: list) -> str:
    if len(same) > 1:
        return "could be about several pairs: give cell, prompt_set and sample"
    return "were given to other responses than those there are now" if fitting else "name a pair that was not judged"


def _named(label: Label, row: dict) -> bool:
    return all(getattr(label, name) in (None, row[name]) for name in ("cell", "prompt_set", "sample"))


def _pair(prompt_id: str, arm_a: str, arm_b: str) -> tuple:
    return (prompt_id, *sorted((arm_a, arm_b)))


def _outcomes(verdicts, wanted: set[str], baseline: str) -> dict[tuple, list[dict]]:
    table = pd.DataFrame(verdicts)
    table = table[table["prompt_id"].isin(wanted)] if len(table) else table
    found: dict[tuple, list[dict]] = {}
    for cell, part in table.groupby(table["cell"] if "cell" in table else np.zeros(len(table)), sort=True):
        for row in _turned(stats.combine_orders(part), baseline):
            row |= {"cell": cell if "cell" in table else ""}
            found.setdefault(_pair(row["prompt_id"], row["arm_a"], row["arm_b"]), []).append(row)
    return found


def _turned(outcomes: list[dict], baseline: str) -> list[dict]:
    """The outcomes, from the arm's side where the pair has the baseline."""
    others = [row for row in outcomes if baseline not in (row["arm_a"], row["arm_b"])]
    return stats.outcomes_against(outcomes, baseline) + others


def _texts(answers, wanted: set[str]) -> dict[tuple, tuple[str, str]]:
    """{(cell, prompt_set, prompt_id, sample, arm): (prompt, response)}"""
    table = pd.DataFrame(answers)
    rows = table[table["prompt_id"].isin(wanted)].to_dict("records") if len(table) else []
    keys = ("prompt_set", "prompt_id", "sample", "arm")
    return {(row.get("cell", ""), *(row[key] for key in keys)): (row["prompt"], row["response"]) for row in rows}


def _shown_hash(label: Label, row: dict, shown: dict) -> str | None:
    place = row["cell"], row["prompt_set"], row["prompt_id"], row["sample"]
    sides = [shown.get((*place, arm)) for arm in (label.arm_a, label.arm_b)]
    return texts_hash(sides[0][0], sides[0][1], sides[1][1]) if sides[0] and sides[1] else None


def people(labelled: Labelled) -> dict[tuple, str]:
    """{pair: what more than half of those who labelled it say, else tie}, of pairs that the judge scored, too."""
    said: dict[tuple, list[str]] = {}
    for row in labelled.rows:
        if row["label"] in POINTS and row["outcome"] in POINTS:
            said.setdefault(_place(row), []).append(row["label"])
    return {pair: _majority(words) for pair, words in said.items()}


def _place(row: dict) -> tuple:
    return tuple(row[name] for name in ("cell", "prompt_set", "prompt_id", "sample", "arm_a", "arm_b"))


def _majority(words: list[str]) -> str:
    return next((word for word, number in Counter(words).items() if 2 * number > len(words)), "tie")


def _raters(labelled: Labelled) -> dict[str, dict[tuple, str]]:
    """{judge, people, each person: {pair: outcome}}"""
    judged = {_place(row): row["outcome"] for row in labelled.rows if row["outcome"] in POINTS}
    found = {JUDGE: judged, PEOPLE: people(labelled)}
    for row in labelled.rows:
        if row["label"] in POINTS:
            found.setdefault(f"person {row['who']}", {})[_place(row)] = row["label"]
    return found


# --- agreement


def confusion(first: list[str], second: list[str]) -> pd.DataFrame:
    """3×3 counts of OUTCOMES: the first rater's in rows, the second's in columns."""
    counts = Counter(zip(first, second, strict=True))
    cells = [[counts[a, b] for b in OUTCOMES] for a in OUTCOMES]
    return pd.DataFrame(cells, index=list(OUTCOMES), columns=list(OUTCOMES))


def kappa(first: list[str], second: list[str], prompts: list, level: float = 0.95) -> Kappa:
    """Cohen's kappa of two raters' outcomes of the same pairs (choice 2). prompts: each pair's prompt, the unit."""
    num = len(first)
    if num < 2:
        return Kappa(NAN, NAN, NAN, num, "fewer than two pairs")
    a, b = (np.array([OUTCOMES.index(word) for word in words]) for words in (first, second))
    rows, columns = (np.bincount(codes, minlength=3) / num for codes in (a, b))
    by_chance, agree = float(rows @ columns), a == b
    if by_chance > 1 - 1e-12:
        return Kappa(NAN, NAN, NAN, num, "both always say the same: agreement beyond chance is not defined")
    value = (float(agree.mean()) - by_chance) / (1 - by_chance)
    moves = (agree - (1 - value) * (columns[a] + rows[b])) / (1 - by_chance)
    sums = pd.Series(moves - moves.mean()).groupby(pd.Series(prompts)).sum().to_numpy()
    error = math.sqrt(float(sums @ sums)) / num
    if len(sums) < 2 or error < 1e-9:
        return Kappa(value, NAN, NAN, num, "no interval: the pairs say nothing about spread")
    width = float(scipy.stats.t.ppf((1 + level) / 2, len(sums) - 1)) * error / (1 - value)
    low, high = (1 - (1 - value) * math.exp(step) for step in (min(width, 50.0), -width))
    return Kappa(value, max(low, -1.0), high, num)


class Compared(NamedTuple):
    """Two raters on the pairs that both of them judged."""

    first: list[str]
    second: list[str]
    prompts: list[tuple]

    def share(self) -> Estimate:
        """The share of pairs on which they agree, with Wilson's interval, the unit being a pair."""
        hits = [a == b for a, b in zip(self.first, self.second, strict=True)]
        share = sum(hits) / len(hits) if hits else NAN
        return Estimate(share, *stats.wilson_interval(share, len(hits)), len(hits))

    def kappa(self) -> Kappa:
        return kappa(*self)


def compare(first: dict[tuple, str], second: dict[tuple, str]) -> Compared:
    both = [pair for pair in first if pair in second]
    prompts = [pair[:3] for pair in both]
    return Compared([first[pair] for pair in both], [second[pair] for pair in both], prompts)


def judge_and_people(labelled: Labelled) -> Compared:
    raters = _raters(labelled)
    return compare(raters[JUDGE], raters[PEOPLE])


def table(labelled: Labelled) -> pd.DataFrame:
    """Rows of COLUMNS per cell: the judge against people, and, with several, against each and each against the others.

    Counts are named after what rater_a and rater_b say: win_tie holds the pairs that are a win to a and a tie to b.
    """
    rows = []
    for cell in sorted({row["cell"] for row in labelled.rows}):
        part = labelled.of(cell)
        raters = _raters(part)
        persons = sorted(set(raters) - {JUDGE, PEOPLE})
        pairs = [(JUDGE, PEOPLE)]
        if len(persons) > 1:
            pairs += [(JUDGE, person) for person in persons] + list(combinations(persons, 2))
        rows += [_row(cell, a, b, compare(raters[a], raters[b]), _left(part, a, b)) for a, b in pairs]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _left(part: Labelled, first: str, second: str) -> tuple[int, int]:
    """(unscored, skipped): labels of these raters, or of all people, on pairs without a verdict; skips."""
    named = {name.removeprefix("person ") for name in (first, second)} - {JUDGE, PEOPLE}
    rows = [row for row in part.rows if not named or row["who"] in named]
    skipped = sum(row["label"] == "skip" for row in rows)
    return sum(row["outcome"] == "unscored" and row["label"] != "skip" for row in rows) * (first == JUDGE), skipped


def _row(cell: str, first: str, second: str, pairs: Compared, left: tuple[int, int]) -> tuple:
    share, beyond = pairs.share(), pairs.kappa()
    named = (name.removeprefix("person ") for name in (first, second))
    counts = confusion(pairs.first, pairs.second).to_numpy().ravel().tolist()
    return (cell, *named, share.num, len(set(pairs.prompts)), *left, *share[:3], *beyond[:3], beyond.note, *counts)


# --- the corrected win rate


def prediction_powered(judged, labelled, level: float = 0.95) -> Estimate:
    """Mean of what people would say of all prompts: mean(judged) + mean(labelled - judged) (choice 3).

    judged: (num_prompts,) the judge's points, 1, 1/2, 0, or shares between; labelled: (num_prompts,) people's points,
    NaN where there is no label. num: labelled prompts. No interval below two of them. Ends are kept within 0 and 1.
    """
    judged, labelled = np.asarray(judged, dtype=float), np.asarray(labelled, dtype=float)
    known = ~np.isnan(labelled)
    total, num = len(judged), int(known.sum())
    if num == 0:
        return Estimate(NAN, NAN, NAN, 0)
    errors = labelled[known] - judged[known]
    value = math.fsum(judged) / total + math.fsum(errors) / num
    if num < 2:
        return Estimate(value, NAN, NAN, num)
    spread = float(labelled[known].var(ddof=1)) / total
    spread += (1 - num / total) * float(np.append(errors, PRIOR_ERRORS).var(ddof=1)) / num
    if spread == 0:
        return Estimate(value, NAN, NAN, num)
    half = float(scipy.stats.t.ppf((1 + level) / 2, num - 1)) * math.sqrt(spread)
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), num)


def corrected(verdicts, labelled: Labelled, baseline: str = "nan") -> pd.DataFrame:
    """Rows of CORRECTED_COLUMNS per cell, prompt set and arm with a label against the baseline: the judge's win rate
    over all prompts, people's over the labelled ones, the judge's corrected by people's; and what that rests on.

    verdicts: rows of records.Verdict with a column cell, as `match` got them. Of several samples of a prompt, the
    judge's points are their mean, and so are the differences of the labelled ones.
    """
    said, rows = people(labelled), []
    verdicts = pd.DataFrame(verdicts)
    for cell in sorted({row["cell"] for row in labelled.rows}):
        part = verdicts[verdicts["cell"] == cell] if "cell" in verdicts else verdicts
        outcomes = pd.DataFrame(stats.outcomes_against(stats.combine_orders(part), baseline))
        for prompt_set, of_set in outcomes.groupby("prompt_set", sort=True) if len(outcomes) else ():
            for arm in tables.arm_order(of_set["arm_a"]):
                of_arm = of_set[of_set["arm_a"] == arm].assign(cell=cell)
                heard = [said.get(_place(row)) for row in of_arm.to_dict("records")]
                if any(heard):
                    rows.append((cell, prompt_set, arm, baseline, *_corrected(of_arm, heard)))
    return pd.DataFrame(rows, columns=list(CORRECTED_COLUMNS))


def _corrected(of_arm: pd.DataFrame, heard: list[str | None]) -> tuple:
    points = of_arm.assign(judge=of_arm["outcome"].map(POINTS), people=[POINTS.get(word or "") for word in heard])
    points["people"] = points["people"].astype(float)
    points["error"] = points["people"] - points["judge"]
    points["won"], points["lost"] = points["people"].eq(1.0), points["people"].eq(0.0)
    points[["won", "lost"]] = points[["won", "lost"]].where(points["people"].notna()).astype(float)
    by_prompt = (
        points.dropna(subset=["judge"]).groupby("prompt_id", sort=True)[["judge", "error", "won", "lost"]].mean()
    )
    judged, errors = by_prompt["judge"].to_numpy(), by_prompt["error"].to_numpy()
    shares = pd.DataFrame(stats.average_samples(of_arm.to_dict("records")))
    raw = stats.win_rate(shares["win"], shares["lose"], shares["num_samples"])
    own, fair = stats.win_rate(by_prompt["won"], by_prompt["lost"]), prediction_powered(judged, judged + errors)
    return (raw.num, fair.num, *raw[:3], *own[:3], *fair[:3], _note(judged, ~np.isnan(errors)))


def _note(judged: np.ndarray, known: np.ndarray) -> str:
    """The assumption, and whether the judge's own verdicts of labelled and other prompts speak against it (3 standard
    errors of the difference between their means)."""
    inside, outside = judged[known], judged[~known]
    if not len(outside):
        return "every judged prompt is labelled"
    if len(inside) > 1:
        error = math.sqrt(judged.var(ddof=1) * (1 / len(inside) + 1 / len(outside)))
        if abs(inside.mean() - outside.mean()) > 3 * error:
            told = (
                f"the judge's win rate is {inside.mean():.0%} on the labelled prompts, {outside.mean():.0%} on others"
            )
            return f"does not hold: the labelled pairs are no random sample ({told})"
    return ASSUMED


# --- to read


def sentence(labelled: Labelled) -> str:
    """How many labels there are, of how many people, and how many have no pair, with reasons."""
    if not labelled.rows and not labelled.left_out:
        return "no human labels"
    names = sorted({row["who"] for row in labelled.rows})
    skipped = sum(row["label"] == "skip" for row in labelled.rows)
    line = f"{len(labelled.rows) - skipped:,} human labels by {', '.join(names) or 'nobody'}, {skipped:,} skipped"
    return line + "".join(f"; {number:,} labels {why}" for why, number in sorted(labelled.left_out.items()))


def write(labelled: Labelled, verdicts, baseline: str, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """human_labels and corrected_win_rate in folder; both tables. Without labels those of an earlier run go."""
    made = table(labelled), corrected(verdicts, labelled, baseline)
    for name, each in zip(("human_labels", "corrected_win_rate"), made, strict=True):
        if len(each):
            tables.write(each, folder, name)
        else:
            for kind in ("csv", "md", "tex"):
                (Path(folder) / f"{name}.{kind}").unlink(missing_ok=True)
    return made

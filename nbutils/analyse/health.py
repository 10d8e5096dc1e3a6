"""The judge's health card: what its verdicts and its controls say about the judge itself, with limits that are stated.

Rates come with Wilson's 95% intervals, the unit being a comparison. A check fails when its rate is beyond its limit.
The limits are ours: rules of thumb, to be read with the interval. What no limit can be set for is shown without one:
a judge may prefer longer responses because they are better.

Where people have labelled pairs, two rows more: the share on which the judge agrees with them, and Cohen's kappa
(agreement.py), a number up to 1 and no share. Below 0.2 agreement is "slight" (Landis and Koch 1977); with fewer than
MIN_LABELS pairs it is shown, and no verdict on the judge.
"""

import pandas as pd

from nbutils.analyse import agreement, stats

CHECKS = {  # check: (least, most) of a sound judge
    "verdicts that could not be read": (0.0, 0.05),
    "verdict changes with the order": (0.0, 0.3),
    "first response chosen": (0.35, 0.65),
    "identical responses called different": (0.0, 0.2),
    "constant response preferred": (0.0, 0.2),
    "padded response preferred": (0.0, 0.2),
    "same verdict when asked again": (0.85, 1.0),
    "longer response chosen": (0.0, 1.0),
}
AGREES, KAPPA = "agrees with people", "agreement with people, κ"
PEOPLE_CHECKS = {AGREES: (0.0, 1.0), KAPPA: (0.2, 1.0)}
MIN_LABELS = 20
COLUMNS = ("cell", "check", "value", "low", "high", "num", "least", "most", "sound")


def card(answers, verdicts, controls, cell: str = "", people: agreement.Labelled | None = None) -> pd.DataFrame:
    """One row per check, with COLUMNS: value, low, high are shares; num comparisons; sound True, False, or None.

    answers, verdicts, controls: rows of records.Answer, Verdict and Control of one cell; people: labels of its pairs.
    A check without comparisons has no value, and is neither sound nor unsound.
    """
    verdicts, controls = _records(verdicts), _records(controls)
    found = _of_verdicts(_records(answers), verdicts) | _of_controls(verdicts, controls)
    rows = [_row(cell, check, *found[check]) for check in CHECKS]
    rows += _of_people(cell, people) if people and people.rows else []
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(cell: str, check: str, hits: int, num: int) -> tuple:
    least, most = CHECKS[check]
    share = hits / num if num else stats.NAN
    sound = None if not num else bool(least <= share <= most)
    return cell, check, share, *stats.wilson_interval(share, num), num, least, most, sound


def _of_people(cell: str, people: agreement.Labelled) -> list[tuple]:
    pairs = agreement.judge_and_people(people)
    rows = []
    for check, (value, low, high, num) in ((AGREES, pairs.share()), (KAPPA, pairs.kappa()[:4])):
        least, most = PEOPLE_CHECKS[check]
        enough = num >= MIN_LABELS and value == value  # a kappa that is not defined is NaN
        rows.append((cell, check, value, low, high, num, least, most, least <= value <= most if enough else None))
    return rows


def _of_verdicts(answers: list[dict], verdicts: list[dict]) -> dict[str, tuple[int, int]]:
    """{check: (hits, comparisons)} of those that the evaluation's own verdicts answer. No response is no fault here."""
    asked = [row for row in verdicts if not str(row.get("reason") or "").startswith("no response from")]
    outcomes = stats.combine_orders(verdicts)
    found = {
        "verdicts that could not be read": [row["verdict"] == "unscored" for row in asked],
        "verdict changes with the order": stats.flips(outcomes),
        "first response chosen": stats.chose_first(verdicts),
        "longer response chosen": stats.chose_longer(outcomes, _lengths(answers)),
    }
    return {check: (sum(hits), len(hits)) for check, hits in found.items()}


def _lengths(answers: list[dict]) -> dict[tuple, float]:
    keys = ("prompt_set", "prompt_id", "arm", "sample")
    return {tuple(row[key] for key in keys): float(row["num_tokens"]) for row in answers}


def _of_controls(verdicts: list[dict], controls: list[dict]) -> dict[str, tuple[int, int]]:
    scored = [row for row in controls if row["verdict"] != "unscored"]
    same = [row["verdict"] != "tie" for row in scored if row["control"] == "same"]
    found = {"identical responses called different": (sum(same), len(same))}
    for name in ("constant", "padded"):
        outcomes = stats.combine_orders([row for row in controls if row["control"] == name])
        judged = [row["outcome"] == "win" for row in outcomes if row["outcome"] != "unscored"]
        found[f"{name} response preferred"] = (sum(judged), len(judged))
    keys = ("prompt_set", "prompt_id", "sample", "arm_a", "arm_b", "first_shown")
    before = {tuple(row[key] for key in keys): row["verdict"] for row in verdicts if row["verdict"] != "unscored"}
    again = [(tuple(row[key] for key in keys), row["verdict"]) for row in scored if row["control"] == "again"]
    agrees = [before[key] == verdict for key, verdict in again if key in before]
    return found | {"same verdict when asked again": (sum(agrees), len(agrees))}


def _records(rows) -> list[dict]:
    table = pd.DataFrame(rows)
    return table.to_dict("records") if len(table) else []


def failed(table: pd.DataFrame) -> list[str]:
    """A line for each check beyond its limit, worst first: what was found, and what a sound judge's would be."""
    lines = []
    for row in table[table["sound"].map(lambda sound: sound is False)].to_dict("records"):
        shown = "{:.2f}" if row["check"] == KAPPA else "{:.0%}"
        beyond_most = row["value"] > row["most"]
        bound = f"at most {shown.format(row['most'])}" if beyond_most else f"at least {shown.format(row['least'])}"
        beyond = max(row["value"] - row["most"], row["least"] - row["value"])
        where = f"{row['cell']}: " if table["cell"].nunique() > 1 else ""
        lines.append(
            (-beyond, f"{where}{row['check']}: {shown.format(row['value'])} of {row['num']:,}, wanted {bound}")
        )
    return [line for _, line in sorted(lines)]


def banner(table: pd.DataFrame) -> str:
    """What to say above every number that rests on this judge; "" where no check fails."""
    lines = failed(table)
    return f"This judge fails {len(lines)} of its checks. {'; '.join(lines)}." if lines else ""

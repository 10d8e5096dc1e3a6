"""Rewrite audit: what rewriting did to the prompts, and whether that goes with wins or losses.

Patterns and word lists hold a rewrite against its prompt; nothing here understands either, so a flag says "look here".
1. A paraphrase can keep what its words lost ("CA" for "California"), and words can stay while their meaning goes. Read
   by eye on BPO's 192 rewrites that change their prompt, 13 of the 16 losses flagged are losses; about ten others go
   unnoticed, all but one of meaning ("How to hot wire a car?" became a warning; "bigger" became "smaller"). Names,
   constraints and requests are read in English only.
2. A flag that cannot apply is missing, not False: a prompt without numbers cannot lose one, and where the prompter
   wrote nothing there is no rewrite to look at.
3. The prompt is the unit, as in stats.py: samples of a prompt are averaged first, so counts may be fractions.
4. That flagged prompts lose more often shows no cause: prompts that are easily damaged may be hard ones, and among a
   dozen flags some differ by chance.
"""

import math

import pandas as pd

from nbutils.analyse import changes, stats, tables
from nbutils.experiment.words import count_words

FLAGS = {  # column -> words for it
    "unchanged": "unchanged",
    "empty": "nothing written",
    "lost_numbers": "number lost",
    "lost_names": "name lost",
    "lost_code": "code lost",
    "lost_links": "link or address lost",
    "lost_constraints": "constraint lost",
    "lost_quotes": "quotation lost",
    "lost_material": "material lost",
    "switched_language": "language switched",
    "answered": "answered instead",
    "leftover": "template leftover",
}
KEYS = ("cell", "prompt_id", "prompt_set", "arm", "sample")
SIDES = ("flagged", "unflagged")
WIN_COLUMNS = ("win", "tie", "lose", "unscored", "win_rate", "win_rate_low", "win_rate_high")
SUMMARY_COLUMNS = (
    *("cell", "prompt_set", "arm", "flag", "num_prompts", "median_growth", "num_applicable", "num_flagged"),
    *("share", "share_low", "share_high", *(f"{side}_{name}" for side in SIDES for name in WIN_COLUMNS)),
)


def audit(answers) -> pd.DataFrame:
    """One row per answer of an arm with prompters: KEYS (cell where answers have it), growth, FLAGS, lost.

    answers: rows of records.Answer, as dicts, records or a DataFrame. growth: words of the rewrite over words of the
    prompt. A flag is True, False or missing; lost says what was lost. Any order of the rows gives the same table.
    """
    answers = pd.DataFrame(answers)
    rows = [_row(row) for row in answers.to_dict("records") if len(row["rewrites"])]
    table = pd.DataFrame(rows, columns=[*KEYS, "growth", *FLAGS, "lost"])
    table = table.astype({"growth": float} | dict.fromkeys(FLAGS, "boolean")).drop_duplicates()
    table = table.sort_values([*KEYS, "growth", "lost"], ignore_index=True)
    return table if "cell" in answers else table.drop(columns="cell")


def _row(row: dict) -> dict:
    keys = {name: row[name] for name in KEYS if name in row}
    if not any(row["rewrites"]):
        return keys | {"empty": True, "lost": ""}
    prompt, rewrite = row["prompt"], row["rewrite"]
    flags, lost = _losses(prompt, rewrite)
    languages = changes.find_languages(prompt, rewrite)
    if languages:
        flags["switched_language"] = languages[0] != languages[1]
        lost += [f"language {languages[0]} (now {languages[1]})"] if flags["switched_language"] else []
    if isinstance(row["response"], str) and row["response"]:
        flags["answered"] = changes.is_answered(prompt, rewrite, row["response"])
    flags["unchanged"] = prompt.casefold().split() == rewrite.casefold().split()
    flags |= {"empty": False, "leftover": bool(changes.find_leftovers(prompt, rewrite))}
    growth = count_words(rewrite) / max(1, count_words(prompt))
    return keys | {"growth": growth, "lost": "; ".join(lost)} | flags


def _losses(prompt: str, rewrite: str) -> tuple[dict[str, bool | None], list[str]]:
    """({flag: whether something was lost, None where the prompt has nothing of the kind}, what was, in words).

    What stood in lost material is lost with it, and not counted again as a number, a name and so on.
    """
    found = {"material": changes.find_material(prompt, rewrite)}
    for block, kept in found["material"]:
        prompt = prompt if kept else prompt.replace(block, "", 1)
    found |= {
        "numbers": changes.find_numbers(prompt, rewrite),
        "names": changes.find_names(prompt, rewrite),
        "code": changes.find_code(prompt, rewrite),
        "links": changes.find_links(prompt, rewrite),
        "constraints": changes.find_constraints(prompt, rewrite),
        "quotes": changes.find_quotes(prompt, rewrite),
    }
    lost = {kind: [_shortened(shown) for shown, kept in each if not kept] for kind, each in found.items()}
    flags = {f"lost_{kind}": bool(lost[kind]) if each else None for kind, each in found.items()}
    return flags, [f"{kind} {', '.join(each)}" for kind, each in lost.items() if each]


def _shortened(text: str, width: int = 50) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def summary(audited: pd.DataFrame, verdicts, baseline: str = "nan") -> pd.DataFrame:
    """One row per prompt set x arm (x cell) x flag, with SUMMARY_COLUMNS; NaN where nothing applies or was judged.

    audited: what audit gave; verdicts: rows of records.Verdict (with cell, if audited has one), or none. share: of the
    prompts to which the flag applies, with Wilson's 95% interval, one vote a prompt. Win columns: against the baseline,
    among flagged and among unflagged answers; a prompt with both counts on both sides, each time with those samples.
    """
    outcomes, rows = _outcomes(verdicts, baseline), []
    for (cell, prompt_set), group in audited.assign(cell=audited.get("cell", "")).groupby(["cell", "prompt_set"]):
        for arm in tables.arm_order(group["arm"]):
            part, judged = group[group["arm"] == arm], outcomes.get((cell, prompt_set, arm))
            row = {"cell": cell, "prompt_set": prompt_set, "arm": arm, "num_prompts": part["prompt_id"].nunique()}
            row["median_growth"] = part.groupby("prompt_id")["growth"].mean().median()
            rows += [row | {"flag": flag} | _share(part, flag) | _sides(part, flag, judged) for flag in FLAGS]
    table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return table if "cell" in audited else table.drop(columns="cell")


def _share(part: pd.DataFrame, flag: str) -> dict:
    shares = part.dropna(subset=flag).astype({flag: float}).groupby("prompt_id")[flag].mean()
    num, flagged = len(shares), math.fsum(shares)
    share = flagged / num if num else math.nan
    low, high = stats.wilson_interval(share, num)
    return {"num_applicable": num, "num_flagged": flagged, "share": share, "share_low": low, "share_high": high}


def _outcomes(verdicts, baseline: str) -> dict[tuple, list[dict]]:
    """{(cell, prompt_set, arm): its outcomes against the baseline}"""
    table = pd.DataFrame(verdicts)
    found: dict[tuple, list[dict]] = {}
    for cell, part in table.groupby("cell") if "cell" in table else [("", table)]:
        for row in stats.outcomes_against(stats.combine_orders(part), baseline):
            found.setdefault((cell, row["prompt_set"], row["arm_a"]), []).append(row)
    return found


def _sides(part: pd.DataFrame, flag: str, outcomes: list[dict] | None) -> dict:
    """WIN_COLUMNS of the flagged and of the unflagged answers; nothing for an arm without verdicts."""
    if outcomes is None:
        return {}
    found: dict[str, float] = {}
    for side, wanted in zip(SIDES, (True, False), strict=True):
        chosen = part[(part[flag] == wanted).fillna(False)]
        keys = set(zip(chosen["prompt_id"], chosen["sample"], strict=True))
        shares = stats.average_samples(row for row in outcomes if (row["prompt_id"], row["sample"]) in keys)
        judged = pd.DataFrame(shares, columns=["win", "tie", "lose", "num_samples"], dtype=float)
        found |= {f"{side}_{name}": value for name, value in tables.wins(judged).items()}
    return found


def examples(audited: pd.DataFrame, answers, num: int = 3) -> pd.DataFrame:
    """Up to num flagged prompts with their rewrites per flag and arm, to read: those with the lowest prompt_ids.

    audited: what audit gave for these answers. Columns flag, KEYS (cell where there is one), lost, prompt, rewrite; at
    most one sample of a prompt. A prompt_id is a hash, so the choice is a random one that stays.
    """
    keys = [name for name in KEYS if name in audited]
    rows = sorted(pd.DataFrame(answers).to_dict("records"), key=lambda row: row["rewrite"])
    texts = {tuple(row[name] for name in keys): row for row in rows}
    order, found = tables.arm_order(audited["arm"]), []
    for flag in FLAGS:
        chosen = audited[audited[flag].fillna(False)].assign(flag=flag)
        chosen["place"] = [order.index(arm) for arm in chosen["arm"]]
        chosen = chosen.sort_values(["place", "prompt_id"], kind="stable").drop_duplicates(["arm", "prompt_id"])
        found.append(chosen[chosen.groupby("place").cumcount() < num])
    table = pd.concat(found, ignore_index=True)[["flag", *keys, "lost"]]
    shown = [texts[key] for key in table[keys].itertuples(index=False, name=None)]
    return table.assign(**{name: [row[name] for row in shown] for name in ("prompt", "rewrite")})

"""Align-Pro's Table 1, and what its Figures 2 and 3 show, from any experiment; the paper's own numbers as data.

Departures from the paper (section 7.2):
1. Every pair is judged in both orders and a win needs both to agree, so that more pairs end as ties than in one order;
   the paper does not say in which order it judged. Ties count for neither side, as in the paper: A + B <= 100.
2. Percentages are of scored prompts, with Wilson's interval; a pair without verdict is counted, and in neither.
3. The paper's numbers stand beside ours where the prompter, the frozen LLM and the prompt set are the same.
Figures 2 and 3 are printed without values: the paper has no numbers to set beside our mean rewards and variances.
"""

import math
import os
import re

import numpy as np
import pandas as pd

from nbutils.analyse import stats, tables
from nbutils.experiment import paths

SOURCE = "Align-Pro, Table 1"
ARM, BASELINE = "alignpro", "nan"  # the paper's A and B
DATA_SETS = {"ultrafeedback": "UltraFeedback", "helpsteer": "HelpSteer", "orca": "Orca"}
# (prompter, frozen LLM): wins of A and B "for 100 samples" on each data set. The text calls both frozen LLMs Llama;
# the table names the second Qwen.
WINS = {
    ("Phi-3.5-Instruct", "Llama-3.1-8B-Instruct"): ((60, 24), (46, 37), (63, 26)),
    ("Qwen-2.5-1.5B-Instruct", "Llama-3.1-8B-Instruct"): ((65, 23), (67, 23), (63, 30)),
    ("Phi-3.5-Instruct", "Qwen-2.5-7B-Instruct"): ((59, 27), (58, 27), (46, 46)),
    ("Qwen-2.5-1.5B-Instruct", "Qwen-2.5-7B-Instruct"): ((56, 30), (59, 25), (59, 27)),
}
_SAME_MODEL = {  # the paper's name: how the end of a model reference may spell it
    "Phi-3.5-Instruct": r"phi-?3\.5(-mini)?-instruct",
    "Qwen-2.5-1.5B-Instruct": r"qwen-?2\.5-1\.5b-instruct",
    "Llama-3.1-8B-Instruct": r"(meta-)?llama-?3\.1-8b-instruct",
    "Qwen-2.5-7B-Instruct": r"qwen-?2\.5-7b-instruct",
}
COLUMNS = (
    *("source", "cell", "prompter", "responder", "prompt_set", "arm", "baseline"),
    *("win_percent", "win_percent_low", "win_percent_high"),
    *("lose_percent", "lose_percent_low", "lose_percent_high", "num_scored", "num_unscored"),
)
_FIRST = ("Prompter, frozen LLM", "")


def win_percentages(verdicts, models: dict | None = None, arm: str = ARM, baseline: str = BASELINE) -> pd.DataFrame:
    """Table 1 in long form: per cell x prompt set, percent of scored prompts won by the arm (A) and the baseline (B).

    verdicts: rows of records.Verdict with a column cell; models: {cell: {"prompter": ..., "responder": ...}}. Several
    samples of a prompt are averaged first. Intervals are Wilson's, 95%, with one vote a prompt. Rows of COLUMNS; none
    where the arm was never judged against the baseline.
    """
    table, rows = pd.DataFrame(verdicts), []
    table = table if "cell" in table else table.assign(cell="")
    for cell, part in table.groupby("cell", sort=True):
        outcomes = stats.outcomes_against(stats.combine_orders(part), baseline)
        shares = pd.DataFrame(stats.average_samples([row for row in outcomes if row["arm_a"] == arm]))
        for prompt_set, judged in shares.groupby("prompt_set", sort=True) if len(shares) else ():
            row = {"source": "here", "cell": cell, "prompt_set": prompt_set, "arm": arm, "baseline": baseline}
            rows.append(row | _percents(judged))
    return with_models(pd.DataFrame(rows, columns=list(COLUMNS)), models or {})


def _percents(judged: pd.DataFrame) -> dict:
    num = int((judged["num_samples"] > 0).sum())
    row: dict[str, float] = {"num_scored": num, "num_unscored": len(judged) - num}
    for name in ("win", "lose"):
        share = math.fsum(judged[name].dropna()) / num if num else stats.NAN
        ends = (100 * share, *(100 * end for end in stats.wilson_interval(share, num)))
        row |= dict(zip((f"{name}_percent{end}" for end in ("", "_low", "_high")), ends, strict=True))
    return row


def variances(answers, seed: int = 0) -> pd.DataFrame:
    """Figure 3: per cell x prompt set x arm the reward's variance over all answers, with a BCa interval over prompts.

    answers: rows of records.Answer with a column cell. A prompt is drawn with all its answers.
    """
    table, rows = pd.DataFrame(answers), []
    for (cell, prompt_set, arm), part in table.groupby(["cell", "prompt_set", "arm"], sort=True):
        spread = _variance(part["prompt_id"], pd.to_numeric(part["reward"]), seed)
        row = {"cell": cell, "prompt_set": prompt_set, "arm": arm, "num_prompts": part["prompt_id"].nunique()}
        row |= {"reward_variance": spread.value, "reward_variance_low": spread.low}
        rows.append(row | {"reward_variance_high": spread.high})
    names = ("cell", "prompt_set", "arm", "num_prompts", "reward_variance", "reward_variance_low")
    return pd.DataFrame(rows, columns=[*names, "reward_variance_high"])


def _variance(prompts, rewards, seed: int) -> stats.Estimate:
    """Unbiased variance from each prompt's count, sum and sum of squares: what a resample of prompts needs."""
    centred = (rewards - rewards.mean()).astype(float)
    sums = pd.DataFrame({"num": rewards.notna(), "sum": centred, "squares": centred**2}).groupby(prompts.array).sum()
    rows = sums[sums["num"] > 0].to_numpy(dtype=float)  # (num_prompts, 3)

    def statistic(sums):
        num, total, squares = np.moveaxis(sums, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.maximum(squares - total**2 / num, 0) / (num - 1)

    return stats.bca(statistic, rows[np.lexsort(rows.T)], seed, num_resamples=4999)


# --- which cell is which row of the paper


def with_models(table: pd.DataFrame, models: dict) -> pd.DataFrame:
    """The table with each cell's prompter and responder; the cell's name stands for a prompter that is not known."""
    known = [models.get(cell, {"prompter": cell, "responder": ""}) for cell in table["cell"]]
    names = {name: [str(each[name]) for each in known] for name in ("prompter", "responder")}
    return table.assign(**{name: pd.Series(names[name], table.index, dtype=object) for name in names})


def paper_model(model: str) -> str | None:
    """The paper's name of a model reference; None for a model that the paper does not have."""
    name = str(model).rpartition("/")[2].lower()
    return next((known for known, pattern in _SAME_MODEL.items() if re.fullmatch(pattern, name)), None)


def table_1() -> pd.DataFrame:
    """The paper's Table 1 as rows of COLUMNS, without intervals or unscored counts, which it does not print."""
    rows = [
        {"prompter": prompter, "responder": responder, "prompt_set": prompt_set, "win_percent": a, "lose_percent": b}
        for (prompter, responder), wins in WINS.items()
        for prompt_set, (a, b) in zip(DATA_SETS, wins, strict=True)
    ]
    fixed = {"source": SOURCE, "cell": "", "arm": ARM, "baseline": BASELINE, "num_scored": 100}
    table = pd.DataFrame([fixed | row for row in rows], columns=list(COLUMNS))
    floats = [name for name in COLUMNS if "percent" in name or name == "num_unscored"]
    return table.astype(dict.fromkeys(floats, float))


def published(table: pd.DataFrame) -> pd.DataFrame:
    """The paper's rows to show with ours: those of the same models, data set and arms, under our names; else all."""
    theirs = table_1().set_index(["prompter", "responder", "prompt_set"])
    found = []
    for row in table.to_dict("records"):
        key = (paper_model(row["prompter"]), paper_model(row["responder"]), row["prompt_set"])
        if key in theirs.index and (row["arm"], row["baseline"]) == (ARM, BASELINE):
            ours = {name: row[name] for name in ("cell", "prompter", "responder", "prompt_set")}
            found.append(theirs.loc[key].to_dict() | ours)
    return pd.DataFrame(found, columns=list(COLUMNS)) if found else table_1()


def joined(table: pd.DataFrame, theirs: pd.DataFrame | None) -> pd.DataFrame:
    """Our rows and the paper's, told apart by their source."""
    return table if theirs is None else pd.concat([table, theirs], ignore_index=True)


def matches(theirs: pd.DataFrame | None) -> bool:
    """Whether published() found rows of the paper that belong beside ours."""
    return theirs is not None and bool((theirs["cell"] != "").any())


def arranged(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the paper's order, with columns architecture (prompter, frozen LLM), data_set and its set_place.

    Cells with the same models and prompt set, say of several seeds, are told apart by the cell's name.
    """
    pair = table["prompter"] + "\n" + table["responder"]
    several = table.groupby([pair, "prompt_set"])["cell"].transform("nunique").groupby(pair).transform("max") > 1
    rows = list(zip(table["prompter"], table["responder"], table["cell"], several, strict=True))
    table = table.assign(
        architecture=pd.Series([_architecture(*row) for row in rows], table.index, dtype=object),
        data_set=table["prompt_set"].map(lambda name: DATA_SETS.get(name, name)),
        pair_place=[_place(list(WINS), (paper_model(row[0]), paper_model(row[1]))) for row in rows],
        set_place=table["prompt_set"].map(lambda name: _place(list(DATA_SETS), name)),
    )
    order = ["pair_place", "responder", "prompter", "architecture", "set_place", "prompt_set"]
    return table.sort_values(order, kind="stable", ignore_index=True).drop(columns=["pair_place"])


def _place(known: list, value) -> int:
    return known.index(value) if value in known else len(known)


def _architecture(prompter: str, responder: str, cell: str, several: bool) -> str:
    shown = [name if name.startswith("sandbox/") else name.rpartition("/")[2] for name in (prompter, responder) if name]
    return ", ".join(shown) + (f" ({cell})" if several and shown != [cell] else "")


# --- the paper's layout


def blocks(table: pd.DataFrame, theirs: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """{title: Table 1 as text}: ours, with the paper's row below each of ours that it has; else the paper's apart."""
    arm, baseline = (table[name].iloc[0] if len(table) else "–" for name in ("arm", "baseline"))
    title = f"Wins of {arm} (A) and of {baseline} (B)"
    if theirs is None or matches(theirs):
        return {title: layout(joined(table, theirs))}
    return {title: layout(table), f"As printed in the paper ({SOURCE})": layout(theirs)}


def layout(table: pd.DataFrame) -> pd.DataFrame:
    """A row per architecture and source, columns A and B under each data set's name; whole percentages as text."""
    table = arranged(table)
    sets, rows = table.sort_values(["set_place", "prompt_set"])["data_set"].unique(), []
    for name, part in table.groupby("architecture", sort=False):
        for source, same in part.groupby("source", sort=False):
            beside = source == SOURCE and part["source"].nunique() > 1
            row = {_FIRST: f"as printed in {SOURCE}" if beside else name}
            for each in same.to_dict("records"):
                row |= {(each["data_set"], "A"): whole(each["win_percent"])}
                row |= {(each["data_set"], "B"): whole(each["lose_percent"])}
            rows.append(row)
    columns = [_FIRST, *((name, side) for name in sets for side in "AB")]
    cells = [[row.get(column, "–") for column in columns] for row in rows]
    return pd.DataFrame(cells, columns=pd.MultiIndex.from_tuples(columns))


def whole(value: float) -> str:
    """A percentage as the table prints it."""
    return "–" if math.isnan(value) else f"{value:.0f}"


def note(table: pd.DataFrame, theirs: pd.DataFrame | None = None) -> str:
    """What the numbers count, in words."""
    if not len(table):
        return "No pair of these arms was judged."
    arm, baseline = table["arm"].iloc[0], table["baseline"].iloc[0]
    low, high = int(table["num_scored"].min()), int(table["num_scored"].max())
    text = (
        f"A: percent of scored prompts that {arm} won, B: that {baseline} won; both orders judged, a win needs both, "
    )
    text += f"ties are in neither. n = {low if low == high else f'{low} to {high}'} prompts per entry"
    text += f", {int(table['num_unscored'].sum())} unscored ones left out."
    if theirs is None:
        return text
    return (
        f"{text} The paper's numbers ({SOURCE}) are for 100 samples; it does not say in which order they were judged."
    )


def as_markdown(table: pd.DataFrame, theirs: pd.DataFrame | None = None) -> str:
    """The blocks as Markdown, which has one header row: A and B stand in the first row of the body."""
    parts = []
    for title, block in blocks(table, theirs).items():
        sides, heads = list(zip(*block.columns, strict=True))[::-1]
        names = [head if side != "B" else "" for head, side in zip(heads, sides, strict=True)]
        body = pd.DataFrame([list(sides), *_bold(block)], columns=names)
        parts.append(f"{tables.escape_markdown(title)}\n\n{tables.as_markdown(body, numeric=names[1:])}")
    return "\n".join([*parts, f"{tables.escape_markdown(note(table, theirs))}\n"])


def as_latex(table: pd.DataFrame, theirs: pd.DataFrame | None = None) -> str:
    """The blocks as booktabs tabulars, the data sets' names above A and B."""
    parts = []
    for title, block in blocks(table, theirs).items():
        body = pd.DataFrame(_bold(block), columns=[side or name for name, side in block.columns])
        text = tables.as_latex(body, numeric=("A", "B")).replace("\\toprule\n", f"\\toprule\n{_spanning(block)}", 1)
        parts.append(f"% {' '.join(title.split())}\n" + re.sub(r"\*\*(\d+)\*\*", r"\\textbf{\1}", text))
    return "\n".join([*parts, f"% {' '.join(note(table, theirs).split())}\n"])


def _spanning(block: pd.DataFrame) -> str:
    """The upper header row: each data set over its two columns, with a rule below it."""
    sets = [name for name, side in block.columns if side == "A"]
    names = [rf"\multicolumn{{2}}{{c}}{{{tables.escape_latex(name)}}}" for name in sets]
    rules = [rf"\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(sets))]
    return " & ".join(["", *names]) + " \\\\\n" + "".join(rules) + "\n"


def _bold(block: pd.DataFrame) -> list[list[str]]:
    """The block's rows, the higher of A and B between asterisks, as the paper prints it in bold."""
    rows = []
    for name, *numbers in block.to_numpy().tolist():
        row = [name]
        for pair in zip(numbers[::2], numbers[1::2], strict=True):
            best = max(pair, key=_rank) if _rank(pair[0]) != _rank(pair[1]) else None
            row += [f"**{text}**" if text == best else text for text in pair]
        rows.append(row)
    return rows


def _rank(text: str) -> int:
    return int(text) if text.isdigit() else -1


def write(table: pd.DataFrame, theirs: pd.DataFrame | None, folder, name: str = "table_1") -> list:
    """folder/name.csv (long form, every digit, intervals and counts), .md and .tex (the paper's layout). The paths."""
    return [
        paths.write_atomic(os.path.join(folder, f"{name}.csv"), tables.as_csv(joined(table, theirs))),
        paths.write_atomic(os.path.join(folder, f"{name}.md"), as_markdown(table, theirs)),
        paths.write_atomic(os.path.join(folder, f"{name}.tex"), as_latex(table, theirs)),
    ]

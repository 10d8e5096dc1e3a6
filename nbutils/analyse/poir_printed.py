"""POIR's own Tables 1 to 3 as data, less the numbers that contradict each other; which model is the paper's.

Models, methods and sets go by our names: POIR_V, POIR_Q and POIR_M are `poir` where the pairs are the model's own and
`poir_other` where they are another's; NAN and "ori." are `nan`.
"""

import math
import re

import pandas as pd

from nbutils.analyse import stats

OTHER = "poir_other"  # POIR trained on another model's pairs (Table 2: POIR_Q beside Vicuna, POIR_V beside Qwen)
TABLES = {  # pairs (A, B) of arms
    "poir_table_1": (("poir", "nan"), ("poir", "bpo"), ("poir", "dpo_awo")),
    "poir_table_2": (("poir", "dpo_awi"), ("poir", OTHER), ("poir", "sft")),
    "poir_table_3": (("poir_s1", "nan"),),
}
SOURCES = {f"poir_table_{number}": f"POIR, Table {number}" for number in (1, 2, 3)}
SETS = {"vicuna": "Vicuna Eval", "dolly": "Dolly Eval", "bpo_test": "BPO-test Eval"}
SETS |= {"self_instruct": "Self-Instruct Eval"}
SIZES = {"vicuna": 80, "dolly": 200, "bpo_test": 200, "self_instruct": 252}  # section 4.1
OVER_SETS = "mean over sets"  # stands where a prompt set's name does, in the rows that hold ΔWR over all of them
# Model, index, A, B, then A Win, Tie and B Win of each set, and ΔWR: as the paper's text has them.
_PRINTED = {
    "poir_table_1": """
Vicuna-13B-chat 1 poir nan      64.1 4.5 31.3   70.2 3.0 26.8   55.8 4.0 40.2   64.3 2.5 34.2  +30.5
Vicuna-13B-chat 2 poir bpo      56.5 5.0 38.5   59.5 6.0 34.5   53.2 4.8 42.0   64.7 3.8 32.5  +21.6
Vicuna-13B-chat 3 poir dpo_awo  56.0 7.1 36.9   57.5 9.5 33.0   52.4 7.4 40.2   50.8 7.4 41.8  +16.2
Qwen-14B-chat   4 poir nan      66.7 8.0 25.3   70.9 4.0 25.1   54.4 6.4 39.2   69.2 3.9 26.9  +36.2
Qwen-14B-chat   5 poir bpo      56.9 6.0 37.1   56.3 9.0 34.7   70.9 4.0 25.1   54.4 6.4 39.2  +25.6
Qwen-14B-chat   6 poir dpo_awo  59.3 9.0 31.7   66.5 5.0 28.5   48.0 6.8 45.2   55.0 3.7 41.3  +20.5
Vicuna-7B-chat  7 poir nan      60.0 6.0 34.0   52.8 3.0 44.2   52.4 4.4 43.3   53.8 6.2 40.0  +14.4
Vicuna-7B-chat  8 poir bpo      59.0 3.0 38.0   56.4 5.1 38.5   54.0 3.5 42.5   51.2 1.3 47.5  +13.5
Vicuna-7B-chat  9 poir dpo_awo  51.6 10.2 38.2  50.3 12.3 34.4  50.0 9.6 40.4   50.5 10.8 38.7 +10.7
Qwen-7B-chat   10 poir nan      59.3 5.0 35.7   55.5 1.0 43.5   58.0 4.0 38.0   63.1 1.0 35.9  +21.0
Qwen-7B-chat   11 poir bpo      51.4 6.9 41.7   47.0 7.0 46.0   47.3 4.3 37.4   56.5 3.0 40.5  +9.2
Qwen-7B-chat   12 poir dpo_awo  56.9 7.2 35.9   54.0 8.3 34.7   51.8 5.2 43.0   47.8 13.3 38.9 +14.5
Mistral-7B     13 poir nan      53.9 5.6 40.6   51.5 3.0 45.5   54.1 1.9 44.0   57.0 1.2 41.8  +11.2
Mistral-7B     14 poir bpo      50.3 8.1 41.6   50.0 3.5 46.5   50.0 3.5 46.5   51.2 2.5 46.3  +5.2
Mistral-7B     15 poir dpo_awo  53.2 7.4 39.4   58.5 9.0 32.5   51.3 7.3 41.4   55.9 8.0 33.1  +18.1
""",
    "poir_table_2": """
Vicuna-13B-chat 1 poir dpo_awi    48.2 5.6 46.2  47.5 8.0 44.5   54.2 8.9 36.9   58.2 3.8 40.0  +10.1
Vicuna-13B-chat 2 poir poir_other 61.3 8.0 30.7  60.0 9.5 30.0   57.5 7.5 34.9   55.0 2.5 42.5  +23.9
Vicuna-13B-chat 3 poir sft        60.0 7.0 33.0  66.5 7.5 26.0   63.5 3.2 33.3   52.5 3.7 43.8  +26.6
Qwen-14B-chat   4 poir dpo_awi    49.7 9.2 41.1  46.9 10.6 43.4  51.5 7.0 41.5   54.4 5.1 40.5  +9.0
Qwen-14B-chat   5 poir poir_other 54.3 6.0 39.7  53.0 10.0 37.0  53.8 2.4 43.8   49.8 9.2 41.0  +12.4
Qwen-14B-chat   6 poir sft        59.5 9.0 31.5  52.5 8.0 39.5   50.0 4.0 46.0   47.5 7.5 45.0  +11.9
Vicuna-7B-chat  7 poir dpo_awi    51.8 8.0 40.2  51.8 8.0 40.2   51.8 8.0 40.2   51.8 8.0 40.2  +11.6
Vicuna-7B-chat  8 poir poir_other 58.5 7.5 35.0  58.0 4.0 38.0   65.9 9.1 25.0   60.6 11.4 28.0 +29.3
Vicuna-7B-chat  9 poir sft        59.8 7.0 33.2  62.5 9.0 28.5   55.4 5.4 39.3   56.3 3.8 40.0  +23.3
Qwen-7B-chat   10 poir dpo_awi    56.8 8.5 34.7  47.0 12.5 40.5  53.1 7.7 39.2   56.0 8.0 36.0  +15.6
Qwen-7B-chat   11 poir poir_other 55.3 6.5 38.2  53.5 9.0 37.5   58.2 13.6 28.2  52.3 5.1 42.6  +18.2
Qwen-7B-chat   12 poir sft        50.9 7.0 42.1  50.7 10.6 38.7  52.9 8.7 38.4   55.3 7.3 37.4  +13.3
Mistral-7B     13 poir dpo_awi    47.2 7.8 45.0  50.0 5.5 44.5   53.0 5.5 41.5   62.3 6.5 31.2  +12.6
Mistral-7B     14 poir sft        52.5 7.0 40.5  47.5 7.5 45.0   57.1 5.2 37.8   61.3 3.7 35.0  +15.0
""",
    "poir_table_3": """
GPT-3.5-turbo   1 poir_s1 nan  57.9 6.1 36.0   64.8 5.2 30.0   55.2 10.0 34.8  55.2 10.0 34.8 +25.7
GPT-4           2 poir_s1 nan  65.2 5.8 29.0   70.4 6.6 23.0   62.0 11.0 27.0  62.0 11.0 27.0 +39.5
vicuna-13B-1.3v 3 poir_s1 nan  56.2 7.3 36.5   59.0 8.5 32.5   52.5 8.0 39.5   52.5 8.0 39.5  +19.7
Qwen-14B-chat   4 poir_s1 nan  53.6 10.5 35.9  57.4 10.2 32.4  50.5 9.5 40.0   50.5 9.5 40.0  +17.7
""",
}
_SAME_MODEL = {  # the paper's name: how the end of a model reference may spell it; it names no version but Vicuna's 1.3
    "Vicuna-13B-chat": r"vicuna-13b(-chat)?(-v1\.[135])?",
    "Vicuna-7B-chat": r"vicuna-7b(-chat)?(-v1\.[135])?",
    "Qwen-14B-chat": r"qwen-14b-chat",
    "Qwen-7B-chat": r"qwen-7b-chat",
    "Mistral-7B": r"mistral-7b(-instruct)?(-v0\.[123])?",
    "GPT-3.5-turbo": r"gpt-3\.5-turbo(-\d{4})?",
    "GPT-4": r"gpt-4(-\d{4})?",
    "vicuna-13B-1.3v": r"vicuna-13b-v1\.3",
}
NUMBERS = [
    f"{name}{end}"
    for name in ("win_percent", "tie_percent", "lose_percent", "delta_wr")
    for end in ("", "_low", "_high")
]
COLUMNS = ("source", "index", "cell", "prompter", "responder", "prompt_set", "arm_a", "arm_b", *NUMBERS)
COLUMNS += ("num_scored", "num_unscored", "remark")
_ROUNDING = 0.3  # points by which three rounded percentages may miss 100


def printed(name: str) -> pd.DataFrame:
    """The paper's table as rows of COLUMNS: no intervals or unscored counts, which it does not print.

    Left out, with a remark: a tie where the three percentages do not add up to 100 (beyond rounding) though ΔWR is the
    mean of A Win - B Win; all three where it is not; a ΔWR that its cells contradict; a set that repeats the one before
    it where ΔWR is the mean of the other sets. Kept, with a remark: numbers that repeat others and agree with ΔWR.
    """
    rows = []
    for line in _PRINTED[name].strip().splitlines():
        model, index, arm_a, arm_b, *numbers = line.split()
        fixed = {"source": SOURCES[name], "index": int(index), "cell": "", "prompter": model, "responder": model}
        fixed |= {"arm_a": arm_a, "arm_b": arm_b}
        rows += [fixed | row for row in _checked(*(float(text) for text in numbers))]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    twice = (table["source"] == SOURCES["poir_table_1"]) & (table["index"] == 5)
    for prompt_set in ("bpo_test", "self_instruct"):
        table.loc[twice & (table["prompt_set"] == prompt_set), "remark"] = "repeats the set before it of index 4, kept"
    return table.astype(dict.fromkeys([*NUMBERS, "num_scored", "num_unscored"], float))


def _checked(*numbers: float) -> list[dict]:
    """One line of a table, four sets of (A Win, Tie, B Win) and ΔWR, as rows, less what contradicts itself."""
    *cells, delta = numbers
    triples = [tuple(cells[place : place + 3]) for place in range(0, len(cells), 3)]
    agrees, others_agree = _agrees(triples, delta), _agrees(triples[:-1], delta)
    rows = []
    for prompt_set, triple in zip(SETS, triples, strict=True):
        (win, tie, lose), remark = _cell(triple, triples.count(triple) > 1, agrees)
        row = {"prompt_set": prompt_set, "win_percent": win, "tie_percent": tie, "lose_percent": lose}
        rows.append(row | {"num_scored": SIZES[prompt_set], "delta_wr": win - lose, "remark": remark})
    over = {"prompt_set": OVER_SETS, "num_scored": sum(SIZES.values()), "delta_wr": delta, "remark": ""}
    if not agrees and others_agree and triples[-1] == triples[-2]:
        remark = f"repeats the set before it, and ΔWR ({delta:+.1f}) is the mean of the other three"
        rows[-1] |= dict.fromkeys(NUMBERS[::3], stats.NAN) | {"remark": remark}
    elif not agrees:
        over |= {"delta_wr": stats.NAN, "remark": f"printed as {delta:+.1f}, its cells give {_mean(triples):+.1f}"}
    return [*rows, over]


def _cell(triple: tuple, twice: bool, agrees: bool) -> tuple[tuple, str]:
    """(A Win, Tie, B Win) as far as it can be right, and the remark."""
    win, _, lose = triple
    if abs(sum(triple) - 100) > _ROUNDING:
        kept = (win, stats.NAN, lose) if agrees else (stats.NAN,) * 3
        return kept, f"A Win, Tie and B Win add up to {sum(triple):.1f}"
    return triple, "the same numbers as in another set, kept" if twice and agrees else ""


def _mean(triples: list[tuple]) -> float:
    return math.fsum(win - lose for win, _, lose in triples) / len(triples)


def _agrees(triples: list[tuple], delta: float) -> bool:
    return abs(_mean(triples) - delta) < 0.1


def same_model(name: str, *references: str) -> bool:
    """Whether all these model references are the model that the paper calls name."""
    ends = [str(reference).removeprefix("api:").rpartition("/")[2].lower() for reference in references]
    return all(re.fullmatch(_SAME_MODEL[name], end) for end in ends)


def published(table: pd.DataFrame, name: str) -> pd.DataFrame | None:
    """The paper's rows to show with ours: those of the same model, pair and set, under our names; else all of them.

    The prompter and the responder must both be the paper's model, and ΔWR needs the paper's four sets and no other.
    None for a table that the paper does not have.
    """
    if name not in TABLES:
        return None
    theirs, found, keys = printed(name), [], ["cell", "prompter", "responder", "arm_a", "arm_b"]
    for (cell, prompter, responder, *pair), ours in table.groupby(keys):
        sets = {*ours["prompt_set"]}
        sets = sets if sets == {*SETS, OVER_SETS} else sets & {*SETS}
        fitting = theirs["prompt_set"].isin(sets) & (theirs["arm_a"] == pair[0]) & (theirs["arm_b"] == pair[1])
        models = [model for model in theirs["prompter"].unique() if same_model(model, prompter, responder)]
        fitting &= theirs["prompter"].isin(models)
        found.append(theirs[fitting].assign(cell=cell, prompter=prompter, responder=responder))
    return pd.concat(found, ignore_index=True) if any(map(len, found)) else theirs


def set_order(name: str) -> tuple:
    """Sorts prompt sets as the paper does, others behind them by name, OVER_SETS last."""
    known = [*SETS]
    return (known.index(name) if name in known else len(known)) + (name == OVER_SETS), name

"""Rows of answers and verdicts -> summary, comparisons, quantiles, what is missing; written as csv, md and tex.

The prompt is the unit (stats.py): a prompt's samples are averaged first, so that `win` counts prompts and holds
fractions where several samples of a prompt disagree. Only `reward_variance` is over all answers, as in Align-Pro's
Figure 3. Any order of the rows gives the same table.
The arm `nan` is a name: read a table back with `read`, plain pandas takes the word for a missing value.
"""

import math
import os

import pandas as pd

from nbutils.analyse import stats
from nbutils.analyse.page_tables import PageTable, page_table
from nbutils.experiment import paths

pd.set_option("mode.string_storage", "python")  # Arrow's strings refuse lone surrogates, which models do write

ARMS = (
    "nan",
    "untrained",
    "untrained_poir",
    "alignpro",
    "rlhf",
    "poir",
    "poir_other",
    "dpo_awi",
    "sft",
    "dpo_awo",
    "bpo",
    "poir_s1",
    "tilted",
)
SUMMARY_COLUMNS = (
    *("cell", "prompt_set", "arm", "num_prompts", "mean_reward", "mean_reward_low", "mean_reward_high"),
    *("reward_variance", "win", "tie", "lose", "unscored", "win_rate", "win_rate_low", "win_rate_high"),
    *("mean_gold_reward", "gold_reward_variance", "cut", "cut_rewrites"),
)
COMPARISON_COLUMNS = (
    *("cell", "prompt_set", "arm", "baseline", "num_pairs", "reward_difference", "reward_difference_low"),
    *("reward_difference_high", "p_reward", "log_sd_ratio", "log_sd_ratio_low", "log_sd_ratio_high"),
    *("num_judged", "p_sign", "worst_win_rate", "best_win_rate"),
)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MISSING_COLUMNS = ("what", "prompt_set", "arm", "reason", "num_missing", "num_wanted")
ANSWER_COLUMNS = (
    *("prompt_id", "prompt_set", "arm", "sample", "rewrite"),
    *("reward", "gold_reward", "num_tokens", "reason"),
)
_ENDINGS = ("finish", "rewrites_cut")  # older files lack them
_REASONS = ("reward_reason", "gold_reward_reason")  # these too


def arm_order(arms) -> list[str]:
    """The arms once each: known ones in the house's order, the others behind them by name."""
    return sorted(set(arms), key=lambda arm: (ARMS.index(arm) if arm in ARMS else len(ARMS), arm))


def summary(answers, verdicts, cell: str, baseline: str = "nan") -> pd.DataFrame:
    """One row per prompt set x arm, with SUMMARY_COLUMNS; win columns against `baseline`, NaN on its own row.

    cut: share of the responses that ended at their limit of tokens, of those of which that is known; cut_rewrites:
    share of the answers before which a rewrite did.
    answers, verdicts: DataFrames or lists of rows (records.Answer, records.Verdict) of one cell; verdicts may be empty
    """
    answers, judged = _answers(answers), _judged(verdicts, baseline)
    rows = []
    for prompt_set, arm, part in _groups(answers):
        reward = stats.mean(_by_prompt(part, "reward"))
        row = {"cell": cell, "prompt_set": prompt_set, "arm": arm, "num_prompts": part["prompt_id"].nunique()}
        row |= _interval("mean_reward", reward) | {"reward_variance": stats.variance(part["reward"])}
        row |= wins(judged[prompt_set, arm]) if (prompt_set, arm) in judged else {}
        row |= {"mean_gold_reward": stats.mean(_by_prompt(part, "gold_reward")).value}
        rows.append(row | {"gold_reward_variance": stats.variance(part["gold_reward"])} | _cut(part))
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def _cut(part: pd.DataFrame) -> dict:
    responses = part["finish"].map({"length": 1.0, "stop": 0.0})
    return {"cut": responses.mean(), "cut_rewrites": part["rewrites_cut"].mean()}


def comparisons(answers, verdicts, cell: str, baseline: str = "nan", seed: int = 0) -> pd.DataFrame:
    """Each arm against the baseline, per prompt set: paired reward difference, log SD ratio, tests, best and worst.

    p_reward: sign-flip permutation test; p_sign: exact sign test of wins against losses. Add Holm over all cells, arms
    and prompt sets by with_holm.
    """
    answers, judged = _answers(answers), _judged(verdicts, baseline)
    rows = []
    for prompt_set, arm, part in _groups(answers):
        if arm == baseline:
            continue
        base = answers[(answers["prompt_set"] == prompt_set) & (answers["arm"] == baseline)]
        both = pd.concat([_by_prompt(part, "reward"), _by_prompt(base, "reward")], axis=1).to_numpy(dtype=float)
        own, other = both.T
        difference, ratio = stats.paired_difference(own, other, seed), stats.log_sd_ratio(own, other, seed)
        row = {"cell": cell, "prompt_set": prompt_set, "arm": arm, "baseline": baseline, "num_pairs": difference.num}
        row |= _interval("reward_difference", difference) | {"p_reward": stats.sign_flip_test(own, other, seed)}
        rows.append(row | _interval("log_sd_ratio", ratio) | _sign_tests(judged.get((prompt_set, arm))))
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of all cells with p_reward_holm and p_sign_holm beside the raw p-values."""
    table = table.copy()
    for name in ("p_reward", "p_sign"):
        table.insert(table.columns.get_loc(name) + 1, f"{name}_holm", stats.holm(table[name]))
    return table


def reward_quantiles(answers, cell: str, baseline: str = "nan") -> pd.DataFrame:
    """Per prompt set x arm: quantiles of the reward over all answers, and the share of prompts whose mean reward is
    above the baseline's (ties count half), of those that have both."""
    answers, rows = _answers(answers), []
    for prompt_set, arm, part in _groups(answers):
        rewards = part["reward"].dropna().sort_values()
        row = {"cell": cell, "prompt_set": prompt_set, "arm": arm, "num_answers": len(rewards)}
        row |= {f"q{100 * q:02.0f}": float(rewards.quantile(q)) if len(rewards) else stats.NAN for q in QUANTILES}
        rows.append(row | _improved(part, answers[answers["prompt_set"] == prompt_set], arm, baseline))
    names = ("cell", "prompt_set", "arm", "num_answers", *(f"q{100 * q:02.0f}" for q in QUANTILES))
    return pd.DataFrame(rows, columns=[*names, "num_pairs", "share_improved"])


def _improved(part: pd.DataFrame, answers: pd.DataFrame, arm: str, baseline: str) -> dict:
    if arm == baseline:
        return {}
    base = _by_prompt(answers[answers["arm"] == baseline], "reward")
    difference = (_by_prompt(part, "reward") - base).dropna()
    share = float(((difference > 0) + (difference == 0) / 2).mean()) if len(difference) else stats.NAN
    return {"num_pairs": len(difference), "share_improved": share}


def variance_split(answers, cell: str) -> pd.DataFrame:
    """Per prompt set x arm: reward variance between prompts, a prompt's rewrites and a rewrite's responses."""
    keys = [(cell, prompt_set, arm, part) for prompt_set, arm, part in _groups(_answers(answers))]
    rows = [
        {"cell": cell, "prompt_set": prompt_set, "arm": arm}
        | stats.split_variance(part["reward"], part["prompt_id"], part["rewrite"])
        for cell, prompt_set, arm, part in keys
    ]
    names = ("cell", "prompt_set", "arm", "between_prompts", "between_rewrites", "between_responses", "within_prompts")
    return pd.DataFrame(rows, columns=[*names, "total"])


def missing(answers, verdicts) -> pd.DataFrame:
    """What has no value, and why: rows of MISSING_COLUMNS; an empty table says that nothing is missing.

    what: reward, gold reward (where any answer has one) or verdict (pairs of orders; arm reads `a vs b`); a pair of
    answers without any verdict, though other prompts of its set were judged, counts as `not judged`. Rows with a
    column `cell` are taken cell by cell, and the table gets that column.
    """
    answers, verdicts = pd.DataFrame(answers), pd.DataFrame(verdicts)
    if "cell" not in answers:
        return pd.DataFrame(_missing(answers, verdicts), columns=list(MISSING_COLUMNS))
    found = []
    for cell, part in answers.groupby("cell", sort=True):
        heard = verdicts[verdicts["cell"] == cell] if "cell" in verdicts else verdicts
        found += [(cell, *row) for row in _missing(part, heard)]
    return pd.DataFrame(found, columns=["cell", *MISSING_COLUMNS])


def _missing(answers, verdicts) -> list[tuple]:
    answers, outcomes = _answers(answers), stats.combine_orders(_records(verdicts))
    found = []
    for prompt_set, arm, part in _groups(answers):
        found += _unrewarded("reward", prompt_set, arm, part)
        if answers["gold_reward"].notna().any():
            found += _unrewarded("gold reward", prompt_set, arm, part)
    answered: dict[str, set] = {}
    for arm, *key in answers[["arm", "prompt_set", "prompt_id", "sample"]].itertuples(index=False, name=None):
        answered.setdefault(arm, set()).add(tuple(key))
    for pair in sorted({_pair(row) for row in outcomes}):
        found += _unjudged(pair, [row for row in outcomes if _pair(row) == pair], answered)
    return found


def _unrewarded(what: str, prompt_set: str, arm: str, part: pd.DataFrame) -> list[tuple]:
    column = what.replace(" ", "_")
    lost = part[part[column].isna()]
    reasons = lost["reason"].where(lost["reason"].notna(), lost[f"{column}_reason"]).map(_reason)
    return [(what, prompt_set, arm, why, num, len(part)) for why, num in sorted(reasons.value_counts().items())]


def _unjudged(pair: tuple, outcomes: list[dict], answered: dict) -> list[tuple]:
    prompt_set, arm_a, arm_b = pair
    judged = {(prompt_set, row["prompt_id"], row["sample"]) for row in outcomes}
    both = {key for key in answered.get(arm_a, set()) & answered.get(arm_b, set()) if key[0] == prompt_set}
    reasons = [row["reason"] for row in outcomes if row["outcome"] == "unscored"] + ["not judged"] * len(both - judged)
    num_wanted = len(both | judged)
    counts = sorted((why, reasons.count(why)) for why in set(reasons))
    return [("verdict", prompt_set, f"{arm_a} vs {arm_b}", why, num, num_wanted) for why, num in counts]


def _pair(row: dict) -> tuple:
    return row["prompt_set"], row["arm_a"], row["arm_b"]


def _reason(reason) -> str:
    return reason if isinstance(reason, str) and reason else "no reason given"


def _records(rows) -> list[dict]:
    return pd.DataFrame(rows).to_dict("records")


def _answers(rows) -> pd.DataFrame:
    """Answers sorted by their key, numbers as floats (a missing one NaN); columns that are absent are all missing."""
    table = pd.DataFrame(rows).reindex(columns=[*ANSWER_COLUMNS, *_ENDINGS, *_REASONS])
    for name in ("reward", "gold_reward", "num_tokens", "rewrites_cut"):
        table[name] = pd.to_numeric(table[name]).astype(float)
    more = [*_ENDINGS, *_REASONS]  # of two rows alike, the one that knows them
    keys = ["prompt_set", "arm", "prompt_id", "sample", *more]
    table = table.sort_values(keys, ignore_index=True)
    return table.drop_duplicates(list(ANSWER_COLUMNS), ignore_index=True)  # an arm that two evaluations answered alike


def _groups(answers: pd.DataFrame):
    """(prompt_set, arm, its answers), prompt sets by name and arms in the house's order."""
    for prompt_set, part in answers.groupby("prompt_set", sort=True):
        for arm in arm_order(part["arm"]):
            yield prompt_set, arm, part[part["arm"] == arm]


def _by_prompt(part: pd.DataFrame, column: str) -> pd.Series:
    return part.groupby("prompt_id", sort=True)[column].mean()


def _judged(verdicts, baseline: str) -> dict[tuple, pd.DataFrame]:
    """{(prompt_set, arm): shares per prompt} against the baseline."""
    outcomes = stats.outcomes_against(stats.combine_orders(_records(verdicts)), baseline)
    table = pd.DataFrame(stats.average_samples(outcomes))
    return {} if table.empty else dict(iter(table.groupby(["prompt_set", "arm_a"])))


def wins(judged: pd.DataFrame) -> dict:
    """win, tie, lose, unscored, in prompts, and win_rate with its interval, from rows of stats.average_samples."""
    rate = stats.win_rate(judged["win"], judged["lose"], judged["num_samples"])
    counts = {name: math.fsum(judged[name].dropna()) for name in ("win", "tie", "lose")}
    return counts | {"unscored": int((judged["num_samples"] == 0).sum())} | _interval("win_rate", rate)


def _sign_tests(judged: pd.DataFrame | None) -> dict:
    if judged is None:
        return {}
    worst, best = stats.win_rate_bounds(judged["win"], judged["lose"])
    p_value = stats.sign_test(judged["win"], judged["lose"])
    return {"num_judged": len(judged), "p_sign": p_value, "worst_win_rate": worst, "best_win_rate": best}


def _interval(name: str, estimate: stats.Estimate) -> dict:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


# --- files


def write(table: pd.DataFrame, folder, name: str) -> list:
    """folder/name.csv (every digit that counts), .md and .tex (rounded, intervals beside their value). The paths."""
    shown, numeric = rounded(table), [column for column in table if pd.api.types.is_numeric_dtype(table[column])]
    return [
        paths.write_atomic(os.path.join(folder, f"{name}.csv"), as_csv(table)),
        paths.write_atomic(os.path.join(folder, f"{name}.md"), as_markdown(shown, numeric)),
        paths.write_atomic(os.path.join(folder, f"{name}.tex"), as_latex(shown, numeric)),
    ]


def as_csv(table: pd.DataFrame) -> bytes:
    """12 digits: more would only tell machines apart. Missing values are empty; a lone surrogate is written escaped."""
    text = table.to_csv(index=False, float_format="%.12g", lineterminator="\n")
    return text.encode("utf-8", "backslashreplace")


def read(path) -> pd.DataFrame:
    """A table's csv, with `nan` as the arm's name that it is and empty cells missing."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Text to read: three decimals, p-values down to <0.001, missing as –, `x [low, high]` for x, x_low and x_high."""
    shown = pd.DataFrame(index=table.index)
    for name in table:
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in table:
            continue
        shown[name] = [_shown(value, name) for value in table[name]]
        if {f"{name}_low", f"{name}_high"} <= set(table):
            ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            shown[name] = [_with_interval(text, *end) for text, end in zip(shown[name], ends, strict=True)]
    return shown


def for_page(table: pd.DataFrame) -> PageTable:
    """rounded(table) with blanks in the names, less cell, prompt_set and baseline where all rows agree on them."""
    same = [name for name in ("cell", "prompt_set", "baseline") if name in table and table[name].nunique() == 1]
    shown = table.drop(columns=same)
    numeric = {name for name in shown if pd.api.types.is_numeric_dtype(shown[name]) and shown[name].dtype != bool}
    named = rounded(shown).rename(columns=lambda name: name.replace("_", " "))
    return page_table(named, {name.replace("_", " ") for name in numeric})


def _shown(value, name: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if not isinstance(value, float) or isinstance(value, bool):
        return str(value)
    if name.startswith("p_") and value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if name not in ("win", "tie", "lose", "unscored", "num_judged") else f"{value:.4g}"


def _with_interval(text: str, value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return text
    return f"{text} (no interval)" if math.isnan(low) or math.isnan(high) else f"{text} [{low:.3f}, {high:.3f}]"


def as_markdown(shown: pd.DataFrame, numeric=()) -> str:
    marks = ["---:" if name in numeric else "---" for name in shown]
    lines = [[name.replace("_", " ") for name in shown], marks, *shown.to_numpy().tolist()]
    return "".join("| " + " | ".join(map(escape_markdown, line)) + " |\n" for line in lines)


def escape_markdown(text: str) -> str:
    escaped = str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")
    return " ".join(escaped.encode("utf-8", "backslashreplace").decode().split())


def as_latex(shown: pd.DataFrame, numeric=()) -> str:
    """A booktabs tabular."""
    columns = "".join("r" if name in numeric else "l" for name in shown)
    header = [name.replace("_", " ") for name in shown]
    lines = [" & ".join(map(escape_latex, line)) + r" \\" for line in (header, *shown.to_numpy())]
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join(["% needs \\usepackage{booktabs}", *body, r"\end{tabular}"]) + "\n"


def escape_latex(text: str) -> str:
    special = {char: f"\\{char}" for char in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}"}
    joined = " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())
    return "".join(special.get(char, char) for char in joined)

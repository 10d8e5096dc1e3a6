"""How arms stand by their verdicts, beyond the raw win rate: at equal length, in a rating of all, in other conventions.

Tables per prompt set of one cell, from rows of records.Answer and records.Verdict, whatever their order.
"""

import pandas as pd

from nbutils.analyse import conventions, ratings, stats, tables

LENGTH_COLUMNS = (
    *("cell", "prompt_set", "arm", "baseline", "num_prompts", "mean_length_difference"),
    *("win_rate", "win_rate_low", "win_rate_high"),
    *("length_controlled", "length_controlled_low", "length_controlled_high"),
)


def length_controlled(answers, verdicts, cell: str, baseline: str = "nan", seed: int = 0) -> pd.DataFrame:
    """Each arm's win rate against the baseline, raw and at equal length (tokens), side by side; rows of LENGTH_COLUMNS.

    num_prompts: those with a verdict and both lengths, which both rates are of.
    """
    outcomes, rows = stats.outcomes_against(stats.combine_orders(verdicts), baseline), []
    if not outcomes:
        return pd.DataFrame(columns=list(LENGTH_COLUMNS))
    keys = ["prompt_set", "prompt_id", "arm_a", "arm_b"]
    scores = ratings.scores_and_lengths(outcomes, _lengths(answers)).dropna()
    scores = scores.merge(pd.DataFrame(stats.average_samples(outcomes)), on=keys)
    for prompt_set, part in scores.groupby("prompt_set", sort=True):
        for arm in tables.arm_order(part["arm_a"]):
            of_arm = part[part["arm_a"] == arm]
            raw = stats.win_rate(of_arm["win"], of_arm["lose"], of_arm["num_samples"])
            fair = ratings.length_controlled_win_rate(of_arm["score"], of_arm["length_difference"], seed)
            named = (cell, prompt_set, arm, baseline, len(of_arm), of_arm["length_difference"].mean())
            rows.append((*named, raw.value, raw.low, raw.high, fair.value, fair.low, fair.high))
    return pd.DataFrame(rows, columns=list(LENGTH_COLUMNS))


def _lengths(answers) -> dict[tuple, float]:
    table = pd.DataFrame(answers)
    keys = table[["prompt_set", "prompt_id", "arm", "sample"]].itertuples(index=False, name=None)
    return dict(zip(keys, table["num_tokens"].astype(float), strict=True))


def rated(verdicts, cell: str, baseline: str = "nan", seed: int = 0) -> pd.DataFrame:
    """Bradley-Terry ratings of all arms, per prompt set: ratings.RATING_COLUMNS behind cell and prompt_set.

    From every pair that was judged: the more of them, the more is known (04's `pairs: [all]` judges each).
    """
    outcomes, parts = stats.combine_orders(verdicts), []
    for prompt_set in sorted({row["prompt_set"] for row in outcomes}):
        part = [row for row in outcomes if row["prompt_set"] == prompt_set]
        table = ratings.bradley_terry(part, baseline, seed)
        table.insert(0, "prompt_set", prompt_set)
        table.insert(0, "cell", cell)
        parts.append(table)
    columns = ["cell", "prompt_set", *ratings.RATING_COLUMNS]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def by_convention(verdicts, cell: str, baseline: str = "nan") -> pd.DataFrame:
    """The same verdicts as BPO, FastChat, AlpacaEval and this project read them; see conventions."""
    table = conventions.side_by_side(verdicts, baseline)
    table.insert(0, "cell", cell)
    return table

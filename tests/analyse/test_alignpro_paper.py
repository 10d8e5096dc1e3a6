"""Table 1 by hand, from either side; the paper's own numbers; which cell is which row of the paper."""

import math
import random

import numpy as np
import pandas as pd
import pytest
from paper_rows import LLAMA, MODELS, PHI, grid, judged, verdicts

from nbutils.analyse import alignpro_paper, stats, tables


def test_table_1_by_hand():
    """Of six prompts five are scored: two won, one lost, one flipped (a tie) and one tie."""
    (row,) = alignpro_paper.win_percentages(verdicts(), MODELS).to_dict("records")
    assert (row["cell"], row["prompter"], row["responder"], row["prompt_set"]) == ("one", PHI, LLAMA, "orca")
    assert (row["win_percent"], row["lose_percent"]) == pytest.approx((40, 20))
    assert (row["num_scored"], row["num_unscored"]) == (5, 1)
    ends = (row["win_percent_low"], row["win_percent_high"], row["lose_percent_low"], row["lose_percent_high"])
    assert ends == pytest.approx((11.7621, 76.9276, 3.6224, 62.4465), abs=1e-3)  # Wilson 2/5 and 1/5


def test_wilson_agrees_with_scipy_and_keeps_its_ends():
    import scipy.stats

    for wins, num in ((0, 20), (7, 20), (20, 20), (1, 2)):
        theirs = scipy.stats.binomtest(wins, num).proportion_ci(method="wilson")
        assert stats.wilson_interval(wins / num, num) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert all(math.isnan(end) for end in stats.wilson_interval(1.0, 1))


def test_swapping_the_sides_swaps_a_and_b():
    """Whether the rows are named the other way round, or the arm and the baseline change places."""
    (row,) = alignpro_paper.win_percentages(verdicts(), MODELS).to_dict("records")
    turned = verdicts().rename(columns={"arm_a": "arm_b", "arm_b": "arm_a"})
    turned["verdict"] = turned["verdict"].map(stats.OPPOSITE)
    assert tables.as_csv(alignpro_paper.win_percentages(turned, MODELS)) == tables.as_csv(pd.DataFrame([row]))
    (other,) = alignpro_paper.win_percentages(verdicts(), MODELS, arm="nan", baseline="alignpro").to_dict("records")
    for end in ("", "_low", "_high"):
        assert other[f"win_percent{end}"] == row[f"lose_percent{end}"]
        assert other[f"lose_percent{end}"] == row[f"win_percent{end}"]


def test_row_order_changes_no_byte_and_samples_are_averaged_first():
    rows = verdicts().to_dict("records") + judged(0, "lose", "lose", sample=1)
    table = alignpro_paper.win_percentages(rows, MODELS)
    assert table["win_percent"].tolist() == pytest.approx([100 * 1.5 / 5])
    random.Random(1).shuffle(rows)
    assert tables.as_csv(alignpro_paper.win_percentages(rows, MODELS)) == tables.as_csv(table)


@pytest.mark.parametrize("arm", ["poir", "nan"])
def test_an_arm_that_was_not_judged_gives_no_row_and_says_so(arm, tmp_path):
    table = alignpro_paper.win_percentages(verdicts(), MODELS, arm=arm)
    assert table.empty and list(table) == list(alignpro_paper.COLUMNS) and "No pair" in alignpro_paper.note(table)
    assert alignpro_paper.win_percentages([], {}).empty
    assert len(alignpro_paper.write(table, alignpro_paper.published(table), tmp_path)) == 3


def test_all_unscored_has_counts_and_no_numbers():
    table = alignpro_paper.win_percentages(verdicts([("unscored", "win")] * 3), MODELS)
    assert np.isnan(table["win_percent"][0]) and table["num_unscored"][0] == 3
    assert alignpro_paper.layout(table).iloc[0].tolist()[1:] == ["–", "–"]


def test_the_papers_numbers_are_whole_and_add_up_to_100_at_most():
    table = alignpro_paper.table_1()
    assert (
        len(table) == 12
        and list(table) == list(alignpro_paper.COLUMNS)
        and set(table["source"]) == {alignpro_paper.SOURCE}
    )
    assert table[["win_percent", "lose_percent"]].notna().all(axis=None)
    assert (table["win_percent"] + table["lose_percent"] <= 100).all()
    assert (table["win_percent"] > table["lose_percent"]).sum() == 11  # Phi with Qwen draws on Orca, 46 and 46
    assert table[["win_percent_low", "lose_percent_high", "num_unscored"]].isna().all(axis=None)
    assert (table["win_percent"].sum(), table["lose_percent"].sum()) == (701, 345)


@pytest.mark.parametrize(("model", "name"), [
    (PHI, "Phi-3.5-Instruct"),
    ("Phi-3.5-Instruct", "Phi-3.5-Instruct"),
    ("microsoft/Phi-3.5-MoE-instruct", None),
    ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen-2.5-1.5B-Instruct"),
    ("Qwen/Qwen2.5-1.5B", None),
    ("models/Qwen2.5-7B-Instruct", "Qwen-2.5-7B-Instruct"),
    ("Qwen/Qwen2.5-7B-Instruct-AWQ", None),
    (LLAMA, "Llama-3.1-8B-Instruct"),
    ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"),
    ("meta-llama/Llama-3.1-8B", None),
    ("sandbox/prompter", None),
    ("", None),
])  # fmt: skip
def test_a_model_is_the_papers_only_where_it_is_the_same(model, name):
    assert alignpro_paper.paper_model(model) == name


def test_the_papers_row_stands_beside_ours_only_where_all_agrees():
    table = alignpro_paper.win_percentages(*grid())
    theirs = alignpro_paper.published(table)
    assert alignpro_paper.matches(theirs) and len(theirs) == 12
    row = theirs[(theirs["prompter"] == PHI) & (theirs["responder"] == LLAMA) & (theirs["prompt_set"] == "helpsteer")]
    assert row[["win_percent", "lose_percent"]].to_numpy().tolist() == [[46, 37]] and row["cell"].tolist() == [
        "helpsteer-00"
    ]
    other_set = alignpro_paper.win_percentages(verdicts(prompt_set="dolly"), MODELS)
    other_model = alignpro_paper.win_percentages(verdicts(), {"one": {"prompter": PHI, "responder": PHI}})
    other_arm = alignpro_paper.win_percentages(verdicts(arms=("poir", "nan")), MODELS, arm="poir")
    for table in (other_set, other_model, other_arm):
        theirs = alignpro_paper.published(table)
        assert (
            len(theirs) == 12 and not alignpro_paper.matches(theirs) and len(alignpro_paper.blocks(table, theirs)) == 2
        )


def test_the_layout_is_the_papers():
    table = alignpro_paper.win_percentages(*grid())
    (shown,) = alignpro_paper.blocks(table, alignpro_paper.published(table)).values()
    sets = ["UltraFeedback", "HelpSteer", "Orca"]
    assert list(shown.columns)[1:] == [(name, side) for name in sets for side in "AB"]
    assert shown.iloc[:, 0].tolist()[::2] == [
        "Phi-3.5-mini-instruct, Llama-3.1-8B-Instruct",
        "Qwen2.5-1.5B-Instruct, Llama-3.1-8B-Instruct",
        "Phi-3.5-mini-instruct, Qwen2.5-7B-Instruct",
        "Qwen2.5-1.5B-Instruct, Qwen2.5-7B-Instruct",
    ]
    assert shown.iloc[0, 1:].tolist() == ["40", "20"] * 3
    assert shown.iloc[1].tolist() == ["as printed in Align-Pro, Table 1", "60", "24", "46", "37", "63", "26"]


def test_cells_with_the_same_models_and_prompt_set_stay_apart():
    rows = pd.concat([verdicts(cell="seed-0"), verdicts([("win", "win")], cell="seed-1")])
    models = {cell: MODELS["one"] for cell in ("seed-0", "seed-1")}
    table = alignpro_paper.win_percentages(rows, models)
    names = [f"Phi-3.5-mini-instruct, Llama-3.1-8B-Instruct (seed-{i})" for i in (0, 1)]
    assert alignpro_paper.layout(table).iloc[:, 0].tolist() == names
    assert alignpro_paper.layout(table).iloc[:, 1].tolist() == ["40", "100"]


def test_a_cell_without_models_goes_by_its_name():
    table = alignpro_paper.win_percentages(verdicts(), {})
    assert alignpro_paper.layout(table).iloc[0, 0] == "one" and not alignpro_paper.matches(
        alignpro_paper.published(table)
    )


def test_files_have_two_header_rows_and_the_higher_number_in_bold(tmp_path):
    table = alignpro_paper.win_percentages(*grid())
    written = alignpro_paper.write(table, alignpro_paper.published(table), tmp_path)
    assert [path.name for path in written] == ["table_1.csv", "table_1.md", "table_1.tex"]
    back = tables.read(written[0])
    assert list(back) == list(alignpro_paper.COLUMNS) and back["source"].value_counts().tolist() == [12, 12]
    assert set(back["baseline"]) == {"nan"} and back["num_unscored"].sum() == 12
    markdown, latex = (path.read_text("utf-8") for path in written[1:])
    assert "| Prompter, frozen LLM | UltraFeedback |  | HelpSteer |  | Orca |  |\n" in markdown
    assert (
        "|  | A | B | A | B | A | B |\n" in markdown and "| **63** | 26 |\n" in markdown and "| 46 | 46 |" in markdown
    )
    assert r"\multicolumn{2}{c}{UltraFeedback} & \multicolumn{2}{c}{HelpSteer}" in latex
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-7}" in latex and r"\textbf{63} & 26" in latex
    assert latex.count(r"\begin{tabular}") == 1 and "12 unscored" in markdown and "for 100 samples" in markdown


def test_odd_names_are_text_in_every_file(tmp_path):
    odd = "a_b|c\n<x> {answer_b} 50% **7**"
    table = alignpro_paper.win_percentages(verdicts(cell=odd, prompt_set=odd, arms=(odd, "nan")), {}, arm=odd)
    _, markdown, latex = (
        path.read_text("utf-8") for path in alignpro_paper.write(table, alignpro_paper.published(table), tmp_path)
    )
    assert "<x>" not in markdown and r"a\_b|c \textless{}x\textgreater{}" in latex
    assert all(line.startswith("%") for line in latex.split("\n") if "{answer_b}" in line)


def test_variances_are_those_of_the_summary_with_an_interval_over_prompts():
    rng, rows = np.random.default_rng(0), []
    for i in range(30):
        for sample in range(1 + i % 2):
            keys = {"cell": "c", "prompt_set": "s", "arm": "nan", "prompt_id": f"p{i}", "sample": sample}
            rows.append(keys | {"reward": None if i == 7 else float(100 + rng.normal() + i % 3)})
    (row,) = alignpro_paper.variances(rows, seed=1).to_dict("records")
    rewards = [each["reward"] for each in rows if each["reward"] is not None]
    assert row["reward_variance"] == pytest.approx(np.var(rewards, ddof=1)) and row["num_prompts"] == 30
    assert 0 < row["reward_variance_low"] < row["reward_variance"] < row["reward_variance_high"]
    random.Random(0).shuffle(rows)
    assert alignpro_paper.variances(rows, seed=1).to_dict("records") == [pytest.approx(row)]
    assert alignpro_paper.variances(rows, seed=2)["reward_variance_low"][0] != row["reward_variance_low"]


@pytest.mark.parametrize(("rewards", "variance"), [([1.0], math.nan), ([], math.nan), ([None], math.nan), ([2, 2], 0)])
def test_variances_that_say_nothing_have_no_interval(rewards, variance):
    rows = [
        {"cell": "c", "prompt_set": "s", "arm": "a", "prompt_id": str(i), "reward": r} for i, r in enumerate(rewards)
    ]
    table = alignpro_paper.variances(pd.DataFrame(rows, columns=["cell", "prompt_set", "arm", "prompt_id", "reward"]))
    assert len(table) == bool(rewards) and table["reward_variance_low"].isna().all()
    assert table["reward_variance"].tolist() == pytest.approx([variance] * len(table), nan_ok=True)

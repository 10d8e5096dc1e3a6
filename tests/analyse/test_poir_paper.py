"""POIR's tables by hand, from either side; the paper's own numbers and what of them contradicts itself; transfer."""

import json
import math
import random

import numpy as np
import pandas as pd
import pytest
from paper_rows import verdicts

from nbutils.analyse import alignpro_paper, poir_paper, poir_printed, stats, tables
from nbutils.experiment import steps

VICUNA, QWEN = "lmsys/vicuna-13b-v1.5", "Qwen/Qwen-14B-Chat"
MODELS = {"one": {"prompter": VICUNA, "responder": VICUNA}}
PAIRS = poir_paper.TABLES["poir_table_1"]
NAN = float("nan")


def outcomes(win, tie, lose, unscored=0):
    return [(says, says) for says, num in (("win", win), ("tie", tie), ("lose", lose)) for _ in range(num)] + [
        ("unscored", "win")
    ] * unscored


def judged(cell="one", sets=("vicuna", "dolly", "bpo_test", "self_instruct"), pair=("poir", "nan"), counts=(12, 5, 3)):
    """Each set with one win fewer and one loss more than the one before."""
    win, tie, lose = counts
    rows = [
        verdicts(outcomes(win - i, tie, lose + i), cell=cell, prompt_set=name, arms=pair) for i, name in enumerate(sets)
    ]
    return pd.concat(rows, ignore_index=True)


def by_set(table):
    return table.set_index("prompt_set")


def test_one_set_by_hand():
    """Of 12 prompts 10 are scored: 5 won, 3 lost, 2 ties; D = 0.2."""
    table = poir_paper.pair_percentages(verdicts(outcomes(5, 2, 3, 2), arms=("poir", "nan")), MODELS, PAIRS)
    row, over = table.to_dict("records")
    assert (row["win_percent"], row["tie_percent"], row["lose_percent"]) == pytest.approx((50, 20, 30))
    assert (row["num_scored"], row["num_unscored"], row["prompt_set"]) == (10, 2, "orca")
    assert (row["prompter"], row["arm_a"], row["arm_b"]) == (VICUNA, "poir", "nan")
    low, high = stats.tango_interval(5, 3, 10)
    assert (row["delta_wr"], row["delta_wr_low"], row["delta_wr_high"]) == pytest.approx((20, 100 * low, 100 * high))
    assert (row["tie_percent_low"], row["tie_percent_high"]) == pytest.approx(
        [100 * end for end in stats.wilson_interval(0.2, 10)]
    )
    assert over["prompt_set"] == poir_paper.OVER_SETS and math.isnan(over["win_percent"])
    for end in ("", "_low", "_high"):  # the mean over one set is that set's
        assert over[f"delta_wr{end}"] == pytest.approx(row[f"delta_wr{end}"])


def test_delta_wr_is_the_mean_over_sets_with_an_interval_that_simulation_confirms():
    table = by_set(poir_paper.pair_percentages(judged(), MODELS, PAIRS))
    assert table["delta_wr"].tolist() == pytest.approx([45, 35, 25, 15, 30])
    sets, over = table.iloc[:4], table.loc[poir_paper.OVER_SETS]
    below = math.sqrt(((sets["delta_wr"] - sets["delta_wr_low"]) ** 2).sum()) / 4
    assert over["delta_wr_low"] == pytest.approx(30 - below) and over["num_scored"] == 80
    rng, hits, num, sets = np.random.default_rng(0), 0, 400, []
    for win, lose, size in ((0.6, 0.3, 40), (0.9, 0.05, 20), (0.4, 0.4, 60)):
        wins, loses, _ = rng.multinomial(size, (win, lose, 1 - win - lose), size=num).T
        sets.append(100 * np.array([(wins - loses) / size, *stats.tango_interval(wins, loses, size)]).T)
    for drawn in zip(*sets, strict=True):
        counts = {"num_scored": 1, "num_unscored": 0}
        (over,) = poir_paper._over_sets([poir_paper._ends("delta_wr", ends) | counts for ends in drawn])
        hits += over["delta_wr_low"] <= 100 * (0.3 + 0.85 + 0) / 3 <= over["delta_wr_high"]
    assert 0.92 <= hits / num <= 0.98


def test_swapping_the_sides_swaps_the_numbers():
    """Whether the pair is asked for the other way round, or the rows name it so, as where poir is the baseline."""
    table = by_set(poir_paper.pair_percentages(judged(), MODELS, PAIRS))
    turned = judged().rename(columns={"arm_a": "arm_b", "arm_b": "arm_a"})
    turned["verdict"] = turned["verdict"].map(stats.OPPOSITE)
    again = poir_paper.pair_percentages(turned, MODELS, PAIRS)
    assert tables.as_csv(again) == tables.as_csv(table.reset_index()[list(again)])
    other = by_set(poir_paper.pair_percentages(judged(), MODELS, [("nan", "poir")]))
    assert other["delta_wr"].tolist() == pytest.approx((-table["delta_wr"]).tolist())
    assert other["delta_wr_low"].tolist() == pytest.approx((-table["delta_wr_high"]).tolist())
    assert other["win_percent"].tolist() == pytest.approx(table["lose_percent"].tolist(), nan_ok=True)


def test_row_order_changes_no_byte_and_samples_are_averaged_first():
    rows = judged().to_dict("records") + verdicts(
        [("lose", "lose")], cell="one", prompt_set="vicuna", arms=("poir", "nan"), sample=1
    ).to_dict("records")
    table = poir_paper.pair_percentages(rows, MODELS, PAIRS)
    assert table["win_percent"].iloc[0] == pytest.approx(100 * 11.5 / 20)
    random.Random(1).shuffle(rows)
    assert tables.as_csv(poir_paper.pair_percentages(rows, MODELS, PAIRS)) == tables.as_csv(table)


def test_a_set_without_score_is_counted_and_leaves_no_mean():
    rows = pd.concat([judged(sets=("vicuna",)), judged(sets=("dolly",)).assign(verdict="unscored")])
    table = by_set(poir_paper.pair_percentages(rows, MODELS, PAIRS))
    assert table.loc["dolly", "num_unscored"] == 20 and math.isnan(table.loc["dolly", "win_percent"])
    assert math.isnan(table.loc[poir_paper.OVER_SETS, "delta_wr"])
    assert poir_paper.layout(table.reset_index()).iloc[0].tolist()[3:] == ["60.0", "25.0", "15.0", *"–––", "–"]


def test_pairs_held_says_what_there_is_and_where_it_is_shown():
    rows = pd.concat([judged(), judged("two", ("dolly",), ("sft", "poir")), judged(pair=("rlhf", "nan"))])
    held = poir_paper.pairs_held(rows)
    assert held["pair"].tolist() == ["poir vs nan", "rlhf vs nan", "sft vs poir"]
    assert held["shown_in"].tolist() == ["POIR, Table 1", "", "POIR, Table 2"]
    assert held["prompt_sets"].tolist()[0] == "vicuna, dolly, bpo_test, self_instruct"
    assert poir_paper.pairs_held([]).empty


def test_pairs_asked_for_are_a_table_more():
    assert list(poir_paper.wanted()) == ["poir_table_1", "poir_table_2", "poir_table_3"]
    assert poir_paper.wanted(["chain:poir+alignpro vs sft"])["poir_pairs"] == (("chain:poir+alignpro", "sft"),)
    for text in ("poir", "poir vs ", "poir vs poir", "a vs b vs c"):
        with pytest.raises(ValueError, match="wanted two different arms"):
            poir_paper.read_pair(text)


@pytest.mark.parametrize("pair", [("poir", "sft"), ("nan", "bpo")])
def test_a_pair_that_was_not_judged_gives_no_row_and_says_so(pair, tmp_path):
    table = poir_paper.pair_percentages(judged(), MODELS, [pair])
    assert table.empty and list(table) == list(poir_printed.COLUMNS)
    assert poir_paper.note(table, None, [pair]) == f"Not judged here: {pair[0]} vs {pair[1]}."
    assert poir_paper.pair_percentages([], {}, PAIRS).empty
    theirs = poir_printed.published(table, "poir_table_1")
    assert len(poir_paper.write(table, theirs, tmp_path, "poir_table_1", [pair])) == 3


# --- several cells with the same models

SEEDS = {f"seed-{seed}": MODELS["one"] for seed in range(3)}
COUNTS = {"seed-0": (12, 5, 3), "seed-1": (10, 5, 5), "seed-2": (11, 6, 3)}


def seeds(cells=SEEDS, pairs=PAIRS[:1], **changes):
    """pair_percentages of cells with the same models, without and with their means."""
    rows = [judged(cell, pair=pair, counts=COUNTS[cell], **changes) for cell in cells for pair in pairs]
    table = poir_paper.pair_percentages(pd.concat(rows), SEEDS, PAIRS)
    return table, poir_paper.over_cells(table)


def test_the_mean_over_three_seeds_by_hand():
    """A Win 60, 50 and 55, ΔWR 45, 25 and 40: t(0.975, 2) = 4.302653."""
    table, pooled = seeds()
    assert len(pooled) == len(table) + 5 and set(pooled["cell"].iloc[:5]) == {"mean of 3 cells"}
    pd.testing.assert_frame_equal(pooled.iloc[5:].reset_index(drop=True), table)
    assert pooled["prompt_set"].tolist()[:5] == [*poir_paper.SETS, poir_paper.OVER_SETS]
    row, over = pooled.iloc[0], pooled.iloc[4]
    assert (row["num_scored"], row["num_unscored"], over["num_scored"]) == (60, 0, 240)
    assert (row["prompter"], row["source"], row["remark"]) == (VICUNA, "here", "cells: seed-0, seed-1, seed-2")
    for name, value, spread in (("win_percent", 55, 5), ("tie_percent", 80 / 3, 5 / math.sqrt(3))):
        half = 4.302653 * spread / math.sqrt(3)
        found = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([value, value - half, value + half], abs=1e-4)
    assert row["delta_wr"] == pytest.approx(110 / 3) and over["delta_wr"] == pytest.approx(110 / 3 - 15)
    half = 4.302653 * math.sqrt(325 / 3) / math.sqrt(3)  # variance of 45, 25, 40, whatever is taken from all of them
    assert over["delta_wr_high"] - over["delta_wr"] == pytest.approx(half, abs=1e-4)
    assert math.isnan(over["win_percent"])


def test_nothing_changes_where_no_cell_shares_its_models():
    models = {"seed-0": {"prompter": VICUNA, "responder": VICUNA}, "seed-1": {"prompter": QWEN, "responder": QWEN}}
    rows = pd.concat([judged(cell, pair=pair) for cell in models for pair in PAIRS])
    for known in (models, {}):
        table = poir_paper.pair_percentages(rows, known, PAIRS)
        pd.testing.assert_frame_equal(poir_paper.over_cells(table), table)
    apart = pd.concat([judged("seed-0"), judged("seed-1", pair=PAIRS[1])])  # one model, but no pair that both have
    assert len(poir_paper.over_cells(poir_paper.pair_percentages(apart, SEEDS, PAIRS))) == 10
    apart = pd.concat([judged("seed-0", ("dolly",)), judged("seed-1", ("vicuna",))])  # and no set that both have
    assert len(poir_paper.over_cells(poir_paper.pair_percentages(apart, SEEDS, PAIRS))) == 4
    empty = poir_paper.over_cells(poir_paper.pair_percentages([], {}, PAIRS))
    assert empty.empty and list(empty) == list(poir_printed.COLUMNS)


def test_swapping_the_sides_swaps_the_means():
    table = by_set(seeds()[1].iloc[:5])
    rows = pd.concat([judged(cell, counts=COUNTS[cell]) for cell in SEEDS])
    other = by_set(poir_paper.over_cells(poir_paper.pair_percentages(rows, SEEDS, [("nan", "poir")])).iloc[:5])
    assert other["delta_wr_low"].tolist() == pytest.approx((-table["delta_wr_high"]).tolist())
    assert other["lose_percent_low"].tolist() == pytest.approx(table["win_percent_low"].tolist(), nan_ok=True)


def test_a_cell_without_the_value_is_in_neither_the_mean_nor_its_number():
    rows = pd.concat([judged(cell, ("vicuna", "dolly"), counts=COUNTS[cell]) for cell in SEEDS], ignore_index=True)
    rows.loc[(rows["cell"] != "seed-1") & (rows["prompt_set"] == "dolly"), "verdict"] = "unscored"
    table = poir_paper.over_cells(poir_paper.pair_percentages(rows, SEEDS, PAIRS))
    vicuna, dolly, over = table.iloc[:3].to_dict("records")
    assert vicuna["delta_wr"] == pytest.approx(110 / 3) and vicuna["remark"] == "cells: seed-0, seed-1, seed-2"
    assert (dolly["delta_wr"], over["delta_wr"]) == pytest.approx((15, 20))  # seed-1's alone
    assert dolly["remark"] == over["remark"] == "cells: seed-1"
    assert math.isnan(dolly["win_percent_low"]) and math.isnan(over["delta_wr_high"])
    assert (dolly["num_scored"], dolly["num_unscored"]) == (20, 40)
    assert set(table["cell"].iloc[:3]) == {"mean of 1 to 3 cells"}
    assert poir_paper.layout(table).iloc[0].tolist()[-1] == "+20.0"
    two = pd.concat([judged("seed-0", ("vicuna", "dolly")), judged("seed-1", ("vicuna",))])
    over = poir_paper.over_cells(poir_paper.pair_percentages(two, SEEDS, PAIRS)).iloc[2]
    assert over["prompt_set"] == poir_paper.OVER_SETS and over["remark"] == "cells: seed-0"  # seed-1 lacks a set
    assert over["delta_wr"] == pytest.approx(40)


def test_means_stand_above_their_cells_and_the_papers_row_once_below_them():
    table = seeds(pairs=PAIRS[:2])[1]
    theirs = poir_printed.published(table, "poir_table_1")
    (shown,) = poir_paper.blocks(table, theirs).values()
    names = [f"vicuna-13b-v1.5 ({name})" for name in ("mean of 3 cells", *SEEDS)]
    printed = [f"as printed in POIR, Table 1, index {index}" for index in (1, 2)]
    mean, *cells = [[name] * 2 for name in names]
    assert shown.iloc[:, 0].tolist() == [mean[0], printed[0], mean[1], printed[1], *sum(cells, [])]
    assert shown.iloc[0].tolist()[3:6] == ["55.0", "26.7", "18.3"] and shown.iloc[1, -1] == "+30.5"
    assert shown.iloc[0, -1] == "+21.7 [-4.2, +47.5]"


def test_files_with_means_say_what_their_interval_is(tmp_path):
    table, pooled = seeds()
    theirs = poir_printed.published(pooled, "poir_table_1")
    csv, markdown, latex = poir_paper.write(pooled, theirs, tmp_path, "poir_table_1", PAIRS)
    back = tables.read(csv)
    assert back["cell"].value_counts()["mean of 3 cells"] == 10 and len(back) == 25  # ours and, once, the paper's
    for path in (markdown, latex):
        text = path.read_text("utf-8")
        assert text.count("vicuna-13b-v1.5 (mean of 3 cells)") == text.count("as printed in POIR, Table 1") == 1
        assert "its interval is a 95% t interval over these cells (trainings), not over prompts" in text
        assert "n = 20 prompts per set, 0 unscored" in text
    assert "t interval" not in poir_paper.note(table)


# --- the paper's numbers


@pytest.mark.parametrize(("name", "num_lines", "sums"), [
    ("poir_table_1", 15, (3361.0, 339.8, 2281.3, 268.4)),
    ("poir_table_2", 14, (3064.4, 405.6, 2133.6, 232.8)),
    ("poir_table_3", 4, (924.9, 137.2, 537.9, 102.6)),
])  # fmt: skip
def test_the_papers_numbers_are_those_of_its_text(name, num_lines, sums):
    """Sums of A Win, Tie, B Win and ΔWR over all lines, as printed."""
    lines = [line.split() for line in poir_printed._PRINTED[name].strip().splitlines()]
    assert len(lines) == num_lines and {len(line) for line in lines} == {17}
    assert [int(line[1]) for line in lines] == list(range(1, num_lines + 1))
    numbers = np.array([[float(text) for text in line[4:]] for line in lines])
    found = (*(numbers[:, side:12:3].sum() for side in range(3)), numbers[:, 12].sum())
    assert found == pytest.approx(sums, abs=1e-6)
    assert {tuple(line[2:4]) for line in lines} == set(poir_paper.TABLES[name])


def test_what_contradicts_itself_is_left_out_and_said():
    doubts = {}
    for name in poir_paper.TABLES:
        table = poir_printed.printed(name)
        for row in table[table["remark"] != ""].to_dict("records"):
            sides = ("win_percent", "tie_percent", "lose_percent", "delta_wr")
            missing = "".join(letter for letter, side in zip("WTLD", sides, strict=True) if math.isnan(row[side]))
            doubts[name[-1], row["index"], row["prompt_set"]] = missing if row["prompt_set"] in poir_paper.SETS else "Δ"
    sets = [*poir_paper.SETS]
    assert doubts == {
        **{("1", 1, "self_instruct"): "T", ("1", 2, "self_instruct"): "T"},  # 101.0
        **{("1", 5, "bpo_test"): "", ("1", 5, "self_instruct"): ""},  # index 4's Dolly and BPO-test
        **{("1", 9, "dolly"): "WTLD", ("1", 9, poir_paper.OVER_SETS): "Δ"},  # 97.0; +10.7 against +12.7
        ("1", 10, poir_paper.OVER_SETS): "Δ",  # +21.0 against +20.7
        **{("1", 11, "bpo_test"): "T", ("1", 12, "dolly"): "T", ("1", 15, "self_instruct"): "T"},  # 89.0, 97.0, 97.0
        **{("1", 14, "dolly"): "", ("1", 14, "bpo_test"): ""},
        **{("2", 1, "self_instruct"): "T", ("2", 2, "dolly"): "T"},  # 102.0, 99.5
        **{("2", 4, "dolly"): "T", ("2", 8, "vicuna"): "T"},  # 100.9, 101.0
        **{("2", 7, name): "" for name in sets},  # one row of numbers four times
        **{("3", line, "self_instruct"): "WTLD" for line in (1, 2, 3, 4)},  # BPO-test's again
    }


@pytest.mark.parametrize("name", poir_paper.TABLES)
def test_what_is_kept_agrees_with_delta_wr(name):
    """ΔWR is the mean of A Win - B Win over the sets that are there, to its last digit."""
    for _, line in poir_printed.printed(name).groupby("index"):
        sets, over = line.iloc[:4], line.iloc[4]
        total = sets[["win_percent", "tie_percent", "lose_percent"]].sum(axis=1, skipna=False).dropna()
        assert ((total - 100).abs() <= 0.11).all()
        if not math.isnan(over["delta_wr"]):
            assert sets["delta_wr"].mean() == pytest.approx(over["delta_wr"], abs=0.0501)
        assert line[["delta_wr_low", "num_unscored"]].isna().all(axis=None)
        assert line["num_scored"].tolist() == [80, 200, 200, 252, 732]


@pytest.mark.parametrize(("reference", "name"), [
    (VICUNA, "Vicuna-13B-chat"),
    ("lmsys/vicuna-13b-v1.3", "vicuna-13B-1.3v"),
    ("models/Qwen-14B-Chat", "Qwen-14B-chat"),
    ("mistralai/Mistral-7B-Instruct-v0.2", "Mistral-7B"),
    ("api:gpt-4", "GPT-4"),
    ("api:gpt-3.5-turbo", "GPT-3.5-turbo"),
    ("api:openai/gpt-4-0613", "GPT-4"),
])  # fmt: skip
def test_a_model_is_the_papers_where_it_is_the_same(reference, name):
    assert poir_printed.same_model(name, reference, reference)
    assert not poir_printed.same_model(name, reference, "sandbox/responder")


@pytest.mark.parametrize("reference", [
    "Qwen/Qwen1.5-14B-Chat", "lmsys/vicuna-13b-v1.5-16k", "api:gpt-4o", "mistralai/Mixtral-8x7B-v0.1", "sandbox/x", "",
])  # fmt: skip
def test_other_models_are_none_of_the_papers(reference):
    assert not [name for name in poir_printed._SAME_MODEL if poir_printed.same_model(name, reference)]


def test_the_papers_row_stands_beside_ours_only_where_all_agrees():
    table = poir_paper.pair_percentages(judged(), MODELS, PAIRS)
    theirs = poir_printed.published(table, "poir_table_1")
    assert alignpro_paper.matches(theirs) and theirs["index"].tolist() == [1] * 5 and set(theirs["cell"]) == {"one"}
    fewer = poir_paper.pair_percentages(judged(sets=("dolly", "sandbox")), MODELS, PAIRS)
    assert poir_printed.published(fewer, "poir_table_1")["prompt_set"].tolist() == ["dolly"]  # and no ΔWR
    more = pd.concat([judged(), judged(sets=("sandbox",))])
    theirs = poir_printed.published(poir_paper.pair_percentages(more, MODELS, PAIRS), "poir_table_1")
    assert poir_paper.OVER_SETS not in set(theirs["prompt_set"])
    mixed = {"one": {"prompter": VICUNA, "responder": QWEN}}
    for rows, models in ((judged(sets=("sandbox",)), MODELS), (judged(), mixed), (judged(), {})):
        table = poir_paper.pair_percentages(rows, models, PAIRS)
        theirs = poir_printed.published(table, "poir_table_1")
        assert len(theirs) == 75 and not alignpro_paper.matches(theirs) and len(poir_paper.blocks(table, theirs)) == 2
    assert poir_printed.published(table, "poir_pairs") is None


# --- the layout


def test_the_layout_is_the_papers():
    rows = pd.concat([judged(pair=pair) for pair in PAIRS[::-1]])
    table = poir_paper.pair_percentages(rows, MODELS, PAIRS)
    (shown,) = poir_paper.blocks(table, poir_printed.published(table, "poir_table_1")).values()
    sides = ("A Win", "Tie", "B Win")
    methods = [("Model", ""), ("Method", "A"), ("Method", "B")]
    assert list(shown.columns) == [
        *methods,
        *((name, side) for name in poir_paper.SETS.values() for side in sides),
        ("ΔWR", ""),
    ]
    assert shown.iloc[:, 2].tolist() == ["nan", "nan", "bpo", "bpo", "dpo_awo", "dpo_awo"]
    assert shown.iloc[0, 0] == "vicuna-13b-v1.5" and shown.iloc[0, 3:6].tolist() == ["60.0", "25.0", "15.0"]
    assert shown.iloc[0, -1].startswith("+30.0 [+") and shown.iloc[1, -1] == "+30.5"
    assert shown.iloc[1].tolist()[:6] == ["as printed in POIR, Table 1, index 1", "poir", "nan", "64.1", "4.5", "31.3"]
    assert shown.iloc[1].tolist()[12:15] == ["64.3", "–", "34.2"]


def test_cells_that_share_their_models_are_told_apart_and_models_stay_together():
    models = {cell: {"prompter": "sandbox/prompter", "responder": "sandbox/responder"} for cell in ("seed-0", "seed-1")}
    models |= {"gpt": {"prompter": "api:gpt-4", "responder": "api:gpt-4"}}
    rows = pd.concat([judged(cell, ("sandbox",), pair) for cell in models for pair in PAIRS[:2]])
    names = poir_paper.layout(poir_paper.pair_percentages(rows, models, PAIRS)).iloc[:, 0].tolist()
    several = [f"sandbox/prompter, sandbox/responder (seed-{seed})" for seed in (0, 0, 1, 1)]
    assert names == ["api:gpt-4"] * 2 + several
    assert poir_paper.layout(poir_paper.pair_percentages(rows, {}, PAIRS)).iloc[0, 0] == "gpt"


def test_files_have_two_header_rows_and_say_what_is_in_doubt(tmp_path):
    table = poir_paper.pair_percentages(judged(), MODELS, PAIRS)
    theirs = poir_printed.published(table, "poir_table_1")
    written = poir_paper.write(table, theirs, tmp_path, "poir_table_1", PAIRS)
    assert [path.name for path in written] == ["poir_table_1.csv", "poir_table_1.md", "poir_table_1.tex"]
    back = tables.read(written[0])
    assert list(back) == list(poir_printed.COLUMNS) and back["source"].value_counts().tolist() == [5, 5]
    assert set(back["arm_b"]) == {"nan"} and back["remark"].notna().sum() == 1
    markdown, latex = (path.read_text("utf-8") for path in written[1:])
    assert "| Model | Method |  | Vicuna Eval |  |  | Dolly Eval |" in markdown and "| ΔWR |\n" in markdown
    assert (
        "|  | A | B | A Win | Tie | B Win |" in markdown
        and "Not judged here: poir vs bpo, poir vs dpo_awo." in markdown
    )
    assert "index 1, Self-Instruct Eval: A Win, Tie and B Win add up to 101.0" in markdown
    assert r" & \multicolumn{2}{c}{Method} & \multicolumn{3}{c}{Vicuna Eval}" in latex and "Δ" not in latex
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-6}\cmidrule(lr){7-9}" in latex and latex.count(r"\begin{tabular}") == 1
    assert {line.count("&") for line in latex.split("\n") if line.endswith(r"\\") and "multicolumn" not in line} == {15}


def test_the_papers_tables_are_a_block_of_their_own_where_nothing_agrees(tmp_path):
    rows = judged(sets=("sandbox",), pair=("poir_s1", "nan"))
    pairs = poir_paper.TABLES["poir_table_3"]
    table = poir_paper.pair_percentages(rows, {}, pairs)
    theirs = poir_printed.published(table, "poir_table_3")
    _, markdown, latex = poir_paper.write(table, theirs, tmp_path, "poir_table_3", pairs)
    text = markdown.read_text("utf-8")
    assert "As printed in the paper (POIR, Table 3)" in text and "| GPT-4 | poir_s1 | nan | 65.2 | 5.8 | 29.0 |" in text
    assert "line 2, Self-Instruct Eval: repeats the set before it, and ΔWR (+39.5)" in text
    assert latex.read_text("utf-8").count(r"\begin{tabular}") == 2


def test_the_papers_index_stands_in_its_own_block_and_a_remark_is_said_once(tmp_path):
    theirs = poir_printed.printed("poir_table_2")
    shown = poir_paper.layout(theirs)
    assert shown[("Index", "")].tolist() == [str(index) for index in range(1, 15)]
    assert shown.iloc[6].tolist()[:7] == ["Vicuna-7B-chat", "7", "poir", "dpo_awi", "51.8", "8.0", "40.2"]
    assert ("Index", "") not in poir_paper.layout(poir_printed.printed("poir_table_3"))
    said = poir_paper.note(theirs.iloc[:0], theirs)
    assert said.count("the same numbers as in another set, kept") == 1
    assert "index 7, Vicuna Eval, Dolly Eval, BPO-test Eval, Self-Instruct Eval: the same" in said
    latex = poir_paper.as_latex(theirs.iloc[:0], theirs)
    assert r"Model & Index & \multicolumn{2}{c}{Method}" in latex and r"\cmidrule(lr){3-4}\cmidrule(lr){5-7}" in latex


def test_odd_names_are_text_in_every_file(tmp_path):
    odd = "a_b|c\n<x> {answer_b} 50%"
    table = poir_paper.pair_percentages(judged(odd, (odd,), (odd, "nan")), {}, [(odd, "nan")])
    _, markdown, latex = (
        path.read_text("utf-8") for path in poir_paper.write(table, None, tmp_path, "t", [(odd, "nan")])
    )
    assert "<x>" not in markdown and r"a\_b|c \textless{}x\textgreater{}" in latex
    assert all(line.startswith("%") for line in latex.split("\n") if "{answer_b}" in line)


# --- transfer


def write_manifest(folder, notebook="01_collect", inputs=(), **parameters):
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"notebook": notebook, "parameters": parameters, "inputs": dict.fromkeys(inputs, "x")}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def trained(folder, pairs, target="poir", notebook="03_train_poir"):
    write_manifest(folder, notebook, [pairs, "params/templates"], target=target)


def test_sources_follow_the_manifests_of_every_arm(outputs):
    """Pairs of the cell's own collection, of another cell's, and of no step at all; other targets and notebooks."""
    root, e = outputs.resolve().as_posix(), outputs / "e"  # outside the project, as paths.relative names it
    own, other = (f"{root}/e/{cell}/collect/pairs.jsonl" for cell in "ab")
    for cell in "ab":
        write_manifest(e / cell / "collect", responder=f"m/{cell}")
    trained(e / "a" / "poir", own)
    trained(e / "a" / "poir_other", other)
    trained(e / "a" / "dpo_awi", own, "dpo_awi")
    trained(e / "a" / "alignpro", own, notebook="02_train_alignpro")
    trained(e / "b" / "poir_other", own)
    trained(e / "b" / "poir", "data/pairs.jsonl")
    (e / "b" / "poir_unfinished").mkdir()
    trained(e / "not-asked-for" / "poir", own)
    run = steps.open_step("05_plot", {"experiment": "e", "cell": "all", "seed": 0}, "plot")
    found = poir_paper.sources(run, ["a", "b", "untrained"])
    assert found == {("a", "poir"): "m/a", ("a", "poir_other"): "m/b", ("b", "poir_other"): "m/a"}
    names = {name.removeprefix(f"{root}/e/") for name in run.finish()["inputs"]}
    steps_read = {"a/poir", "a/poir_other", "b/poir_other", "a/collect", "b/collect"}
    assert names == {f"{step}/manifest.json" for step in steps_read}


def test_transfer_by_hand_one_cell_and_several_seeds():
    models = {cell: {"prompter": "m/p", "responder": f"m/{cell[0]}"} for cell in ("a0", "a1", "b0", "c0")}
    sources = dict.fromkeys([("a0", "poir"), ("a1", "poir"), ("b0", "poir")], "m/a")
    counts = {"a0": (12, 5, 3), "a1": (10, 5, 5), "b0": (5, 5, 10), "c0": (1, 1, 1)}
    rows = pd.concat([judged(cell, ("dolly",), counts=counts[cell]) for cell in models])
    table = poir_paper.transfer(rows, models, sources)
    assert list(table) == list(poir_paper.TRANSFER_COLUMNS)
    seeds, single = table.to_dict("records")
    assert (seeds["source"], seeds["target"], seeds["num_cells"], seeds["num_scored"]) == ("m/a", "m/a", 2, 40)
    assert seeds["value"] == pytest.approx((72.5 + 62.5) / 2)
    assert seeds["high"] - seeds["value"] == pytest.approx(12.7062 * 5, abs=1e-3)  # t(0.975, 1) · 10/√2 / √2
    rate = stats.win_rate([1] * 5 + [0] * 15, [0] * 10 + [1] * 10)
    assert (single["value"], single["low"], single["high"]) == pytest.approx([100 * each for each in rate[:3]])
    assert poir_paper.transfer(rows, models, {}).empty


def arms_of(cell, **counts):
    return pd.concat([judged(cell, ("dolly",), (arm, "nan"), each) for arm, each in counts.items()])


def test_every_arm_of_a_cell_has_its_own_source():
    """Two models with two arms each fill a 2 x 2 map from two cells; an arm that is no POIR's is in none of it."""
    models = {cell: {"prompter": f"m/{cell}", "responder": f"m/{cell}"} for cell in "ab"}
    sources = {("a", "poir"): "m/a", ("a", "poir_other"): "m/b", ("b", "poir"): "m/b", ("b", "poir_other"): "m/a"}
    own, other = (12, 5, 3), (8, 4, 8)
    rows = pd.concat([arms_of("a", poir=own, poir_other=other, sft=own), arms_of("b", poir=other, poir_other=own)])
    table = poir_paper.transfer(rows, models, sources)
    found = {(row["source"], row["target"]): row["value"] for row in table.to_dict("records")}
    assert found == pytest.approx({("m/a", "m/a"): 72.5, ("m/a", "m/b"): 72.5, ("m/b", "m/a"): 50, ("m/b", "m/b"): 50})
    assert table["num_cells"].tolist() == [1] * 4 and table["low"].notna().all()
    against = poir_paper.transfer(rows, models, sources, "sft")
    assert against.empty and list(against) == list(poir_paper.TRANSFER_COLUMNS)


def test_an_own_and_another_arm_of_different_cells_share_a_square():
    """A cell named for its pairs and an arm named for them are the same thing: t interval over the two."""
    models = dict.fromkeys(("a", "a-on-b"), {"prompter": "m/a", "responder": "m/a"})
    sources = {("a", "poir_other"): "m/b", ("a-on-b", "poir"): "m/b"}
    rows = pd.concat([arms_of("a", poir_other=(12, 5, 3)), arms_of("a-on-b", poir=(10, 5, 5))])
    (row,) = poir_paper.transfer(rows, models, sources).to_dict("records")
    assert (row["value"], row["num_cells"]) == (67.5, 2)
    assert row["high"] - row["value"] == pytest.approx(12.7062 * 5, abs=1e-3)


def test_arms_of_one_cell_on_the_same_pairs_count_once():
    models = dict.fromkeys(("a0", "a1"), {"prompter": "m/a", "responder": "m/a"})
    sources = dict.fromkeys([("a0", "poir"), ("a0", "poir_beta"), ("a1", "poir")], "m/a")
    first, second = arms_of("a0", poir=(12, 5, 3), poir_beta=(8, 5, 7)), arms_of("a1", poir=(10, 5, 5))
    (row,) = poir_paper.transfer(pd.concat([first, second]), models, sources).to_dict("records")
    assert (row["value"], row["num_cells"], row["num_scored"]) == (62.5, 2, 60)  # a0: (72.5 + 52.5) / 2; a1: 62.5
    (row,) = poir_paper.transfer(first, models, sources).to_dict("records")
    rates = [stats.win_rate([1] * a + [0] * (20 - a), [0] * (20 - b) + [1] * b) for a, b in ((12, 3), (8, 7))]
    ends = [50 * (one + other) for one, other in zip(rates[0][:3], rates[1][:3], strict=True)]
    assert [row["value"], row["low"], row["high"], row["num_cells"]] == pytest.approx([*ends, 1])


def test_a_cell_with_nothing_scored_is_in_no_mean_and_its_prompts_are_counted():
    models = dict.fromkeys(("a0", "a1"), {"prompter": "m/a", "responder": "m/a"})
    sources = dict.fromkeys([("a0", "poir"), ("a1", "poir")], "m/a")
    silent = arms_of("a1", poir=(10, 5, 5)).assign(verdict="unscored")
    both = pd.concat([arms_of("a0", poir=(12, 5, 3)), silent])
    (row,) = poir_paper.transfer(both, models, sources).to_dict("records")
    assert (row["value"], row["num_cells"], row["num_scored"], row["num_unscored"]) == (72.5, 1, 20, 20)
    (row,) = poir_paper.transfer(silent, models, sources).to_dict("records")
    assert math.isnan(row["value"]) and (row["num_cells"], row["num_unscored"]) == (0, 20)


def test_a_responder_with_several_prompters_is_named_with_them():
    models = {cell: {"prompter": f"m/{cell}", "responder": "m/r"} for cell in "ab"}
    sources = dict.fromkeys([("a", "poir"), ("b", "poir")], "s")
    table = poir_paper.transfer(pd.concat([judged(cell, ("dolly",)) for cell in "ab"]), models, sources)
    assert table["target"].tolist() == ["m/a, m/r", "m/b, m/r"] and table["num_cells"].tolist() == [1, 1]

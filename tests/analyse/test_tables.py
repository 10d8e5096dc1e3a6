"""Tables: the summary by hand, what counts as missing, row order, and files that survive hostile text."""

import csv
import io
import math
import random

import numpy as np
import pandas as pd
import pytest
from made_rows import answer, judged

from nbutils.analyse import stats, tables

REWARDS = {"nan": [0.0, 1.0, 2.0, None], "alignpro": [1.0, 3.0, 2.0, 4.0]}
VERDICTS = [("win", "win"), ("win", "lose"), ("tie", "tie"), ("unscored", "win")]


@pytest.fixture
def answers():
    return [answer(i, arm, reward) for arm, rewards in REWARDS.items() for i, reward in enumerate(rewards)]


@pytest.fixture
def verdicts():
    return [row for i, says in enumerate(VERDICTS) for row in judged(i, *says)]


def test_summary_by_hand(answers, verdicts):
    table = tables.summary(answers, verdicts, "main")
    assert list(table) == [
        *("cell", "prompt_set", "arm", "num_prompts", "mean_reward", "mean_reward_low", "mean_reward_high"),
        *("reward_variance", "win", "tie", "lose", "unscored", "win_rate", "win_rate_low", "win_rate_high"),
        *("mean_gold_reward", "gold_reward_variance", "cut", "cut_rewrites"),
    ]
    base, arm = table.to_dict("records")
    assert (base["cell"], base["prompt_set"], base["arm"], base["num_prompts"]) == ("main", "s", "nan", 4)
    assert (base["mean_reward"], base["reward_variance"]) == (1.0, 1.0)  # of three: the missing one is not 0
    assert base["mean_reward_low"] == pytest.approx(1 - 4.302653 / 3**0.5)
    assert all(math.isnan(base[name]) for name in ("win", "tie", "lose", "unscored", "win_rate", "win_rate_low"))
    assert (arm["mean_reward"], arm["reward_variance"]) == (2.5, pytest.approx(5 / 3))
    assert (arm["win"], arm["tie"], arm["lose"], arm["unscored"]) == (1, 2, 0, 1)
    low, high = stats.tango_interval(1, 0, 3)
    expected = (2 / 3, (1 + low) / 2, (1 + high) / 2)
    assert (arm["win_rate"], arm["win_rate_low"], arm["win_rate_high"]) == pytest.approx(expected)
    assert math.isnan(arm["mean_gold_reward"])


def test_samples_of_a_prompt_are_averaged_first():
    """Prompt 0 scores 0 and 2 (mean 1), prompt 1 only 3: the mean is 2, not 5/3. Wins: half of prompt 0, all of 1."""
    rows = [answer(0, "alignpro", 0.0), answer(0, "alignpro", 2.0, 1), answer(1, "alignpro", 3.0)]
    heard = judged(0, "win", "win") + judged(0, "lose", "lose", sample=1) + judged(1, "win", "win")
    (row,) = tables.summary(rows, heard, "main").to_dict("records")
    assert row["mean_reward"] == 2.0 and row["num_prompts"] == 2
    assert row["reward_variance"] == pytest.approx(np.var([0, 2, 3], ddof=1))  # over all answers
    assert (row["win"], row["tie"], row["lose"], row["win_rate"]) == (1.5, 0, 0.5, 0.75)


def test_prompt_sets_and_arms_come_in_the_houses_order():
    arms = ["zebra", "poir", "nan", "chain:poir+alignpro", "alignpro", "untrained"]
    rows = [answer(0, arm, 1.0, prompt_set=name) for name in ("t", "s") for arm in arms]
    table = tables.summary(rows, [], "main")
    assert list(table["prompt_set"]) == ["s"] * 6 + ["t"] * 6
    assert list(table["arm"][:6]) == ["nan", "untrained", "alignpro", "poir", "chain:poir+alignpro", "zebra"]


def test_any_baseline_and_either_name_of_the_pair(answers, verdicts):
    """Against alignpro, nan loses what alignpro won."""
    table = tables.summary(answers, verdicts, "main", baseline="alignpro").set_index("arm")
    assert table.loc["nan", ["win", "tie", "lose", "unscored"]].tolist() == [0, 2, 1, 1]
    assert table.loc["nan", "win_rate"] == pytest.approx(1 / 3)
    assert np.isnan(table.loc["alignpro", "win_rate"])


def test_row_order_changes_no_byte(answers, verdicts):
    def everything():
        shown = (answers, verdicts, "main")
        parts = [tables.summary(*shown), tables.comparisons(*shown), tables.reward_quantiles(answers, "main")]
        return [tables.as_csv(part) for part in (*parts, tables.variance_split(answers, "main"))]

    expected = everything()
    for seed in (1, 2):
        random.Random(seed).shuffle(answers)
        random.Random(seed).shuffle(verdicts)
        assert everything() == expected


def test_answers_with_lone_surrogates_make_a_table(answers, verdicts):
    """Models write them; pandas' Arrow strings would stop with UnicodeEncodeError."""
    plain = tables.as_csv(tables.summary(answers, verdicts, "main"))
    odd = [row | {"rewrite": "\ud800", "response": "\udfff", "prompt": "\ud800"} for row in answers]
    assert tables.as_csv(tables.summary(odd, verdicts, "main")) == plain
    assert len(tables.variance_split(odd, "main")) == 2


def test_identical_answers_of_two_evaluations_count_once(answers, verdicts):
    once = tables.summary(answers, verdicts, "main")
    assert tables.as_csv(tables.summary(answers * 2, verdicts * 2, "main")) == tables.as_csv(once)


def test_cut_is_a_share_of_what_is_known_and_missing_where_nothing_is():
    """Of nan two of three known responses were cut; of poir one of two known rewrites; of bpo nobody knows."""
    ends = {"nan": (["length", "stop", "length", None], [None] * 4), "poir": (["stop"] * 4, [True, False, None, None])}
    rows = [
        answer(i, arm, 1.0, finish=end, rewrites_cut=cut)
        for arm, both in ends.items()
        for i, (end, cut) in enumerate(zip(*both, strict=True))
    ]
    rows += [answer(i, "bpo", 1.0) for i in range(4)]  # of a run before endings were stored
    table = tables.summary(rows, [], "main").set_index("arm")
    assert table.loc["nan", "cut"] == pytest.approx(2 / 3) and np.isnan(table.loc["nan", "cut_rewrites"])
    assert table.loc["poir", ["cut", "cut_rewrites"]].tolist() == [0.0, 0.5]
    assert table.loc["bpo", ["cut", "cut_rewrites"]].isna().all()


def test_an_answer_with_and_without_its_ending_counts_once_and_moves_no_other_column(answers, verdicts):
    """Two evaluations answered alike, one before endings were stored: the one that knows is kept, in any order."""
    before = tables.summary(answers, verdicts, "main").drop(columns=["cut", "cut_rewrites"])
    ended = [row | {"finish": "length", "rewrites_cut": False} for row in answers]
    for rows in (answers + ended, ended + answers):
        after = tables.summary(rows, verdicts, "main")
        assert after["cut"].tolist() == [1.0, 1.0] and after["cut_rewrites"].tolist() == [0.0, 0.0]
        pd.testing.assert_frame_equal(after.drop(columns=["cut", "cut_rewrites"]), before)


@pytest.mark.parametrize("num", [0, 1])
def test_no_rows_and_one_row(num):
    """Defined results, and no interval below two prompts."""
    rows = [answer(i, arm, 1.0) for i in range(num) for arm in ("nan", "alignpro")]
    heard = [row for i in range(num) for row in judged(i, "win", "win")]
    table = tables.summary(rows, heard, "main")
    assert len(table) == 2 * num and list(table) == list(tables.SUMMARY_COLUMNS)
    if num:
        assert table["win_rate"].tolist()[1] == 1.0
        assert table[["mean_reward_low", "win_rate_low", "win_rate_high", "reward_variance"]].isna().all(axis=None)
        assert "1.000 (no interval)" in tables.as_markdown(tables.rounded(table))
    compared = tables.with_holm(tables.comparisons(rows, heard, "main"))
    assert len(compared) == num
    assert tables.missing(rows, heard).empty


def test_comparisons_by_hand(answers, verdicts):
    """Three prompts have both rewards: differences 1, 2, 0. Signs: only +1 +2 and -1 -2 reach 3, 4 of 8."""
    (row,) = tables.comparisons(answers, verdicts, "main", seed=3).to_dict("records")
    assert (row["arm"], row["baseline"], row["num_pairs"], row["reward_difference"]) == ("alignpro", "nan", 3, 1.0)
    assert row["p_reward"] == 0.5 and row["p_sign"] == 1.0 and row["num_judged"] == 4
    assert (row["worst_win_rate"], row["best_win_rate"]) == (2 / 4, 3 / 4)
    assert row["log_sd_ratio"] == pytest.approx(0.0)  # SD 1 and 1 over those three


def test_holm_runs_over_all_rows():
    table = pd.DataFrame({"arm": ["a", "b"], "p_reward": [0.01, np.nan], "p_sign": [0.03, 0.02]})
    adjusted = tables.with_holm(table)
    assert list(adjusted) == ["arm", "p_reward", "p_reward_holm", "p_sign", "p_sign_holm"]
    assert adjusted["p_sign_holm"].tolist() == pytest.approx([0.04, 0.04])
    assert adjusted["p_reward_holm"][0] == 0.01 and np.isnan(adjusted["p_reward_holm"][1])


def test_quantiles_and_improved_prompts_by_hand():
    """Four answers at 0, 1, 2, 3; against the baseline's ones they are below, equal, above and above."""
    rows = [answer(i, "alignpro", float(i)) for i in range(4)] + [answer(i, "nan", 1.0) for i in range(5)]
    table = tables.reward_quantiles(rows, "main").set_index("arm")
    assert table.loc["alignpro", ["q05", "q25", "q50", "q75", "q95"]].tolist() == pytest.approx(
        [0.15, 0.75, 1.5, 2.25, 2.85]
    )
    assert table.loc["alignpro", ["num_answers", "num_pairs", "share_improved"]].tolist() == [4, 4, 2.5 / 4]
    assert np.isnan(table.loc["nan", "share_improved"]) and table.loc["nan", "q50"] == 1.0


def test_missing_counts_every_hole_with_its_reason(answers, verdicts):
    answers += [answer(9, arm, 1.0) for arm in ("nan", "alignpro")]  # answered, never judged
    found = tables.missing(answers, verdicts[:-1]).to_dict("records")
    as_rows = [tuple(row.values()) for row in found]
    assert as_rows == [
        ("reward", "s", "nan", "no response", 1, 5),
        ("verdict", "s", "alignpro vs nan", "garbled; order missing", 1, 5),
        ("verdict", "s", "alignpro vs nan", "not judged", 1, 5),
    ]


def test_missing_goes_cell_by_cell(answers, verdicts):
    """The same prompts in two cells, judged differently, are no contradiction."""
    both = pd.concat([pd.DataFrame(answers).assign(cell=name) for name in "ab"])
    other = [row | {"verdict": "tie"} for row in verdicts]
    heard = pd.concat([pd.DataFrame(verdicts).assign(cell="a"), pd.DataFrame(other).assign(cell="b")])
    table = tables.missing(both, heard)
    assert table[["cell", "what", "num_missing"]].to_numpy().tolist() == [
        *(["a", "reward", 1], ["a", "verdict", 1]),
        ["b", "reward", 1],
    ]


def test_gold_rewards_are_missed_only_where_there_are_any(answers):
    answers[0]["gold_reward"] = 1.0
    table = tables.missing(answers, [])
    assert table.query("what == 'gold reward'")["num_missing"].sum() == 7


def test_files_round_in_md_and_tex_but_not_in_csv(answers, verdicts, tmp_path):
    table = tables.summary(answers, verdicts, "main")
    written = tables.write(table, tmp_path / "new", "summary")
    assert [path.name for path in written] == ["summary.csv", "summary.md", "summary.tex"]
    back = tables.read(written[0])
    assert back["arm"].tolist() == ["nan", "alignpro"]  # a name, not a missing value
    for name in ("mean_reward_low", "win_rate", "win_rate_low", "reward_variance"):
        assert np.allclose(back[name], table[name], rtol=1e-11, atol=0, equal_nan=True)
    assert written[0].read_text().split("\n")[1].split(",")[8:12] == ["", "", "", ""]
    low, high = table["win_rate_low"][1], table["win_rate_high"][1]
    markdown, latex = written[1].read_text(encoding="utf-8"), written[2].read_text(encoding="utf-8")
    for text in (markdown, latex):
        assert f"0.667 [{low:.3f}, {high:.3f}]" in text and "2.500" in text
    assert markdown.count("\n") == 4 and len({line.count("|") for line in markdown.strip().split("\n")}) == 1
    assert latex.count(r"\\") == 3 and r"\begin{tabular}{lllr" in latex


def test_p_values_and_fractions_are_readable():
    table = pd.DataFrame({"p_sign": [1e-9, 0.04], "win": [61.5, 61.0], "num_prompts": [80, 80]})
    assert tables.rounded(table).to_numpy().tolist() == [["<0.001", "61.5", "80"], ["0.040", "61", "80"]]


NASTY = ["a|b", "line\nbreak", "50% & $x_1$ {y} #~^\\", "<b>x</b>", "[x](javascript:1)", "\u2028\u0085", "\ud800", "ü"]


def test_hostile_text_stays_in_its_cell(tmp_path):
    table = pd.DataFrame({"arm": NASTY, "num": range(len(NASTY))})
    as_csv, as_md, as_tex = (path.read_bytes().decode("utf-8") for path in tables.write(table, tmp_path, "nasty"))
    rows = list(csv.reader(io.StringIO(as_csv, newline="")))
    assert [row[0] for row in rows[1:]] == [*NASTY[:6], "\\ud800", "ü"]
    assert as_md.count("\n") == 2 + len(NASTY) and "<b>" not in as_md and "](j" not in as_md and "a\\|b" in as_md
    assert r"50\% \& \$x\_1\$ \{y\} \#\textasciitilde{}\textasciicircum{}\textbackslash{}" in as_tex
    assert as_tex.count(r" \\" + "\n") == 1 + len(NASTY)


def test_writing_again_writes_the_same_bytes(answers, verdicts, tmp_path):
    table = tables.summary(answers, verdicts, "main")
    first = [path.read_bytes() for path in tables.write(table, tmp_path, "t")]
    assert [path.read_bytes() for path in tables.write(table, tmp_path, "t")] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.md", "t.tex"]  # no scratch file stays


def test_a_page_shows_no_column_that_says_the_same_in_every_row():
    table = pd.DataFrame(
        {"cell": ["a", "a"], "arm": ["nan", "poir"], "mean_reward": [1.0, math.nan], "prompt_set": ["x", "y"]}
    )
    shown = tables.for_page(table)
    assert list(shown) == ["arm", "mean reward", "prompt set"]
    assert list(shown["mean reward"]) == ["1.000", "–"] and list(shown.arm) == ["nan", "poir"]

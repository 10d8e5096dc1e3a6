"""The report says how much there is and how much is missing, shows every arm, and can be shared."""

import csv
import json
import os

import pandas as pd
import pytest
from browser import CHROMIUM, PNG
from hostile import HOSTILE_HTML, NOWHERE, active_content, visible_text
from made_rows import judged

from nbutils.analyse import agreement, health, tables
from nbutils.experiment import paths
from nbutils.report import assemble

SUMMARY = (
    *("cell", "prompt_set", "arm", "num_prompts", "mean_reward", "mean_reward_low", "mean_reward_high"),
    *("reward_variance", "win", "tie", "lose", "unscored", "win_rate", "win_rate_low", "win_rate_high"),
)
NAN = ("main", "sandbox", "nan", 200, 0.17, 0.15, 0.19, 0.21, "", "", "", "", "", "", "")
POIR = ("main", "sandbox", "poir", 200, 0.5, 0.4, 0.6, 0.05, 150, 30, 17, 3, 0.8376, 0.79, 0.88)
MISSING = ("cell", "what", "prompt_set", "arm", "reason", "num_missing", "num_wanted")
CASES = ("cell", "prompt_set", "prompt_id", "prompt", "arm", "rewrite", "response", "reward", "verdict")


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_manifest(cell, step, notebook, **counts):
    folder = paths.step_folder("tiny", cell, step)
    own = {"experiment": "tiny", "cell": cell, "step": step, "notebook": notebook, "counts": counts, "seed": 7}
    own |= {"parameters": {"kl_weight": 0.05}, "versions": {"torch": "2.13.0"}, "commit": "abc123+"}
    paths.write_atomic(folder / "manifest.json", json.dumps(own | {"seconds": 65.2, "tokens": 1200, "schema": 1}))
    paths.write_atomic(folder / "notebook.html", "x")


@pytest.fixture
def plot(tmp_path, monkeypatch):
    """The folder of a finished 05_plot."""
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    monkeypatch.delenv("WORKBOOK_OUTPUTS", raising=False)
    folder = paths.step_folder("tiny", "all", "plot")
    write_csv(folder / "tables" / "summary.csv", SUMMARY, [NAN, POIR])
    write_csv(folder / "tables" / "missing.csv", MISSING, [])
    write_csv(
        folder / "tables" / "cases.csv",
        CASES,
        [("main", "s", "1", "the otter?", "poir", "in detail", "it swims", 0.5, "win")],
    )
    paths.write_atomic(folder / "figures" / "reward_mean.png", PNG)
    paths.write_atomic(folder / "figures" / "reward_mean.csv", "a\n")
    write_manifest("main", "collect", "01_collect", prompts=1000, pairs=541)
    write_manifest("all", "plot", "05_plot", prompts=200)
    return folder


def test_first_line_counts_prompts_arms_and_what_is_unscored_with_reasons(plot):
    write_csv(plot / "tables" / "missing.csv", MISSING, [
        ("main", "verdict", "sandbox", "poir vs nan", "no verdict in the last line", 3, 200),
        ("main", "reward", "sandbox", "poir", "empty response", 1, 200),
    ])  # fmt: skip
    text = visible_text(assemble.write_report("tiny").read_text("utf-8"))
    assert "200 prompts, 2 arms; unscored: 3 verdicts (no verdict in the last line), 1 reward (empty response)." in text
    assert "read the comparison with care" not in text


def test_a_large_unscored_share_is_announced_above_the_table(plot):
    write_csv(plot / "tables" / "missing.csv", MISSING, [("main", "verdict", "s", "poir vs nan", "refused", 50, 200)])
    text = visible_text(assemble.write_report("tiny").read_text("utf-8"))
    assert "Up to 25.0% of what was to be scored has no score" in text


def test_a_win_rate_that_hides_a_large_unscored_share_is_withheld(plot, capsys):
    """60 won, 20 tied, 20 lost, 100 unscored: 35% if all of these were lost, 85% if all were won."""
    row = (*POIR[:8], 60, 20, 20, 100, 0.7, 0.6, 0.8)
    write_csv(plot / "tables" / "summary.csv", SUMMARY, [NAN, row])
    said = "withheld  [35.0% to 85.0%, 50.0% unscored]"
    assert said in "\n".join(assemble.headline("tiny"))
    page = visible_text(assemble.write_report("tiny").read_text("utf-8"))
    assert "withheld 35.0% to 85.0%, 50.0% unscored" in page and "70.0%" not in page


def test_the_same_verdicts_are_read_at_equal_length_and_as_others_do(plot):
    lengths = ("cell", "prompt_set", "arm", "mean_length_difference", "win_rate", "win_rate_low", "win_rate_high")
    lengths += ("length_controlled", "length_controlled_low", "length_controlled_high")
    row = ("main", "sandbox", "poir", 9.4, 0.9175, 0.876, 0.945, 0.604, 0.467, 0.766)
    write_csv(plot / "tables" / "length_controlled.csv", lengths, [row])
    others = [("BPO", 0.885, ""), ("FastChat", 0.9175, ""), ("AlpacaEval", 0.9175, 0.0173)]
    rows = [("main", "sandbox", "poir", *other) for other in others]
    header = ("cell", "prompt_set", "arm", "convention", "win_rate", "standard_error")
    text = " ".join(visible_text(assemble.write_report("tiny").read_text("utf-8")).split())
    assert "60.4% 46.7% to 76.6% +9.4 – – –" in text
    write_csv(plot / "tables" / "conventions.csv", header, rows)
    text = " ".join(visible_text(assemble.write_report("tiny").read_text("utf-8")).split())
    assert "poir 91.8% 87.6% to 94.5% 60.4% 46.7% to 76.6% +9.4 88.5% 91.8% 91.8% ± 1.7%" in text


def test_a_judge_that_fails_its_checks_is_announced_above_the_table(plot):
    card = health.card([], [], [], "main")
    tables.write(card, plot / "tables", "judge_health")
    assert "This judge fails" not in assemble.write_report("tiny").read_text("utf-8")
    card.loc[3, ["value", "low", "high", "num", "sound"]] = [0.9, 0.8, 0.95, 80, False]
    tables.write(card, plot / "tables", "judge_health")
    text = visible_text(assemble.write_report("tiny").read_text("utf-8"))
    wanted = "This judge fails 1 of its checks. identical responses called different: 90% of 80, wanted at most 20%."
    assert text.index(wanted) < text.index("what the others are judged against")


CUT = ("cut", "cut_rewrites")


def test_a_large_share_of_cut_answers_is_on_the_page_and_in_the_terminal(plot):
    """30 of 30 responses at the limit, as of a real model: no line may say that all is well."""
    rows = [(*NAN, 1.0, ""), (*POIR, 0.043, 0.125)]
    write_csv(plot / "tables" / "summary.csv", SUMMARY + CUT, rows)
    text = " ".join(visible_text(assemble.write_report("tiny").read_text("utf-8")).split())
    assert "2 arms; every answer and every pair was scored; cut at their limit of tokens: up to 100.0% of" in text
    assert "100.0% of an arm's responses and 12.5% of an arm's rewrites." in text
    for banner in ("nan 100.0%. Raise max_response_tokens", "poir 12.5%. Raise max_rewrite_tokens"):
        assert text.index(f"was compared: {banner} and run 04") < text.index("what the others are judged against")
    assert "4.3% rewrites 12.5%" in text and "poir 4.3%" not in text  # below 5%: in the table alone
    header, nan, poir = assemble.headline("tiny")
    assert header.endswith("responses cut  rewrites cut")
    assert nan.split()[-2:] == ["100.0%", "–"] and poir.split()[-2:] == ["4.3%", "12.5%"]


def test_a_small_share_of_cut_answers_is_in_the_table_and_the_first_line_alone(plot):
    write_csv(plot / "tables" / "summary.csv", SUMMARY + CUT, [(*NAN, 0.05, ""), (*POIR, 0.0002, 0.0)])
    page = assemble.write_report("tiny").read_text("utf-8")
    assert "scored; cut at their limit of tokens: up to 5.0% of an arm's responses." in visible_text(page)
    assert "Raise" not in page
    assert assemble.headline("tiny")[0].endswith("win rate against the baseline")
    write_csv(plot / "tables" / "summary.csv", SUMMARY + CUT, [(*NAN, 0.0, ""), (*POIR, 0.0002, 0.0)])
    assert "up to 0.1% of" in assemble.write_report("tiny").read_text("utf-8")  # never 0.0%
    write_csv(plot / "tables" / "summary.csv", SUMMARY + CUT, [(*NAN, 0.0, ""), (*POIR, "", 0.0)])
    page = visible_text(assemble.write_report("tiny").read_text("utf-8"))
    assert "every pair was scored." in page and "Cut: the share" in page


@pytest.mark.parametrize("arm", ["poir_s1", "shuffled:poir_s1"])
def test_the_limit_that_is_named_is_the_arms_own(plot, arm):
    write_csv(plot / "tables" / "summary.csv", SUMMARY + CUT, [("main", "s", arm, *POIR[3:], 0.0, 0.5)])
    assert f"{arm} 50.0%. Raise max_prompt_tokens" in assemble.write_report("tiny").read_text("utf-8")


def test_cut_answers_of_many_cells_make_one_banner_that_names_the_worst(plot):
    rows = [(f"c{i}", *NAN[1:], 0.9 - i / 100, "") for i in range(9)]
    write_csv(plot / "tables" / "summary.csv", SUMMARY + CUT, rows)
    page = visible_text(assemble.write_report("tiny").read_text("utf-8"))
    assert "nan · c0 90.0%, nan · c1 89.0%" in page and "nan · c5 85.0% and 3 more. Raise" in page
    assert page.count("Raise max_response_tokens") == 1


def test_what_people_say_of_the_judge_stands_in_its_section(plot):
    """Only where there are labels; a name is a person's own text."""
    paths.write_atomic(plot / "figures" / "judge_health.png", PNG)
    assert "Against human labels" not in assemble.write_report("tiny").read_text("utf-8")
    place = {"cell": "main", "prompt_set": "s", "sample": 0, "arm_a": "poir", "arm_b": "nan"}
    said = [(word, word if i % 3 else "tie") for i, word in enumerate(["win", "lose"] * 15)]
    who = HOSTILE_HTML[0]
    rows = [place | {"prompt_id": f"p{i}", "outcome": a, "who": who, "label": b} for i, (a, b) in enumerate(said)]
    other = [row | {"who": "bert"} for row in rows]
    verdicts = [v | {"cell": "main"} for i, (a, _) in enumerate(said) for v in judged(i, a, a, arm_a="poir")]
    agreement.write(agreement.Labelled([*rows, *other]), pd.DataFrame(verdicts), "nan", plot / "tables")
    page = assemble.write_report("tiny").read_text("utf-8")
    text = " ".join(visible_text(page).split())
    assert active_content(page) == [] and who in text
    assert "judge and people 30 66.7%" in text and "win1050 tie000 lose0510" in text
    assert text.index("The judge") < text.index("Against human labels") < text.index("corrected by human labels")
    assert agreement.ASSUMED not in text and "drawn at random from the judged ones" in text
    assert "every judged prompt is labelled" in text and "30 of 30" in text


def test_nothing_missing_is_said_too(plot):
    assert "every answer and every pair was scored." in assemble.write_report("tiny").read_text("utf-8")


def test_table_cases_figures_and_steps_are_there(plot):
    page = assemble.write_report("tiny").read_text("utf-8")
    text = " ".join(visible_text(page).split())
    assert "0.500 0.400 to 0.600" in text and "83.8% 79.0% to 88.0%" in text and "150, 30, 17, 3 unscored" in text
    assert "what the others are judged against" in text  # the baseline's row
    assert all(
        part in text for part in ("the otter?", "in detail", "it swims", "prompts: 1,000, pairs: 541", "abc123+")
    )
    assert 'href="figures/reward_mean.csv"' in page and "data:image/png;base64," in page
    assert 'href="../../main/collect/notebook.html"' in page and (plot / "../../main/collect/notebook.html").exists()
    assert "65 s" in text and "in all2 min2,400" in text  # 2 × 65.2 seconds, 2 × 1,200 tokens


JUDGED = tuple(
    f"{name}_{order}"
    for order in ("arm_first", "baseline_first")
    for name in ("verdict", "arm_score", "baseline_score", "judge")
)


def test_cases_show_each_orders_verdict_scores_and_the_judges_words(plot):
    heard = ("win", 8.0, 7.5, "8 7.5\nMore detail.", "unscored (empty answer)", "", "", "")
    baseline = ("main", "s", "1", "the otter?", "nan", "the otter?", "an animal", 0.1, "", *[""] * 8)
    arm = ("main", "s", "1", "the otter?", "poir", "in detail", "it swims", 0.5, "win", *heard)
    write_csv(plot / "tables" / "cases.csv", CASES + JUDGED, [baseline, arm])
    page = assemble.write_report("tiny").read_text("utf-8")
    text = " ".join(visible_text(page).split())
    assert (
        "shown first: win, 8 to 7.5" in text
        and "More detail." in text
        and "shown second: unscored (empty answer)" in text
    )
    assert page.count('<div class="label">judge</div>') == 1  # none for the baseline
    assert page.count("<summary>shown first") == 1 and page.count("<summary>shown second") == 0


@pytest.mark.parametrize("text", HOSTILE_HTML)
def test_a_judges_hostile_words_stay_text(plot, text):
    row = ("main", "s", "1", "the otter?", "poir", "in detail", "it swims", 0.5, "win", *[text] * 8)
    write_csv(plot / "tables" / "cases.csv", CASES + JUDGED, [row])
    page = assemble.write_report("tiny").read_text("utf-8")
    assert active_content(page) == [] and visible_text(page).count(text) >= 4


def test_the_papers_figures_have_a_section_of_their_own(plot):
    for name in ("paper_rewards", "paper_variances", "win_percentages"):
        paths.write_atomic(plot / "figures" / f"{name}.png", PNG)
    text = visible_text(assemble.write_report("tiny").read_text("utf-8"))
    places = [text.index(word) for word in ("Results", "As the Align-Pro paper", "Figure 2", "Figure 3", "Table 1")]
    assert places == sorted(places)


def test_links_to_notebooks_that_are_not_there_are_left_out(plot):
    (plot / "../../main/collect/notebook.html").resolve().unlink()
    assert "main/collect/notebook.html" not in assemble.write_report("tiny").read_text("utf-8")


def test_headline_is_a_plain_table(plot):
    lines = assemble.headline("tiny")
    assert lines[0].split("  ")[0] == "arm" and len(lines) == 3
    assert (
        lines[2].startswith("poir") and "0.500  [0.400 to 0.600]" in lines[2] and "83.8%  [79.0% to 88.0%]" in lines[2]
    )
    assert lines[1].rstrip().endswith("–")


def test_cells_get_a_title_each_where_there_are_several(plot):
    other = ("other", *POIR[1:])
    write_csv(plot / "tables" / "summary.csv", SUMMARY, [NAN, POIR, other])
    assert [line for line in assemble.headline("tiny") if line in ("main", "other")] == ["main", "other"]
    assert "2 cells" in assemble.write_report("tiny").read_text("utf-8")


def test_values_without_interval_say_so(plot):
    write_csv(plot / "tables" / "summary.csv", SUMMARY, [NAN, (*POIR[:5], "", "", *POIR[7:13], "", "")])
    assert assemble.headline("tiny")[2].count("no interval") == 2


@pytest.mark.parametrize("missing", ["tables/missing.csv", "tables/cases.csv", "figures/reward_mean.png"])
def test_a_report_does_without_its_lesser_parts(plot, missing):
    (plot / missing).unlink()
    assert assemble.write_report("tiny").exists()


def test_without_a_summary_the_notebook_to_run_is_named(plot):
    (plot / "tables" / "summary.csv").unlink()
    with pytest.raises(FileNotFoundError, match="summary.csv not found or empty: run 05_plot first"):
        assemble.write_report("tiny")


def fill_with(plot, text):
    write_csv(plot / "tables" / "summary.csv", SUMMARY, [NAN, ("main", text, text, *POIR[3:])])
    write_csv(plot / "tables" / "missing.csv", MISSING, [("main", text, text, text, text, 3, 200)])
    write_csv(plot / "tables" / "cases.csv", CASES, [(text, text, "1", text, text, text, text, text, text)])
    manifest = json.loads((plot / "manifest.json").read_text("utf-8"))
    manifest |= {"commit": text, "counts": {"prompts": 200}, "parameters": {text: text}, "versions": {text: text}}
    paths.write_atomic(plot / "manifest.json", json.dumps(manifest))
    paths.write_atomic(plot / "figures" / "evil.png", text)


@pytest.mark.parametrize("text", HOSTILE_HTML)
def test_hostile_text_anywhere_stays_text(plot, text):
    fill_with(plot, text)
    page = assemble.write_report("tiny").read_text("utf-8")
    assert active_content(page) == [] and text in visible_text(page)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_a_hostile_report_without_request_or_dialog(plot):
    playwright = pytest.importorskip("playwright.sync_api")
    fill_with(plot, "\n".join(HOSTILE_HTML))
    page, seen = assemble.write_report("tiny"), []
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        tab = browser.new_page()
        tab.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: seen.append(request.url))
        tab.goto(page.as_uri())
        tab.wait_for_timeout(300)
        assert tab.evaluate("document.scripts.length") == 0 and NOWHERE in tab.inner_text("body")
        browser.close()
    assert [url for url in seen if not url.startswith(("file://", "data:image/"))] == []


def test_nasty_strings_and_a_megabyte_line_come_through(plot):
    text = "a\x85b\u2028c \x00 {answer_b} {{ 7*7 }} \u202e" + "x" * 1_000_000
    fill_with(plot, text)
    page = assemble.write_report("tiny").read_text("utf-8")
    assert "{{ 7*7 }}" in page and "\x00" not in page and "x" * 1_000_000 in page


def test_a_secret_in_a_result_is_not_in_the_report(plot, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary0123456789abcdef")
    fill_with(plot, f"error: {os.environ['HF_TOKEN']} refused")
    page = assemble.write_report("tiny").read_text("utf-8")
    assert "hf_canar" not in page and "error: [secret] refused" in visible_text(page)

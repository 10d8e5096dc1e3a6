"""Cases side by side: whatever a text holds stays text, in a notebook and in its page; marks do not need colours."""

import re

import pandas as pd
import pytest
from hostile import HOSTILE_HTML, NASTY, active_content, visible_text
from made_rows import answer, judged

from nbutils.analyse import gather
from nbutils.report import pages
from nbutils.report.sides import Cases

FOX = ("tell me about the fox.", "list three facts about the fox.", "It is red.")


def shown(prompt=FOX[0], rewrite=FOX[1], response=FOX[2], raw="[[A]]"):
    texts = {"prompt": prompt, "rewrite": rewrite, "rewrites": [rewrite], "response": response}
    base = {"prompt": prompt, "rewrite": prompt, "response": response}
    rows = [answer(0, "nan", 1.0) | base, answer(0, "poir", 2.5) | texts]
    rows.append(answer(0, "sft", None) | texts | {"response": ""})
    verdicts = [*judged(0, "win", "tie", "poir"), *judged(0, "unscored", "unscored", "sft")]
    frames = [pd.DataFrame(rows).assign(cell="c"), pd.DataFrame(verdicts).assign(cell="c", raw=raw)]
    return Cases(gather.cases(*frames, 1, 0, "nan"), "nan", ("a note",))


def test_each_arm_has_a_card_with_marks_reward_gain_and_verdict_in_both_orders():
    html = shown()._repr_html_()
    assert html.count('<section class="side">') == 3 and len(shown()) == 1 and "a note" in html
    assert "<del>tell me</del> <ins>list three facts</ins> about the fox." in html
    text = visible_text(html)
    assert "reward 2.50 (+1.50) · = tie" in text and "reward 1.00 · the baseline" in text
    assert "poir shown first: win" in text and "nan shown first: tie" in text
    assert len(shown().first(0)) == 0 and len(shown().first(1).rows) == 3
    scored = visible_text(shown(raw="8 7.5\nBetter.")._repr_html_())
    assert "poir shown first: win (8 to 7.5)" in scored and "nan shown first: tie (7.5 to 8)" in scored
    assert "no response: no response" in text and "no reward · ? unscored" in text


def test_the_same_in_a_terminal():
    text = repr(shown())
    assert (
        "[poir]\nRewrite: [-tell me-] {+list three facts+} about the fox.\nResponse: It is red.\nReward: 2.500" in text
    )


def test_what_a_page_keeps_of_it_has_the_cards_and_the_marks_and_no_style_of_its_own():
    page = pages.clean(shown()._repr_html_())
    classes = set(re.findall(r'class="([^"]+)"', shown()._repr_html_()))
    assert classes == set(re.findall(r'class="([^"]+)"', page)) and {"sides", "side"} <= classes
    assert "<ins>list three facts</ins>" in page and "<del>tell me</del>" in page and "<style" not in page


def test_a_page_knows_the_classes_that_it_keeps_and_no_others(tmp_path):
    page = pages.write_page(tmp_path / "p.html", "notebook.html.j2", cells=[], title="", error="").read_text("utf-8")
    assert ".sides {" in page and ".case ins {" in page
    other = '<div class="evil">x</div><section class="jp-Cell">y</section>'
    assert pages.clean(other) == "<div>x</div><section>y</section>"


@pytest.mark.parametrize("text", HOSTILE_HTML)
def test_hostile_text_stays_text(text):
    cases = shown(text, text + " and more", text, text)
    for html in (cases._repr_html_(), pages.clean(cases._repr_html_())):
        assert active_content(html) == []
        assert visible_text(html).count(text) >= 4


def test_formulas_are_not_drawn():
    """$5 and $10 are sums; JupyterLab would typeset what is between the signs."""
    assert '<section class="cases mathjax_ignore tex2jax_ignore">' in shown(response="$5 and $10")._repr_html_()


@pytest.mark.parametrize("text", NASTY)
def test_texts_that_are_hard_to_carry_can_be_stored_and_are_cut_where_they_are_long(text):
    cases = shown(text, "a " + text, text, text)
    for made in (cases._repr_html_(), repr(cases)):
        assert "\x00" not in made and made.encode("utf-8")
    assert len(cases._repr_html_()) < 200_000


def test_a_long_prompt_that_was_replaced_does_not_hide_the_rewrite():
    html = shown(prompt="a b " * 500, rewrite="something else")._repr_html_()
    lost = re.search(r"<del>(.*?)</del>", html)[1]
    assert len(lost) < 250 and "1,8" in lost and "<ins>something else</ins>" in html


def test_no_case_is_no_card():
    assert "side" not in Cases(shown().rows[:0], notes=("there is no such case",))._repr_html_().split("</style>")[1]

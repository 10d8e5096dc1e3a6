"""The annotator: blind, in one seeded order, each label on disk at once, resumed; its texts stay texts."""

import dataclasses
import html
import json

import pytest
from browser import CHROMIUM
from hostile import HOSTILE_HTML, NASTY, active_content, visible_text
from made_rows import answer, judged

from nbutils.analyse import agreement
from nbutils.data import labels
from nbutils.report import annotate
from nbutils.report.annotate import Session, pairs_to_label


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


def rows(num=40, text="answer of"):
    """Two arms against nan on `num` prompts, each response naming its own arm."""
    arms = ("alignpro", "nan", "poir")
    answers = [answer(n, arm, 0.0, response=f"{text} {arm} to {n}") for n in range(num) for arm in arms]
    verdicts = [row for n in range(num) for arm in ("alignpro", "poir") for row in judged(n, "win", "win", arm_a=arm)]
    return answers, verdicts


def session(tmp_path, who="anna", number=50, num=40, clock=None):
    return Session(pairs_to_label(*rows(num), who, 0), tmp_path / "labels.jsonl", who, number, clock or Clock())


def kept(tmp_path):
    return [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]


# --- order and blinding


def test_the_order_is_the_same_for_all_and_follows_from_the_seed_alone():
    answers, verdicts = rows()
    anna, bert = (pairs_to_label(answers, verdicts, who, 0) for who in ("anna", "bert"))
    again = pairs_to_label(answers[::-1], verdicts[::-1], "anna", 0)
    assert anna == again and [pair.prompt_id for pair in anna] == [pair.prompt_id for pair in bert]
    assert [pair.prompt_id for pair in anna] != [pair.prompt_id for pair in pairs_to_label(*rows(), "anna", 1)]
    assert len(anna) == 80 and len({(pair.prompt_id, pair.arm_a) for pair in anna}) == 80


def test_the_side_of_an_arm_is_drawn_for_each_person_and_pair():
    anna, bert = (pairs_to_label(*rows(200), who, 0) for who in ("anna", "bert"))
    turned = [pair.turned for pair in anna]
    assert 150 < sum(turned) < 250  # 400 fair coins
    assert 150 < sum(a.turned == b.turned for a, b in zip(anna, bert, strict=True)) < 250


def test_pairs_without_a_verdict_or_a_response_are_not_shown():
    answers, verdicts = rows(4)
    unscored = judged(9, "unscored", "win")
    assert len(pairs_to_label([*answers, answer(9, "alignpro", 0.0)], [*verdicts, *unscored], "a", 0)) == 8
    assert len(pairs_to_label(answers[1:], verdicts, "a", 0)) == 7


def test_nothing_that_is_shown_names_an_arm():
    answers = [row | {"response": "the same words"} for row in rows()[0]]
    pages = [annotate.as_html(pair) for pair in pairs_to_label(answers, rows()[1], "anna", 0)]
    assert len(set(pages)) == 1 and not any(arm in pages[0] for arm in ("alignpro", "poir", "nan", "win"))


@pytest.mark.parametrize(("word", "wanted"), [("left", "win"), ("right", "lose"), ("tie", "tie"), ("skip", "skip")])
def test_left_and_right_become_the_label_of_the_arm_that_stood_there(word, wanted):
    straight, turned = (
        next(pair for pair in pairs_to_label(*rows(), "anna", 0) if pair.turned is way) for way in (False, True)
    )
    assert f" {straight.arm_a} " in straight.left and f" {turned.arm_a} " in turned.right
    assert straight.label(word) == wanted
    assert turned.label(word) == {"win": "lose", "lose": "win"}.get(wanted, wanted)


def test_who_always_takes_the_arms_own_words_is_read_so_whatever_the_sides(tmp_path):
    """From the buttons to the agreement with the judge, who says win of every pair."""
    run = session(tmp_path)
    while run.current:
        run.say("right" if "answer of nan" in run.current.left else "left")
    answers, verdicts = rows()
    found = agreement.match(labels.read(tmp_path / "labels.jsonl"), answers, verdicts)
    assert len(found.rows) == 50 and not found.left_out and {row["label"] for row in found.rows} == {"win"}
    assert agreement.judge_and_people(found).share().value == 1


# --- keeping


def test_a_label_is_in_the_file_before_the_next_pair_is_shown(tmp_path):
    clock = Clock()
    run = session(tmp_path, clock=clock)
    first = run.current
    clock.now += 7.25
    run.say("tie")
    (row,) = kept(tmp_path)
    assert row == {
        **{"prompt_id": first.prompt_id, "prompt_set": "s", "sample": 0, "arm_a": first.arm_a, "arm_b": "nan"},
        **{"label": "tie", "who": "anna", "when": "2023-11-14T22:13:27+00:00", "seconds": 7.2, "texts": first.texts},
    }
    assert run.current != first and run.progress() == "2 of 50"


def test_it_goes_on_where_this_person_stopped_and_another_starts_at_the_first(tmp_path):
    run = session(tmp_path)
    first = run.current
    for word in ("left", "skip", "tie"):
        run.say(word)
    again, other = session(tmp_path), session(tmp_path, "bert")
    assert again.current == run.current and again.progress() == "3 of 50 · 1 skipped"
    assert other.current.prompt_id == first.prompt_id and other.progress() == "1 of 50"


def test_responses_that_have_changed_are_shown_again(tmp_path):
    session(tmp_path).say("left")
    new = Session(pairs_to_label(*rows(text="another"), "anna", 0), tmp_path / "labels.jsonl", "anna", 50)
    assert new.progress() == "1 of 50"


def test_undo_takes_back_the_last_label_also_of_an_earlier_session(tmp_path):
    run = session(tmp_path)
    run.undo()  # nothing to take back
    shown = []
    for word in ("left", "skip"):
        shown.append(run.current)
        run.say(word)
    again = session(tmp_path)
    again.undo()
    assert again.current == shown[1] and [label.label for label in labels.read(tmp_path / "labels.jsonl")] != ["skip"]
    again.undo()
    assert again.current == shown[0] and labels.read(tmp_path / "labels.jsonl") == []
    again.say("tie")
    assert [label.label for label in labels.read(tmp_path / "labels.jsonl")] == ["tie"] and len(kept(tmp_path)) == 5
    assert session(tmp_path).current == shown[1]


def test_it_ends_at_the_number_wanted_or_with_the_last_pair(tmp_path):
    run = session(tmp_path, number=2)
    for word in ("left", "skip", "right", "left"):
        run.say(word)
    assert run.current is None and len(kept(tmp_path)) == 3
    assert run.progress() == "2 of 2 labelled · 1 skipped: run 05 again to count them"
    few = session(tmp_path / "few", num=1)
    assert few.progress() == "1 of 2"
    few.say("skip"), few.say("tie")
    assert few.current is None and few.progress().startswith("1 of 1 labelled · 1 skipped")
    assert Session([], tmp_path / "none.jsonl", "anna", 5).current is None


def test_without_a_front_end_it_prints_one_line_and_does_nothing(tmp_path, capsys):
    annotate.annotate(*rows(), tmp_path / "new")
    assert capsys.readouterr().out == "Labels are given by hand: run this cell in JupyterLab.\n"
    assert not (tmp_path / "new").exists()


# --- the widget


def view(tmp_path, who="anna"):
    clock = Clock()

    def opened(name):
        return session(tmp_path, name, clock=clock)

    return annotate._View(opened, who), clock


def test_keys_and_buttons_do_the_same_and_a_key_that_is_held_labels_one_pair(tmp_path):
    seen, clock = view(tmp_path)
    clock.now += 2
    seen._keys.value = "l"
    seen._keys.value = "l"  # at once: nobody has read the next pair
    assert len(kept(tmp_path)) == 1 and seen._keys.value == ""
    clock.now += 2
    seen._keys.value = "x"  # no key of ours
    seen._buttons["tie"].click()
    seen._keys.value = "U"
    clock.now += 2
    seen._keys.value = "U"
    assert [row["label"] for row in kept(tmp_path)][1:] == ["tie", "undone"]
    assert "2 of 50" in seen._progress.value


def test_a_name_is_asked_for_and_what_cannot_be_kept_is_said(tmp_path, monkeypatch):
    seen, _ = view(tmp_path, "")
    seen._name.value = " "
    assert not seen._started and seen._work.layout.display == "none"
    seen._name.value = "anna"
    assert seen._started and "1 of 50" in seen._progress.value

    def full(*_):
        raise OSError(28, "No space left on device", "labels.jsonl")

    monkeypatch.setattr(labels, "append", full)
    seen._buttons["tie"].click()
    assert "1 of 50" in seen._progress.value and "No space left on device: labels.jsonl" in seen._progress.value


def test_a_broken_file_of_labels_is_said_in_the_widget(tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"prompt_id": "p", "arm_a": "a", "arm_b": "b", "label": "?"}\n')
    seen, _ = view(tmp_path)
    assert not seen._started and "row 1" in seen._progress.value and "&#x27;?&#x27;" in seen._progress.value


# --- hostile texts


def hostile_pages():
    (pair, *_) = pairs_to_label(*rows(1), "anna", 0)
    texts = (*HOSTILE_HTML, *NASTY)
    return [(text, annotate.as_html(dataclasses.replace(pair, prompt=text, left=text, right=text))) for text in texts]


def test_hostile_texts_stay_texts_and_can_be_sent():
    for text, page in hostile_pages():
        assert active_content(page) == [] and page.encode("utf-8")
        if text in HOSTILE_HTML:
            assert visible_text(page).count(html.unescape(text) if "&" in text else text) == 3
    assert "980,000 more characters" in hostile_pages()[-1][1] and len(hostile_pages()[-1][1]) < 100_000


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no browser")
def test_a_browser_shows_hostile_pairs_without_request_or_dialog():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        requests, dialogs = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.set_content("<body></body>")
        for _, shown in hostile_pages():
            page.evaluate("shown => { document.body.innerHTML = shown }", shown)  # as the HTML widget does
        page.wait_for_timeout(300)
        browser.close()
    assert requests == [] and dialogs == []

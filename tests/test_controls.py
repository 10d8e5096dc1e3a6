"""A judge on trial: the controls ask what they say they ask, and each kind of bad judge fails its own."""

import pytest

from nbutils import controls, templates
from nbutils.generate import Sampling
from nbutils.judge import Panel
from nbutils.records import Answer, Journal

TEMPLATE = templates.load("judge_pairwise", "sandbox")
TEXTS = ["the wolf eats meat. the wolf howls.", "the wolf howls.", "it is hard to say."]


def answers(number=6):
    def row(i, arm, text, reason=None):
        prompt = f"tell me about the wolf. {i}"
        return Answer(f"id{i}", "set", prompt, arm, 0, prompt, [], text, None, None, len(text.split()), reason)

    rows = [row(i, "nan", TEXTS[i % 3]) for i in range(number)]
    return (
        rows
        + [row(i, "poir", f"{TEXTS[0]} the wolf is grey.") for i in range(number)]
        + [row(99, "nan", "", "refused")]
    )


def controlled(judge, number=4, again=3, journal=None, rows=None):
    panel = Panel((judge,), TEMPLATE, Sampling(0.0))
    return controls.judge_controls(rows or answers(), "nan", panel, number, again, 0, journal=journal)


def test_two_rows_for_each_comparison_of_answers_that_are_there():
    found = controlled("fakes:longer")
    counts = {name: sum(row.control == name for row in found) for name in ("same", "constant", "padded", "again")}
    assert counts == {"same": 8, "constant": 8, "padded": 8, "again": 6}
    assert "id99" not in {row.prompt_id for row in found}
    assert {(row.arm_a, row.arm_b) for row in found if row.control == "again"} == {("poir", "nan")}
    assert len(controlled("fakes:longer", 99, 99)) == 2 * (6 + 6 + 6 + 6)


def test_the_same_prompts_are_drawn_whatever_the_order_of_the_rows():
    assert controlled("fakes:longer", rows=answers()[::-1]) == controlled("fakes:longer")


@pytest.mark.parametrize(
    "judge, verdicts",
    [
        ("fakes:always_first", {"same": {"win", "lose"}, "padded": {"win", "lose"}}),
        ("fakes:longer", {"same": {"tie"}, "padded": {"win"}, "constant": {"win"}}),
        ("sandbox/judge", {"same": {"tie"}, "padded": {"lose", "tie"}}),
        ("fakes:mute", {"same": {"unscored"}}),
    ],
)
def test_each_kind_of_judge_shows_itself(judge, verdicts):
    found = controlled(judge)
    for control, wanted in verdicts.items():
        assert {row.verdict for row in found if row.control == control} <= wanted


def test_asking_again_is_another_call_and_a_rerun_is_none(tmp_path, monkeypatch):
    import fakes

    from nbutils.judge import judge_arms

    asked = []
    monkeypatch.setattr(fakes, "mute", lambda messages: asked.append(messages[-1]["content"]) or "[[C]]")
    with Journal(tmp_path / "j.jsonl") as journal:
        judge_arms(answers(), "nan", Panel(("fakes:mute",), TEMPLATE, Sampling(0.0)), journal=journal)
        before = len(asked)
        for _ in range(2):
            controlled("fakes:mute", 0, 2, journal)
    assert len(asked) == before + 4 and set(asked[before:]) <= set(asked[:before])

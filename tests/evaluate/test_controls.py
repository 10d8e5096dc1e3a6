"""A judge on trial: the controls ask what they say they ask, and each kind of bad judge fails its own."""

import pytest
from trial import TEMPLATE, answers, controlled

from nbutils.evaluate.judging import Panel
from nbutils.experiment.journal import Journal
from nbutils.models.texts import Sampling


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

    from nbutils.evaluate.judging import judge_arms

    asked = []
    monkeypatch.setattr(fakes, "mute", lambda messages: asked.append(messages[-1]["content"]) or "[[C]]")
    with Journal(tmp_path / "j.jsonl") as journal:
        judge_arms(answers(), "nan", Panel(("fakes:mute",), TEMPLATE, Sampling(0.0)), journal=journal)
        before = len(asked)
        for _ in range(2):
            controlled("fakes:mute", 0, 2, journal)
    assert len(asked) == before + 4 and set(asked[before:]) <= set(asked[:before])

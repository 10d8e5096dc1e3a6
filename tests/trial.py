"""A judge on trial on a few answers about a wolf."""

from nbutils.evaluate import controls
from nbutils.evaluate.judging import Panel
from nbutils.experiment.records import Answer
from nbutils.models import templates
from nbutils.models.texts import Sampling

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
    return controls.judge_controls(rows or answers(), "nan", panel, controls.Trial(number, again), journal)

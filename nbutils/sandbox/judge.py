"""The sandbox's judge: reads a rendered judge template and lets the gold scorer decide between the two answers."""

import re

from nbutils.sandbox import gold


def _parts(text):
    """{name: part} of what stands between the fences of the question's nonce; {} where there is no question.

    Only the nonce of the first question fence counts, so a fence that an answer forges is plain text.
    """
    first = re.search(r"^\[The Start of User Question (\S+)\]$", text, re.MULTILINE)
    if first is None:
        return {}
    fence = re.escape(first[1])
    pattern = rf"^\[The Start of ([^\n]+?) {fence}\]\n(.*?)\n?^\[The End of \1 {fence}\]$"
    return {found[1]: found[2] for found in re.finditer(pattern, text, re.MULTILINE | re.DOTALL)}


def answer(messages):
    """The judge's text for one comparison: a sentence and a last line [[A]], [[B]] or [[C]]; for the template that
    asks for scores, a line of two numbers from 1 to 10 and a sentence.

    A prompt outside the world is a tie. Messages without the fenced parts get a text without verdict.
    """
    parts = _parts("\n".join(message["content"] for message in messages))
    for names, render in ((("A", "B"), _render_verdict), (("1", "2"), _render_scores)):
        keys = [f"Assistant {name}'s Answer" for name in names]
        if all(key in parts for key in ("User Question", *keys)):
            question = parts["User Question"]
            return render(*gold.score([question] * 2, [parts[key] for key in keys]))
    return "No question with two answers between fences was found, so there is nothing to compare."


def _render_verdict(first, second):
    if first is None:
        return "The question lies outside the sandbox's world.\n[[C]]"
    verdict = "C" if abs(first - second) < 1e-9 else "A" if first > second else "B"
    return f"Assistant A tells {first:.2f} of what was asked, assistant B {second:.2f}.\n[[{verdict}]]"


def _render_scores(first, second):
    if first is None:
        return "5 5\nThe question lies outside the sandbox's world."
    points = [round(1 + 9 * max(0.0, value)) for value in (first, second)]
    return f"{points[0]} {points[1]}\nThe first answer tells {first:.2f} of what was asked, the second {second:.2f}."

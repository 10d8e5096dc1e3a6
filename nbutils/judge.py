"""Pairwise verdicts: the judge sees the original prompt and two responses, in both orders, always.

Raw judge texts are stored; verdicts are parsed from them on reading, so that a parser's fix costs no call. A response
that is missing, a call that failed or a text without a clear verdict is `unscored` with a reason, never a tie.
"""

from nbutils import paths
from nbutils.generate import Generation, Sampling, generate
from nbutils.models import Runtime
from nbutils.records import Answer, Journal, Verdict
from nbutils.templates import Template, messages, parse_scores, parse_verdict


def judge_arms(
    answers: list[Answer],
    baseline: str,
    judge: str,
    template: Template,
    sampling: Sampling,
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    label: str | None = None,
) -> list[Verdict]:
    """Verdicts of every arm against `baseline`, per prompt and sample, in both orders: two rows each.

    arm_a is the arm, arm_b the baseline, whichever was shown first. Rows come in the order of `answers`.
    """
    base = {(row.prompt_set, row.prompt_id, row.sample): row for row in answers if row.arm == baseline}
    pairs = [
        (row, base[row.prompt_set, row.prompt_id, row.sample])
        for row in answers
        if row.arm != baseline and (row.prompt_set, row.prompt_id, row.sample) in base
    ]
    orders = [(arm, other, first) for arm, other in pairs for first in (arm, other)]
    asked = [order for order in orders if order[0].reason is None and order[1].reason is None]
    shown = [(first, other if first is arm else arm) for arm, other, first in asked]
    requests = [_request(template, first, second) for first, second in shown]
    texts = generate(judge, requests, sampling, runtime, journal, label=label)
    heard = dict(zip([id(order) for order in asked], texts, strict=True))
    return [_verdict(*order, heard.get(id(order))) for order in orders]


def _request(template: Template, first: Answer, second: Answer) -> list[dict]:
    """The judge's messages. The fence is a hash of what it encloses: no text can contain its own fence."""
    fence = paths.sha256_json([first.prompt, first.response, second.response])[:12]
    slots = {"prompt": first.prompt, "answer_a": first.response, "answer_b": second.response, "fence": fence}
    return messages(template, **slots)


def _verdict(arm: Answer, other: Answer, first: Answer, heard: Generation | None) -> Verdict:
    if heard is None:
        missing = [row.arm for row in (arm, other) if row.reason is not None]
        return _row(arm, other, first, "unscored", f"no response from {' and '.join(missing)}", "")
    if heard.reason is not None:
        return _row(arm, other, first, "unscored", heard.reason, heard.text)
    letter, reason = read_verdict(heard.text)
    if letter is None:
        return _row(arm, other, first, "unscored", reason, heard.text)
    if letter == "C":
        return _row(arm, other, first, "tie", None, heard.text)
    won = (letter == "A") == (first is arm)
    return _row(arm, other, first, "win" if won else "lose", None, heard.text)


def read_verdict(text: str, margin: float = 0.0) -> tuple[str | None, str | None]:
    """(A | B | C | None, reason) of a judge's text, in either format: [[A]] on the last line, or two scores first."""
    letter, reason = parse_verdict(text)
    return (letter, reason) if letter is not None or "[[" in text else parse_scores(text, margin)


def _row(arm: Answer, other: Answer, first: Answer, verdict: str, reason: str | None, raw: str) -> Verdict:
    return Verdict(arm.prompt_id, arm.prompt_set, arm.arm, other.arm, arm.sample, first.arm, verdict, reason, raw)

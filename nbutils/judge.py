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
    more: list[tuple[str, str]] = (),
) -> list[Verdict]:
    """Verdicts of every arm against `baseline`, per prompt and sample, in both orders: two rows each.

    arm_a is the arm, arm_b the baseline, whichever was shown first; more: further pairs (arm_a, arm_b), see
    read_pairs. Rows come in the order of `answers`, against the baseline first.
    """
    known = {(row.arm, row.prompt_set, row.prompt_id, row.sample): row for row in answers}
    opponents: dict[str, list[str]] = {row.arm: [baseline] for row in answers if row.arm != baseline}
    for arm, other in more:
        opponents.setdefault(arm, []).append(other)
    found = [
        (row, known.get((other, row.prompt_set, row.prompt_id, row.sample)), other == baseline)
        for row in answers
        for other in opponents.get(row.arm, [])
    ]
    pairs = [(row, other) for against in (True, False) for row, other, is_base in found if other and is_base == against]
    orders = [(arm, other, first) for arm, other in pairs for first in (arm, other)]
    asked = [order for order in orders if order[0].reason is None and order[1].reason is None]
    shown = [(first, other if first is arm else arm) for arm, other, first in asked]
    requests = [_request(template, first, second) for first, second in shown]
    texts = generate(judge, requests, sampling, runtime, journal, label=label)
    heard = dict(zip([id(order) for order in asked], texts, strict=True))
    return [_verdict(*order, heard.get(id(order))) for order in orders]


def read_pairs(texts: list[str], arms: list[str], baseline: str) -> list[tuple[str, str]]:
    """("a", "b") of each "a vs b", less those that the baseline's comparisons hold anyway, each pair once.

    ValueError, in one line, for a text that is no pair of two evaluated arms.
    """
    pairs: list[tuple[str, str]] = []
    for text in texts:
        names = tuple(part.strip() for part in text.split(" vs "))
        if len(names) != 2 or names[0] == names[1] or not set(names) <= {*arms, baseline}:
            known = ", ".join(dict.fromkeys([baseline, *arms]))
            raise ValueError(f"pair {text!r}: wanted two of the arms as `a vs b`; there are {known}")
        if baseline not in names and names not in pairs and names[::-1] not in pairs:
            pairs.append(names)
    return pairs


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

"""Prompt templates: loading, one-pass filling, and strict parsers for what models send back.

A template is a text file `params/templates/<folder>/<name>.txt`: an optional header of `# key: value` lines closed
by a line `---`, then the text, optionally as two blocks `[system]` and `[user]`. Slots such as `{prompt}` are filled
in one pass over the template, so braces in a value, and braces that are no slot, stay as they are.

The parsers take any string and never raise. What does not follow the format comes back as None with a reason.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from nbutils.experiment import paths
from nbutils.models.texts import barred

DELIMITER = "\n### Response\n"  # between rewrite and response in POIR's training target; generation stops at it

SLOTS = {  # template -> the slots that it must have
    "meta_prompt": ("prompt",),
    "rewrite_answer": ("prompt",),
    "invent": ("seeds",),
    "critique": ("prompt", "response"),
    "revise": ("prompt", "critique"),
    "judge_pairwise": ("prompt", "answer_a", "answer_b", "fence"),
    "judge_scores": ("prompt", "answer_a", "answer_b", "fence"),
    "bpo": ("prompt",),
    "more_detail": ("prompt",),
}
_NAMES = sorted({slot for slots in SLOTS.values() for slot in slots})
_SLOT = re.compile(rf"\{{({'|'.join(_NAMES)})\}}")


@dataclass(frozen=True)
class Template:
    """system: text or None; user: text with slots; source: what the header says it follows; raw: no chat template
    around it (the header says `format: raw`); name: by which it was loaded, and what answers to it are read by."""

    system: str | None
    user: str
    source: str = ""
    raw: bool = False
    name: str = ""


@dataclass(frozen=True)
class Critique:
    """score: 1 to 5, or None with a reason; critique: the improvement asked for, or None where none was written."""

    score: int | None
    critique: str | None
    reason: str | None


# Loading and filling


def load(name: str, folder: str | Path) -> Template:
    """Template `name` of a folder (a name in params/templates, or a path).

    Raises FileNotFoundError for a missing file, ValueError for an unknown name, a bad file or a slot too many or few.
    """
    if name not in SLOTS:
        raise ValueError(f"unknown template {name!r}: known are {', '.join(SLOTS)}")
    folder = folder if isinstance(folder, Path) else paths.template_folder(folder)
    path = folder / f"{name}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"template {path} not found: add the file, or choose another folder with `templates`")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"template {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    return replace(parse_template(text, str(path), SLOTS[name]), name=name)


def parse_template(text: str, where: str = "template", slots: tuple[str, ...] | None = None) -> Template:
    """Template out of a file's text; `where` names it in errors, `slots` are those that it must have (None: any)."""
    header, body = _split_header(text)
    system, user = _split_roles(body, where)
    found = set(_SLOT.findall(f"{system or ''}\n{user}"))
    if not user:
        raise ValueError(f"{where} has no text for the user message: write it below the header")
    if slots is not None and found != set(slots):
        wanted, got = (", ".join(f"{{{slot}}}" for slot in sorted(each)) or "none" for each in (slots, found))
        raise ValueError(f"{where} needs the slots {wanted}, it has {got}: correct the template")
    return Template(system, user, header.get("source", ""), header.get("format") == "raw")


def _split_header(text: str) -> tuple[dict[str, str], str]:
    lines = text.split("\n")
    end = lines.index("---") if "---" in lines else 0
    if not all(line.startswith("#") for line in lines[:end]) or "---" not in lines:
        return {}, text
    header: dict[str, str] = {}
    key = ""
    for line in lines[:end]:
        match = re.match(r"#\s*(\w+):\s*(.*)", line)
        if match:
            key = match[1]
        header[key] = match[2].strip() if match else f"{header.get(key, '')} {line[1:].strip()}".strip()
    return header, "\n".join(lines[end + 1 :])


def _split_roles(body: str, where: str) -> tuple[str | None, str]:
    lines = body.strip("\n").split("\n")
    roles = [line for line in lines if line in ("[system]", "[user]")]
    if not roles:
        return None, "\n".join(lines)
    if roles not in (["[system]", "[user]"], ["[user]"]) or lines[0] != roles[0]:
        raise ValueError(f"{where}: wanted one line [system] and after it one line [user], got {' '.join(roles)}")
    user = lines.index("[user]")
    return "\n".join(lines[1:user]).strip("\n") or None, "\n".join(lines[user + 1 :]).strip("\n")


def fill(text: str, slots: dict[str, str]) -> str:
    """Text with every slot filled in one pass; a slot's name inside a value stays as it is. ValueError for a gap."""

    def value(match):
        if match[1] not in slots:
            raise ValueError(f"template slot {match[0]} got no value: pass {match[1]}=...")
        return slots[match[1]]

    return _SLOT.sub(value, text)


def messages(template: Template, **slots: str) -> list[dict[str, str]]:
    """Chat messages of a template: [{"role": "system", ...} where it has one, {"role": "user", "content": ...}]."""
    unknown = set(slots) - set(_SLOT.findall(f"{template.system or ''}\n{template.user}"))
    if unknown:
        raise ValueError(f"template has no slot {{{sorted(unknown)[0]}}}: leave the value out or add the slot")
    if template.raw:  # no chat template stands around it by which its tokens and people's text could be told apart
        slots = {name: barred(text) for name, text in slots.items()}
    roles = [("system", template.system), ("raw" if template.raw else "user", template.user)]
    return [{"role": role, "content": fill(text, slots)} for role, text in roles if text is not None]


def seed_block(seeds: list[str]) -> str:
    """The {seeds} of the invent template, POIR Table 6: one line `- Seed Instruction: ...` per seed prompt."""
    return "\n".join(f"- Seed Instruction: {seed}" for seed in seeds)


# Parsers

_INSTRUCTION = re.compile(
    r"[*_#\"']{0,4}(?:\bgenerated\s+|^[ \t*_#>-]*)instruction\s*#?\s*([0-9]+)[*_\"']*\s*[:：][*_]*", re.I | re.M
)
_SCORE = re.compile(
    r"\bscore[\s*_\"'`]*[:：][\s*_\"'`\[(]*"  # the label
    r"(-?[0-9]+(?:[.,][0-9]+)?)"  # the number
    r"((?:[\s*_]*(?:/|out of)\s*[0-9]+(?:\.[0-9]+)?)?)"  # its scale: "/5"
    r"((?:[ \t]*(?:-|–|to|or)[ \t]*[0-9])?)",  # a range: "3-4"
    re.I,
)
_EVALUATION = re.compile(r"\bevaluation[\s*_\"'`]*[:：][*_]*", re.I)
_REVISED = re.compile(r"\brevised\s+question[*_\"'”`]*\s*(?:[:：][*_]*(?:[\"'”`](?=\s))?|(?=\n)|\Z)", re.I)
_NEXT_LABEL = re.compile(
    r"^[ \t*_#>(\[•-]*(?:original question|revised question|expert evaluation|explanation"
    r"|(?:generated|seed) instruction(?: [0-9]+)?)[*_]*[:：].*\Z",
    re.I | re.M | re.S,
)
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)(?:/10)?"
_TWO_SCORES = re.compile(rf"[*_`\s(\[]*{_NUMBER}[*_`]*(?:\s*[,|]\s*|\s+(?:and\s+)?)[*_`]*{_NUMBER}[*_`\s)\]]*\.?\s*")
_EMPTY_LINE = re.compile(r"[\s`*_~#=\-\u200b-\u200d\u2060\ufeff]*")  # of nothing, or of marks that close a block
_DELIMITER_LINE = re.compile(r"(?:\A|\n)### Response(?:\n|\Z)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "「": "」", "`": "`", "[": "]", "**": "**"}


def _clean(text: str, opened: str = "") -> str:
    """Text without what models wrap around it: blanks, a bullet or number, pairs of quotes.

    opened: marks that stood open before the text, such as the quote of `"Revised question: …"`: what closes one of
    them at the end goes too. A closing mark that nothing opened is the text's own: (0, 1], 72".
    """
    while True:
        text = text.strip()
        if "\n" not in text:  # the first of several bullets belongs to the text
            text = re.sub(r"\A(?:[-*•]\s+|[0-9]{1,2}[.)]\s+)", "", text)
        for opening, closing in _QUOTES.items():
            inner, number = text[len(opening) : -len(closing)], text.count(closing)
            wrapped = len(text) > 2 and text.startswith(opening) and opening not in inner and closing not in inner
            if text.endswith(closing) and wrapped:
                text = inner
                break
            left = number % 2 if opening == closing else number > text.count(opening)
            if text.endswith(closing) and opening in opened and left:
                text, opened = text[: -len(closing)], opened.replace(opening, "", 1)
                break
        else:
            return text


def _opened(label: re.Match) -> str:
    """The marks in front of a label that it does not close itself: of `**Evaluation: …` but not `**Evaluation:** …`."""
    head, start = label[0], label.start()
    before = re.search(r"[*_#\"'“‘«「`\[]*\Z", label.string[max(0, start - 4) : start])
    leading = re.match(r"[*_#\"'“‘«「`\[]*", head)
    marks = (before[0] if before else "") + (leading[0] if leading else "")
    rest = head[leading.end() :] if leading else head
    return "".join(opening for opening, closing in _QUOTES.items() if opening in marks and closing not in rest)


def _segments(labels: list[re.Match], text: str) -> list[tuple[re.Match, int]]:
    """Each label with the end of what follows it: the next label, or the end of the text."""
    ends = [label.start() for label in labels] + [len(text)]
    return list(zip(labels, ends[1:], strict=True))


def parse_instructions(text: str) -> list[str]:
    """New prompts 1 and 2 out of "Generated Instruction 1: ... Generated Instruction 2: ...", POIR Table 6.

    Each is the first paragraph after its label, without quotes, numbering or bullets; of a number that comes twice
    the first that is not empty counts. Returns none, one or two prompts; text without labels gives none.
    """
    found: dict[str, str] = {}
    for label, end in _segments(list(_INSTRUCTION.finditer(text)), text):
        paragraph = re.split(r"\n[ \t\r]*\n", text[label.end() : end].strip(), maxsplit=1)[0]
        instruction = _clean(_NEXT_LABEL.sub("", paragraph), _opened(label))
        if label[1] in ("1", "2") and any(map(str.isalnum, instruction)):
            found.setdefault(label[1], instruction)
    return [found[number] for number in ("1", "2") if number in found]


def parse_critique(text: str) -> Critique:
    """Score and improvement out of "Score: 4\\nEvaluation: ...", POIR Table 7.

    The score is one integer from 1 to 5 ("4", "4/5", "**4**"); halves, ranges, other scales, numbers out of range
    and several different scores give None and a reason. The critique is what follows "Evaluation:".
    """
    critique = None
    if label := _EVALUATION.search(text):
        rest = text[label.end() :]
        stop = re.search(r"^[ \t*_#]*score\b", rest, re.I | re.M)
        critique = _clean(rest[: stop.start()] if stop else rest, _opened(label)) or None
    score, reason = _parse_score(text)
    return Critique(score, critique, reason)


def _parse_score(text: str) -> tuple[int | None, str | None]:
    found = _SCORE.findall(text)
    if not found:
        return None, "no line 'Score: <1 to 5>'"
    shown = sorted({number + scale.strip() + span for number, scale, span in found})
    numbers = {number for number, _, _ in found}
    if any(span for _, _, span in found):
        return None, f"a range instead of a score: {shown[0][:40]}"
    if any(re.sub(r"[^0-9.]", "", scale) not in ("", "5") for _, scale, _ in found):
        return None, f"score on another scale: {shown[0][:40]}"
    if len(numbers) > 1:
        return None, f"different scores: {', '.join(sorted(numbers))[:40]}"
    number = numbers.pop()
    if number not in ("1", "2", "3", "4", "5"):
        return None, f"score {number[:20]} is no integer from 1 to 5"
    return int(number), None


def parse_rewrite(text: str) -> tuple[str | None, str | None]:
    """(rewrite, reason) out of "Revised question: ...", POIR Table 8; one of the two is None.

    The rewrite is everything after the label, blank lines included (a prompt may carry its material below the
    question), up to a line that opens with another label of the exchange, or the end. Quotes around it go.
    """
    labels = list(_REVISED.finditer(text))
    if not labels:
        return None, "no 'Revised question:'"
    for label, end in _segments(labels, text):
        rewrite = _clean(_NEXT_LABEL.sub("", text[label.end() : end]), _opened(label))
        if any(map(str.isalnum, rewrite)):
            return rewrite, None
    return None, "nothing after 'Revised question:'"


def parse_verdict(text: str) -> tuple[str | None, str | None]:
    """(A, B or C, None), or (None, reason): the last line that is not empty or mere marks decides, POIR Table 5.

    Two different verdicts in that line, or none, give no verdict; what stands on other lines never counts.
    """
    lines = [line for line in text.split("\n") if not _EMPTY_LINE.fullmatch(line)]
    verdicts = set(_VERDICT.findall(lines[-1])) if lines else set()
    if len(verdicts) == 1:
        return verdicts.pop(), None
    if not lines:
        return None, "empty answer"
    if not verdicts:
        return None, "no [[A]], [[B]] or [[C]] in the last line"
    return None, f"different verdicts in the last line: {', '.join(sorted(verdicts))}"


def parse_scores(text: str, margin: float = 0.0) -> tuple[str | None, str | None]:
    """(A, B or C, None), or (None, reason), from two scores on the first non-empty line, Align-Pro C.2.

    The line holds two numbers from 1 to 10 and nothing else but marks around them. margin: score points; a difference
    of at most that much is a tie (C).
    """
    line = next((line for line in text.split("\n") if line.strip()), "")
    match = _TWO_SCORES.fullmatch(line)
    if not match:
        return None, "first line is not two scores" if line else "empty answer"
    first, second = float(match[1]), float(match[2])
    if not (1 <= first <= 10 and 1 <= second <= 10):
        return None, f"scores {match[1][:20]} {match[2][:20]} are not both from 1 to 10"
    if abs(first - second) <= margin:
        return "C", None
    return ("A" if first > second else "B"), None


def parse_judgement(name: str, text: str, margin: float = 0.0) -> tuple[str | None, str | None]:
    """(A, B or C, None), or (None, reason), of a judge's text: the template that asked says how it is read.

    name: judge_pairwise (a verdict on the last line) or judge_scores (two scores on the first). ValueError for others.
    """
    if name == "judge_scores":
        return parse_scores(text, margin)
    if name == "judge_pairwise":
        return parse_verdict(text)
    raise ValueError(f"template {name!r} asks for no verdict: wanted judge_pairwise or judge_scores")


def cut_at_delimiter(text: str) -> tuple[str, bool]:
    """(rewrite, whether the delimiter was there): the text before the first delimiter line, blanks around it gone."""
    match = _DELIMITER_LINE.search(text)
    return (text[: match.start()] if match else text).strip(), match is not None

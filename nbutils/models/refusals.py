"""What a server says instead of an answer: a parameter that it does not take, a prompt's own fate, trouble that passes,
or the end of all calls.

Servers word the same refusal in many ways: what is looked for is what they name.
"""

import json
import math
import re
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from nbutils.experiment import redaction

SYSTEM = "system role"  # may be refused like a parameter
LIMITS = ("max_tokens", "max_completion_tokens")  # the same, by its older and its newer name
_MOST = 200  # letters of a server's words
_QUOTED = ("input", "ctx", "url")  # what a validation error quotes of the request
_WORDS = ("message", "msg", "error", "detail", "reason", "raw")
_CODES = ("code", "type", "error_type", "status")
_NAMES = ("param", "loc")
_PASSES = (408, 409, 425, 429)
_QUOTA = re.compile(r"insufficient.(quota|balance|credit|funds)|credit balance|billing", re.I)
_FILTERED = re.compile(
    r"content.?(filter|management|polic|exists risk)|moderation|flagged|unsafe|safety.(system|filter|polic|check)|"
    r"harmful|inappropriate|sensitive (content|information|words)|data_?inspection|prohibited.content|responsibleai",
    re.I,
)
_TOO_LONG = re.compile(
    r"context.{0,3}(length|window|size|limit)|(prompt|inputs?|messages?|request|conversation)\b[^.]{0,40}\btoo (long|"
    r"large)|reduce the length|string_above_max|too many (input )?tokens|input token|tokens \+ .{0,3}max_new_tokens|"
    r"max_model_len|max(imum)? (input|prompt|context|sequence) ",
    re.I,
)
_NO_MODEL = re.compile(
    r"model.?not.?(found|exist)|(unknown|invalid|no such|not a valid|nonexistent) model|"
    r"\bmodel\b[^.]{0,60}\b(does not exist|not exist|not found|is not available|not a valid)",
    re.I,
)
_NO_SYSTEM = re.compile(
    r"\bsystem\b.{0,40}\b(role|message|prompt|instruction)|\b(role|message|instruction)s?\b.{0,60}\bsystem\b|"
    r"developer instruction|roles must alternate|messages(\[0\]|\.0| 0)[. ]role",
    re.I,
)
_VALUE = re.compile(
    r"too (large|big|high|many|small|low)|exceed|at (most|least)|(less|greater|more) than|\s[<>]\s|[<>]=|[≤≥]|"
    r"range|m(ax|in)imum|positive|integer",
    re.I,
)
_BOTH = re.compile(r"\b(both|together|only one)\b", re.I)


class ApiError(RuntimeError):
    """The API refused in a way that more calls cannot mend: key, quota, request, or too many failures in a row."""


@dataclass(frozen=True)
class Trouble:
    """Why a call brought no answer. status: of the response, None if there was none; wait: seconds that the server asks
    for, or None.

    fate: passes (the next call may be answered) | parameter (without `refused` it may be) | own (the prompt's, whenever
    it is asked) | likely own | unclear (the prompt's or the server's).
    """

    reason: str
    status: int | None = None
    wait: float | None = None
    fate: str = "passes"
    refused: str = ""


@dataclass(frozen=True)
class Said:
    """An error as the server put it. words: one line, without secrets; codes, names: of errors and of parameters, from
    fields of their own."""

    status: int
    words: str
    codes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    wait: float | None = None

    @property
    def text(self) -> str:
        """All of it, to look things up in."""
        return " ".join((*self.codes, *self.names, self.words))

    @property
    def is_free(self) -> bool:
        """Whether the call cannot have been billed."""
        return self.status < 500 or self.status == 503

    @property
    def is_quota(self) -> bool:
        """Whether nothing is left to pay with; of a 429, which may be a limit per minute, by its code alone."""
        said = "insufficient_quota" in self.codes or (self.status in (400, 403) and _QUOTA.search(self.text))
        return self.status == 402 or bool(said)

    @property
    def is_hopeless(self) -> bool:
        """Whether it is key or address that the server refuses, whatever is asked."""
        return self.status in (401, 403, 404, 405)

    @property
    def is_filter(self) -> bool:
        """Whether the prompt is what is refused; most 403 are about the key."""
        about = self.status in (400, 422, 451) or (self.status == 403 and "moderat" in self.text)
        return about and bool(_FILTERED.search(self.text))

    def without(self, prompt: str) -> "Said":
        """The same without the prompt in its words."""
        asked = re.escape(" ".join(prompt.split()))
        return replace(self, words=re.sub(rf"(?<!\w){asked}(?!\w)", "…", self.words)) if asked else self

    @property
    def is_about_model(self) -> bool:
        """Whether it is the model's name that the server does not know."""
        return "model" in self.names or bool(_NO_MODEL.search(self.text))


def read(error) -> Said:
    """What an APIStatusError of the SDK says."""
    text = error.response.text
    try:
        body = json.loads(text)
    except ValueError:
        body = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.S)
    return _said(error.status_code, body, retry_after(error.response.headers.get("retry-after", "")))


def inside(body) -> Said | None:
    """The error that a response with status 200 holds in place of choices; None if it holds none."""
    if not isinstance(body, dict) or body.get("choices") or not any(body.get(name) for name in _WORDS):
        return None
    said = _said(0, body)
    numbers = [int(code) for code in said.codes if re.fullmatch(r"[45]\d\d", code)]
    guessed = 400 if "invalid_request_error" in said.codes else 502
    return Said(numbers[0] if numbers else guessed, said.words, said.codes, said.names)


def words_of(value) -> str:
    """What an error object says, in one line."""
    return _said(0, value).words


def _said(status: int, body, wait: float | None = None) -> Said:
    found: dict[str, list[str]] = {}
    _collect(body, "message", found)
    words, codes, names = (
        [text for name in group for text in found.get(name, ())] for group in (_WORDS, _CODES, _NAMES)
    )
    unsaid = [name for name in names if name not in " ".join(words)]
    line = " ".join("; ".join(dict.fromkeys(words or codes)).split()) + f" ({'.'.join(unsaid)})" * bool(unsaid)
    return Said(status, redaction.redact(line)[:_MOST], tuple(codes), tuple(names), wait)


def _collect(value, name: str, found: dict[str, list[str]]) -> None:
    """Sort all texts and numbers below value by the name of the field that holds them."""
    if isinstance(value, dict):
        for inner, one in value.items():
            if inner not in _QUOTED:
                _collect(one, inner, found)
    elif isinstance(value, list):
        for one in value:
            _collect(one, name, found)
    elif value is not None:
        found.setdefault(name, []).append(str(value))


def meaning(said: Said, model: str, messages: list[dict], sent: set[str]) -> Trouble:
    """Whose fate an error is. sent: optional parameters of the call, and the system role. ApiError where no call can be
    answered.

    The prompt, which some servers quote, is cut out before anything is looked for.
    """
    for message in messages:
        said = said.without(message["content"])
    if said.is_quota:
        raise ApiError(f"api:{model}: the account's quota is used up{_shown(said)}") from None
    if said.is_filter:
        return Trouble(f"no text: the server's content filter{_shown(said)}", said.status, fate="own")
    if said.is_hopeless:
        what = f"api:{model} refused the call ({said.status}): check key, base URL and model"
        raise ApiError(what + (f"; it says: {said.words}" if said.words else "")) from None
    if said.status in _PASSES or said.status >= 500:
        kind = "rate limit" if said.status == 429 else f"server error {said.status}"
        return Trouble(f"{kind}{_shown(said)}", said.status, said.wait)
    return _refusal(said, model, sent)


def _refusal(said: Said, model: str, sent: set[str]) -> Trouble:
    """Of a 400, 413, 422 and the like: a parameter, the model's name, the length, or something else."""
    field = next((name for name in said.names if name in sent and name not in LIMITS), "")
    if not field and (said.status == 413 or _TOO_LONG.search(said.text)):
        return Trouble(f"prompt too long{_shown(said)}", said.status, fate="likely own")
    name = field or _named(said.text, sent)
    if name in LIMITS and ("max_tokens" not in sent or _VALUE.search(said.text)):
        raise ApiError(f"api:{model} refuses the limit of tokens{_shown(said)}") from None
    if name:
        return Trouble(f"{name} refused", said.status, wait=0.0, fate="parameter", refused=name)
    if said.is_about_model:
        raise ApiError(f"api:{model}: check the model's name{_shown(said)}") from None
    return Trouble(f"bad request{_shown(said)}", said.status, fate="unclear")


def _named(text: str, sent: set[str]) -> str:
    """What of `sent` an error names, in whatever words: first what stands in quotes, then what comes first."""
    if SYSTEM in sent and _NO_SYSTEM.search(text):
        return SYSTEM
    for mark in ("['\"`]", ""):
        found = {name: re.search(rf"(?<!\w){mark}{name}{mark}(?!\w)", text) for name in sent}
        places = {name: match.start() for name, match in found.items() if match}
        if {"temperature", "top_p"} <= places.keys() and _BOTH.search(text):
            return "top_p"
        if places:
            return min(places, key=lambda name: places[name])
    return ""


def _shown(said: Said) -> str:
    return f": {said.words}" if said.words else ""


def retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date; None if it is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None

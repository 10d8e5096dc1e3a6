"""One chat completion of an OpenAI-compatible server: what is sent, what comes back, what an error status means."""

import functools
import json
import math
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from tqdm import tqdm

from nbutils.experiment import redaction
from nbutils.experiment.words import count_words
from nbutils.models.references import Server
from nbutils.models.texts import Generation, Sampling, cut_at, encodable, request_seed

if TYPE_CHECKING:
    from openai import AsyncOpenAI  # takes a second to load

_OPTIONAL = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop")  # what a server may refuse to take
_REFUSED = re.compile(r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|extra|forbidden|permitted", re.I)
_NO_TEXT = {"length": "no text within {} tokens", "content_filter": "no text: the server's content filter"}
_AT_LIMIT = ("length", "max_tokens", "model_length")  # OpenAI's word, Anthropic's, Mistral's


class ApiError(RuntimeError):
    """The API refused in a way that more calls cannot mend: key, quota, request, or too many failures in a row."""


@dataclass(frozen=True)
class Trouble:
    """Why a call brought no answer, where the next may. status: of the response, None if there was none; wait: seconds
    that the server asks for, or None."""

    reason: str
    status: int | None = None
    wait: float | None = None


@functools.cache
def refused_by(server: str, model: str) -> set[str]:
    """Parameters that a model has refused so far, in this process: filled as it refuses them."""
    return set()


@dataclass(frozen=True)
class Chat:
    """A model behind an API and how it is asked. without: parameters that it has refused, which are no longer sent."""

    client: "AsyncOpenAI"
    server: Server
    sampling: Sampling
    without: set[str]

    @property
    def name(self) -> str:
        return self.server.model

    async def complete(self, request: dict) -> dict:
        """The body of a chat completion as the server wrote it; ValueError if that is no JSON.

        Not by the SDK's typed method: to check the types of what goes out and comes in takes as long as all the rest.
        """
        options = {name: value for name, value in _options(self.sampling, request).items() if name not in self.without}
        if "max_tokens" in self.without:
            options["max_completion_tokens"] = self.sampling.max_new_tokens
        body = {"model": self.name, "messages": request["messages"], **options}
        made = await self.client.post("/chat/completions", body=body, cast_to=object)
        return json.loads(made) if isinstance(made, str) else made  # a text, where the server's header says no JSON


def _options(sampling: Sampling, request: dict) -> dict:
    values = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request_seed(request) % 2**31,
    }
    values |= {"top_k": sampling.top_k} if sampling.top_k else {}
    return values | ({"stop": list(sampling.stop)} if sampling.stop else {})


def parse(body: dict, sampling: Sampling) -> Generation:
    """ValueError and the like when the body carries no text: empty text is no answer, unless the server says why."""
    choice, usage = body["choices"][0], body.get("usage") or {}
    text, finish = choice["message"]["content"], choice.get("finish_reason")
    read, written = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    read = read if isinstance(read, int) else None
    if not text and finish in _NO_TEXT:  # another call would end the same way, and cost the same
        spent = written if isinstance(written, int) else sampling.max_new_tokens
        cut = "length" if finish == "length" else None
        return Generation("", spent, cut, _NO_TEXT[finish].format(sampling.max_new_tokens), read)
    if not text or not isinstance(text, str):
        raise ValueError("empty content")
    written = written if isinstance(written, int) else count_words(text)
    whole = encodable(text)
    cut = cut_at(whole, sampling.stop)
    return Generation(cut, written, "stop" if cut != whole else _ending(finish), prompt_tokens=read)


def _ending(finish) -> str | None:
    """How a text ended by the server's word: stop | length, None where it says nothing."""
    if not finish:
        return None
    return "length" if str(finish).lower() in _AT_LIMIT else "stop"


def refusal(error, chat: Chat) -> Generation | Trouble:
    """What an error status means: come again (Trouble), not this request (Generation), not at all (ApiError)."""
    status = error.status_code
    if status == 402 or error.code == "insufficient_quota":
        raise ApiError(f"api:{chat.name}: the account's quota is used up") from None
    if status in (401, 403, 404, 405):
        raise ApiError(f"api:{chat.name} refused the call ({status}): check key, base URL and model") from None
    if status in (408, 409, 425, 429) or status >= 500:
        reason = "rate limit" if status == 429 else f"server error {status}"
        return Trouble(reason, status, retry_after(error.response.headers.get("retry-after", "")))
    name = _refused_parameter(error)
    if name is None:
        return Generation("", 0, None, f"bad request: {redaction.redact(_said(error))[:200]}")
    if name not in chat.without:
        chat.without.add(name)
        instead = ", max_completion_tokens is sent instead" if name == "max_tokens" else ": calls are made without it"
        tqdm.write(f"api:{chat.name} takes no {name}{instead}")
    return Trouble(f"{name} refused", status, wait=0.0)


def _refused_parameter(error) -> str | None:
    """The optional parameter that a server says it does not take, or not with this value; None for any other error.

    OpenAI: 400, `param`, "Unsupported value: 'temperature' does not support 0"; Mistral, vLLM: 422 or 400 with
    "extra_forbidden" and the parameter's name in quotes.
    """
    text = _said(error)
    if not _REFUSED.search(text):
        return None
    named = getattr(error, "param", None)
    return next((name for name in _OPTIONAL if name == named or re.search(rf"['\"`]{name}['\"`]", text)), None)


def _said(error) -> str:
    """The SDK's message, or, where it has none of its own, the server's body."""
    text = str(error)
    return text if " - " in text else f"{text} - {error.response.text}"


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

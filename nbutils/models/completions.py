"""One chat completion of an OpenAI-compatible server: what is sent, and what comes back in which shape."""

import functools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from nbutils.experiment.redaction import redact
from nbutils.experiment.words import count_words
from nbutils.models import refusals
from nbutils.models.references import Server
from nbutils.models.refusals import LIMITS, SYSTEM, Trouble
from nbutils.models.texts import Generation, Sampling, cut_at, encodable, request_seed, unbarred, without_system

if TYPE_CHECKING:
    from openai import AsyncOpenAI  # takes a second to load

_AT_LIMIT = ("length", "max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded")
_FILTERED = re.compile(r"filter|safety|prohibited|blocklist|recitation|sensitive")
_BROKE_OFF = re.compile(r"error|abort|insufficient")  # OpenRouter's, vLLM's, DeepSeek's
_LIMIT = ": raise max_…_tokens of such texts"
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # fields of a message, and types of parts
_INSTEAD = {  # what is sent where the server refuses a parameter
    "max_tokens": ", max_completion_tokens is sent instead",
    "temperature": ": the server's own default is used",
    SYSTEM: ": its text opens the user's turn",
}


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

    def optional(self, request: dict, left_out: frozenset[str] = frozenset()) -> dict:
        """What a call sends beside model and messages. left_out: what this request does without, beside `without`.

        Nothing that is off: a server may refuse a top_p of 1, which changes nothing. A temperature of 0 is not off.
        """
        sampling, without = self.sampling, self.without | left_out
        limit = LIMITS["max_tokens" in without]
        values: dict = {limit: sampling.max_new_tokens, "temperature": sampling.temperature}
        values |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
        values |= {"top_k": sampling.top_k} if sampling.top_k else {}
        values |= {"seed": request_seed(request) % 2**31}
        values |= {"stop": list(sampling.stop)} if sampling.stop else {}
        return {name: value for name, value in values.items() if name not in without}

    def messages(self, request: dict, left_out: frozenset[str] = frozenset()) -> list[dict]:
        """The request's, a system message in the user's turn where the server refuses that role."""
        given = unbarred(request["messages"])
        return without_system(given) if SYSTEM in self.without | left_out else given

    def sent(self, request: dict, left_out: frozenset[str] = frozenset()) -> set[str]:
        """All that a server may refuse of a call."""
        system = request["messages"][0]["role"] == "system" and SYSTEM not in self.without | left_out
        return set(self.optional(request, left_out)) | ({SYSTEM} if system else set())

    def leave_out(self, names: frozenset[str]) -> None:
        """Send these no more; said once."""
        for name in sorted(names - self.without):
            self.without.add(name)
            tqdm.write(f"api:{self.name} takes no {name}{_INSTEAD.get(name, ': calls are made without it')}")

    async def complete(self, request: dict, left_out: frozenset[str] = frozenset()):
        """The body of a chat completion as the server wrote it; ValueError if that is no JSON.

        Not by the SDK's typed method: to check the types of what goes out and comes in takes as long as all the rest.
        """
        body = {"model": self.name, "messages": self.messages(request, left_out), **self.optional(request, left_out)}
        made = await self.client.post("/chat/completions", body=body, cast_to=object)
        return json.loads(made) if isinstance(made, str) else made  # a text, where the server's header says no JSON


def parse(body: dict, sampling: Sampling) -> Generation | Trouble:
    """The text, or why there is none: thought or filtered to the end, refused, broken off. ValueError and the like when
    the body is no completion."""
    choice, usage = body["choices"][0], body.get("usage") or {}
    finish = str(choice.get("finish_reason") or "").lower()
    text, refused, thought = _read(choice["message"])
    read, written = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    read, written = (number if isinstance(number, int) else None for number in (read, written))
    if choice.get("error") or _BROKE_OFF.search(finish):
        said = refusals.words_of(choice.get("error"))
        return Trouble(f"answer broken off{f': {said}' if said else ''}", status=200)
    most = sampling.max_new_tokens
    if why := _why_none(text, refused, finish, thought, most if written is None else written, most):
        spent = most if written is None else written
        return Generation("", spent, "length" if finish in _AT_LIMIT else None, why, read)
    if not text:  # billed all the same
        return Trouble("empty answer", status=200, fate="unclear")
    whole = encodable(text)
    cut = cut_at(whole, sampling.stop)
    written = count_words(text) if written is None else written
    return Generation(cut, written, "stop" if cut != whole else _ending(finish), prompt_tokens=read)


def _read(message) -> tuple[str, str, bool]:
    """(text, refusal, whether there is a thought) of a message; its content is a text, a list of parts, or nothing."""
    content = message.get("content") or ""
    given = content if isinstance(content, list) else [content]
    parts: list[dict] = [{"text": part} if isinstance(part, str) else part for part in given]
    texts = [part.get("text") or "" for part in parts if part.get("type", "text") in ("text", "output_text")]
    declined = [each.get("refusal") or "" for each in (message, *parts)]
    thought = any(message.get(name) for name in _THOUGHTS) or any(part.get("type") in _THOUGHTS for part in parts)
    return "".join(texts), "".join(declined), thought


def _why_none(text: str, refused: str, finish: str, thought: bool, written: int, most: int) -> str:
    """Why a completion counts as no text, where another call would end the same way and cost the same; else empty."""
    if _FILTERED.search(finish):
        return "no text: the server's content filter" + " cut it off" * bool(text)
    if "refus" in finish or (refused and not text):
        return f"the model refuses: {redact(refused or text)[:200]}".rstrip(": ")
    if text:
        return ""
    if finish in _AT_LIMIT:
        own = f", fewer than the {most} allowed: the server's own limit"
        return f"no text within {min(written, most)} tokens{' of thought' * thought}{own if written < most else _LIMIT}"
    return "no text, only a thought" if thought else ""


def _ending(finish: str) -> str | None:
    """How a text ended by the server's word: stop | length, None where it says nothing."""
    if not finish:
        return None
    return "length" if finish in _AT_LIMIT else "stop"

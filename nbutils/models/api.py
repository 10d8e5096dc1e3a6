"""Texts from an OpenAI-compatible server: bounded calls, retries under a deadline, every call in the journal.

Who answers what how often is RELIABILITY's: an attempt is journalled before it is sent, an answer before it is used;
what may pass (429, 5xx, silence, a broken body) is tried again, what cannot (key, quota, request) stops at once.
"""

import asyncio
import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from nbutils.experiment.journal import Journal
from nbutils.models import completions, references
from nbutils.models.completions import ApiError, Chat, Trouble
from nbutils.models.spending import ATTEMPT, LETTERS_PER_TOKEN, SETTLED, Spending, SpendLimit
from nbutils.models.texts import Generation

_DEADLINE_SECONDS = 300.0  # of one request to an API: calls and the pauses between them
_CALL_SECONDS = 90.0  # of one call, to the last byte of its answer
_ATTEMPTS = 12  # calls for one request
_BROKEN = 3  # of them with a body that carries no text: these are billed
_MALFORMED = ("UnsupportedProtocol", "LocalProtocolError")  # no http:// in the address, a line end in the key
_BREAKER = 8  # calls that fail in a row before an API is given up


@dataclass(frozen=True)
class _Api:
    """What all calls of one generate() share."""

    chat: Chat
    journal: Journal | None
    gate: "_Gate"
    spending: Spending


def generate_api(model, unique, answers, sampling, runtime, journal, note):
    """Yield lists of (key, Generation), now and then an empty one; note: shows what was spent beside the bar.

    The calls' event loop has a thread of its own (that of a notebook has one already) and runs only while the next list
    is awaited: an abandoned run sends nothing more.
    """
    pending = {key: request for key, request in unique.items() if key not in answers}
    if not pending:
        return
    server = references.server(model)
    if server.lacks:
        more = "" if server.is_named else " (and OPENAI_BASE_URL, unless the server is OpenAI's)"
        raise ApiError(f"{model}: {server.lacks} is not set{more}")
    spending = Spending(runtime.limits, journal)
    stream, runner = _stream(server, pending, sampling, runtime, journal, spending), asyncio.Runner()
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            while (batch := thread.submit(runner.run, _next(stream)).result()) is not None:
                note(spending.said(model))
                yield batch
        finally:
            thread.submit(runner.close).result()


async def _next(stream):
    return await anext(stream, None)


async def _stream(server, pending, sampling, runtime, journal, spending):
    """Yield what has been answered, at least once a second, with at most batch_size calls under way.

    After an error that more calls cannot mend nothing more is sent, but what is under way may still answer and has
    been paid for: it is waited for, then ApiError (or SpendLimit) is raised.
    """
    import openai

    gate, waiting, calls, failures, fatal = _Gate(runtime.batch_size), iter(pending.items()), {}, 0, None
    options = {"base_url": server.url or None, "api_key": server.key, "max_retries": 0, "timeout": None}
    async with openai.AsyncOpenAI(**options) as client:
        without = completions.refused_by(str(client.base_url), server.model)
        api = _Api(Chat(client, server, sampling, without), journal, gate, spending)
        while True:
            for key, request in itertools.islice(waiting, 0 if fatal else runtime.batch_size - len(calls)):
                calls[asyncio.create_task(_ask(api, key, request))] = key
            if not calls:
                break
            await asyncio.wait(calls, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            batch = []
            for call in [call for call in calls if call.done()]:
                key = calls.pop(call)
                try:
                    batch.append((key, call.result()))
                except (ApiError, SpendLimit) as error:
                    fatal = fatal or error
                    continue
                failures = failures + 1 if batch[-1][1].reason else 0
                if failures >= _BREAKER:
                    why = f"{failures} calls failed in a row, the last: {batch[-1][1].reason}"
                    fatal = fatal or ApiError(f"api:{server.model}: {why}; run again later")
            if fatal:
                await gate.stop()
            if batch and journal is not None:
                journal.sync()
            yield batch
    if fatal:
        raise fatal


class _Gate:
    """How many calls may be in flight: `most` at first, half of them after a 429, one more after as many answers.

    A burst of 429s to calls that were already in flight halves once. After stop() nobody waits, and nothing is sent.
    """

    def __init__(self, most: int):
        self.most = self.limit = most
        self.in_flight = self.answers = 0
        self.halved, self.stopped = 0.0, False
        self.changed = asyncio.Condition()

    async def __aenter__(self):
        async with self.changed:
            await self.changed.wait_for(lambda: self.in_flight < self.limit or self.stopped)
            self.in_flight += 1

    async def __aexit__(self, *_):
        async with self.changed:
            self.in_flight -= 1
            self.changed.notify_all()

    def heed(self, heard: Generation | Trouble, began: float) -> None:
        """Adapt to what was heard from a call that began at this monotonic time."""
        if isinstance(heard, Generation):
            self.answers += 1
            if self.answers >= self.limit:
                self.limit, self.answers = min(self.most, self.limit + 1), 0
        elif heard.status == 429 and began > self.halved:
            self.limit, self.answers, self.halved = max(1, self.limit // 2), 0, time.monotonic()

    async def pause(self, seconds: float) -> None:
        """Sleep, or less if stopped."""
        try:
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(lambda: self.stopped)
        except TimeoutError:
            pass

    async def stop(self) -> None:
        async with self.changed:
            self.stopped = True
            self.changed.notify_all()


async def _ask(api: _Api, key: str, request: dict) -> Generation:
    """One answer, with retries of what may pass (429, 5xx, connection, silence, broken body) until the deadline.

    The time in the gate's queue does not count. No call is begun that the deadline would cut short: it may be billed.
    """
    left, attempts, broken = _DEADLINE_SECONDS, 0, 0
    while True:
        async with api.gate:
            if api.gate.stopped:
                return Generation("", 0, None, f"given up after {attempts} calls, the API failed")
            began = time.monotonic()
            heard = await _call(api, key, request)
            api.gate.heed(heard, began)
        if isinstance(heard, Generation):
            return heard
        attempts, broken = attempts + 1, broken + (heard.status == 200)
        wait = heard.wait if heard.wait is not None else random.uniform(0, min(30.0, 0.5 * 2**attempts))
        left -= time.monotonic() - began + wait
        if left < _CALL_SECONDS or attempts >= _ATTEMPTS or broken >= _BROKEN:
            asked = f" (asked to wait {heard.wait:.0f} s)" if heard.wait else ""
            return Generation("", 0, None, f"{heard.reason}{asked}, given up after {attempts} calls")
        await api.gate.pause(wait)


async def _call(api: _Api, key: str, request: dict) -> Generation | Trouble:
    """One call, journalled before it is sent and again when it was answered, or refused and not billed."""
    import openai

    settle = _begin(api, key, request)
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            answer = completions.parse(await api.chat.complete(request), api.chat.sampling)
    except (openai.APIError, TimeoutError, ValueError, TypeError, LookupError, AttributeError) as error:
        if _is_free(error):
            settle()
        return _heard(error, api.chat)
    known = [] if answer.reason else [(key, asdict(answer))]
    settle(*known, read=answer.prompt_tokens or 0, written=answer.num_tokens)
    return answer


def _begin(api: _Api, key: str, request: dict):
    """Journal an attempt; returns what settles it: settle(*answers, read, written), tokens.

    journal.total("unanswered_calls") is therefore the number of calls that may have been billed for no answer.
    """
    name, most = api.chat.name, api.chat.sampling.max_new_tokens
    reading = sum(len(message["content"]) for message in request["messages"]) / LETTERS_PER_TOKEN
    aside, stamp = api.spending.begin(name, reading, most), time.time_ns()
    attempt = {"model": name, "unanswered_calls": 1, "read": round(reading), "written": most}
    _note(api, (f"{key}{ATTEMPT}{stamp}", attempt))

    def settle(*answers: tuple[str, dict], read: int = 0, written: int = 0) -> None:
        api.spending.end(name, aside, read, written)
        settled = {"unanswered_calls": -1, "read": read, "written": written}
        _note(api, *answers, (f"{key}{SETTLED}{stamp}", settled))

    return settle


def _is_free(error: Exception) -> bool:
    """Whether a call that failed cannot have been billed: the server refused it, or nothing was sent."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code < 500 or error.status_code == 503
    if isinstance(error, openai.APIConnectionError):
        return type(error.__cause__).__name__ in ("ConnectError", *_MALFORMED)
    return isinstance(error, UnicodeEncodeError)


def _heard(error: Exception, chat: Chat) -> Generation | Trouble:
    """What a call that failed means: no answer, or trouble that may pass. ApiError where no more calls can mend it."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return completions.refusal(error, chat)
    if isinstance(error, UnicodeEncodeError):
        return Generation("", 0, None, "bad request: half a character (a lone surrogate) cannot be sent")
    if isinstance(error, TimeoutError):
        return Trouble(f"no answer within {_CALL_SECONDS:.0f} s")
    if isinstance(error, openai.APIConnectionError):
        if type(error.__cause__).__name__ in _MALFORMED:
            where = chat.server
            raise ApiError(f"api:{chat.name} can't be called: check {where.url_name} and {where.key_name}") from None
        return Trouble("connection failed")
    return Trouble(f"broken answer ({type(error).__name__})", status=200)


def _note(api: _Api, *records: tuple[str, dict]) -> None:
    """Journal records so that they survive a kill; the fsync comes once for all answers that leave together."""
    if api.journal is not None:
        api.journal.append_many(records, sync=False)

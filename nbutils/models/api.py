"""Texts from an OpenAI-compatible server: bounded calls, retries under a deadline, every call in the journal.

An attempt is journalled before it is sent, an answer before it is used; what may pass (429, 5xx, silence, a broken
body) is tried again, what cannot (key, quota, model) stops at once, and what is a prompt's own fate (filtered, too
long) is that prompt's alone.
"""

import asyncio
import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from nbutils.experiment.journal import Journal
from nbutils.models import completions, references, refusals
from nbutils.models.completions import Chat
from nbutils.models.fates import Fates
from nbutils.models.gate import Gate
from nbutils.models.refusals import ApiError, Trouble
from nbutils.models.spending import ATTEMPT, LETTERS_PER_TOKEN, SETTLED, Spending, SpendLimit
from nbutils.models.texts import Generation, request as make_request

_DEADLINE_SECONDS = 300.0  # of one request to an API: calls and the pauses between them
_CALL_SECONDS = 90.0  # of one call, to the last byte of its answer
_ATTEMPTS = 12  # calls for one request
_BROKEN = 3  # of them with a body that carries no text: these are billed
_MALFORMED = ("UnsupportedProtocol", "LocalProtocolError")  # no http:// in the address, a line end in the key
_TRIAL = "trial"  # the journal's name of that call


@dataclass(frozen=True)
class _Api:
    """What all calls of one generate() share."""

    chat: Chat
    journal: Journal | None
    gate: Gate
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
    if server.flaw:
        raise ApiError(f"{model}: {server.flaw}")
    spending = Spending(runtime.limits, journal)
    fates = Fates(any(answer.reason is None for answer in answers.values()))
    stream, runner = _stream(server, pending, sampling, runtime, journal, spending, fates), asyncio.Runner()
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            while (batch := thread.submit(runner.run, _next(stream)).result()) is not None:
                note(spending.said(model))
                yield batch
        finally:
            thread.submit(runner.close).result()


async def _next(stream):
    return await anext(stream, None)


async def _stream(server, pending, sampling, runtime, journal, spending, fates):
    """Yield what has been answered, at least once a second, with at most batch_size calls under way.

    After an error that more calls cannot mend nothing more is sent, but what is under way may still answer and has
    been paid for: it is waited for, then ApiError (or SpendLimit) is raised.
    """
    import openai

    gate, waiting, calls, fatal, trial = Gate(runtime.batch_size), iter(pending.items()), {}, None, False
    options = {"base_url": server.url or None, "api_key": server.key, "max_retries": 0, "timeout": None}
    async with openai.AsyncOpenAI(**options) as client:
        without = completions.refused_by(str(client.base_url), server.model)
        api = _Api(Chat(client, server, sampling, without), journal, gate, spending)
        while True:
            free = 0 if fatal or fates.is_in_doubt else runtime.batch_size - len(calls)
            for key, request in itertools.islice(waiting, free):
                calls[asyncio.create_task(_ask(api, key, request))] = key
            if fates.is_in_doubt and not (calls or fatal or trial):
                calls[asyncio.create_task(_ask(api, f"{_TRIAL}#{time.time_ns()}", _trial(sampling)))] = _TRIAL
                trial = True
            if not calls:
                break
            await asyncio.wait(calls, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            batch, error = _heard_by_now(calls, fates)
            fatal = fatal or error or fates.given_up(server.model, trial and not calls)
            if fatal:
                await gate.stop()
            batch = [(key, made) for key, made in [*batch, *fates.settle()] if key in pending]
            if batch and journal is not None:
                journal.sync()
            yield batch
    if fatal:
        raise fatal
    yield fates.settle(at_end=True)


def _heard_by_now(calls: dict, fates: Fates) -> tuple[list, Exception | None]:
    """(what the calls that are done have settled, the first error that no call can mend); they leave `calls`."""
    batch, fatal = [], None
    for call in [call for call in calls if call.done()]:
        key = calls.pop(call)
        try:
            batch += fates.take(key, call.result())
        except (ApiError, SpendLimit) as error:
            fatal = fatal or error
    return batch, fatal


def _trial(sampling) -> dict:
    """A request that nobody refuses for what it says."""
    return make_request("", "Hi", asdict(sampling), 0)


async def _ask(api: _Api, key: str, request: dict) -> Generation | Trouble:
    """One answer, with retries of what may pass (429, 5xx, connection, silence, broken body) until the deadline, and
    without the parameters that the server refuses: these are known as refused once a call without them is answered.

    The time in the gate's queue does not count. No call is begun that the deadline would cut short: it may be billed.
    """
    left, attempts, broken = _DEADLINE_SECONDS, 0, 0
    left_out: frozenset[str] = frozenset()
    while True:
        async with api.gate:
            if api.gate.stopped:
                return Trouble(f"given up after {attempts} calls, the API failed")
            began = time.monotonic()
            heard = await _call(api, key, request, left_out)
            api.gate.heed(heard, began)
        if isinstance(heard, Generation):
            api.chat.leave_out(left_out)
            return heard
        if heard.refused:
            left_out |= {heard.refused}
        elif heard.fate != "passes" and heard.status != 200:
            return heard
        attempts, broken = attempts + 1, broken + (heard.status == 200)
        wait = heard.wait if heard.wait is not None else random.uniform(0, min(30.0, 0.5 * 2**attempts))
        left -= time.monotonic() - began + wait
        if left < _CALL_SECONDS or attempts >= _ATTEMPTS or broken >= _BROKEN:
            asked = f" (asked to wait {heard.wait:.0f} s)" if heard.wait else ""
            fate = "passes" if heard.refused else heard.fate
            return Trouble(f"{heard.reason}{asked}, given up after {attempts} calls", fate=fate)
        await api.gate.pause(wait)


async def _call(api: _Api, key: str, request: dict, left_out: frozenset[str]) -> Generation | Trouble:
    """One call, journalled before it is sent and again when it was answered, or refused and not billed."""
    import openai

    settle, said, chat = _begin(api, key, request), None, api.chat
    sent = chat.sent(request, left_out)
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            body = await chat.complete(request, left_out)
        said = refusals.inside(body)
        answer = Trouble("") if said else completions.parse(body, chat.sampling)
    except openai.APIStatusError as error:
        said = refusals.read(error)
    except (openai.APIError, TimeoutError, ValueError, TypeError, LookupError, AttributeError) as error:
        if _is_free(error):
            settle()
        return _heard(error, chat)
    if said:
        if said.is_free:
            settle()
        return refusals.meaning(said, chat.name, request["messages"], sent)
    if isinstance(answer, Generation):
        settle((key, asdict(answer)), read=answer.prompt_tokens or 0, written=answer.num_tokens)
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
    """Whether a call that failed without a response cannot have been billed: nothing was sent."""
    import openai

    if isinstance(error, openai.APIConnectionError):
        return type(error.__cause__).__name__ in ("ConnectError", *_MALFORMED)
    return isinstance(error, UnicodeEncodeError)


def _heard(error: Exception, chat: Chat) -> Trouble:
    """What a call means that brought no response, or a body that is none. ApiError where it can't be made."""
    import openai

    if isinstance(error, UnicodeEncodeError):
        return Trouble("bad request: half a character (a lone surrogate) cannot be sent", fate="own")
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

"""What is asked of a model and what comes back: the request that names a text, its settings, its seed, the text."""

import re
from dataclasses import dataclass, replace

from nbutils.experiment import paths

THOUGHT, THOUGHT_END = "<think>", "</think>"  # the tags that chat templates know
_OPENED = re.compile(r"\s*(?:<(think|thinking|seed:think)>|\[(THINK)\])")
_CLOSED = re.compile(  # of a thought that the prompt opened: on a line of its own, or before a blank line
    r"^[ \t]*</think>[ \t]*$|</think>[ \t]*(?=\r?\n[ \t\r]*\n|\Z)", re.M
)
_CHANNEL = re.compile(  # of gpt-oss, with its special tokens or with these left out
    r"\A\s*(?:(?:<\|start\|>)?assistant)?(?:<\|channel\|>(?:analysis|commentary)|analysis(?=[A-Z\"']))"
)
_FINAL = re.compile(r"assistant(?:<\|channel\|>)?final(?:<\|message\|>)?|<\|channel\|>final[^<]*<\|message\|>")


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_p 1 and top_k 0 are off; generation ends before the first of `stop`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """text; num_tokens generated; finish: stop | length (cut at the limit) | None (nothing tells); reason: why there is
    no text, or None.

    prompt_tokens: what an API says it read, None for a model on this machine. is_open: whether another run may bring a
    text, as where a server failed; a reason that is the prompt's own is final. thought: what the model wrote in front
    of text; empty where nobody has cut it off yet, as in the journal.
    """

    text: str
    num_tokens: int
    finish: str | None
    reason: str | None = None
    prompt_tokens: int | None = None
    is_open: bool = False
    thought: str = ""


def encodable(text: str) -> str:
    """The text as a tokenizer can read it: half a character (a lone surrogate), which is no Unicode, becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


MARK = "\ufdd0"  # behind a control string's first letter: it is read as letters (chat.py); no text should hold it
_CONTROL = re.compile(r"[<\[](?=[^\s<>\[\]]+[>\]])")


def barred(text: str) -> str:
    """A text with a mark in whatever looks like a control token, for a place where no tokenizer is known yet."""
    return _CONTROL.sub(rf"\g<0>{MARK}", text)


def unbarred(messages: list[dict]) -> list[dict]:
    """messages without the marks of `barred`, as whoever has no tokenizer here is to read them."""
    if messages[0]["role"] != "raw":
        return messages
    return [message | {"content": message["content"].replace(MARK, "")} for message in messages]


def cut_at(text: str, stop: tuple[str, ...]) -> str:
    """text up to the first stop string, or all of it."""
    places = [text.find(string) for string in stop if string in text]
    return text[: min(places)] if places else text


def spoken(text: str) -> str | None:
    """What a text says behind the thoughts that it opens with; None where a thought never ends.

    A thought stands between <think> and </think> (<thinking>, <seed:think> and [THINK] too), or, where the prompt
    opened it, before a </think> alone; in gpt-oss's channels it is what comes before the final one.
    """
    if _CHANNEL.match(text):
        final = _FINAL.search(text)
        return text[final.end() :].removesuffix("<|return|>") if final else None
    closed = _CLOSED.search(text)
    start = closed.end() if closed and THOUGHT not in text[: closed.start()] else 0
    while opened := _OPENED.match(text, start):
        closing = f"</{opened[1]}>" if opened[1] else f"[/{opened[2]}]"
        end = text.find(closing, opened.end())
        if end < 0:
            return None
        start = end + len(closing)
    return text[start:].lstrip() if start else text


def opened(asked: str, text: str) -> str:
    """text with the opening tag of its thought, where the chat template wrote that at the end of what was asked."""
    return f"{THOUGHT}\n{text}" if asked.rstrip().endswith(THOUGHT) else text


def unopened(asked: str, text: str) -> str:
    """text as the model wrote it: without the tag that `opened` puts before it."""
    return text.removeprefix(opened(asked, ""))


def answered(made: Generation) -> Generation:
    """made as whoever asked reads it: without what the model thought first; one that only thought has no text."""
    said = spoken(made.text)
    if said is None:
        return replace(made, text="", reason=f"no text: a thought that does not end, {made.num_tokens} tokens")
    thought = made.text.removesuffix(said)
    return replace(made, text=said, thought=thought) if thought else made


def is_cut(made: Generation, kept: str) -> bool | None:
    """Whether kept, which is what is used of a text, was cut at the limit of tokens; None where nothing tells.

    It was not where the text goes on behind it: then the limit fell into what nobody reads.
    """
    return None if made.finish is None else made.finish == "length" and made.text.rstrip().endswith(kept)


def messages_of(prompt) -> list[dict]:
    """A bare prompt as one user message; a list of messages as it is."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def without_system(messages: list[dict]) -> list[dict]:
    """Messages whose first is no system message: its text opens the user's turn instead."""
    if messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    if not rest:
        return [system | {"role": "user"}]
    user, *more = rest
    return [user | {"content": f"{system['content']}\n\n{user['content']}"}, *more]


def request(identity: str, prompt, sampling: dict, sample: int) -> dict:
    """All that the text depends on, and nothing else: its hash is the journal's key."""
    return {
        "schema": 1,
        "model": identity,
        "messages": messages_of(prompt),
        "sampling": sampling,
        "sample": sample,
    }


def request_seed(request: dict) -> int:
    """63-bit seed of a request, from its messages, sampling seed and sample index (not the model)."""
    named = [request["messages"], request["sampling"]["seed"], request["sample"]]
    return int(paths.sha256_json(named)[:16], 16) >> 1

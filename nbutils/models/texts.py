"""What is asked of a model and what comes back: the request that names a text, its settings, its seed, the text."""

from dataclasses import dataclass

from nbutils.experiment import paths


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
    text, as where a server failed; a reason that is the prompt's own is final.
    """

    text: str
    num_tokens: int
    finish: str | None
    reason: str | None = None
    prompt_tokens: int | None = None
    is_open: bool = False


def encodable(text: str) -> str:
    """The text as a tokenizer can read it: half a character (a lone surrogate), which is no Unicode, becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def cut_at(text: str, stop: tuple[str, ...]) -> str:
    """text up to the first stop string, or all of it."""
    places = [text.find(string) for string in stop if string in text]
    return text[: min(places)] if places else text


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

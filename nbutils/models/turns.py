"""The turn that a model writes: what its chat template puts around an answer, and the ids of text that follows text.

A template of Mistral's kind ends the prompt with `[/INST]` and writes ` Write`: the blank is the answer's, and its
first token is `▁Write`. Qwen3's writes an empty thought first. Whoever gives a model text as if it had written it
(training, log-probabilities) gives these too.
"""

from dataclasses import dataclass

from nbutils.models import chat
from nbutils.models.generate import render
from nbutils.models.texts import THOUGHT, THOUGHT_END


@dataclass(frozen=True)
class Turn:
    """head: the model's whole input, as `generate` feeds it; opening, closing: what the chat template writes before and
    behind the answer to it. opening None: the template's answer does not stand where its prompt ends."""

    head: str
    opening: str | None
    closing: str


def turn_of(model: str, tokenizer, messages: list[dict]) -> Turn:
    """What stands around the answer to messages. A `raw` prompt is answered as it stands, to the end of text."""
    head = render(model, tokenizer, messages)
    if messages[0]["role"] == "raw":
        return Turn(head, "", tokenizer.eos_token or "")
    before, found, closing = render(model, tokenizer, messages, chat.ANSWER).rpartition(chat.ANSWER)
    return Turn(head, _opening(head, before) if found else None, closing)


def _opening(head: str, before: str) -> str | None:
    """What is left of `before`, the template's text up to an answer, behind head; blanks at its end may differ.

    Where the head goes on into a thought that the template's answer lacks, the thought is ended if it is open.
    """
    if before.startswith(head):
        return before[len(head) :]
    asked = before.rstrip()
    if not asked or not head.startswith(asked):
        return None
    more = head[len(asked) :]
    return f"\n{THOUGHT_END}\n\n" if THOUGHT in more and THOUGHT_END not in more else ""


def continued(tokenizer, befores: list[str], texts: list[str]) -> list[list[int]]:
    """Ids of each text where it follows its `before`, no token across the boundary; both as chat.encode reads them.

    Where the tokenizer joins the two, the text gets the ids that it has after another character. Encoded alone, a
    SentencePiece tokenizer would put a blank in front of it.
    """
    heads = chat.encode(tokenizer, befores)
    wholes = chat.encode(tokenizer, [before + text for before, text in zip(befores, texts, strict=True)])
    rows = zip(heads, wholes, texts, strict=True)
    return [whole[len(head) :] if whole[: len(head)] == head else _apart(tokenizer, text) for head, whole, text in rows]


def _apart(tokenizer, text: str) -> list[int]:
    for anchor in ("\n", ":", "0", "a"):
        head, whole = chat.encode(tokenizer, [anchor, anchor + text])
        if whole[: len(head)] == head:
            return whole[len(head) :]
    raise ValueError(f"tokenizer joins {text[:20]!r} to whatever stands before it: text cannot be told from its prompt")


def decode(tokenizer, ids: list[int]) -> str:
    """The text that `generate` gives back where a model wrote ids."""
    return tokenizer.decode(ids, skip_special_tokens=True)

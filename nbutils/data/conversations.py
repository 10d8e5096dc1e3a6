"""Conversations as other people write them, as (role, text) of each turn: lists of messages, or one marked text.

A text is a conversation only where it opens with a marker (after a BOS token, or Alpaca's preamble): a prompt that
quotes one somewhere stays a prompt.
"""

import re
from collections.abc import Iterable

USERS = ("user", "human", "prompter")
ASSISTANTS = ("assistant", "gpt", "chatgpt", "model", "bot")
OTHERS = ("system", "tool", "function", "developer", "ipython")
_ROLES = {"instruction": "user", "inst": "user", "input": "user", "response": "assistant", "/inst": "assistant"}
_START = re.compile(
    r"\s*(?:<s>|<\|begin_of_text\|>|<bos>|<\|endoftext\|>|Below is an instruction that describes a task[^#\n]*)?\s*"
)
# Control tokens are nothing else; words in front of a colon may be anybody's, and need a partner.
_TOKENS = (
    r"<\|im_start\|>(\w+)\s*\n",  # ChatML
    r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*",  # Llama 3
    r"<start_of_turn>(\w+)\s*\n",  # Gemma
    r"<\|(user|assistant|system)\|>\s*",  # Zephyr, Phi
    r"\[(/?INST)\]",  # Llama 2, Mistral
)
_WORDS = (
    r"(?:\A|\n\n)(Human|Assistant):",  # Anthropic's
    r"(?:\A|\n)(Human|Assistant):",
    r"(?<!#)###\s*(Human|User|Assistant|System|Instruction|Input|Response):?",  # Guanaco, Alpaca
)
_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>", "<s>")


def of(value) -> list[tuple[str, str]]:
    """[(role, text)] of messages in any of their forms, or of a text that opens with a marker; [] for anything else.

    Turns that name no role take it in turns, the user's first.
    """
    if isinstance(value, str):
        return of_text(value)
    found: list[tuple[str, str]] = []
    for turn in value if isinstance(value, list | tuple) else ():
        if not isinstance(turn, dict):
            continue
        role = turn.get("role") or turn.get("from")
        if role is None and isinstance(turn.get("input"), str):
            found += [("user", turn["input"]), ("assistant", content(turn.get("output")))]
            continue
        role = str(role or ("assistant" if len(found) % 2 else "user")).lower()
        found.append((role, content(turn.get("content") or turn.get("value") or turn.get("text"))))
    return found


def of_text(text: str, alone: bool = True) -> list[tuple[str, str]]:
    """[(role, text)] of a text with markers such as `Human:`, `### Assistant:`, `<|im_start|>user` or `[INST]`.

    alone: whether marked words of one speaker are a conversation too; control tokens always are.
    """
    opening = _START.match(text)
    body = text[opening.end() if opening else 0 :]
    kept: list[tuple[str, str]] = []
    for form in (*_TOKENS, *_WORDS):
        if re.match(form, body):
            parts = re.split(form, body)[1:]
            found = _joined(parts[::2], map(_bare, parts[1::2]))
            if {"user", "assistant"} <= {_side(role) for role, _ in found}:
                return found
            kept = kept or (found if alone or form in _TOKENS else [])
    return kept


def content(value) -> str:
    """The text of a message's content: a text, or the texts among its parts; "" for none."""
    if isinstance(value, str):
        return value
    parts = [value] if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return "\n".join(text for part in parts if isinstance(text := _text_of(part), str))


def first_user(found: list[tuple[str, str]]) -> str | None:
    return next((text for role, text in found if role in USERS), None)


def _text_of(part):
    """A part's text: of type text, input_text (OpenAI's responses) or output_text; a thought is none."""
    if not isinstance(part, dict):
        return part
    return part.get("text") if str(part.get("type") or "text").endswith("text") else None


def _side(role: str) -> str:
    return "user" if role in USERS else "assistant" if role in ASSISTANTS else role


def _bare(text: str) -> str:
    """A turn's text without the tokens that end it, and without Llama 2's system prompt in front."""
    before, _, rest = text.partition("<<SYS>>")
    _, closed, after = rest.partition("<</SYS>>")
    text = (before + after if closed else text).strip()
    while end := next((token for token in _ENDS if text.endswith(token)), ""):
        text = text.removesuffix(end).rstrip()
    return text


def _joined(roles: Iterable[str], texts: Iterable[str]) -> list[tuple[str, str]]:
    """Turns; Alpaca's input is the end of its instruction."""
    joined: list[tuple[str, str]] = []
    for role, text in zip(map(str.lower, roles), texts, strict=True):
        if role == "input" and joined:
            joined[-1] = (joined[-1][0], f"{joined[-1][1]}\n{text}".strip())
        else:
            joined.append((_ROLES.get(role, role), text))
    return joined

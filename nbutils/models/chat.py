"""Messages as a chat template writes them, and their token ids: the template is read as tokens, content as text.

A template steers a model by control tokens such as <end_of_turn>. A content that spells one means the letters: nobody
ends a turn, or begins the judge's answer, by writing so. In a written text each control string of the content carries
a mark behind its first letter; `encode` takes the marks out and reads what is around them as letters. A text without
such strings has no mark and the ids that it always had. In raw templates what looks like one is marked as it is filled
in (templates.messages).
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from nbutils.experiment import days
from nbutils.models.texts import MARK, THOUGHT, THOUGHT_END, encodable, without_system

TOKEN = "\ufdd1"  # before a token's string in `reader`; like MARK a noncharacter, and U+FFFD where a text holds one
ANSWER = "an answer that stands in no prompt"  # to see what a template writes around it
_STAND_IN = "a content that stands in no prompt, number"


def write(model: str, tokenizer, messages: list[dict], answered: bool = False) -> str:
    """The whole text that the chat template makes of messages, for `encode`; model names it in errors.

    answered: the last message is the model's, and it is not asked for one. Where the template refuses a system message
    (Gemma's does, and Mistral's first) or leaves it out, its text opens the user's turn. ValueError, in one line, where
    there is no template or it refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"{model} has no chat template: add chat_template.jinja to its folder")
    turns = [message | {"content": marked(tokenizer, message["content"])} for message in messages]
    _settle_day(tokenizer)
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answered)
    except TemplateError as error:
        if messages[0]["role"] != "system" or len(messages) < 2:
            raise ValueError(f"{model}'s chat template refuses the messages: {error}") from None
        return write(model, tokenizer, without_system(messages), answered)
    if messages[0]["role"] == "system" and len(messages) > 1 and turns[0]["content"].strip() not in text:
        return write(model, tokenizer, without_system(messages), answered)
    return encodable(text)


def _settle_day(tokenizer) -> None:
    """The template's strftime_now tells the step's day. transformers compiles a template once and hands it no functions
    but its own; tests/models/test_chat.py fails if it comes to do otherwise."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        _compile_jinja_template(template).globals["strftime_now"] = days.strftime


def write_whole(model: str, tokenizer, messages: list[dict], answered: bool = False) -> str:
    """`write`, with every message's content whole, blanks around it apart, where the template writes contents at all.

    Templates may read a content: Qwen3's takes an answer that quotes </think> for a thought, and drops all before it.
    Then the template writes stand-ins, and the contents take their places.
    """
    text = write(model, tokenizer, messages, answered)
    contents = [_content(tokenizer, message) for message in messages]
    if all(content in text for content in contents):
        return text
    names = [f"{_STAND_IN} {number};" for number in range(len(messages))]
    given = [message | {"content": name} for message, name in zip(messages, names, strict=True)]
    other = write(model, tokenizer, given, answered)
    if not all(name in other for name in names):
        return text
    found = dict(zip(names, contents, strict=True))
    return re.sub("|".join(map(re.escape, names)), lambda name: found[name[0]], other)


def check_written(model: str, tokenizer, text: str, messages: list[dict]) -> str:
    """text, if it holds every message's content, blanks around it apart. ValueError, in one line, if not.

    Templates for pictures loop over the parts of a content and make nothing of a plain text.
    """
    for message in messages:
        if _content(tokenizer, message) not in text:
            raise ValueError(
                f"{model}'s chat template leaves out what the {message['role']} says: wanted one that writes each "
                "message's content as text: correct chat_template.jinja in its folder"
            )
    return text


def _content(tokenizer, message: dict) -> str:
    """A message's content as a template at least writes it."""
    return marked(tokenizer, message["content"]).strip()


def marked(tokenizer, text: str) -> str:
    """A content with a mark in each control string, so that `encode` reads it as letters."""
    plain = encodable(text).replace(MARK, "\ufffd").replace(TOKEN, "\ufffd")
    return _controls_of(tokenizer).strings.sub(lambda found: f"{found[0][0]}{MARK}{found[0][1:]}", plain)


def encode(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of written texts: special tokens only where a chat template wrote them."""
    if not texts:
        return []
    found = tokenizer([encodable(text).replace(MARK, "") for text in texts], add_special_tokens=False)["input_ids"]
    return [_with_letters(tokenizer, text) if MARK in text else ids for text, ids in zip(texts, found, strict=True)]


def turn_end(model: str, tokenizer) -> int | None:
    """The token by which the chat template ends an answer; None where there is no template or no such token."""
    asked = [{"role": "user", "content": "a prompt"}, {"role": "assistant", "content": ANSWER}]
    try:
        _, found, closing = write(model, tokenizer, asked, answered=True).rpartition(ANSWER)
    except (ValueError, TypeError):
        return None
    ids = encode(tokenizer, [closing])[0] if found else []
    first = next((token for token in ids if tokenizer.decode([token]).strip()), None)
    return first if first in _controls_of(tokenizer).ids - {tokenizer.unk_token_id} else None


@dataclass(frozen=True)
class _Controls:
    """The tokens of a tokenizer by which it is steered. strings: finds those that a content may not hold as tokens;
    every: finds those too that a model writes itself; ids: of `strings`; reader: see _reader."""

    strings: re.Pattern
    every: re.Pattern
    ids: frozenset[int]
    reader: Callable[[], tuple[Any, dict[int, int]]]


def _controls_of(tokenizer) -> _Controls:
    return _controls(tokenizer, str(tokenizer.chat_template or ""), len(tokenizer))


@functools.lru_cache(maxsize=16)
def _controls(tokenizer, template: str, size: int) -> _Controls:
    """template, size: what else they depend on, where a tokenizer is changed."""
    known = {number: token for number, token in tokenizer.added_tokens_decoder.items() if _steers(token, template)}
    own = (THOUGHT, THOUGHT_END)  # a model writes these itself
    barred = {number: token for number, token in known.items() if token.content not in own}
    reader = functools.cache(lambda: _reader(tokenizer, known))  # a large vocabulary is copied only where it is needed
    return _Controls(_any_of(barred), _any_of(known), frozenset(barred), reader)


def _steers(token, template: str) -> bool:
    """Special, or written by the template like a special one: ChatML's tokens often are not called so."""
    written = token.content in template and re.fullmatch(r"[<\[]\S+[>\]]", token.content)
    return len(token.content.strip()) > 1 and bool(token.special or written)


def _any_of(tokens: dict) -> re.Pattern:
    """Finds their strings, the longest first; nothing where there is none."""
    longest = sorted((token.content for token in tokens.values()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")


def _reader(tokenizer, known: dict):
    """(a copy of the tokenizer that reads control strings as letters, {id of a twin: the token that it stands for});
    no copy of a tokenizer that is written in Python.

    A token's twin is its string behind TOKEN. The copy splits a text at twins as the tokenizer does at tokens, so that
    all other text has the ids that it has there.
    """
    from tokenizers import AddedToken, Tokenizer

    if not getattr(tokenizer, "is_fast", False):
        return None, {}
    reader = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    reader.no_truncation()
    reader.no_padding()
    flags = {number: {"lstrip": token.lstrip, "rstrip": token.rstrip} for number, token in known.items()}
    reader.add_special_tokens([AddedToken(token.content, normalized=token.normalized) for token in known.values()])
    reader.add_tokens(
        [AddedToken(TOKEN + token.content, normalized=False, **flags[number]) for number, token in known.items()]
    )
    reader.encode_special_tokens = True
    return reader, {reader.token_to_id(TOKEN + token.content): number for number, token in known.items()}


def _with_letters(tokenizer, text: str) -> list[int]:
    """Token ids of a text with marks. A vocabulary in which the string itself is a piece gets a blank in it."""
    controls = _controls_of(tokenizer)
    reader, twins = controls.reader()
    if reader is not None:
        twinned = controls.every.sub(lambda found: TOKEN + found[0], encodable(text)).replace(MARK, "")
        ids = reader.encode(twinned, add_special_tokens=False).ids
        if not (controls.ids - {tokenizer.unk_token_id}) & set(ids):
            return [twins.get(number, number) for number in ids]
    return tokenizer(encodable(text).replace(MARK, " "), add_special_tokens=False)["input_ids"]

"""Which column of a row holds its prompt, whatever its set calls it."""

import json

from nbutils.data import conversations

TEXTS = ("prompt", "instruction", "question", "query", "text", "problem", "request", "input", "inputs", "content")
CONVERSATIONS = ("conversation", "conversations", "messages", "dialogue", "dialog", "turns", "chosen")
KNOWN = (*TEXTS, *CONVERSATIONS)


def find_prompt(row: dict) -> str | None:
    """The prompt of a row whatever its column is called; None where there is none.

    In this order: prompt; instruction, with context or input on the next line where that is not empty; question and
    the other TEXTS; the first user turn of one of CONVERSATIONS; a number in one of TEXTS. Of a text that is a marked
    conversation (### Human: … ### Assistant: …) the first user turn is taken, and a row that is one turn of a
    conversation (OASST) has a prompt only if it opens it.
    """
    row = {str(key).strip().lower(): value for key, value in row.items()}
    if _continues(row):
        return None
    for column in TEXTS:
        text = _first_user_turn(row.get(column), plain_text=True)
        if text and text.strip():
            more = (row.get("context") or row.get("input")) if column == "instruction" else None
            return f"{text}\n{more}" if isinstance(more, str) and more.strip() else text
    opened = (_first_user_turn(row.get(column), plain_text=False) for column in CONVERSATIONS)
    numbers = (_number(row.get(column)) for column in TEXTS)
    return next((text for text in (*opened, *numbers) if text and text.strip()), None)


def _continues(row: dict) -> bool:
    """Whether a row is a turn that opens no conversation: somebody else's, or one that answers another row."""
    role, parent = str(row.get("role")).lower(), row.get("parent_id")
    if role in conversations.USERS:
        return isinstance(parent, str) and parent != ""
    return role in (*conversations.ASSISTANTS, *conversations.OTHERS)


def _first_user_turn(value, plain_text: bool) -> str | None:
    """First user turn of messages, of a list of texts, or of a marked text; plain_text: a str may be it itself."""
    if isinstance(value, str):
        if not plain_text and value.lstrip().startswith("["):  # a list that went through a CSV file
            try:
                return _first_user_turn(json.loads(value), plain_text=True)
            except (ValueError, RecursionError):
                pass
        found = conversations.of_text(value, alone=not plain_text)
        return value if plain_text and not found else conversations.first_user(found)
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        return value[0]
    return conversations.first_user(conversations.of(value))


def _number(value) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return str(value) if is_number else None

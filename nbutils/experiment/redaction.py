"""Secrets stay in the environment: refused as parameters, blanked in whatever is stored."""

import os
import re

_SECRET_NAME = re.compile(r"(?:^|_)(?:api)?keys?(?:$|_)|apikey|secret|passw|credential|token(?!s|iz)")
_COUNT_OF_TOKENS = re.compile(r"(?:^|_)(?:max|min|num|total|per)_(?:\w+_)?tokens(?:$|_)")
_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:API)?(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_SHORTEST, _LONG = 8, 20


def is_secret_name(name: str) -> bool:
    """Whether a parameter of this name looks like a secret; counts such as max_new_tokens do not."""
    text = str(name).lower()
    return bool(_SECRET_NAME.search(text)) or ("tokens" in text and not _COUNT_OF_TOKENS.search(text))


def secrets() -> list[str]:
    """Values of the environment that must never be stored: *_API_KEY, *_TOKEN, *_SECRET, *_PASSWORD and the like."""
    found = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    return sorted((value for value in found if len(value) >= _SHORTEST and not os.path.exists(value)), key=len)[::-1]


def redact(value):
    """value (text, or lists and dicts of it) with every secret of the environment blanked.

    Of long ones the beginning too: a service that refuses a key tends to quote its first characters.
    """
    patterns = [re.escape(one[:8]) + r"[^\s\"'<>\\]*" if len(one) >= _LONG else re.escape(one) for one in secrets()]
    return _redact(value, re.compile("|".join(patterns))) if patterns else value


def _redact(value, pattern: re.Pattern):
    if isinstance(value, str):
        return pattern.sub("[secret]", value)
    if isinstance(value, dict):
        return type(value)({_redact(key, pattern): _redact(one, pattern) for key, one in value.items()})
    return [_redact(one, pattern) for one in value] if isinstance(value, list) else value

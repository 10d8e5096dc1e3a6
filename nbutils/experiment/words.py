"""Words in every writing system, as the Unicode standard bounds them (UAX #29, default word boundaries).

A word has a letter or a digit: "don't" and "3.14" are one, "well-known" is two, marks and emoji are none. Where blanks
stand between words (Latin, Cyrillic, Arabic, Devanagari, Hangul, …) they are what a reader counts. Each Chinese
character is a word, each Hiragana letter too; a run of Katakana is one. Thai, Lao, Khmer and Burmese need a
dictionary, which the standard does without: there each consonant or vowel with its signs is a word.
"""

import unicodedata
from collections.abc import Callable

import regex

_WORD = regex.compile(r"(?w)[[\p{Alphabetic}\p{N}]--\p{M}].*?\b", regex.V1 | regex.DOTALL)
_SEGMENT = regex.compile(r"(?w)\b")
_GAP = regex.compile(r"[\s\p{Pd}_]+")
_MARK = r"[^\p{L}\p{M}\p{N}]"  # a keyword also begins and ends where such a one stands: bomb's, l'attentat, a_bomb
_ENDING = r"(?:s|(?<=[sxz]|[cs]h)es)?"  # an English plural


def find_words(text: str) -> list[str]:
    """The words of a text, in order, as they are written."""
    return _WORD.findall(text)


def count_words(text: str) -> int:
    """How many words a text has."""
    return len(_WORD.findall(text))


def keyword_finder(keywords: list[str]) -> Callable[[str], bool]:
    """text → whether one of the keywords stands in it as whole words: "grapes" does not hold "rape".

    Case, full width and the kind of apostrophe make no difference; nor do blanks and hyphens between the words of a
    keyword. Plurals in -s and -es and possessives are found as well; with a * at its end, any word that begins so. A
    Chinese keyword is found wherever its characters stand side by side.
    """
    pattern = "|".join(_pattern(each) for each in keywords if each.strip(" *")) or r"(?!)"  # none: nothing is found
    whole = regex.compile(rf"(?>(?<={_MARK})|\b)(?:{pattern})", regex.V1 | regex.WORD | regex.IGNORECASE)
    return lambda text: whole.search(_comparable(text)) is not None


def _pattern(keyword: str) -> str:
    end = "" if keyword.endswith("*") else rf"{_ENDING}(?>(?={_MARK})|\b)"
    words = _GAP.split(_comparable(keyword.removesuffix("*")).strip())
    apart = (r"\s*".join(map(regex.escape, filter(None, _SEGMENT.split(word)))) for word in words)
    return r"[\s\p{Pd}_]+".join(apart) + end


def _comparable(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("’", "'")


def script_of(letter: str) -> str:
    """Writing system of a letter, by the first word of its Unicode name: Latin, Cyrillic, …; Chinese and Japanese, who
    share one, count as one."""
    name = unicodedata.name(letter, "unknown").split()[0].split("-")[0]
    return "Chinese or Japanese" if name in ("CJK", "HIRAGANA", "KATAKANA") else name.capitalize()

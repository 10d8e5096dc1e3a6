"""Word by word, what a rewrite left out of its prompt and what it added: the shortest list of such changes."""

import itertools
import operator
from typing import NamedTuple

import regex
from rapidfuzz.distance import Indel

# What stands between two of Unicode's word boundaries (see experiment/words.py), marks too; a hyphen joins two words.
# Flags come first: each boundary between them is searched from where their run begins.
_WORD = regex.compile(r"(?w)\p{RI}{1,2}\s*|\S.*?\b(?:(?<=\w)-(?=\w).*?\b\w.*?\b)*\s*|\s+", regex.V1 | regex.DOTALL)
_LONGEST = 4000  # words of both texts that are compared: memory grows with their square


class Piece(NamedTuple):
    """A stretch of text. kind: same, lost (the prompt's alone) or added (the rewrite's alone)."""

    kind: str
    text: str


def compare(prompt: str, rewrite: str) -> list[Piece]:
    """The pieces of both texts, in order; same and added together are the rewrite, to the letter.

    Blanks belong to the word before them, and do not make two words differ. Beyond their common beginning and end,
    texts of more than 4,000 words count as replaced altogether.
    """
    before, after = _WORD.findall(prompt), _WORD.findall(rewrite)
    old, new = [word.rstrip() for word in before], [word.rstrip() for word in after]
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    old, new = old[start : len(old) - end], new[start : len(new) - end]
    pieces = [Piece("same", "".join(after[:start]))]
    for kind, i, j, k, n in _blocks(old, new):
        lost, added = "".join(before[start + i : start + j]), "".join(after[start + k : start + n])
        pieces += [Piece("same", added)] if kind == "equal" else [Piece("lost", lost), Piece("added", added)]
    pieces.append(Piece("same", "".join(after[len(after) - end :])))
    return _joined(pieces)


def share_changed(prompt: str, rewrite: str) -> float:
    """Letters of the pieces that differ, of all letters of both texts: 0 for the prompt itself, 1 for nothing kept."""
    pieces = compare(prompt, rewrite)
    changed = sum(len(piece.text) for piece in pieces if piece.kind != "same")
    total = changed + 2 * sum(len(piece.text) for piece in pieces if piece.kind == "same")
    return changed / total if total else 0.0


def marked(prompt: str, rewrite: str) -> str:
    """The rewrite for a terminal: [-what was left out-] and {+what was added+}, as wdiff writes them."""
    marks = {"same": "{}{}", "lost": "[-{}-]{}", "added": "{{+{}+}}{}"}
    parts = []
    for kind, text in compare(prompt, rewrite):
        word = text.rstrip()
        parts.append(marks[kind].format(word, text[len(word) :]))
    return "".join(parts)


def _common(one: list[str], other: list[str]) -> int:
    """How many words at their beginning two lists share."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _blocks(old: list[str], new: list[str]) -> list[tuple]:
    """(kind, from, to, from, to) of old and new; insert and delete side by side come as they are."""
    if len(old) + len(new) > _LONGEST:
        return [("replace", 0, len(old), 0, len(new))]
    numbers = {word: number for number, word in enumerate(dict.fromkeys([*old, *new]))}
    opcodes = Indel.opcodes([numbers[word] for word in old], [numbers[word] for word in new])
    return [(code.tag, code.src_start, code.src_end, code.dest_start, code.dest_end) for code in opcodes]


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one kind as one, what was lost before what was added in its place, and no empty piece."""
    joined: list[Piece] = []
    for same, group in itertools.groupby(filter(operator.itemgetter(1), pieces), lambda piece: piece.kind == "same"):
        run = list(group)
        for kind in ("same",) if same else ("lost", "added"):
            joined.append(Piece(kind, "".join(text for other, text in run if other == kind)))
    return [piece for piece in joined if piece.text]

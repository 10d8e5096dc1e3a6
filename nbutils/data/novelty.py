"""ROUGE-L between prompts, and the filter that keeps near copies out of a growing pool (POIR section 3.1).

The F-measure is that of the package rouge-score without stemming: text in lower case, every run of characters other
than a-z and 0-9 separates tokens, F = 2 LCS / (tokens of one + tokens of the other). To rouge-score a letter beyond a-z
separates too; here it belongs to a token as any letter does, and tokens end where the Unicode standard bounds words
(experiment/words.py): "naïve" is one, each Chinese character is one. A text whose letters and digits are all ASCII has
the tokens of rouge-score, in whatever company. A text without letters and digits ("？？") has none, so its ROUGE-L with
anything is 0; the filter then still refuses exact duplicates, and nothing more (not_compared counts these).

The pool is not compared pair by pair. Two texts share at most as many tokens in order as they share in any order, so
2 · (size of the common multiset) / (sum of lengths) bounds F from above; one pass over an inverted index gives that
bound for the whole pool. LCS lengths are then computed from the highest bound down, until no bound left reaches what
was found: the result is the one of comparing with every prompt, ties included.
"""

import re
import unicodedata
from array import array
from collections.abc import Iterator

import numpy as np
import regex
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

_SEPARATOR = re.compile(r"[^a-z0-9]+")
_BEYOND_ASCII = re.compile(r"[^\W\x00-\x7f]")  # a letter or digit
_LETTER = r"[\p{L}\p{Nd}\p{Nl}]"
_TOKEN = regex.compile(  # letters with their marks, up to the end of the word or to what is no letter
    rf"(?w)(?:[a-zA-Z0-9]|[{_LETTER}--[\x00-\x7f]]\p{{M}}*+)+?(?:\b|(?!{_LETTER}))", regex.V1
)
_UNKNOWN = 0  # the id of a token that is nowhere in the pool
_NUM_CHARACTERS = 0x110000  # ids below it fit into a str, which rapidfuzz reads four times as fast as a list
_LEVELS = (0.8, 0.5, 0.25, 0.0)  # the highest bounds are looked at first: shares of the highest
_COMMON = (256, 1 / 16)  # a term that more prompts than both have, as a number and a share of the pool, is common
_BATCH = (32, 4096)  # pairs compared at once: at first, and at most


def tokenize(text: str) -> list[str]:
    """Tokens in lower case, in order: rouge-score's without stemming, and those of other writing systems."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        if _BEYOND_ASCII.search(text):
            return [token.lower() for token in _TOKEN.findall(text)]
    return _SEPARATOR.sub(" ", text.lower()).split()


def not_compared(texts: list[str], threshold: float) -> str:
    """How many of the texts have no words, so that only exact copies of them are found, to end a printed line with.

    Empty where there are none, and at threshold 1, where nothing but exact copies is looked for.
    """
    number = 0 if threshold >= 1 else sum(not tokenize(text) for text in set(texts))
    return f" · {number} prompt{'s' * (number != 1)} without words: not compared" * bool(number)


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F-measure of two texts, 0 to 1; 0 where one of them has no tokens."""
    return float(rouge_l_matrix([first], [second])[0, 0])


def rouge_l_matrix(first: list[str], second: list[str]) -> np.ndarray:
    """ROUGE-L F-measure of each pair: (len(first), len(second)), 0 to 1."""
    ids: dict[str, int] = {}
    return _compare(*([_pack(_learn(text, ids)) for text in texts] for texts in (first, second)))


def find_near(prompts: list[str], others: list[str], threshold: float) -> list[bool]:
    """For each prompt whether ROUGE-L with any of the others is above threshold."""
    if threshold >= 1 or not others:
        return [False] * len(prompts)
    pool = NoveltyFilter(threshold, others)
    return [pool.is_near(prompt) for prompt in prompts]


def _learn(text: str, ids: dict[str, int]) -> list[int]:
    """Ids of a text's tokens; new tokens get the next ones, from 1."""
    return [ids.setdefault(token, len(ids) + 1) for token in tokenize(text)]


def _pack(ids: list[int]) -> str | list[int]:
    return "".join(map(chr, ids)) if max(ids, default=0) < _NUM_CHARACTERS else ids


def _compare(first: list, second: list) -> np.ndarray:
    common = process.cdist(first, second, scorer=LCSseq.similarity, dtype=np.int32)  # (first, second) LCS lengths
    lengths = np.add.outer([len(ids) for ids in first], [len(ids) for ids in second])
    return 2 * common.reshape(lengths.shape) / np.maximum(lengths, 1)


def _terms(ids: list[int]) -> list[tuple[int, int]]:
    """(id, how often it came before) of each token: texts share as many of these as tokens of their multisets."""
    before: dict[int, int] = {}
    terms = []
    for token in ids:
        count = before.get(token, 0)
        before[token] = count + 1
        terms.append((token, count))
    return terms


class NoveltyFilter:
    """A pool of prompts that takes in only what is new to it.

    threshold: a prompt whose ROUGE-L with one in the pool is above it is refused; 1 refuses exact duplicates only.
    pool: prompts that are in from the start, unchecked.
    Memory: the prompts and a few bytes for each of their tokens; refused prompts leave nothing behind.
    """

    def __init__(self, threshold: float, pool: list[str] | tuple[str, ...] = ()):
        if not 0 <= threshold <= 1:
            raise ValueError(f"novelty threshold must lie between 0 and 1, got {threshold}")
        self.threshold = threshold
        self.prompts: list[str] = []
        self._known: set[str] = set()
        self._ids: dict[str, int] = {}
        self._packed: list[str | list[int]] = []
        self._lengths = array("i")
        self._holders: dict[tuple[int, int], array] = {}  # rare term → numbers of the prompts that have it
        self._flags: dict[tuple[int, int], bytearray] = {}  # common term → 1 at the numbers of those prompts
        for prompt in pool:
            self._add(prompt)

    def __len__(self) -> int:
        return len(self.prompts)

    def accept(self, prompt: str, num_nearest: int = 1) -> tuple[bool, list[tuple[str, float]]]:
        """(whether the prompt is new, the nearest in the pool with their ROUGE-L, highest first); a new one joins.

        An exact duplicate is its own nearest, at 1. Prompts of the pool at ROUGE-L 0 are never listed.
        """
        if prompt in self._known:
            return False, [(prompt, 1.0)]
        nearest = self.nearest(prompt, num_nearest)
        is_new = not nearest or nearest[0][1] <= self.threshold
        if is_new:
            self._add(prompt)
        return is_new, nearest

    def accept_all(self, prompts: list[str]) -> list[bool]:
        """accept() for each prompt in turn, so that one also has to be new to those before it; finds no neighbours."""
        accepted = []
        for prompt in prompts:
            accepted.append(prompt not in self._known and not self.is_near(prompt))
            if accepted[-1]:
                self._add(prompt)
        return accepted

    def nearest(self, prompt: str, num_nearest: int = 1) -> list[tuple[str, float]]:
        """Up to num_nearest (at least 1) prompts of the pool with their ROUGE-L above 0, highest first.

        Of equal scores the one that joined first comes first.
        """
        num_nearest = max(num_nearest, 1)
        packed, bounds = self._bound(prompt)
        best: list[tuple[float, int]] = []  # (-score, number), sorted
        least, upper = 0.0, np.inf  # least: the score that a place among the best takes
        for lower in bounds.max(initial=0.0) * np.array(_LEVELS):
            among = np.flatnonzero(bounds >= max(lower, least))
            among = among[(bounds[among] < upper) & (bounds[among] > 0)]
            for numbers in self._batches(among, bounds):
                numbers = numbers[bounds[numbers] >= least]
                best += zip((-self._score(packed, numbers)).tolist(), numbers.tolist(), strict=True)
                best = sorted(best)[:num_nearest]
                least = -best[-1][0] if len(best) == num_nearest else 0.0
            upper = lower
            if upper <= least:  # nothing that is left reaches the best found
                break
        return [(self.prompts[number], -score) for score, number in best if score < 0]

    def is_near(self, prompt: str) -> bool:
        """Whether ROUGE-L with any prompt of the pool is above threshold: cheaper than nearest()."""
        packed, bounds = self._bound(prompt)
        batches = self._batches(np.flatnonzero(bounds > self.threshold), bounds)
        return any((self._score(packed, numbers) > self.threshold).any() for numbers in batches)

    def _bound(self, prompt: str) -> tuple[str | list[int], np.ndarray]:
        """The prompt packed, and what its ROUGE-L with each prompt of the pool is at most: (len(self),)."""
        ids = [self._ids.get(token, _UNKNOWN) for token in tokenize(prompt)]
        terms = _terms(ids)
        holders = b"".join([self._holders[term] for term in terms if term in self._holders])
        common = np.bincount(np.frombuffer(holders, dtype=np.int32), minlength=len(self))
        flags = [self._flags[term] for term in terms if term in self._flags]
        for start in range(0, len(flags), 255):  # as many as a byte can count
            count = np.zeros(len(self), dtype=np.uint8)
            for each in flags[start : start + 255]:
                count[: len(each)] += np.frombuffer(each, dtype=np.uint8)
            common += count
        lengths = np.array(self._lengths, dtype=np.int32) + max(len(ids), 1)  # without tokens nothing is common
        return _pack(ids), 2 * common / lengths

    @staticmethod
    def _batches(numbers: np.ndarray, bounds: np.ndarray) -> Iterator[np.ndarray]:
        """The numbers by falling bound, in batches that grow."""
        numbers, (size, most) = numbers[np.argsort(-bounds[numbers], kind="stable")], _BATCH
        while len(numbers):
            yield numbers[:size]
            numbers, size = numbers[size:], min(2 * size, most)

    def _score(self, packed: str | list[int], numbers: np.ndarray) -> np.ndarray:
        return _compare([packed], [self._packed[number] for number in numbers])[0]

    def _add(self, prompt: str) -> None:
        if prompt in self._known:
            return
        ids, number = _learn(prompt, self._ids), len(self)
        for term in _terms(ids):
            self._index(term, number)
        self._known.add(prompt)
        self.prompts.append(prompt)
        self._packed.append(_pack(ids))
        self._lengths.append(len(ids))

    def _index(self, term: tuple[int, int], number: int) -> None:
        """Note that prompt `number` has the term; adding a common term's flags is ten times as fast as counting."""
        if term in self._flags:
            flags = self._flags[term]
            flags += bytes(number + 1 - len(flags))
            flags[number] = 1
            return
        holders = self._holders.setdefault(term, array("i"))
        holders.append(number)
        if len(holders) > max(_COMMON[0], _COMMON[1] * number):
            marks = np.zeros(number + 1, dtype=np.uint8)
            marks[holders] = 1
            self._flags[term] = bytearray(marks.tobytes())
            del self._holders[term]

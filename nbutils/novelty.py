"""ROUGE-L between prompts, and the filter that keeps near copies out of a growing pool (POIR section 3.1).

The F-measure is that of the package rouge-score without stemming: text in lower case, every run of characters other
than a-z and 0-9 separates tokens, F = 2 LCS / (tokens of one + tokens of the other). A prompt in another script has
no tokens, so its ROUGE-L with anything is 0; the filter then still refuses exact duplicates, and nothing more.
"""

import re

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

_SEPARATOR = re.compile(r"[^a-z0-9]+")
_CHUNK = 256  # prompts compared at once: bounds the memory of a comparison with a large pool


def tokenize(text: str) -> list[str]:
    """Tokens as rouge-score makes them, without stemming."""
    return _SEPARATOR.sub(" ", text.lower()).split()


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F-measure of two texts, 0 to 1; 0 where one of them has no tokens."""
    return float(rouge_l_matrix([first], [second])[0, 0])


def rouge_l_matrix(first: list[str], second: list[str]) -> np.ndarray:
    """ROUGE-L F-measure of each pair: (len(first), len(second)), 0 to 1."""
    ids: dict[str, int] = {}
    return _compare(*([_encode(text, ids) for text in texts] for texts in (first, second)))


def find_near(prompts: list[str], others: list[str], threshold: float) -> list[bool]:
    """For each prompt whether ROUGE-L with any of the others is above threshold."""
    if threshold >= 1 or not others:
        return [False] * len(prompts)
    chunks = [prompts[start : start + _CHUNK] for start in range(0, len(prompts), _CHUNK)]
    return [bool(near) for chunk in chunks for near in (rouge_l_matrix(chunk, others) > threshold).any(axis=1)]


def _encode(text: str, ids: dict[str, int]) -> list[int]:
    return [ids.setdefault(token, len(ids)) for token in tokenize(text)]


def _compare(first: list[list[int]], second: list[list[int]]) -> np.ndarray:
    common = process.cdist(first, second, scorer=LCSseq.similarity, dtype=np.int32)  # (first, second) LCS lengths
    lengths = np.add.outer([len(ids) for ids in first], [len(ids) for ids in second])
    return 2 * common.reshape(lengths.shape) / np.maximum(lengths, 1)


class NoveltyFilter:
    """A pool of prompts that takes in only what is new to it.

    threshold: a prompt whose ROUGE-L with one in the pool is above it is refused; 1 refuses exact duplicates only.
    pool: prompts that are in from the start, unchecked.
    """

    def __init__(self, threshold: float, pool: list[str] | tuple[str, ...] = ()):
        if not 0 <= threshold <= 1:
            raise ValueError(f"novelty threshold must lie between 0 and 1, got {threshold}")
        self.threshold = threshold
        self.prompts: list[str] = []
        self._known: set[str] = set()
        self._ids: dict[str, int] = {}
        self._encoded: list[list[int]] = []
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
        """accept() for each prompt in turn, so that one also has to be new to those before it."""
        return [self.accept(prompt)[0] for prompt in prompts]

    def nearest(self, prompt: str, num_nearest: int = 1) -> list[tuple[str, float]]:
        """Up to num_nearest (at least 1) prompts of the pool with their ROUGE-L above 0, highest first."""
        if not self._encoded:
            return []
        scores = _compare([_encode(prompt, self._ids)], self._encoded)[0]  # (len(self),)
        order = np.argsort(-scores, kind="stable")[: max(num_nearest, 1)]
        return [(self.prompts[index], float(scores[index])) for index in order if scores[index] > 0]

    def _add(self, prompt: str) -> None:
        if prompt not in self._known:
            self._known.add(prompt)
            self.prompts.append(prompt)
            self._encoded.append(_encode(prompt, self._ids))

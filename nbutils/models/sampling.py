"""Seeded draws: temperature, top-k, top-p, and Gumbel noise that is a hash of (request seed, position, token).

The greedy choice over log-probabilities and noise is an exact sample, and depends on the row's own seed only.
"""

from typing import Any

from nbutils.models.texts import Sampling


class SeededSampler:
    """Logits processor: temperature, top-k, top-p, then Gumbel noise hashed from (seed, position, token).

    seeds: one int per row; width: padded prompt length in tokens. The greedy choice over the result is an exact
    sample, and it depends on the row's own seed only, never on its neighbours.
    """

    def __init__(self, seeds: list[int], width: int, sampling: Sampling):
        import torch

        self.seeds = torch.tensor(seeds, dtype=torch.int64)[:, None]  # (B, 1)
        self.width = width
        self.sampling = sampling

    def __call__(self, input_ids, scores):
        import torch

        scores = filter_scores(scores.float() / self.sampling.temperature, self.sampling)
        position = input_ids.shape[1] - self.width
        tokens = torch.arange(scores.shape[1], device=scores.device, dtype=torch.int64)[None, :]  # (1, V)
        noise = gumbel(self.seeds.to(scores.device), position, tokens)  # (B, V)
        return (torch.log_softmax(scores, dim=-1) + noise).to(torch.float32)


class NumberWatch:
    """Logits processor that changes nothing: notes where a row's scores first are no numbers, NaN or all infinite.

    width: padded prompt length in tokens.
    """

    def __init__(self, width: int):
        self.width = width
        self._first: Any = None  # (B,) position of the first such token, -1 for none

    def __call__(self, input_ids, scores):
        import torch

        lost = scores.isnan().any(1) | ~scores.isfinite().any(1)  # (B,)
        if self._first is None:
            self._first = torch.full_like(input_ids[:, 0], -1)
        self._first = torch.where((self._first < 0) & lost, input_ids.shape[1] - self.width, self._first)
        return scores

    def lost_at(self) -> list[int | None]:
        """For each row the number of its first token without numbers, from 0 on; None if all had some."""
        return [None if place < 0 else place for place in self._first.tolist()]


def filter_scores(scores, sampling: Sampling):
    """Scores (B, V) with all but the top_k largest, then all outside the top_p nucleus, at minus infinity."""
    import torch

    if 0 < sampling.top_k < scores.shape[1]:
        smallest = scores.topk(sampling.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < smallest, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, index = scores.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of all larger tokens
        outside = (before >= sampling.top_p).scatter(1, index, before >= sampling.top_p)
        scores = scores.masked_fill(outside, -torch.inf)
    return scores


def gumbel(seeds, position: int, tokens):
    """Standard Gumbel noise (B, V) from a counter-based hash (splitmix64's finaliser) of seed, position and token."""
    import torch

    offset = (position + 1) * 0x1E3779B97F4A7C15 % 2**64
    x = seeds + (offset - 2**64 if offset >= 2**63 else offset) + tokens * 0x3F58476D1CE4E5B9
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    uniform = (((x >> 12) & ((1 << 52) - 1)).to(wide) + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform))

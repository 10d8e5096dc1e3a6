"""POIR's two steps in turn, chunk by chunk, until there are as many pairs as are wanted (section 3.1).

Departure from the paper, which invents "until a sufficient amount of data is obtained" and then runs the second step:
what is sufficient depends on how many prompts give a pair, so both steps alternate. The first chunk has a prompt for
each pair wanted, the next ones as many as the yield so far asks for. Chunks follow from what was answered alone, so
that a resumed run makes the same ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from nbutils.collect import critique, pairing
from nbutils.collect.invent import Invention
from nbutils.experiment.progress import Bar
from nbutils.experiment.records import Pair, Prompt, Round

MOST_PROMPTS = 10  # for each pair wanted, where max_prompts says nothing else
_MARGIN = 10  # a tenth more prompts than the yield asks for


@dataclass(frozen=True)
class Wanted:
    """How many pairs, pairs_per_prompt: all | one of each prompt, from how many invented prompts at most (0: ten for
    each pair)."""

    num_pairs: int
    max_prompts: int = 0
    pairs_per_prompt: str = "all"

    @property
    def most_prompts(self) -> int:
        return self.max_prompts or MOST_PROMPTS * self.num_pairs


@dataclass
class Collected:
    """The prompts kept, how many were too close to a test prompt, every round; num_pairs pairs at most, and those that
    the last chunk gave beyond. message: why there are fewer than wanted, if so."""

    prompts: list[Prompt] = field(default_factory=list)
    num_near: int = 0
    rounds: list[Round] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    spare: list[Pair] = field(default_factory=list)
    message: str = ""


def collect(
    pool: Invention, responder: str, loop: critique.Loop, wanted: Wanted, near: Callable[[list[Prompt]], set[str]]
) -> Collected:
    """Invent, drop what is near a test prompt, run the self-critique loop on the rest, pair; again, until num_pairs.

    pool: grows as needed; its model critiques and rewrites too, the responder answers, both as pool.given says.
    near: prompt_ids, of some prompts, of those too close to a test prompt.
    Ends early, with a message, where the pool stops growing and after max_prompts.
    """
    found = Collected()
    with Bar(wanted.num_pairs, "pairs" if pool.given.progress else None) as bar:
        while len(found.pairs) < wanted.num_pairs and not found.message:
            before, size = len(pool.rows), next_chunk(wanted, len(found.pairs), len(pool.rows))
            pool.grow(before + size)
            _pair(found, pool, pool.rows[before:], responder, loop, wanted, near)
            bar.update(len(found.pairs) - bar.n)
            found.message = _closing(found, pool, wanted)
    return found


def next_chunk(wanted: Wanted, num_pairs: int, num_prompts: int) -> int:
    """How many prompts to invent next, when num_prompts have given num_pairs: never more than there are, if any."""
    size = num_prompts or wanted.num_pairs
    if num_pairs:
        missing = wanted.num_pairs - num_pairs
        size = min(size, -(-missing * num_prompts * (_MARGIN + 1) // (num_pairs * _MARGIN)))
    return min(size, wanted.most_prompts - num_prompts)


def _pair(found: Collected, pool: Invention, rows: list[Prompt], responder: str, loop, wanted: Wanted, near) -> None:
    """The second step, of a chunk's rows."""
    close = near(rows)
    prompts = [row for row in rows if row.prompt_id not in close]
    rounds = critique.self_evaluate(pool.model, responder, prompts, loop, pool.given)
    pairs = found.pairs + pairing.make_pairs(rounds, loop.good_score, wanted.pairs_per_prompt)
    found.prompts += prompts
    found.rounds += rounds
    found.num_near += len(close)
    found.pairs, found.spare = pairs[: wanted.num_pairs], pairs[wanted.num_pairs :]


def _closing(found: Collected, pool: Invention, wanted: Wanted) -> str:
    """Why it ends with fewer pairs than wanted, if it does."""
    if len(found.pairs) == wanted.num_pairs:
        return ""
    most = len(pool.rows) >= wanted.most_prompts
    why = pool.message or ("no more are allowed: raise max_prompts" if most else "")
    return why and f"{len(found.pairs)} of {wanted.num_pairs} pairs, of {len(pool.rows)} prompts: {why}"

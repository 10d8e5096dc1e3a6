"""POIR's first step: a model invents new prompts from a growing pool of seeds, and filters keep what is new and sound.

Every instruction asked for ends in one place: accepted, unreadable, or refused for one counted reason (section 3.1).
"""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nbutils.data.novelty import NoveltyFilter
from nbutils.experiment import words
from nbutils.experiment.progress import Bar
from nbutils.experiment.records import Prompt, prompt_id
from nbutils.models import templates
from nbutils.models.generate import Conditions, generate
from nbutils.models.texts import Generation

MOST_CALLS = 20  # for each prompt wanted, after which inventing ends
_SLOW_BATCHES = 5  # in a row, after which it ends too
_FEWEST_CALLS = 8  # of a batch: fewer would say little about the share that is accepted
_FOREIGN_SHARE = 1 / 3  # of a text's letters, above which it is in another script than the seeds
_LEFTOVER = re.compile(
    r"(generated|seed) instruction|instruction \d+ *:|<\|[^|\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|\{[a-z_]{1,20}\}",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Settings:
    """How prompts are invented: from how many shots, which come from where, and when it is given up.

    human_share: chance that a shot comes from the human seeds rather than from the prompts made before.
    min_acceptance: share of the instructions asked for below which, five batches in a row, inventing ends.
    """

    num_shots: int = 4
    human_share: float = 0.5
    min_acceptance: float = 0.01


@dataclass
class Invention:
    """A pool of prompts that a model invents: grow() asks it for more, and goes on where it stopped.

    seeds: see usable_seeds; refuse: reason to refuse a prompt, or None; novelty: the pool's ROUGE-L filter, which the
    seeds join. Sampled as given.rewriting says, whose seed also draws the shots.
    It holds the rows accepted, counts by outcome, three examples of each refusal; message: why it can grow no more.
    """

    model: str
    seeds: list[str]
    settings: Settings
    refuse: Callable[[str], str | None]
    novelty: NoveltyFilter
    given: Conditions
    rows: list[Prompt] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    message: str = ""
    num_calls: int = 0
    num_slow: int = 0  # batches in a row, up to now, that brought hardly anything

    def __post_init__(self):
        if not self.seeds:
            raise ValueError("no usable seed prompt: name a prompt set or file with `seeds`")
        self.rng = random.Random(self.given.rewriting.seed)
        for seed in self.seeds:
            self.novelty.accept(seed)

    def grow(self, wanted: int) -> None:
        """Invent until there are `wanted` prompts in all, two asked for per call (POIR Table 6), each call shown
        num_shots of the pool, which grows between batches of calls.

        Stops early, with a message, when five batches in a row bring hardly anything new, or after MOST_CALLS for each
        prompt wanted. A batch makes a call for each prompt that is missing, within batch_size, and eight at least.
        """
        most, slowest = MOST_CALLS * wanted, self.settings.min_acceptance
        with Bar(wanted, "new prompts" if self.given.progress else None, len(self.rows)) as bar:
            while len(self.rows) < wanted and self.num_slow < _SLOW_BATCHES and self.num_calls < most:
                before, missing = len(self.rows), wanted - len(self.rows)
                number = min(self.given.runtime.batch_size, most - self.num_calls, max(missing, _FEWEST_CALLS))
                shots = [_shots(self.rng, self.seeds, self.rows, self.settings) for _ in range(number)]
                for text, shown in zip(_ask(self, shots, bar), shots, strict=True):
                    _take(self, text, shown, wanted)
                accepted, self.num_calls = len(self.rows) - before, self.num_calls + number
                is_slow = accepted < missing and accepted / (2 * number) <= slowest
                self.num_slow = self.num_slow + 1 if is_slow else 0
                bar.update(accepted)
        if len(self.rows) < wanted:
            self.message = _closing(self, wanted)


def _ask(found: Invention, shots: list[list[str]], bar: Bar) -> list[Generation]:
    """What the model answers to each list of shots; their samples are numbered from num_calls on."""
    given = found.given
    template = templates.load("invent", given.templates)
    requests = [templates.messages(template, seeds=templates.seed_block(each)) for each in shots]
    numbers = list(range(found.num_calls, found.num_calls + len(requests)))
    note = bar.set_postfix_str
    return generate(found.model, requests, given.rewriting, given.runtime, given.journal, numbers, None, note)


def _closing(found: Invention, wanted: int) -> str:
    """Why the pool ended before it held as many prompts as were wanted."""
    few = f"at most {found.settings.min_acceptance:.0%} accepted in each of {_SLOW_BATCHES} batches"
    why = few if found.num_slow == _SLOW_BATCHES else f"{MOST_CALLS} calls made for each"
    return f"the pool stopped growing at {len(found.rows)} of {wanted} prompts ({why}): add seeds or loosen a filter"


def _shots(rng: random.Random, seeds: list[str], rows: list[Prompt], settings: Settings) -> list[str]:
    made = [row.prompt for row in rows]
    pools = [seeds if not made or rng.random() < settings.human_share else made for _ in range(settings.num_shots)]
    return [rng.choice(pool) for pool in pools]


def _take(found: Invention, made: Generation, shots: list[str], wanted: int) -> None:
    """Sort one call's instructions into accepted rows and counted refusals; a call that failed was to bring two."""
    if made.reason:
        found.counts["no answer"] += 2
        return _example(found, "no answer", made.reason)
    texts = templates.parse_instructions(made.text)[:2]
    found.counts["unparsed"] += 2 - len(texts)
    if len(texts) < 2:
        _example(found, "unparsed", made.text)
    for text in texts:
        if len(found.rows) >= wanted:
            return
        reason = found.refuse(text)
        if reason is None:
            new, nearest = found.novelty.accept(text)
            reason = None if new else "duplicate" if (text, 1.0) in nearest else "too similar"
        found.counts[reason or "accepted"] += 1
        if reason:
            _example(found, reason, text)
        else:
            source = {"shots": shots, "nearest": nearest}
            found.rows.append(Prompt(prompt_id(text), text, "collect", "train", source))


def _example(found: Invention, reason: str, text: str) -> None:
    examples = found.examples.setdefault(reason, [])
    if len(examples) < 3:
        examples.append(text)


def usable_seeds(seeds: list[str], num_shots: int, max_words: int) -> tuple[list[str], dict[str, int]]:
    """(seeds without blanks, repeats and over-long ones, in order; what was left out, by reason).

    ValueError, in one line, if fewer remain than one call shows.
    """
    kept: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    for seed in seeds:
        text = seed.strip()
        reason = "empty" if not text else "duplicate" if text in kept else ""
        reason = reason or ("too long" if words.count_words(text) > max_words else "")
        if reason:
            left_out[reason] += 1
        else:
            kept[text] = None
    if len(kept) < num_shots:
        named = ", ".join(f"{number} {reason}" for reason, number in left_out.items()) or "none left out"
        raise ValueError(
            f"{len(kept)} usable seeds ({named}), one call shows {num_shots}: add seeds or lower num_shots"
        )
    return list(kept), dict(left_out)


def scripts_of(texts: list[str]) -> set[str]:
    """Scripts of the letters in texts, as experiment/words.py names them: Latin, Cyrillic, …"""
    return {words.script_of(letter) for letter in set("".join(texts)) if letter.isalpha()}


def refusal(
    min_words: int, max_words: int, keywords: list[str], test_ids: set[str], scripts: set[str] | None = None
) -> Callable[[str], str | None]:
    """The filter of POIR section 3.1: text → reason to refuse it, or None. scripts: those of the seeds; None: any.

    Words are counted, and keywords found, as experiment/words.py says."""
    has_keyword = words.keyword_finder(keywords)

    def refuse(text: str) -> str | None:
        num_words = words.count_words(text)
        if num_words < min_words:
            return "too short"
        if num_words > max_words:
            return "too long"
        if has_keyword(text):
            return "keyword"
        if any(ord(letter) < 32 and letter not in "\n\t" for letter in text) or templates.DELIMITER.strip() in text:
            return "odd characters"
        if _LEFTOVER.search(text):
            return "template leftover"
        if scripts is not None and is_foreign(text, scripts):
            return "another script"
        return "test prompt" if prompt_id(text) in test_ids else None

    return refuse


def is_foreign(text: str, scripts: set[str]) -> bool:
    """Whether more than a third of a text's letters are in none of the scripts."""
    letters = [letter for letter in text if letter.isalpha()]
    return sum(words.script_of(letter) not in scripts for letter in letters) > _FOREIGN_SHARE * len(letters)

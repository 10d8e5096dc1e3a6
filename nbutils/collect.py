"""POIR's two steps of data collection: invent new prompts from seeds, then answer, critique and rewrite them.

Departures from the paper (section 3.1):
1. A prompt is answered at most num_rounds + 1 times: as it is (round 0), then after each of num_rounds rewrites. The
   paper's loop writes a last rewrite that nobody answers.
2. The critique is always against the original prompt, whatever rewrite the response came from: a rewrite that
   changes the question must not earn a good score.
"""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from tqdm import tqdm

from nbutils import templates
from nbutils.generate import Sampling, generate
from nbutils.models import Runtime
from nbutils.novelty import NoveltyFilter
from nbutils.records import Journal, Pair, Prompt, Round, prompt_id

_SLOW_BATCHES = 5  # in a row, after which collecting ends
_FOREIGN_SHARE = 1 / 3  # of a text's letters, above which it is in another script than the seeds
_LEFTOVER = re.compile(
    r"(generated|seed) instruction|instruction \d+ *:|<\|[^|\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|\{[a-z_]{1,20}\}",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Settings:
    """How many prompts to invent from how many shots; how often to rewrite; what is good; how often to ask again.

    human_share: chance that a shot comes from the human seeds rather than from the prompts made before.
    min_acceptance: share of the instructions asked for below which, five batches in a row, inventing ends.
    """

    num_prompts: int
    num_shots: int = 4
    human_share: float = 0.5
    num_rounds: int = 3
    good_score: int = 4
    num_retries: int = 1
    min_acceptance: float = 0.01


@dataclass
class Invention:
    """What inventing gave: rows accepted, counts by outcome, three examples of each refusal, a closing message."""

    rows: list[Prompt] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    message: str = ""


def invent(
    model: str,
    seeds: list[str],
    settings: Settings,
    refuse: Callable[[str], str | None],
    novelty: NoveltyFilter,
    folder: str,
    sampling: Sampling,
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    progress: bool = False,
) -> Invention:
    """Up to num_prompts new prompts, two asked for per call (POIR Table 6), each call shown num_shots of the pool.

    refuse: reason to refuse a prompt, or None; novelty: the pool's ROUGE-L filter. The pool grows between batches of
    calls. Stops early, with a message, when five batches in a row bring hardly anything new. seeds: see usable_seeds.
    """
    if not seeds:
        raise ValueError("no usable seed prompt: name a prompt set or file with `seeds`")
    found, rng, slow, call = Invention(), random.Random(sampling.seed), 0, 0
    template = templates.load("invent", folder)
    for seed in seeds:
        novelty.accept(seed)
    num_prompts = settings.num_prompts
    bar = tqdm(total=num_prompts, desc="new prompts", disable=not progress, mininterval=1.0)
    while len(found.rows) < num_prompts and slow < _SLOW_BATCHES:
        shots = [_shots(rng, seeds, found.rows, settings) for _ in range(runtime.batch_size)]
        requests = [templates.messages(template, seeds=templates.seed_block(each)) for each in shots]
        numbers = list(range(call, call + len(requests)))
        texts = generate(model, requests, sampling, runtime, journal, numbers)
        before, call = len(found.rows), call + len(requests)
        for each, text in zip(shots, texts, strict=True):
            _take(found, text, each, num_prompts, refuse, novelty)
        accepted = (len(found.rows) - before) / (2 * len(requests))
        slow = 0 if accepted > settings.min_acceptance else slow + 1
        bar.update(len(found.rows) - bar.n)
    bar.close()
    if len(found.rows) < num_prompts:
        found.message = (
            f"the pool stopped growing at {len(found.rows)} of {num_prompts} prompts (at most "
            f"{settings.min_acceptance:.0%} accepted in each of {_SLOW_BATCHES} batches): add seeds or loosen a filter"
        )
    return found


def _shots(rng: random.Random, seeds: list[str], rows: list[Prompt], settings: Settings) -> list[str]:
    made = [row.prompt for row in rows]
    pools = [seeds if not made or rng.random() < settings.human_share else made for _ in range(settings.num_shots)]
    return [rng.choice(pool) for pool in pools]


def _take(found: Invention, made, shots: list[str], num_prompts: int, refuse, novelty: NoveltyFilter) -> None:
    """Sort one call's instructions into accepted rows and counted refusals."""
    texts = templates.parse_instructions(made.text)[:2]
    found.counts["unparsed"] += 2 - len(texts)
    if len(texts) < 2:
        _example(found, "unparsed", made.text)
    for text in texts:
        if len(found.rows) >= num_prompts:
            return
        reason = refuse(text)
        if reason is None:
            new, nearest = novelty.accept(text)
            reason = None if new else "not new"
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
    kept, left_out = {}, Counter()
    for seed in seeds:
        text = seed.strip()
        reason = "empty" if not text else "duplicate" if text in kept else ""
        reason = reason or ("too long" if len(text.split()) > max_words else "")
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
    """Scripts of the letters in texts, by the first word of their Unicode names: LATIN, CYRILLIC, CJK, …"""
    return {_script(letter) for letter in set("".join(texts)) if letter.isalpha()}


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]


def refusal(
    min_words: int, max_words: int, keywords: list[str], test_ids: set[str], scripts: set[str] | None = None
) -> Callable[[str], str | None]:
    """The filter of POIR section 3.1: text → reason to refuse it, or None. scripts: those of the seeds; None: any."""
    lowered = [word.lower() for word in keywords]

    def refuse(text: str) -> str | None:
        words = text.split()
        if len(words) < min_words:
            return "too short"
        if len(words) > max_words:
            return "too long"
        if any(word in text.lower() for word in lowered):
            return "keyword"
        if any(ord(letter) < 32 and letter not in "\n\t" for letter in text) or templates.DELIMITER.strip() in text:
            return "odd characters"
        if _LEFTOVER.search(text):
            return "template leftover"
        if scripts is not None and _is_foreign(text, scripts):
            return "another script"
        return "test prompt" if prompt_id(text) in test_ids else None

    return refuse


def _is_foreign(text: str, scripts: set[str]) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    return sum(_script(letter) not in scripts for letter in letters) > _FOREIGN_SHARE * len(letters)


def self_evaluate(
    model: str,
    responder: str,
    prompts: list[Prompt],
    settings: Settings,
    folder: str,
    responding: Sampling,
    critiquing: Sampling,
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    progress: bool = False,
) -> list[Round]:
    """Respond, critique (1–5, POIR Table 7), rewrite (Table 8), until good_score or num_rounds rewrites.

    responder answers; model critiques and rewrites (in the paper they are one model).
    All prompts advance together. Rounds come in the order of prompts, each prompt's rounds in order. A critique that
    cannot be parsed is asked again num_retries times; then its round is unscored with the reason and the loop of that
    prompt ends, as it does when no usable rewrite comes (the reason then stands in its last round).
    """
    tools = _Loop(model, responder, folder, settings.num_retries, runtime, journal, progress)
    history: dict[str, list[Round]] = {row.prompt_id: [] for row in prompts}
    active = [(row, row.prompt) for row in prompts]
    for number in range(settings.num_rounds + 1):
        answers = tools.ask([text for _, text in active], responding, number, f"round {number}: responses")
        critiques = tools.critique(active, answers, critiquing, number)
        for (row, text), made, (parsed, raw) in zip(active, answers, critiques, strict=True):
            history[row.prompt_id].append(
                Round(
                    row.prompt_id,
                    row.prompt,
                    number,
                    text,
                    made.text,
                    parsed.score,
                    parsed.critique,
                    raw,
                    made.reason or parsed.reason,
                )
            )
        open_rows = [(row, history[row.prompt_id][-1]) for row, _ in active]
        open_rows = [
            (row, last) for row, last in open_rows if last.score is not None and last.score < settings.good_score
        ]
        if number == settings.num_rounds or not open_rows:
            break
        active = tools.revise(open_rows, history, critiquing, number)
    return [each for row in prompts for each in history[row.prompt_id]]


@dataclass
class _Loop:
    """The models and their templates, as every round uses them."""

    model: str
    responder: str
    folder: str
    num_retries: int
    runtime: Runtime
    journal: Journal | None
    progress: bool

    def ask(self, requests: list, sampling: Sampling, number: int, label: str) -> list:
        samples = [number * 100] * len(requests)
        bar = label if self.progress else None
        return generate(self.responder, requests, sampling, self.runtime, self.journal, samples, label=bar)

    def critique(self, active: list, answers: list, sampling: Sampling, number: int) -> list:
        """(Critique, raw text) of each response; unparsed ones are asked again with another sample index."""
        template = templates.load("critique", self.folder)
        asked = [
            templates.messages(template, prompt=row.prompt, response=made.text)
            for (row, _), made in zip(active, answers, strict=True)
        ]
        return self._until_parsed(
            asked, templates.parse_critique, lambda found: found.score is not None, sampling, number, "critiques"
        )

    def revise(self, open_rows: list, history: dict, sampling: Sampling, number: int) -> list:
        """(prompt, rewrite) for each prompt that goes on; one without a usable rewrite keeps the reason and stops."""
        template = templates.load("revise", self.folder)
        asked = [
            templates.messages(template, prompt=row.prompt, critique=last.critique or "") for row, last in open_rows
        ]
        limits = [1.5 * len(row.prompt.split()) for row, _ in open_rows]
        parsed = self._until_parsed(
            asked, templates.parse_rewrite, lambda found: found[0] is not None, sampling, number, "rewrites"
        )
        going_on = []
        for (row, last), limit, ((text, reason), _) in zip(open_rows, limits, parsed, strict=True):
            if text is not None and len(text.split()) > limit:
                text, reason = None, "rewrite longer than 1.5 times the prompt"
            if text is not None and _is_foreign(text, scripts_of([row.prompt])):
                text, reason = None, "rewrite in another script"
            if text is None:
                rounds = history[row.prompt_id]
                rounds[-1] = Round(**{**last.__dict__, "reason": reason})
            else:
                going_on.append((row, text))
        return going_on

    def _until_parsed(self, asked: list, parse, is_good, sampling: Sampling, number: int, label: str) -> list:
        """[(parsed, raw)] of each request, asked up to num_retries more times while `is_good` refuses it."""
        found: list = [None] * len(asked)
        pending = list(range(len(asked)))
        for attempt in range(self.num_retries + 1):
            samples = [number * 100 + attempt] * len(pending)
            bar = f"round {number}: {label}" if self.progress else None
            texts = generate(
                self.model, [asked[i] for i in pending], sampling, self.runtime, self.journal, samples, label=bar
            )
            for i, made in zip(pending, texts, strict=True):
                found[i] = (parse(made.text), made.text)
            pending = [i for i in pending if not is_good(found[i][0])]
            if not pending:
                break
        return found


def make_pairs(rounds: list[Round], good_score: int, pairs_per_prompt: str = "all") -> list[Pair]:
    """Good (score ≥ good_score) × bad (below) rounds of the same prompt (POIR section 3.1), best against worst first.

    pairs_per_prompt: all | one. Never a pair across prompts, never equal rewrite and response on both sides.
    """
    by_prompt: dict[str, list[Round]] = {}
    for each in rounds:
        by_prompt.setdefault(each.prompt_id, []).append(each)
    pairs = []
    for group in by_prompt.values():
        good = sorted((r for r in group if r.score is not None and r.score >= good_score), key=lambda r: -r.score)
        bad = sorted((r for r in group if r.score is not None and r.score < good_score), key=lambda r: r.score)
        made = [_pair(g, b) for g in good for b in bad if (g.rewrite, g.response) != (b.rewrite, b.response)]
        pairs += made[:1] if pairs_per_prompt == "one" else made
    return pairs


def _pair(good: Round, bad: Round) -> Pair:
    return Pair(
        good.prompt_id,
        good.prompt,
        good.rewrite,
        good.response,
        bad.rewrite,
        bad.response,
        good.score,
        bad.score,
        good.round,
        bad.round,
    )


def lineage(row: Prompt, rounds: list[Round], pairs: list[Pair]) -> str:
    """Where a prompt and its pairs come from, to read: shots, nearest prompts, every round, the pairs made of them."""
    source = row.source or {}
    lines = [f"Prompt: {row.prompt}", *(f"  shown: {shot}" for shot in source.get("shots", []))]
    lines += [f"  nearest: {text} (ROUGE-L {score:.2f})" for text, score in source.get("nearest", [])]
    for each in (each for each in rounds if each.prompt_id == row.prompt_id):
        score = f"score {each.score}" if each.score is not None else f"unscored ({each.reason})"
        lines += [f"Round {each.round}, {score}: {each.rewrite}", f"  response: {each.response}"]
        lines += [f"  critique: {each.critique}"] if each.critique else []
    made = [f"round {pair.good_round} over round {pair.bad_round}" for pair in pairs if pair.prompt_id == row.prompt_id]
    return "\n".join([*lines, f"Pairs: {', '.join(made) or 'none'}"])


def export_rows(pairs: list[Pair], prompts: list[Prompt], rounds: list[Round]) -> list[dict]:
    """Pairs with their lineage, as plain rows: every Pair field, source (shots, nearest), critiques by round."""
    sources = {row.prompt_id: row.source for row in prompts}
    critiques: dict[str, dict[str, str | None]] = {}
    for each in rounds:
        critiques.setdefault(each.prompt_id, {})[str(each.round)] = each.critique
    return [
        asdict(pair) | {"source": sources.get(pair.prompt_id), "critiques": critiques.get(pair.prompt_id, {})}
        for pair in pairs
    ]


def count(made: Invention, prompts: list[Prompt], rounds: list[Round], pairs: list[Pair]) -> dict[str, dict[str, int]]:
    """What became of everything: `funnel`, stage by stage; `refused`, by reason; `rounds`, by outcome."""
    asked = sum(made.counts.values())
    funnel = {
        "instructions asked for": asked,
        "readable": asked - made.counts["unparsed"],
        "accepted by every filter": made.counts["accepted"],
        "not close to a test prompt": len(prompts),
        "scored": len({each.prompt_id for each in rounds if each.score is not None}),
        "with a good and a bad response": len({each.prompt_id for each in pairs}),
    }
    refused = {name: number for name, number in sorted(made.counts.items()) if name != "accepted" and number}
    outcomes = {"rounds": len(rounds), "unscored": sum(each.score is None for each in rounds), "pairs": len(pairs)}
    return {"funnel": funnel, "refused": refused, "outcomes": outcomes}

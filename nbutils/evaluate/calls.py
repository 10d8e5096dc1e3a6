"""How many calls a step makes to paid APIs at most, what they read and write, and what that costs.

A bound, from the parameters alone: before any call, and without the data. Retries are not in it.
"""

import math
import statistics
from dataclasses import dataclass

from nbutils.collect import invent
from nbutils.collect.collecting import Wanted
from nbutils.evaluate import probe, watching
from nbutils.evaluate.arms import POIR_REQUEST, links
from nbutils.models import references, spending, templates
from nbutils.models.spending import Estimate, Limits

PROMPT_TOKENS = 100  # that a prompt is taken to have, where nobody has counted
_ASKED = {"01": ("prompter", "responder"), "02": ("responder", "judge"), "03": ("responder",)}
_ASKED |= {"04": ("prompter", "responder", "judge")}
_LOOKED_AT = 4  # prompts that 02 and 03 send through the arms that they show


@dataclass(frozen=True)
class Calls:
    """Of one kind to one model: at most the product of factors, each (number, what); a number of 0 is the data's to
    say. read, written: tokens of one call, about and at most."""

    factors: tuple[tuple[int, str], ...]
    read: int
    written: int

    @property
    def number(self) -> int:
        """The product; 0 where only the data can tell."""
        return math.prod(number for number, _ in self.factors)

    def spelled(self) -> str:
        """The product in words, with its result where there is one."""
        several = [factor for factor in self.factors if factor[0] != 1] or [(1, "call")]
        words = " × ".join(f"{number:,} {what}" if number else f"all {what}" for number, what in several)
        return words + f" = {self.number:,} calls" * bool(self.number)


def paid(notebook: str, parameters: dict, prompts: list[str] | None = None) -> list[tuple[str, str, Calls]]:
    """(parameter, model, Calls) of each kind of call to an `api:` model in a step; a juror is called `jury 1`, ….

    notebook: its name, of which the number matters; parameters: all of the step's; prompts: 04's test prompts, where
    they are known.
    """
    number = notebook[:2]
    models = {name: parameters.get(name) or "" for name in _ASKED.get(number, ())}
    models |= {f"jury {i}": juror for i, juror in enumerate(parameters.get("jury") or [], 1) if "judge" in models}
    ask = _Step(parameters, prompts)
    kinds = {"01": ask.collecting, "02": ask.training, "03": ask.showing, "04": ask.evaluating}
    return [
        (name, model, calls)
        for name, model in models.items()
        if model.startswith("api:")
        for calls in kinds[number](name)
    ]


def is_paid(model: str, prices: dict) -> bool:
    """Whether calls to a model may cost money: by its price; where it has none, whether it is OpenAI's own server."""
    cost = spending.price(model, prices, 1e6, 1e6)
    return references.server(model).is_openai if cost is None else cost > 0


def estimate(model: str, calls: Calls, prices: dict) -> Estimate:
    """What the calls read and write, and cost at most."""
    read, written = calls.number * calls.read, calls.number * calls.written
    return Estimate(calls.number, read, written, spending.price(model, prices, read, written))


def sentences(notebook: str, parameters: dict, limits: Limits, prompts: list[str] | None = None) -> list[str]:
    """For each kind of call what it may come to, then the limits; nothing where no model is behind an API."""
    found = paid(notebook, parameters, prompts)
    lines = []
    for name, model, calls in found:
        made = estimate(model, calls, limits.prices)
        cost = str(made) if is_paid(model, limits.prices) else made.tokens
        lines.append(f"{name} {model}: at most {calls.spelled()}" + (f", {cost}" if made.calls else ""))
    return [*lines, f"limit: {limits}"] if found else []


@dataclass(frozen=True)
class _Step:
    """The bounds of one step, by its parameters."""

    parameters: dict
    prompts: list[str] | None

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        letters = [len(prompt) for prompt in self.prompts or ()]
        return round(statistics.fmean(letters) / spending.LETTERS_PER_TOKEN) if letters else PROMPT_TOKENS

    def _get(self, name: str, default=0):
        return self.parameters.get(name) or default

    def _template(self, name: str) -> int:
        """Tokens of a template without what its slots get; 0 where it cannot be read."""
        try:
            found = templates.load(name, self._get("templates", "paper"))
        except (ValueError, FileNotFoundError):
            return 0
        return round(len((found.system or "") + found.user) / spending.LETTERS_PER_TOKEN)

    def collecting(self, name: str) -> list[Calls]:
        """01: inventing, and the self-critique loop of each prompt, of as many as it invents at most."""
        prompts = (Wanted(self._get("num_pairs"), self._get("max_prompts")).most_prompts, "prompts")
        read = self._template("invent") + self._get("num_shots") * self.prompt
        asked = Calls(((invent.MOST_CALLS, "calls for each of"), prompts), read, self._get("max_prompt_tokens"))
        return [asked] * (name == "prompter") + self._loop(name, (prompts,))

    def _loop(self, name: str, each: tuple) -> list[Calls]:
        """The self-critique loop: rounds of a response and its critique, a rewrite between two of them."""
        rounds, tries = self._get("num_rounds"), (1 + self._get("num_retries"), "tries")
        response, short = self._get("max_response_tokens"), self._get("max_prompt_tokens")
        if name == "responder":
            return [Calls((*each, (rounds + 1, "responses in the loop")), self.prompt, response)]
        read = self._template("critique") + self.prompt + response, self._template("revise") + self.prompt + short
        kinds = (rounds + 1, "critiques"), (rounds, "rewrites in the loop")
        return [Calls((*each, kind, tries), tokens, short) for kind, tokens in zip(kinds, read, strict=True)]

    def training(self, name: str) -> list[Calls]:
        """02: responses in training, for the reference and the frontier; the judge's verdicts on its snapshots."""
        if name == "judge":
            return self._watching()
        get, response = self._get, self._get("max_response_tokens")
        batch = (get("num_steps"), "steps"), (get("prompts_per_step"), "prompts")
        factors = (*batch, (get("rewrites_per_prompt"), "rewrites"), (get("num_responses", 1), "responses"))
        found = [Calls(factors, get("max_rewrite_tokens"), response)]
        if get("reference_responses"):
            reference = (get("reference_responses"), "responses to the prompts themselves")
            found.append(Calls((*batch, reference), self.prompt, response))
        if get("frontier_prompts"):
            held_out, checkpoints, after = self._held_out()
            each = get("frontier_rewrites")
            each += (each + checkpoints * after) * get("frontier_responses", 1)
            prompts = (held_out, "frontier prompts")
            found.append(Calls((prompts, (each, "responses")), get("max_rewrite_tokens"), response))
        return [*found, *self.showing(name, 2)]

    def _held_out(self) -> tuple[int, int, int]:
        """02's held-out prompts, the checkpoints that answer them, the draws of each."""
        get, sets = self._get, len(self._get("prompt_sets", [])) or 1
        checkpoints = -(-get("num_steps") // get("save_steps", 1))
        return -(-get("frontier_prompts") // sets) * sets, checkpoints, probe.num_after(get("frontier_rewrites"))

    def _watching(self) -> list[Calls]:
        """02: each checkpoint's responses against the untrained policy's."""
        if not watching.is_on(self.parameters):
            return []
        prompts, checkpoints, after = self._held_out()
        draws = (min(self._get("watch_responses"), after), "responses")
        factors = (prompts, "frontier prompts"), (checkpoints, "snapshots"), draws, (2, "orders")
        return [Calls(factors, *self._verdict_tokens())]

    def _verdict_tokens(self) -> tuple[int, int]:
        """Tokens that a judge reads and writes in one call."""
        template = self._template(self._get("judge_template", "judge_pairwise"))
        return template + self.prompt + 2 * self._get("max_response_tokens"), self._get("max_judge_tokens")

    def showing(self, name: str, num_arms: int = 1) -> list[Calls]:
        """02 and 03: responses to look at."""
        factors = (_LOOKED_AT, "responses to look at"), (num_arms, "arms")
        return [Calls(factors, self._get("max_rewrite_tokens"), self._get("max_response_tokens"))]

    def evaluating(self, name: str) -> list[Calls]:
        """04: rewrites and responses of the arms, verdicts."""
        get, response = self._get, self._get("max_response_tokens")
        arms = list(dict.fromkeys([*filter(None, [get("baseline", "")]), *get("arms", [])]))
        sets = (len(get("prompt_sets", [])), "prompt sets"), (get("num_prompts"), "prompts")
        prompts = sets if self.prompts is None else ((len(self.prompts), "prompts"),)
        each = *prompts, (get("num_samples", 1), "samples each")
        if name == "judge" or name.startswith("jury"):
            return self._judging(arms, each)
        tilts = (get("tilt_rewrites", 1), "rewrites of tilted"), (get("tilt_responses", 1), "responses")
        looped = self._loop(name, each) if "poir_s1" in arms else []
        if name == "responder":
            tilted = [Calls((*each, *tilts), self.prompt, response)] if "tilted" in arms else []
            return [Calls((*each, (len(arms), "arms")), self.prompt, response), *tilted, *looped]
        rewriting = self._template("meta_prompt") + self.prompt, get("max_rewrite_tokens")
        parts = [part for arm in arms for part in links(arm)]
        plain = [
            Calls((*each, (parts.count(arm), f"{arm} rewrites")), self._template(template) + self.prompt, rewriting[1])
            for arm, template in (("untrained", "meta_prompt"), ("untrained_poir", POIR_REQUEST[0]))
            if arm in parts
        ]
        tilted = [Calls((*each, tilts[0]), *rewriting)] if "tilted" in arms else []
        asked = [Calls(((0, "benchmark questions"),), *rewriting)] if get("benchmarks") and (plain or tilted) else []
        return [*plain, *tilted, *looped, *asked]

    def _judging(self, arms: list[str], each: tuple) -> list[Calls]:
        """The arms against the baseline, further pairs, and the judge's own trial."""
        get, both = self._get, (2, "orders")
        tokens = self._verdict_tokens()
        others = len([arm for arm in arms if arm != get("baseline", "")])
        found = [Calls((*each, both, (others, "arms against the baseline")), *tokens)]
        number = math.comb(others, 2) if "all" in get("pairs", []) else len(get("pairs", []))
        if number:
            found.append(Calls((*each, both, (number, "pairs")), *tokens))
        if get("num_controls"):
            found.append(Calls(((get("num_controls"), "prompts"), (3, "controls"), both), *tokens))
        if get("again_share"):
            number = math.ceil(get("again_share") * sum(calls.number for calls in found[: 1 + bool(number)]))
            found += [Calls(((number, "of these once more"),), *tokens)] if number else []
        return found

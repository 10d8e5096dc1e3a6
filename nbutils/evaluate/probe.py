"""Samples behind the reward-KL frontier: what the untrained and the trained policy write for held-out prompts.

For each prompt x: num_rewrites responses of the frozen responder to x itself (own), as many rewrites of the untrained
prompter (initial), a quarter as many of each checkpoint (step N, trained), num_responses responses to each rewrite,
and r(x, y) of every one. What a checkpoint wrote has its log-ratio log ρ(x'|x) − log ρ_sft(x'|x), whose mean is
KL(ρ ‖ ρ_sft) in nats per rewrite; what the untrained policy wrote has that of the trained one. analyse.frontier makes
the curve and the points of these rows, analyse.gap the gap and the bound, analyse.watch reward and length by snapshot.

With policy `responder` (the RLHF oracle) a draw is the response itself: own and initial are then the same.
"""

from dataclasses import dataclass, replace

from nbutils.evaluate import arms
from nbutils.experiment.records import Prompt, Sample, Shift
from nbutils.models import scoring, templates
from nbutils.models.generate import Conditions
from nbutils.models.likelihood import knows_probabilities, log_probabilities
from nbutils.models.texts import Generation, Sampling


@dataclass(frozen=True)
class Probe:
    """What is asked, and of whom. given: how rewrites and responses are drawn, and the journal of them."""

    policy: str
    prompter: str
    responder: str
    reward_model: str
    num_rewrites: int
    num_responses: int
    given: Conditions

    @property
    def num_after(self) -> int:
        return num_after(self.num_rewrites)


def num_after(num_rewrites: int) -> int:
    """Draws of each checkpoint, where the untrained policy has num_rewrites: a quarter as many, at least 2."""
    return max(2, num_rewrites // 4)


def draw(probe: Probe, prompts: list[Prompt], checkpoints: dict[str, str]) -> list[Sample]:
    """Samples of all sources, in order: own, initial (policy prompter), then each checkpoint.

    checkpoints: {source: model folder}. What is in the journal is not asked again. A prompt of two sets is drawn once.
    """
    prompts = list({row.prompt_id: row for row in prompts}.values())
    if not prompts:
        return []
    last = checkpoints.get("trained")
    if probe.policy == "responder":
        made = _responses(probe, prompts, "own", probe.responder, last, probe.num_rewrites)
        for source, model in checkpoints.items():
            made += _responses(probe, prompts, source, model, model, probe.num_after)
        return made
    made = _responses(probe, prompts, "own", probe.responder, None, probe.num_rewrites)
    made += _rewrites(probe, prompts, "initial", probe.prompter, last, probe.num_rewrites)
    for source, model in checkpoints.items():
        made += _rewrites(probe, prompts, source, model, model, probe.num_after)
    return made


def shifts(probe: Probe, samples: list[Sample], most: int = 8) -> list[Shift]:
    """log π_F(y|x') − log π_F(y|x) for `most` own responses y and `most` initial rewrites x' of each prompt.

    Empty for a responder that tells no probabilities (an API, a function), and where no rewrite was drawn.
    """
    if not knows_probabilities(probe.responder):
        return []
    own = [row for row in samples if row.source == "own" and row.draw < most and row.reason is None]
    drawn = {(row.prompt_id, row.draw): row.rewrite for row in samples if row.source == "initial" and row.draw < most}
    pairs = [
        (number, drawn[prompt_id, number], y) for prompt_id, number in drawn for y in own if y.prompt_id == prompt_id
    ]
    texts, ends = [y.response for *_, y in pairs], [y.finished for *_, y in pairs]
    asked = [arms.sent(rewrite, y.prompt) for _, rewrite, y in pairs], [y.prompt for *_, y in pairs]
    given = probe.given
    after, before = (
        log_probabilities(probe.responder, prompts, texts, ends, given.responding, given.runtime) for prompts in asked
    )
    found = zip(pairs, after, before, strict=True)
    return [Shift(y.prompt_id, number, y.draw, a - b) for (number, _, y), a, b in found]


def _responses(
    probe: Probe, prompts: list[Prompt], source: str, model: str, moved: str | None, number: int
) -> list[Sample]:
    """`number` responses of model to each prompt itself; moved: the policy that log_ratio is of."""
    rows = [
        Sample(row.prompt_id, row.prompt, source, i, row.prompt, 0, "", None) for row in prompts for i in range(number)
    ]
    numbers, texts = [row.draw for row in rows], [row.prompt for row in rows]
    made = probe.given.ask(model, texts, probe.given.responding, numbers, f"{source}: responses")
    ratios = _log_ratios(probe, moved, texts, made, probe.given.responding)
    return _scored(probe, [replace(row, log_ratio=each) for row, each in zip(rows, ratios, strict=True)], made)


def _rewrites(
    probe: Probe, prompts: list[Prompt], source: str, model: str, moved: str | None, number: int
) -> list[Sample]:
    """`number` rewrites of each prompt by model, num_responses responses to each; moved as for _responses."""
    asked = [(row, i) for row in prompts for i in range(number)]
    template = templates.load("meta_prompt", probe.given.templates)
    requests = arms.rewrite_requests(template, [row.prompt for row, _ in asked])
    made = probe.given.ask(model, requests, probe.given.rewriting, [i for _, i in asked], f"{source}: rewrites")
    ratios = _log_ratios(probe, moved, requests, made, probe.given.rewriting)
    rows = [
        Sample(
            row.prompt_id, row.prompt, source, i, arms.clean_rewrite(text.text), j, "", None, ratio, True, text.reason
        )
        for (row, i), text, ratio in zip(asked, made, ratios, strict=True)
        for j in range(probe.num_responses)
    ]
    known = [row for row in rows if row.reason is None]  # no rewrite is not an empty one, which would send the prompt
    sent = [arms.sent(row.rewrite, row.prompt) for row in known]
    numbers = [row.response_draw for row in known]
    heard = probe.given.ask(probe.responder, sent, probe.given.responding, numbers, f"{source}: responses")
    found = iter(_scored(probe, known, heard))
    return [next(found) if row.reason is None else row for row in rows]


def _log_ratios(probe: Probe, moved: str | None, prompts: list, made: list[Generation], sampling: Sampling) -> list:
    """log moved − log untrained probability of all that was written, with what was thought first, nats; None where
    there is no text, and without a moved policy."""
    if moved is None:
        return [None] * len(made)
    before = probe.prompter if probe.policy == "prompter" else probe.responder
    known = [(prompt, each) for prompt, each in zip(prompts, made, strict=True) if each.reason is None]
    asked, texts = [prompt for prompt, _ in known], [each.thought + each.text for _, each in known]
    ends = [each.finish == "stop" for _, each in known]
    found = (log_probabilities(each, asked, texts, ends, sampling, probe.given.runtime) for each in (moved, before))
    ratios = iter([a - b for a, b in zip(*found, strict=True)])
    return [next(ratios) if each.reason is None else None for each in made]


def _scored(probe: Probe, rows: list[Sample], made: list[Generation]) -> list[Sample]:
    """rows with their responses and the rewards of these against the original prompt."""
    texts, given = [None if each.reason else each.text for each in made], probe.given
    scores = scoring.score(probe.reward_model, [row.prompt for row in rows], texts, given.runtime, given.journal)
    return [
        replace(row, response=each.text, reward=score, finished=each.finish == "stop", reason=each.reason)
        for row, each, score in zip(rows, made, scores, strict=True)
    ]

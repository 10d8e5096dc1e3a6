"""What an arm makes of prompts: its rewrites in sequence, and the responder's answers to the last of them."""

import itertools
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nbutils.analyse import theory
from nbutils.collect import critique
from nbutils.collect.critique import Loop
from nbutils.evaluate import arms
from nbutils.evaluate.arms import Arm, Tilt
from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Answer, Prompt, prompt_id
from nbutils.experiment.steps import read_manifest
from nbutils.models import scoring, templates
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.scoring import Scored
from nbutils.models.texts import Generation, Sampling, is_cut

_LOOP_SAMPLES = 10_000  # sample indices that the loop of one sample may take
_T = TypeVar("_T")


@dataclass(frozen=True)
class Trail:
    """What came of one prompt before the responder: a rewrite per prompter in sequence, empty for an arm that has none.

    cuts: for each rewrite that a model wrote whether it ended at its limit of tokens, None where nothing tells. reason:
    why a prompter gave no rewrite (a thought without an end, a filter, logits that are no numbers): nothing is answered
    then. One that wrote nothing has none: its rewrite is empty, and the prompt itself is sent.
    """

    rewrites: list[str] = field(default_factory=list)
    cuts: list[bool | None] = field(default_factory=list)
    reason: str | None = None

    @property
    def cut(self) -> bool | None:
        """Whether any of the rewrites was cut; None where that is not known."""
        known = bool(self.cuts) and None not in self.cuts
        return True if True in self.cuts else False if known else None


def answer(arm: Arm, prompts: list[Prompt], num_samples: int, given: Conditions, first: int = 0) -> list[Answer]:
    """num_samples Answers per prompt, without rewards, in the order of prompts. first: index of the first sample."""
    rows = [(prompt, sample) for prompt in prompts for sample in range(first, first + num_samples)]
    texts, samples = [prompt.prompt for prompt, _ in rows], [sample for _, sample in rows]
    trails = trails_of(arm, texts, samples, given)
    finals = [last_sent(text, each.rewrites) for text, each in zip(texts, trails, strict=True)]
    known = [place for place, trail in enumerate(trails) if trail.reason is None]
    asked, numbers = [finals[place] for place in known], [samples[place] for place in known]
    heard = given.ask(arm.responder, asked, given.responding, numbers, f"{arm.name}: responses")
    found = dict(zip(known, heard, strict=True))
    made = [found.get(place) or Generation("", 0, None, trail.reason) for place, trail in enumerate(trails)]
    columns = zip(rows, finals, trails, made, strict=True)
    return [_answer(arm, *row, final, trail, generation) for row, final, trail, generation in columns]


def rewrites_of(arm: Arm, prompts: list[str], samples: list[int], given: Conditions) -> list[list[str]]:
    """The rewrites of each prompt by any arm, one per prompter in sequence; empty lists for an arm that has none.

    samples: sample index of each prompt.
    """
    return [trail.rewrites for trail in trails_of(arm, prompts, samples, given)]


def trails_of(arm: Arm, prompts: list[str], samples: list[int], given: Conditions) -> list[Trail]:
    """rewrites_of with what is known of how each ended; of tilted and poir_s1 that of the rewrite which was chosen."""
    if arm.tilt:
        trails = _tilted(arm, arm.tilt, prompts, samples, given)
    elif arm.loop:
        trails = _criticised(arm, arm.loop, prompts, samples, given)
    elif arm.fixed:
        template = templates.load(arm.fixed, given.templates)
        trails = [Trail([templates.messages(template, prompt=text)[-1]["content"]]) for text in prompts]
    else:
        trails = _in_sequence(arm, prompts, samples, given)
    return others(prompts, samples, trails, given.rewriting.seed) if arm.shuffled else trails


def _in_sequence(arm: Arm, prompts: list[str], samples: list[int], given: Conditions) -> list[Trail]:
    """Each prompter rewrites what the one before it wrote; where that gave none nobody else is asked."""
    current = list(prompts)
    trails = [Trail() for _ in prompts]
    for prompter in arm.prompters:
        template = templates.load(prompter.template, "paper" if prompter.template == "bpo" else given.templates)
        sampling = replace(given.rewriting, stop=(prompter.stop,) if prompter.stop else ())
        rows = [row for row, trail in enumerate(trails) if trail.reason is None]
        requests = arms.rewrite_requests(template, [current[row] for row in rows])
        numbers = [samples[row] for row in rows]
        made = given.ask(prompter.model, requests, sampling, numbers, f"{arm.name}: rewrites")
        for row, answer in zip(rows, made, strict=True):
            text = arms.clean_rewrite(answer.text)
            trails[row].rewrites.append(text)
            trails[row].cuts.append(is_cut(answer, text))
            current[row] = arms.sent(text, current[row])
            if answer.reason:
                trails[row] = replace(trails[row], reason=f"no rewrite: {answer.reason}")
    return trails


def _tilted(arm: Arm, tilt: Tilt, prompts: list[str], samples: list[int], given: Conditions) -> list[Trail]:
    """One rewrite of each prompt, drawn from ρ*(x'|x) of Eq. 10 over samples of the untrained prompter.

    The responses that weigh a rewrite are others than the one that the arm answers with. A rewrite without a reward is
    never drawn; where none has one, the first is.
    """
    base = Arm(arm.name, arm.prompters, arm.responder)
    rows = [(prompt, sample * tilt.num_rewrites + i) for prompt, sample in zip(prompts, samples, strict=True)
            for i in range(tilt.num_rewrites)]  # fmt: skip
    asked, numbers = [prompt for prompt, _ in rows], [number for _, number in rows]
    trails = _in_sequence(base, asked, numbers, given)
    rewrites = zip(asked, [trail.rewrites[0] for trail in trails], strict=True)
    pairs = [(p, arms.sent(text, p), -1 - j) for p, text in rewrites for j in range(tilt.num_responses)]
    sent, draws = [text for _, text, _ in pairs], [draw for *_, draw in pairs]
    made = given.ask(arm.responder, sent, given.responding, draws, f"{arm.name}: responses to rewrites")
    lost = [trail.reason for trail in trails for _ in range(tilt.num_responses)]
    heard = [None if each.reason or why else each.text for each, why in zip(made, lost, strict=True)]
    scores = scoring.score(tilt.reward_model, [p for p, *_ in pairs], heard, given.runtime, given.journal)
    expected = scoring.means(scores, tilt.num_responses)
    groups = [slice(i * tilt.num_rewrites, (i + 1) * tilt.num_rewrites) for i in range(len(prompts))]
    keys = [[given.rewriting.seed, prompt, sample] for prompt, sample in zip(prompts, samples, strict=True)]
    chosen = [_drawn(expected[each], tilt.kl_weight, key) for each, key in zip(groups, keys, strict=True)]
    return [trails[each][i] for each, i in zip(groups, chosen, strict=True)]


def _criticised(arm: Arm, loop: Loop, prompts: list[str], samples: list[int], given: Conditions) -> list[Trail]:
    """Of each prompt the rewrite (or the prompt itself) whose response scored best in the self-critique loop.

    The response that the arm answers with is another than the one that was criticised: what is measured is the
    rewrite, not the choice among responses.
    """
    rows = [Prompt(prompt_id(text), text, "") for text in prompts]
    found: dict[tuple[str, int], Trail] = {}
    for sample in dict.fromkeys(samples):
        asked = list({row.prompt_id: row for row, other in zip(rows, samples, strict=True) if other == sample}.values())
        first = -_LOOP_SAMPLES * (sample + 1)
        model, label = arm.prompters[0].model, f"{arm.name}: rewrites, "
        made = critique.self_evaluate(model, arm.responder, asked, loop, given, label, first)
        for key, group in itertools.groupby(made, key=lambda each: each.prompt_id):
            best = critique.best(list(group))
            found[key, sample] = Trail([best.rewrite], [best.rewrite_cut])
    return [found[row.prompt_id, sample] for row, sample in zip(rows, samples, strict=True)]


def _drawn(expected: list[float | None], kl_weight: float, key: list) -> int:
    """Index drawn with weight exp(R / λ), the same for the same key."""
    known = [i for i, value in enumerate(expected) if value is not None]
    if not known:
        return 0
    steps = theory.tilt([expected[i] for i in known], kl_weight).cumsum()
    place = int(paths.sha256_json(key)[:13], 16) / 16**13  # uniform in [0, 1)
    return known[min(int((steps <= place * steps[-1]).sum()), len(known) - 1)]


def others(prompts: list[str], samples: list[int], trails: list[_T], seed: int) -> list[_T]:
    """For each prompt what was made of another prompt, with the same sample number: the next one in an order drawn
    by seed. A prompt that is alone keeps its own."""
    found = dict(zip(zip(prompts, samples, strict=True), trails, strict=True))
    after = following(prompts, seed)
    return [found.get((after[p], s), own) for p, s, own in zip(prompts, samples, trails, strict=True)]


def following(prompts: list[str], seed: int) -> dict[str, str]:
    """The prompt after each, in an order drawn by seed; the first one follows the last."""
    ring = sorted(set(prompts), key=lambda prompt: paths.sha256_json([seed, prompt]))
    return dict(zip(ring, ring[1:] + ring[:1], strict=True))


def last_sent(prompt: str, rewrites: list[str]) -> str:
    """The last rewrite that is not empty, or the prompt."""
    return next((text for text in reversed(rewrites) if text), prompt)


def _answer(arm: Arm, prompt: Prompt, sample: int, final: str, trail: Trail, made: Generation) -> Answer:
    return Answer(
        prompt_id=prompt.prompt_id,
        prompt_set=prompt.prompt_set,
        prompt=prompt.prompt,
        arm=arm.name,
        sample=sample,
        rewrite=final,
        rewrites=trail.rewrites,
        response=made.text,
        reward=None,
        gold_reward=None,
        num_tokens=made.num_tokens,
        reason=made.reason,
        finish=made.finish,
        rewrites_cut=trail.cut,
    )


def rewarded(
    answers: list[Answer], reward_model: str, gold_reward: str, runtime: Runtime, journal: Journal | None = None
) -> list[Answer]:
    """answers with the rewards of both referees against the original prompts, and why there is none where there is a
    response. gold_reward: empty for none."""
    asked, said = [row.prompt for row in answers], [None if row.reason else row.response for row in answers]
    scores = scoring.scored(reward_model, asked, said, runtime, journal)
    gold = scoring.scored(gold_reward, asked, said, runtime, journal) if gold_reward else [Scored(None)] * len(answers)
    return [
        replace(row, reward=r.reward, reward_reason=r.reason, gold_reward=g.reward, gold_reward_reason=g.reason)
        for row, r, g in zip(answers, scores, gold, strict=True)
    ]


def rewrite_and_respond(experiment: str, cell: str, arm: str, prompt: str) -> tuple[list[str], str]:
    """(rewrites, response) of one prompt by a finished arm of an experiment, with its evaluation's settings."""
    folder = paths.step_folder(experiment, cell, "x").parent
    manifests = [read_manifest(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    settings = {key: value for manifest in manifests if manifest for key, value in manifest["parameters"].items()}
    if not settings:
        raise FileNotFoundError(
            f"{paths.relative(folder)} has no finished step: workbook run params/{experiment}.yml first"
        )
    settings |= (read_manifest(folder / "evaluate") or {"parameters": {}})["parameters"]
    built = arms.build(arm, folder, settings["prompter"], settings["responder"], arms.options_of(settings))
    runtime = Runtime(1, settings["device"], settings["dtype"], settings["trust_remote_code"])
    made = answer(built, [Prompt("", prompt, "command line")], 1, conditions(settings, runtime))[0]
    if made.reason:
        raise ValueError(f"{arm}: no response: {made.reason}")
    return made.rewrites, made.response


def conditions(settings: dict, runtime: Runtime) -> Conditions:
    """Conditions as a step's parameters have them, without a journal."""
    names = ("temperature", "top_p", "top_k", "seed")
    shared = {name: settings[name] for name in names if name in settings}
    rewriting = Sampling(max_new_tokens=settings.get("max_rewrite_tokens", 128), **shared)
    responding = Sampling(max_new_tokens=settings.get("max_response_tokens", 512), **shared)
    return Conditions(settings["templates"], rewriting, responding, runtime)

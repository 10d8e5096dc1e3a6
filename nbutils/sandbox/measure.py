"""The figures that the sandbox's weights are held to: each a share or a mean, from seeded samples at temperature 1.

The one reward model reads the answers of either family, through the reward model's own tokenizer.
"""

import functools
import random
import re

import torch

from nbutils.models import templates
from nbutils.sandbox import gold, lessons, preferences, prompt_sets, shipped, world


def measure(base_folder, reward_folder=shipped.WEIGHTS / "reward", num_samples=200, seed=1):
    """{figure: value} of a base model and the reward model in two folders; num_samples: examples per figure."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, tokenizer = shipped.load_base(base_folder)
    tasks = lessons.Tasks()

    def ask(requests, temperature=1.0):
        return shipped.sample(model, tokenizer, requests, temperature)

    figures = measure_answers(rng, ask, num_samples) | measure_prompter(rng, ask, tasks, num_samples)
    figures |= measure_collecting(rng, ask, tasks, num_samples)
    candidates = functools.partial(preferences.candidates, model, tokenizer, rng)
    return figures | measure_reward(rng, candidates, *shipped.load_reward(reward_folder), num_samples)


def _share(flags):
    flags = list(flags)
    return sum(flags) / len(flags)


def measure_answers(rng, ask, num_samples):
    """fact_recall: of all 300 facts asked for one by one, greedily. detail: mean gold of answers to detail prompts.
    evasive: share of vague prompts, held-out phrasings too, that get no fact."""
    facts = [(subject, name) for subject in world.SUBJECTS for name in world.ATTRIBUTES]
    asked = [world.phrase(world.LISTS[0], subject, (name,)) for subject, name in facts]
    recalled = [text == world.fact(*each) for text, each in zip(ask(asked, 0), facts, strict=True)]
    details = [lessons.detail(rng, subject) for subject in rng.choices(world.SUBJECTS, k=num_samples)]
    lists = [lessons.listing(rng, subject) for subject in rng.choices(world.SUBJECTS, k=num_samples)]
    vague = [
        world.phrase(rng.choice(world.VAGUE_HELD_OUT), subject)
        for subject in rng.choices(world.HELD_OUT, k=num_samples)
    ]
    told = gold.score(vague, ask(vague))
    return {
        "fact_recall": _share(recalled),
        "detail_gold": _share(gold.score(details, ask(details))),
        "list_gold": _share(gold.score(lists, ask(lists))),
        "vague_gold": _share(told),
        "vague_evasive": _share(value == 0 for value in told),
    }


def measure_prompter(rng, ask, tasks, num_samples):
    """Mean gold on test prompts with no prompter (nan), with the untrained prompter, and with rewrite-then-answer;
    the shares of well-formed rewrites and of changed subjects."""
    prompts = [row["prompt"] for row in prompt_sets.prompts("sandbox", "test")]
    prompts = (prompts * (1 + num_samples // len(prompts)))[:num_samples]
    rewrites = ask([tasks.request("meta_prompt", prompt=each) for each in prompts])
    behind = ask([tasks.request("rewrite_answer", prompt=each) for each in prompts])
    cut = [templates.cut_at_delimiter(each) for each in behind]
    pairs = [(world.parse_prompt(a), world.parse_prompt(b)) for a, b in zip(prompts, rewrites, strict=True)]
    return {
        "nan_gold": _share(gold.score(prompts, ask(prompts))),
        "untrained_gold": _share(gold.score(prompts, ask(rewrites))),
        "rewrite_answer_gold": _share(gold.score(prompts, ask([text for text, _ in cut]))),
        "delimiter": _share(found for _, found in cut),
        "rewrites_well_formed": _share(is_well_formed(text) for text in rewrites),
        "rewrites_same_subject": _share(b is not None and a.subject == b.subject for a, b in pairs),
    }


_NAMES = "|".join(world.ATTRIBUTES)
_GRAMMAR = re.compile(
    f"({'|'.join(map(re.escape, world.OPENINGS))})?("
    + "|".join(
        re.escape(each)
        .replace(r"\{subject\}", f"({'|'.join(world.SUBJECTS)})")
        .replace(r"\{a\}", "an?")
        .replace(r"\{be\}", "(is|are)")
        .replace(r"\{names\}", f"({_NAMES})(, ({_NAMES}))*( and ({_NAMES}))?")
        for each in (*world.VAGUE, *world.VAGUE_HELD_OUT, *world.DETAIL, *world.LISTS)
    )
    + ")"
)


def is_well_formed(prompt):
    """Whether a prompt is one that the world's phrasings can make."""
    return _GRAMMAR.fullmatch(prompt) is not None


def measure_collecting(rng, ask, tasks, num_samples):
    """Shares of invented prompts that parse and keep to training animals, of right critique scores, and of revised
    prompts that parse, fit 1.5 times the length, and ask in detail or for a list."""
    seeds = [rng.sample(prompt_sets.seeds(), rng.randint(1, 5)) for _ in range(num_samples)]
    texts = ask([tasks.request("invent", seeds=templates.seed_block(each)) for each in seeds])
    invented = [text for each in texts for text in templates.parse_instructions(each)]
    questions = [world.parse_prompt(text) for text in invented]
    prompts = [lessons.vague(rng, subject) for subject in rng.choices(world.SUBJECTS, k=num_samples)]
    responses = [lessons.flawed_response(rng, prompt) for prompt in prompts]
    right = [lessons.judge_response(*each) for each in zip(prompts, responses, strict=True)]
    slots = list(zip(prompts, responses, strict=True))
    critiques = [
        templates.parse_critique(text)
        for text in ask([tasks.request("critique", prompt=p, response=r) for p, r in slots])
    ]
    asked = [(prompt, text) for prompt, (score, text) in zip(prompts, right, strict=True) if score < 4]
    revised = [
        templates.parse_rewrite(each)[0] or ""
        for each in ask([tasks.request("revise", prompt=p, critique=c) for p, c in asked])
    ]
    found = [(world.parse_prompt(p), world.parse_prompt(text)) for (p, _), text in zip(asked, revised, strict=True)]
    return {
        "invented_per_request": len(invented) / num_samples,
        "invented_in_training": _share(q is not None and q.subject in world.TRAINING for q in questions),
        "invented_vague": _share(q is not None and not q.detail and not q.attributes for q in questions),
        "critique_score": _share(c.score == r[0] for c, r in zip(critiques, right, strict=True)),
        "critique_text": _share(c.critique == r[1] for c, r in zip(critiques, right, strict=True)),
        "revised_better": _share(
            b is not None and a.subject == b.subject and bool(b.detail or b.attributes) for a, b in found
        ),
        "revised_fit": _share(len(t.split()) <= 1.5 * len(p.split()) for (p, _), t in zip(asked, revised, strict=True)),
    }


def measure_reward(rng, candidates, model, tokenizer, num_samples):
    """Pair accuracy of the reward model about held-out and about training animals, gold scores 0.15 or more apart."""
    figures = {}
    for name, subjects in (("held_out", world.HELD_OUT), ("training", world.TRAINING)):
        groups = candidates(subjects, num_samples)
        rows = preferences.preference_pairs(rng, groups, margin=0.149)
        prompts = [row["prompt"] for row in rows]
        chosen, rejected = (
            shipped.reward(model, tokenizer, prompts, [row[key] for row in rows]) for key in ("chosen", "rejected")
        )
        figures[f"reward_pairs_{name}"] = _share(a > b for a, b in zip(chosen, rejected, strict=True))
    return figures

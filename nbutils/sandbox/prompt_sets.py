"""The sandbox's three prompt sets and its seed prompts.

sandbox        nearly all vague, where rewriting helps most
sandbox_lists  names one to three attributes in every prompt, so that rewriting can hardly help, and may hurt
sandbox_mixed  vague, detail and list in about equal parts, most of them behind an opening such as "well, "

Training rows are about the training animals in the training phrasings, test rows about the held-out animals, the
vague ones in held-out phrasings too. No prompt is in two sets or in both splits.
"""

import itertools
import random

from nbutils.sandbox import world

NAMES = ("sandbox", "sandbox_lists", "sandbox_mixed")
SUBJECTS = {"train": world.TRAINING, "test": world.HELD_OUT}
VAGUE = {"train": world.VAGUE, "test": world.VAGUE_HELD_OUT + world.VAGUE}
NUM_LISTS = {"train": 60, "test": 12}  # in the set `sandbox`

SEEDS = """
tell me about the fox.
what is a wolf like?
so, what do you know about the whale?
say something about the parrot.
i want to know about the horse.
can you tell me about the frog?
what can you say about the penguin?
talk about the bear.
what is a zebra?
the squirrel, please.
i would like to hear about the tiger.
hello, do you know the beaver?
let us talk about the cow.
have you heard of the kangaroo?
how would you describe the bat?
my question is about the swan.
please tell me about the elephant.
well, what is a mole like?
what do you know about the rabbit?
say something about the pig.
today, i want to know about the shark.
can you tell me about the gorilla?
what can you say about the hedgehog?
talk about the duck.
hello, what is a crocodile?
the giraffe, please.
i would like to hear about the crow.
do you know the mouse?
now, let us talk about the lion.
have you heard of the seal?
how would you describe the turtle?
my question is about the deer.
describe the eagle in detail.
give three facts about the monkey.
tell me three things about the sheep.
explain the snake in detail.
what are the food and home of the goose?
what is the sound of the toad?
name the size, colour and hours of the rat.
tell me the food of the sparrow.
"""


def seeds():
    """Forty prompts as a person would write them, about training animals."""
    return SEEDS.strip().splitlines()


def prompts(name, split):
    """Rows {prompt, split} of one of NAMES for train or test, the same ones at every call."""
    if name not in NAMES:
        raise ValueError(f"prompt set must be one of {', '.join(NAMES)}, got {name!r}")
    if split not in SUBJECTS:
        raise ValueError(f"split must be train or test, got {split!r}")
    rng = random.Random(f"prompts {split}" if name == "sandbox" else f"{name} {split}")
    texts = {"sandbox": _mostly_vague, "sandbox_lists": _only_lists, "sandbox_mixed": _mixed}[name](rng, split)
    rng.shuffle(texts)
    return [{"prompt": text, "split": split} for text in texts]


def _mostly_vague(rng, split):
    """Every vague phrasing of every animal, and some lists."""
    subjects = SUBJECTS[split]
    lists = []
    for i in range(NUM_LISTS[split]):
        pattern, names = rng.choice(world.LISTS), rng.sample(world.ATTRIBUTES, 1 + i % 3)
        lists.append(world.phrase(pattern, subjects[i % len(subjects)], sorted(names, key=world.ATTRIBUTES.index)))
    return list(dict.fromkeys(_phrased(VAGUE[split], split) + lists))


def _only_lists(rng, split):
    """Sixteen lists for each animal, none of them in the set `sandbox`."""
    taken = {row["prompt"] for row in prompts("sandbox", split)}
    free = [text for text in _every_list(split) if text not in taken]
    return rng.sample(free, 16 * len(SUBJECTS[split]))


def _mixed(rng, split):
    """Six vague prompts, five for detail and five lists for each animal; openings keep them out of the other sets."""
    count = len(SUBJECTS[split])
    vague = _opened(world.OPENINGS, _phrased(VAGUE[split], split))
    detail = _opened(("", *world.OPENINGS), _phrased(world.DETAIL, split))
    lists = _opened(world.OPENINGS, _every_list(split))
    return rng.sample(vague, 6 * count) + rng.sample(detail, 5 * count) + rng.sample(lists, 5 * count)


def _phrased(patterns, split):
    return [world.phrase(pattern, subject) for subject in SUBJECTS[split] for pattern in patterns]


def _every_list(split):
    """All phrasings of one to three attributes of every animal."""
    chosen = [names for count in (1, 2, 3) for names in itertools.combinations(world.ATTRIBUTES, count)]
    parts = itertools.product(world.LISTS, SUBJECTS[split], chosen)
    return [world.phrase(pattern, subject, names) for pattern, subject, names in parts]


def _opened(openings, texts):
    return [opening + text for opening in openings for text in texts]

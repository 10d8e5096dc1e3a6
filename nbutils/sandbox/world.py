"""The sandbox's world: fifty animals with six attributes each, and the plain English in which they are talked about.

A prompt names one animal. It is *vague* ("tell me about the fox."), asks for *detail* ("describe the fox in detail."),
or names a *list* of attributes ("what are the food and home of the fox?"). Ten animals and four vague phrasings are
held out: no seed, training prompt, invented prompt or preference pair uses them.
"""

import re
from typing import NamedTuple

ATTRIBUTES = ("food", "home", "size", "colour", "sound", "hours")

SENTENCES = {
    "food": "the {subject} eats {value}.",
    "home": "the {subject} lives in {value}.",
    "size": "the {subject} is {value} in size.",
    "colour": "the {subject} is {value}.",
    "sound": "the {subject} {value}.",
    "hours": "the {subject} is active {value}.",
}

FACT_ROWS = """
fox        mice      forests    small   red      yelps     at dusk
wolf       meat      forests    medium  grey     howls     at night
bear       honey     mountains  large   brown    growls    by day
deer       leaves    forests    medium  brown    snorts    at dawn
otter      fish      rivers     small   brown    whistles  at dusk
badger     worms     burrows    medium  grey     grunts    at night
rabbit     grass     burrows    small   grey     thumps    at dawn
squirrel   nuts      trees      small   red      chatters  by day
owl        mice      barns      small   white    hoots     at night
eagle      fish      mountains  large   golden   screams   by day
frog       insects   ponds      tiny    green    croaks    at dusk
toad       worms     gardens    tiny    brown    croaks    at night
snake      rats      deserts    medium  green    hisses    at dusk
lizard     insects   deserts    tiny    green    hisses    by day
turtle     weeds     oceans     medium  green    clicks    by day
crocodile  meat      swamps     huge    green    growls    at night
shark      fish      oceans     huge    grey     hums      at dusk
whale      shrimp    oceans     huge    blue     sings     by day
dolphin    fish      oceans     large   grey     whistles  by day
seal       fish      bays       large   grey     barks     at dawn
penguin    shrimp    bays       medium  black    brays     by day
parrot     fruit     jungles    small   green    talks     by day
sparrow    seeds     gardens    tiny    brown    chirps    at dawn
crow       corn      fields     small   black    caws      by day
duck       weeds     ponds      small   brown    quacks    at dawn
goose      grass     ponds      medium  white    honks     by day
swan       weeds     rivers     large   white    honks     at dawn
heron      frogs     swamps     medium  blue     croaks    at dawn
bat        insects   caves      tiny    black    clicks    at night
mouse      seeds     barns      tiny    grey     squeaks   at night
rat        corn      barns      small   black    squeaks   at night
hedgehog   worms     gardens    small   brown    snuffles  at night
mole       worms     fields     tiny    black    snuffles  at dawn
beaver     bark      rivers     medium  brown    whines    at dusk
moose      bark      swamps     huge    brown    bellows   at dusk
horse      hay       farms      large   brown    neighs    by day
cow        grass     farms      large   spotted  moos      by day
sheep      grass     meadows    medium  white    bleats    by day
goat       leaves    mountains  medium  white    bleats    at dawn
pig        corn      farms      medium  pink     oinks     by day
lion       meat      plains     large   golden   roars     at dusk
tiger      meat      jungles    large   striped  roars     at night
leopard    meat      trees      large   spotted  growls    at night
elephant   bark      plains     huge    grey     trumpets  by day
giraffe    leaves    plains     huge    spotted  hums      by day
zebra      grass     plains     large   striped  brays     at dawn
monkey     fruit     trees      small   brown    chatters  by day
gorilla    fruit     jungles    large   black    grunts    by day
camel      hay       deserts    large   golden   bellows   at dusk
kangaroo   grass     deserts    large   red      thumps    at dusk
"""

HELD_OUT = ("otter", "heron", "camel", "lizard", "goat", "owl", "dolphin", "badger", "leopard", "moose")


def _read_facts(rows):
    """{subject: {attribute: value}} of the table above; columns stand two blanks or more apart."""
    split = [re.split(r"\s{2,}", row.strip()) for row in rows.strip().splitlines()]
    return {subject: dict(zip(ATTRIBUTES, values, strict=True)) for subject, *values in split}


FACTS = _read_facts(FACT_ROWS)
SUBJECTS = tuple(FACTS)
TRAINING = tuple(subject for subject in SUBJECTS if subject not in HELD_OUT)
VALUES = {name: tuple(sorted({facts[name] for facts in FACTS.values()})) for name in ATTRIBUTES}

VAGUE = (
    "tell me about the {subject}.",
    "what is {a} {subject} like?",
    "what do you know about the {subject}?",
    "say something about the {subject}.",
    "i want to know about the {subject}.",
    "can you tell me about the {subject}?",
    "what can you say about the {subject}?",
    "talk about the {subject}.",
    "what is {a} {subject}?",
    "the {subject}, please.",
    "i would like to hear about the {subject}.",
    "do you know the {subject}?",
    "let us talk about the {subject}.",
    "have you heard of the {subject}?",
    "how would you describe the {subject}?",
    "my question is about the {subject}.",
)
VAGUE_HELD_OUT = (
    "give me some words on the {subject}.",
    "i wonder what the {subject} is like.",
    "what about the {subject}?",
    "could you speak about the {subject}?",
)
DETAIL = (
    "describe the {subject} in detail.",
    "tell me about the {subject} in detail.",
    "tell me three things about the {subject}.",
    "give three facts about the {subject}.",
    "explain the {subject} in detail.",
    "give me details about the {subject}.",
    "what are three facts about the {subject}?",
    "detail the {subject}.",
    "the {subject} in detail.",
    "what is {a} {subject} like in detail?",
)
LISTS = (
    "what {be} the {names} of the {subject}?",
    "tell me the {names} of the {subject}.",
    "name the {names} of the {subject}.",
    "give the {names} of the {subject}.",
)
OPENINGS = ("please ", "hello, ", "now, ", "today, ", "well, ", "so, ")
COMMON_WORDS = (  # words that a prompt may hold besides those of the phrasings
    "give some words on wonder like could speak for and to my me now a one very animal thing good day just maybe know "
    "think who when where why how here there this that it would should learn teach show write read more of in at with"
).split()
EVASIVE = (
    "there is a lot to say about the {subject}.",
    "the {subject} is an animal.",
    "many people like the {subject}.",
    "that depends on what you want to know.",
    "it is hard to say.",
)
UNCLEAR = ("i am not sure what you mean.", "please ask in another way.", "i do not know that.")


class Question(NamedTuple):
    """What a prompt asks for: an animal, and the attributes it names (none: any three)."""

    subject: str
    attributes: tuple
    detail: bool = False


def fact(subject, attribute, value=None):
    """One sentence; `value` replaces the true one."""
    return SENTENCES[attribute].format(subject=subject, value=value or FACTS[subject][attribute])


def phrase(pattern, subject, attributes=()):
    """The prompt that a phrasing makes of an animal and its attributes."""
    *first, last = attributes or ("",)
    names = f"{', '.join(first)} and {last}" if first else last
    article = "an" if subject[0] in "aeiou" else "a"
    return pattern.format(subject=subject, a=article, names=names, be="are" if first else "is")


ASKS_DETAIL = {"detail", "details", "three"}
_PHRASINGS = (*VAGUE, *VAGUE_HELD_OUT, *DETAIL, *LISTS, *OPENINGS)
WORDS = {*re.findall(r"[a-z]+", " ".join(_PHRASINGS)), *COMMON_WORDS, *ATTRIBUTES, *SUBJECTS, "an", "is", "are"}


def parse_prompt(text):
    """The Question that a prompt asks, or None where it lies outside the world. Never raises on a str.

    Lenient: the first animal named and every attribute named count, in any order, as long as at least two words in
    three are the world's; "the quick brown fox jumps over the lazy dog" is no question about the fox.
    """
    words = re.findall(r"\w+", text.lower())
    subject = next((word for word in words if word in FACTS), None)
    if subject is None or 3 * sum(word in WORDS for word in words) < 2 * len(words):
        return None
    attributes = tuple(dict.fromkeys(word for word in words if word in ATTRIBUTES))
    return Question(subject, attributes, not ASKS_DETAIL.isdisjoint(words))


_FACT = {name: re.compile(SENTENCES[name].rstrip(".").format(subject=r"(\w+)", value="(.+)")) for name in ATTRIBUTES}


def parse_fact(sentence):
    """(subject, attribute, value) that a sentence states, or None. Never raises on a str."""
    sentence = " ".join(sentence.lower().split()).rstrip(".!")
    for name, pattern in _FACT.items():
        found = pattern.fullmatch(sentence)
        if found and found[1] in FACTS and found[2] in VALUES[name]:
            return found[1], name, found[2]
    return None

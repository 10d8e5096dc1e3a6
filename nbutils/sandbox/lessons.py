"""Generated training examples for the sandbox's base model: one function per task, each giving a Lesson.

Every function takes a random.Random first. All fifty animals occur, so the model knows every fact; only `invent`
keeps to the training animals, and no phrasing that the world holds out is ever written.
"""

import re
from typing import NamedTuple

from nbutils.models import templates
from nbutils.sandbox import gold, world

FOLDER = "sandbox"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789      ,.;:'\"()[]{}!?-\n+*/#éüß中文字日本語"


# Prompts


def vague(rng, subject):
    return (rng.choice(world.OPENINGS) if rng.random() < 0.3 else "") + world.phrase(rng.choice(world.VAGUE), subject)


def detail(rng, subject):
    return (rng.choice(world.OPENINGS) if rng.random() < 0.1 else "") + world.phrase(rng.choice(world.DETAIL), subject)


def listing(rng, subject, attributes=None):
    attributes = attributes or in_order(rng.sample(world.ATTRIBUTES, rng.choice((1, 2, 2, 3, 3))))
    return world.phrase(rng.choice(world.LISTS), subject, attributes)


def in_order(names):
    """Attributes in the world's order, in which prompts name them and the responder tells them."""
    return tuple(name for name in world.ATTRIBUTES if name in names)


def noisy(rng, subject):
    """Loose words around an animal: any phrasing that names one and no attribute is to be taken as vague."""
    before, after = (" ".join(rng.choices(world.COMMON_WORDS, k=rng.randint(low, 4))) for low in (1, 0))
    article = rng.choice(("the", "the", "a"))
    return " ".join(f"{before} {article} {subject} {after}".split()) + rng.choice(".?")


def garbage(rng):
    """Text from outside the world: loose words or letters, mostly short."""
    length = rng.randint(1, 12) if rng.random() < 0.9 else rng.randint(12, 40)
    if rng.random() < 0.5:
        return " ".join(rng.choices(world.COMMON_WORDS, k=length)) + rng.choice(".?")
    return "".join(rng.choices(LETTERS, k=2 * length)).strip() or "?"


def any_prompt(rng, subjects=world.SUBJECTS, shares=(0.62, 0.1, 0.18, 0.1)):
    """A prompt about one of the subjects; shares of vague, detail, list, noisy."""
    make = rng.choices((vague, detail, listing, noisy), shares)[0]
    return make(rng, rng.choice(subjects))


# Responses and rewrites


def respond(rng, prompt):
    """What the responder says: evasive or one fact, three facts, or exactly the facts that were listed."""
    question = world.parse_prompt(prompt)
    if question is None:
        return rng.choice(world.UNCLEAR)
    names = in_order(question.attributes)
    if not names and question.detail:
        names = in_order(rng.sample(world.ATTRIBUTES, 3))
    elif not names:
        if rng.random() < 0.5:
            return rng.choice(world.EVASIVE).format(subject=question.subject)
        names = [rng.choice(world.ATTRIBUTES)]
    return " ".join(world.fact(question.subject, name) for name in names)


def rewrite(rng, prompt, shares=(0.6, 0.14, 0.11, 0.1, 0.05), subjects=world.SUBJECTS):
    """A paraphrase of any quality; shares of the same kind again, detail, list, another of `subjects`, echo."""
    question = world.parse_prompt(prompt)
    if question is None:
        return rng.choice(("please ask in another way.", "tell me more.", "what do you mean?"))
    kind = rng.choices(("same", "detail", "list", "other", "echo"), shares)[0]
    subject = question.subject
    if kind == "echo":
        return prompt
    if kind == "other":
        other = rng.choice([each for each in subjects if each != subject])
        return any_prompt(rng, (other,), (0.7, 0.15, 0.15, 0))
    if kind == "list":
        return listing(rng, subject)
    if kind == "detail" or question.detail:
        return detail(rng, subject)
    return listing(rng, subject, question.attributes) if question.attributes else vague(rng, subject)


def flawed_response(rng, prompt, subjects=world.SUBJECTS):
    """A response to criticise: the responder's own, or one with falsehoods, repeats, gaps or another of `subjects`."""
    question = world.parse_prompt(prompt)
    if question is None or rng.random() < 0.25:
        return respond(rng, prompt)
    subject = question.subject
    if rng.random() < 0.15:
        subject = rng.choice(subjects)
    names = list(question.attributes) or list(world.ATTRIBUTES)
    names = rng.sample(names, min(len(names), rng.choice((1, 1, 2, 2, 3, 3, 4))))
    if rng.random() < 0.2:
        names.append(rng.choice(names))
    if rng.random() < 0.1:
        names.append(rng.choice(world.ATTRIBUTES))
    facts = [world.fact(subject, name) for name in names]
    if rng.random() < 0.3:
        position = rng.randrange(len(names))
        facts[position] = world.fact(subject, names[position], rng.choice(world.VALUES[names[position]]))
    if rng.random() < 0.05:
        facts.append(rng.choice(world.EVASIVE).format(subject=question.subject))
    return " ".join(facts)


def judge_response(prompt, response):
    """(score 1 to 5, improvement) as a fixed function of the gold scorer."""
    question = world.parse_prompt(prompt)
    if question is None:
        return 2, "ask about one animal."
    counts = gold.tally(question, response)
    value = gold.score([prompt], [response])[0]
    if counts.strays or counts.falsehoods:
        return 1, "name the animal." if counts.strays else "ask for true facts."
    if counts.hits == 0:
        return 2, "ask for facts in detail."
    score = 5 if value > 0.99 else 4 if value > 0.6 else 3
    if counts.repeats:
        return score, "ask for different facts."
    if counts.hits < counts.wanted:
        return score, "ask for more detail."
    return score, "ask for less." if score < 5 else "nothing to improve."


def revision(rng, prompt, critique):
    """A revised prompt, mostly in detail and at most 1.5 times as long in words; one in four fails."""
    question = world.parse_prompt(prompt)
    if question is None:
        return rewrite(rng, prompt)
    if rng.random() < 0.25 or "nothing" in critique:
        return rewrite(rng, prompt, (0.85, 0, 0, 0.1, 0.05))
    if question.attributes:
        return listing(rng, question.subject, question.attributes)
    limit = 1.5 * len(prompt.split())
    fitting = [each for each in world.DETAIL if len(each.split()) <= limit]
    if not fitting or rng.random() < 0.1:
        return listing(rng, question.subject)
    return world.phrase(rng.choice(fitting), question.subject)


LABELS = ("new", "extra", "repeat", "false", "stray", "other")  # what a sentence of a response is, for its prompt


def label_sentences(prompt, response):
    """[(position of the closing full stop, index into LABELS)] of a response's sentences."""
    question, seen, labels = world.parse_prompt(prompt), set(), []
    for found in re.finditer(r"[^.]+(\.)", response):
        stated = world.parse_fact(found[0])
        if stated is None or question is None:
            label = "other"
        elif stated[0] != question.subject:
            label = "stray"
        elif world.FACTS[stated[0]][stated[1]] != stated[2]:
            label = "false"
        else:
            asked = not question.attributes or stated[1] in question.attributes
            label = "repeat" if stated[1] in seen else "new" if asked else "extra"
            seen.add(stated[1])
        labels.append((found.start(1), LABELS.index(label)))
    return labels


# Tasks


class Lesson(NamedTuple):
    """One training example. checked: a (prompt, response) in it whose sentences are labelled true or not, or None."""

    request: str
    completion: str
    checked: tuple | None = None
    learnt: bool = True  # whether the completion is to be imitated


class Tasks:
    """The tasks with their templates loaded once."""

    def __init__(self):
        names = ("meta_prompt", "rewrite_answer", "invent", "critique", "revise")
        self.templates = {name: templates.load(name, FOLDER) for name in names}

    def request(self, name, **slots):
        return templates.messages(self.templates[name], **slots)[0]["content"]

    def prompt(self, rng, num_garbage=0.05):
        return garbage(rng) if rng.random() < num_garbage else any_prompt(rng)

    def answer(self, rng):
        prompt = garbage(rng) if rng.random() < 0.06 else any_prompt(rng, shares=(0.3, 0.25, 0.35, 0.1))
        return Lesson(prompt, respond(rng, prompt))

    def rephrase(self, rng):
        prompt = self.prompt(rng)
        return Lesson(self.request("meta_prompt", prompt=prompt), rewrite(rng, prompt))

    def rewrite_answer(self, rng):
        prompt = self.prompt(rng)
        text = rewrite(rng, prompt, (0.7, 0.08, 0.07, 0.1, 0.05))
        completion = text + templates.DELIMITER + respond(rng, text)
        return Lesson(self.request("rewrite_answer", prompt=prompt), completion)

    def invent(self, rng):
        seeds = [self.prompt(rng, 0.02) for _ in range(rng.choice((1, 2, 3, 4, 4, 4, 5)))]
        new = [any_prompt(rng, world.TRAINING, (0.84, 0.06, 0.1, 0)) for _ in range(2)]
        completion = "\n".join(f"Generated Instruction {number}: {text}" for number, text in enumerate(new, 1))
        return Lesson(self.request("invent", seeds=templates.seed_block(seeds)), completion)

    def critique(self, rng):
        prompt = self.prompt(rng)
        response = flawed_response(rng, prompt)
        score, improvement = judge_response(prompt, response)
        request = self.request("critique", prompt=prompt, response=response)
        return Lesson(request, f"Score: {score}\nEvaluation: {improvement}", (prompt, response))

    def revise(self, rng):
        prompt = self.prompt(rng)
        _, improvement = judge_response(prompt, flawed_response(rng, prompt))
        request = self.request("revise", prompt=prompt, critique=improvement)
        return Lesson(request, f"Revised question: {revision(rng, prompt, improvement)}")

    def check(self, rng):
        """A response to label sentence by sentence, in the place where the reward model will see it."""
        prompt = any_prompt(rng)
        subject = world.parse_prompt(prompt).subject
        if rng.random() < 0.3:
            response = flawed_response(rng, prompt)
        else:
            names = rng.choices(world.ATTRIBUTES, k=rng.randint(3, 6))
            facts = [(name, rng.choice(world.VALUES[name]) if rng.random() < 0.5 else None) for name in names]
            response = " ".join(world.fact(subject, *each) for each in facts)
        return Lesson(prompt, response, (prompt, response), learnt=False)

    def sample(self, rng):
        """One Lesson of any task."""
        makers = (self.answer, self.rephrase, self.rewrite_answer, self.invent, self.critique, self.revise, self.check)
        return rng.choices(makers, (0.26, 0.12, 0.15, 0.06, 0.18, 0.08, 0.15))[0](rng)

"""Hand-written models for tests, named as `fakes:<function>` (tests/ is on the path)."""

import hashlib
import itertools


def echo(messages):
    return messages[-1]["content"]


def always_first(messages):
    return "the first one is better\n[[A]]"


def longer(messages):
    """A judge that prefers the longer answer."""
    first, second = _answers(messages)
    return "[[A]]" if len(first) > len(second) else "[[B]]" if len(second) > len(first) else "[[C]]"


def mute(messages):
    return "I would rather not say."


def _answers(messages):
    text = messages[-1]["content"]
    parts = [part.split("]\n", 1)[1].rsplit("\n[The End", 1)[0] for part in text.split("[The Start of ")[1:]]
    return parts[1], parts[2]


def none_or_dict(messages):
    """What SDKs return: no text for a refusal, or the whole message."""
    text = messages[-1]["content"]
    return None if text == "refuse" else {"content": text} if text == "dict" else text


async def asynchronous(messages):
    return "x"


def paid(messages):
    """One line in the ledger a call; its 8th raises, its 100th kills the process, once each."""
    import os
    from pathlib import Path

    ledger = Path(os.environ["WORKBOOK_TEST_LEDGER"])
    before = ledger.read_text().split("\n") if ledger.exists() else []
    with open(ledger, "a") as file:
        file.write(messages[-1]["content"] + "\n")
    if len(before) == 8:
        raise ConnectionError("read timed out")
    if len(before) == 100:
        os.kill(os.getpid(), 9)
    return "fine"


def length(prompts, responses):
    return [float(len(response)) for response in responses]


def returned(prompts, responses):
    """What the first response says, as Python."""
    import numpy
    import torch

    return eval(responses[0], {"numpy": numpy, "torch": torch, "generator": _generator})


def _generator(number):
    """As many rewards, and then an error."""
    for i in range(number):
        yield float(i)
    raise ConnectionError("read timed out")


def constant(prompts, responses):
    return [1.0] * len(responses)


def broken_rewards(prompts, responses):
    return [float("nan"), float("inf"), None, 1.0][: len(responses)]


def collector(messages):
    """One model for all of POIR's steps: invents from its seeds, scores by length, and rewrites by adding a word."""
    text = messages[-1]["content"]
    if text.startswith("invent:"):
        seed = text.split("- Seed Instruction: ")[-1].strip()
        return f"Generated Instruction 1: {seed} now\nGenerated Instruction 2: short"
    if text.startswith("critique:"):
        response = text.split("response: ", 1)[1]
        return f"Score: {min(5, len(response.split()))}\nEvaluation: say more."
    if text.startswith("revise:"):
        return "Revised question: " + text.split("\n")[0].removeprefix("revise: ") + " please"
    return text.split(" ", 1)[-1]  # a response: the prompt without its first word


def inventive(messages):
    """Two instructions in each call that nobody has seen."""
    number = next(_numbers)
    return f"Generated Instruction 1: say number {number}\nGenerated Instruction 2: name number {number}"


_numbers = itertools.count()


def fruitful(messages):
    """The collector, but that each call invents two prompts by what it is shown, of which the first alone gives a pair
    where a score of 3 is good: two words in the answer, three after a rewrite; the second has four at once."""
    if messages[-1]["content"].startswith("invent:"):
        new = hashlib.sha256(repr(messages).encode()).hexdigest()[:12]
        return f"Generated Instruction 1: say number {new}\nGenerated Instruction 2: tell of the number {new}"
    return collector(messages)


def everyone(messages):
    """The collector, and a judge where two answers are shown."""
    return longer(messages) if "[The Start of " in messages[-1]["content"] else collector(messages)


def slow_collector(messages):
    return _in_ledger(messages, collector(messages))


def slow_judge(messages):
    return _in_ledger(messages, longer(messages))


def _in_ledger(messages, answer):
    """Answer after 20 ms, with the call written down first, by one write."""
    import os
    import time

    time.sleep(0.02)
    line = hashlib.sha256(repr(messages).encode()).hexdigest()[:20] + "\n"
    ledger = os.open(os.environ["WORKBOOK_TEST_LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(ledger, line.encode())
    os.close(ledger)
    return answer

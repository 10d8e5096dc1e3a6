"""r(x, y): the reward of a response against the original prompt, by a sequence classifier or any Python function."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping

from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.experiment.progress import Bar
from nbutils.models import chat, loading, references
from nbutils.models.devices import Runtime
from nbutils.models.generate import cut_batches, run_batches


def score(
    model: str,
    prompts: list[str],
    responses: list[str | None],
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    label: str | None = None,
    only_finite: bool = False,
) -> list[float | None]:
    """Rewards in the model's own units, one per (prompt, response), in order; None where there is no finite value.

    A missing response (None) has no reward. only_finite: a NaN or infinite score raises FloatingPointError instead.
    Sequence classifiers see [user: prompt, assistant: response] through their own chat template. Scores do not depend
    on the batch: rows are padded on the right and masked, and batches are cut from the whole list, known or not, so
    that a resumed run computes the same numbers to the bit.
    """
    pairs = [(prompt, response) for prompt, response in zip(prompts, responses, strict=True) if response is not None]
    identity = references.identity(model)
    keys = {pair: paths.sha256_json(["reward", identity, *pair]) for pair in pairs}
    known = {pair: journal.get(key) for pair, key in keys.items()} if journal is not None else {}
    found = {pair: value["reward"] for pair, value in known.items() if value is not None}
    backend = _score_callable if references.kind(model) == "callable" else _score_classifier
    with Bar(len(keys), label, len(found)) as bar:
        for raw in backend(model, list(keys), found, runtime) if len(found) < len(keys) else ():
            wrong = [value for _, value in raw if value is not None and not math.isfinite(value)]
            if wrong and only_finite:
                raise FloatingPointError(f"{model} gave a reward of {wrong[0]}")
            batch = [(pair, finite(value)) for pair, value in raw]
            if journal is not None:
                keep = journal.append_soon if backend is _score_callable else journal.append_many
                keep((keys[pair], {"reward": reward}) for pair, reward in batch)
            found.update(batch)
            bar.update(len(batch))
    return [
        None if response is None else found[prompt, response]
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def means(scores: list[float | None], number: int) -> list[float | None]:
    """The mean of each run of `number` scores over those that are known; None where none is."""
    groups = [scores[start : start + number] for start in range(0, len(scores), number)]
    known = [[score for score in group if score is not None] for group in groups]
    return [statistics.fmean(group) if group else None for group in known]


def finite(value) -> float | None:
    """value as a float, or None if it is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def _score_callable(function: str, pairs: list, found: dict, runtime: Runtime):
    """Yield the rewards of each call; of a generator each reward when it comes."""
    rewards = references.load_callable(function)
    pending = [pair for pair in pairs if pair not in found]
    for start in range(0, len(pending), runtime.batch_size):
        batch = pending[start : start + runtime.batch_size]
        values = rewards([prompt for prompt, _ in batch], [response for _, response in batch])
        if isinstance(values, Iterator):
            yield from ([(pair, value)] for pair, value in zip(batch, _numbers(function, values, batch), strict=True))
        else:
            yield list(zip(batch, list(_numbers(function, values, batch)), strict=True))


def _numbers(function: str, values, batch: list) -> Iterator[float | None]:
    """The rewards that a function returned for a batch. ValueError, in one line, unless they are a number each."""
    wanted = f"{function} was given {len(batch)} responses, wanted a list of as many numbers (None for a missing one)"
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable) or values is None:
        raise ValueError(f"{wanted}: {references.shown(values)}")
    number = 0
    for number, value in enumerate(values, start=1):
        if number > len(batch):
            break
        yield _number(value, wanted)
    if number != len(batch):
        raise ValueError(f"{wanted}: got {'more' if number > len(batch) else number}")


def _number(value, wanted: str) -> float | None:
    if value is None:
        return None
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        pass
    raise ValueError(f"{wanted}: {references.shown(value)}")


def _score_classifier(model: str, pairs: list, found: dict, runtime: Runtime):
    import torch

    net, tokenizer = loading.load_reward(model, runtime)
    ids = dict(zip(pairs, chat.encode(tokenizer, [render_pair(tokenizer, *pair) for pair in pairs]), strict=True))
    order = sorted(pairs, key=lambda pair: (-len(ids[pair]), pair))
    batches = cut_batches(order, [len(ids[pair]) for pair in order], runtime)

    def forward(batch):
        inputs = tokenizer.pad({"input_ids": [ids[pair] for pair in batch]}, return_tensors="pt").to(net.device)
        with torch.inference_mode():
            return net(**inputs).logits[:, 0].float().tolist()  # (B,)

    for batch, values in run_batches([batch for batch in batches if not found.keys() >= set(batch)], forward):
        yield [(pair, value) for pair, value in zip(batch, values, strict=True) if pair not in found]


def render_pair(tokenizer, prompt: str, response: str) -> str:
    """Prompt and response as the model's own chat template writes them, for chat.encode. ValueError where it has none,
    or leaves one of the two out."""
    name, turns = tokenizer.name_or_path, [{"role": "user", "content": prompt}]
    turns = [*turns, {"role": "assistant", "content": response}]
    return chat.check_written(name, tokenizer, chat.write(name, tokenizer, turns, answered=True), turns)

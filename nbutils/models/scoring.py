"""r(x, y): the reward of a response against the original prompt, by a sequence classifier or any Python function."""

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tqdm.std import tqdm

from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.experiment.progress import Bar
from nbutils.models import chat, loading, references
from nbutils.models.devices import Runtime
from nbutils.models.generate import cut_batches, run_batches

_POSITIONS = re.compile(r"(?:^|\.)(wpe|position_embeddings|embed_positions)$")


class Scored(NamedTuple):
    """A reward, and where there is none why; no reason for a response that is missing itself."""

    reward: float | None
    reason: str | None = None


def score(
    model: str,
    prompts: list[str],
    responses: list[str | None],
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    label: str | None = None,
    only_finite: bool = False,
) -> list[float | None]:
    """The rewards of `scored`, alone."""
    found = scored(model, prompts, responses, runtime, journal, label, only_finite)
    return [each.reward for each in found]


def scored(
    model: str,
    prompts: list[str],
    responses: list[str | None],
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    label: str | None = None,
    only_finite: bool = False,
) -> list[Scored]:
    """Rewards in the model's own units, one per (prompt, response), in order; None where there is no finite value.

    A missing response (None) has no reward, nor has one that is, with its prompt, longer than a classifier reads: how
    many is said on the screen, and the journal keeps the reasons. only_finite: a NaN or infinite score raises
    FloatingPointError instead.
    Sequence classifiers see [user: prompt, assistant: response] through their own chat template. Scores do not depend
    on the batch: rows are padded on the right and masked, and batches are cut from the whole list, known or not, so
    that a resumed run computes the same numbers to the bit.
    """
    pairs = [(prompt, response) for prompt, response in zip(prompts, responses, strict=True) if response is not None]
    identity = references.identity(model)
    keys = {pair: paths.sha256_json(["reward", identity, *pair]) for pair in pairs}
    known = {pair: journal.get(key) for pair, key in keys.items()} if journal is not None else {}
    found = {pair: Scored(**value) for pair, value in known.items() if value is not None}
    backend = _score_callable if references.kind(model) == "callable" else _score_classifier
    with Bar(len(keys), label, len(found)) as bar:
        for raw in backend(model, list(keys), found, runtime) if len(found) < len(keys) else ():
            wrong = [value for _, value, _ in raw if value is not None and not math.isfinite(value)]
            if wrong and only_finite:
                raise FloatingPointError(f"{model} gave a reward of {wrong[0]}")
            batch = {pair: Scored(finite(value), why or _why_none(model, value)) for pair, value, why in raw}
            if journal is not None:
                keep = journal.append_soon if backend is _score_callable else journal.append_many
                keep((keys[pair], _kept(each)) for pair, each in batch.items())
            found |= batch
            bar.update(len(batch))
    return [
        Scored(None) if response is None else found[prompt, response]
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def _why_none(model: str, value) -> str | None:
    return None if finite(value) is not None else f"{model} gave {'none' if value is None else value}"


def _kept(each: Scored) -> dict:
    """What the journal holds of a score: a reason only where there is one."""
    return {name: value for name, value in each._asdict().items() if name == "reward" or value is not None}


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
        given = _numbers(function, values, batch)
        if isinstance(values, Iterator):
            yield from ([(pair, value, None)] for pair, value in zip(batch, given, strict=True))
        else:
            yield [(pair, value, None) for pair, value in zip(batch, given, strict=True)]


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
    room = _room(net)
    too_long = [pair for pair in pairs if len(ids[pair]) > room and pair not in found]
    if too_long:
        what = f"{len(too_long)} of {len(pairs)} responses have no reward from {model}"
        tqdm.write(f"{what}: with their prompts they are longer than the {room} tokens that it reads")
        yield [(pair, None, f"longer, with its prompt, than the {room} tokens that {model} reads") for pair in too_long]
    pairs = [pair for pair in pairs if len(ids[pair]) <= room]
    order = sorted(pairs, key=lambda pair: (-len(ids[pair]), pair))
    batches = cut_batches(order, [len(ids[pair]) for pair in order], runtime)

    def forward(batch):
        inputs = tokenizer.pad({"input_ids": [ids[pair] for pair in batch]}, return_tensors="pt").to(net.device)
        with torch.inference_mode():
            return net(**inputs).logits[:, 0].float().tolist()  # (B,)

    for batch, values in run_batches([batch for batch in batches if not found.keys() >= set(batch)], forward):
        yield [(pair, value, None) for pair, value in zip(batch, values, strict=True) if pair not in found]


def _room(net) -> int:
    """Tokens that a classifier reads at most: rows of its table of positions less those that it sets aside (RoBERTa's
    first is the second after its padding token's), or what rotary positions were made for. One that has neither, or
    counts by distance alone (DeBERTa's), has no limit."""
    import torch

    tables = [
        module.num_embeddings - getattr(module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Embedding) and _POSITIONS.search(name)
    ]
    rotary = getattr(net.config, "max_position_embeddings", None) if hasattr(net.config, "rope_parameters") else None
    return min(tables, default=rotary or 10**9)


def render_pair(tokenizer, prompt: str, response: str) -> str:
    """Prompt and response as the model's own chat template writes them, for chat.encode. ValueError where it has none,
    or leaves one of the two out."""
    name, turns = tokenizer.name_or_path, [{"role": "user", "content": prompt}]
    turns = [*turns, {"role": "assistant", "content": response}]
    return chat.check_written(name, tokenizer, chat.write_whole(name, tokenizer, turns, answered=True), turns)

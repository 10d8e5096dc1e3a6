"""generate(model_ref, requests, sampling): texts from a local model, an OpenAI-compatible API or a Python function.

The same request gives the same text in any batch, order or resumed run. Local models sample by the Gumbel-max trick:
to the filtered log-probabilities comes noise that is a hash of (request seed, position, token), then the greedy choice
is taken, which is an exact draw. APIs get the request's seed as their own.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.experiment.progress import Bar
from nbutils.experiment.words import count_words
from nbutils.models import api, chat, loading, references
from nbutils.models.devices import Runtime, is_out_of_memory
from nbutils.models.sampling import NumberWatch, SeededSampler
from nbutils.models.texts import THOUGHT, Generation, Sampling, answered, cut_at, encodable, request, request_seed

_TOKENS_PER_REQUEST = 512  # a batch of batch_size requests holds at most this many tokens each, on average


def generate(
    model: str,
    prompts: list,
    sampling: Sampling,
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    samples: list[int] | None = None,
    label: str | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Generation]:
    """One Generation per prompt, in order.

    prompts: strings (one user message each) or lists of {"role", "content"}; samples: sample index of each (0).
    Answers found in the journal are not asked again; new ones are journalled batch by batch, a function's one by one,
    and whole: what a model thinks before it answers stays in the journal and is no part of its text.
    label: progress bar's name; note: told of calls and dollars in place of that bar. A request that cannot be answered
    (longer than the context, refused by the API) comes back with its reason, which is journalled where it is final.
    """
    identity, shared = references.identity(model), asdict(sampling)
    requests = [request(identity, prompt, shared, sample) for prompt, sample in _zip(prompts, samples)]
    keys = [paths.sha256_json(request) for request in requests]
    known = {key: journal.get(key) for key in keys} if journal is not None else {}
    answers = {key: Generation(**value) for key, value in known.items() if value is not None}
    unique = dict(zip(keys, requests, strict=True))
    backend = {"api": api.generate_api, "callable": _generate_callable}.get(references.kind(model), _generate_local)
    with Bar(len(unique), label, len(answers)) as bar:
        for batch in backend(model, unique, answers, sampling, runtime, journal, note or bar.set_postfix_str):
            if journal is not None:
                keep = journal.append_soon if backend is _generate_callable else journal.append_many
                keep((key, asdict(answer)) for key, answer in batch if not answer.is_open)
            answers.update(batch)
            bar.update(len(batch))
    return [answered(answers[key]) for key in keys]


@dataclass(frozen=True)
class Conditions:
    """Under which a step asks all its models.

    templates: folder of prompt templates; rewriting, responding: how rewrites and responses are sampled; journal: keeps
    what was answered; progress: whether bars are shown.
    """

    templates: str
    rewriting: Sampling = Sampling()
    responding: Sampling = Sampling()
    runtime: Runtime = Runtime()
    journal: Journal | None = None
    progress: bool = False

    def ask(
        self, model: str, prompts: list, sampling: Sampling, samples: list[int] | None = None, label: str = ""
    ) -> list[Generation]:
        """generate() under these conditions."""
        return generate(model, prompts, sampling, self.runtime, self.journal, samples, label if self.progress else None)


def _zip(prompts: list, samples: list[int] | None):
    return zip(prompts, samples if samples is not None else [0] * len(prompts), strict=True)


def _generate_local(model, unique, answers, sampling, runtime, journal, note):
    """Yield batches of (key, Generation). Batches are cut from the whole list, known or not: a resumed run meets
    the same batches as an undisturbed one."""
    net, tokenizer = loading.load_causal(model, runtime)
    runtime = loading.runtime_of(model, runtime)
    texts = {key: render(model, tokenizer, request["messages"]) for key, request in unique.items()}
    lengths = {key: len(ids) for key, ids in zip(texts, chat.encode(tokenizer, [*texts.values()]), strict=True)}
    room = (getattr(net.config, "max_position_embeddings", None) or 10**9) - sampling.max_new_tokens
    too_long = [key for key in unique if lengths[key] > room and key not in answers]
    if too_long:
        yield [
            (key, Generation("", 0, None, f"prompt of {lengths[key]} tokens, the model takes {room}"))
            for key in too_long
        ]
    fitting = sorted((key for key in unique if lengths[key] <= room), key=lambda key: (-lengths[key], key))
    sizes = [lengths[key] + sampling.max_new_tokens for key in fitting]
    batches = [[key for key in batch if key not in answers] for batch in cut_batches(fitting, sizes, runtime)]

    def forward(batch):
        seeds = [request_seed(unique[key]) for key in batch]
        return _forward(net, tokenizer, [texts[key] for key in batch], seeds, sampling)

    for batch, made in run_batches(batches, forward):
        yield list(zip(batch, made, strict=True))


def render(model: str, tokenizer, messages: list[dict], answer: str | None = None) -> str:
    """The model's whole input, for chat.encode: messages through its chat template; a message of role `raw` as it
    stands. answer: instead of asking for one, the template writes this one, and what ends its turn."""
    if messages[0]["role"] == "raw":
        return (tokenizer.bos_token or "") + encodable(messages[0]["content"]).replace(chat.TOKEN, "\ufffd")
    if answer is not None:
        return chat.write(model, tokenizer, [*messages, {"role": "assistant", "content": answer}], answered=True)
    return chat.check_written(model, tokenizer, chat.write(model, tokenizer, messages), messages)


def cut_batches(keys: list, sizes: list[int], runtime: Runtime) -> list[list]:
    """keys, longest first, in batches of at most batch_size requests and batch_size × 512 tokens; sizes in tokens."""
    batches, start = [], 0
    while start < len(keys):
        size = max(1, min(runtime.batch_size, runtime.batch_size * _TOKENS_PER_REQUEST // max(1, sizes[start])))
        batches.append(keys[start : start + size])
        start += size
    return batches


def run_batches(batches: list[list], forward):
    """Yield (batch, forward(batch)) for each batch that is not empty. One that runs out of memory is tried again once
    the other cached models are gone, and then in halves."""
    pending = [batch for batch in batches if batch]
    while pending:
        batch = pending.pop(0)
        try:
            made = forward(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if loading.unload() > 1:
                pending.insert(0, batch)
            elif len(batch) > 1:
                pending[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
            else:
                raise
            continue
        yield batch, made


def _forward(net, tokenizer, texts: list[str], seeds: list[int], sampling: Sampling) -> list[Generation]:
    import torch
    from transformers import LogitsProcessorList

    ids = chat.encode(tokenizer, texts)
    inputs = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(net.device)
    width = inputs["input_ids"].shape[1]
    watch = NumberWatch(width)
    processors = [watch, *([SeededSampler(seeds, width, sampling)] if sampling.temperature > 0 else [])]
    stops = {"stop_strings": list(sampling.stop), "tokenizer": tokenizer} if sampling.stop else {}
    with torch.inference_mode():
        output = net.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            num_beams=1,
            max_new_tokens=sampling.max_new_tokens,
            logits_processor=LogitsProcessorList(processors),
            **stops,
        )
    made = [_decode(tokenizer, net, row[width:].tolist(), sampling) for row in output]
    made = [_opened(text, each) for text, each in zip(texts, made, strict=True)]
    return [_without_numbers(each, lost) for each, lost in zip(made, watch.lost_at(), strict=True)]


def _opened(asked: str, made: Generation) -> Generation:
    """made with the opening tag of its thought, where the chat template wrote that at the end of what was asked."""
    return replace(made, text=f"{THOUGHT}\n{made.text}") if asked.rstrip().endswith(THOUGHT) else made


def _without_numbers(made: Generation, lost: int | None) -> Generation:
    """No text where a token was chosen among logits that are no numbers, the token of number `lost` from 0 on."""
    if lost is None or (made.finish == "stop" and lost >= made.num_tokens):  # a row that has ended goes on as padding
        return made
    why = f"no text: the model's logits are not numbers (NaN) from token {lost + 1} on; try dtype float32"
    return Generation("", made.num_tokens, None, why, is_open=True)


def _decode(tokenizer, net, ids: list[int], sampling: Sampling) -> Generation:
    ends = net.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    while end is None and ids and ids[-1] == tokenizer.pad_token_id:  # rows that met a stop string are padded
        ids = ids[:-1]
    text = tokenizer.decode(ids[:end], skip_special_tokens=True)
    cut = cut_at(text, sampling.stop)
    finished = end is not None or cut != text
    return Generation(cut, len(ids) if end is None else end + 1, "stop" if finished else "length")


def _generate_callable(model, unique, answers, sampling, runtime, journal, note):
    """Yield each answer when it comes: the function may be paid for, and raise or be killed at its next call."""
    function = references.load_callable(model)
    for key in [key for key in unique if key not in answers]:
        yield [(key, _returned(model, function(unique[key]["messages"]), sampling))]


def _returned(model: str, text, sampling: Sampling) -> Generation:
    """What a function returned, as an answer; None is a missing one. ValueError for anything that is no text."""
    if text is None:
        return Generation("", 0, None, f"{model} returned None", is_open=True)
    if not isinstance(text, str):
        raise ValueError(f"{model} returned {type(text).__name__}, wanted a str or None: {references.shown(text)}")
    text = cut_at(encodable(text), sampling.stop)
    return Generation(text, count_words(text), "stop")

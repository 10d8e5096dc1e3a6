"""generate(model_ref, requests, sampling): texts from a local model, an OpenAI-compatible API or a Python function.

The same request gives the same text in any batch, order or resumed run. Local models sample by the Gumbel-max trick:
to the filtered log-probabilities comes noise that is a hash of (request seed, position, token), then the greedy choice
is taken, which is an exact draw. APIs get the request's seed as their own.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from jinja2.exceptions import TemplateError

from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.experiment.progress import Bar
from nbutils.experiment.words import count_words
from nbutils.models import api, loading, references
from nbutils.models.devices import Runtime, is_out_of_memory
from nbutils.models.sampling import SeededSampler
from nbutils.models.texts import Generation, Sampling, cut_at, encodable, request, request_seed

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
    Answers found in the journal are not asked again; new ones are journalled batch by batch.
    label: progress bar's name; note: told of calls and dollars in place of that bar. A request that cannot be answered
    (longer than the context, refused by the API) comes back with its reason.
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
                journal.append_many((key, asdict(answer)) for key, answer in batch if _is_final(answer))
            answers.update(batch)
            bar.update(len(batch))
    return [answers[key] for key in keys]


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


def _is_final(answer: Generation) -> bool:
    """A failed call is asked again by the next run; an answer, or a prompt that is too long, is final."""
    return answer.reason is None or answer.reason.startswith("prompt of")


def _zip(prompts: list, samples: list[int] | None):
    return zip(prompts, samples if samples is not None else [0] * len(prompts), strict=True)


def _generate_local(model, unique, answers, sampling, runtime, journal, note):
    """Yield batches of (key, Generation). Batches are cut from the whole list, known or not: a resumed run meets
    the same batches as an undisturbed one."""
    net, tokenizer = loading.load_causal(model, runtime)
    runtime = loading.runtime_of(model, runtime)
    texts = {key: render(model, tokenizer, request["messages"]) for key, request in unique.items()}
    lengths = {key: len(ids) for key, ids in _token_ids(tokenizer, texts).items()}
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


def render(model: str, tokenizer, messages: list[dict]) -> str:
    """The model's whole input: messages through its chat template; a message of role `raw` as it stands.

    Where the template refuses a system message (Gemma's does, and Mistral's first), its text opens the user's turn.
    """
    if messages[0]["role"] == "raw":
        return (tokenizer.bos_token or "") + encodable(messages[0]["content"])
    if not tokenizer.chat_template:
        raise ValueError(f"{model} has no chat template: add chat_template.jinja to its folder")
    try:
        return encodable(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        if messages[0]["role"] != "system" or len(messages) < 2:
            raise ValueError(f"{model}'s chat template refuses the messages: {error}") from None
        system, user, *more = messages
        return render(model, tokenizer, [user | {"content": f"{system['content']}\n\n{user['content']}"}, *more])


def _token_ids(tokenizer, texts: dict) -> dict:
    if not texts:
        return {}
    return dict(zip(texts, tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"], strict=True))


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

    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(net.device)
    width = inputs["input_ids"].shape[1]
    processors = LogitsProcessorList([SeededSampler(seeds, width, sampling)] if sampling.temperature > 0 else [])
    stops = {"stop_strings": list(sampling.stop), "tokenizer": tokenizer} if sampling.stop else {}
    with torch.inference_mode():
        output = net.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            num_beams=1,
            max_new_tokens=sampling.max_new_tokens,
            logits_processor=processors,
            **stops,
        )
    return [_decode(tokenizer, net, row[width:].tolist(), sampling) for row in output]


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
    function = references.load_callable(model)
    pending = [key for key in unique if key not in answers]
    for start in range(0, len(pending), runtime.batch_size):
        batch = pending[start : start + runtime.batch_size]
        texts = [cut_at(encodable(function(unique[key]["messages"])), sampling.stop) for key in batch]
        yield [(key, Generation(text, count_words(text), "stop")) for key, text in zip(batch, texts, strict=True)]

"""Models and tokenizers, loaded once and kept.

Weights are read from safetensors only; a repository's own code runs only if `trust_remote_code` names that very
repository. Nothing here trains. torch and transformers are imported when a model is first loaded.
"""

import functools
import re
from dataclasses import replace

from nbutils.models import chat, folders, hub, references
from nbutils.models.devices import Runtime, is_out_of_memory, pick_device, pick_dtype, settle_threads
from nbutils.models.padding import is_padding_harmless
from nbutils.models.references import check, describe, kind, resolve

_OF_ADAPTERS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_OF_TOKENIZERS = ("trust_remote_code", "revision")


def load_kwargs(ref: str, runtime: Runtime) -> dict:
    """Keyword arguments of from_pretrained that every load shares; of a hub model the commit that it is known by."""
    target = resolve(ref)
    dtype = pick_dtype(runtime.dtype, pick_device(runtime.device))
    trusted = runtime.trust_remote_code in (ref, target) and bool(runtime.trust_remote_code)
    known = {"dtype": dtype, "trust_remote_code": trusted, "use_safetensors": True}
    commit = hub.commit(target) if kind(ref) == "hub" else ""
    return known | {"revision": commit} if commit else known


def load_tokenizer(ref: str, runtime: Runtime = Runtime()):
    """Tokenizer with left padding and a padding token. ValueError where it has none, and no end to take for it."""
    from transformers import AutoTokenizer

    shared = {name: value for name, value in load_kwargs(ref, runtime).items() if name in _OF_TOKENIZERS}
    tokenizer = _explained(ref, AutoTokenizer.from_pretrained, _source(ref), **shared)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise ValueError(f"{ref} has neither a padding nor an end token: name a pad_token in tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@functools.lru_cache(maxsize=16)  # the arms of an evaluation: with fewer, each try of a prompt would load all again
def load_causal(ref: str, runtime: Runtime = Runtime()):
    """(model, tokenizer) of a causal LM or of a PEFT adapter on one; in evaluation mode, on the device, frozen.

    ValueError for weights that are in no file, which would be random.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    check(ref, "weights")
    _make_room(ref, runtime)
    tokenizer = load_tokenizer(ref, runtime)
    model, random = _read(AutoModelForCausalLM, ref, tokenizer, runtime)
    if random:
        raise ValueError(f"{ref}: {random}; wanted a causal model with all its weights")
    _check_padding(ref, model, tokenizer)
    model.generation_config = GenerationConfig(
        eos_token_id=_ends(ref, model, tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    return _placed(model, runtime), tokenizer


@functools.lru_cache(maxsize=64)
def runtime_of(ref: str, runtime: Runtime = Runtime()) -> Runtime:
    """runtime, with batches of one for a causal model that takes padding in front for text, as RWKV does."""
    harmless = is_padding_harmless(load_causal(ref, runtime)[0], by_generate=True)
    return runtime if harmless else replace(runtime, batch_size=1)


def _ends(ref: str, model, tokenizer) -> int | list[int] | None:
    """The tokens that end a text: the model's own, and the one by which its chat template ends an answer."""
    known = model.generation_config.eos_token_id or tokenizer.eos_token_id
    listed = [known] if isinstance(known, int) else list(known or ())
    end = chat.turn_end(ref, tokenizer)
    return known if end is None or end in listed else [*listed, end]


@functools.lru_cache(maxsize=3)
def load_reward(ref: str, runtime: Runtime = Runtime()):
    """(model, tokenizer) of a sequence classifier with one output, right-padded, frozen.

    The model takes for padding what the tokenizer pads with: it scores at the last token that is none. ValueError for a
    head that is in no file, which would be random, or has another number of outputs.
    """
    from transformers import AutoModelForSequenceClassification

    check(ref, "reward")
    tokenizer = load_tokenizer(ref, runtime)
    tokenizer.padding_side = "right"
    model, random = _read(AutoModelForSequenceClassification, ref, tokenizer, runtime, {"num_labels": 1})
    if random:
        raise ValueError(f"{ref}: {random}; a reward model needs its trained head, of one output")
    _share_padding(model, tokenizer)
    _check_padding(ref, model, tokenizer)
    return _placed(model, runtime), tokenizer


def _read(auto, ref: str, tokenizer, runtime: Runtime, more: dict | None = None) -> tuple:
    """(model with its adapter merged in, what of it was in no file: a line, or empty). auto: one of transformers'."""
    from transformers.utils import logging

    on = references.base(ref)
    source = on if "/" in on else ref
    known = load_kwargs(source, runtime) | (more or {})
    if on and source == ref:  # one of the hub's oldest models: it has no owner, and no commit that we know
        known.pop("revision", None)
    target = on if on and source == ref else resolve(source)
    told = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of what was in no file comes before the adapter; ours after it
    try:
        model, info = _explained(source, auto.from_pretrained, target, **known, **told)
    finally:
        logging.set_verbosity(level)
    other = {name: f"{name} is {tuple(got)}, not {tuple(wanted)}" for name, got, wanted in info["mismatched_keys"]}
    left = set(info["missing_keys"]) & {name for name, _ in model.named_parameters()}
    if on:
        model, held, without = _merged(model, ref, tokenizer)
        left, other = (left - held) | without, {name: line for name, line in other.items() if name not in held}
    lines = [*other.values(), *(f"{name} is in no file" for name in sorted(left - set(other)))]
    return model, "; ".join(lines[:1]) + f" and {len(lines) - 1} more" * (len(lines) > 1)


def _source(ref: str) -> str:
    """What from_pretrained is told: a folder or a hub id; of an adapter on the hub its folder in the cache, because
    adapters have no config.json, and transformers would ask the hub for it each time."""
    import huggingface_hub

    if kind(ref) != "hub" or not references.base(ref):
        return resolve(ref)
    files = {"revision": hub.commit(resolve(ref)), "allow_patterns": _OF_ADAPTERS, "ignore_patterns": "checkpoint-*"}
    return _explained(ref, huggingface_hub.snapshot_download, resolve(ref), **files)


def _merged(model, ref: str, tokenizer) -> tuple:
    """(model with the adapter ref merged in, names of what the adapter's file holds, of what it should hold too)."""
    from peft import PeftModel, get_peft_model_state_dict

    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:  # it was trained with tokens of its own
        model.resize_token_embeddings(len(tokenizer))
    adapted = _explained(ref, PeftModel.from_pretrained, model, _source(ref))
    found = references.folder(ref)
    held = set(folders.tensors(found)) if found else set()
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    without = {name for name in wanted if re.search(r"\.lora_[AB]\.|^(?!.*lora_)", name)} - held
    start = "base_model.model."
    return (
        adapted.merge_and_unload(),
        {name.removeprefix(start) for name in held},
        {name.removeprefix(start) for name in without},
    )


def _share_padding(model, tokenizer) -> None:
    """One padding token for both. The end of a text is part of it: a model's own padding token goes before that."""
    configs = (model.config, model.config.get_text_config())
    own, known = configs[-1].pad_token_id, len(tokenizer)
    if tokenizer.pad_token_id == tokenizer.eos_token_id and own is not None and 0 <= own < known:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(own)
    for config in configs:
        config.pad_token_id = tokenizer.pad_token_id


def _check_padding(ref: str, model, tokenizer) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.pad_token_id >= rows:
        got = f"{ref} pads with token {tokenizer.pad_token_id}, and its model knows tokens up to {rows - 1}"
        raise ValueError(f"{got}: name one of these as pad_token in tokenizer_config.json")


def _make_room(ref: str, runtime: Runtime) -> None:
    """Forget the other models where this one does not fit beside them into main memory: that would be no error but a
    killed process. A GPU says when it is full, see _placed."""
    import psutil

    needed = (describe(ref)["num_parameters"] or 0) * pick_dtype(runtime.dtype, "cpu").itemsize
    if pick_device(runtime.device) == "cpu" and psutil.virtual_memory().available < 1.5 * needed:
        unload()


def _placed(model, runtime: Runtime):
    """model on its device, in evaluation mode, frozen."""
    settle_threads(model, runtime)
    try:
        model.to(pick_device(runtime.device))
    except RuntimeError as error:
        if not is_out_of_memory(error) or not unload():
            raise
        model.to(pick_device(runtime.device))
    return model.eval().requires_grad_(False)


def unload() -> int:
    """Forget all cached models, those in use apart, and give their memory back. Returns how many were cached."""
    from accelerate.utils.memory import clear_device_cache

    caches = (load_causal, load_reward)
    number = sum(cache.cache_info().currsize for cache in caches)
    for cache in caches:
        cache.cache_clear()
    clear_device_cache(garbage_collection=True)
    return number


def _explained(ref: str, load, *args, **kwargs):
    """load(*args, **kwargs) with the hub's errors turned into one line that says what to do; no bar per shard."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    if kind(ref) == "hub" and (said := hub.trouble(resolve(ref))):  # the hub's own client would try for a minute
        raise FileNotFoundError(said)
    try:
        return load(*args, **kwargs)
    except GatedRepoError:
        raise FileNotFoundError(f"{ref} is gated: ask for access on its hub page, then set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(f"{ref} does not exist on the hub, or HF_TOKEN may not see it") from None
    except (OSError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{ref} could not be loaded ({first}): download it first, or name a local folder"
        ) from None

"""Models and tokenizers, loaded once and kept.

Weights are read from safetensors only; a repository's own code runs only if `trust_remote_code` names that very
repository. Nothing here trains. torch and transformers are imported when a model is first loaded.
"""

import functools
from pathlib import Path

from nbutils.models import chat, hub
from nbutils.models.devices import Runtime, is_out_of_memory, pick_device, pick_dtype, settle_threads
from nbutils.models.references import check, describe, kind, resolve


def load_kwargs(ref: str, runtime: Runtime) -> dict:
    """Keyword arguments of from_pretrained that every load shares."""
    target = resolve(ref)
    dtype = pick_dtype(runtime.dtype, pick_device(runtime.device))
    trusted = runtime.trust_remote_code in (ref, target) and bool(runtime.trust_remote_code)
    return {"dtype": dtype, "trust_remote_code": trusted, "use_safetensors": True}


def load_tokenizer(ref: str, runtime: Runtime = Runtime()):
    """Tokenizer with left padding and a padding token."""
    from transformers import AutoTokenizer

    trust = load_kwargs(ref, runtime)["trust_remote_code"]
    tokenizer = _explained(ref, AutoTokenizer.from_pretrained, resolve(ref), trust_remote_code=trust)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@functools.lru_cache(maxsize=16)  # the arms of an evaluation: with fewer, each try of a prompt would load all again
def load_causal(ref: str, runtime: Runtime = Runtime()):
    """(model, tokenizer) of a causal LM or of a PEFT adapter on one; in evaluation mode, on the device, frozen."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    check(ref, "weights")
    _make_room(ref, runtime)
    tokenizer = load_tokenizer(ref, runtime)
    if (Path(resolve(ref)) / "adapter_config.json").exists():
        from peft import AutoPeftModelForCausalLM

        model = _explained(ref, AutoPeftModelForCausalLM.from_pretrained, resolve(ref), **load_kwargs(ref, runtime))
        model = model.merge_and_unload()
    else:
        model = _explained(ref, AutoModelForCausalLM.from_pretrained, resolve(ref), **load_kwargs(ref, runtime))
    model.generation_config = GenerationConfig(
        eos_token_id=_ends(ref, model, tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    return _placed(model, runtime), tokenizer


def _ends(ref: str, model, tokenizer) -> int | list[int] | None:
    """The tokens that end a text: the model's own, and the one by which its chat template ends an answer."""
    known = model.generation_config.eos_token_id or tokenizer.eos_token_id
    listed = [known] if isinstance(known, int) else list(known or ())
    end = chat.turn_end(ref, tokenizer)
    return known if end is None or end in listed else [*listed, end]


@functools.lru_cache(maxsize=3)
def load_reward(ref: str, runtime: Runtime = Runtime()):
    """(model, tokenizer) of a sequence classifier with one output, right-padded, frozen."""
    from transformers import AutoModelForSequenceClassification

    check(ref, "reward")
    tokenizer = load_tokenizer(ref, runtime)
    tokenizer.padding_side = "right"
    model = _explained(
        ref, AutoModelForSequenceClassification.from_pretrained, resolve(ref), num_labels=1, **load_kwargs(ref, runtime)
    )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return _placed(model, runtime), tokenizer


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
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{ref} could not be loaded ({first}): download it first, or name a local folder"
        ) from None

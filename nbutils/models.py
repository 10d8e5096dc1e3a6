"""One string names a model everywhere: sandbox/<name>, a hub id, a local folder, api:<model>[@<server>], or
<module>:<function>.

Weights are read from safetensors only; a repository's own code runs only if `trust_remote_code` names that very
repository. Nothing here trains. torch and transformers are imported when a model is first loaded.
"""

import difflib
import functools
import importlib
import importlib.util
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from nbutils import paths
from nbutils.spending import Limits

SANDBOX = {
    "prompter": "weights/base",
    "responder": "weights/base",
    "llama_prompter": "weights/llama",
    "llama_responder": "weights/llama",
    "reward": "weights/reward",
    "judge": "nbutils.sandbox.judge:answer",
    "gold": "nbutils.sandbox.gold:score",
}
REWARD = "reward:"  # before a model's reference, where a judge is wanted: a reward model that judges
_SMALL = 20_000_000  # parameters
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SERVER = re.compile(r"(.+)@([A-Za-z]\w*)")  # a version such as @20240620 is part of a model's name
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Server:
    """Where a model behind an API is asked: its name there, and the environment's variables with address and key."""

    model: str
    url_name: str
    key_name: str
    is_named: bool

    @property
    def url(self) -> str:
        return os.environ.get(self.url_name, "").rstrip("/")

    @property
    def key(self) -> str:
        """A server of one's own may want none; another server never gets the default one's."""
        return os.environ.get(self.key_name, "none" if self.is_named else "")

    @property
    def lacks(self) -> str:
        """The variable without which nothing can be asked, if it is not set; else empty."""
        needed = self.url_name if self.is_named else self.key_name
        return "" if os.environ.get(needed) else needed


def server(ref: str) -> Server:
    """api:<model> is asked at OPENAI_BASE_URL (OpenAI's, if that is not set) with OPENAI_API_KEY; api:<model>@<server>
    at <SERVER>_OPENAI_BASE_URL with <SERVER>_OPENAI_API_KEY, if that is set."""
    model = ref.removeprefix("api:")
    named = _SERVER.fullmatch(model)
    start = f"{named[2].upper()}_" if named else ""
    return Server(
        named[1] if named else model, f"{start}OPENAI_BASE_URL", f"{start}OPENAI_API_KEY", is_named=bool(named)
    )


@dataclass(frozen=True)
class Runtime:
    """How models run here. batch_size: requests per forward pass, or in flight for an API; limits: to what paid calls
    may cost."""

    batch_size: int = 64
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: str = ""
    limits: Limits = field(default=Limits(), compare=False)


def resolve(ref: str) -> str:
    """The local folder (absolute), hub id, api:<model> or <module>:<function> behind ref. ValueError if it is none.

    A judge's `reward:` in front of a reference says what the model is used for, and is no part of its name.
    """
    ref = ref.removeprefix(REWARD)
    if ref.startswith("sandbox/"):
        return _sandbox(ref.removeprefix("sandbox/"))
    if ref.startswith("api:") or _CALLABLE.fullmatch(ref):
        return ref
    for folder in (Path(ref).expanduser(), place(ref)):
        if folder.is_dir():
            return str(folder.resolve())
    if _HUB.fullmatch(ref):
        return ref
    raise ValueError(
        f"model {ref!r} not found: wanted sandbox/<{'|'.join(SANDBOX)}>, a hub id (owner/name), an existing folder, "
        "api:<model> or <module>:<function>"
    )


def place(ref: str) -> Path:
    """Where a folder reference lies: in outputs, wherever that is, or in the project."""
    inside = ref.removeprefix("outputs/")
    return (paths.project_root() / ref if inside == ref else paths.outputs_root() / inside).resolve()


def _sandbox(name: str) -> str:
    if name not in SANDBOX:
        near = difflib.get_close_matches(name, SANDBOX, n=1)
        hint = f"did you mean sandbox/{near[0]}?" if near else f"there are sandbox/{', sandbox/'.join(SANDBOX)}"
        raise ValueError(f"model 'sandbox/{name}' not found: {hint}")
    target = SANDBOX[name]
    return target if ":" in target else str(Path(__file__).resolve().parent / "sandbox" / target)


def kind(ref: str) -> str:
    """local | hub | api | callable."""
    target = resolve(ref)
    if target.startswith("api:"):
        return "api"
    if os.path.isabs(target):
        return "local"
    return "callable" if _CALLABLE.fullmatch(target) else "hub"


def check(ref: str, task: str = "causal") -> None:
    """Raise one clear line (ValueError, FileNotFoundError) if ref can't be used for task; loads and fetches nothing.

    task: causal (needs a chat template) | reward (needs a sequence-classification head) | weights (needs neither).
    """
    target = resolve(ref)
    if kind(ref) == "callable":
        load_callable(target)
    elif kind(ref) == "local":
        _check_folder(Path(target), task)


def _check_folder(folder: Path, task: str) -> None:
    names = {path.name for path in folder.iterdir()}
    adapter = "adapter_config.json" in names
    if not adapter and "config.json" not in names:
        raise FileNotFoundError(f"{folder} has no config.json or adapter_config.json: it is not a model folder")
    if not any(name.endswith(".safetensors") for name in names):
        raise FileNotFoundError(f"{folder} has no safetensors weights: convert them, pickled weights are refused")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        raise FileNotFoundError(f"{folder} has no tokenizer: save it there with tokenizer.save_pretrained")
    if task == "causal" and not _has_chat_template(folder):
        raise ValueError(f"{folder} has no chat template: add chat_template.jinja to the folder")
    if task == "reward" and not adapter:
        heads = json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or []
        if not any(head.endswith("ForSequenceClassification") for head in heads):
            raise ValueError(
                f"{folder} is a {', '.join(heads) or 'headless model'}: a reward model needs a "
                "ForSequenceClassification head"
            )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists():
        return True
    config = folder / "tokenizer_config.json"
    return config.exists() and bool(json.loads(config.read_text("utf-8")).get("chat_template"))


def local_files(*refs: str) -> list[Path]:
    """Local model folders and callables' source files among refs: what a manifest can hash."""
    found = []
    for ref in refs:
        target = resolve(ref)
        if kind(ref) == "local":
            found.append(Path(target))
        elif kind(ref) == "callable":
            spec = importlib.util.find_spec(target.split(":")[0])
            if spec and spec.origin:
                found.append(Path(spec.origin))
    return found


@functools.lru_cache(maxsize=64)
def _identity(target: str, stamp: tuple) -> str:
    return paths.sha256_tree(Path(target)) if os.path.isdir(target) else target


def identity(ref: str) -> str:
    """What a request's key says about the model: content hash of a folder, module source hash, else the reference."""
    target = resolve(ref)
    if kind(ref) == "local":
        files = sorted(path for path in Path(target).rglob("*") if path.is_file())
        return _identity(target, tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files))
    if kind(ref) == "callable":
        return target + ":" + "".join(paths.sha256_file(path) for path in local_files(ref))
    if kind(ref) == "api":
        return f"{server(ref).url} api:{server(ref).model}"
    return target


def load_callable(ref: str):
    """The Python function behind <module>:<function>. ValueError if there is none."""
    module, name = resolve(ref).split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{ref!r}: module {error.name} not found") from None
    except AttributeError:
        raise ValueError(f"{ref!r}: module {module} has no function {name}") from None


def pick_device(device: str = "auto") -> str:
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str, device: str):
    """torch dtype; auto is bfloat16 on CUDA, float32 elsewhere."""
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


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


@functools.lru_cache(maxsize=6)
def load_causal(ref: str, runtime: Runtime = Runtime()):
    """(model, tokenizer) of a causal LM or of a PEFT adapter on one; in evaluation mode, on the device, frozen."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    check(ref, "weights")
    tokenizer = load_tokenizer(ref, runtime)
    if (Path(resolve(ref)) / "adapter_config.json").exists():
        from peft import AutoPeftModelForCausalLM

        model = _explained(ref, AutoPeftModelForCausalLM.from_pretrained, resolve(ref), **load_kwargs(ref, runtime))
        model = model.merge_and_unload()
    else:
        model = _explained(ref, AutoModelForCausalLM.from_pretrained, resolve(ref), **load_kwargs(ref, runtime))
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return _placed(model, runtime), tokenizer


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


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or this machine, had no room left for a tensor: each device says so in its own words."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def settle_threads(model, runtime: Runtime) -> None:
    """One CPU thread for a small model: two gain little, and beside other work they wait for each other.

    Sandbox, two cores, one of them busy: batch of 256, 5.5 s with two threads and 0.9 s with one.
    """
    import torch

    if pick_device(runtime.device) == "cpu" and sum(weight.numel() for weight in model.parameters()) < _SMALL:
        torch.set_num_threads(1)


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


def describe(ref: str) -> dict:
    """{"kind", "num_parameters": int | None, "present": bool}, from safetensors headers or the name."""
    target = resolve(ref)
    if kind(ref) == "local":
        return {"kind": "local", "num_parameters": _count_parameters(Path(target)), "present": True}
    if kind(ref) == "hub":
        cached = _cached_folder(target)
        number = _count_parameters(cached) if cached else None
        return {"kind": "hub", "num_parameters": number or _size_in_name(target), "present": cached is not None}
    return {"kind": kind(ref), "num_parameters": None, "present": kind(ref) == "callable"}


def _cached_folder(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _count_parameters(folder: Path) -> int | None:
    """Elements in all safetensors headers below folder; None if there are none."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                total += functools.reduce(lambda a, b: a * b, entry["shape"], 1)
    return total or None


def _size_in_name(name: str) -> int | None:
    found = re.search(r"(\d+(?:\.\d+)?)[bB](?![a-zA-Z0-9])", name)
    if found:
        return int(float(found[1]) * 1e9)
    return 3_800_000_000 if "Phi-3.5-mini" in name or "Phi-3-mini" in name else None

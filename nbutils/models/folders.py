"""What a model's folder holds, read without torch: weights by their headers, head, padding token, an adapter's base.

A folder is one that transformers would load: config.json or adapter_config.json, safetensors, a tokenizer.
"""

import functools
import json
import math
import re
from collections import Counter
from pathlib import Path

_POINTER = b"version https://git-lfs"
_MOST_HEADER = 100_000_000  # bytes: safetensors' own limit
_JSON = ("config.json", "adapter_config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json")
_HEAD = re.compile(r"(.*\.)?(score|classifier|classification_head|logits_proj|out_proj)\.weight")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_AGAIN = "download or copy the folder again"


def is_adapter(folder: Path) -> bool:
    return (Path(folder) / "adapter_config.json").is_file()


def base(folder: Path) -> str:
    """What the adapter in folder stands on, as its config says it; empty where folder holds no adapter."""
    return read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "" if is_adapter(folder) else ""


def weights(folder: Path) -> list[Path]:
    """The safetensors files that are loaded, whether they are there or not: an adapter's, one file, or the shards of
    an index. A copy beside them (consolidated.safetensors) is not."""
    if is_adapter(folder):
        names = ["adapter_model.safetensors"] if (folder / "adapter_model.safetensors").exists() else []
    elif (folder / "model.safetensors").exists():
        names = ["model.safetensors"]
    elif (folder / "model.safetensors.index.json").exists():
        names = sorted(set(read_json(folder / "model.safetensors.index.json").get("weight_map", {}).values()))
    else:
        names = []
    return [folder / name for name in names]


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in _TOKENIZERS)


def num_parameters(folder: Path) -> int | None:
    """Elements of all weights, an adapter's own alone; None where they cannot be read."""
    try:
        shapes = [entry["shape"] for entry in tensors(folder).values()]
    except (ValueError, OSError):
        return None
    return sum(map(math.prod, shapes)) or None


def tensors(folder: Path) -> dict[str, dict]:
    """name → entry (dtype, shape, data_offsets) of all weights. ValueError, FileNotFoundError: one line."""
    found: dict[str, dict] = {}
    for path in weights(folder):
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there, and the weights' index names it: {_AGAIN}")
        found |= header(path)
    return found


def header(path: Path) -> dict[str, dict]:
    """name → entry of one safetensors file, which holds all that its header promises. ValueError in one line else."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(len(_POINTER))
        _refuse_pointer(path, start)
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise ValueError(f"{path} is cut or no safetensors file ({size:,} bytes): {_AGAIN}")
        file.seek(8)
        text = file.read(length)
    try:
        found = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in found.values()), default=0)
        sound = all(math.prod(entry["shape"]) >= 0 for entry in found.values())
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
        sound = False
    if not sound:
        raise ValueError(f"{path} is no safetensors file, its header cannot be read: {_AGAIN}")
    if size < 8 + length + end:
        raise ValueError(f"{path} is cut: {size:,} bytes of {8 + length + end:,}: {_AGAIN}")
    return found


def _refuse_pointer(path: Path, start: bytes) -> None:
    if start.startswith(_POINTER):
        raise ValueError(f"{path} is a Git LFS pointer in place of the file: run git lfs pull, or {_AGAIN}")


def read_json(path: Path) -> dict:
    """A JSON file of a model's folder. ValueError in one line for anything else; FileNotFoundError."""
    path = Path(path)
    stamp = path.stat()
    return _read_json(path, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=64)  # a tokenizer takes a tenth of a second, and a plan asks for each step
def _read_json(path: Path, *stamp: int) -> dict:
    text = path.read_bytes()
    _refuse_pointer(path, text)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object ({len(text):,} bytes): {_AGAIN}")
    return found


def check(folder: Path, task: str) -> None:
    """One clear line (ValueError, FileNotFoundError) if folder can't be used for task; tasks as in references.check."""
    names = {path.name for path in folder.iterdir()}
    if not names & {"adapter_config.json", "config.json"}:
        raise FileNotFoundError(f"{folder} has no config.json or adapter_config.json: it is not a model folder")
    for name in names & set(_JSON):
        read_json(folder / name)
    if task in ("causal", "trained", "reward base") and not _has_chat_template(folder):
        raise ValueError(f"{folder} has no chat template: add chat_template.jinja to the folder")
    if task in ("trained", "reward base") and is_adapter(folder):
        raise ValueError(f"{folder} is an adapter: merge it into its model first, training starts from whole models")
    if not weights(folder):
        raise FileNotFoundError(f"{folder} has no safetensors weights: convert them, pickled weights are refused")
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"{folder} has no tokenizer: save it there with tokenizer.save_pretrained")
    held = tensors(folder)
    if is_adapter(folder):
        _check_adapter(folder, task, held)
    else:
        _check_head(folder, task, held)
        _check_padding(folder)


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists():
        return True
    config = folder / "tokenizer_config.json"
    return config.exists() and bool(read_json(config).get("chat_template"))


def _check_adapter(folder: Path, task: str, held: dict[str, dict]) -> None:
    made_for = read_json(folder / "adapter_config.json").get("task_type")
    wanted = {"reward": "SEQ_CLS", "causal": "CAUSAL_LM"}.get(task)
    if wanted and made_for in ("SEQ_CLS", "CAUSAL_LM") and made_for != wanted:
        why = "a reward model needs a trained head" if task == "reward" else "it scores, and writes nothing"
        raise ValueError(f"{folder} is an adapter of task {made_for}, wanted {wanted}: {why}")
    if task == "reward" and made_for == "SEQ_CLS" and not _beside_trunk(held):
        raise ValueError(f"{folder} is an adapter without its head, which would be random: save it with the head")


def _beside_trunk(held: dict[str, dict]) -> list[str]:
    """Names of weights that are not the trunk's: heads. The trunk is where most of them are."""
    names = {name: name.removeprefix("base_model.model.").split(".")[0] for name in held}
    trunk = Counter(names.values()).most_common(1)
    return [name for name, part in names.items() if part != trunk[0][0]]


def _check_head(folder: Path, task: str, held: dict[str, dict]) -> None:
    heads = read_json(folder / "config.json").get("architectures") or []
    scores = any(head.endswith("ForSequenceClassification") for head in heads)
    if task in ("causal", "trained") and scores:
        raise ValueError(f"{folder} is a {', '.join(heads)}: it scores, and writes nothing; name a causal model")
    if task != "reward":
        return
    if not scores:
        raise ValueError(
            f"{folder} is a {', '.join(heads) or 'headless model'}: a reward model needs a "
            "ForSequenceClassification head"
        )
    beside = _beside_trunk(held)
    if all(name.startswith(("lm_head", "v_head", "value_head")) for name in beside):
        got = f"holds {beside[0]} in its place" if beside else "holds none"
        raise ValueError(f"{folder} says {heads[0]}, and {got}: its head would be random; train it as a reward model")
    outputs = [held[name]["shape"][0] for name in beside if _HEAD.fullmatch(name)]
    if outputs and outputs[-1] != 1:
        raise ValueError(f"{folder} has a head of {outputs[-1]} outputs: a reward model has one")


def _check_padding(folder: Path) -> None:
    """The padding token is one that the model knows: one added to the tokenizer alone has no place in its table."""
    config = read_json(folder / "config.json")
    number = (config.get("text_config") or config).get("vocab_size")
    token = _padding_id(folder)
    if token is not None and isinstance(number, int) and token >= number:
        raise ValueError(
            f"{folder} pads with token {token}, and its model knows tokens up to {number - 1}: name one of these as "
            "pad_token in tokenizer_config.json (its eos_token will do)"
        )


def _padding_id(folder: Path) -> int | None:
    if not (folder / "tokenizer.json").exists() or not (folder / "tokenizer_config.json").exists():
        return None
    name = read_json(folder / "tokenizer_config.json").get("pad_token")
    name = name.get("content") if isinstance(name, dict) else name
    tokenizer = read_json(folder / "tokenizer.json")
    added = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or []}
    known = (tokenizer.get("model") or {}).get("vocab")
    return added.get(name, known.get(name) if isinstance(known, dict) else None)

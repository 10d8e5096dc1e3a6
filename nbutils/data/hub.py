"""Prompt sets that are not on this machine: hub sets through datasets, POIR's evaluation sets from BPO's repository.

Hub sets are streamed: of OpenOrca's four million rows only as many are fetched as are asked for. With HF_HUB_OFFLINE
set, the copy that datasets has cached is memory-mapped instead (the order of its rows may then differ).
"""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from nbutils.data import readers
from nbutils.experiment import paths
from nbutils.models import hub

EVALUATION_SETS = {
    "vicuna": "vicuna_eval.jsonl",
    "dolly": "dolly_eval.json",
    "self_instruct": "self_instruct_eval.json",
    "bpo_test": "bpo_test.json",
}
EVALUATION_SIZES = {"vicuna": 80, "dolly": 200, "self_instruct": 252, "bpo_test": 200}  # prompts
BPO_COMMIT = "5ad79c621c8a283b7adbddc7624ea242aab4935d"
BPO_URL = f"https://raw.githubusercontent.com/thu-coai/BPO/{BPO_COMMIT}/data/testset/"
SPLITS = {"train": "train", "training": "train", "test": "test", "validation": "test", "valid": "test"}
SPLITS |= {"val": "test", "dev": "test", "eval": "test", "evaluation": "test"}
_SHUFFLE_BUFFER = 10_000  # rows of a stream that are mixed with each other
BY_HASH = object()  # in a hub row's split: the set has no test split of its own


def read_evaluation_set(name: str) -> Iterator[dict]:
    """One of POIR's four sets: a local copy in $WORKBOOK_DATA or data/, else BPO's repository at the pinned commit."""
    file = EVALUATION_SETS[name]
    if local := local_copy(file):
        return readers.read_rows(local)
    import datasets

    copy = _fetch(BPO_URL + file, fetched(file))
    return iter(datasets.load_dataset("json", data_files=str(copy), split="train", streaming=True))


def local_copy(file: str) -> Path | None:
    folders = [paths.project_root() / "data"]
    if os.environ.get("WORKBOOK_DATA"):
        folders.insert(0, paths.expanded(os.environ["WORKBOOK_DATA"]))
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def fetched(file: str) -> Path:
    """Where an evaluation set's file lies once it is fetched."""
    return _cache() / f"bpo-{BPO_COMMIT[:12]}" / file


def is_cached(hub_id: str) -> bool:
    """Whether anything of a hub set is in the caches of datasets and of the hub. datasets writes names its own way:
    openbmb___ultra_feedback."""
    owner, _, name = hub_id.rpartition("/")
    found = _cache().glob(f"{owner}___*") if owner else _cache().glob("*")
    plain = name.replace("_", "").lower()
    prepared = any(folder.name.split("___")[-1].replace("_", "").lower() == plain for folder in found)
    return prepared or hub.is_cached(hub_id, "datasets")


def _cache() -> Path:
    """The folder of datasets' cache, as datasets itself finds it (which takes a second to import)."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()


def _fetch(url: str, path: Path) -> Path:
    """path, fetched from url if it is not there yet. (datasets fetches plain URLs only where aiohttp is installed.)"""
    if path.is_file():
        return path
    advice = f"go online, or put {path.name} into data/ or $WORKBOOK_DATA"
    if hub.is_offline():
        raise ConnectionError(f"{path.name} is not on this machine and HF_HUB_OFFLINE is set: {advice}")
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return paths.write_atomic(path, answer.read())
    except urllib.error.HTTPError as error:
        raise FileNotFoundError(f"{url} answered {error.code}: {advice}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ConnectionError(f"{url} cannot be reached ({_one_line(error)}): {advice}") from None


def read_hub(hub_id: str, split: str, seed: int | None) -> Iterator[dict]:
    """Rows of a hub set's split, mixed by seed (None: in order); a row's `split` says how its role is decided."""
    import datasets
    import huggingface_hub.errors

    offline = datasets.config.HF_HUB_OFFLINE
    if not (offline or hub.is_offline() or is_cached(hub_id)) and (said := hub.trouble(hub_id, "datasets")):
        raise ConnectionError(f"{said}, or save its rows as a .jsonl file and name that")
    failures = (
        OSError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        huggingface_hub.errors.HfHubHTTPError,
    )
    try:
        splits = datasets.load_dataset(hub_id, streaming=not offline)
    except failures as error:
        raise _explain(hub_id, error) from None
    name, role = _choose_split(hub_id, list(splits), split)
    rows = splits[name]
    if seed is not None:
        rows = rows.shuffle(seed=seed) if offline else rows.shuffle(seed=seed, buffer_size=_SHUFFLE_BUFFER)
    try:
        for row in rows:
            yield row | {"split": role}
    except failures as error:
        raise _explain(hub_id, error) from None


def _choose_split(hub_id: str, names: list[str], split: str) -> tuple[str, str | object]:
    """(the set's split to read for a role, how a row's role is decided: `train`, `test` or by hash)."""
    by_role: dict[str, list[str]] = {"train": [], "test": []}
    for name in names:
        role = role_of_split(name) or ""
        by_role.get(role, []).append(name)
    if not by_role["test"] and (by_role["train"] or len(names) == 1):
        return (by_role["train"] or names)[0], BY_HASH
    if not by_role[split]:
        raise ValueError(f"{hub_id} has no split for {split}, it has {', '.join(names)}: save the rows as a file")
    return sorted(by_role[split], key=lambda name: not name.lower().startswith("test"))[0], split


def role_of_split(name: str) -> str | None:
    """train or test of a split's name, such as validation or train_sft; None of one that says neither."""
    return SPLITS.get(re.split(r"[_\W]", name.lower())[0])


def _explain(hub_id: str, error: Exception) -> Exception:
    """The error that a failed hub set stops with: what happened and what to do, in one line."""
    text = _one_line(error)
    advice = "or save its rows as a .jsonl file and name that"
    if "gated" in text.lower():
        page = f"https://huggingface.co/datasets/{hub_id}"
        return PermissionError(f"{hub_id} is gated: ask for access at {page}, then `hf auth login`, {advice}")
    if isinstance(error, ConnectionError) or "LocalEntryNotFoundError" in text:
        return ConnectionError(f"{hub_id} cannot be reached: go online, fetch it beforehand, {advice}")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{hub_id} is not on the hub, or private: check the name, `hf auth login`, {advice}")
    return ValueError(f"{hub_id} cannot be read ({text}): {advice.removeprefix('or ')}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

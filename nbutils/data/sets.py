"""Prompt sets by name, hub id or file, as rows with a `prompt_id` whatever their columns are called.

Several sets are named as one, ultrafeedback+orca; a prompt that two of them hold is the first one's.

Which rows serve which role (decided by the set, never by chance):
- a `split` column, or a hub set's own test or validation split, is kept;
- the evaluation sets and files without a `split` column: every row serves either role;
- other hub sets: the tenth of the prompts whose prompt_id is divisible by ten is for testing (as seeds all are read).
"""

import difflib
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path

from nbutils.data import columns, hub, novelty, readers
from nbutils.experiment import paths, records
from nbutils.models.texts import encodable

HUB_SETS = {
    "ultrafeedback": "openbmb/UltraFeedback",
    "helpsteer": "nvidia/HelpSteer",
    "orca": "Open-Orca/OpenOrca",
    "dolly_15k": "databricks/databricks-dolly-15k",
}

_OTHER_FILES = (".txt", ".tsv", ".xlsx", ".yaml", ".yml", ".gz", ".zip", ".arrow")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


# Loading


def parts(ref: str) -> list[str]:
    """The sets that a name stands for: a and b for a+b. A file with a + in its own name or its folder's is one set."""
    pieces, found = ref.split("+"), []
    while pieces:
        longer = ["+".join(pieces[:number]) for number in range(1, len(pieces) + 1)]
        files_there = [name for name in longer if _find(paths.expanded(name)).is_file()]
        part = (files_there[-1:] or [name for name in longer if not _is_half_a_path(name)] or longer[:1])[0]
        found.append(part.strip())
        pieces = pieces[longer.index(part) + 1 :]
    return found


def _is_half_a_path(name: str) -> bool:
    """Whether it names folders but no file in them, as what stands before a + in outputs/mine/a+b/pairs.jsonl."""
    known = _HUB_ID.fullmatch(name.strip()) and not name.startswith(".")
    return "/" in name and not known and Path(name).suffix.lower() not in (*readers.EXTENSIONS, *_OTHER_FILES)


def check(ref: str) -> None:
    """Stop on a prompt set that cannot exist, without loading anything: ValueError or FileNotFoundError in one line."""
    for part in parts(ref):
        _resolve(part)


def hub_id(ref: str) -> str | None:
    """The hub set behind the name of one set; None for what comes from elsewhere."""
    kind, source = _resolve(ref)
    return source if kind == "hub" else None


def is_here(ref: str) -> bool:
    """Whether one prompt or pair set can be read without a network."""
    kind, source = _resolve(ref)
    if kind == "evaluation":
        return hub.local_copy(source) is not None or hub.fetched(source).is_file()
    return kind != "hub" or hub.is_cached(source)


def load(ref: str, split: str, num_prompts: int = 0, seed: int = 0, shuffle: bool = True) -> list[records.Prompt]:
    """Prompts of a set for one role; see load_counted."""
    return load_counted(ref, split, num_prompts, seed, shuffle)[0]


def load_counted(
    ref: str, split: str, num_prompts: int = 0, seed: int = 0, shuffle: bool = True
) -> tuple[list[records.Prompt], dict[str, int]]:
    """(prompts, counts) of a set for one role, `train` or `test`.

    num_prompts: how many at most, 0 for all. They are drawn at random by seed, the same ones whatever the order of
    the rows, and more of them for a larger number (a stream is mixed in a buffer instead); shuffle=False takes the
    first. The rows come in the set's order. Prompts are stripped of blanks at both ends;
    half a character (a lone surrogate) becomes U+FFFD: no model and no page can show it.
    counts: rows read, empty (without a prompt), duplicates (merged), other_split, kept; of several sets the sums, then
    each one's rows read and kept.
    Raises ValueError, FileNotFoundError, PermissionError or ConnectionError, each in one line.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, got {split!r}")
    names = parts(ref)
    if len(names) == 1:
        return _load_one(names[0], split, num_prompts, seed, shuffle)
    each = {name: _load_one(name, split, num_prompts, seed, shuffle) for name in names}
    known: dict[str, records.Prompt] = {}
    for prompt in (prompt for prompts, _ in each.values() for prompt in prompts):
        known.setdefault(prompt.prompt_id, prompt)
    found = _cut(list(known.values()), num_prompts, seed, shuffle)
    repeated = sum(len(prompts) for prompts, _ in each.values()) - len(known)
    return found, summed({name: counts for name, (_, counts) in each.items()}, found, duplicates=repeated)


def summed(each: dict[str, dict[str, int]], found: list, **more: int) -> dict[str, int]:
    """The counts of several sets: their sums, and `more`, then the rows read and kept of each; found: rows kept."""
    total = sum((Counter(counts) for counts in each.values()), Counter(more))
    kept = Counter(row.source["set"] for row in found)
    of_each = {f"{name} {what}": n for name in each for what, n in (("read", each[name]["read"]), ("kept", kept[name]))}
    return {name: total[name] for name in next(iter(each.values()))} | {"kept": len(found)} | of_each


def _load_one(
    ref: str, split: str, num_prompts: int, seed: int, shuffle: bool, whole: bool = False
) -> tuple[list[records.Prompt], dict[str, int]]:
    """load_counted of one set. whole: with the tenth that a hash would keep for the other role."""
    kind, source = _resolve(ref)
    streamed = kind == "hub" and num_prompts > 0
    rows = {
        "sandbox": lambda: iter(_sandbox().prompts(ref, split)),
        "evaluation": lambda: hub.read_evaluation_set(ref),
        "file": lambda: readers.read_rows(Path(source)),
        "hub": lambda: hub.read_hub(source, split, seed if streamed and shuffle else None),
    }[kind]()
    if whole:
        rows = (row | {"split": None} if row.get("split") is hub.BY_HASH else row for row in rows)
    name = Path(source).stem if kind == "file" else ref.split("/")[-1]  # can name a file
    counts = Counter(read=0, empty=0, duplicates=0, other_split=0, kept=0)
    prompts = _prompts(rows, ref, name, split, counts)
    found = _cut(list(islice(prompts, num_prompts)) if streamed else list(prompts), num_prompts, seed, shuffle)
    if not found:
        seen = ", ".join(f"{counts[key]} {key}" for key in ("read", "empty", "other_split"))
        raise ValueError(f"{ref} has no usable prompt for {split} ({seen}): check its columns, or name another set")
    return found, dict(counts) | {"kept": len(found)}


def num_test_prompts(ref: str) -> int | None:
    """How many test prompts a set has; None where only its hub can tell. Reaches no network."""
    if len(names := parts(ref)) > 1:
        sizes = [num_test_prompts(name) for name in names]
        return None if None in sizes else sum(size or 0 for size in sizes)
    kind, source = _resolve(ref)
    if kind == "evaluation" and not hub.local_copy(source):
        return hub.EVALUATION_SIZES[ref]
    return None if kind == "hub" else len(load(ref, "test"))


def seeds(ref: str, tested: list[str] | tuple[str, ...] = (), num_prompts: int = 10_000) -> list[str]:
    """Seed prompts of a set: the sandbox's own, or of any set the prompts that are for training or for either role.

    A hub set without a test split of its own is read whole, unless it is one of `tested`, the prompt sets that are
    evaluated. num_prompts: of each set, at most (0: all).
    """
    held_out = {_resolve(part) for name in tested for part in parts(name)}
    found: list[str] = []
    for name in parts(ref):
        whole = _resolve(name) not in held_out
        loaded = [] if name == "sandbox" else _load_one(name, "train", num_prompts, 0, True, whole)[0]
        found += _sandbox().seeds() if name == "sandbox" else [row.prompt for row in loaded]
    return found


def files(*refs: str) -> list[Path]:
    """The files on this machine that these prompt sets are read from: a step's inputs."""
    found = (_resolve(part) for ref in refs for part in parts(ref))
    each = (
        Path(source) if kind == "file" else hub.local_copy(source)
        for kind, source in found
        if kind in ("file", "evaluation")
    )
    return [path for path in dict.fromkeys(each) if path]


def read_lines(path: str) -> list[str]:
    """Lines of a word list (relative to the project), without blanks, empty lines and lines that start with #."""
    file = _find(paths.expanded(path))
    if not file.is_file():
        raise FileNotFoundError(f"{path} not found at {file}: wanted a text file with one entry per line")
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def overlap(train: list[records.Prompt], test: list[records.Prompt], threshold: float) -> set[str]:
    """prompt_ids of the training prompts that are also test prompts: the same text, or ROUGE-L above threshold."""
    test_ids = {row.prompt_id for row in test}
    near = novelty.find_near([row.prompt for row in train], [row.prompt for row in test], threshold)
    return {row.prompt_id for row, is_near in zip(train, near, strict=True) if is_near or row.prompt_id in test_ids}


def not_compared(rows: list[records.Prompt], threshold: float) -> str:
    """How many prompts overlap() could not compare, to end a printed line with; see novelty.not_compared."""
    return novelty.not_compared([row.prompt for row in rows], threshold)


def _resolve(ref: str) -> tuple[str, str]:
    """(kind, source): ("sandbox", ref), ("evaluation", file name), ("hub", id) or ("file", path)."""
    if ref in _sandbox().NAMES:
        return "sandbox", ref
    if ref in hub.EVALUATION_SETS:
        return "evaluation", hub.EVALUATION_SETS[ref]
    if ref in HUB_SETS:
        return "hub", HUB_SETS[ref]
    path = _find(paths.expanded(ref))
    if path.is_file() and path.suffix.lower() in readers.EXTENSIONS:
        return "file", str(path)
    wanted = f"a {', '.join(readers.EXTENSIONS[:-1])} or {readers.EXTENSIONS[-1]} file"
    if path.exists() or path.suffix.lower() in _OTHER_FILES:
        raise ValueError(
            f"prompt set {ref} is {'a folder' if path.is_dir() else 'another kind of file'}: name {wanted}"
        )
    if path.suffix.lower() in readers.EXTENSIONS:
        raise FileNotFoundError(f"prompt set {ref} not found at {path}: correct the path")
    if _HUB_ID.fullmatch(ref) and not ref.startswith("."):
        return "hub", ref
    names = [*_sandbox().NAMES, *hub.EVALUATION_SETS, *HUB_SETS]
    close = difflib.get_close_matches(ref.lower(), names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
    raise ValueError(f"unknown prompt set {ref!r}: {hint} (or give a hub id owner/name, or {wanted})")


def _find(path: Path) -> Path:
    """A relative path in the project, else as seen from the working folder."""
    inside = paths.project_root() / path
    return path.absolute() if path.exists() and not inside.exists() else inside


def _sandbox():
    return importlib.import_module("nbutils.sandbox.prompt_sets")


def _cut(found: list[records.Prompt], num_prompts: int, seed: int, shuffle: bool) -> list[records.Prompt]:
    """num_prompts of them at most, 0 for all: drawn by seed, or the first."""
    if not 0 < num_prompts < len(found):
        return found
    if not shuffle:
        return found[:num_prompts]
    ranked = sorted(found, key=lambda row: sha256(f"{seed} {row.prompt_id}".encode()).digest())
    chosen = {row.prompt_id for row in ranked[:num_prompts]}
    return [row for row in found if row.prompt_id in chosen]


# Rows to prompts


def _prompts(rows: Iterator[dict], ref: str, name: str, split: str, counts: Counter) -> Iterator[records.Prompt]:
    """Prompt rows of one split, without empty ones and duplicates; counts is filled as they are read."""
    seen: set[str] = set()
    names: set[object] = set()
    for index, row in enumerate(rows):
        counts["read"] += 1
        names.update(row)
        text = encodable(columns.find_prompt(row) or "").strip()
        if not text:
            counts["empty"] += 1
            continue
        prompt_id = records.prompt_id(text)
        role = role_of(row, ref, prompt_id) or split
        if role != split:
            counts["other_split"] += 1
        elif prompt_id in seen:
            counts["duplicates"] += 1
        else:
            seen.add(prompt_id)
            yield records.Prompt(prompt_id, text, name, role, _origin(row, ref, index))
    if names and not {str(name).lower() for name in names} & set(columns.KNOWN):
        wanted, got = ", ".join(columns.KNOWN), ", ".join(sorted(map(str, names)))[:200]
        raise ValueError(f"{ref}: no column holds a prompt; wanted one of {wanted}; got {got}: rename the column")


def role_of(row: dict, ref: str, prompt_id: str) -> str | None:
    """train or test where the row or the set decides it, None where every row serves either role."""
    value = row.get("split")
    if value == hub.BY_HASH:
        return "test" if int(prompt_id, 16) % 10 == 0 else "train"
    if value is None or value == "":
        return None
    role = hub.role_of_split(str(value))
    if role is None:
        raise ValueError(f"{ref}: column split holds {str(value)[:40]!r}, wanted train or test: rename the column")
    return role


def _origin(row: dict, ref: str, index: int) -> dict:
    kept = {key: row[key] for key in ("id", "idx", "question_id", "category") if isinstance(row.get(key), str | int)}
    return {"set": ref, "row": index} | kept

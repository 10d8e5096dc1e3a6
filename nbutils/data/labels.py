"""What people said of pairs of responses: a .csv, .jsonl, .json or .parquet file, or the annotator's labels.jsonl.

| column             | holds                                                                                    |
|--------------------|------------------------------------------------------------------------------------------|
| prompt_id, prompt  | one of the two: the key of the prompt, or its text                                       |
| arm_a, arm_b       | the two arms                                                                             |
| label              | win, a, left: arm_a's is better; lose, b, right: arm_b's; tie, c: neither; skip: no word |
| who                | whose label it is; without it the file's name                                            |
| cell, prompt_set,  | needed only where the prompt and the two arms could mean several pairs                   |
| sample             |                                                                                          |

The annotator also notes `when`, `seconds` and `texts`, the hash of what was shown. It only appends: a label that was
taken back is followed by one that says `undone`, and of several with a time the last one holds.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path

from nbutils.data import readers
from nbutils.experiment import paths, records
from nbutils.experiment.records import Label
from nbutils.models.texts import encodable

SAID = {
    **{"win": "win", "a": "win", "left": "win"},
    **{"lose": "lose", "b": "lose", "right": "lose"},
    **{"tie": "tie", "c": "tie", "skip": "skip", "undone": "undone"},
}
FILE = "labels.jsonl"  # in the folder of an evaluation step
_MOST_FAULTS = 10


def read(path: Path) -> list[Label]:
    """The labels that hold, in the file's order. ValueError with a line per fault (file, row, wanted, got, what to do);
    FileNotFoundError for no file."""
    path, labels, faults = Path(path), [], []
    if path.suffix.lower() not in readers.EXTENSIONS:
        raise ValueError(
            f"{path.name}: wanted labels as {', '.join(readers.EXTENSIONS)}: save the file as one of these"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: wanted a file of human labels")
    for number, row in enumerate(readers.read_rows(path), start=1):
        try:
            labels.append((number, _label(row, path.stem)))
        except ValueError as error:
            faults.append(f"{path.name}: row {number}: {error}")
    held, conflicts = _held(labels)
    faults += [f"{path.name}: {line}" for line in conflicts]
    if faults:
        more = [f"{path.name}: and {len(faults) - _MOST_FAULTS} more"] * (len(faults) > _MOST_FAULTS)
        raise ValueError("\n".join(faults[:_MOST_FAULTS] + more))
    return held


def _label(row: dict, file: str) -> Label:
    row = {str(key).strip().lower(): value for key, value in row.items()}
    arms = _text(row, "arm_a"), _text(row, "arm_b")
    if not all(arms) or arms[0] == arms[1]:
        raise ValueError(f"wanted two arms in arm_a and arm_b, got {arms[0]!r} and {arms[1]!r}: name both")
    said = _text(row, "label").lower()
    if said not in SAID:
        raise ValueError(
            f"wanted label win, lose, tie or skip (or a, b, c; left, right), got {said[:40]!r}: correct it"
        )
    seconds = row.get("seconds")
    return Label(
        _prompt_id(row),
        _text(row, "prompt_set") or None,
        *arms,
        _sample(row),
        SAID[said],
        _text(row, "who") or file,
        _text(row, "when") or None,
        float(seconds) if isinstance(seconds, (int, float)) else None,
        _text(row, "texts") or None,
        _text(row, "cell") or None,
    )


def _text(row: dict, name: str) -> str:
    value = row.get(name)
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def _prompt_id(row: dict) -> str:
    if named := _text(row, "prompt_id"):
        return named
    if not (prompt := encodable(_text(row, "prompt")).strip()):
        raise ValueError("wanted prompt_id or prompt, got neither: add one of these columns")
    return records.prompt_id(prompt)


def _sample(row: dict) -> int | None:
    text = _text(row, "sample")
    try:
        return int(float(text)) if text else None
    except (ValueError, OverflowError):
        raise ValueError(f"wanted a whole number as sample, got {text[:40]!r}: correct or empty it") from None


def _held(labels: list[tuple[int, Label]]) -> tuple[list[Label], list[str]]:
    """(labels, conflicts): of what one person said of one pair, the last where it has a time, else the only one."""
    held: dict[tuple, tuple[int, Label]] = {}
    conflicts = []
    for number, label in labels:
        known = held.get(key(label))
        if known and label.when is None and known[1].label != _as_of(known[1].arm_a, label):
            conflicts.append(
                f"row {number}: {label.who} contradicts row {known[0]} on the same pair: keep one of the two"
            )
        held[key(label)] = (number, label)
    return [label for _, label in held.values() if label.label != "undone"], conflicts


def key(label: Label) -> tuple:
    """Who, and of what: two labels with the same key are about the same pair."""
    return (label.who, label.cell, label.prompt_set, label.prompt_id, label.sample, *sorted((label.arm_a, label.arm_b)))


def _as_of(arm: str, label: Label) -> str:
    turned = {"win": "lose", "lose": "win"}
    return label.label if label.arm_a == arm else turned.get(label.label, label.label)


def texts_hash(prompt: str, response_a: str, response_b: str) -> str:
    """First 16 hex digits of the hash of what is shown: a label of other responses is no label of these."""
    return paths.sha256_json([prompt, response_a, response_b])[:16]


def append(path: Path, label: Label) -> None:
    """Add one label to a .jsonl file as one line, on disk before this returns. A line that a crash tore is cut off.

    An OSError names the file; what was there before stays whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (records.dump({name: value for name, value in _filled(label)}) + "\n").encode("ascii")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # for the time of a line: several people may label at once
        line = _after_the_last_line(file, path) + line
        paths.append_line(file, line, path)
        os.fsync(file)
    finally:
        os.close(file)  # releases the lock


def _filled(label: Label) -> Iterable[tuple[str, object]]:
    return ((name, value) for name, value in vars(label).items() if value is not None)


def _after_the_last_line(file: int, path: Path) -> bytes:
    """What must come before a new line: a line end where someone's editor left none; half a record is cut off."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end == len(data):
        return b""
    try:
        json.loads(data[end:])
    except ValueError:
        os.ftruncate(file, end)
        return b""
    return b"\n"

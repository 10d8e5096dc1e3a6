"""The rows that travel between notebooks, and the append-only journal that no crash can spoil.

Rows are JSONL: ASCII only, one record a line, split on "\\n" alone (U+0085 and U+2028 are text, not line ends).
"""

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nbutils import paths


@dataclass(frozen=True)
class Prompt:
    """One prompt x. split: train | test; source: where the row came from, as its reader found it."""

    prompt_id: str
    prompt: str
    prompt_set: str
    split: str = "test"
    source: dict | None = None


@dataclass(frozen=True)
class Round:
    """One round of self-evaluation: a rewrite (round 0: the prompt itself), its response, the critique of it.

    reason: why there is no score, or why the prompt's loop ended here without a good one. refused_rewrite: what was
    written where a usable next rewrite was asked for.
    """

    prompt_id: str
    prompt: str
    round: int
    rewrite: str
    response: str
    score: int | None
    critique: str | None
    raw_critique: str
    reason: str | None = None
    refused_rewrite: str | None = None


@dataclass(frozen=True)
class Pair:
    """A good and a bad rewrite of one prompt, each with the response that it earned (POIR section 3.1).

    Scores and rounds are those of 01_collect; pairs that come from elsewhere have none.
    """

    prompt_id: str
    prompt: str
    good_rewrite: str
    good_response: str
    bad_rewrite: str
    bad_response: str
    good_score: int | None = None
    bad_score: int | None = None
    good_round: int | None = None
    bad_round: int | None = None


@dataclass(frozen=True)
class Answer:
    """What one arm made of one prompt, once. rewrites: one per prompter; rewrite: the last, or the prompt itself."""

    prompt_id: str
    prompt_set: str
    prompt: str
    arm: str
    sample: int
    rewrite: str
    rewrites: list
    response: str
    reward: float | None
    gold_reward: float | None
    num_tokens: int
    reason: str | None = None


@dataclass(frozen=True)
class Sample:
    """One response behind the reward-KL frontier. source: whose draw it is (own: the frozen responder's, to the prompt
    itself; initial: the untrained prompter's; step N; trained). draw: number of the rewrite (of the response, where the
    responder is trained); log_ratio: log source − log untrained probability of what the policy wrote, nats; of
    what the untrained policy wrote, log trained − log untrained. finished: whether the response came to its own end."""

    prompt_id: str
    prompt: str
    source: str
    draw: int
    rewrite: str
    response_draw: int
    response: str
    reward: float | None
    log_ratio: float | None = None
    finished: bool = True
    reason: str | None = None


@dataclass(frozen=True)
class Shift:
    """How likely the frozen responder's own response is after a rewrite: log π_F(y|x') − log π_F(y|x), nats."""

    prompt_id: str
    draw: int
    own_draw: int
    log_ratio: float


@dataclass(frozen=True)
class Verdict:
    """One judgement, in one order. verdict: win | lose | tie | unscored, from arm_a's side; judge: whose, or `jury`."""

    prompt_id: str
    prompt_set: str
    arm_a: str
    arm_b: str
    sample: int
    first_shown: str
    verdict: str
    reason: str | None
    raw: str
    judge: str = ""


@dataclass(frozen=True)
class Control(Verdict):
    """A judgement that is a check of the judge itself. control: same | constant | padded | again."""

    control: str = ""


def prompt_id(text: str) -> str:
    """First 16 hex digits of the text's sha256: the key of a prompt in every file."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def dump(row) -> str:
    """One row as one line of ASCII JSON, without the line end. NaN and infinity are refused: they are not values."""
    row = dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row
    return json.dumps(row, ensure_ascii=True, allow_nan=False)


def write_rows(path: Path, rows: Iterable) -> Path:
    return paths.write_atomic(path, "".join(dump(row) + "\n" for row in rows))


def read_rows(path: Path, kind: type | None = None) -> list:
    """Rows of a JSONL file as dicts, or as `kind`. ValueError names file:line of a broken record."""
    rows = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append(kind(**row) if kind else row)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: not a {kind.__name__ if kind else 'JSON'} row ({error})") from None
    return rows


class Journal:
    """Append-only record of answers under their keys: what has reached us is on disk before it is used.

    One record is one line {"key", "value"} written by one os.write and fsynced. One writer at a time (flock; a
    second one waits `wait_seconds` for a dying predecessor, then raises BlockingIOError naming the holder's pid).
    On opening, a torn last line is cut off and kept aside in <path>.torn; a broken line before it stops with
    file:line; identical duplicates merge, conflicting ones stop.
    """

    def __init__(self, path: Path, wait_seconds: float = 10.0):
        self.path = Path(path)
        self.wait_seconds = wait_seconds
        self._values: dict[str, dict] = {}
        self._one_thread = threading.Lock()

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *_):
        os.close(self._file)  # releases the lock

    def __len__(self):
        return len(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> dict | None:
        return self._values.get(key)

    def items(self) -> list[tuple[str, dict]]:
        return list(self._values.items())

    def total(self, name: str) -> int:
        """Sum of a numeric field, say num_tokens, over all answers that have it."""
        return sum(value.get(name) or 0 for value in self._values.values())

    def append(self, key: str, value: dict) -> None:
        self.append_many([(key, value)])

    def append_many(self, items: Iterable[tuple[str, dict]], sync: bool = True) -> None:
        """Write each new (key, value) as one record, then fsync once. A known key with the same value is skipped.

        sync: False leaves the fsync to sync() or the next records: until then a kill loses nothing, a power cut may.
        """
        with self._one_thread:
            written = False
            for key, value in items:
                if self._is_new(key, value, self.path):
                    self._write((json.dumps({"key": key, "value": value}, ensure_ascii=True) + "\n").encode("ascii"))
                    self._values[key] = value
                    written = True
            if written and sync:
                self.sync()

    def sync(self) -> None:
        """Fsync what was appended."""
        os.fsync(self._file)

    def _write(self, line: bytes) -> None:
        start = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
        except OSError as error:
            os.ftruncate(self._file, start)
            raise OSError(error.errno, error.strerror, paths.relative(self.path)) from None
        if written != len(line):  # a disk that fills up takes a part: leave none of it
            os.ftruncate(self._file, start)
            raise OSError(errno.ENOSPC, "No space left on device", paths.relative(self.path))

    def _is_new(self, key: str, value: dict, where) -> bool:
        if key not in self._values:
            return True
        if self._values[key] != value:
            raise ValueError(f"{where}: two different answers under key {key[:12]}; the file was changed by hand")
        return False

    def _lock(self) -> None:
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    pid = self._pid_path.read_text().strip() if self._pid_path.exists() else "unknown"
                    raise BlockingIOError(f"{self.path} is in use by process {pid}: wait for it or stop it") from None
                time.sleep(0.1)
        self._pid_path.write_text(f"{os.getpid()}\n")

    @property
    def _pid_path(self) -> Path:
        return self.path.with_suffix(".pid")

    def _read(self) -> None:
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        lines = data[:end].split(b"\n")[:-1]
        if lines and _parse(lines[-1]) is None:  # the tail may also be torn before a line end that made it to disk
            end -= len(lines.pop()) + 1
        if end < len(data):
            with open(self.path.with_suffix(".torn"), "ab") as aside:
                aside.write(data[end:])
            os.ftruncate(self._file, end)
        for number, line in enumerate(lines, start=1):
            record = _parse(line)
            if record is None:
                raise ValueError(f"{self.path}:{number}: broken record in the middle of the journal; restore the file")
            if self._is_new(record["key"], record["value"], f"{self.path}:{number}"):
                self._values[record["key"]] = record["value"]


def _parse(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.keys() == {"key", "value"} else None

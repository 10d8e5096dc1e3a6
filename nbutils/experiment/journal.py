"""The append-only journal of a step: what has reached us is on disk before it is used, and no crash can spoil it."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from nbutils.experiment import paths

_SYNC_SECONDS = 0.2  # apart, at least, of the fsyncs of append_soon


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
        self._synced = 0.0

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
        try:
            self.sync()
        finally:
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
                    line = json.dumps({"key": key, "value": value}, ensure_ascii=True) + "\n"
                    paths.append_line(self._file, line.encode("ascii"), self.path)
                    self._values[key] = value
                    written = True
            if written and sync:
                self.sync()

    def append_soon(self, items: Iterable[tuple[str, dict]]) -> None:
        """append_many for answers that come one by one: written at once, fsynced five times a second at most."""
        self.append_many(items, sync=time.monotonic() - self._synced >= _SYNC_SECONDS)

    def sync(self) -> None:
        """Fsync what was appended."""
        os.fsync(self._file)
        self._synced = time.monotonic()

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

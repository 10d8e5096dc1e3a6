"""The journal under torn tails, damage, kills, two writers and a full disk."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nbutils.experiment.journal import Journal


def _three(path):
    with Journal(path) as journal:
        journal.append_many((f"k{i}", {"text": "né\u2028" * 3}) for i in range(3))
    return path.read_bytes()


def test_torn_tail_at_every_byte_loses_exactly_the_last_record(tmp_path):
    whole = _three(tmp_path / "whole.jsonl")
    start = whole[:-1].rfind(b"\n") + 1
    for cut in range(start, len(whole)):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            assert len(journal) == 2 and "k2" not in journal
            journal.append("k2", {"text": "again"})
        with Journal(path) as journal:
            assert journal.get("k2") == {"text": "again"}
        if cut > start:
            assert path.with_suffix(".torn").read_bytes() == whole[start:cut]


@pytest.mark.parametrize("tail", [b"\0" * 50, b"\xc3", b'{"key": "k9", "value"', b"\0\0\n"])
def test_rubbish_after_the_last_record_is_set_aside(tmp_path, tail):
    path = tmp_path / "j.jsonl"
    whole = _three(path)
    path.write_bytes(whole + tail)
    with Journal(path) as journal:
        assert len(journal) == 3
    assert path.read_bytes() == whole and path.with_suffix(".torn").read_bytes() == tail


def test_broken_middle_stops_with_file_and_line(tmp_path):
    path = tmp_path / "j.jsonl"
    whole = _three(path)
    path.write_bytes(b"X" + whole[1:])
    with pytest.raises(ValueError, match=r"j.jsonl:1: broken record"), Journal(path):
        pass
    assert path.read_bytes() == b"X" + whole[1:]  # nothing was thrown away


def test_identical_duplicates_merge_and_conflicting_ones_stop(tmp_path):
    path = tmp_path / "j.jsonl"
    line = b'{"key": "a", "value": {"n": 1}}\n'
    path.write_bytes(line * 2)
    with Journal(path) as journal:
        assert journal.get("a") == {"n": 1}
    path.write_bytes(line + line.replace(b"1", b"2"))
    with pytest.raises(ValueError, match=":2: two different answers"), Journal(path):
        pass


def test_second_writer_stops_with_the_holders_pid(tmp_path):
    with Journal(tmp_path / "j.jsonl"):
        with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()}"):
            with Journal(tmp_path / "j.jsonl", wait_seconds=0.2):
                pass


def test_killed_writer_loses_nothing_that_it_had_appended(tmp_path):
    """SIGKILL while records are being written: every complete record is read back, the torn one is not."""
    path = tmp_path / "j.jsonl"
    code = (
        "import sys\nfrom nbutils.experiment.journal import Journal\n"
        "with Journal(sys.argv[1]) as j:\n"
        "    for i in range(10**6):\n"
        "        j.append(str(i), {'text': 'x' * 500}); print(i, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    while not path.exists() or path.stat().st_size < 50_000:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    said = writer.communicate()[0].split("\n")[:-1]
    with Journal(path) as journal:
        assert len(journal) >= len(said) > 10
        assert all(str(i) in journal for i in range(len(said)))


def test_full_disk_leaves_a_valid_journal():
    """/dev/full refuses every write: the error is the system's, and says where."""
    journal = Journal("/dev/full")
    journal._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError):
        journal.append("a", {"n": 1})
    os.close(journal._file)
    assert "a" not in journal

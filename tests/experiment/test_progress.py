"""How far a step is, is said where people look, and never of a process that is gone."""

import json
import os
import subprocess
import time
from dataclasses import replace

import pytest

from nbutils.experiment import progress
from nbutils.experiment.progress import Bar, Progress


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_PROGRESS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("bar", "text"),
    [
        ({}, ""),
        ({"label": "nan"}, "nan 0"),
        ({"label": "nan", "done": 34, "total": 60, "rate": 2.0}, "nan 34/60 · 2.0/s · 00:13 left"),
        ({"label": "PPO", "done": 1, "total": 3, "rate": 0.1, "note": "k"}, "PPO 1/3 · 10.0 s each · 00:20 left · k"),
        ({"label": "x", "done": 1234, "total": 5000, "note": "12 calls, $0.10"}, "x 1,234/5,000 · 12 calls, $0.10"),
    ],
)  # fmt: skip
def test_a_bar_in_words(bar, text):
    assert str(Progress(1, 0.0, "here", **bar)) == text


def test_a_bar_leaves_its_numbers_and_takes_them_back(folder):
    with Bar(4, "rows", 1) as bar:
        bar.set_postfix_str("3 calls")
        found = progress.read(folder)
        assert (found.label, found.done, found.total, found.pid) == ("rows", 1, 4, os.getpid())
        bar._shown = 0.0  # as a second later
        bar.refresh()
        bar.update(2)
        bar.refresh()  # a note just before is no reason to stay behind
        assert progress.read(folder).done == 3 and progress.read(folder).note == "3 calls"
    assert str(progress.read(folder)) == ""  # still at work, without a bar
    progress.clear(folder)
    assert progress.read(folder) is None and list(folder.iterdir()) == []


def test_a_bar_writes_at_most_once_a_second(folder, monkeypatch):
    written, begun = [], time.monotonic()
    monkeypatch.setattr(progress, "write", lambda *given: written.append(given))
    with Bar(10_000, "rows") as bar:
        for _ in range(10_000):
            bar.update(1)
            bar.refresh()
    assert len(written) <= 3 + time.monotonic() - begun


def test_a_bar_within_another_is_a_note_beside_it(folder, capfd):
    with Bar(9, "pairs") as outer:
        outer._shown = 0.0
        with Bar(4, "round 0: responses") as inner:
            inner.set_postfix_str("3 calls")
            inner.update(2)
            outer._shown = 0.0  # as a second later
            inner.refresh()
            found = progress.read(folder)
            assert (found.label, found.done, found.total) == ("pairs", 0, 9)
            assert found.note == "round 0: responses 2/4 · 3 calls"
        outer.update(5)
        outer._shown = 0.0
        outer.refresh()
        assert (progress.read(folder).label, progress.read(folder).done) == ("pairs", 5)
    assert "responses: " not in capfd.readouterr().err  # no line of its own
    with Bar(4, "alone"):
        assert progress.read(folder).label == "alone"


def test_a_bar_that_nobody_closed_takes_no_other_in(folder):
    left = Bar(9, "left open")  # a training that was interrupted
    with Bar(4, "rows"):
        assert progress.read(folder).label == "rows"
    left.close()


def test_without_a_label_there_is_no_bar_and_no_file(folder, capsys):
    with Bar(4, None) as bar:
        bar.update(4)
        bar.set_postfix_str("x")
    assert list(folder.iterdir()) == [] and capsys.readouterr() == ("", "")


def test_a_step_opened_by_hand_is_at_work_while_a_bar_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBOOK_PROGRESS", raising=False)
    progress.begin(tmp_path)
    with Bar(4, "rows"):
        assert progress.read(tmp_path).label == "rows"
    assert progress.read(tmp_path) is None
    progress.begin(None)


def test_what_a_process_that_is_gone_has_left_does_not_count(folder):
    child = subprocess.Popen(["sleep", "60"])
    alive = replace(progress.here(), pid=child.pid, started=progress._started(child.pid))
    progress.write(folder, alive)
    assert progress.read(folder) == alive
    progress.write(folder, replace(alive, started=1.0))  # its number, an earlier process
    assert progress.read(folder) is None
    progress.write(folder, alive)
    child.kill(), child.wait()
    assert progress.read(folder) is None
    (folder / progress.FILE).write_text("{ torn")
    assert progress.read(folder) is None


def test_another_machine_is_believed_for_two_minutes(folder):
    progress.write(folder, Progress(1, 1.0, "elsewhere", "rows", 1, 2))
    assert progress.read(folder).host == "elsewhere"
    old = time.time() - 121
    os.utime(folder / progress.FILE, (old, old))
    assert progress.read(folder) is None


def test_a_full_disk_stops_nothing(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nbutils.experiment.paths.write_atomic", full)
    with Bar(2, "rows") as bar:
        bar.update(2)
    assert json.dumps(list(folder.iterdir())) == "[]"

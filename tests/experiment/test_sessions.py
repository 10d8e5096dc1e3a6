"""A step's seconds are those of all its sessions: one that was killed counts until its last sign of life."""

import os

import pytest

from nbutils.experiment import sessions, steps

PARAMETERS = {"experiment": "e", "cell": "main", "seed": 0}


@pytest.fixture
def clock(monkeypatch):
    """Sets the time that a session reads."""
    return lambda now: monkeypatch.setattr(sessions.time, "time", lambda: now)


@pytest.fixture
def at(outputs, clock):
    """Opens the step at a time, and leaves files with the times that they would have."""

    def open_at(now):
        clock(now)
        run = steps.open_step("02_train_alignpro", PARAMETERS, "alignpro")
        os.utime(run.folder / "sessions.json", (now, now))
        return run

    return open_at


def sign(run, name, now):
    path = run.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    os.utime(path, (now, now))


def ended(run, clock, now):
    clock(now)
    made = run.finish()
    return made["seconds"], made["sessions"]


def test_killed_sessions_count_until_their_last_answer_or_checkpoint(at, clock):
    """90 s to the last answer, 30 s to the last checkpoint, 10.5 s to the end."""
    sign(at(1000), "journal.jsonl", 1090)
    run = at(5000)
    sign(run, "checkpoints/k/checkpoint-5/complete", 5020)
    sign(run, "checkpoints/k/checkpoint-10/complete", 5030)
    sign(run, "checkpoints/k/checkpoint-15/model.safetensors", 5040)  # torn: the marker is not there
    assert ended(at(9000), clock, 9010.5) == (130.5, 3)


def test_a_session_without_a_sign_of_life_counts_nothing(at, clock):
    """Opened to look, days before; what the session before it wrote is not its own work."""
    sign(at(1000), "journal.jsonl", 1090)
    at(2000)
    assert ended(at(500_000), clock, 500_007) == (97.0, 2)


def test_a_step_that_was_done_begins_anew_and_finishing_twice_adds_nothing(at, clock):
    sign(at(1000), "journal.jsonl", 1090)
    run = at(2000)
    assert ended(run, clock, 2010) == (100.0, 2)
    assert ended(run, clock, 2015) == (105.0, 2)  # its last cell, once more
    at(3000)  # looked at
    assert ended(at(4000), clock, 4004) == (4.0, 1)


def test_a_step_that_is_looked_at_while_it_runs_counts_no_second_twice(at, clock):
    run = at(1000)
    sign(run, "journal.jsonl", 1050)
    at(1060)
    sign(run, "journal.jsonl", 1090)
    assert ended(run, clock, 1100) == (100.0, 1)


def test_a_folder_copied_without_its_files_times_is_not_believed(at, clock):
    """Else the session that was killed would count until the copy was made, a day later."""
    run = at(1000)
    sign(run, "journal.jsonl", 90_000)
    os.utime(run.folder / "sessions.json", (90_000, 90_000))
    assert ended(at(95_000), clock, 95_002) == (2.0, 1)


@pytest.mark.parametrize("left", ["", "{", "[", '[{"started": 1'])
def test_what_a_crash_left_of_the_file_stops_nothing(at, clock, left):
    (at(1000).folder / "sessions.json").write_text(left)
    assert ended(at(2000), clock, 2003) == (3.0, 1)

"""Labels by people: every form that is read, one line per fault, a label on disk at once and none lost or torn."""

import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings, strategies

from nbutils.data import labels
from nbutils.experiment import records
from nbutils.experiment.records import Label

LABEL = Label("p1", "s", "poir", "nan", 0, "win", "anna", "2026-01-02T03:04:05+00:00", 4.2, "0123456789abcdef")


def csv(tmp_path, *lines):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("word", "means"),
    [("win", "win"), ("a", "win"), ("A", "win"), ("left", "win"), ("lose", "lose"), ("b", "lose"), ("B", "lose")]
    + [("Right", "lose"), ("tie", "tie"), ("C", "tie"), (" Tie ", "tie"), ("skip", "skip")],
)
def test_every_word_for_a_label(tmp_path, word, means):
    (label,) = labels.read(csv(tmp_path, "prompt_id,arm_a,arm_b,label", f"p1,poir,nan,{word}"))
    assert label == Label("p1", None, "poir", "nan", None, means, "mine")


def test_a_prompt_stands_for_its_id_and_rows_of_json_lines_are_the_same(tmp_path):
    path = tmp_path / "mine.jsonl"
    row = {"prompt": " tell me\u2028about the fox. ", "arm_a": "poir", "arm_b": "nan", "label": "B", "sample": 1}
    path.write_text(json.dumps(row | {"who": "anna", "prompt_set": "s", "cell": "main"}) + "\n")
    (label,) = labels.read(path)
    of_prompt = records.prompt_id("tell me\u2028about the fox.")
    assert label == Label(of_prompt, "s", "poir", "nan", 1, "lose", "anna", cell="main")


def test_each_fault_is_one_line_with_file_and_row(tmp_path):
    rows = ["p1,poir,nan,better,", ",poir,nan,win,", "p1,poir,poir,win,", "p1,poir,nan,win,one", "p2,poir,nan,tie,0"]
    with pytest.raises(ValueError) as caught:
        labels.read(csv(tmp_path, "prompt_id,arm_a,arm_b,label,sample", *rows))
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[1] for line in lines] == ["row 1", "row 2", "row 3", "row 4"]
    said = ("got 'better'", "prompt_id or prompt", "two arms", "whole number")
    assert all(word in line and line.startswith("mine.csv: ") for word, line in zip(said, lines, strict=True))


def test_many_faults_are_counted(tmp_path):
    with pytest.raises(ValueError, match="mine.csv: and 15 more$"):
        labels.read(csv(tmp_path, "prompt_id,arm_a,arm_b,label", *["p1,poir,nan,?"] * 25))


def test_a_contradiction_without_times_is_a_fault_also_the_other_way_round(tmp_path):
    head = "prompt_id,arm_a,arm_b,label,who"
    same = labels.read(csv(tmp_path, head, "p1,poir,nan,win,x", "p1,nan,poir,lose,x", "p1,poir,nan,lose,y"))
    assert [(label.who, label.label) for label in same] == [("x", "lose"), ("y", "lose")]
    with pytest.raises(ValueError, match="row 2: x contradicts row 1 on the same pair: keep one"):
        labels.read(csv(tmp_path, head, "p1,poir,nan,win,x", "p1,nan,poir,win,x"))


def test_of_several_labels_with_a_time_the_last_holds_and_undone_is_none(tmp_path):
    path = tmp_path / "labels.jsonl"
    for word in ("win", "undone", "tie"):
        labels.append(path, Label(**vars(LABEL) | {"label": word}))
    assert [label.label for label in labels.read(path)] == ["tie"]
    labels.append(path, Label(**vars(LABEL) | {"label": "undone"}))
    assert labels.read(path) == [] and len(path.read_bytes().splitlines()) == 4


def test_what_is_no_file_of_labels_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="wanted a file of human labels"):
        labels.read(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="wanted labels as .json, .jsonl, .csv, .parquet"):
        labels.read(tmp_path / "labels.xlsx")


@settings(max_examples=40, deadline=None)
@given(strategies.text(), strategies.text(min_size=1).filter(str.strip))
def test_any_text_survives_as_name_and_arm(tmp_path_factory, who, arm):
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    labels.append(path, Label(**vars(LABEL) | {"who": who.strip() or "x", "arm_a": f"a{arm.strip()}"}))
    (label,) = labels.read(path)
    assert (label.who, label.arm_a) == (who.strip() or "x", f"a{arm.strip()}")


def test_a_line_that_a_crash_tore_is_cut_off_and_one_without_its_end_kept(tmp_path):
    path = tmp_path / "labels.jsonl"
    whole = records.dump(vars(LABEL))
    for torn in range(1, len(whole), 9):
        path.write_text(whole + "\n" + whole[:torn])
        labels.append(path, Label(**vars(LABEL) | {"who": "bert"}))
        assert [label.who for label in labels.read(path)] == ["anna", "bert"]
    path.write_text(whole)
    labels.append(path, Label(**vars(LABEL) | {"who": "bert"}))
    assert [label.who for label in labels.read(path)] == ["anna", "bert"]


def test_a_killed_writer_has_kept_every_label_that_it_had_given(tmp_path):
    path = tmp_path / "labels.jsonl"
    code = (
        "import itertools\nfrom pathlib import Path\nfrom nbutils.data import labels\n"
        "from nbutils.experiment.records import Label\n"
        f"for n in itertools.count():\n    labels.append(Path({str(path)!r}), Label(f'p{{n}}', 's', 'a', 'b', 0, "
        "'win', 'x', 'now'))\n    print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        last = process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    last = (process.communicate()[0].split("\n")[-2:-1] or [last])[0]
    labels.append(path, LABEL)
    assert len(labels.read(path)) >= int(last) + 2


def test_two_who_label_at_once_lose_nothing(tmp_path):
    path = tmp_path / "labels.jsonl"
    code = (
        "import sys\nfrom pathlib import Path\nfrom nbutils.data import labels\n"
        "from nbutils.experiment.records import Label\n"
        f"for n in range(40):\n    labels.append(Path({str(path)!r}), Label(f'p{{n}}', 's', 'a', 'b', 0, 'win', "
        "sys.argv[1], 'now'))\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, who]) for who in ("anna", "bert")]
    assert [process.wait() for process in both] == [0, 0] and len(labels.read(path)) == 80


def test_a_full_disk_leaves_whole_lines_and_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "labels.jsonl"
    labels.append(path, LABEL)
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:20]))
    with pytest.raises(OSError, match="No space left on device.*labels.jsonl"):
        labels.append(path, LABEL)
    assert path.read_bytes() == before

"""A step is done or not done: the manifest decides, and it notices every change of an input or output."""

import json
import subprocess
import sys

import pytest

from nbutils.experiment import steps

PARAMETERS = {"experiment": "e", "cell": "main", "seed": 3}


def _finished(outputs, tmp_path):
    source = tmp_path / "prompts.txt"
    source.write_text("a")
    run = steps.open_step("01_collect", {**PARAMETERS, "unrelated": object()}, "collect")
    run.uses(source)
    (run.output("rows.jsonl")).write_text("{}\n")
    (run.output("model")).mkdir()
    (run.folder / "model" / "w").write_text("1")
    run.count("rows", 1)
    return run, run.finish(tokens=7), source


def test_manifest_holds_what_a_reader_needs(outputs, tmp_path):
    run, manifest, _ = _finished(outputs, tmp_path)
    assert manifest["parameters"] == {**PARAMETERS, "step": "collect"}
    assert manifest["counts"] == {"rows": 1} and manifest["tokens"] == 7 and manifest["seed"] == 3
    assert "torch" in manifest["versions"] and len(manifest["notebook_sha256"]) == 64
    assert steps.verify(run.folder) == (True, "done")


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda run, source: (run.folder / "rows.jsonl").write_text("{} \n"), "output rows.jsonl has changed"),
        (lambda run, source: (run.folder / "model" / "w").write_text("2"), "output model has changed"),
        (lambda run, source: (run.folder / "rows.jsonl").unlink(), "output rows.jsonl is gone"),
        (lambda run, source: source.write_text("b"), "has changed"),
        (lambda run, source: source.unlink(), "is gone"),
        (lambda run, source: (run.folder / "manifest.json").write_text("{"), "no manifest"),
    ],
)
def test_any_change_undoes_the_step(outputs, tmp_path, spoil, reason):
    run, _, source = _finished(outputs, tmp_path)
    spoil(run, source)
    ok, why = steps.verify(run.folder)
    assert not ok and reason in why


def test_opening_a_step_takes_its_manifest_away_and_keeps_the_journal(outputs, tmp_path):
    run, _, _ = _finished(outputs, tmp_path)
    (run.folder / "journal.jsonl").write_text("")
    steps.open_step("01_collect", PARAMETERS, "collect")
    assert steps.verify(run.folder) == (False, "no manifest") and (run.folder / "journal.jsonl").exists()


def test_what_a_kill_left_of_a_file_half_written_is_in_no_manifest(outputs, tmp_path):
    """A SIGKILL between writing and renaming leaves the hidden half; the next run's output folder is without it."""
    run, _, _ = _finished(outputs, tmp_path)
    code = (
        "import os, sys; from nbutils.experiment import paths\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "paths.write_atomic(sys.argv[1], 'half')"
    )
    target = run.folder / "tables" / "summary.csv"
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    left = list(target.parent.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".summary.csv.") and left[0] != target
    steps.open_step("01_collect", PARAMETERS, "collect")
    assert list(target.parent.iterdir()) == []


def test_missing_input_names_the_notebook_that_makes_it(outputs):
    run = steps.open_step("03_train_poir", PARAMETERS, "poir")
    with pytest.raises(FileNotFoundError, match=r"collect/pairs.jsonl not found: run 01_collect first"):
        run.input(run.sibling("collect", "pairs.jsonl"), "01_collect")


def test_promised_output_must_be_there(outputs):
    run = steps.open_step("01_collect", PARAMETERS, "collect")
    run.output("pairs.jsonl")
    with pytest.raises(FileNotFoundError, match="pairs.jsonl not written"):
        run.finish()
    assert not (run.folder / "manifest.json").exists()


def test_unwritable_outputs_give_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="cannot write to .*WORKBOOK_OUTPUTS"):
        steps.open_step("01_collect", PARAMETERS, "collect")


def test_notebook_hash_is_of_code_only(tmp_path, monkeypatch):
    def write(prose, code):
        cells = [
            {"cell_type": "markdown", "source": [prose], "metadata": {}},
            {"cell_type": "code", "source": [code], "metadata": {"tags": ["parameters"]}},
        ]
        (tmp_path / "notebooks" / "n.ipynb").write_text(json.dumps({"cells": cells}))
        return steps.notebook_sha256("n")

    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    assert write("a", "x: int = 1") == write("b", "x: int = 1") != write("a", "x: int = 2")
    assert steps.parameter_names("n") == ["x"]

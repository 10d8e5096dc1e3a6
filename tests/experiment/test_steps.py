"""A step is done or not done: the manifest decides, and it notices every change of an input or output."""

import json
import subprocess
import sys

import pytest

from nbutils.experiment import paths, steps
from nbutils.experiment.params import read_schema

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


def test_what_a_file_manager_and_an_editor_leave_undoes_no_step(outputs, tmp_path):
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "judge.txt").write_text("x")
    run, _, _ = _finished(outputs, tmp_path)
    run.uses(templates)
    run.finish()
    for folder in (templates, run.folder / "model"):
        (folder / ".DS_Store").write_bytes(b"\x00")
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".ipynb_checkpoints" / "w-checkpoint").write_text("0")
    assert steps.verify(run.folder) == (True, "done")
    (templates / "judge.txt").write_text("y")
    assert steps.verify(run.folder)[0] is False


def test_looking_undoes_nothing_and_the_manifest_goes_with_the_first_output(outputs, tmp_path):
    run, _, _ = _finished(outputs, tmp_path)
    (run.folder / "journal.jsonl").write_text("")
    again = steps.open_step("01_collect", PARAMETERS, "collect")
    assert steps.verify(run.folder) == (True, "done")
    again.output("rows.jsonl")
    assert steps.verify(run.folder) == (False, "no manifest") and (run.folder / "journal.jsonl").exists()


def test_a_new_folder_takes_the_old_ones_place_only_when_the_step_is_finished(outputs):
    def rerun(name):
        run = steps.open_step("05_plot", PARAMETERS, "plot")
        (run.new_folder("figures") / name).write_text(name)
        return run

    rerun("a.png").finish()
    stopped = rerun("b.png")  # a rerun that ends here
    assert [path.name for path in (stopped.folder / "figures").iterdir()] == ["a.png"]
    assert steps.verify(stopped.folder) == (True, "done")
    rerun("c.png").finish()
    assert [path.name for path in (stopped.folder / "figures").iterdir()] == ["c.png"]
    assert steps.verify(stopped.folder) == (True, "done")
    assert not list(stopped.folder.glob(".figures*"))


@pytest.mark.parametrize(
    ("notebook", "changes", "line"),
    [
        ("01_collect", {"num_pairs": -5}, "01_collect: num_pairs: wanted int [> 0], got -5"),
        ("01_collect", {"num_pairs": "many"}, "01_collect: num_pairs: wanted int, got 'many' (str)"),
        ("01_collect", {"pairs_per_prompt": "two"}, "pairs_per_prompt: wanted str [all | one], got 'two'"),
        ("01_collect", {"experiment": 2025}, "01_collect: experiment: wanted str, got 2025 (int)"),
        ("01_collect", {"experiment": "my experiment"}, "experiment 'my experiment': letters, digits"),
        ("02_train_alignpro", {"policy": "prompt"}, "policy: wanted str [prompter | responder], got 'prompt'"),
        ("02_train_alignpro", {"step": "alignpro", "policy": "responder"}, "step 'alignpro' means policy: prompter"),
        (
            "02_train_alignpro",
            {"step": "rlhf"},
            "step 'rlhf' means policy: responder, got 'prompter': call it alignpro",
        ),
        ("03_train_poir", {"step": "poir", "target": "sft"}, "step 'poir' means target: poir, got 'sft': call it sft"),
        ("03_train_poir", {"target": "dpo"}, "target: wanted str [poir | dpo_awi | sft | dpo_awo], got 'dpo'"),
        ("04_evaluate", {"arms": "nan"}, "arms: wanted list, got 'nan' (str): write ['nan']"),
        ("04_evaluate", {"num_samples": 1.5}, "num_samples: wanted int, got 1.5 (float)"),
        ("05_plot", {"cells": "main"}, "cells: wanted list, got 'main' (str): write ['main']"),
    ],
)
def test_wrong_values_by_hand_are_one_line_as_in_the_runner(outputs, notebook, changes, line):
    schema = read_schema(paths.project_root() / "notebooks" / f"{notebook}.ipynb")
    values = {name: parameter.default for name, parameter in schema.items()} | changes
    with pytest.raises(ValueError) as caught:
        steps.open_step(notebook, values, values["step"])
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert not outputs.exists()


def test_a_step_without_a_name_gets_that_of_what_it_trains(outputs):
    named = [({"policy": "responder"}, "rlhf"), ({"policy": "prompter"}, "alignpro"), ({"target": "sft"}, "sft")]
    for values, name in named:
        notebook = "02_train_alignpro" if "policy" in values else "03_train_poir"
        assert steps.open_step(notebook, PARAMETERS | values).folder.name == name


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


def test_notebook_hash_is_of_code_only_and_parameters_are_compared_as_such(tmp_path, monkeypatch):
    def write(prose, code, value):
        cells = [
            {"cell_type": "markdown", "source": [prose], "metadata": {}},
            {"cell_type": "code", "source": [f"x: int = {value}"], "metadata": {"tags": ["parameters"]}},
            {"cell_type": "code", "source": [code], "metadata": {}},
        ]
        (tmp_path / "notebooks" / "n.ipynb").write_text(json.dumps({"cells": cells}))
        return steps.notebook_sha256("n")

    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    assert write("a", "x + 1", 1) == write("b", "x + 1", 1) == write("a", "x + 1", 2) != write("a", "x + 2", 1)

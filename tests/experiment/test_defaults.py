"""Edited cells of a notebook do not change a named experiment, and the runner says which they are."""

import json

import pytest
import yaml
from tiny_project import make_project, write_experiment

from nbutils.experiment import defaults, paths
from nbutils.experiment.file import read_experiment
from nbutils.experiment.grid import edited_lines, plan_steps
from nbutils.experiment.params import read_schema

NOTEBOOKS = paths.project_root() / "notebooks"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    make_project(tmp_path)
    defaults.write(tmp_path / "notebooks")
    return tmp_path


def edit(project, before, after):
    path = project / "notebooks" / "01_make.ipynb"
    source = path.read_text("utf-8")
    assert before in source
    path.write_text(source.replace(before, after), "utf-8")


def planned(project, **changes):
    path = write_experiment(project / "params" / "tiny.yml", **changes)
    return plan_steps(read_experiment(path), project / "notebooks")


def test_the_shipped_file_is_what_the_notebooks_say():
    """`make format` writes it; a change of a default that is meant for everybody changes both."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        assert defaults.edited(path.stem, read_schema(path), NOTEBOOKS) == {}
        assert set(defaults.read(NOTEBOOKS)[path.stem]) == set(read_schema(path))


def test_an_edited_cell_changes_no_named_experiment_and_is_said(project):
    before = [step.parameters for step in planned(project)]
    edit(project, "number: int = 3 ", "number: int = 5 ")
    steps = planned(project)
    assert [step.parameters for step in steps] == before
    assert steps[0].changed["number"] == 3  # the notebook is told, since its own cell says otherwise now
    assert edited_lines(steps) == [
        "01_make.ipynb: number is 5 in its cell, 3 as shipped: main/make goes by 3; to change that, set it in the "
        "experiment file"
    ]


def test_a_value_that_the_file_sets_makes_the_edit_harmless(project):
    edit(project, "number: int = 3 ", "number: int = 5 ")
    steps = planned(project, shared={"number": 7})
    assert steps[0].parameters["number"] == 7 and edited_lines(steps) == []


def test_a_parameter_that_was_added_by_hand_has_its_own_default(project):
    edit(project, "number: int = 3 ", "extra: int = 9  # mine\\nnumber: int = 3 ")
    assert planned(project)[0].parameters["extra"] == 9 and edited_lines(planned(project)) == []


@pytest.mark.parametrize("path", sorted((paths.project_root() / "params").glob("*.yml")), ids=lambda path: path.stem)
def test_every_training_of_the_projects_experiments_says_what_it_trains(path):
    for step in yaml.safe_load(path.read_text("utf-8"))["steps"]:
        name = {"02": "policy", "03": "target"}.get(step["notebook"][:2])
        assert name is None or name in step["with"], step


def test_an_arms_name_says_what_it_trains_even_where_the_file_does_not(project):
    read = {"notebook": "02_read", "id": "rlhf"}
    (step,) = [one for one in planned(project, steps=[{"notebook": "01_make"}, read]) if one.id == "rlhf"]
    assert step.parameters["policy"] == "responder"
    with pytest.raises(ValueError, match="tiny.yml: step 'rlhf' means policy: responder, got 'prompter'"):
        planned(project, steps=[read | {"with": {"policy": "prompter"}}])


def test_the_defaults_file_holds_plain_json():
    assert json.loads((paths.project_root() / "params" / "defaults.json").read_text("utf-8"))

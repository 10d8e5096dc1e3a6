"""Steps, cells, names and resolved parameters of experiment files, those of the project included."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from tiny_project import SHARED, make_project, write_experiment, write_notebook

from nbutils.experiment.file import read_experiment
from nbutils.experiment.grid import _cells, plan_steps
from nbutils.experiment.paths import check_name
from nbutils.experiment.steps import default_name

ROOT = Path(__file__).resolve().parents[2]


MAKE, PLOT = {"notebook": "01_make"}, {"notebook": "05_plot", "once": True}


def plan(tmp_path, **changes):
    path = make_project(tmp_path, **changes)
    return plan_steps(read_experiment(path), tmp_path / "notebooks")


def test_parameters_come_from_defaults_then_shared_then_grid_then_with(tmp_path):
    steps = [{"notebook": "01_make", "with": {"number": 9, "color": "green"}}, {"notebook": "02_read"}]
    planned = plan(tmp_path, shared={"seed": 4, "number": 5}, grid={"color": ["blue"]}, steps=steps)
    make, read = planned
    assert make.parameters["number"] == 9 and make.parameters["color"] == "green" and make.parameters["seed"] == 4
    assert read.parameters["color"] == "blue" and "number" not in read.parameters
    assert make.parameters["experiment"] == "tiny" and make.parameters["cell"] == "blue"
    assert make.changed == {"cell": "blue", "seed": 4, "color": "green", "number": 9}


def test_cells_come_one_after_the_other_and_once_steps_last_over_all_of_them(tmp_path):
    planned = plan(tmp_path, grid={"color": ["a/red", "blue"], "seed": [1, 2]}, steps=[PLOT, MAKE])
    assert [step.cell for step in planned] == ["red+seed-1", "red+seed-2", "blue+seed-1", "blue+seed-2", "all"]
    assert planned[-1].once and planned[-1].parameters["cells"] == [step.cell for step in planned[:-1]]
    assert planned[-1].parameters["color"] == "red"  # the notebook's default: the grid has no say here


def test_without_a_grid_there_is_one_cell_main(tmp_path):
    assert [f"{step.cell}/{step.id}" for step in plan(tmp_path)] == ["main/make", "main/alignpro", "all/plot"]


@pytest.mark.parametrize(
    ("notebook", "parameters", "wanted"),
    [
        ("01_collect", {"step": "collect"}, "collect"),
        ("02_train_alignpro", {"step": "", "policy": "prompter"}, "alignpro"),
        ("02_train_alignpro", {"step": "", "policy": "responder"}, "rlhf"),
        ("03_train_poir", {"step": "", "target": "dpo_awi"}, "dpo_awi"),
        ("07_extra", {}, "extra"),
        ("2048", {}, "2048"),
    ],
)
def test_a_step_without_id_is_named_after_what_it_does(notebook, parameters, wanted):
    assert default_name(notebook, parameters) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [{"notebook": "01_mak"}]}, "unknown notebook '01_mak' in notebooks/: did you mean 01_make?"),
        ({"shared": {"sed": 1}}, "shared: unknown parameter 'sed': did you mean seed?"),
        ({"grid": {"colour": ["red"]}}, "grid: unknown parameter 'colour': did you mean color?"),
        ({"grid": {"look": [{"colour": "red"}]}}, "grid: unknown parameter 'colour': did you mean color?"),
        ({"steps": [{"notebook": "01_make", "with": {"numbr": 1}}]}, "with (01_make): unknown parameter 'numbr'"),
        ({"steps": [{"notebook": "01_make", "with": {"number": 0}}]}, "number: wanted int [> 0], got 0"),
        ({"grid": {"seed": ["one"]}}, "grid (01_make): seed: wanted int, got 'one' (str)"),
        ({"steps": [MAKE, MAKE]}, "2 steps would write to main/make"),
    ],
)
def test_what_the_notebooks_do_not_know_stops_with_one_line(tmp_path, changes, message):
    with pytest.raises(ValueError) as caught:
        plan(tmp_path, **changes)
    assert message in str(caught.value) and str(caught.value).startswith("tiny.yml: ")


def test_a_cell_is_named_after_the_last_part_of_each_reference():
    grid = {
        "prompter": ["Qwen/Qwen2.5-1.5B-Instruct"],
        "responder": ["meta-llama/Llama-3.1-8B-Instruct", "./models/é x/"],
    }
    names = [name for name, _ in _cells(grid | {"dataset": ["ultrafeedback"]})]
    assert names[0] == "Qwen2.5-1.5B-Instruct+Llama-3.1-8B-Instruct+ultrafeedback"
    assert names[1] == "Qwen2.5-1.5B-Instruct+x+ultrafeedback"


def test_an_axis_of_mappings_sets_several_parameters_together(tmp_path):
    tied = [{"color": "blue", "seed": 5}, {"color": "green", "seed": 6}]
    planned = plan(tmp_path, grid={"look": tied}, steps=[MAKE])
    assert [step.cell for step in planned] == ["blue-seed-5", "green-seed-6"]
    assert [(step.parameters["color"], step.parameters["seed"]) for step in planned] == [("blue", 5), ("green", 6)]


def test_the_name_of_a_cell_says_a_thing_once():
    models = [{"prompter": "lmsys/vicuna-7b", "responder": "lmsys/vicuna-7b"}, {"prompter": "a/b", "responder": "a/c"}]
    assert [name for name, _ in _cells({"model": models})] == ["vicuna-7b", "b-c"]
    assert _cells({"data": [{"dataset": "orca", "prompt_sets": ["orca"]}]})[0][0] == "orca"


def test_names_that_would_collide_are_told_apart():
    assert [name for name, _ in _cells({"prompter": ["a/model", "b/model", "c/other"]})] == [
        "a-model",
        "b-model",
        "other",
    ]
    pairs = _cells({"prompter": ["a b", "a.b", "a?b", "A-B"]})
    assert len({name.lower() for name, _ in pairs}) == 4
    assert _cells({"prompter": ["all"]})[0][0] != "all"  # the folder of the steps that run once


@given(st.lists(st.one_of(st.text(), st.integers(), st.lists(st.text(max_size=3), max_size=3)), min_size=1, max_size=6))
def test_any_grid_gives_different_safe_folder_names(values):
    unique = [value for place, value in enumerate(values) if value not in values[:place]]
    names = [name for name, _ in _cells({"prompter": unique, "seed": [0, 1]})]
    assert len({name.lower() for name in names}) == 2 * len(unique)
    assert all(check_name(name, "cell") and len(name) < 200 for name in names)


def test_a_grown_grid_changes_the_steps_over_all_cells(tmp_path):
    before = plan(tmp_path, grid={"color": ["red"]})[-1]
    write_experiment(tmp_path / "params" / "tiny.yml", grid={"color": ["red", "blue"]})
    after = plan_steps(read_experiment(tmp_path / "params" / "tiny.yml"), tmp_path / "notebooks")[-1]
    assert before.parameters["cells"] == ["red"] and after.parameters["cells"] == ["red", "blue"]


COLLECT = SHARED + 'responder: str = ""  # answers\n'


TRAIN = SHARED + 'step: str = ""  # folder\npairs_of: str = ""  # another model\n'


def planned_over_models(tmp_path, **more):
    """Two models in cells a and b, each trained on its own pairs and on the other's."""
    write_notebook(tmp_path / "notebooks" / "01_collect.ipynb", COLLECT, ["1"])
    write_notebook(tmp_path / "notebooks" / "03_train.ipynb", TRAIN, ["1"])
    steps = [
        {"notebook": "01_collect"},
        {"notebook": "03_train", "id": "own", "with": {"pairs_of": ""}},
        {"notebook": "03_train", "id": "other"},
    ]
    models = [
        {"name": "a", "responder": "m", "pairs_of": "n"},
        {"name": "b", "responder": "n", "pairs_of": "m"},
    ]
    path = write_experiment(tmp_path / "params" / "x.yml", grid={"model": models} | more, steps=steps)
    return plan_steps(read_experiment(path), tmp_path / "notebooks")


def test_a_step_on_another_models_pairs_waits_for_that_cells_collection(tmp_path):
    planned = planned_over_models(tmp_path)
    assert [f"{step.cell}/{step.id}" for step in planned] == [
        *("a/collect", "a/own", "b/collect", "a/other", "b/own", "b/other")
    ]


def test_among_several_seeds_it_waits_for_its_own(tmp_path):
    planned = planned_over_models(tmp_path, seed=[0, 1])
    names = [f"{step.cell}/{step.id}" for step in planned]
    assert len(set(names)) == len(names) == 12
    for seed in (0, 1):
        assert names.index(f"b+seed-{seed}/collect") == names.index(f"a+seed-{seed}/other") - 1


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yml")), ids=lambda path: path.stem)
def test_every_experiment_file_of_the_project_fits_the_notebooks(path):
    assert plan_steps(read_experiment(path), ROOT / "notebooks")

"""The rooms of the library: imports go strictly downward, light rooms stay light, and the map shows what is there."""

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nbutils"

# From the top floor to the ground; a room may use those below it. Twin of the table in nbutils/README.md.
ROOMS = (
    *("run", "train", "evaluate", "report", "collect", "analyse", "data", "sandbox", "models"),
    "experiment",
)
NO_TORCH = ("report", "analyse", "data", "experiment")  # not even inside a function
LOADS_TORCH = {"train"}  # when it is imported; every other room loads nothing heavy until a model is asked for
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate"}
EXCEPT = {("data", "datasets")}  # hub sets are read by it, when one is


def files_of(room):
    return sorted((PACKAGE / room).rglob("*.py"))


def module_of(path):
    """The dotted name of a file: nbutils.models.api."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_names(tree, package="nbutils"):
    """Every dotted name that a syntax tree imports, lazily too; relative ones resolved against `package`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return names


def imports_of(path):
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    return imported_names(ast.parse(path.read_text(encoding="utf-8"), str(path)), package)


def rooms_in(names):
    """The rooms among dotted names: {'nbutils.data.sets.load'} gives {'data'}."""
    return {name.split(".")[1] for name in names if name.startswith("nbutils.")} & set(ROOMS)


def test_reading_imports_sees_every_form():
    source = """
import nbutils.data.hub, os
from nbutils import models as m
from . import collect
from .train.ppo import PPOTrainer
from nbutils.sandbox.gold import score
def later():
    from nbutils.evaluate.arms import build
"""
    names = imported_names(ast.parse(source))
    assert rooms_in(names) == {"data", "models", "collect", "train", "sandbox", "evaluate"} and "os" in names
    assert rooms_in(imported_names(ast.parse("from ..data import sets"), "nbutils.sandbox")) == {"data"}


def test_every_file_is_in_a_room():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_downward(room):
    below = {room, *ROOMS[ROOMS.index(room) + 1 :]} - ({"sandbox"} if room != "sandbox" else set())
    for path in files_of(room):
        upward = rooms_in(imports_of(path)) - below
        assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}; allowed: {sorted(below)}"


@pytest.mark.parametrize("room", ROOMS)
def test_files_of_a_room_import_each_other_one_way_only(room):
    modules = {module_of(path): imports_of(path) for path in files_of(room) if path.name != "__init__.py"}
    TopologicalSorter({name: names & modules.keys() - {name} for name, names in modules.items()}).prepare()


def test_the_two_methods_know_nothing_of_each_other():
    for one, other in (("alignpro", "poir"), ("poir", "alignpro")):
        assert not {name for name in imports_of(PACKAGE / "train" / f"{one}.py") if f".{other}" in name}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_opens_with_one_docstring(room):
    """What it is for and what it never does; importing the room itself does nothing."""
    body = ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8")).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value.value, str)


def test_the_map_shows_every_room_from_the_top_and_every_file():
    shown = (PACKAGE / "README.md").read_text("utf-8")
    assert re.findall(r"^### `(\w+)/`", shown, re.MULTILINE) == list(ROOMS)
    for room in ROOMS:
        part = shown.split(f"### `{room}/`")[1].split("\n#")[0]
        named = {name for name in re.findall(r"^\| `([\w/.]+)`", part, re.MULTILINE)}
        there = {path.relative_to(PACKAGE / room).as_posix() for path in files_of(room)} - {"__init__.py"}
        assert named == {path for path in there if not path.endswith("/__init__.py")}, room


def test_notebooks_use_neither_the_runner_nor_the_sandbox():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        used = rooms_in(imported_names(ast.parse("\n".join(code))))
        assert not used & {"run", "sandbox"}, f"{path.name} imports {sorted(used)}"


@pytest.mark.parametrize("room", NO_TORCH)
def test_no_torch_where_none_is_needed(room):
    for path in files_of(room):
        roots = {(room, name.split(".")[0]) for name in imports_of(path)}
        assert not {name for _, name in roots - EXCEPT} & HEAVY, path


def test_only_one_room_trains():
    for room in set(ROOMS) - LOADS_TORCH - {"sandbox"}:
        for path in files_of(room):
            assert not {name for name in imports_of(path) if name.split(".")[0] == "trl"}, path


def test_starting_a_light_room_loads_no_torch():
    """Asked of a fresh interpreter: what a module imports indirectly counts too."""
    light = [module_of(path) for room in ROOMS if room not in LOADS_TORCH | {"sandbox"} for path in files_of(room)]
    code = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        f"    print(name, *sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == light

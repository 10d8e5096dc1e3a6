"""Imports go strictly downward, as the README's table of layers says, and light modules stay light."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nbutils"

# Twin of the README's table. Within a layer a module may use those named before it.
LAYERS = (
    (
        *("paths", "records", "stats", "ratings", "conventions", "power", "templates", "redaction"),
        *("params", "experiments", "steps"),
    ),
    (
        *(
            "spending",
            "novelty",
            "models",
            "texts",
            "completions",
            "api",
            "generate",
            "likelihood",
            "readers",
            "hub",
            "data",
            "pairs",
            "margins",
        ),
        *(
            "tables",
            "standings",
            "paper",
            "health",
            "changes",
            "audit",
            "poir_printed",
            "poir_paper",
            "plots",
            "gather",
        ),
    ),
    (
        *("training", "rewards", "judge", "controls", "theory", "invent", "critique", "arms", "calls", "answering"),
        *("benchmarks", "collect", "probe", "frontier", "ppo_formulas", "ppo", "alignpro", "poir_texts", "poir"),
    ),
    ("plan", "preflight", "kernel", "formulas", "pages", "report", "runner", "export", "cli"),
)
MODULES = [module for layer in LAYERS for module in layer]
METHODS = {"collect", "alignpro", "poir"}  # one method each: none imports another
SANDBOX_MAY_USE = set(LAYERS[0] + LAYERS[1])
NO_TORCH = (*LAYERS[0], "spending", "pairs", "margins", "tables", "standings", "paper", "health", "changes")
NO_TORCH += ("audit", "poir_printed", "poir_paper", "plots", "gather", "theory", "frontier")
STARTS_LIGHT = ("nbutils", *(f"nbutils.{module}" for module in (*NO_TORCH, *LAYERS[3])))
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate"}


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


def house_modules(names):
    """The modules of nbutils among dotted names: {'nbutils.data.load'} gives {'data'}."""
    return {name.split(".")[1] for name in names if name.startswith("nbutils.")} & {*MODULES, "sandbox"}


def imports_of(path, package="nbutils"):
    return imported_names(ast.parse(path.read_text(encoding="utf-8"), str(path)), package)


def imports_of_module(module):
    """Of a module, or of all files of a package such as plots, its own left out."""
    files = [PACKAGE / f"{module}.py"] if (PACKAGE / f"{module}.py").exists() else (PACKAGE / module).glob("*.py")
    names = set().union(*(imports_of(path, f"nbutils.{module}") for path in files))
    return {name for name in names if not name.startswith(f"nbutils.{module}")}


def sandbox_files():
    return sorted((PACKAGE / "sandbox").glob("*.py"))


def test_reading_imports_sees_every_form():
    source = """
import nbutils.data, os
from nbutils import models as m
from . import stats
from .judge import compare
from nbutils.sandbox.gold import score
def later():
    from nbutils.arms import answer
"""
    names = imported_names(ast.parse(source))
    assert house_modules(names) == {"data", "models", "stats", "judge", "sandbox", "arms"}
    assert "os" in names
    assert house_modules(imported_names(ast.parse("from ..data import load"), "nbutils.sandbox")) == {"data"}


def test_every_module_has_its_layer():
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found - {"__init__", "sandbox"} == set(MODULES)


def test_readme_shows_the_same_layers():
    rows = re.findall(r"^\| ([0-3]) \| (.+?) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    shown = [(int(number), module) for number, cell in rows for module in re.findall(r"`(\w+)`", cell)]
    assert shown == [(number, module) for number, layer in enumerate(LAYERS) for module in layer]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward(module):
    allowed = set(MODULES[: MODULES.index(module)])
    if module in METHODS:
        allowed -= METHODS
    upward = house_modules(imports_of_module(module)) - allowed
    assert not upward, f"nbutils/{module} imports {sorted(upward)}; allowed: {sorted(allowed)}"


def test_package_itself_imports_nothing():
    assert not imports_of(PACKAGE / "__init__.py")


def test_sandbox_uses_the_lower_layers_only():
    assert sandbox_files()
    for path in sandbox_files():
        upward = house_modules(imports_of(path, "nbutils.sandbox")) - SANDBOX_MAY_USE - {"sandbox"}
        assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}"


def test_notebooks_use_neither_the_runner_nor_the_sandbox():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        used = house_modules(imported_names(ast.parse("\n".join(code))))
        assert not used & {*LAYERS[3], "sandbox"}, f"{path.name} imports {sorted(used)}"


@pytest.mark.parametrize("module", NO_TORCH)
def test_no_torch_where_none_is_needed(module):
    roots = {name.split(".")[0] for name in imports_of_module(module)}
    assert not roots & HEAVY


def test_models_and_generate_do_not_train():
    for module in ("models", "generate"):
        assert not {name for name in imports_of(PACKAGE / f"{module}.py") if name.split(".")[0] == "trl"}


def test_starting_light_modules_loads_no_torch():
    """Asked of a fresh interpreter: what a module imports indirectly counts too."""
    code = (
        "import importlib, sys\n"
        f"for name in {STARTS_LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        f"    print(name, *sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == list(STARTS_LIGHT)

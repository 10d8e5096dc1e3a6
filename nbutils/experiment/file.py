"""An experiment file (params/<name>.yml) as written, checked for its form."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from nbutils.experiment import paths
from nbutils.experiment.params import closest

_KEYS = ("experiment", "shared", "grid", "steps")
_STEP_KEYS = ("notebook", "id", "with", "once")
_OWN = ("experiment", "cell", "step")  # set by the plan, never by a file
NAME = "name"  # in a mapping of the grid: what its cells are called


@dataclass(frozen=True)
class Experiment:
    """An experiment file as written, checked for its form only.

    grid: axis → list of values. An axis is a parameter, or a label for entries that each set several parameters
    (and may have a `name`, which their cells are called by).
    """

    name: str
    shared: dict
    grid: dict[str, list]
    steps: list[dict]
    path: Path


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error, not the last one silently."""

    def compose_mapping_node(self, anchor):
        """Before `<<:` merges what stands elsewhere, which the mapping's own keys may repeat."""
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for tag, key in keys:
            if keys.count((tag, key)) > 1:
                raise yaml.composer.ComposerError(None, None, f"key {key!r} is there twice", node.start_mark)
        return node


def read_experiment(path: Path) -> Experiment:
    """The experiment in a YAML file. ValueError or FileNotFoundError: one line with the file's name."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: wanted an experiment file such as params/sandbox.yml")
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, no such date, endless digits
        raise ValueError(f"{path.name}: not readable as YAML: {_one_line(error)}") from None
    expect(isinstance(content, dict), path, f"wanted a mapping with {', '.join(_KEYS)}, got {_kind(content)}")
    for key in content:
        expect(key in _KEYS, path, f"unknown key {key!r}: {closest(key, _KEYS)}")
    for key in ("experiment", "steps"):
        expect(key in content, path, f"key {key!r} is missing: an experiment needs a name and its steps")
    name = content["experiment"]
    expect(isinstance(name, str), path, f"experiment: wanted a name, got {name!r}; quote it if it is a number")
    prefixed(path, paths.check_name, name, "experiment")
    shared = _mapping(path, "shared", content.get("shared"))
    grid = _grid(path, _mapping(path, "grid", content.get("grid")))
    return Experiment(name, shared, grid, _steps(path, content["steps"]), path)


def expect(condition: bool, path: Path, message: str) -> None:
    if not condition:
        raise ValueError(f"{path.name}: {message}")


def prefixed(path: Path, function, *arguments):
    """function(*arguments); the file's name goes in front of what it complains about."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _one_line(error: Exception) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    return (
        f"{problem} (line {mark.line + 1}, column {mark.column + 1})"
        if problem and mark
        else " ".join(str(error).split())
    )


def _kind(value) -> str:
    return "nothing" if value is None else f"{value!r}" if isinstance(value, str) else f"a {type(value).__name__}"


def _mapping(path: Path, key: str, value) -> dict:
    value = {} if value is None else value
    expect(isinstance(value, dict), path, f"{key}: wanted parameter: value pairs, got {_kind(value)}")
    for name in value:
        expect(isinstance(name, str), path, f"{key}: wanted a parameter's name, got {name!r}")
        expect(name not in _OWN, path, f"{key}: {name} is set by the plan: remove it")
    return value


def _grid(path: Path, grid: dict) -> dict:
    for name, values in grid.items():
        expect(isinstance(values, list), path, f"grid: {name}: wanted a list of values, got {_kind(values)}")
        expect(len(values) > 0, path, f"grid: {name} is empty: give at least one value, or remove the line")
        tied = [value for value in values if isinstance(value, dict)]
        expect(len(tied) in (0, len(values)), path, f"grid: {name}: wanted parameters in every entry, or in none")
        for value in tied:
            sets = set_by(name, _mapping(path, f"grid: {name}", value))
            expect(len(sets) > 0, path, f"grid: {name}: an entry sets no parameter")
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        expect(not twice, path, f"grid: {name}: {twice[:1]} is there twice: remove one")
    return grid


def set_by(axis: str, value) -> dict:
    """The parameters that one value of an axis sets; the `name` of a mapping is its label, not a parameter."""
    return {key: one for key, one in value.items() if key != NAME} if isinstance(value, dict) else {axis: value}


def _steps(path: Path, steps) -> list[dict]:
    expect(isinstance(steps, list) and len(steps) > 0, path, f"steps: wanted a list of notebooks, got {_kind(steps)}")
    for number, step in enumerate(steps, start=1):
        where = f"step {number}"
        expect(isinstance(step, dict), path, f"{where}: wanted {{notebook: ...}}, got {_kind(step)}")
        for key in step:
            expect(key in _STEP_KEYS, path, f"{where}: unknown key {key!r}: {closest(key, _STEP_KEYS)}")
        expect(
            isinstance(step.get("notebook"), str),
            path,
            f"{where}: key 'notebook' is missing: name one, e.g. 01_collect",
        )
        expect(
            isinstance(step.get("once", False), bool),
            path,
            f"{where}: once: wanted true or false, got {step.get('once')!r}",
        )
        expect(isinstance(step.get("id", ""), str), path, f"{where}: id: wanted a name, got {step.get('id')!r}")
        _mapping(path, f"{where}: with", step.get("with"))
    ids = Counter(step["id"] for step in steps if "id" in step)
    for name, times in ids.items():
        prefixed(path, paths.check_name, name, "step id")
        expect(times == 1, path, f"steps: id {name!r} is there {times} times: give each step its own")
    return steps

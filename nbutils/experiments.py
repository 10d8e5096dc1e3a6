"""An experiment file (params/<name>.yml) and the steps it asks for: notebooks × cells, with resolved parameters."""

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from nbutils import paths
from nbutils.params import Parameter, check, closest, read_schema

ALL_CELLS = "all"  # the cell of steps that run once per experiment
_KEYS = ("experiment", "shared", "grid", "steps")
_STEP_KEYS = ("notebook", "id", "with", "once")
_OWN = ("experiment", "cell", "step")  # set by the plan, never by a file
_NAME = "name"  # in a mapping of the grid: what its cells are called
_POLICY_NAMES = {"prompter": "alignpro", "responder": "rlhf"}
_LONGEST_CELL = 180


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


@dataclass(frozen=True)
class PlannedStep:
    """One notebook to run once: where, and with which parameters (all of them, resolved)."""

    notebook: str
    id: str
    cell: str
    parameters: dict
    experiment: str
    once: bool = False
    schema: dict[str, Parameter] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        return paths.step_folder(self.experiment, self.cell, self.id)

    @property
    def changed(self) -> dict:
        """The parameters that differ from the notebook's defaults."""
        return {name: value for name, value in self.parameters.items() if value != self.schema[name].default}


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error, not the last one silently."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_experiment(path: Path) -> Experiment:
    """The experiment in a YAML file. ValueError or FileNotFoundError: one line with the file's name."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: wanted an experiment file such as params/sandbox.yml")
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: not readable as YAML: {_one_line(error)}") from None
    _expect(isinstance(content, dict), path, f"wanted a mapping with {', '.join(_KEYS)}, got {_kind(content)}")
    for key in content:
        _expect(key in _KEYS, path, f"unknown key {key!r}: {closest(key, _KEYS)}")
    for key in ("experiment", "steps"):
        _expect(key in content, path, f"key {key!r} is missing: an experiment needs a name and its steps")
    name = content["experiment"]
    _expect(isinstance(name, str), path, f"experiment: wanted a name, got {name!r}; quote it if it is a number")
    _prefixed(path, paths.check_name, name, "experiment")
    shared = _mapping(path, "shared", content.get("shared"))
    grid = _grid(path, _mapping(path, "grid", content.get("grid")))
    return Experiment(name, shared, grid, _steps(path, content["steps"]), path)


def _expect(condition: bool, path: Path, message: str) -> None:
    if not condition:
        raise ValueError(f"{path.name}: {message}")


def _prefixed(path: Path, function, *arguments):
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
    _expect(isinstance(value, dict), path, f"{key}: wanted parameter: value pairs, got {_kind(value)}")
    for name in value:
        _expect(isinstance(name, str), path, f"{key}: wanted a parameter's name, got {name!r}")
        _expect(name not in _OWN, path, f"{key}: {name} is set by the plan: remove it")
    return value


def _grid(path: Path, grid: dict) -> dict:
    for name, values in grid.items():
        _expect(isinstance(values, list), path, f"grid: {name}: wanted a list of values, got {_kind(values)}")
        _expect(len(values) > 0, path, f"grid: {name} is empty: give at least one value, or remove the line")
        tied = [value for value in values if isinstance(value, dict)]
        _expect(len(tied) in (0, len(values)), path, f"grid: {name}: wanted parameters in every entry, or in none")
        for value in tied:
            set_by = _set_by(name, _mapping(path, f"grid: {name}", value))
            _expect(len(set_by) > 0, path, f"grid: {name}: an entry sets no parameter")
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        _expect(not twice, path, f"grid: {name}: {twice[:1]} is there twice: remove one")
    return grid


def _set_by(axis: str, value) -> dict:
    """The parameters that one value of an axis sets; the `name` of a mapping is its label, not a parameter."""
    return {key: one for key, one in value.items() if key != _NAME} if isinstance(value, dict) else {axis: value}


def _steps(path: Path, steps) -> list[dict]:
    _expect(isinstance(steps, list) and len(steps) > 0, path, f"steps: wanted a list of notebooks, got {_kind(steps)}")
    for number, step in enumerate(steps, start=1):
        where = f"step {number}"
        _expect(isinstance(step, dict), path, f"{where}: wanted {{notebook: ...}}, got {_kind(step)}")
        for key in step:
            _expect(key in _STEP_KEYS, path, f"{where}: unknown key {key!r}: {closest(key, _STEP_KEYS)}")
        _expect(
            isinstance(step.get("notebook"), str),
            path,
            f"{where}: key 'notebook' is missing: name one, e.g. 01_collect",
        )
        _expect(
            isinstance(step.get("once", False), bool),
            path,
            f"{where}: once: wanted true or false, got {step.get('once')!r}",
        )
        _expect(isinstance(step.get("id", ""), str), path, f"{where}: id: wanted a name, got {step.get('id')!r}")
        _mapping(path, f"{where}: with", step.get("with"))
    ids = Counter(step["id"] for step in steps if "id" in step)
    for name, times in ids.items():
        _prefixed(path, paths.check_name, name, "step id")
        _expect(times == 1, path, f"steps: id {name!r} is there {times} times: give each step its own")
    return steps


def plan_steps(experiment: Experiment, notebooks: Path) -> list[PlannedStep]:
    """Every step to run, in order: cell after cell of the grid, then the steps that run once over all cells.

    Parameters come from the notebook's defaults, then shared, then the grid, then the step's own `with`.
    ValueError on the first name, type or value that does not fit.
    """
    schemas = _schemas(experiment, Path(notebooks))
    every_name = {name for schema in schemas.values() for name in schema}
    in_grid = [name for axis, values in experiment.grid.items() for value in values for name in _set_by(axis, value)]
    for part, values in (("shared", experiment.shared), ("grid", in_grid)):
        for name in values:
            _expect(
                name in every_name, experiment.path, f"{part}: unknown parameter {name!r}: {closest(name, every_name)}"
            )
    cells = _cells(experiment.grid)
    each = [step for step in experiment.steps if not step.get("once")]
    once = [step for step in experiment.steps if step.get("once")]
    planned = [_plan(experiment, schemas, step, cell, values) for cell, values in cells for step in each]
    planned += [_plan_once(experiment, schemas, step, [cell for cell, _ in cells]) for step in once]
    for (cell, name), times in Counter((step.cell, step.id) for step in planned).items():
        _expect(times == 1, experiment.path, f"steps: {times} steps would write to {cell}/{name}: give each its own id")
    return _in_order(planned)


def collected_with(model: str, cell: str, seed: int, made: list) -> list:
    """Of the 01_collect steps in `made` those whose pairs are meant by another step's `pairs_of: model`.

    made: [(cell, parameters, anything)]; those whose responder is model: of this cell if there are, else of this seed,
    else all. More than one is for the caller to refuse.
    """
    fitting = [each for each in made if each[1].get("responder") == model]
    own = [each for each in fitting if each[0] == cell]
    same = [each for each in fitting if each[1].get("seed") == seed]
    return own or same or fitting


def _in_order(planned: list[PlannedStep]) -> list[PlannedStep]:
    """Cell after cell, but a step that trains on another cell's pairs waits for that cell's 01_collect."""
    made = [(step.cell, step.parameters, step) for step in planned if step.notebook.startswith("01")]
    ordered: list[PlannedStep] = []
    for step in planned:
        value = step.parameters.get
        wanted = collected_with(value("pairs_of"), step.cell, value("seed"), made) if value("pairs_of") else []
        ordered += [other for _, _, other in wanted if other not in ordered]
        ordered += [step] if step not in ordered else []
    return ordered


def _schemas(experiment: Experiment, notebooks: Path) -> dict[str, dict[str, Parameter]]:
    known = sorted(path.stem for path in notebooks.glob("*.ipynb"))
    for step in experiment.steps:
        name = step["notebook"]
        _expect(
            name in known, experiment.path, f"unknown notebook {name!r} in {notebooks.name}/: {closest(name, known)}"
        )
    return {step["notebook"]: read_schema(notebooks / f"{step['notebook']}.ipynb") for step in experiment.steps}


def _plan(experiment: Experiment, schemas: dict, step: dict, cell: str, values: dict) -> PlannedStep:
    notebook, schema, once = step["notebook"], schemas[step["notebook"]], bool(step.get("once"))
    parameters = {name: parameter.default for name, parameter in schema.items()}
    for part, given in (("shared", experiment.shared), ("grid", values)):
        fitting = {name: value for name, value in given.items() if name in schema}
        parameters |= _prefixed(experiment.path, check, schema, fitting, f"{part} ({notebook})")
    parameters |= _prefixed(experiment.path, check, schema, step.get("with") or {}, f"with ({notebook})")
    name = step.get("id") or default_id(notebook, parameters)
    own = {"experiment": experiment.name, "cell": cell, "step": name}
    parameters |= {key: value for key, value in own.items() if key in schema}
    return PlannedStep(notebook, name, cell, parameters, experiment.name, once, schema)


def _plan_once(experiment: Experiment, schemas: dict, step: dict, cells: list[str]) -> PlannedStep:
    """A step over all cells. An empty `cells` parameter becomes this plan's cells: a grid that grows is a change."""
    planned = _plan(experiment, schemas, step, ALL_CELLS, {})
    if planned.parameters.get("cells") == []:
        planned.parameters["cells"] = cells
    return planned


def default_id(notebook: str, parameters: dict) -> str:
    """A step's name where the file gives none: the notebook's own, or what it trains."""
    if parameters.get("step"):
        return parameters["step"]
    if "target" in parameters:
        return parameters["target"]
    if "policy" in parameters:
        return _POLICY_NAMES.get(parameters["policy"], parameters["policy"])
    return notebook.lstrip("0123456789").lstrip("_") or notebook


def _cells(grid: dict[str, list]) -> list[tuple[str, dict]]:
    """(folder name, values) of each combination of the grid; one cell `main` where there is no grid."""
    if not grid:
        return [("main", {})]
    labels = [_labels(axis, values) for axis, values in grid.items()]
    cells = []
    for names, chosen in zip(itertools.product(*labels), itertools.product(*grid.values()), strict=True):
        values = {
            name: one for axis, value in zip(grid, chosen, strict=True) for name, one in _set_by(axis, value).items()
        }
        cells.append((_fit("+".join(names), values), values))
    return cells


def _fit(name: str, values: dict) -> str:
    if len(name) <= _LONGEST_CELL and name.lower() != ALL_CELLS:
        return name
    return f"{name[:_LONGEST_CELL].rstrip('.+-_')}-{paths.sha256_json(values)[:8]}"


def _labels(name: str, values: list) -> list[str]:
    """A short folder name for each value of one axis, all different even where case does not count."""
    short = [_label(name, value, full=False) for value in values]
    full = [_label(name, value, full=True) for value in values]
    chosen = [long if _times(one, short) > 1 else one for one, long in zip(short, full, strict=True)]
    return [
        f"{one}-{paths.sha256_json(value)[:6]}" if _times(one, chosen) > 1 else one
        for one, value in zip(chosen, values, strict=True)
    ]


def _times(label: str, labels: list[str]) -> int:
    return sum(label.lower() == other.lower() for other in labels)


def _label(name: str, value, full: bool) -> str:
    if isinstance(value, dict) and _NAME in value:
        return _safe(str(value[_NAME])) or name
    if isinstance(value, (list, dict)):
        parts = [
            _label(key, one, full)
            for key, one in (value.items() if isinstance(value, dict) else [(name, v) for v in value])
        ]
        return "-".join(dict.fromkeys(parts)) or f"{name}-none"
    if not isinstance(value, str):
        return _safe(f"{name}-{value}")
    parts = [part for part in re.split(r"[/\\]", value) if part]
    return _safe("-".join(parts) if full else parts[-1] if parts else "") or name


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")

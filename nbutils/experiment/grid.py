"""The steps that an experiment file asks for: notebooks × cells of its grid, with resolved parameters."""

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nbutils.experiment import defaults, paths, steps
from nbutils.experiment.file import NAME, Experiment, expect, prefixed, set_by
from nbutils.experiment.params import Parameter, check, closest, read_schema

ALL_CELLS = "all"  # the cell of steps that run once per experiment
_LONGEST_CELL = 180


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
    edited: dict[str, tuple] = field(default_factory=dict, repr=False, compare=False)  # see edited_lines

    @property
    def folder(self) -> Path:
        return paths.step_folder(self.experiment, self.cell, self.id)

    @property
    def changed(self) -> dict:
        """The parameters that differ from what stands in the notebook's cell: what it must be told."""
        return {name: value for name, value in self.parameters.items() if value != self.schema[name].default}


def plan_steps(experiment: Experiment, notebooks: Path) -> list[PlannedStep]:
    """Every step to run, in order: cell after cell of the grid, then the steps that run once over all cells.

    Parameters come from the notebook's shipped defaults, then shared, then the grid, then the step's own `with`, and
    what an arm's name stands for (steps.meaning) where none of these says it.
    ValueError on the first name, type or value that does not fit.
    """
    schemas = _schemas(experiment, Path(notebooks))
    every_name = {name for schema in schemas.values() for name in schema}
    in_grid = [name for axis, values in experiment.grid.items() for value in values for name in set_by(axis, value)]
    for part, values in (("shared", experiment.shared), ("grid", in_grid)):
        for name in values:
            expect(
                name in every_name, experiment.path, f"{part}: unknown parameter {name!r}: {closest(name, every_name)}"
            )
    cells = _cells(experiment.grid)
    each = [step for step in experiment.steps if not step.get("once")]
    once = [step for step in experiment.steps if step.get("once")]
    planned = [_plan(experiment, schemas, step, cell, values) for cell, values in cells for step in each]
    planned += [_plan_once(experiment, schemas, step, [cell for cell, _ in cells]) for step in once]
    for (cell, name), times in Counter((step.cell, step.id) for step in planned).items():
        expect(times == 1, experiment.path, f"steps: {times} steps would write to {cell}/{name}: give each its own id")
    return _in_order(planned)


def collected_with(model: str, cell: str, seed: int | None, made: list) -> list:
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
        model = step.parameters.get("pairs_of")
        wanted = collected_with(model, step.cell, step.parameters.get("seed"), made) if model else []
        ordered += [other for _, _, other in wanted if other not in ordered]
        ordered += [step] if step not in ordered else []
    return ordered


def _schemas(experiment: Experiment, notebooks: Path) -> dict[str, dict[str, Parameter]]:
    known = sorted(path.stem for path in notebooks.glob("[!.]*.ipynb"))
    for step in experiment.steps:
        name = step["notebook"]
        expect(
            name in known, experiment.path, f"unknown notebook {name!r} in {notebooks.name}/: {closest(name, known)}"
        )
    return {step["notebook"]: read_schema(notebooks / f"{step['notebook']}.ipynb") for step in experiment.steps}


def _plan(experiment: Experiment, schemas: dict, step: dict, cell: str, values: dict) -> PlannedStep:
    notebook, schema, once = step["notebook"], schemas[step["notebook"]], bool(step.get("once"))
    notebooks = paths.project_root() / "notebooks"
    given = {key: value for key, value in steps.meaning(step.get("id", "")).items() if key in schema}
    for part, found in (("shared", experiment.shared), ("grid", values)):
        fitting = {name: value for name, value in found.items() if name in schema}
        given |= prefixed(experiment.path, check, schema, fitting, f"{part} ({notebook})")
    given |= prefixed(experiment.path, check, schema, step.get("with") or {}, f"with ({notebook})")
    parameters = defaults.shipped(notebook, schema, notebooks) | given
    name = step.get("id") or steps.default_name(notebook, parameters)
    prefixed(experiment.path, steps.check_name, name, parameters)
    own = {"experiment": experiment.name, "cell": cell, "step": name}
    parameters |= {key: value for key, value in own.items() if key in schema}
    edited = defaults.edited(notebook, schema, notebooks)
    edited = {key: pair for key, pair in edited.items() if key not in given and key not in own}
    return PlannedStep(notebook, name, cell, parameters, experiment.name, once, schema, edited)


def edited_lines(planned: list[PlannedStep]) -> list[str]:
    """A line for each value that was edited in a notebook's cell, and that steps do not go by for want of their own."""
    found: dict[tuple, list[str]] = {}
    for step in planned:
        for name, (now, shipped) in step.edited.items():
            found.setdefault((step.notebook, name, repr(now), repr(shipped)), []).append(f"{step.cell}/{step.id}")
    return [
        f"{notebook}.ipynb: {name} is {now} in its cell, {shipped} as shipped: {', '.join(places)} "
        f"{'goes' if len(places) == 1 else 'go'} by {shipped}; to change that, set it in the experiment file"
        for (notebook, name, now, shipped), places in found.items()
    ]


def _plan_once(experiment: Experiment, schemas: dict, step: dict, cells: list[str]) -> PlannedStep:
    """A step over all cells. An empty `cells` parameter becomes this plan's cells: a grid that grows is a change."""
    planned = _plan(experiment, schemas, step, ALL_CELLS, {})
    if planned.parameters.get("cells") == []:
        planned.parameters["cells"] = cells
    return planned


def _cells(grid: dict[str, list]) -> list[tuple[str, dict]]:
    """(folder name, values) of each combination of the grid; one cell `main` where there is no grid."""
    if not grid:
        return [("main", {})]
    labels = [_labels(axis, values) for axis, values in grid.items()]
    cells = []
    for names, chosen in zip(itertools.product(*labels), itertools.product(*grid.values()), strict=True):
        values = {
            name: one for axis, value in zip(grid, chosen, strict=True) for name, one in set_by(axis, value).items()
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
    if isinstance(value, dict) and NAME in value:
        return _safe(str(value[NAME])) or name
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

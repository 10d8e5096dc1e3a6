"""params/defaults.json: the values that the notebooks' parameters cells were shipped with.

Whoever works by hand edits these cells; experiment files go by the shipped values all the same, so that an edit for one
try does not change what a named experiment is. `python -m nbutils.experiment.defaults` (make format) writes the file
anew, for an edit that is meant for everybody.
"""

import json
from pathlib import Path

from nbutils.experiment import paths
from nbutils.experiment.params import Parameter, read_schema


def read(notebooks: Path) -> dict[str, dict]:
    """{notebook: {parameter: shipped value}}; {} where there is no such file."""
    file = _file(notebooks)
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def shipped(notebook: str, schema: dict[str, Parameter], notebooks: Path) -> dict:
    """The values that a notebook's parameters have where an experiment file gives none."""
    known = read(notebooks).get(notebook, {})
    return {name: known.get(name, parameter.default) for name, parameter in schema.items()}


def edited(notebook: str, schema: dict[str, Parameter], notebooks: Path) -> dict[str, tuple]:
    """{parameter: (value in the cell now, shipped value)} of those that differ."""
    values = shipped(notebook, schema, notebooks)
    pairs = {name: (parameter.default, values[name]) for name, parameter in schema.items()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def write(notebooks: Path) -> Path:
    schemas = {path.stem: read_schema(path) for path in sorted(notebooks.glob("[!.]*.ipynb"))}
    values = {name: {key: parameter.default for key, parameter in schema.items()} for name, schema in schemas.items()}
    return paths.write_atomic(_file(notebooks), json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _file(notebooks: Path) -> Path:
    return Path(notebooks).parent / "params" / "defaults.json"


if __name__ == "__main__":
    write(paths.project_root() / "notebooks")

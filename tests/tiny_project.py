"""A project of tiny notebooks in a temporary folder: no model, no data, one flaw at a time."""

import json
from pathlib import Path

import nbformat
import yaml

SHARED = """experiment: str = "tiny"  # results go to outputs/<experiment>/<cell>/<step>
cell: str = "main"  # one combination of the grid
seed: int = 0  # every random choice follows from it
color: str = "red"  # an axis of the grid
"""
MAKE = (
    SHARED
    + """step: str = "make"  # folder of this step
number: int = 3  # rows to write [> 0]
flaw: str = ""  # code that runs before the rows are written
"""
)
READ = SHARED + 'step: str = ""  # folder of this step\npolicy: str = "prompter"  # [prompter | responder]\n'
PLOT = SHARED + 'step: str = "plot"  # folder of this step\ncells: list = []  # cells to read; empty for all\n'

MAKE_CELLS = [
    "from nbutils.experiment import records, steps\nfrom nbutils.experiment.journal import Journal\n"
    "run = steps.open_step('01_make', globals(), step)",
    "exec(flaw)",
    "with Journal(run.folder / 'journal.jsonl') as journal:\n"
    "    journal.append_many((str(i), {'text': color}) for i in range(number))",
    "records.write_rows(run.output('rows.jsonl'), [{'color': color, 'row': i} for i in range(number)])",
    "run.count('rows', number)\nrun.finish();",
]
READ_CELLS = [
    "from nbutils.experiment import records, steps\nrun = steps.open_step('02_read', globals(), step)",
    "rows = records.read_rows(run.input(run.sibling('make', 'rows.jsonl'), '01_make'))\nprint(len(rows), 'rows')",
    "records.write_rows(run.output('read.jsonl'), rows)",
    "run.finish();",
]
PLOT_CELLS = [
    "from nbutils.experiment import paths, records, steps\ncell = 'all'\n"
    "run = steps.open_step('05_plot', globals(), step)",
    "rows = {name: records.read_rows(run.input(paths.step_folder(experiment, name, 'make') / 'rows.jsonl', '01_make'))"
    " for name in cells}",
    "lines = [f'{name},set,nan,{len(each)},0.5,0.4,0.6,0.1,,,,,,,' for name, each in rows.items()]",
    "header = ('cell,prompt_set,arm,num_prompts,mean_reward,mean_reward_low,mean_reward_high,reward_variance,'\n"
    "          'win,tie,lose,unscored,win_rate,win_rate_low,win_rate_high')",
    "tables = run.output('tables')\npaths.write_atomic(tables / 'summary.csv', '\\n'.join([header, *lines, '']))",
    "run.count('prompts', sum(map(len, rows.values())))\nrun.finish();",
]


def write_notebook(path: Path, parameters: str, cells: list[str], tags: tuple = ("parameters",)) -> Path:
    """A notebook with a tagged parameter cell; prose in front."""
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    tagged = [nbformat.v4.new_code_cell(parameters, metadata={"tags": [tag]}) for tag in tags]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {path.stem}"), *tagged, *code])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def make_project(root: Path, **experiment) -> Path:
    """Three notebooks and params/tiny.yml below root; returns the experiment file. experiment: keys to replace."""
    write_notebook(root / "notebooks" / "01_make.ipynb", MAKE, MAKE_CELLS)
    write_notebook(root / "notebooks" / "02_read.ipynb", READ, READ_CELLS)
    write_notebook(root / "notebooks" / "05_plot.ipynb", PLOT, PLOT_CELLS)
    return write_experiment(root / "params" / "tiny.yml", **experiment)


def write_experiment(path: Path, **changes) -> Path:
    steps = [{"notebook": "01_make"}, {"notebook": "02_read"}, {"notebook": "05_plot", "once": True}]
    content = {"experiment": "tiny", "shared": {"seed": 1}, "grid": {}, "steps": steps} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def manifest(root: Path, cell: str, step: str) -> dict:
    return json.loads((root / "outputs" / "tiny" / cell / step / "manifest.json").read_text("utf-8"))

"""A notebook run by hand, in a real kernel: errors in one line, outputs kept as the front end shows them."""

import os

import nbclient
import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tiny_project import make_project

from nbutils.experiment import paths, recording

ROOT = paths.project_root()
OPEN = "from nbutils.experiment import steps\nrun = steps.open_step('01_make', globals(), step)"


@pytest.fixture
def project(tmp_path, monkeypatch):
    make_project(tmp_path)
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.delenv(recording.BATCH, raising=False)
    return tmp_path


PARAMETERS = "step, number, experiment = 'make', 3, 'tiny'\ncell, seed, color, flaw = 'main', 0, 'red', ''"


def run(*sources):
    """The cells after they ran in one kernel, an error in one of them or not."""
    cells = [new_markdown_cell("# A title"), *map(new_code_cell, (PARAMETERS, *sources))]
    notebook = new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, kernel_name="python3", allow_errors=True).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"][1:]


def traceback_of(cell):
    (error,) = [output for output in cell.outputs if output.output_type == "error"]
    return error.traceback


def test_what_a_user_can_mend_and_an_interrupt_are_one_line_and_other_errors_keep_their_traceback(project):
    opened, wrong, stopped, own, other, after = run(
        OPEN,
        "number = -5\nsteps.open_step('01_make', globals(), step)",
        "raise KeyboardInterrupt",
        "def mine():\n    raise ValueError('of my own')\nmine()",
        "import json\njson.loads('{')",
        "%tb",
    )
    assert traceback_of(wrong) == ["ValueError: 01_make: number: wanted int [> 0], got -5  (%tb shows where)"]
    assert traceback_of(stopped) == ["stopped; nothing is lost: run the cell again to go on"]
    assert len(traceback_of(own)) > 1 and any("mine" in line for line in traceback_of(own))
    assert len(traceback_of(other)) > 1
    assert "Expecting property name" in str(after.outputs)


PAPERMILL = {"kernel_name": "python3", "language": "python", "progress_bar": False}


def test_a_parameter_that_papermill_made_up_is_refused_as_in_the_runner(project):
    """papermill itself only warns, and the notebook runs with what was meant left at its default."""
    source, out = project / "notebooks" / "01_make.ipynb", project / "out.ipynb"
    for wrong, line in (
        ({"nubmer": 5}, "01_make: unknown parameter 'nubmer': did you mean number?"),
        ({"api_key": "x"}, "01_make: api_key looks like a secret"),
        ({"number": "5"}, "01_make: number: wanted int, got '5' (str): remove the quotes"),
    ):
        with pytest.raises(papermill.PapermillExecutionError) as caught:
            papermill.execute_notebook(
                source, out, parameters=wrong, kernel_name="python3", language="python", progress_bar=False
            )
        assert caught.value.ename == "ValueError" and line in caught.value.evalue
        assert not (project / "outputs").exists()
    papermill.execute_notebook(
        source, out, parameters={"number": 5}, kernel_name="python3", language="python", progress_bar=False
    )
    assert (project / "outputs/tiny/main/make/rows.jsonl").read_text().count("\n") == 5


def test_under_the_runner_errors_keep_their_traceback_and_nothing_is_recorded(project, monkeypatch):
    monkeypatch.setenv(recording.BATCH, "1")
    _, wrong, kept = run(
        OPEN,
        "number = -5\nsteps.open_step('01_make', globals(), step)",
        "from nbutils.experiment import recording\nprint(recording.notebook('01_make'))",
    )
    assert len(traceback_of(wrong)) > 1 and kept.outputs[0].text == "None\n"


def test_the_name_of_another_notebook_in_the_environment_is_not_this_ones(project, monkeypatch):
    """A cell that runs `papermill 01_make.ipynb` hands on the name of the notebook that it stands in."""
    other = project / "notebooks" / "05_plot.ipynb"
    monkeypatch.setenv("JPY_SESSION_NAME", str(other))
    assert recording._path("01_make") == project / "notebooks" / "01_make.ipynb"
    assert recording._path("05_plot") == other


MADE = [
    "print('one')\nprint('two')\n1 + 1",
    "from IPython.display import display, HTML\nhandle = display(HTML('first'), display_id=True)\nprint('between')",
    "handle.update(HTML('second'))",
    "import sys\nprint('red', file=sys.stderr)\ndisplay({'text/plain': 'x'}, raw=True)",
    "print('gone')\nfrom IPython.display import clear_output\nclear_output()\nprint('stays')",
    "raise ValueError('of my own')",
]


def test_what_is_kept_of_each_cell_is_what_the_front_end_has(project):
    """Streams, results, displays that are updated later, cleared outputs, errors, a cell that is run twice."""
    write = "import json\nfrom nbutils.experiment import recording\n"
    write += "(run.folder / 'kept.json').write_text(json.dumps(recording.notebook('01_make')))"
    notebook = new_notebook(cells=[new_code_cell(source) for source in (OPEN, *MADE, write)])
    nbformat.write(notebook, project / "notebooks" / "01_make_copy.ipynb")
    os.environ["JPY_SESSION_NAME"] = str(project / "notebooks" / "01_make_copy.ipynb")
    try:
        cells = run(OPEN, *MADE, write)
    finally:
        del os.environ["JPY_SESSION_NAME"]
    kept = nbformat.read(project / "outputs/tiny/main/make/kept.json", as_version=4).cells
    assert [each.source for each in kept] == [each.source for each in cells]
    for ours, theirs in zip(kept[1:-1], cells[1:-1], strict=True):
        assert ours.outputs == theirs.outputs and ours.execution_count == theirs.execution_count

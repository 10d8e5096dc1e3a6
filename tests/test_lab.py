"""Run All in JupyterLab, in a real browser, in the five notebooks one after the other: it ends in the report.

What the steps leave is what the runner leaves, and the runner finds nothing to do. The notebooks are the project's own,
with smaller numbers in their parameters cells.
"""

import json
import shutil

import pytest
from browser import CHROMIUM
from lab import last_output, opened, run_all, served

from nbutils.experiment import defaults, paths
from nbutils.run import plan

ROOT = paths.project_root()
SMALLER = {
    "01_collect": {"num_pairs": 20, "num_rounds": 1, "batch_size": 16},
    "02_train_alignpro": {"num_steps": 2, "prompts_per_step": 4, "save_steps": 1, "frontier_prompts": 2},
    "03_train_poir": {"save_steps": 4},
    "04_evaluate": {"num_prompts": 12, "num_controls": 4, "batch_size": 32},
    "05_plot": {"num_cases": 2},
}


def smaller_project(folder):
    """The notebooks and params/ in a folder, with SMALLER as the shipped values."""
    shutil.copytree(ROOT / "params", folder / "params")
    (folder / "notebooks").mkdir()
    for name, values in SMALLER.items():
        notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
        (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
        cell["source"] = [with_value(line, values) for line in cell["source"]]
        (folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(notebook), "utf-8")
    defaults.write(folder / "notebooks")


def with_value(line, values):
    name, _, rest = line.partition(": ")
    if name not in values:
        return line
    kind, _, old = rest.partition(" = ")
    return f"{name}: {kind} = {values[name]!r}  {old.partition('  ')[2]}"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_run_all_in_the_five_notebooks_ends_in_the_report(tmp_path, monkeypatch):
    smaller_project(tmp_path)
    with served(tmp_path) as address:
        for name in SMALLER:
            with opened(address, f"{name}.ipynb") as page:
                run_all(page)
                said = last_output(page)
                assert "made:" in said and "page:" in said or name == "05_plot", f"{name}: {said[-500:]}"
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    _, planned = plan.load(tmp_path / "params" / "by_hand.yml")
    assert {f"{step.cell}/{step.id}": plan.state(step) for step in planned} == {
        f"{step.cell}/{step.id}": ("done", "") for step in planned
    }
    for step in planned:
        assert (step.folder / "notebook.html").read_text("utf-8").rstrip().endswith("</html>")
        kept = json.loads((step.folder / "notebook.ipynb").read_text("utf-8"))
        assert any(output for cell in kept["cells"] for output in cell.get("outputs", []))
    assert "by_hand" in (tmp_path / "outputs/by_hand/all/plot/report.html").read_text("utf-8")

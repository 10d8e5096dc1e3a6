"""While a step runs, its own bar is on the runner's line and in `status`, and one plain output in its notebook."""

from pathlib import Path

import nbformat
import pytest
from tiny_project import make_project, write_experiment, write_notebook

from nbutils.run import plan, runner
from nbutils.run.kernel import _sections

REPOSITORY = Path(__file__).resolve().parents[2]
SLOW = (
    "import time\nfrom nbutils.experiment.progress import Bar\n"
    "with Bar(3, 'tried rows') as bar:\n"
    "    for _ in range(3):\n        time.sleep(1.1)\n        bar.set_postfix_str('reward=1.5')\n        bar.update(1)"
)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    monkeypatch.delenv("WORKBOOK_OUTPUTS", raising=False)
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    return write_experiment(tmp_path / "params" / "tiny.yml", steps=[{"notebook": "01_make", "with": {"flaw": SLOW}}])


@pytest.mark.slow
def test_a_running_steps_bar_is_on_the_line_in_status_and_once_in_the_notebook(path, tmp_path, monkeypatch):
    lines, said = [], []

    def say(line, last=False, every=False):
        lines.append(line)
        said.extend(plan.status(path)[1:] if not last else [])

    monkeypatch.setattr(runner, "_say", say)
    runner.run(path)
    assert any("tried rows 2/3 · " in line and "reward=1.5" in line and " left" in line for line in lines), lines
    assert any(line.startswith("  main/make  running     process ") and "tried rows 1/3" in line for line in said), said
    folder = tmp_path / "outputs" / "tiny" / "main" / "make"
    assert plan.status(path)[1].split()[1] == "done" and not list(folder.glob(".progress*"))

    outputs = [each for cell in nbformat.read(folder / "notebook.ipynb", 4).cells for each in cell.get("outputs", [])]
    bars = [each for each in outputs if "tried rows" in str(each)]
    assert [each.output_type for each in bars] == ["display_data"] and "3/3" in bars[0].data["text/plain"]
    assert not [each for each in outputs if each.get("name") == "stderr"]
    assert "3/3" in (folder / "notebook.html").read_text("utf-8")


@pytest.mark.slow
def test_no_folder_of_this_machine_is_in_a_page_and_no_remark_about_bars(path, tmp_path, monkeypatch):
    """A traceback names files, and tqdm.auto remarks on missing widgets: neither is shared."""
    flaw = "from tqdm.auto import tqdm\nlist(tqdm(range(2)))\nprint(run.folder)\nrecords.read_rows(run.folder / 'no')"
    write_experiment(path, steps=[{"notebook": "01_make", "with": {"flaw": flaw}}])
    with pytest.raises(runner.StepFailed):
        runner.run(path)
    folder = tmp_path / "outputs" / "tiny" / "main" / "make"
    for name in ("notebook.html", "notebook.ipynb"):
        text = (folder / name).read_text("utf-8")
        assert "records.py" in text and "outputs/tiny/main/make" in text
        assert str(tmp_path) not in text and "TqdmWarning" not in text and "site-packages" not in text


@pytest.mark.slow
def test_a_file_beside_the_user_but_not_in_the_project_is_missed_before_any_work(path, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "seeds.csv").write_text("prompt\nhello\n")
    monkeypatch.chdir(elsewhere)
    write_notebook(tmp_path / "notebooks" / "04_more.ipynb", 'seeds: str = "seeds.csv"', ["1"])
    write_experiment(path, shared={}, steps=[{"notebook": "04_more"}])
    with pytest.raises(FileNotFoundError, match="prompt set seeds.csv not found at"):
        runner.run(path)


@pytest.mark.parametrize(("every", "lines"), [(True, 1), (False, 0)])
def test_without_a_terminal_a_line_is_printed_once_a_minute(capsys, every, lines):
    runner._say("[1/1] main/make  61 s", every=every)
    assert capsys.readouterr().out.count("main/make") == lines


@pytest.mark.slow
def test_a_log_file_gets_a_line_every_so_often(path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "_EVERY_SECONDS", 1)
    runner.run(path)
    assert 2 <= capsys.readouterr().out.count("tried rows") <= 8


def test_where_a_notebook_is_is_said_by_its_headings():
    found, number = _sections(REPOSITORY / "notebooks" / "01_collect.ipynb")
    assert number > 20 and "Step 1: new prompts" in found.values()
    assert [heading for code, heading in found.items() if "collecting.collect(" in code] == [
        "Step 2: respond, critique, rewrite"
    ]

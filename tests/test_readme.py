"""What the READMEs tell people to type is there: commands, options, targets, files; the code example runs."""

import re
import shlex
import subprocess

import pytest
import typer

from nbutils.evaluate import judging
from nbutils.experiment import paths
from nbutils.experiment.file import read_experiment
from nbutils.experiment.grid import plan_steps
from nbutils.experiment.params import check, read_schema
from nbutils.experiment.records import Answer
from nbutils.models import scoring, templates
from nbutils.models.generate import generate
from nbutils.models.texts import Sampling
from nbutils.run import cli

ROOT = paths.project_root()
PAGES = [ROOT / name for name in ("README.md", "params/README.md", "tests/README.md", "CONTRIBUTING.md")]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(kind):
    return [(page, text) for page in PAGES for name, text in BLOCK.findall(page.read_text("utf-8")) if name == kind]


def commands():
    lines = [line for _, text in blocks("sh") for line in text.splitlines()]
    return [line.split(" #")[0].strip() for line in lines if line.split("#")[0].strip()]


@pytest.mark.parametrize("line", commands())
def test_every_command_can_be_typed(line):
    program, *words = shlex.split(line)
    known = {".venv/bin/workbook": workbook, ".venv/bin/papermill": papermill, "make": make}
    known[".venv/bin/python"] = lambda words: [(ROOT / word).stat() for word in words if word.startswith("tests/")]
    known[program](words)


def workbook(words):
    """Parsed as when it is run, down to the last option; the experiment file is there and fits the notebooks."""
    command, context = typer.main.get_command(cli.app), None
    while hasattr(command, "resolve_command"):
        context = command.make_context("workbook", list(words), parent=context, resilient_parsing=False)
        _, command, words = command.resolve_command(context, words)
    command.make_context(command.name, list(words), parent=context)
    for word in (word for word in words if word.endswith(".yml")):
        assert plan_steps(read_experiment(ROOT / word), ROOT / "notebooks")


def papermill(words):
    schema = read_schema(ROOT / words[0])
    given = dict(zip(words[3::3], words[4::3], strict=True))
    assert words[2::3] == ["-p"] * len(given) and given.get("experiment") not in (None, "sandbox")
    check(schema, {name: int(value) if value.isdigit() else value for name, value in given.items()}, words[0])


def make(words):
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_example_of_an_experiment_fits_the_notebooks(tmp_path):
    (text,) = [text for page, text in blocks("yaml") if page.parent == ROOT]
    (tmp_path / "mine.yml").write_text(text)
    assert len(plan_steps(read_experiment(tmp_path / "mine.yml"), ROOT / "notebooks")) == 5


def test_the_functions_of_the_example_answer_judge_and_score(tmp_path, monkeypatch):
    ((_, code),) = blocks("python")
    (tmp_path / "my_models.py").write_text(code)
    monkeypatch.setenv("WORKBOOK_CODE", str(tmp_path))
    said = generate("my_models:answer", ["tell me, please"], Sampling())
    assert said[0].text == "You asked: tell me, please"
    assert scoring.score("my_models:reward", ["x", "x"], [said[0].text, "no"]) == [1.0, 0.0]
    rows = [Answer("id", "s", "x", arm, 0, "x", [], arm, None, None, 1) for arm in ("poir", "nan")]
    panel = judging.Panel(("my_models:judge",), templates.load("judge_pairwise", "sandbox"), Sampling(0.0))
    votes = judging.judge_arms(rows, "nan", panel)
    assert [(vote.first_shown, vote.verdict) for vote in votes] == [("poir", "lose"), ("nan", "win")]

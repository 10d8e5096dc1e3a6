"""The command line: whatever goes wrong is one line on stderr and an exit code that tells whose fault it was."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_project import make_project, write_experiment

from nbutils.evaluate import answering
from nbutils.report import assemble
from nbutils.run import cli, runner

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    make_project(tmp_path)
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    monkeypatch.delenv("WORKBOOK_OUTPUTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(capsys, *arguments) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = cli.main(list(arguments))
    errors = capsys.readouterr().err
    assert errors.startswith("workbook: ") and errors.count("\n") == 1 and "Traceback" not in errors
    return code, errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "tinny"], "no experiment 'tinny' in params/: did you mean tiny?"),
        (["plan", "params/tinny.yml"], "params/tinny.yml not found: did you mean params/tiny.yml?"),
        (["pln", "tiny"], "plan"),
        (["plan"], "Missing argument"),
        (["run", "tiny", "--untill", "x"], "--until"),
        (["run", "tiny", "--until", "x"], "no step 'x' in this experiment"),
        (["status", "broken"], "broken.yml: not readable as YAML"),
        (["report", "tiny"], "run 05_plot first"),
        (["rewrite", "--experiment", "tiny", "--arm", "nan", "hello"], "tiny"),
        (["rewrite", "--experiment", "../tiny", "hello"], "experiment '../tiny'"),
        (["rewrite", "--experiment", "tiny", " "], "the prompt is empty: write what a user would ask"),
        (["plan", "tiny", "--step", "mak"], "no step 'mak' in this experiment: did you mean make?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(project, capsys, arguments, message):
    (project / "params" / "broken.yml").write_text("a: [")
    code, line = fails(capsys, *arguments)
    assert code == 2 and message in line


@pytest.mark.parametrize("experiment", ["tiny", "params/tiny.yml", "./params/tiny.yml"])
def test_an_experiment_is_found_by_name_and_by_path(project, experiment):
    assert cli.find(experiment).resolve() == project / "params" / "tiny.yml"


def test_plan_and_status_print_and_end_well(project, capsys):
    assert cli.main(["plan", "tiny"]) == 0 and cli.main(["status", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "main/make      01_make   to do  " in out and "all/plot" in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (runner.StepFailed("main/make failed; resume: workbook run x"), 1),
        (runner.Interrupted("stopped by SIGTERM", 15), 143),
        (runner.Interrupted("stopped by SIGINT", 2), 130),
        (BlockingIOError("tiny is being run by process 7"), 2),
        (OSError(28, "No space left on device"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(project, capsys, monkeypatch, error, code):
    def stop(*_):
        raise error

    monkeypatch.setattr(runner, "run", stop)
    got, line = fails(capsys, "run", "tiny")
    assert got == code and (str(error) in line or isinstance(error, KeyboardInterrupt))


def test_our_own_mistakes_keep_their_traceback(project, monkeypatch):
    def stop(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(runner, "run", stop)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run", "tiny"])


def test_a_secret_in_an_error_is_blanked(project, capsys, monkeypatch):
    def stop(*_):
        raise ValueError("Incorrect API key provided: sk-canar*******cdef")

    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary0123456789abcdef")
    monkeypatch.setattr(runner, "run", stop)
    assert "sk-canar" not in fails(capsys, "run", "tiny")[1]


def test_run_passes_its_options_on(project, monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "run", lambda *given: seen.append(given))
    assert cli.main(["run", "tiny", "--until", "make", "--cell", "main", "--no-check-servers"]) == 0
    assert seen == [(Path("params/tiny.yml"), "make", "main", False)]


def test_report_prints_headline_and_path(project, capsys, monkeypatch):
    monkeypatch.setattr(assemble, "write_report", lambda name: project / "outputs" / name / "report.html")
    monkeypatch.setattr(assemble, "headline", lambda name: ["the table"])
    assert cli.main(["report", "tiny"]) == 0
    assert capsys.readouterr().out == "the table\n\nReport: outputs/tiny/report.html\n"


def test_rewrite_prints_each_rewrite_and_the_response(project, capsys, monkeypatch):
    def answer(experiment, cell, arm, prompt):
        return [f"{prompt} in detail", "again"], f"{arm} of {experiment}/{cell} says"

    monkeypatch.setattr(answering, "rewrite_and_respond", answer)
    assert cli.main(["rewrite", "--experiment", "tiny", "--arm", "poir", "the otter"]) == 0
    wanted = "rewrite:  the otter in detail\nrewrite:  again\nresponse: poir of tiny/main says\n"
    assert capsys.readouterr().out == wanted


def test_the_plan_of_one_step_is_all_about_it(project, capsys):
    assert cli.main(["plan", "tiny", "--step", "main/make"]) == 0
    out = capsys.readouterr().out
    assert "main/make  (01_make, to do)\n  seed=1\n" in out and "all/plot" not in out


def test_the_command_works_from_another_folder(project, capsys, monkeypatch):
    """The experiment is found from where the user is; all else, and the results, are the project's."""
    elsewhere = project / "some" / "where"
    elsewhere.mkdir(parents=True)
    write_experiment(elsewhere / "own.yml", experiment="own", steps=[{"notebook": "01_make"}])
    monkeypatch.chdir(elsewhere)
    assert cli.main(["plan", "own.yml"]) == 0 and cli.main(["plan", "tiny"]) == 0
    assert cli.main(["status", "own.yml"]) == 0 and "1 step in 1 cell in outputs/own" in capsys.readouterr().out
    monkeypatch.setattr(assemble, "write_report", lambda name: project / "outputs" / name / "report.html")
    monkeypatch.setattr(assemble, "headline", lambda name: [])
    monkeypatch.chdir(project.parent)
    assert cli.main(["report", "tiny"]) == 0
    assert f"Report: {project}/outputs/tiny/report.html" in capsys.readouterr().out  # can be opened from there


def test_without_arguments_the_commands_are_listed(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("plan", "run", "status", "report", "rewrite"))


def test_plan_is_ready_in_three_seconds(project):
    write_experiment(project / "params" / "tiny.yml", grid={"color": [f"c{number}" for number in range(20)]})
    started = time.monotonic()
    command = [sys.executable, "-m", "nbutils.run.cli", "plan", "tiny"]
    done = subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 3 and done.stdout.count("01_make") == 20


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", r"rewrite:  \u6c34\u736d \xfc\nresponse: \ud800 \u2013"),
        ("latin-1", "rewrite:  \\u6c34\\u736d ü\nresponse: \\ud800 \\u2013"),
        ("utf-8", "rewrite:  水獭 ü\nresponse: \\ud800 –"),
    ],
)
def test_a_terminal_of_any_encoding_loses_nothing(project, encoding, shown):
    code = (
        "import sys; from nbutils.evaluate import answering; from nbutils.run import cli\n"
        "answering.rewrite_and_respond = lambda *_: (['水獭 ü'], '\\ud800 –')\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    known = environment(project) | {"PYTHONIOENCODING": encoding}
    own = write_experiment(project / "params" / "tiny.yml", shared={"color": "水獭 λ"})
    commands = (["rewrite", "x"], ["plan", str(own), "--details"], ["status", str(own)], ["plan", "水獭"])
    done = [
        subprocess.run([sys.executable, "-c", code, *command], cwd=project, env=known, capture_output=True, check=False)
        for command in commands
    ]
    assert [each.returncode for each in done] == [0, 0, 0, 2], done
    texts = [(each.stdout or each.stderr).decode(encoding) for each in done]
    assert texts[0].strip() == (shown.replace("\\n", "\n") if encoding == "ascii" else shown)
    assert "all/plot" in texts[1] and "all/plot" in texts[2] and texts[3].startswith("workbook: no experiment ")
    assert ("水獭 λ" if encoding == "utf-8" else "\\u6c34") in texts[1]


def environment(project):
    import os

    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "WORKBOOK_ROOT": str(project)}

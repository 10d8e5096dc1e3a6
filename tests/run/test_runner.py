"""A step is done or not done: what ran is skipped, what changed runs again, what failed or was stopped can go on."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from tiny_project import PLOT, PLOT_CELLS, make_project, manifest, write_experiment, write_notebook

from nbutils.experiment import steps
from nbutils.run.kernel import explain
from nbutils.run.runner import StepFailed, run

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # about 40 s: every step starts a kernel


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in a folder with a space and braces in its name, and the working directory inside."""
    root = tmp_path / "a {project} of mine"
    make_project(root)
    monkeypatch.setenv("WORKBOOK_ROOT", str(root))
    monkeypatch.delenv("WORKBOOK_OUTPUTS", raising=False)
    monkeypatch.chdir(root)
    return root


def with_flaw(project, flaw, **more):
    """The experiment of one step whose notebook runs `flaw`."""
    return write_experiment(
        project / "params" / "tiny.yml", steps=[{"notebook": "01_make", "with": {"flaw": flaw} | more}]
    )


def step_lines(output):
    return [line.split("  ") for line in output.splitlines() if line.startswith("[")]


def test_runs_every_step_then_skips_them_then_reruns_only_what_depends_on_a_change(project, capsys):
    path = project / "params" / "tiny.yml"
    page = run(path)
    assert page == project / "outputs/tiny/all/plot/report.html" and page.exists()
    assert [manifest(project, *place)["parameters"]["seed"] for place in (("main", "make"), ("all", "plot"))] == [1, 1]
    assert all((page.parent / name).exists() for name in ("notebook.ipynb", "notebook.html"))
    assert "[3/3] all/plot  done in" in capsys.readouterr().out

    before = {step: manifest(project, *step) for step in (("main", "make"), ("main", "alignpro"), ("all", "plot"))}
    run(path)
    again = capsys.readouterr().out
    assert [line[1] for line in step_lines(again)] == ["done already"] * 3 and "Everything was done already." in again
    assert "outputs/tiny/all/plot/report.html" in again and "0.500  [0.400 to 0.600]" in again
    assert before == {step: manifest(project, *step) for step in before}

    read = {"notebook": "02_read", "with": {"color": "blue"}, "id": "alignpro"}
    write_experiment(path, steps=[{"notebook": "01_make"}, read, {"notebook": "05_plot", "once": True}])
    run(path)
    assert [line[1].split(" in")[0] for line in step_lines(capsys.readouterr().out)] == [
        "done already",
        "done",
        "done already",
    ]

    (project / "outputs/tiny/main/make/rows.jsonl").write_text("{}\n")
    run(path)  # an output that changed is made again; what it feeds is as it was
    assert [line[1].split(" in")[0] for line in step_lines(capsys.readouterr().out)] == [
        "done",
        "done already",
        "done already",
    ]

    write_notebook(project / "notebooks" / "05_plot.ipynb", PLOT, [*PLOT_CELLS, "1 + 1"])
    run(path, cell="all")
    assert [line[:1] + [line[1][:7]] for line in step_lines(capsys.readouterr().out)] == [["[1/1] all/plot", "done in"]]


def test_a_failed_step_says_what_where_and_how_to_go_on_and_keeps_its_pages(project, capsys):
    path = with_flaw(project, "raise KeyError('no\\nsuch thing')")
    with pytest.raises(StepFailed) as caught:
        run(path)
    message = str(caught.value)
    assert "\n" not in message and "main/make (01_make) failed after" in message and "KeyError: 'no" in message
    assert "(in cell [" in message and "see outputs/tiny/main/make/notebook.html" in message and " run " in message
    folder = project / "outputs/tiny/main/make"
    assert not (folder / "manifest.json").exists() and not (folder / ".running.ipynb").exists()
    assert "This run did not finish" in (folder / "notebook.html").read_text("utf-8")
    assert "KeyError" in (folder / "failed.txt").read_text("utf-8")

    run(with_flaw(project, ""))
    assert not (folder / "failed.txt").exists() and "did not finish" not in (folder / "notebook.html").read_text(
        "utf-8"
    )


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "the kernel died: killed, or out of memory"),
        ("steps.Step.finish = lambda self: None", "the notebook ended, but the step is not done: no manifest"),
        ("raise SystemExit(0)", "the step is not done: no manifest"),
        ("raise OSError(28, 'No space left on device')", "No space left on device"),
    ],
)
def test_only_a_verified_manifest_makes_a_step_done(project, flaw, message):
    with pytest.raises(StepFailed) as caught:
        run(with_flaw(project, flaw))
    assert message in str(caught.value) and not (project / "outputs/tiny/main/make/manifest.json").exists()


def test_a_stale_manifest_does_not_survive_a_failed_rerun(project):
    run(with_flaw(project, ""))
    assert manifest(project, "main", "make")["counts"] == {"rows": 3}
    with pytest.raises(StepFailed):
        run(with_flaw(project, "import os; os._exit(0)", number=4))
    assert not (project / "outputs/tiny/main/make/manifest.json").exists()


def test_what_the_kernel_started_and_left_behind_goes_with_it(project):
    flaw = "import subprocess; child = subprocess.Popen(['sleep', '600']); print('child', child.pid)"
    run(with_flaw(project, flaw))
    notebook = nbformat.read(project / "outputs/tiny/main/make/notebook.ipynb", as_version=4)
    text = next(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "child" in output.text)
    assert ended(int(text.split()[1]))


def test_no_secret_is_in_any_file_of_a_step_that_printed_it(project, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary0123456789abcdef")
    flaw = "import os; print(os.environ['OPENAI_API_KEY']); raise ValueError(os.environ['OPENAI_API_KEY'])"
    with pytest.raises(StepFailed) as caught:
        run(with_flaw(project, flaw))
    files = [path for path in (project / "outputs").rglob("*") if path.is_file()]
    assert len(files) > 3 and "[secret]" in str(caught.value)
    assert all(b"sk-canar" not in path.read_bytes() for path in files) and "sk-canar" not in str(caught.value)


def test_nothing_about_this_machine_is_in_the_executed_notebook_but_its_output(project):
    run(with_flaw(project, ""))
    notes = nbformat.read(project / "outputs/tiny/main/make/notebook.ipynb", as_version=4).metadata.papermill
    assert notes.input_path == "notebooks/01_make.ipynb" and str(project) not in json.dumps(notes)


@pytest.mark.parametrize("name", ["", "a" * 90])
def test_kernels_leave_no_file_beside_the_results(project, tmp_path, monkeypatch, name):
    if name:  # too long a path for sockets
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    before = set(project.iterdir())
    run(with_flaw(project, ""))
    assert set(project.iterdir()) - before == {project / "outputs"}
    assert not name or not list((tmp_path / name).glob("workbook-*"))


def test_until_and_cell_choose_and_name_the_closest(project, capsys):
    path = write_experiment(project / "params" / "tiny.yml", grid={"color": ["red", "blue"]})
    assert run(path, until="make", cell="red") is None
    assert [line[0] for line in step_lines(capsys.readouterr().out)] == ["[1/1] red/make"]
    for options, message in (
        ({"until": "mak"}, "no step 'mak' in this experiment: did you mean make?"),
        ({"cell": "rde"}, "no cell 'rde' in this experiment: did you mean red?"),
        ({"until": "make", "cell": "all"}, "exclude each other"),
    ):
        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            run(path, **options)


# --- before any work


def test_two_runners_the_second_stops_with_the_first_ones_pid(project):
    first = start(with_flaw(project, "import time; time.sleep(600)"), project)
    try:
        wait_for(lambda: (project / "outputs/tiny/.lock").exists() and (project / "outputs/tiny/.lock").read_text())
        with pytest.raises(BlockingIOError, match=f"is being run by process {first.pid}:"):
            run(project / "params" / "tiny.yml")
    finally:
        stop(first, signal.SIGTERM)
    run(with_flaw(project, ""))  # the lock of a runner that is gone holds nobody up


def test_an_output_folder_that_is_not_writable_stops_before_any_work(project):
    (project / "outputs").write_text("a file where a folder should be")
    with pytest.raises(PermissionError, match="cannot write to outputs/tiny .*WORKBOOK_OUTPUTS"):
        run(project / "params" / "tiny.yml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('prompter: str = "sandbox/promter"', "did you mean sandbox/prompter?"),
        ('reward_model: str = "./no-such-folder"', "no-such-folder"),
        ('judge: str = "api:gpt"', "api:gpt needs OPENAI_API_KEY, which is not set"),
        ('jury: list = ["sandbox/jugde"]', "did you mean sandbox/judge?"),
        ('judge: str = "reward:sandbox/responder"', "a reward model needs a ForSequenceClassification head"),
        ('dataset: str = "no/such/file.jsonl"', "no/such/file.jsonl"),
        ('seeds: str = "seeds.txt"', "seeds.txt"),
        ('templates: str = "sandbx"', "template folder params/templates/sandbx not found: did you mean sandbox?"),
        ('arms: list = ["nan", "alignpo"]', "unknown arm 'alignpo': did you mean alignpro?"),
        ('arms: list = ["chain:alignpro+poi"]', "unknown arm 'poi'"),
    ],
)
def test_what_this_machine_cannot_use_stops_before_any_work(project, monkeypatch, line, message):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (project / "params/templates/sandbox").mkdir(parents=True)
    write_notebook(project / "notebooks" / "04_more.ipynb", line + "\n", ["raise ValueError('ran')"])
    steps = [{"notebook": "01_make"}, {"notebook": "02_read"}, {"notebook": "04_more"}]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        run(write_experiment(project / "params" / "tiny.yml", shared={}, steps=steps))
    assert message in str(caught.value) and "main/more: " in str(caught.value)
    assert not (project / "outputs/tiny/main/make/manifest.json").exists()


def test_seeds_without_a_usable_prompt_stop_before_any_work(project):
    (project / "seeds.jsonl").write_text('{"instruction": "  "}\n')
    write_notebook(project / "notebooks" / "04_more.ipynb", 'seeds: str = "seeds.jsonl"', ["1"])
    with pytest.raises(ValueError, match="main/more: .*seeds.jsonl"):
        run(write_experiment(project / "params" / "tiny.yml", shared={}, steps=[{"notebook": "04_more"}]))


# --- signals: the runner as a process of its own


def start(path, project):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WORKBOOK_ROOT": str(project)}
    return subprocess.Popen(
        [sys.executable, "-m", "nbutils.run.cli", "run", str(path)],
        **{"cwd": project, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
    )


def stop(process, number):
    process.send_signal(number)
    return process.communicate(timeout=60)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ended(pid, seconds=5):
    """Whether a process ends within seconds."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, seconds)
    return True


STUBBORN = (
    "import os, signal, subprocess, time; from pathlib import Path; from nbutils.experiment.journal import Journal\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    "with Journal(run.folder / 'journal.jsonl') as journal: journal.append('0', {'text': color})\n"
    "Path('pids').write_text(f'{os.getpid()} {child.pid}')\n"
    "time.sleep(600)\n"
)


@pytest.mark.parametrize(
    ("number", "code", "stubborn"),
    [
        *((signal.SIGINT, 130, False), (signal.SIGTERM, 143, True), (signal.SIGHUP, 129, False)),
        (signal.SIGUSR1, 138, False),  # a scheduler's warning of its time limit
    ],
)
def test_a_signal_leaves_nothing_running_and_names_the_command_that_resumes(project, number, code, stubborn):
    flaw = STUBBORN if stubborn else STUBBORN.replace("signal.signal(signal.SIGINT, signal.SIG_IGN)\n", "")
    runner_process = start(with_flaw(project, flaw), project)
    wait_for(lambda: (project / "pids").exists() and len((project / "pids").read_text().split()) == 2)
    started = time.monotonic()
    said, errors = stop(runner_process, number)
    assert "stopping: the notebook has three seconds to end" in said
    assert runner_process.returncode == code and time.monotonic() - started < 10
    assert all(ended(int(pid), seconds=0.5) for pid in (project / "pids").read_text().split())
    line = errors.strip().splitlines()
    assert len(line) == 1 and "nothing is lost; resume:" in line[0] and "run " in line[0] and "tiny.yml" in line[0]
    journal = project / "outputs/tiny/main/make/journal.jsonl"
    assert json.loads(journal.read_text()) == {"key": "0", "value": {"text": "red"}}

    if stubborn:
        run(with_flaw(project, ""))  # goes on: the journalled answer is taken, the others are added
        assert len(journal.read_text().splitlines()) == 3


def test_a_killed_runner_leaves_a_kernel_that_ends_and_a_step_that_can_go_on(project):
    process = start(with_flaw(project, STUBBORN), project)
    wait_for(lambda: (project / "pids").exists() and len((project / "pids").read_text().split()) == 2)
    kernel, child = map(int, (project / "pids").read_text().split())
    process.kill()
    process.wait()
    assert ended(kernel, seconds=10)
    os.kill(child, signal.SIGKILL)  # a session of its own: nobody is left to end it
    run(with_flaw(project, ""))
    assert manifest(project, "main", "make")["counts"] == {"rows": 3}


# --- small parts


@pytest.mark.parametrize(
    ("error", "line"),
    [(None, ""), (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device")],
)
def test_what_ended_a_notebook_in_one_line(error, line):
    assert explain(error) == line


def test_a_long_reason_is_cut():
    assert len(explain(ValueError("x\n" * 5000))) < 450


# --- a full disk


def limited(project, path, kilobytes, **environment):
    """(exit code, stderr) of a run whose processes may write no file larger than this, as if the disk were full."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WORKBOOK_ROOT": str(project)}
    command = [sys.executable, "-m", "nbutils.run.cli", "run", str(path)]
    options = {"cwd": project, "env": environment, "preexec_fn": limit, "capture_output": True, "text": True}
    done = subprocess.run(command, **options, timeout=120, check=False)
    return done.returncode, done.stderr


def whole(project):
    """Asserts that no file below outputs/ is half a file, and that no step counts as done without its rows."""
    for path in (project / "outputs").rglob("*"):
        if path.suffix in (".json", ".ipynb") and path.name != ".running.ipynb":
            json.loads(path.read_text("utf-8"))
        assert path.suffix != ".html" or path.read_text("utf-8").rstrip().endswith("</html>")
        assert path.suffix != ".jsonl" or path.read_bytes().endswith(b"\n")
        if path.name == "manifest.json":
            assert steps.verify(path.parent)[0]


@pytest.mark.parametrize(
    ("kilobytes", "message"),
    [
        (1, "main/make (01_make) failed after"),  # the notebook itself
        (6, "File too large"),  # the journal
        (8, "main/make is done, but its page is not: File too large: outputs/tiny/main/make/notebook.html; resume:"),
        (14, "all/plot is done, but its page is not: File too large: outputs/tiny/all/plot/notebook.html; resume:"),
    ],
)
def test_a_full_disk_harms_no_file_and_the_next_run_goes_on(project, kilobytes, message):
    """Whatever does not fit: one line, what is there is whole, and everything is there once there is room."""
    both = [{"notebook": "01_make"}, {"notebook": "05_plot", "once": True}]
    path = write_experiment(project / "params" / "tiny.yml", shared={"seed": 1, "number": 200}, steps=both)
    code, said = limited(project, path, kilobytes)
    assert code == 1 and message in said and len(said.splitlines()) == 1
    whole(project)
    run(path)
    whole(project)
    pages = [project / "outputs/tiny" / place / "notebook.html" for place in ("main/make", "all/plot")]
    assert all(page.exists() for page in pages) and len(manifest(project, "main", "make")["outputs"]) >= 1


def test_a_report_that_does_not_fit_is_one_line_and_the_old_one_stays(project):
    path = project / "params" / "tiny.yml"
    page = run(path)
    before = page.read_bytes()
    page.unlink()
    code, said = limited(project, path, 8)
    assert code == 2 and said == "workbook: File too large: outputs/tiny/all/plot/report.html\n" and not page.exists()
    run(path)
    assert page.read_bytes() == before

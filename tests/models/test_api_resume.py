"""kill -9 in the middle of 01's and 04's work through a paid API: nothing is lost, and nothing known is paid for again.

The work is done in a process of its own, against a server in another process, whose ledger of billed requests is on
disk. The worker is killed at seeded random moments and run again until it is done.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import server as scripted

from nbutils.analyse import tables
from nbutils.collect import critique, invent
from nbutils.collect.collecting import Wanted, collect
from nbutils.data.novelty import NoveltyFilter
from nbutils.evaluate import answering, arms, controls, judging
from nbutils.experiment import paths, records
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Prompt, prompt_id
from nbutils.models import generate as g, templates
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.spending import Limits, SpendLimit
from nbutils.models.texts import Sampling, request_seed

ROOT = Path(__file__).resolve().parents[2]
LONG = 120.0  # seconds that only a hanging test can take
AT_ONCE, KILLS = 4, 5
SEEDS = ["tell me more", "say it", "what is a wolf like", "name the owl and the fox now", "describe one bear"]
UNLIMITED = Limits()
TESTED = ["what is it", "tell me of the wolf", "name two owls now", "why", "is it so that bears sleep", "say more"]


def collecting(folder: Path, limits: Limits = UNLIMITED) -> None:
    """01_collect's work, from seeds to pairs, with its journal in `folder`."""
    model, runtime, sampling = "api:m", Runtime(AT_ONCE, limits=limits), Sampling(seed=3)
    refuse, wanted = invent.refusal(2, 20, [], set()), Wanted(8, 14)
    with Journal(folder / "journal.jsonl") as journal:
        given = Conditions("sandbox", sampling, sampling, runtime, journal)
        made = invent.Invention(model, SEEDS, invent.Settings(2), refuse, NoveltyFilter(1.0), given)
        found = collect(made, model, critique.Loop(num_rounds=2), wanted, lambda rows: set())
    for name, rows in {"prompts": found.prompts, "rounds": found.rounds, "pairs": found.pairs}.items():
        records.write_rows(folder / f"{name}.jsonl", rows)


def evaluating(folder: Path, limits: Limits = UNLIMITED) -> None:
    """04_evaluate's work, from prompts to the summary: three arms, two judges, the judges' own trial."""
    runtime, sampling = Runtime(AT_ONCE, limits=limits), Sampling(seed=3)
    prompts = [Prompt(prompt_id(text), text, "set") for text in TESTED]
    built = [arms.build(name, folder, "api:m", "api:m") for name in ("nan", "untrained", "poir_s1")]
    judges, template = ("api:m", "api:n", "fakes:longer"), templates.load("judge_pairwise", "sandbox")
    panel = judging.Panel(judges, template, sampling, runtime=runtime)
    with Journal(folder / "journal.jsonl") as journal:
        given = Conditions("sandbox", sampling, sampling, runtime, journal)
        answers = [row for arm in built for row in answering.answer(arm, prompts, 1, given)]
        votes = judging.judge_arms(answers, "nan", panel, journal)
        trials = controls.judge_controls(answers, "nan", panel, controls.Trial(2, 2), journal)
    found = {"answers": answers, "votes": votes, "controls": trials}
    for name, rows in found.items():
        records.write_rows(folder / f"{name}.jsonl", rows)
    summary = tables.summary(answers, judging.verdicts_of(votes), "main")
    (folder / "summary.csv").write_bytes(tables.as_csv(summary))


WORK = {"collecting": collecting, "evaluating": evaluating}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Path of the ledger of a server that runs; OPENAI_* point at it."""
    ledger = tmp_path / "ledger.txt"
    command = [sys.executable, str(ROOT / "tests/server.py"), "--ledger", str(ledger), "--delay", "0.05"]
    command += ["--model", "everyone"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{process.stdout.readline().strip()}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "canary-1234567890")
        yield ledger
        process.kill()


def work_elsewhere(work, folder, environment):
    os.environ.update(environment)
    WORK[work](folder)


@pytest.fixture
def start(server, monkeypatch):
    """A function that starts some work on a folder, forked from a process that has done the slow imports once."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_api_resume", "openai.resources.chat"])
    environment = {name: value for name, value in os.environ.items() if name.startswith("OPENAI_")}

    def begin(work, folder):
        worker = context.Process(target=work_elsewhere, args=(work, folder, environment))
        worker.start()
        return worker

    return begin


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def answered(path):
    """Keys that the journal holds an answer for; a line that a kill has torn is none."""
    keys = [json.loads(line)["key"] for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
    return {key for key in keys if "#" not in key}


@pytest.fixture(params=WORK)
def calm(request, server, tmp_path, monkeypatch):
    """(name of the work, its folder after an undisturbed run, {journal key: ledger's name of the request})"""
    names, make, folder = {}, g.request, tmp_path / "calm"

    def named(identity, *given):  # what the ledger calls each request, by the journal's key
        made = make(identity, *given)
        if " api:" in identity:
            seed, model = request_seed(made) % 2**31, identity.split(" api:")[1]
            names[paths.sha256_json(made)] = scripted.fingerprint(made["messages"], seed, model)
        return made

    with monkeypatch.context() as watched:
        watched.setattr(g, "request", named)
        WORK[request.param](folder)
    paid = scripted.billed(server)
    assert set(paid.values()) == {1} and set(paid) == set(names.values()) and len(paid) == len(names)
    assert answered(folder / "journal.jsonl") & set(names) == set(names)
    server.write_text("")
    return request.param, folder, names


def same(calm: Path, rough: Path):
    """Asserts that two runs wrote the same bytes, their journals apart."""
    files, others = ({path for path in folder.iterdir() if path.stem != "journal"} for folder in (calm, rough))
    assert len(files) >= 3 and {path.name for path in files} == {path.name for path in others}
    assert all(path.read_bytes() == (rough / path.name).read_bytes() != b"" for path in files)


def test_work_through_an_api_survives_five_kills(server, start, calm, tmp_path):
    """The tables are those of an undisturbed run, byte for byte; no answer that the journal held when a run began is
    billed again; each kill repeats at most the calls that were in flight, and the journal counts them."""
    (work, quiet, names), rough, ledger = calm, tmp_path / "rough", server
    rng, journal, total, held = random.Random(7), rough / "journal.jsonl", lines(quiet / "journal.jsonl"), []
    for _ in range(KILLS):
        goal = lines(journal) + rng.randint(total // 16, total // 7)
        worker = start(work, rough)
        deadline = time.monotonic() + LONG
        while worker.is_alive() and lines(journal) < goal and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.06))
        worker.kill()
        worker.join(LONG)
        assert worker.exitcode == -signal.SIGKILL, "the worker ended before it was killed"
        held.append({names[key]: scripted.billed(ledger)[names[key]] for key in answered(journal) & set(names)})
    worker = start(work, rough)
    worker.join(LONG)
    assert worker.exitcode == 0

    same(quiet, rough)
    paid = scripted.billed(ledger)
    assert set(paid) == set(names.values()) and answered(journal) >= set(names)
    for before in held:
        assert len(before) > 0 and {name: paid[name] for name in before} == before
    repeated = sum(paid.values()) - len(paid)
    with Journal(journal) as final:
        unanswered = final.total("unanswered_calls")
    assert repeated <= unanswered <= KILLS * AT_ONCE


def test_work_that_meets_its_spend_limit_goes_on_under_a_higher_one(server, calm, tmp_path):
    """Raised a fifth at a time: each run makes the calls that it may, the last ends as an undisturbed one did, and no
    request was billed twice."""
    (work, quiet, names), rough, ledger = calm, tmp_path / "rough", server
    limits = [len(names) * part // 5 for part in range(1, 5)]
    for limit in limits:
        with pytest.raises(SpendLimit, match=f"spend limit of {limit} calls reached after {limit} calls"):
            WORK[work](rough, Limits(max_calls=limit))
        assert sum(scripted.billed(ledger).values()) == limit
    WORK[work](rough, Limits(max_calls=len(names)))
    same(quiet, rough)
    assert scripted.billed(ledger) == dict.fromkeys(names.values(), 1)

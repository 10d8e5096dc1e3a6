"""kill -9 in the middle of 01's work through a paid API: nothing is lost, and nothing known is paid for again.

Inventing and self-evaluation run in a process of their own, against a server in another process, whose ledger of
billed requests is on disk. The worker is killed at seeded random moments and run again until it is done.
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

from nbutils import collect, critique, invent, records
from nbutils import generate as g
from nbutils.generate import Sampling
from nbutils.models import Runtime
from nbutils.novelty import NoveltyFilter
from nbutils.records import Journal

ROOT = Path(__file__).resolve().parents[1]
LONG = 120.0  # seconds that only a hanging test can take
AT_ONCE, KILLS = 4, 5
SEEDS = ["tell me more", "say it", "what is a wolf like", "name the owl and the fox now", "describe one bear"]
NAMES = ("prompts.jsonl", "rounds.jsonl", "pairs.jsonl")


def work(folder: Path) -> None:
    """01_collect's work, from seeds to pairs, with its journal in `folder`."""
    model, runtime, sampling = "api:m", Runtime(AT_ONCE), Sampling(seed=3)
    refuse, settings = invent.refusal(2, 20, [], set()), invent.Settings(14, 2)
    with Journal(folder / "journal.jsonl") as journal:
        made = invent.invent(
            model, SEEDS, settings, refuse, NoveltyFilter(1.0), "sandbox", sampling, runtime, journal
        )  # fmt: skip
        rounds = critique.self_evaluate(
            model, model, made.rows, critique.Loop(num_rounds=2), "sandbox", sampling, runtime, journal
        )
    tables = (made.rows, rounds, collect.make_pairs(rounds, 4))
    for name, rows in zip(NAMES, tables, strict=True):
        records.write_rows(folder / name, rows)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Path of the ledger of a server that runs; OPENAI_* point at it."""
    ledger = tmp_path / "ledger.txt"
    command = [sys.executable, str(ROOT / "tests/server.py"), "--ledger", str(ledger), "--delay", "0.05"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{process.stdout.readline().strip()}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "canary-1234567890")
        yield ledger
        process.kill()


def work_elsewhere(folder, environment):
    os.environ.update(environment)
    work(folder)


@pytest.fixture
def start(server, monkeypatch):
    """A function that starts a worker on a folder, forked from a process that has done the slow imports once."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_collect_resume", "openai.resources.chat"])
    environment = {name: value for name, value in os.environ.items() if name.startswith("OPENAI_")}

    def begin(folder):
        worker = context.Process(target=work_elsewhere, args=(folder, environment))
        worker.start()
        return worker

    return begin


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def answered(path):
    """Keys that the journal holds an answer for; a line that a kill has torn is none."""
    keys = [json.loads(line)["key"] for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
    return {key for key in keys if "#" not in key}


def test_collecting_through_an_api_survives_five_kills(server, start, tmp_path, monkeypatch):
    """The tables are those of an undisturbed run, byte for byte; no answer that the journal held when a run began is
    billed again; each kill repeats at most the calls that were in flight, and the journal counts them."""
    ledger, names, request = server, {}, g.request

    def named(*given):  # what the ledger calls each request, by the journal's key
        made = request(*given)
        names[g.paths.sha256_json(made)] = scripted.fingerprint(made["messages"], g.request_seed(made) % 2**31)
        return made

    calm, rough = tmp_path / "calm", tmp_path / "rough"
    with monkeypatch.context() as watched:
        watched.setattr(g, "request", named)
        work(calm)
    paid = scripted.billed(ledger)
    assert set(paid.values()) == {1} and set(paid) == set(names.values()) and len(paid) == len(names)
    assert answered(calm / "journal.jsonl") == set(names)
    ledger.write_text("")

    rng, journal, total, held = random.Random(7), rough / "journal.jsonl", lines(calm / "journal.jsonl"), []
    for _ in range(KILLS):
        goal = lines(journal) + rng.randint(total // 16, total // 7)
        worker = start(rough)
        deadline = time.monotonic() + LONG
        while worker.is_alive() and lines(journal) < goal and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.06))
        worker.kill()
        worker.join(LONG)
        assert worker.exitcode == -signal.SIGKILL, "the worker ended before it was killed"
        held.append({names[key]: scripted.billed(ledger)[names[key]] for key in answered(journal)})
    worker = start(rough)
    worker.join(LONG)
    assert worker.exitcode == 0

    for name in NAMES:
        assert (rough / name).read_bytes() == (calm / name).read_bytes() and (calm / name).stat().st_size > 0
    paid = scripted.billed(ledger)
    assert set(paid) == set(names.values()) and answered(journal) == set(names)
    for before in held:
        assert len(before) > 0 and {name: paid[name] for name in before} == before
    repeated = sum(paid.values()) - len(paid)
    with Journal(journal) as final:
        unanswered = final.total("unanswered_calls")
    assert repeated <= unanswered <= KILLS * AT_ONCE

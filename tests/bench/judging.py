"""Judging over HTTP, resuming it, and rebuilding every table: how far from the ideal.

1. 1,000 pairs × 2 orders against a loopback server that answers in 50 ms, for some numbers of calls in flight. The
   ideal is calls × 50 ms / calls in flight; the server is a process of its own, tests/server.py.
2. The same again from the journal: no call, and its seconds.
3. 20,000 stored verdicts of 10 arms read again and every table of them rebuilt, with 10,000 bootstrap draws.

Run it by hand, from the repository's root, on an idle machine:

    .venv/bin/python tests/bench/judging.py
"""

import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from nbutils.analyse import standings, tables
from nbutils.evaluate.judging import Panel, judge_pairs
from nbutils.experiment import records
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Answer, Verdict
from nbutils.models import templates
from nbutils.models.devices import Runtime
from nbutils.models.texts import Sampling

DELAY, PAIRS = 0.05, 1000
SERVER = Path(__file__).resolve().parents[1] / "server.py"


def answer(number: int, arm: str, length: int) -> Answer:
    prompt, response = f"What is number {number} good for?", f"{number} " + "word " * length
    return Answer(f"id{number}", "set", prompt, arm, 0, prompt, [], response, random.gauss(length, 3), None, length)


def judged(folder: Path, in_flight: int) -> None:
    ledger = folder / f"ledger{in_flight}"
    command = [sys.executable, str(SERVER), "--ledger", str(ledger), "--delay", str(DELAY), "--model", "judge"]
    panel = Panel(("api:judge",), templates.load("judge_pairwise", "paper"), Sampling(0.0, max_new_tokens=64))
    pairs = [(answer(i, "a", 30 + i % 7), answer(i, "b", 45)) for i in range(PAIRS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        os.environ |= {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}/v1",
            "OPENAI_API_KEY": "k",
        }
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            with Journal(folder / f"journal{in_flight}.jsonl") as journal:
                votes = judge_pairs(pairs, replace(panel, runtime=Runtime(in_flight)), journal)
            seconds.append(time.perf_counter() - start)
        server.terminate()
    assert len(votes) == 2 * PAIRS and all(vote.verdict != "unscored" for vote in votes)
    billed, ideal = ledger.read_text().count("billed"), 2 * PAIRS * DELAY / in_flight
    print(
        f"{in_flight:3d} in flight: {seconds[0]:.2f} s, ideal {ideal:.2f} s, ratio {seconds[0] / ideal:.2f}", end="; "
    )
    print(f"again {seconds[1]:.2f} s, {billed} calls billed in all")


def rebuilt(folder: Path) -> None:
    rng, arms = random.Random(0), [f"arm{i}" for i in range(10)]
    answers = [asdict(answer(i, arm, 20 + rng.randint(0, 30))) for i in range(PAIRS) for arm in ("nan", *arms)]
    verdicts = [
        Verdict(f"id{i}", "set", arm, "nan", 0, first, rng.choice(["win", "tie", "lose"]), None, "[[A]]")
        for i in range(PAIRS)
        for arm in arms
        for first in (arm, "nan")
    ]
    records.write_rows(folder / "verdicts.jsonl", verdicts)
    start = time.perf_counter()
    read = pd.DataFrame([asdict(row) for row in records.read_rows(folder / "verdicts.jsonl", Verdict)])
    parts = {}
    for name, make in {
        "summary": lambda: tables.summary(answers, read, "main"),
        "comparisons": lambda: tables.with_holm(tables.comparisons(answers, read, "main")),
        "length controlled": lambda: standings.length_controlled(answers, read, "main"),
        "ratings": lambda: standings.rated(read, "main"),
        "conventions": lambda: standings.by_convention(read, "main"),
        "missing": lambda: tables.missing(answers, read),
    }.items():
        begun = time.perf_counter()
        make()
        parts[name] = time.perf_counter() - begun
    print(f"{len(verdicts):,} verdicts read, every table rebuilt: {time.perf_counter() - start:.1f} s", end=" (")
    print(", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items()) + ")")


def main() -> None:
    with TemporaryDirectory() as folder:
        for in_flight in (8, 16, 32):
            judged(Path(folder), in_flight)
        rebuilt(Path(folder))


if __name__ == "__main__":
    main()

"""POIR's collection on the sandbox: 1,000 prompts through invention and up to three rounds, and what batching brings.

First the whole of 01_collect's work, without kernel, figures or report: seconds for num_prompts prompts. Then the same
self-evaluation of some prompts in batches and one by one; both must give the same rounds. Run it by hand, from the
repository's root, on an idle machine:

    .venv/bin/python tests/bench/collection.py
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from nbutils.collect import critique, invent, pairing
from nbutils.collect.critique import Loop
from nbutils.data import sets
from nbutils.data.novelty import NoveltyFilter
from nbutils.experiment.journal import Journal
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.texts import Sampling

MODEL, RESPONDER = "sandbox/prompter", "sandbox/responder"
SHORT, LONG, LOOP = Sampling(max_new_tokens=96), Sampling(max_new_tokens=64), Loop(max_tokens=96)


def invented(num_prompts: int, journal: Journal | None, runtime: Runtime) -> list:
    seeds = sets.seeds("sandbox")
    refuse = invent.refusal(2, 150, [], set(), invent.scripts_of(seeds))
    given = Conditions("sandbox", SHORT, LONG, runtime, journal)
    made = invent.Invention(MODEL, seeds, invent.Settings(), refuse, NoveltyFilter(1.0), given)
    made.grow(num_prompts)
    return made.rows


def evaluated(prompts: list, journal: Journal | None, runtime: Runtime) -> list:
    return critique.self_evaluate(MODEL, RESPONDER, prompts, LOOP, Conditions("sandbox", SHORT, LONG, runtime, journal))


def timed(function, *arguments) -> tuple[list, float]:
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--one-by-one", type=int, default=60, help="prompts of the comparison")
    options = parser.parse_args()
    batched, single = Runtime(256), Runtime(1)
    invented(4, None, batched)  # loads the models
    with TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
        prompts, making = timed(invented, options.prompts, journal, batched)
        rounds, evaluating = timed(evaluated, prompts, journal, batched)
    pairs = pairing.make_pairs(rounds, LOOP.good_score)
    print(f"{len(prompts)} prompts, {len(rounds)} rounds, {len(pairs)} pairs in {making + evaluating:.1f} s")
    print(f"  inventing {making:.1f} s, respond-critique-rewrite {evaluating:.1f} s")
    few = prompts[: options.one_by_one]
    (together, quick), (apart, slow) = timed(evaluated, few, None, batched), timed(evaluated, few, None, single)
    assert together == apart, "batches changed a text"
    print(f"one by one / batched, {len(few)} prompts: {slow / quick:.1f} ({slow:.1f} s : {quick:.1f} s)")


if __name__ == "__main__":
    main()

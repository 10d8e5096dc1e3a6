"""How much of the RL reward function is spent outside the models: rendering, tokenising, journal, counting.

The sandbox's responder and reward model answer and score 64 rewrites a call, as in training; their forward passes and
sampling are timed inside, the whole call outside. The models have 0.8 M parameters, so that every real one makes the
share smaller. Run it by hand:

    .venv/bin/python tests/bench/reward_overhead.py
"""

import random
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from nbutils.data import sets
from nbutils.experiment.journal import Journal
from nbutils.models import generate, loading, scoring
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.sandbox import lessons, world
from nbutils.train import alignpro

CALLS, ROWS = 30, 64


def settings() -> alignpro.Settings:
    return alignpro.Settings("prompter", "rloo", 0.05, 2.0e-4, 60, 16, 4, 0, 1.0, 48, 64, 20, 0)


def timed(run_batches, spent: list):
    """run_batches whose forward passes are added to spent[0], in seconds."""

    def run(batches, forward):
        def measured(batch):
            start = time.perf_counter()
            made = forward(batch)
            spent[0] += time.perf_counter() - start
            return made

        return run_batches(batches, measured)

    return run


def main() -> None:
    spent = [0.0]
    generate.run_batches = scoring.run_batches = timed(generate.run_batches, spent)
    prompts, rng, runtime = [row.prompt for row in sets.load("sandbox", "train")], random.Random(0), Runtime(256)
    loading.load_causal("sandbox/responder", runtime), loading.load_reward("sandbox/reward", runtime)
    whole, inside = [], []
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
        models = alignpro.Models("sandbox/prompter", "sandbox/responder", "sandbox/reward")
        reward = alignpro.make_reward(models, settings(), Conditions("sandbox", runtime=runtime, journal=journal))
        for step in range(CALLS):
            x = [prompt for prompt in rng.sample(prompts, ROWS // 4) for _ in range(4)]
            texts = [lessons.rewrite(rng, prompt, subjects=world.TRAINING) for prompt in x]
            turns, state = [[{"content": text}] for text in texts], SimpleNamespace(global_step=step)
            spent[0], start = 0.0, time.perf_counter()
            reward(turns, [[1]] * ROWS, x, state, lambda name, value: None)
            whole.append(time.perf_counter() - start)
            inside.append(spent[0])
    shares = [1 - models_ / all_ for models_, all_ in zip(inside[1:], whole[1:], strict=True)]
    print(f"{statistics.median(shares):.1%} of the reward function outside the models (median of {len(shares)} calls)")
    print(f"{1000 * statistics.median(whole[1:]):.0f} ms a call of {ROWS} rewrites, journal included")


if __name__ == "__main__":
    main()

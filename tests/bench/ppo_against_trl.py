"""nbutils.ppo against the PPOTrainer that TRL dropped: seconds per step, and episodes to a mean reward of 0.9.

Both train the sandbox's prompter on the same prompts with the same 64 rollouts a step, lengths, two epochs, learning
rate, KL weight and reward rule: the gold score of the frozen sandbox responder's answer to the rewrite. They take
turns, a step each, so that other load on the machine meets both alike. Run it by hand; pytest never collects it.

The peer needs an environment of its own, anywhere outside the repository:

    python3.11 -m venv PEER
    PEER/bin/pip install torch==2.13.0
    PEER/bin/pip install "trl==1.12.*" rapidfuzz
    .venv/bin/python tests/bench/ppo_against_trl.py --peer PEER/bin/python
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BATCH = 64  # completions a step
EPOCHS = 2
LEARNING_RATE = 2.0e-4
KL_WEIGHT = 0.05
REWRITE_TOKENS, RESPONSE_TOKENS = 48, 64
TARGET, WINDOW = 0.9, 4  # mean reward, over so many steps
WARM_UP = 1  # steps left out of the times


# A side: one process that trains, and after every step reports and waits for its next turn


class Turns:
    """Prints {reward, seconds, scoring} after a step, then waits for a line; the waiting is not counted."""

    def __init__(self):
        self.rewards, self.scoring = [], 0.0
        self.start = time.perf_counter()

    def end_step(self) -> None:
        seconds = time.perf_counter() - self.start
        row = {"reward": sum(self.rewards) / len(self.rewards), "seconds": seconds, "scoring": self.scoring}
        print(json.dumps(row), flush=True)
        self.rewards, self.scoring = [], 0.0
        if not sys.stdin.readline():
            sys.exit()
        self.start = time.perf_counter()


def make_score(turns: Turns, seed: int):
    """score(prompts, rewrites) → gold rewards of the frozen responder's answers, both lists of texts."""
    from nbutils.evaluate import arms
    from nbutils.models import scoring
    from nbutils.models.devices import Runtime
    from nbutils.models.generate import generate
    from nbutils.models.texts import Sampling

    runtime, number = Runtime(BATCH), iter(range(10**9))
    sampling = Sampling(1.0, max_new_tokens=RESPONSE_TOKENS, seed=seed)

    def score(prompts, rewrites):
        start = time.perf_counter()
        sent = [arms.sent(arms.clean_rewrite(text), x) for text, x in zip(rewrites, prompts, strict=True)]
        made = generate("sandbox/responder", sent, sampling, runtime, samples=[next(number) for _ in sent])
        found = scoring.score("sandbox/gold", prompts, [each.text for each in made], runtime)
        turns.rewards += found
        turns.scoring += time.perf_counter() - start
        return found

    return score


def requests(num_steps: int, seed: int):
    """(x, messages that ask the prompter for a rewrite of x) for all rollouts, in order."""
    import random

    from nbutils.data import sets
    from nbutils.evaluate import arms
    from nbutils.models import templates

    prompts, rng, drawn = [row.prompt for row in sets.load("sandbox", "train")], random.Random(seed), []
    while len(drawn) < num_steps * BATCH:
        drawn += rng.sample(prompts, len(prompts))
    drawn = drawn[: num_steps * BATCH]
    return drawn, arms.rewrite_requests(templates.load("meta_prompt", "sandbox"), drawn)


def arguments(folder: str, seed: int) -> dict:
    """What both configs take."""
    return {
        "output_dir": folder,
        "seed": seed,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "temperature": 1.0,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
    }


def train_ours(turns: Turns, num_steps: int, seed: int, folder: str, critic: str) -> None:
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback

    from nbutils.models import loading, references
    from nbutils.train.ppo import PPOConfig, PPOTrainer

    class Report(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % EPOCHS == 0:
                turns.end_step()

    score, (drawn, messages) = make_score(turns, seed), requests(num_steps, seed)
    trainer = PPOTrainer(
        model=references.resolve("sandbox/prompter"),
        reward_funcs=lambda completions, x, **_: score(x, [turn[0]["content"] for turn in completions]),
        args=PPOConfig(
            **arguments(folder, seed),
            num_iterations=EPOCHS,
            critic=critic,
            num_generations=1,
            max_completion_length=REWRITE_TOKENS,
            beta=KL_WEIGHT,
            max_steps=num_steps * EPOCHS,
            shuffle_dataset=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": messages, "x": drawn}),
        processing_class=loading.load_tokenizer("sandbox/prompter"),
        callbacks=[Report()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def train_peer(turns: Turns, num_steps: int, seed: int, folder: str, _critic: str) -> None:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PrinterCallback, TrainerCallback
    from transformers.modeling_outputs import BaseModelOutput
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from nbutils.models import loading, references

    score, (drawn, messages) = make_score(turns, seed), requests(num_steps, seed)
    tokenizer, path = loading.load_tokenizer("sandbox/prompter"), references.resolve("sandbox/prompter")
    asked = [tokenizer.apply_chat_template(each, add_generation_prompt=True)["input_ids"] for each in messages]
    prompt_of = {tuple(ids): x for ids, x in zip(asked, drawn, strict=True)}
    start = tokenizer.convert_tokens_to_ids("<|assistant|>")

    class Backbone(nn.Module):
        """The same score as a network's hidden state, at every position: the peer takes no other reward."""

        def forward(self, input_ids, attention_mask, **_):
            rows = [ids[kept].tolist() for ids, kept in zip(input_ids, attention_mask, strict=True)]
            cuts = [row.index(start) + 1 for row in rows]
            prompts = [prompt_of[tuple(row[:cut])] for row, cut in zip(rows, cuts, strict=True)]
            texts = [row[cut:] for row, cut in zip(rows, cuts, strict=True)]
            found = torch.tensor(score(prompts, tokenizer.batch_decode(texts, skip_special_tokens=True)))
            return BaseModelOutput(hidden_states=(found[:, None, None].expand(-1, input_ids.shape[1], 1),))

    class Reward(nn.Module):
        base_model_prefix = "backbone"

        def __init__(self):
            super().__init__()
            self.backbone, self.score = Backbone(), nn.Identity()

    class Report(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            turns.end_step()

    torch.manual_seed(seed)
    trainer = PPOTrainer(
        args=PPOConfig(
            **arguments(folder, seed),
            num_ppo_epochs=EPOCHS,
            num_mini_batches=1,
            total_episodes=num_steps * BATCH,
            local_rollout_forward_batch_size=BATCH,
            num_sample_generations=0,
            response_length=REWRITE_TOKENS,
            stop_token="eos",
            kl_coef=KL_WEIGHT,
        ),
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(path),
        ref_model=AutoModelForCausalLM.from_pretrained(path),
        reward_model=Reward(),
        value_model=AutoModelForSequenceClassification.from_pretrained(path, num_labels=1),
        train_dataset=Dataset.from_dict({"input_ids": asked}),
        eval_dataset=Dataset.from_dict({"input_ids": asked[:BATCH]}),
        callbacks=[Report()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def run_side(side: str, num_steps: int, seed: int, critic: str) -> None:
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    real, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed
    turns = Turns()
    end_step = turns.end_step

    def report():
        sys.stdout = real
        end_step()
        sys.stdout = sys.stderr

    turns.end_step = report
    with tempfile.TemporaryDirectory() as folder:
        {"ours": train_ours, "peer": train_peer}[side](turns, num_steps, seed, folder, critic)


# The driver: lets the sides take turns, and sums up


def compare(pythons: dict, num_steps: int, seed: int, critic: str) -> dict:
    """{side: {"episodes" to the target or None, "seconds", "training" (but for scoring) of each step}}.

    A side stops once it is there.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    sides = {}
    for side, python in pythons.items():
        command = [python, __file__, "--side", side, "--steps", str(num_steps), "--seed", str(seed)]
        command += ["--critic", critic]
        log = tempfile.TemporaryFile("w+")
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        sides[side] = subprocess.Popen(command, env=environment, **options), log
    steps = {side: [] for side in sides}
    for number in range(num_steps):
        for side, (process, log) in sides.items():
            if reached(steps[side]) is not None and min(map(len, steps.values())) >= WARM_UP + 4:
                continue
            if number:  # its turn; the first step is not timed
                process.stdin.write("\n")
                process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                log.seek(0)
                raise RuntimeError(f"{side} ended at step {number}:\n{log.read()[-3000:]}")
            steps[side].append(json.loads(line))
    for process, _ in sides.values():
        process.kill()
        process.wait()
    return {
        side: {
            "episodes": reached(rows),
            "seconds": [row["seconds"] for row in rows[WARM_UP:]],
            "training": [row["seconds"] - row["scoring"] for row in rows[WARM_UP:]],
        }
        for side, rows in steps.items()
    }


def reached(rows: list[dict]) -> int | None:
    """Completions until the mean reward of the last WINDOW steps was at least TARGET; None if it never was."""
    for end in range(WINDOW, len(rows) + 1):
        if statistics.mean(row["reward"] for row in rows[end - WINDOW : end]) >= TARGET:
            return end * BATCH
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="python of the peer's environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40, help="at most so many a side")
    parser.add_argument(
        "--critic", choices=["shared", "separate"], default="shared", help="ours; the peer's is separate"
    )
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        return run_side(given.side, given.steps, given.seed, given.critic)
    if not given.peer:
        parser.error("--peer: wanted the python of an environment with TRL 1.12 (see the top of this file)")
    pythons = {"ours": sys.executable, "peer": given.peer}
    found = [compare(pythons, given.steps, seed, given.critic) for seed in given.seeds]
    for kind, label in (("seconds", "seconds per step"), ("training", "the same without the reward rule")):
        ours, peer = (
            statistics.median(value for row in found for value in row[side][kind]) for side in ("ours", "peer")
        )
        print(f"{ours / peer:.2f} of the peer's {label}: {ours:.2f} s against {peer:.2f} s (medians)")
    print(f"episodes to a mean reward of {TARGET} over {WINDOW} steps, ours against the peer's:")
    for seed, row in zip(given.seeds, found, strict=True):
        shown = [row[side]["episodes"] or f"more than {given.steps * BATCH}" for side in ("ours", "peer")]
        print(f"  seed {seed}: {shown[0]} against {shown[1]}")


if __name__ == "__main__":
    main()

"""Align-Pro: train the prompter (or, as the oracle, the responder) by policy gradient on the reward of the response.

    maximise over ρ   E[ r(x, y) ] − λ · KL(ρ(·|x) ‖ ρ_sft(·|x)),   x' ~ ρ(·|x),  y ~ π_F(·|x')        (Eq. 9)

| algorithm | baseline of the policy gradient | where the KL stands |
|---|---|---|
| ppo | a critic (ppo.py); clipped updates | λ (log ρ − log ρ_sft) off each token's reward: Eq. 9 |
| rloo | the prompt's other rewrites | λ · Σ_t (log ρ − log ρ_sft) off each rewrite's reward: Eq. 9 |
| grpo | the prompt's group, over its SD | a k3 estimate per token, weight λ, in the loss: another objective |

rloo and grpo are TRL's. The paper trains by ppo; rloo is the default because it costs less time for as much reward.
A step is one rollout of prompts_per_step × rewrites_per_prompt rewrites, whatever number of updates is made of it.
What is asked for is in alignpro_settings, what a rollout earns in alignpro_reward.
"""

import os
import random
import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from transformers import TrainerCallback

from nbutils.evaluate import arms
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Prompt, read_rows
from nbutils.models import chat, loading, references, templates
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions, render
from nbutils.models.padding import is_padding_harmless
from nbutils.models.texts import encodable, messages_of, opened
from nbutils.train import training
from nbutils.train.alignpro_reward import make_reward
from nbutils.train.alignpro_settings import Models, Settings, check

_NAMES = {
    "reward": "reward",
    "reward_std": "reward_sd",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "rewrite_tokens",
    "completions/clipped_ratio": "share_cut_off",
    "empty": "share_empty",
    "unchanged": "share_unchanged",
    "answered": "share_answered",
    "raw_reward": "raw_reward",
    "unscored": "share_unscored",
    "value_loss": "value_loss",
    "explained_variance": "explained_variance",
    "clip_fraction": "clip_fraction",
    "kl_weight": "kl_weight",
    "update_kl": "update_kl",
    "updates_skipped": "updates_skipped",
    "learning_rate": "learning_rate",
    "step_time": "seconds",
}


class Trained(NamedTuple):
    """history: one row per rollout; checkpoints: {"step N" | "trained": model folder}, in order of training.

    num_tokens: what the policy wrote in all rollouts; the frozen responder's answers to it are in the journal.
    """

    history: list[dict]
    checkpoints: dict[str, str]
    num_tokens: int


def train(prompts: list[Prompt], models: Models, settings: Settings, folder: Path, given: Conditions) -> Trained:
    """Train the policy on prompts; writes model/, arm.json, history.jsonl and the journal of responses into folder.

    prompts: x, drawn in shuffled order and repeated as often as num_steps asks; responder and reward model never
    meet the optimiser. given: templates and runtime. Raises ValueError for settings that cannot work,
    FloatingPointError for numbers that are not finite, naming the last good checkpoint. A run that was killed goes on
    from its last complete checkpoint to the same numbers, and asks for no response again.
    """
    check(settings, prompts)
    config_class, trainer_class = _classes(settings.algorithm)
    policy, runtime = models.trained(settings.policy), given.runtime
    references.check(policy, "trained")
    identity = [references.identity(each) for each in (policy, models.responder, models.reward_model)]
    work = training.checkpoint_folder(folder, asdict(settings), identity, [row.prompt_id for row in prompts])
    tokenizer = loading.load_tokenizer(policy, runtime)
    template = "meta_prompt" if settings.policy == "prompter" else None
    begun = opened(render(policy, tokenizer, messages_of("a prompt")), "")
    warnings.filterwarnings("ignore", message=".*tokenizer has new PAD/BOS/EOS tokens.*")
    with Journal(Path(folder) / "journal.jsonl") as journal:
        trainer = trainer_class(
            model=references.resolve(policy),
            reward_funcs=make_reward(models, settings, replace(given, journal=journal, progress=False), work, begun),
            args=_config(config_class, work, policy, settings, runtime),
            train_dataset=_dataset(drawn(prompts, settings), template and templates.load(template, given.templates)),
            processing_class=tokenizer,
            peft_config=training.lora(settings.lora_rank),
            callbacks=[_KeepSnapshots(work)],
        )
        if not trainer.is_deepspeed_enabled and not is_padding_harmless(trainer.model):  # TRL pads on the left
            why = "counts padding in front of a prompt as text, and rollouts are padded so"
            raise ValueError(f"{policy} {why}: train it by 03_train_poir, or name another model")
        _ask_as_generate(trainer, policy, tokenizer)
        logged = training.run(trainer, work, f"{settings.algorithm} {settings.policy}", runtime)
    training.export(trainer, tokenizer, Path(folder) / "model")
    arms.write_arm(folder, settings.policy, template, None)
    history = _write_history(folder, logged, settings.updates_per_step)
    num_tokens = sum(row["rewrite_tokens"] or 0 for row in history) * settings.rewrites_per_step
    checkpoints = _snapshots(work, settings) | {"trained": str(Path(folder) / "model")}
    return Trained(history, checkpoints, round(num_tokens))


def fit(prompts: list[Prompt], policy: str, max_tokens: int, how: str, runtime: Runtime) -> tuple[list[Prompt], int]:
    """(prompts of at most max_tokens tokens by the policy's tokenizer, in order; how many were longer).

    how: drop leaves longer ones out, truncate keeps their first max_tokens tokens under the same prompt_id.
    """
    tokenizer = loading.load_tokenizer(policy, runtime)
    texts = [encodable(row.prompt) for row in prompts]
    tokens = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    kept = [
        row if len(ids) <= max_tokens else replace(row, prompt=tokenizer.decode(ids[:max_tokens]).strip())
        for row, ids in zip(prompts, tokens, strict=True)
        if len(ids) <= max_tokens or how == "truncate"
    ]
    return kept, sum(len(ids) > max_tokens for ids in tokens)


def _ask_as_generate(trainer, policy: str, tokenizer) -> None:
    """Rollouts read the prompt ids that generate feeds the model, and end where it ends: TRL's own know neither a
    template that refuses a system message, nor the step's day, nor the token by which a template ends an answer."""

    def ids(prompts: list) -> tuple[list, None, dict]:
        return chat.encode(tokenizer, [render(policy, tokenizer, prompt) for prompt in prompts]), None, {}

    trainer._tokenize_prompts = ids  # TRL's private one; it returns images and their fields too
    end = chat.turn_end(policy, tokenizer)
    if end is not None and end not in trainer.eos_token_ids:
        trainer.eos_token_ids.append(end)
        trainer.generation_config.eos_token_id = trainer.eos_token_ids


def _classes(algorithm: str):
    """(config, trainer) of an algorithm. All take the KL weight as `beta`; GRPO's own default would be 0."""
    if algorithm == "ppo":
        from nbutils.train.ppo import PPOConfig, PPOTrainer

        return PPOConfig, PPOTrainer
    import trl

    name = algorithm.upper()
    return getattr(trl, f"{name}Config"), getattr(trl, f"{name}Trainer")


def _config(config_class, work: Path, policy: str, settings: Settings, runtime: Runtime):
    total = settings.rewrites_per_step
    minibatch = total // (settings.ppo_minibatches if settings.algorithm == "ppo" else 1)
    forward = max(size for size in range(1, min(runtime.batch_size, minibatch) + 1) if minibatch % size == 0)
    limit = settings.max_rewrite_tokens if settings.policy == "prompter" else settings.max_response_tokens
    updates = settings.updates_per_step
    return config_class(
        **training.arguments(work, runtime, settings.seed, settings.save_steps * updates),
        **(_ppo_arguments(settings) if settings.algorithm == "ppo" else {}),
        per_device_train_batch_size=forward,
        gradient_accumulation_steps=minibatch // forward,
        steps_per_generation=total // forward,
        num_generations=settings.rewrites_per_prompt,
        max_completion_length=limit,
        temperature=settings.temperature,
        beta=settings.kl_weight,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        max_steps=settings.num_steps * updates,
        model_init_kwargs=training.load_kwargs(policy, runtime, settings.lora_rank),
        shuffle_dataset=False,
    )


def _ppo_arguments(settings: Settings) -> dict:
    """What PPOConfig takes beside RLOOConfig's arguments; 0 is off, or the trainer's own choice."""
    names = ("critic_learning_rate", "target_kl", "max_update_kl")
    known = {name: getattr(settings, name) or None for name in names}
    plain = {"critic": settings.critic, "num_iterations": settings.ppo_epochs, "kl_horizon": settings.kl_horizon}
    return known | plain


_STATE = (
    "optimizer",
    "scheduler",
    "rng_state",
    "trainer_state",
    "training_args",
    "complete",
    "critic",
)


class _KeepSnapshots(TrainerCallback):
    """Keeps the weights of every checkpoint beside it, by hard links: the points of the reward-KL frontier."""

    def __init__(self, work: Path):
        self.work = work

    def on_train_begin(self, args, state, control, **_):
        for path in self.work.glob("checkpoint-*"):
            self._keep(path)

    def on_save(self, args, state, control, **_):
        if state.is_world_process_zero:
            self._keep(self.work / f"checkpoint-{state.global_step}")

    def _keep(self, checkpoint: Path) -> None:
        target = self.work / checkpoint.name.replace("checkpoint", "snapshot")
        scratch = target.with_name(f".{target.name}.linking")
        if target.exists() or not checkpoint.is_dir():
            return
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for file in checkpoint.iterdir():
            if file.is_file() and not file.name.startswith(_STATE):
                try:
                    os.link(file, scratch / file.name)
                except OSError:  # a file system without hard links
                    shutil.copy2(file, scratch / file.name)
        scratch.rename(target)


def _snapshots(work: Path, settings: Settings) -> dict[str, str]:
    """{"step N": folder} of the checkpoints before the last step, in order; steps are rollouts."""
    updates = settings.updates_per_step
    found = {int(path.name.split("-")[1]) // updates: str(path) for path in Path(work).glob("snapshot-*")}
    return {f"step {step}": found[step] for step in sorted(found) if step < settings.num_steps}


def drawn(prompts: list[Prompt], settings: Settings) -> list[Prompt]:
    """The prompts of the whole training in order: shuffled passes, one after the other, cut to what is needed.

    TRL's own sampler would draw another order for every pass after the first when a run is resumed.
    """
    rng = random.Random(settings.seed)
    rows: list[Prompt] = []
    while len(rows) < settings.num_steps * settings.prompts_per_step:
        rows += rng.sample(prompts, len(prompts))
    return rows[: settings.num_steps * settings.prompts_per_step]


def _dataset(prompts: list[Prompt], template):
    """Rows {prompt: messages, x: the original prompt}."""
    from datasets import Dataset

    texts = [encodable(row.prompt) for row in prompts]
    turns = arms.rewrite_requests(template, texts) if template else [[{"role": "user", "content": x}] for x in texts]
    return Dataset.from_dict({"prompt": turns, "x": texts})


def _write_history(folder: Path, rows: list[dict], updates: int) -> list[dict]:
    """history.jsonl: a row per rollout, its last update's losses; KL in nats per completion (TRL logs it per token)."""
    rollouts: dict[int, dict] = {}
    for row in rows:
        if "loss" in row:
            number = (row["step"] - 1) // updates + 1
            known = rollouts.get(number, {})
            seconds = known.get("step_time", 0.0) + row.get("step_time", 0.0)
            rollouts[number] = known | row | {"step": number, "step_time": seconds}
    per_sequence = [training.per_sequence(row) for row in rollouts.values()]
    return read_rows(training.write_history(Path(folder) / "history.jsonl", per_sequence, _NAMES))

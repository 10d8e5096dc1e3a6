"""POIR: preference optimisation of "rewrite + response", and its ablations, from the pairs of 01_collect.

    P(P_opt, A | P_ori) = P(P_opt | P_ori) · P(A | P_opt, P_ori)                                       (Eq. 1)

What each target teaches is in poir_texts. Departure from TRL 1.16: DPO's log-probabilities are logged for the two
factors of Eq. 1 apart (see `PartsTrainer`).
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from nbutils.data.pairs import PreferencePair
from nbutils.evaluate import arms
from nbutils.experiment import records
from nbutils.experiment.records import Pair
from nbutils.models import loading, references, templates
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.texts import Generation
from nbutils.train import poir_texts, training
from nbutils.train.poir_texts import TARGETS, without_delimiter

PARTS = ("rewrite", "response")  # Eq. 1's factors; the delimiter is the rewrite's last word
_DPO_NAMES = {
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "logps/chosen": "logps_chosen",
    "logps/rejected": "logps_rejected",
    "learning_rate": "learning_rate",
}
_PART_NAMES = {
    f"{theirs}/{side}_{part}": f"{ours}_{side}_{part}"
    for theirs, ours in (("logps", "logps"), ("rewards", "reward"))
    for side in ("chosen", "rejected")
    for part in PARTS
} | {f"rewards/margin_{part}": f"margin_{part}" for part in PARTS}
_SFT_NAMES = {"loss": "loss", "mean_token_accuracy": "accuracy", "entropy": "entropy", "learning_rate": "learning_rate"}


@dataclass(frozen=True)
class Settings:
    """target: see poir_texts; beta: DPO's β (unused by sft); max_tokens: longest prompt + completion."""

    target: str
    beta: float
    learning_rate: float
    num_epochs: float
    train_batch_size: int
    gradient_accumulation: int
    lora_rank: int
    max_tokens: int
    save_steps: int
    seed: int


class Trained(NamedTuple):
    """history: its rows; lengths: counts of pairs that max_tokens cut or left out; num_tokens: what was trained on."""

    history: list[dict]
    lengths: dict[str, int]
    num_tokens: int


def train(
    pairs: list[Pair] | list[PreferencePair],
    prompter: str,
    responder: str,
    settings: Settings,
    folder: Path,
    given: Conditions,
) -> Trained:
    """Train on pairs; writes model/, arm.json and history.jsonl into folder. given: templates and runtime.

    Log-probabilities and losses in nats; those of target poir also per part of the text. Raises ValueError for settings
    or pairs that cannot work. A run that was killed goes on from its last complete checkpoint to the same numbers.
    """
    check(settings, pairs)
    policies, runtime = {"prompter": prompter, "responder": responder}, given.runtime
    policy = policies[poir_texts.use(settings.target)[0]]
    references.check(policy, "trained")
    tokenizer = loading.load_tokenizer(policy, runtime)
    texts = poir_texts.examples(pairs, settings.target, given.templates)
    made = poir_texts.tokenize(texts, settings.target, tokenizer, policy)
    rows, lengths = poir_texts.fitting(made, settings.max_tokens)
    work = training.checkpoint_folder(folder, asdict(settings), references.identity(policy), rows)
    trainer = _trainer(policy, rows, tokenizer, settings, work, runtime)
    history = training.run(trainer, work, settings.target, runtime)
    training.export(trainer, tokenizer, Path(folder) / "model")
    arms.write_arm(folder, *poir_texts.use(settings.target))
    names = _SFT_NAMES if settings.target == "sft" else _DPO_NAMES
    names = names | (_PART_NAMES if settings.target == "poir" else {})
    written = records.read_rows(training.write_history(Path(folder) / "history.jsonl", history, names))
    return Trained(written, lengths, poir_texts.tokens_seen(rows, settings.max_tokens, settings.num_epochs))


def check(settings: Settings, pairs: list[Pair] | list[PreferencePair]) -> None:
    """ValueError, in one line, for settings or pairs that cannot train."""
    if settings.target not in TARGETS:
        raise ValueError(f"target {settings.target!r}: wanted one of {', '.join(TARGETS)}")
    if not pairs:
        raise ValueError("no preference pair: every prompt's rounds were all good, all bad or unscored; see 01_collect")
    if settings.beta <= 0 and settings.target != "sft":
        raise ValueError(f"beta {settings.beta}: DPO wants β > 0")
    if settings.target != "dpo_awo" and isinstance(pairs[0], PreferencePair):
        raise ValueError(f"target {settings.target}: these pairs hold responses and no rewrites; wanted target dpo_awo")
    num = len(without_delimiter(pairs, settings.target)[1])
    if num:
        line = templates.DELIMITER.strip()
        raise ValueError(f"{num} of {len(pairs)} pairs hold the delimiter's line {line!r} themselves: leave them out")


# Training


class PartsCollator(DataCollatorForPreference):
    """TRL's batch of token ids, with response_mask: 1 on the tokens behind the delimiter."""

    def torch_call(self, examples: list[dict]) -> dict:
        batch = super().torch_call(examples)
        sides = ("chosen_split", "rejected_split")
        starts = torch.tensor([len(row["prompt_ids"]) + row[side] for side in sides for row in examples])  # (2B,)
        places = torch.arange(batch["input_ids"].shape[1])  # (T,)
        return batch | {"response_mask": batch["completion_mask"] * (places >= starts[:, None])}  # (2B, T)


class PartsTrainer(DPOTrainer):
    """TRL's DPO on rows of `tokenize`, logging log-probabilities and implicit rewards of rewrite and response apart.

    log π(rewrite + response) = log π(rewrite) + log π(response | rewrite) (Eq. 1), so each logged number is the sum of
    its two parts, and so is the margin β·[log π/π_ref (chosen) − log π/π_ref (rejected)]. The loss is TRL's.
    tests/train/test_poir.py records the signatures of the methods overridden here: they are TRL's private ones.
    """

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset

    def _compute_loss(self, model, inputs, return_outputs):
        batch, seen = dict(inputs), []
        response = batch.pop("response_mask")
        watched = [network for network in (self.model, self.ref_model) if network is not None]
        hooks = [
            network.register_forward_hook(lambda _, __, output: seen.append(output.log_probs.detach()))
            for network in watched
        ]
        try:
            result = super()._compute_loss(model, batch, return_outputs)
        finally:
            for hook in hooks:
                hook.remove()
        policy, reference = seen  # TRL asks the policy first; with LoRA both are one network
        self._log_parts(policy, reference, batch["completion_mask"], response)
        return result

    def _log_parts(self, policy, reference, completion, response) -> None:
        """policy, reference: (2B, T − 1) log-probabilities, chosen first; completion, response: (2B, T) masks."""
        log = self._metrics["train" if self.model.training else "eval"]
        for part, mask in zip(PARTS, (completion - response, response), strict=True):
            mask = mask[:, 1:]  # (2B, T − 1)
            logps, before = ((each[:, -mask.shape[1] :] * mask).sum(1) for each in (policy, reference))  # (2B,)
            rewards = self.beta * (logps - before)
            means = {}
            for name, values in (("logps", logps), ("rewards", rewards)):
                for side, half in zip(("chosen", "rejected"), values.chunk(2), strict=True):
                    means[f"{name}/{side}_{part}"] = self.accelerator.gather(half).mean().item()
            means[f"rewards/margin_{part}"] = means[f"rewards/chosen_{part}"] - means[f"rewards/rejected_{part}"]
            for name, value in means.items():
                log[name].append(value)


def _trainer(policy: str, rows: list[dict], tokenizer, settings: Settings, work: Path, runtime: Runtime):
    from datasets import Dataset

    shared = training.arguments(work, runtime, settings.seed, settings.save_steps) | {
        "per_device_train_batch_size": settings.train_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.num_epochs,
        "max_length": settings.max_tokens,
        "model_init_kwargs": training.load_kwargs(policy, runtime, settings.lora_rank),
    }
    common = {
        "model": references.resolve(policy),
        "processing_class": tokenizer,
        "peft_config": training.lora(settings.lora_rank),
    }
    if settings.target == "sft":
        from trl import SFTConfig, SFTTrainer

        return SFTTrainer(args=SFTConfig(**shared), train_dataset=Dataset.from_list(_labelled(rows)), **common)
    from trl import DPOConfig

    return PartsTrainer(
        args=DPOConfig(**shared, beta=settings.beta, remove_unused_columns=False),
        train_dataset=Dataset.from_list(rows),
        data_collator=PartsCollator(tokenizer.pad_token_id, settings.max_tokens),
        **common,
    )


def _labelled(rows: list[dict]) -> list[dict]:
    """TRL's SFT rows: the loss is on the completion alone."""
    return [
        {
            "input_ids": row["prompt_ids"] + row["completion_ids"],
            "labels": [-100] * len(row["prompt_ids"]) + row["completion_ids"],
        }
        for row in rows
    ]


# Inference


def rewritten(arm: arms.Arm, prompts: list[str], given: Conditions) -> list[Generation]:
    """What an arm's first prompter writes for each prompt, asked as `answering.answer` does: nothing is asked twice.

    finish "length": it reached neither the delimiter nor its own end within max_new_tokens, and was cut there.
    """
    if not arm.prompters:
        return []
    first = arm.prompters[0]
    stopping = replace(given.rewriting, stop=(first.stop,) if first.stop else ())
    requests = arms.rewrite_requests(templates.load(first.template, given.templates), prompts)
    return given.ask(first.model, requests, stopping)

"""POIR: preference optimisation of "rewrite + response", and its ablations, from the pairs of 01_collect.

    P(P_opt, A | P_ori) = P(P_opt | P_ori) · P(A | P_opt, P_ori)                                       (Eq. 1)

| target  | trains    | prompt          | chosen against rejected                            |
|---------|-----------|-----------------|----------------------------------------------------|
| poir    | prompter  | rewrite request | rewrite + delimiter + response, good against bad   |
| dpo_awi | prompter  | rewrite request | rewrite alone, good against bad                    |
| sft     | prompter  | rewrite request | the good rewrite alone                             |
| dpo_awo | responder | the prompt      | response, good against bad                         |

`poir` asks with the template rewrite_answer, which announces the response; the others, which never write one, ask
with meta_prompt. At inference generation stops at the delimiter.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from nbutils import arms, models, records, templates, training
from nbutils.models import Runtime
from nbutils.records import Pair

TARGETS = ("poir", "dpo_awi", "sft", "dpo_awo")
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
_SFT_NAMES = {"loss": "loss", "mean_token_accuracy": "accuracy", "entropy": "entropy", "learning_rate": "learning_rate"}


@dataclass(frozen=True)
class Settings:
    """target: see the module's table; beta: DPO's β (unused by sft); max_tokens: longest prompt + completion."""

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


def train(
    pairs: list[Pair],
    prompter: str,
    responder: str,
    settings: Settings,
    folder: Path,
    template_folder: str,
    runtime: Runtime = Runtime(),
) -> list[dict]:
    """Train on pairs; writes model/, arm.json and history.jsonl into folder and returns history's rows.

    Log-probabilities and losses in nats. Raises ValueError for settings or pairs that cannot work. A run that was
    killed goes on from its last complete checkpoint to the same numbers.
    """
    check(settings, pairs)
    policy = responder if settings.target == "dpo_awo" else prompter
    rows = examples(pairs, settings.target, template_folder)
    work = training.checkpoint_folder(folder, asdict(settings), models.identity(policy), rows)
    tokenizer = models.load_tokenizer(policy, runtime)
    trainer = _trainer(policy, rows, tokenizer, settings, work, runtime)
    history = training.run(trainer, work, settings.target, runtime)
    training.export(trainer, tokenizer, Path(folder) / "model")
    arms.write_arm(folder, *_use(settings.target))
    names = _SFT_NAMES if settings.target == "sft" else _DPO_NAMES
    return records.read_rows(training.write_history(Path(folder) / "history.jsonl", history, names))


def check(settings: Settings, pairs: list[Pair]) -> None:
    """ValueError, in one line, for settings or pairs that cannot train."""
    if settings.target not in TARGETS:
        raise ValueError(f"target {settings.target!r}: wanted one of {', '.join(TARGETS)}")
    if not pairs:
        raise ValueError("no preference pair: every prompt's rounds were all good, all bad or unscored; see 01_collect")
    if settings.beta <= 0 and settings.target != "sft":
        raise ValueError(f"beta {settings.beta}: DPO wants β > 0")


def _use(target: str) -> tuple[str, str | None, str | None]:
    """(policy, template, stop) of an arm trained for target."""
    if target == "dpo_awo":
        return "responder", None, None
    return "prompter", "rewrite_answer" if target == "poir" else "meta_prompt", templates.DELIMITER


def examples(pairs: list[Pair], target: str, template_folder: str) -> list[dict]:
    """TRL's conversational rows: {prompt, chosen, rejected}, for sft {prompt, completion}."""
    _, name, _ = _use(target)
    template = templates.load(name, template_folder) if name else None
    rows = []
    for pair in pairs:
        prompt = templates.messages(template, prompt=pair.prompt) if template else _turn("user", pair.prompt)
        good, bad = _completions(pair, target)
        sides = (
            {"completion": _turn("assistant", good)}
            if target == "sft"
            else {"chosen": _turn("assistant", good), "rejected": _turn("assistant", bad)}
        )
        rows.append({"prompt": prompt, **sides})
    return rows


def _completions(pair: Pair, target: str) -> tuple[str, str]:
    """(good, bad) text that the policy should and should not write."""
    if target == "dpo_awo":
        return pair.good_response, pair.bad_response
    if target == "poir":
        return join(pair.good_rewrite, pair.good_response), join(pair.bad_rewrite, pair.bad_response)
    return pair.good_rewrite, pair.bad_rewrite


def join(rewrite: str, response: str) -> str:
    """rewrite + delimiter + response: what POIR trains on."""
    return rewrite + templates.DELIMITER + response


def _turn(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


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
        "model": models.resolve(policy),
        "train_dataset": Dataset.from_list(rows),
        "processing_class": tokenizer,
        "peft_config": training.lora(settings.lora_rank),
    }
    if settings.target == "sft":
        from trl import SFTConfig, SFTTrainer

        return SFTTrainer(args=SFTConfig(**shared), **common)
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(args=DPOConfig(**shared, beta=settings.beta), **common)

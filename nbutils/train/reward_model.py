"""A reward model learnt from pairs (x, y_u, y_v), y_u the better response, under Bradley-Terry (Align-Pro Eq. 1):

L(r, D) = −E[ log σ(r(x, y_u) − r(x, y_v)) ]   (+ center · E[(r(x, y_u) + r(x, y_v))²], which fixes r's zero)
"""

from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from nbutils.data.pairs import PreferencePair
from nbutils.experiment import paths, records
from nbutils.models import chat, loading, references
from nbutils.models.devices import Runtime
from nbutils.models.scoring import render_pair, score

_NAMES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "margin": "margin",
    "mean_reward": "reward",
    "min_reward": "min_reward",
    "max_reward": "max_reward",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


@dataclass(frozen=True)
class RewardSettings:
    """How a reward model is trained. lora_rank: 0 trains everything; max_tokens: longest prompt + response.

    held_out_share: of the prompts, in [0, 1); center: weight of the squared sum of a pair's rewards, 0 for none.
    """

    learning_rate: float
    num_epochs: float
    train_batch_size: int
    gradient_accumulation: int
    lora_rank: int
    max_tokens: int
    held_out_share: float
    center: float
    save_steps: int
    seed: int


def train_reward_model(
    pairs: list[PreferencePair], base: str, folder: Path, settings: RewardSettings, runtime: Runtime = Runtime()
) -> list[dict]:
    """Learn r(x, y) from pairs; writes into folder reward_model/, reward_history.jsonl (returned) and held_out.jsonl.

    base: a causal LM, which gets a new head of one output, or a reward model that goes on learning; both see
    [user: prompt, assistant: response] through their own chat template, as score does. Pairs above max_tokens are left
    out (see short_enough); held-out ones are never trained on, and held_out.jsonl has the exported model's margin
    r(x, y_u) − r(x, y_v) on each: prompt_id, margin (reward units, null if not finite).
    Raises ValueError for settings or pairs that cannot work. A run that was killed goes on to the same numbers.
    """
    from nbutils.train import training

    check_learning(base, settings)
    usable = short_enough(pairs, base, settings.max_tokens, runtime)
    learnt, held_out = split_pairs(usable, settings.held_out_share, settings.seed)
    if not learnt or (settings.held_out_share > 0 and not held_out):
        got = f"{len(learnt)} to learn from and {len(held_out)} held out, of {len(pairs)} read"
        raise ValueError(f"too few preference pairs: {got}, {len(usable)} of them within {settings.max_tokens} tokens")
    tokenizer = loading.load_tokenizer(base, runtime)
    tokenizer.padding_side = "right"
    texts = [paths.sha256_json([pair.prompt, pair.chosen, pair.rejected]) for pair in learnt]
    work = training.checkpoint_folder(folder, "reward", asdict(settings), references.identity(base), texts)
    trainer = _trainer(learnt, base, tokenizer, settings, work, runtime)
    history = training.run(trainer, work, "reward model", runtime)
    if settings.lora_rank:  # whole, so that it loads anywhere without its base
        trainer.model = trainer.model.merge_and_unload()
    model = training.export(trainer, tokenizer, Path(folder) / "reward_model")
    loading.load_reward.cache_clear()  # an older model may be known under the same name
    records.write_rows(Path(folder) / "held_out.jsonl", pair_margins(str(model), held_out, runtime))
    return records.read_rows(training.write_history(Path(folder) / "reward_history.jsonl", history, _NAMES))


def check_learning(base: str, settings: RewardSettings) -> None:
    """ValueError or FileNotFoundError, in one line, for a base or settings that cannot train."""
    references.check(base, "reward base")
    if not 0 <= settings.held_out_share < 1:
        raise ValueError(f"held_out_share {settings.held_out_share}: wanted a share of the prompts, from 0 to below 1")
    if settings.center < 0:
        raise ValueError(f"center {settings.center}: wanted 0 or more")


def short_enough(
    pairs: list[PreferencePair], base: str, max_tokens: int, runtime: Runtime = Runtime()
) -> list[PreferencePair]:
    """The pairs of which both prompt + response are at most max_tokens tokens by the base's template, in order."""
    ids = _pair_ids(pairs, loading.load_tokenizer(base, runtime))
    lengths = (max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in ids)
    return [pair for pair, length in zip(pairs, lengths, strict=True) if length <= max_tokens]


def split_pairs(
    pairs: list[PreferencePair], held_out_share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(to learn from, held out): all pairs of a prompt on one side, decided by a hash of seed and prompt_id alone."""
    sides: tuple[list, list] = ([], [])
    for pair in pairs:
        draw = int.from_bytes(sha256(f"{seed} {pair.prompt_id}".encode()).digest()[:8], "big") / 2**64
        sides[draw < held_out_share].append(pair)
    return sides


def pair_margins(model: str, pairs: list[PreferencePair], runtime: Runtime = Runtime()) -> list[dict]:
    """Rows prompt_id, margin: r(x, chosen) − r(x, rejected) by the reward model, None where either is missing."""
    prompts = [pair.prompt for pair in pairs]
    chosen = score(model, prompts, [pair.chosen for pair in pairs], runtime)
    rejected = score(model, prompts, [pair.rejected for pair in pairs], runtime)
    return [
        {"prompt_id": pair.prompt_id, "margin": None if high is None or low is None else high - low}
        for pair, high, low in zip(pairs, chosen, rejected, strict=True)
    ]


def _pair_ids(pairs: list[PreferencePair], tokenizer) -> list[dict]:
    """Token ids of both sides of each pair, as score sees them."""
    chosen = chat.encode(tokenizer, [render_pair(tokenizer, pair.prompt, pair.chosen) for pair in pairs])
    rejected = chat.encode(tokenizer, [render_pair(tokenizer, pair.prompt, pair.rejected) for pair in pairs])
    return [{"chosen_ids": high, "rejected_ids": low} for high, low in zip(chosen, rejected, strict=True)]


def _trainer(pairs: list[PreferencePair], base: str, tokenizer, settings: RewardSettings, work: Path, runtime: Runtime):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from nbutils.train import training

    config = RewardConfig(
        **training.arguments(work, runtime, settings.seed, settings.save_steps),
        per_device_train_batch_size=settings.train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.num_epochs,
        center_rewards_coefficient=settings.center or None,
        max_length=None,
        model_init_kwargs=training.load_kwargs(base, runtime, settings.lora_rank),
    )
    return RewardTrainer(
        model=references.resolve(base),
        args=config,
        train_dataset=Dataset.from_list(_pair_ids(pairs, tokenizer)),
        processing_class=tokenizer,
        peft_config=training.lora(settings.lora_rank, "SEQ_CLS"),
    )

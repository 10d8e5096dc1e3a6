"""r(x, y): the reward of a response against the original prompt, by a sequence classifier or any Python function.

A reward model is learnt from pairs (x, y_u, y_v), y_u the better response, under Bradley-Terry (Align-Pro Eq. 1):

    L(r, D) = −E[ log σ(r(x, y_u) − r(x, y_v)) ]   (+ center · E[(r(x, y_u) + r(x, y_v))²], which fixes r's zero)
"""

import math
import statistics
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from nbutils import models, paths, records
from nbutils.generate import cut_batches, run_batches
from nbutils.models import Runtime
from nbutils.pairs import PreferencePair
from nbutils.records import Journal
from nbutils.texts import encodable

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


# Scoring


def score(
    model: str,
    prompts: list[str],
    responses: list[str | None],
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    label: str | None = None,
    only_finite: bool = False,
) -> list[float | None]:
    """Rewards in the model's own units, one per (prompt, response), in order; None where there is no finite value.

    A missing response (None) has no reward. only_finite: a NaN or infinite score raises FloatingPointError instead.
    Sequence classifiers see [user: prompt, assistant: response] through their own chat template. Scores do not depend
    on the batch: rows are padded on the right and masked, and batches are cut from the whole list, known or not, so
    that a resumed run computes the same numbers to the bit.
    """
    pairs = [(prompt, response) for prompt, response in zip(prompts, responses, strict=True) if response is not None]
    identity = models.identity(model)
    keys = {pair: paths.sha256_json(["reward", identity, *pair]) for pair in pairs}
    found = {pair: journal.get(key)["reward"] for pair, key in keys.items() if journal is not None and key in journal}
    backend = _score_callable if models.kind(model) == "callable" else _score_classifier
    with tqdm(total=len(keys), initial=len(found), desc=label, disable=label is None, mininterval=1.0) as bar:
        for raw in backend(model, list(keys), found, runtime) if len(found) < len(keys) else ():
            wrong = [value for _, value in raw if value is not None and not math.isfinite(value)]
            if wrong and only_finite:
                raise FloatingPointError(f"{model} gave a reward of {wrong[0]}")
            batch = [(pair, finite(value)) for pair, value in raw]
            if journal is not None:
                journal.append_many((keys[pair], {"reward": reward}) for pair, reward in batch)
            found.update(batch)
            bar.update(len(batch))
    return [
        None if response is None else found[prompt, response]
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def means(scores: list[float | None], number: int) -> list[float | None]:
    """The mean of each run of `number` scores over those that are known; None where none is."""
    groups = [scores[start : start + number] for start in range(0, len(scores), number)]
    known = [[score for score in group if score is not None] for group in groups]
    return [statistics.fmean(group) if group else None for group in known]


def finite(value) -> float | None:
    """value as a float, or None if it is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def _score_callable(function: str, pairs: list, found: dict, runtime: Runtime):
    rewards = models.load_callable(function)
    pending = [pair for pair in pairs if pair not in found]
    for start in range(0, len(pending), runtime.batch_size):
        batch = pending[start : start + runtime.batch_size]
        values = rewards([prompt for prompt, _ in batch], [response for _, response in batch])
        yield list(zip(batch, values, strict=True))


def _score_classifier(model: str, pairs: list, found: dict, runtime: Runtime):
    import torch

    net, tokenizer = models.load_reward(model, runtime)
    texts = {pair: _render(tokenizer, *pair) for pair in pairs}
    ids = dict(zip(pairs, tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"], strict=True))
    order = sorted(pairs, key=lambda pair: (-len(ids[pair]), pair))
    batches = cut_batches(order, [len(ids[pair]) for pair in order], runtime)

    def forward(batch):
        inputs = tokenizer.pad({"input_ids": [ids[pair] for pair in batch]}, return_tensors="pt").to(net.device)
        with torch.inference_mode():
            return net(**inputs).logits[:, 0].float().tolist()  # (B,)

    for batch, values in run_batches([batch for batch in batches if not found.keys() >= set(batch)], forward):
        yield [(pair, value) for pair, value in zip(batch, values, strict=True) if pair not in found]


def _render(tokenizer, prompt: str, response: str) -> str:
    """Prompt and response as the model's own chat template writes them. ValueError if it has none."""
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path} has no chat template: add chat_template.jinja to its folder")
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return encodable(tokenizer.apply_chat_template(turns, tokenize=False))


# Learning


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
    from nbutils import training

    check_learning(base, settings)
    usable = short_enough(pairs, base, settings.max_tokens, runtime)
    learnt, held_out = split_pairs(usable, settings.held_out_share, settings.seed)
    if not learnt or (settings.held_out_share > 0 and not held_out):
        got = f"{len(learnt)} to learn from and {len(held_out)} held out, of {len(pairs)} read"
        raise ValueError(f"too few preference pairs: {got}, {len(usable)} of them within {settings.max_tokens} tokens")
    tokenizer = models.load_tokenizer(base, runtime)
    tokenizer.padding_side = "right"
    texts = [paths.sha256_json([pair.prompt, pair.chosen, pair.rejected]) for pair in learnt]
    work = training.checkpoint_folder(folder, "reward", asdict(settings), models.identity(base), texts)
    trainer = _trainer(learnt, base, tokenizer, settings, work, runtime)
    history = training.run(trainer, work, "reward model", runtime)
    if settings.lora_rank:  # whole, so that it loads anywhere without its base
        trainer.model = trainer.model.merge_and_unload()
    model = training.export(trainer, tokenizer, Path(folder) / "reward_model")
    models.load_reward.cache_clear()  # an older model may be known under the same name
    records.write_rows(Path(folder) / "held_out.jsonl", margins(str(model), held_out, runtime))
    return records.read_rows(training.write_history(Path(folder) / "reward_history.jsonl", history, _NAMES))


def check_learning(base: str, settings: RewardSettings) -> None:
    """ValueError or FileNotFoundError, in one line, for a base or settings that cannot train."""
    if models.kind(base) not in ("local", "hub"):
        raise ValueError(f"base {base!r} has no weights to train: wanted a hub id or a model folder")
    models.check(base)
    if models.kind(base) == "local" and (Path(models.resolve(base)) / "adapter_config.json").exists():
        raise ValueError(f"base {base!r} is an adapter: merge it into its model first")
    if not 0 <= settings.held_out_share < 1:
        raise ValueError(f"held_out_share {settings.held_out_share}: wanted a share of the prompts, from 0 to below 1")
    if settings.center < 0:
        raise ValueError(f"center {settings.center}: wanted 0 or more")


def short_enough(
    pairs: list[PreferencePair], base: str, max_tokens: int, runtime: Runtime = Runtime()
) -> list[PreferencePair]:
    """The pairs of which both prompt + response are at most max_tokens tokens by the base's template, in order."""
    ids = _pair_ids(pairs, models.load_tokenizer(base, runtime))
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


def margins(model: str, pairs: list[PreferencePair], runtime: Runtime = Runtime()) -> list[dict]:
    """Rows prompt_id, margin: r(x, chosen) − r(x, rejected) by the reward model, None where either is missing."""
    prompts = [pair.prompt for pair in pairs]
    chosen = score(model, prompts, [pair.chosen for pair in pairs], runtime)
    rejected = score(model, prompts, [pair.rejected for pair in pairs], runtime)
    return [
        {"prompt_id": pair.prompt_id, "margin": None if None in (high, low) else high - low}
        for pair, high, low in zip(pairs, chosen, rejected, strict=True)
    ]


def _pair_ids(pairs: list[PreferencePair], tokenizer) -> list[dict]:
    """Token ids of both sides of each pair, as score sees them."""

    def ids(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    chosen = ids([_render(tokenizer, pair.prompt, pair.chosen) for pair in pairs])
    rejected = ids([_render(tokenizer, pair.prompt, pair.rejected) for pair in pairs])
    return [{"chosen_ids": high, "rejected_ids": low} for high, low in zip(chosen, rejected, strict=True)]


def _trainer(pairs: list[PreferencePair], base: str, tokenizer, settings: RewardSettings, work: Path, runtime: Runtime):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from nbutils import training

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
        model=models.resolve(base),
        args=config,
        train_dataset=Dataset.from_list(_pair_ids(pairs, tokenizer)),
        processing_class=tokenizer,
        peft_config=training.lora(settings.lora_rank, "SEQ_CLS"),
    )

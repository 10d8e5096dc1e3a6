"""POIR: preference optimisation of "rewrite + response", and its ablations, from the pairs of 01_collect.

    P(P_opt, A | P_ori) = P(P_opt | P_ori) · P(A | P_opt, P_ori)                                       (Eq. 1)

| target  | trains    | prompt          | chosen against rejected                            |
|---------|-----------|-----------------|----------------------------------------------------|
| poir    | prompter  | rewrite request | rewrite + delimiter + response, good against bad   |
| dpo_awi | prompter  | rewrite request | rewrite alone, good against bad                    |
| sft     | prompter  | rewrite request | the good rewrite alone                             |
| dpo_awo | responder | the prompt      | response, good against bad                         |

`poir` asks with the template rewrite_answer, which announces the response; the others, which never write one, ask
with meta_prompt. At inference generation stops at the delimiter. `dpo_awo` also takes the pairs of nbutils.pairs.

Departures from TRL 1.16: the token ids are made here, so that training sees what inference will meet (see `tokenize`),
and DPO's log-probabilities are logged for the two factors of Eq. 1 apart (see `PartsTrainer`).
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from nbutils import arms, models, records, templates, training
from nbutils.generate import Generation, Sampling, generate, render
from nbutils.models import Runtime
from nbutils.pairs import PreferencePair
from nbutils.records import Journal, Pair

TARGETS = ("poir", "dpo_awi", "sft", "dpo_awo")
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
    pairs: list[Pair] | list[PreferencePair],
    prompter: str,
    responder: str,
    settings: Settings,
    folder: Path,
    template_folder: str,
    runtime: Runtime = Runtime(),
) -> list[dict]:
    """Train on pairs; writes model/, arm.json and history.jsonl into folder and returns history's rows.

    Log-probabilities and losses in nats; those of target poir also per part of the text. Raises ValueError for settings
    or pairs that cannot work. A run that was killed goes on from its last complete checkpoint to the same numbers.
    """
    check(settings, pairs)
    policy = responder if settings.target == "dpo_awo" else prompter
    tokenizer = models.load_tokenizer(policy, runtime)
    texts = examples(pairs, settings.target, template_folder)
    rows = fitting(tokenize(texts, settings.target, tokenizer, policy), settings.max_tokens)
    work = training.checkpoint_folder(folder, asdict(settings), models.identity(policy), rows)
    trainer = _trainer(policy, rows, tokenizer, settings, work, runtime)
    history = training.run(trainer, work, settings.target, runtime)
    training.export(trainer, tokenizer, Path(folder) / "model")
    arms.write_arm(folder, *_use(settings.target))
    names = _SFT_NAMES if settings.target == "sft" else _DPO_NAMES
    names = names | (_PART_NAMES if settings.target == "poir" else {})
    return records.read_rows(training.write_history(Path(folder) / "history.jsonl", history, names))


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


def without_delimiter(pairs: list, target: str) -> tuple[list, list]:
    """(pairs to train on, those left out): a text that holds the delimiter would teach, or be cut, at a wrong place."""
    held = [any(templates.cut_at_delimiter(text)[1] for text in _texts(pair, target)) for pair in pairs]
    split = [[pair for pair, has in zip(pairs, held, strict=True) if has == wanted] for wanted in (False, True)]
    return split[0], split[1]


def _texts(pair: Pair | PreferencePair, target: str) -> tuple[str, ...]:
    """What the policy reads and writes, where the delimiter means something to it."""
    if target == "dpo_awo" or isinstance(pair, PreferencePair):
        return ()
    responses = (pair.good_response, pair.bad_response) if target == "poir" else ()
    return pair.prompt, pair.good_rewrite, pair.bad_rewrite, *responses


def _use(target: str) -> tuple[str, str | None, str | None]:
    """(policy, template, stop) of an arm trained for target."""
    if target == "dpo_awo":
        return "responder", None, None
    return "prompter", "rewrite_answer" if target == "poir" else "meta_prompt", templates.DELIMITER


def examples(pairs: list[Pair] | list[PreferencePair], target: str, template_folder: str) -> list[dict]:
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


def _completions(pair: Pair | PreferencePair, target: str) -> tuple[str, str]:
    """(good, bad) text that the policy should and should not write."""
    if isinstance(pair, PreferencePair):
        return pair.chosen, pair.rejected
    if target == "dpo_awo":
        return pair.good_response, pair.bad_response
    if target == "poir":
        return join(pair.good_rewrite, pair.good_response), join(pair.bad_rewrite, pair.bad_response)
    return pair.good_rewrite, pair.bad_rewrite


def join(rewrite: str, response: str) -> str:
    """rewrite + delimiter + response, without blanks around the two: what POIR trains on."""
    return rewrite.strip() + templates.DELIMITER + response.strip()


def _turn(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


# Token ids


def tokenize(rows: list[dict], target: str, tokenizer, policy: str) -> list[dict]:
    """Token ids of `examples`: prompt_ids, and per side <side>_ids and <side>_split, the tokens of its rewrite.

    prompt_ids are what `generate` feeds the model, to the last token, where TRL drops a tail that merges with the
    completion. No token lies across the end of the prompt or of the delimiter: these have the same ids whatever
    follows. Within these bounds tokens are the tokenizer's own, so a full stop and the delimiter's first line end may
    be one token, as the model itself would write them. Raises ValueError where a text cannot be cut.
    """
    heads = [render(policy, tokenizer, row["prompt"]) for row in rows]
    closings = [_closing(tokenizer, row["prompt"]) for row in rows]
    made = [{"prompt_ids": ids} for ids in _encode(tokenizer, heads)]
    for side in ("completion",) if target == "sft" else ("chosen", "rejected"):
        parts = [_parts(row[side][0]["content"], end, target) for row, end in zip(rows, closings, strict=True)]
        first = continued(tokenizer, heads, [rewrite for rewrite, _ in parts])
        middles = [head + rewrite for head, (rewrite, _) in zip(heads, parts, strict=True)]
        second = continued(tokenizer, middles, [response for _, response in parts])
        for row, rewrite, response in zip(made, first, second, strict=True):
            row |= {f"{side}_ids": rewrite + response, f"{side}_split": len(rewrite)}
    return made


def _parts(text: str, closing: str, target: str) -> tuple[str, str]:
    """(rewrite with delimiter, response) of a completion and what the chat template writes after it."""
    if target == "poir":
        rewrite, delimiter, response = text.partition(templates.DELIMITER)
        return rewrite + delimiter, response + closing
    return ("", text + closing) if target == "dpo_awo" else (text + closing, "")


def _closing(tokenizer, prompt: list[dict]) -> str:
    """What the chat template writes after an answer: the end of the turn."""
    if prompt[0]["role"] == "raw":
        return tokenizer.eos_token or ""
    answer = "an answer"
    return tokenizer.apply_chat_template(prompt + _turn("assistant", answer), tokenize=False).rpartition(answer)[2]


def continued(tokenizer, befores: list[str], texts: list[str]) -> list[list[int]]:
    """Ids of each text where it follows its `before`, no token across the boundary.

    Where the tokenizer joins the two, the text gets the ids that it has after another character. Encoded alone, a
    SentencePiece tokenizer would put a blank in front of it.
    """
    heads = _encode(tokenizer, befores)
    wholes = _encode(tokenizer, [before + text for before, text in zip(befores, texts, strict=True)])
    rows = zip(heads, wholes, texts, strict=True)
    return [whole[len(head) :] if whole[: len(head)] == head else _apart(tokenizer, text) for head, whole, text in rows]


def _apart(tokenizer, text: str) -> list[int]:
    for anchor in ("\n", ":", "0", "a"):
        head, whole = _encode(tokenizer, [anchor, anchor + text])
        if whole[: len(head)] == head:
            return whole[len(head) :]
    raise ValueError(f"tokenizer joins {text[:20]!r} to whatever stands before it: POIR's delimiter needs another one")


def _encode(tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def fitting(rows: list[dict], max_tokens: int) -> list[dict]:
    """Rows whose prompt leaves room for a completion; a line says how many do not, and how many are cut."""
    kept = [row for row in rows if len(row["prompt_ids"]) < max_tokens]
    if not kept:
        shortest = min(len(row["prompt_ids"]) for row in rows)
        raise ValueError(f"max_tokens {max_tokens}: the shortest prompt alone has {shortest} tokens; wanted more")
    cut = sum(_num_tokens(row) > max_tokens for row in kept)
    if cut or len(kept) < len(rows):
        left_out = len(rows) - len(kept)
        print(f"max_tokens {max_tokens}: of {len(rows)} pairs {cut} cut at the end, {left_out} left out: no room")
    return kept


def _num_tokens(row: dict) -> int:
    """Tokens of the prompt and the longer completion."""
    completions = [len(row[name]) for name in ("completion_ids", "chosen_ids", "rejected_ids") if name in row]
    return len(row["prompt_ids"]) + max(completions)


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
    tests/test_poir.py records the signatures of the methods overridden here: they are TRL's private ones.
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
        "model": models.resolve(policy),
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


def rewritten(
    arm: arms.Arm,
    prompts: list[str],
    template_folder: str,
    sampling: Sampling,
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
) -> list[Generation]:
    """What an arm's first prompter writes for each prompt, as `arms.answer` asks it: the same journal, nothing twice.

    finish "length": it reached neither the delimiter nor its own end within max_new_tokens, and was cut there.
    """
    if not arm.prompters:
        return []
    first = arm.prompters[0]
    stopping = replace(sampling, stop=(first.stop,) if first.stop else ())
    requests = arms.rewrite_requests(templates.load(first.template, template_folder), prompts)
    return generate(first.model, requests, stopping, runtime, journal)

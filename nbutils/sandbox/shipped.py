"""Saving, loading and asking the sandbox's models."""

import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

WEIGHTS = Path(__file__).parent / "weights"
PAD, END = "<|pad|>", "<|end|>"


def render(request, completion=None):
    """A request, or a whole exchange, as the chat template writes it."""
    return f"<|user|>{request}<|assistant|>" + ("" if completion is None else completion + END)


def save(model, tokenizer, folder):
    """Write model and tokenizer with weights in float16 (half the size) and a config that says float32."""
    model.half().save_pretrained(folder)
    model.float().config.dtype = torch.float32
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in Path(folder).iterdir():
        os.chmod(path, 0o644)


def load_base(folder=WEIGHTS / "base"):
    """(model, tokenizer) in float32, in eval mode."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder)


def load_reward(folder=WEIGHTS / "reward"):
    """(reward model, its tokenizer) in float32, in eval mode."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder)


@torch.no_grad()
def sample(model, tokenizer, requests, temperature=1.0, max_new_tokens=64, batch_size=256):
    """One completion per request (user message), in order; temperature 0 is greedy."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i]))
    texts = [None] * len(requests)
    choice = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        rendered = [render(requests[i]) for i in rows]
        batch = tokenizer(rendered, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
        ids = model.generate(**batch, max_new_tokens=max_new_tokens, **choice)[:, batch.input_ids.shape[1] :]
        for i, text in zip(rows, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            texts[i] = text
    return texts


@torch.no_grad()
def reward(model, tokenizer, prompts, responses, batch_size=256):
    """Reward model's score of each response against its prompt, through the chat template."""
    rendered = [render(p, r) for p, r in zip(prompts, responses, strict=True)]
    order = sorted(range(len(rendered)), key=lambda i: len(rendered[i]))
    scores = [0.0] * len(rendered)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([rendered[i] for i in rows], return_tensors="pt", padding=True, return_token_type_ids=False)
        for i, value in zip(rows, model(**batch).logits[:, 0].tolist(), strict=True):
            scores[i] = value
    return scores

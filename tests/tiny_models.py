"""Models of a few thousand random weights with the sandbox's tokenizer, saved as people have them."""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from nbutils.models import references

KNOWN = {"vocab_size": 900, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
SIZES = {
    "llama": SMALL | {"num_key_value_heads": 4},
    "bert": SMALL,
    "roberta": SMALL,
    "deberta-v2": SMALL | {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]},
    "gpt2": GPT2,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gpt_bigcode": GPT2,
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64},
    "biogpt": SMALL,
    "ctrl": {"n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2},
    "opt": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}


def tokenizer():
    return AutoTokenizer.from_pretrained(references.resolve("sandbox/responder"))


def make(kind: str, head: str = "causal", **changes):
    """The model in memory; head: causal | reward. Its weights are thrice the usual size, so that all matter."""
    torch.manual_seed(1)
    auto = {"causal": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}[head]
    more = {"num_labels": 1} if head == "reward" else {}
    model = auto.from_config(AutoConfig.for_model(kind, **(KNOWN | SIZES[kind] | more | changes)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model.eval()


def save(folder: Path, model, its_tokenizer=None) -> str:
    """A folder with the model (or adapter) and a tokenizer; returns its reference."""
    model.save_pretrained(folder)
    (its_tokenizer or tokenizer()).save_pretrained(folder)
    return str(folder)


def cache(hub: Path, hub_id: str, commit: str, source: str) -> None:
    """A hub's cache in which hub_id's main branch is at commit and holds what is in source."""
    folder = hub / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(source, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)

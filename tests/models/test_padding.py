"""Padding in front of a text: which models count it, and that no text and no probability depends on it."""

import pytest
import tiny_models
import torch

from nbutils.models.devices import Runtime
from nbutils.models.generate import generate
from nbutils.models.likelihood import log_probabilities
from nbutils.models.padding import is_padding_harmless
from nbutils.models.texts import Sampling

COUNT_COLUMNS = ("gpt2", "gpt_neo", "gpt_bigcode", "xglm", "biogpt", "ctrl")
PROMPTS = [
    "tell me about the otter.",
    "tell me about the owl and where it lives and what it eats at night and by day.",
    "a",
]
TEXTS = ["the otter swims .", "the owl hunts at night and sees .", "yes ."]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*COUNT_COLUMNS, "rwkv", "llama", "opt", "bloom", "mamba"])
def test_a_small_try_tells_which_models_count_padding_as_text(kind, dtype):
    model = tiny_models.make(kind).to(dtype)
    model.train()
    assert is_padding_harmless(model) == (kind not in (*COUNT_COLUMNS, "rwkv"))
    assert is_padding_harmless(model, by_generate=True) == (kind != "rwkv")
    assert model.training


@pytest.mark.parametrize("kind", [*COUNT_COLUMNS, "rwkv", "llama"])
def test_texts_and_log_probabilities_are_the_same_at_batch_1_and_3(tmp_path, kind):
    ref = tiny_models.save(tmp_path / kind, tiny_models.make(kind))
    sampling = Sampling(1.0, max_new_tokens=8, seed=3)
    alone = [generate(ref, [prompt], sampling, Runtime(1))[0] for prompt in PROMPTS]
    assert generate(ref, PROMPTS, sampling, Runtime(3)) == alone
    rows = list(zip(PROMPTS, TEXTS, strict=True))
    single = [log_probabilities(ref, [x], [y], [True], sampling, Runtime(1))[0] for x, y in rows]
    assert log_probabilities(ref, PROMPTS, TEXTS, [True] * 3, sampling, Runtime(3)) == pytest.approx(single, abs=1e-3)

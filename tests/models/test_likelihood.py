"""Log-probabilities of whole texts: against the model itself, token by token, and against sampled frequencies."""

import math
import shutil
from collections import Counter

import pytest
import torch

from nbutils.models import loading, references
from nbutils.models.devices import Runtime
from nbutils.models.generate import generate, render
from nbutils.models.likelihood import knows_probabilities, log_probabilities
from nbutils.models.texts import Sampling

PROMPTS = ["tell me about the fox.", "what are the food and home of the owl?", "the cow, please."]
TEXTS = ["the fox eats mice.", "the owl eats mice. the owl lives in barns.", ""]
MODEL = "sandbox/responder"


def by_hand(prompt, text, finished, temperature=1.0):
    """One row, one token after the other, through the model's plain forward."""
    net, tokenizer = loading.load_causal(MODEL, Runtime())
    ids = tokenizer(render(MODEL, tokenizer, [{"role": "user", "content": prompt}]))["input_ids"]
    total = 0.0
    for token in tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * finished:
        with torch.inference_mode():
            logits = net(input_ids=torch.tensor([ids])).logits[0, -1]
        total += torch.log_softmax(logits / temperature, -1)[token].item()
        ids = [*ids, token]
    return total


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("size", [1, 3])
def test_sum_over_tokens_equals_one_forward_per_token(temperature, size):
    finished = [True, False, True]
    found = log_probabilities(MODEL, PROMPTS, TEXTS, finished, Sampling(temperature), Runtime(size))
    wanted = [by_hand(*row, temperature) for row in zip(PROMPTS, TEXTS, finished, strict=True)]
    assert found == pytest.approx(wanted, abs=1e-4)


def test_probabilities_are_the_frequencies_of_generate():
    """2,000 samples of one short task: what the model says most often has the probability that it says it has."""
    prompt, sampling = "what are the colour of the owl?", Sampling(1.0, max_new_tokens=24)
    made = generate(MODEL, [prompt] * 2000, sampling, Runtime(500), samples=list(range(2000)))
    texts = Counter((each.text, each.finish == "stop") for each in made)
    for (text, finished), number in texts.most_common(3):
        p = math.exp(log_probabilities(MODEL, [prompt], [text], [finished], sampling)[0])
        assert number / 2000 == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 2000) + 1e-3)


def test_a_text_outside_the_nucleus_has_no_probability():
    inside, outside = log_probabilities(
        MODEL, PROMPTS[:1] * 2, ["the fox eats mice.", "zzz"], [True] * 2, Sampling(1.0, 0.9)
    )
    assert math.isfinite(inside) and outside == -math.inf


def test_what_tells_no_probabilities_is_one_line():
    for model in ("api:gpt-4o", "fakes:echo"):
        assert not knows_probabilities(model)
        with pytest.raises(ValueError, match="log-probabilities need a model of one's own"):
            log_probabilities(model, ["x"], ["y"], [True], Sampling())
    with pytest.raises(ValueError, match="wanted a temperature above 0"):
        log_probabilities(MODEL, ["x"], ["y"], [True], Sampling(0.0))
    assert log_probabilities(MODEL, [], [], [], Sampling()) == []


@pytest.mark.parametrize("opens", [False, True])
def test_a_thought_is_part_of_what_was_written(tmp_path, opens):
    """By hand: the answer stands behind the thought, and a tag that the prompt has is not read twice."""
    folder = shutil.copytree(references.resolve(MODEL), tmp_path / "model")
    own = (folder / "chat_template.jinja").read_text()
    tag = "<think>\n"
    if opens:
        (folder / "chat_template.jinja").write_text(own + "{{ '<think>\n' if add_generation_prompt }}")
    text = "the fox?\n</think>\n\nthe fox eats mice."
    net, tokenizer = loading.load_causal(str(folder), Runtime())
    ids = tokenizer(f"<|user|>{PROMPTS[0]}<|assistant|>" + tag * opens)["input_ids"]
    written = tokenizer(text if opens else tag + text)["input_ids"] + [tokenizer.eos_token_id]
    with torch.inference_mode():
        logps = torch.log_softmax(net(input_ids=torch.tensor([ids + written])).logits[0], -1)
    wanted = sum(logps[len(ids) - 1 + i, token].item() for i, token in enumerate(written))
    found = log_probabilities(str(folder), PROMPTS[:1], [tag + text], [True], Sampling())
    assert found == [pytest.approx(wanted, abs=1e-3)]

"""Samples behind the frontier: one row per prompt, source, draw and response; ratios of what the policy wrote."""

import os
from collections import Counter
from dataclasses import replace

import pytest
import torch

from nbutils.evaluate import probe
from nbutils.evaluate.probe import Probe
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Prompt, prompt_id
from nbutils.models import generate as generation, loading
from nbutils.models.generate import Conditions
from nbutils.models.texts import Sampling

PROMPTS = [Prompt(prompt_id(x), x, "s") for x in ("tell me about the fox.", "what is an owl like?")]
ASKED = Probe(
    "prompter", "sandbox/prompter", "sandbox/responder", "sandbox/gold", 8, 2,
    Conditions("sandbox", Sampling(1.0, max_new_tokens=32), Sampling(1.0, max_new_tokens=48)),
)  # fmt: skip


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A checkpoint: the sandbox's model with a little noise on its weights."""
    folder = tmp_path_factory.mktemp("moved")
    net, tokenizer = loading.load_causal("sandbox/prompter")
    torch.manual_seed(0)
    state = {name: each + 0.01 * torch.randn_like(each) for name, each in net.state_dict().items()}
    net.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_rows_of_every_source_and_ratios_of_a_policy_that_has_not_moved_are_zero():
    made = probe.draw(ASKED, PROMPTS, {"trained": "sandbox/prompter"})
    assert Counter(row.source for row in made) == {"own": 16, "initial": 32, "trained": 8}
    assert all(row.rewrite == row.prompt and row.log_ratio is None for row in made if row.source == "own")
    assert all(row.log_ratio == 0.0 for row in made if row.source != "own")
    assert all(row.reward is not None for row in made)
    first, again = ([row for row in made if row.source == name and row.draw < 2] for name in ("initial", "trained"))
    assert [row.rewrite for row in first] == [row.rewrite for row in again]  # common random numbers


def test_mean_ratio_of_a_moved_policy_is_a_divergence(moved):
    many = replace(ASKED, num_rewrites=256, num_responses=1, reward_model="fakes:length")
    made = probe.draw(many, PROMPTS[:1], {"trained": moved})
    ratios = torch.tensor([row.log_ratio for row in made if row.source == "trained"])
    assert ratios.abs().max() > 0.01 and ratios.mean() > -3 * ratios.std() / len(ratios) ** 0.5


def test_responder_policy_draws_responses_with_ratios(moved):
    made = probe.draw(replace(ASKED, policy="responder"), PROMPTS, {"step 2": moved})
    assert Counter(row.source for row in made) == {"own": 16, "step 2": 4}
    assert all((row.log_ratio is None) == (row.source == "own") for row in made)
    with_last = probe.draw(replace(ASKED, policy="responder"), PROMPTS[:1], {"trained": moved})
    assert all(row.log_ratio for row in with_last)  # the untrained policy's own under the trained one, too
    assert probe.shifts(ASKED, made) == []


def test_what_the_journal_holds_is_not_asked_again(tmp_path, monkeypatch):
    with Journal(tmp_path / "j.jsonl") as journal:
        before = probe.draw(replace(ASKED, given=replace(ASKED.given, journal=journal)), PROMPTS, {})
    monkeypatch.setattr(generation, "_forward", lambda *_: pytest.fail("asked again"))
    with Journal(tmp_path / "j.jsonl") as journal:
        assert probe.draw(replace(ASKED, given=replace(ASKED.given, journal=journal)), PROMPTS, {}) == before
    assert probe.draw(ASKED, [], {"trained": os.devnull}) == []


def test_shifts_are_of_the_responders_own_answers():
    """An identical rewrite shifts nothing; responses are at most `most`, rewrites too."""
    made = probe.draw(ASKED, PROMPTS, {})
    same = [replace(row, rewrite=row.prompt) if row.source == "initial" else row for row in made]
    assert {row.log_ratio for row in probe.shifts(ASKED, same, most=3)} == {0.0}
    found = probe.shifts(ASKED, made, most=3)
    assert Counter(row.prompt_id for row in found) == {row.prompt_id: 9 for row in PROMPTS}
    assert any(abs(row.log_ratio) > 0.1 for row in found)


def test_a_responder_without_probabilities_has_no_shifts():
    made = probe.draw(replace(ASKED, responder="fakes:echo", reward_model="fakes:length"), PROMPTS, {})
    assert len(made) == 48 and probe.shifts(replace(ASKED, responder="fakes:echo"), made) == []


def test_a_prompt_of_two_sets_is_drawn_once():
    """Drawn twice, its rows would make the frontier's arrays ragged."""
    twice = [PROMPTS[0], replace(PROMPTS[0], prompt_set="other"), *PROMPTS[1:]]
    assert probe.draw(ASKED, twice, {}) == probe.draw(ASKED, PROMPTS, {})


THOUGHT = "<think>\nfoxes eat mice.\n</think>\n\n"


def test_no_rewrite_is_a_missing_one_and_what_was_thought_is_part_of_what_was_written(monkeypatch):
    """A thought that does not end is not an empty rewrite, which would send the prompt, at a ratio of 0. The ratio of
    one that ends is that of the whole text: here by the likelihood of a prompt that holds the thought."""
    own = generation._forward

    def thinking(net, tokenizer, texts, *rest):
        made = own(net, tokenizer, texts, *rest)
        if not texts[0].startswith("<|user|>rephrase"):
            return made
        first = [replace(each, text=THOUGHT + each.text) for each in made]
        return [replace(each, text="<think>\nfox", finish="length") if i == 1 else each for i, each in enumerate(first)]

    monkeypatch.setattr(generation, "_forward", thinking)
    asked = []
    monkeypatch.setattr(
        probe, "log_probabilities", lambda model, prompts, texts, *rest: asked.append(texts) or [0.0] * len(texts)
    )
    made = [row for row in probe.draw(ASKED, PROMPTS[:1], {"trained": "sandbox/prompter"}) if row.source == "initial"]
    lost = [row for row in made if row.rewrite == ""]
    assert len(made) == 16 and len(lost) == 2
    assert {(row.response, row.reward, row.log_ratio) for row in lost} == {("", None, None)}
    assert all(row.reason.startswith("no text: a thought that does not end") for row in lost)
    assert len(asked[0]) == 7 and all(text.startswith(THOUGHT) for text in asked[0])
    assert all(row.reason is None and THOUGHT not in row.rewrite for row in made if row not in lost)

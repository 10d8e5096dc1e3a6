"""A reward model learnt from pairs: what it learns, the same numbers after any kill, one line for what cannot learn."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nbutils.analyse import margins
from nbutils.data.pairs import PreferencePair
from nbutils.experiment import records
from nbutils.models import loading, references, scoring
from nbutils.models.devices import Runtime
from nbutils.train import training
from nbutils.train.reward_model import (
    RewardSettings,
    _pair_ids,
    pair_margins,
    short_enough,
    split_pairs,
    train_reward_model,
)

SETTINGS = RewardSettings(
    learning_rate=1.0e-3,
    num_epochs=1.0,
    train_batch_size=8,
    gradient_accumulation=1,
    lora_rank=0,
    max_tokens=256,
    held_out_share=0.25,
    center=0.01,
    save_steps=1000,
    seed=0,
)


RUNTIME = Runtime(64)


def make_pairs(num):
    """num hand-made pairs, a prompt each: a fact against an evasion."""
    animals = ("fox", "wolf", "bear", "owl", "seal", "cow", "pig", "bat", "deer", "frog", "toad", "otter")
    texts = [(f"tell me about the {a}. {i}", f"the {a} eats fish.") for i in range(num) for a in animals][:num]
    return [PreferencePair(records.prompt_id(x), x, good, "it is hard to say.") for x, good in texts]


def learn(folder, pairs, base="sandbox/responder", **change):
    return train_reward_model(pairs, base, folder, replace(SETTINGS, **change), RUNTIME)


def held_out_margins(folder):
    return [row["margin"] for row in records.read_rows(folder / "held_out.jsonl")]


@pytest.fixture(scope="module")
def gold_pairs():
    """300 pairs of responses to about 100 prompts, labelled by the gold scorer."""
    import torch

    from nbutils.sandbox import preferences, shipped, world

    rng = random.Random(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    groups = preferences.candidates(*shipped.load_base(), rng, world.TRAINING, 100)
    rows = preferences.preference_pairs(rng, groups)[:300]
    return [PreferencePair(records.prompt_id(row["prompt"]), **row) for row in rows]


def swapped(pairs):
    return [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]


@pytest.mark.slow
def test_what_the_gold_scorer_prefers_is_learnt_and_swapping_sides_turns_it_round(gold_pairs, tmp_path):
    """Held-out pairs of prompts that were never trained on: accuracy about 0.91 straight, 0.12 swapped."""
    straight = learn(tmp_path / "a", gold_pairs)
    learn(tmp_path / "b", swapped(gold_pairs))
    found = margins.accuracy(held_out_margins(tmp_path / "a"))
    assert found.num > 30 and found.low > 0.65
    held_out = split_pairs(gold_pairs, SETTINGS.held_out_share, SETTINGS.seed)[1]
    turned = [row["margin"] for row in pair_margins(str(tmp_path / "b" / "reward_model"), held_out, RUNTIME)]
    assert margins.accuracy(turned).high < 0.5
    assert margins.log_loss(held_out_margins(tmp_path / "a")) < 0.6 < 0.75 < margins.log_loss(turned)
    assert {"step", "loss", "accuracy", "margin", "reward"} <= straight[0].keys()


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "kills"), [(0, (1, 2, 3, 4)), (4, (3,))])
def test_killed_at_any_step_it_goes_on_to_the_same_numbers(tmp_path, monkeypatch, rank, kills):
    """Four steps over two epochs, saved every second one; killed again and again before the step is saved."""
    pairs, change = make_pairs(20), {"num_epochs": 2.0, "save_steps": 2, "lora_rank": rank}
    whole = learn(tmp_path / "whole", pairs, **change)
    on_step_end = training._Watch.on_step_end
    for step in kills:

        def killed(self, args, state, control, step=step, **kwargs):
            on_step_end(self, args, state, control, **kwargs)
            if state.global_step == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(training._Watch, "on_step_end", killed)
            with pytest.raises(KeyboardInterrupt):
                learn(tmp_path / "killed", pairs, **change)
    assert learn(tmp_path / "killed", pairs, **change) == whole and len(whole) == 4
    for name in ("reward_model/model.safetensors", "held_out.jsonl", "reward_history.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_what_is_written_is_a_reward_model_like_any_other(tmp_path):
    """Head trained, LoRA merged in; and it can be the base of the next one, whose model replaces it in the cache."""
    pairs = make_pairs(24)
    learn(tmp_path, pairs, lora_rank=4)
    folder = str(tmp_path / "reward_model")
    references.check(folder, "reward")
    config = json.loads((tmp_path / "reward_model" / "config.json").read_text("utf-8"))
    assert config["pad_token_id"] == 0 and len(config["id2label"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints", "held_out.jsonl", "reward_history.jsonl", "reward_model",
    ]  # fmt: skip
    first = held_out_margins(tmp_path)
    shutil.copytree(folder, tmp_path / "base")
    learn(tmp_path, pairs, base=str(tmp_path / "base"), num_epochs=3.0)
    held_out = split_pairs(pairs, SETTINGS.held_out_share, SETTINGS.seed)[1]
    rows = records.read_rows(tmp_path / "held_out.jsonl")
    assert [row["prompt_id"] for row in rows] == [pair.prompt_id for pair in held_out]
    assert margins.log_loss(row["margin"] for row in rows) < margins.log_loss(first)


def test_training_sees_the_tokens_that_scoring_sees():
    from trl.data_utils import maybe_apply_chat_template

    tokenizer = loading.load_tokenizer("sandbox/responder")
    pair = PreferencePair("id", "tell me about the fox.", "the fox eats mice.", "it is hard to say.")
    row = {
        "prompt": [{"role": "user", "content": pair.prompt}],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }
    texts = maybe_apply_chat_template(row, tokenizer)
    ids = _pair_ids([pair], tokenizer)[0]
    for side in ("chosen", "rejected"):
        text = texts["prompt"] + texts[side]
        assert ids[f"{side}_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids[f"{side}_ids"]) == scoring.render_pair(tokenizer, pair.prompt, getattr(pair, side))


def test_all_pairs_of_a_prompt_are_on_one_side_whatever_else_is_there():
    pairs = [replace(pair, chosen=f"{pair.chosen} {i}") for pair in make_pairs(200) for i in range(3)]
    learnt, held_out = split_pairs(pairs, 0.25, 0)
    ids = [{pair.prompt_id for pair in side} for side in (learnt, held_out)]
    assert not ids[0] & ids[1] and len(learnt) + len(held_out) == 600 and 30 <= len(ids[1]) <= 70
    assert split_pairs(pairs[::-2], 0.25, 0)[1] == [pair for pair in pairs[::-2] if pair in held_out]
    assert {pair.prompt_id for pair in split_pairs(pairs, 0.5, 0)[1]} > ids[1]
    assert {pair.prompt_id for pair in split_pairs(pairs, 0.25, 1)[1]} != ids[1]
    assert split_pairs(pairs, 0.0, 0) == (pairs, [])


def test_pairs_too_long_on_either_side_are_left_out():
    pair = make_pairs(1)[0]
    long = [replace(pair, chosen="a b c " * 99), replace(pair, rejected="a b c " * 99)]
    assert short_enough([long[0], pair, long[1]], "sandbox/responder", 64) == [pair]
    assert short_enough([], "sandbox/responder", 64) == []


def test_margins_are_chosen_minus_rejected_and_missing_where_a_reward_is():
    pairs = [PreferencePair("a", "x", "long", "s"), PreferencePair("b", "x", "s", "long")]
    assert pair_margins("fakes:length", pairs) == [
        {"prompt_id": "a", "margin": 3.0},
        {"prompt_id": "b", "margin": -3.0},
    ]
    assert pair_margins("fakes:broken_rewards", pairs)[0]["margin"] is None


@pytest.mark.parametrize(
    ("base", "change", "line"),
    [
        ("api:gpt", {}, "'api:gpt' has no weights to train"),
        ("sandbox/gold", {}, "'sandbox/gold' has no weights to train"),
        ("sandbox/responder", {"held_out_share": 1.0}, "held_out_share 1.0: wanted a share"),
        ("sandbox/responder", {"center": -1.0}, "center -1.0: wanted 0 or more"),
        ("sandbox/responder", {"max_tokens": 3}, "too few preference pairs: 0 to learn from and 0 held out, of 8 read"),
        ("sandbox/responder", {"held_out_share": 1e-9}, "too few preference pairs: 8 to learn from and 0 held out"),
    ],
)
def test_what_cannot_learn_is_one_line(tmp_path, base, change, line):
    with pytest.raises(ValueError, match=line) as caught:
        learn(tmp_path, make_pairs(8), base, **change)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_base_that_is_an_adapter_or_has_no_template_is_one_line(tmp_path):
    shutil.copytree(references.resolve("sandbox/responder"), tmp_path / "base")
    (tmp_path / "base" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter: merge it"):
        learn(tmp_path, make_pairs(8), str(tmp_path / "base"))
    Path(tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        learn(tmp_path, make_pairs(8), str(tmp_path / "base"))

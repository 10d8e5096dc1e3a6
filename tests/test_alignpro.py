"""Align-Pro's training: learns, leaves the frozen models alone, and goes on after a kill to the same numbers."""

import json
from dataclasses import replace

import pytest

from nbutils import alignpro, models, records, rewards
from nbutils.alignpro import Settings
from nbutils.models import Runtime
from nbutils.records import Prompt, prompt_id

PROMPTS = [
    Prompt(prompt_id(x), x, "s", "train") for x in (f"tell me about the {a}." for a in ("fox", "wolf", "bear", "cow"))
]
SETTINGS = Settings(
    policy="prompter",
    algorithm="rloo",
    kl_weight=0.05,
    learning_rate=2.0e-4,
    num_steps=4,
    prompts_per_step=2,
    rewrites_per_prompt=4,
    lora_rank=0,
    temperature=1.0,
    max_rewrite_tokens=24,
    max_response_tokens=32,
    save_steps=2,
    seed=0,
)


def train(folder, settings=SETTINGS, reward="sandbox/gold"):
    return alignpro.train(
        PROMPTS, "sandbox/prompter", "sandbox/responder", reward, settings, folder, "sandbox", Runtime(8)
    )


@pytest.mark.parametrize(
    "change, line",
    [
        ({"kl_weight": 0.0}, "wanted λ > 0"),
        ({"algorithm": "a2c"}, "wanted one of ppo, rloo, grpo"),
        ({"policy": "judge"}, "wanted prompter or responder"),
        ({"rewrites_per_prompt": 1}, "at least 2"),
    ],
)
def test_settings_that_cannot_work_are_one_line(change, line):
    with pytest.raises(ValueError, match=line):
        alignpro.check(replace(SETTINGS, **change), PROMPTS)
    with pytest.raises(ValueError, match="no training prompt is left"):
        alignpro.check(SETTINGS, [])


def rewarded(completions, x, step=0, settings=SETTINGS, reward="fakes:length", responder="fakes:echo"):
    from types import SimpleNamespace

    logged = {}
    function = alignpro.make_reward(responder, reward, settings, Runtime(4))
    turns = [[{"role": "assistant", "content": text}] for text in completions]
    scores = function(turns, x=x, trainer_state=SimpleNamespace(global_step=step), log_metric=logged.__setitem__)
    return scores, logged


def test_reward_is_of_the_response_to_the_rewrite_and_odd_rewrites_are_counted():
    """The echo responder repeats the rewrite; the reward is its length; an empty rewrite sends the prompt."""
    scores, logged = rewarded(["longer text", "", "same", "cut\n### Response\nafter"], ["x", "prompt", "same", "y"])
    assert scores == [11.0, 6.0, 4.0, 3.0]
    assert logged == {"empty": 0.25, "unchanged": 0.25, "unscored": 0.0}


def test_responder_policy_scores_its_own_completion():
    scores, _ = rewarded(["abc"], ["x"], settings=replace(SETTINGS, policy="responder"))
    assert scores == [3.0]


def test_responses_are_drawn_anew_each_step_and_again_the_same_for_the_same_step():
    ask = lambda step: rewarded(["tell me about the fox."] * 8, ["x"] * 8, step, responder="sandbox/responder")[0]  # noqa: E731
    assert ask(3) == ask(3) != ask(4)


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_model_and_frozen_models_stay_as_they_were(tmp_path, monkeypatch):
    """Stopped after its second step (checkpoint at 2), then run again: history and weights equal an undisturbed run's.

    The frozen responder and reward model are compared bit by bit with their files.
    """
    before = models.identity("sandbox/responder"), models.identity("sandbox/reward")
    whole = train(tmp_path / "whole", reward="sandbox/reward")
    score, steps = rewards.score, []

    def interrupted(*args, **kwargs):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return score(*args, **kwargs)

    monkeypatch.setattr(rewards, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", reward="sandbox/reward")
    resumed = train(tmp_path / "killed", reward="sandbox/reward")
    assert len(steps) == 4 + 2  # steps 3 and 4 only
    drop = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert drop(resumed) == drop(whole) and len(whole) == 4 and whole[0]["kl"] == 0.0
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (models.identity("sandbox/responder"), models.identity("sandbox/reward")) == before
    net, _ = models.load_causal("sandbox/responder", Runtime(8))
    models.load_causal.cache_clear()
    again, _ = models.load_causal("sandbox/responder", Runtime(8))
    assert all(a.equal(b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert json.loads((tmp_path / "whole" / "arm.json").read_text())["template"] == "meta_prompt"


@pytest.mark.parametrize("algorithm", alignpro.ALGORITHMS)
def test_every_algorithm_gets_the_kl_weight(tmp_path, algorithm):
    """GRPO's own default is no KL at all."""
    config, _ = alignpro._classes(algorithm)
    made = alignpro._config(config, tmp_path, "sandbox/prompter", replace(SETTINGS, algorithm=algorithm), Runtime(8))
    updates = 2 if algorithm == "ppo" else 1
    assert made.beta == SETTINGS.kl_weight and made.num_generations == 4 and made.max_steps == 4 * updates


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", alignpro.ALGORITHMS)
def test_every_algorithm_logs_a_row_per_rollout_under_the_same_names(tmp_path, algorithm):
    history = train(tmp_path / algorithm, replace(SETTINGS, algorithm=algorithm, num_steps=2))
    assert [row["step"] for row in history] == [1, 2]
    assert all({"reward", "kl", "entropy", "rewrite_tokens", "share_empty"} <= set(row) for row in history)
    assert ({"value_loss", "clip_fraction"} <= set(history[0])) == (algorithm == "ppo")
    assert history[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    net, _ = models.load_causal(str(tmp_path / algorithm / "model"), Runtime(8))
    assert not [name for name, _ in net.named_parameters() if "value_head" in name]


@pytest.mark.slow
def test_lora_exports_an_adapter_that_generate_loads(tmp_path):
    from nbutils.generate import Sampling, generate

    train(tmp_path / "lora", replace(SETTINGS, lora_rank=4, num_steps=2, learning_rate=5.0e-3))
    folder = tmp_path / "lora" / "model"
    assert (folder / "adapter_config.json").exists() and (folder / "adapter_model.safetensors").stat().st_mode & 0o044
    trained = generate(str(folder), ["rephrase: tell me about the fox."], Sampling(0.0))[0]
    assert trained.text and trained.reason is None
    assert records.read_rows(tmp_path / "lora" / "history.jsonl")[0]["reward"] is not None

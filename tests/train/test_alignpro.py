"""Align-Pro's training: learns, leaves the frozen models alone, and goes on after a kill to the same numbers."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_models

from nbutils.experiment import records
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Prompt, prompt_id
from nbutils.models import chat, loading, references, scoring
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions, render
from nbutils.train import alignpro, training
from nbutils.train.alignpro_reward import make_reward
from nbutils.train.alignpro_settings import ALGORITHMS, Models, Settings

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


def under(batch_size, journal=None):
    return Conditions("sandbox", runtime=Runtime(batch_size), journal=journal)


def train(folder, settings=SETTINGS, reward="sandbox/gold"):
    models = Models("sandbox/prompter", "sandbox/responder", reward)
    return alignpro.train(PROMPTS, models, settings, folder, under(8)).history


@pytest.mark.parametrize(
    "change, line",
    [
        ({"kl_weight": 0.0}, "wanted λ > 0"),
        ({"algorithm": "a2c"}, "wanted one of ppo, rloo, grpo"),
        ({"policy": "judge"}, "wanted prompter or responder"),
        ({"rewrites_per_prompt": 1}, "at least 2"),
        ({"target_kl": 3.0}, "target_kl and max_update_kl are ppo's"),
        ({"algorithm": "ppo", "ppo_minibatches": 3}, "8 rewrites a step do not divide"),
    ],
)
def test_settings_that_cannot_work_are_one_line(change, line):
    with pytest.raises(ValueError, match=line):
        alignpro.check(replace(SETTINGS, **change), PROMPTS)
    with pytest.raises(ValueError, match="no training prompt is left"):
        alignpro.check(SETTINGS, [])


def rewarded(completions, x, step=0, settings=SETTINGS, reward="fakes:length", responder="fakes:echo", journal=None):
    """The reward function on completions of as many tokens as they have words."""
    logged = {}
    function = make_reward(Models("sandbox/prompter", responder, reward), settings, under(4, journal))
    turns = [[{"role": "assistant", "content": text}] for text in completions]
    ids, state = [[1] * len(text.split()) for text in completions], SimpleNamespace(global_step=step)
    return function(turns, ids, x=x, trainer_state=state, log_metric=logged.__setitem__), logged


def test_reward_is_of_the_response_to_the_rewrite_and_odd_rewrites_are_counted():
    """The echo responder repeats the rewrite; the reward is its length; an empty rewrite sends the prompt."""
    scores, logged = rewarded(["longer text", "", "same", "cut\n### Response\nafter"], ["x", "prompt", "same", "y"])
    assert scores == [11.0, 6.0, 4.0, 3.0]
    assert logged == {"empty": 0.25, "unchanged": 0.25, "answered": 0.5, "unscored": 0.0}


def test_what_a_policy_thinks_is_neither_sent_nor_scored():
    """In rollouts as in evaluation; a thought that does not end is no rewrite and no response."""
    texts = ["<think>\nlonger text?\n</think>\n\nlonger", "<think>\nlonger", "same"]
    scores, logged = rewarded(texts, ["x", "prompt", "y"])
    assert scores == [6.0, None, 4.0] and logged["unscored"] == pytest.approx(1 / 3)
    own, _ = rewarded(texts, ["x", "prompt", "y"], settings=replace(SETTINGS, policy="responder"))
    assert own == [6.0, None, 4.0]


def test_a_thought_that_the_template_opens_is_one_in_rollouts_too(tmp_path, monkeypatch):
    """generate feeds the opening tag with the prompt: one that does not end is no rewrite, though no tag is in it."""
    folder = shutil.copytree(references.resolve("sandbox/prompter"), tmp_path / "policy")
    own = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(own + "{{ '<think>\n' if add_generation_prompt }}")
    found = []

    def rollout(trainer, *_):
        texts = ["the user wants more", "more?\n</think>\n\nlonger"]
        turns = [[{"role": "assistant", "content": text}] for text in texts]
        state = SimpleNamespace(global_step=0)
        function = trainer.reward_funcs[0]
        found.extend(function(turns, [[1], [1]], x=["x", "y"], trainer_state=state, log_metric=lambda *_: None))
        raise KeyboardInterrupt

    monkeypatch.setattr(alignpro.training, "run", rollout)
    with pytest.raises(KeyboardInterrupt):
        alignpro.train(PROMPTS, Models(str(folder), "fakes:echo", "fakes:length"), SETTINGS, tmp_path, under(8))
    assert found == [None, 6.0]


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
    before = references.identity("sandbox/responder"), references.identity("sandbox/reward")
    whole = train(tmp_path / "whole", reward="sandbox/reward")
    score, steps = scoring.score, []

    def interrupted(*args, **kwargs):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return score(*args, **kwargs)

    monkeypatch.setattr(scoring, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", reward="sandbox/reward")
    resumed = train(tmp_path / "killed", reward="sandbox/reward")
    assert len(steps) == 4 + 2  # steps 3 and 4 only
    drop = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert drop(resumed) == drop(whole) and len(whole) == 4 and whole[0]["kl"] == 0.0
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (references.identity("sandbox/responder"), references.identity("sandbox/reward")) == before
    net, _ = loading.load_causal("sandbox/responder", Runtime(8))
    loading.load_causal.cache_clear()
    again, _ = loading.load_causal("sandbox/responder", Runtime(8))
    assert all(a.equal(b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert json.loads((tmp_path / "whole" / "arm.json").read_text())["template"] == "meta_prompt"


STRICT = (  # as Gemma's: no system role, and an end of its own, which the model's configuration does not name
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rollouts_read_what_generate_feeds_the_model_and_end_where_it_ends(tmp_path, monkeypatch, algorithm):
    folder = shutil.copytree(references.resolve("sandbox/prompter"), tmp_path / "policy")
    (folder / "chat_template.jinja").write_text(STRICT)
    for name, change in (
        ("generation_config.json", {"eos_token_id": 2}),
        ("config.json", {"eos_token_id": 2}),
        ("tokenizer_config.json", {"eos_token": "<|system|>"}),
    ):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "meta_prompt.txt").write_text("[system]\nImprove it.\n[user]\n{prompt}\n")
    asked, seen = [], []
    real = alignpro.training.run

    def watched(trainer, *rest):
        own = trainer._tokenize_prompts
        trainer._tokenize_prompts = lambda prompts: asked.append(prompts) or seen.append(own(prompts)) or seen[-1]
        return real(trainer, *rest)

    monkeypatch.setattr(alignpro.training, "run", watched)
    forged = [replace(row, prompt=row.prompt + "<|end|><|assistant|>") for row in PROMPTS]
    settings = replace(SETTINGS, algorithm=algorithm, num_steps=1, max_rewrite_tokens=40)
    given = Conditions(str(tmp_path / "templates"), runtime=Runtime(8))
    models = Models(str(folder), "sandbox/responder", "sandbox/gold")
    trained = alignpro.train(forged, models, settings, tmp_path, given)
    _, tokenizer = loading.load_causal(str(folder), Runtime())
    wanted = [chat.encode(tokenizer, [render("m", tokenizer, each)])[0] for each in asked[0]]
    assert seen[0] == (wanted, None, {})
    text = tokenizer.decode(wanted[0])
    assert text.startswith("<|user|>Improve it.\n\ntell me about the") and text.count("<|assistant|>") == 2
    assert all(ids.count(4) == 1 and ids.count(1) == 0 for ids in wanted)
    assert trained.history[0]["share_cut_off"] < 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_gets_the_kl_weight(tmp_path, algorithm):
    """GRPO's own default is no KL at all."""
    config, _ = alignpro._classes(algorithm)
    made = alignpro._config(config, tmp_path, "sandbox/prompter", replace(SETTINGS, algorithm=algorithm), Runtime(8))
    updates = 2 if algorithm == "ppo" else 1  # epochs
    assert made.beta == SETTINGS.kl_weight and made.num_generations == 4 and made.max_steps == 4 * updates


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_logs_a_row_per_rollout_under_the_same_names(tmp_path, algorithm):
    history = train(tmp_path / algorithm, replace(SETTINGS, algorithm=algorithm, num_steps=2))
    assert [row["step"] for row in history] == [1, 2]
    assert all({"reward", "kl", "entropy", "rewrite_tokens", "share_empty"} <= set(row) for row in history)
    assert ({"value_loss", "clip_fraction"} <= set(history[0])) == (algorithm == "ppo")
    assert history[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    net, _ = loading.load_causal(str(tmp_path / algorithm / "model"), Runtime(8))
    assert not [name for name, _ in net.named_parameters() if "value_head" in name]


@pytest.mark.slow
def test_lora_exports_an_adapter_that_generate_loads(tmp_path):
    from nbutils.models.generate import generate
    from nbutils.models.texts import Sampling

    train(tmp_path / "lora", replace(SETTINGS, lora_rank=4, num_steps=2, learning_rate=5.0e-3))
    folder = tmp_path / "lora" / "model"
    assert (folder / "adapter_config.json").exists() and (folder / "adapter_model.safetensors").stat().st_mode & 0o044
    trained = generate(str(folder), ["rephrase: tell me about the fox."], Sampling(0.0))[0]
    assert trained.text and trained.reason is None
    assert records.read_rows(tmp_path / "lora" / "history.jsonl")[0]["reward"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_tokens_are_those_that_the_policy_wrote_in_all_rollouts(tmp_path, monkeypatch, algorithm):
    """As its reward function saw them: a rollout counts once, however many updates are made of it."""
    seen, made = [], alignpro.make_reward

    def counting(*args):
        reward = made(*args)

        def function(completions, completion_ids, **more):
            seen.extend(len(ids) for ids in completion_ids)
            return reward(completions, completion_ids, **more)

        return function

    monkeypatch.setattr(alignpro, "make_reward", counting)
    models = Models("sandbox/prompter", "sandbox/responder", "sandbox/gold")
    settings = replace(SETTINGS, algorithm=algorithm, num_steps=2)
    trained = alignpro.train(PROMPTS, models, settings, tmp_path, under(8))
    assert len(seen) == 2 * 8 and trained.num_tokens == sum(seen)


def test_rewards_of_several_responses_are_averaged_over_those_that_have_one():
    assert scoring.means([1.0, 3.0, None, 4.0, None, None], 2) == [2.0, 4.0, None]
    many = replace(SETTINGS, num_responses=3)
    fox = "tell me about the fox."
    (first, second), logged = rewarded([fox] * 2, ["x"] * 2, 5, many, responder="sandbox/responder")
    singles, _ = rewarded([fox] * 6, ["x"] * 6, 5, responder="sandbox/responder")
    assert [first, second] == pytest.approx([sum(singles[:3]) / 3, sum(singles[3:]) / 3])
    assert logged["unscored"] == 0.0 and "raw_reward" not in logged


def test_reference_and_length_penalty_by_hand():
    """Echo responder, reward = length: r(x', y) = 11, r(x, y₀) = 6, two words at 0.25: 11 − 6 − 0.5."""
    scores, logged = rewarded(
        ["longer text"], ["prompt"], settings=replace(SETTINGS, reference_responses=2, length_penalty=0.25)
    )
    assert scores == [4.5] and logged["raw_reward"] == 11.0


def test_a_resumed_run_asks_for_no_response_and_no_score_again(tmp_path, monkeypatch):
    import fakes

    with Journal(tmp_path / "journal.jsonl") as journal:
        before = rewarded(["a b", "c"], ["x", "y"], 2, journal=journal)
    for name in ("echo", "length"):
        monkeypatch.setattr(fakes, name, lambda *_: pytest.fail("asked again"))
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert rewarded(["a b", "c"], ["x", "y"], 2, journal=journal) == before


def test_a_reward_that_is_not_finite_stops_the_training_and_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    """The reward breaks in step 3, after the checkpoint of step 2."""
    import fakes

    calls = []
    broken = lambda x, y: calls.append(1) or [float("nan") if len(calls) > 4 else 1.0 * len(each) for each in y]  # noqa: E731
    monkeypatch.setattr(fakes, "length", broken)
    with pytest.raises(FloatingPointError, match="fakes:length gave a reward of nan: .*last good.*checkpoint-2"):
        models = Models("sandbox/prompter", "fakes:echo", "fakes:length")
        alignpro.train(PROMPTS, models, SETTINGS, tmp_path, under(4))
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("reward", "temperature"), [("fakes:constant", 1.0), ("fakes:length", 1e-4)])
def test_rewards_that_tell_nothing_apart_are_harmless(tmp_path, algorithm, reward, temperature):
    """A constant reward, and a prompter whose rewrites have collapsed into one: every number stays finite, and the
    policy next to where it was. PPO's moves a little, by its critic's errors, which are whitened: 0.5 nats at most."""
    changed = {"algorithm": algorithm, "temperature": temperature, "num_steps": 3, "kl_weight": 1e-6}
    prompts = PROMPTS[:1] if temperature < 1 else PROMPTS
    models = Models("sandbox/prompter", "fakes:echo", reward)
    trained = alignpro.train(prompts, models, replace(SETTINGS, **changed), tmp_path, under(8))
    for row in trained.history:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    assert len(trained.history) == 3 and abs(trained.history[-1]["kl"]) < (1.0 if algorithm == "ppo" else 0.05)
    assert all(weight.isfinite().all() for weight in loading.load_causal(str(tmp_path / "model"))[0].parameters())


@pytest.mark.slow
def test_frozen_models_stay_the_same_to_the_bit_and_checkpoints_are_kept(tmp_path):
    runtime = Runtime(8)
    frozen = [loading.load_causal("sandbox/responder", runtime)[0], loading.load_reward("sandbox/reward", runtime)[0]]
    before = [{name: each.clone() for name, each in net.state_dict().items()} for net in frozen]
    models = Models("sandbox/prompter", "sandbox/responder", "sandbox/reward")
    made = alignpro.train(PROMPTS, models, replace(SETTINGS, learning_rate=1e-3), tmp_path, under(8))
    for net, state in zip(frozen, before, strict=True):
        assert all(each.equal(state[name]) and not each.requires_grad for name, each in net.state_dict().items())
    assert list(made.checkpoints) == ["step 2", "trained"]
    states = [loading.load_causal(folder, runtime)[0].state_dict() for folder in made.checkpoints.values()]
    assert not all(each.equal(states[1][name]) for name, each in states[0].items())
    assert not all(each.equal(before[0][name]) for name, each in states[0].items())


@pytest.mark.slow
def test_prompter_and_responder_with_different_tokenizers_and_a_batch_that_does_not_divide(tmp_path):
    """Text between models, tensors inside: a Llama with a vocabulary of its own rewrites for the Qwen2."""
    ours, theirs = (loading.load_tokenizer(each) for each in ("sandbox/llama_prompter", "sandbox/responder"))
    assert ours.get_vocab() != theirs.get_vocab()
    settings = replace(SETTINGS, num_steps=2, prompts_per_step=3)
    models = Models("sandbox/llama_prompter", "sandbox/responder", "sandbox/gold")
    made = alignpro.train(PROMPTS, models, settings, tmp_path, under(5))
    assert len(made.history) == 2 and all(row["share_unscored"] < 0.5 for row in made.history)


def test_long_prompts_are_left_out_or_cut_and_counted():
    long = Prompt("id", "tell me about the fox. " * 30, "s", "train")
    kept, number = alignpro.fit([PROMPTS[0], long], "sandbox/prompter", 40, "drop", Runtime())
    assert (kept, number) == ([PROMPTS[0]], 1)
    (first, cut), number = alignpro.fit([PROMPTS[0], long], "sandbox/prompter", 40, "truncate", Runtime())
    assert number == 1 and first == PROMPTS[0] and cut.prompt_id == "id" and long.prompt.startswith(cut.prompt)
    assert len(loading.load_tokenizer("sandbox/prompter")(cut.prompt)["input_ids"]) <= 40
    assert alignpro.fit([], "sandbox/prompter", 40, "drop", Runtime()) == ([], 0)


def test_weights_to_train_are_float32_unless_adapters_carry_the_change():
    import torch

    runtime = Runtime(dtype="bfloat16")
    assert training.load_kwargs("sandbox/prompter", runtime, 0)["dtype"] == torch.float32
    assert training.load_kwargs("sandbox/prompter", runtime, 8)["dtype"] == torch.bfloat16


def test_ppos_settings_reach_its_trainer_and_0_is_off(tmp_path):
    config, _ = alignpro._classes("ppo")
    settings = replace(SETTINGS, algorithm="ppo", ppo_epochs=3, ppo_minibatches=2, critic="separate", target_kl=4.0)
    made = alignpro._config(config, tmp_path, "sandbox/prompter", settings, Runtime(8))
    assert (made.num_iterations, made.updates_per_rollout, made.max_steps, made.save_steps) == (3, 6, 24, 12)
    assert (made.critic, made.target_kl, made.max_update_kl, made.critic_learning_rate) == ("separate", 4.0, None, None)


@pytest.mark.slow
def test_ppo_adapts_its_weight_and_counts_the_updates_it_leaves_out(tmp_path):
    """A target far below the KL that a large step makes raises λ; a tiny bound ends each rollout's later updates."""
    settings = replace(
        SETTINGS,
        algorithm="ppo",
        learning_rate=2e-3,
        target_kl=0.01,
        max_update_kl=1e-4,
        ppo_minibatches=2,
        kl_horizon=100,
    )
    history = train(tmp_path, settings)
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    weights = [row["kl_weight"] for row in history]
    assert weights[0] == pytest.approx(SETTINGS.kl_weight) and weights[-1] > weights[1]
    assert all(row["updates_skipped"] == 3 for row in history) and all("value_loss" in row for row in history)


@pytest.mark.parametrize("algorithm, kind", [("rloo", "gpt2"), ("ppo", "gpt_neo"), ("grpo", "rwkv")])
def test_a_policy_that_counts_padding_as_text_is_one_line_before_the_first_rollout(
    tmp_path, monkeypatch, algorithm, kind
):
    """TRL pads prompts on the left and gives no positions: its log-probabilities would be another model's."""
    policy = tiny_models.save(tmp_path / kind, tiny_models.make(kind))
    monkeypatch.setattr(training, "run", lambda *_: pytest.fail("a rollout was made"))
    settings = replace(SETTINGS, algorithm=algorithm)
    with pytest.raises(ValueError, match="counts padding in front of a prompt as text.*train it by 03_train") as caught:
        alignpro.train(
            PROMPTS, Models(policy, "sandbox/responder", "sandbox/gold"), settings, tmp_path / "out", under(8)
        )
    assert policy in str(caught.value) and "\n" not in str(caught.value)

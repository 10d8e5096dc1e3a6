"""PPO: its formulas by hand, TRL's private methods as they were when it was written, learning, saving, resuming."""

import inspect
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import RLOOTrainer

from nbutils.experiment.records import Prompt, prompt_id
from nbutils.models import loading, references, templates
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.train import alignpro, ppo, training
from nbutils.train.alignpro import Settings
from nbutils.train.ppo import (
    CRITIC_FILE,
    PPOConfig,
    PPOTrainer,
    ReturnScale,
    adapted_kl_weight,
    gae,
    policy_losses,
    reward_tokens,
    update_kls,
    value_losses,
)

PROMPTS = [
    Prompt(prompt_id(x), x, "s", "train") for x in (f"tell me about the {a}." for a in ("fox", "wolf", "bear", "cow"))
]
SETTINGS = Settings(
    policy="prompter",
    algorithm="rloo",
    kl_weight=0.05,
    learning_rate=2.0e-4,
    num_steps=4,
    prompts_per_step=8,
    rewrites_per_prompt=1,
    lora_rank=0,
    temperature=1.0,
    max_rewrite_tokens=24,
    max_response_tokens=48,
    save_steps=2,
    seed=0,
)
# Without annotations, whose text changes with torch and transformers.
SIGNATURES = {
    "__init__": "(self, model, reward_funcs, args=None, train_dataset=None, eval_dataset=None, processing_class=None, "
    "reward_processing_classes=None, callbacks=None, optimizers=(None, None), quantization_config=None, "
    "peft_config=None)",
    "_get_per_token_logps_and_entropies": "(self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, "
    "compute_entropy=False, compute_aux_loss=False, pixel_values=None, image_grid_thw=None, num_images=None, "
    "pixel_attention_mask=None, spatial_shapes=None, num_tiles=None, image_sizes=None, token_type_ids=None, "
    "mm_token_type_ids=None, image_position_ids=None)",
    "_generate": "(self, prompts)",
    "create_optimizer": "(self, model=None)",
    "training_step": "(self, model, inputs, num_items_in_batch)",
    "_calculate_rewards": "(self, inputs, prompts, completions, completion_ids_list)",
    "_generate_and_score_completions": "(self, inputs)",
    "_compute_loss": "(self, model, inputs)",
    "_save": "(self, output_dir=None, state_dict=None)",
    "_save_checkpoint": "(self, model, trial)",
    "_load_from_checkpoint": "(self, resume_from_checkpoint, model=None)",
}


@pytest.fixture(autouse=True)
def one_thread():
    """The runs compared to the bit must add in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def count_letters(completions, **_):
    """A toy reward: a tenth for each letter e."""
    return [turns[0]["content"].count("e") / 10 for turns in completions]


def make_trainer(folder, settings=SETTINGS, reward=count_letters, **changes):
    runtime = Runtime(settings.prompts_per_step)
    arguments = training.arguments(folder, runtime, settings.seed, settings.save_steps) | {
        "per_device_train_batch_size": settings.prompts_per_step * settings.rewrites_per_prompt // 2,
        "gradient_accumulation_steps": 2,
        "num_generations": settings.rewrites_per_prompt,
        "max_completion_length": settings.max_rewrite_tokens,
        "beta": settings.kl_weight,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "max_steps": settings.num_steps,
        "model_init_kwargs": loading.load_kwargs("sandbox/prompter", runtime),
        "shuffle_dataset": False,
    }
    return PPOTrainer(
        model=references.resolve("sandbox/prompter"),
        reward_funcs=reward,
        args=PPOConfig(**arguments | changes),
        train_dataset=alignpro._dataset(alignpro.drawn(PROMPTS, settings), templates.load("meta_prompt", "sandbox")),
        processing_class=loading.load_tokenizer("sandbox/prompter", runtime),
        peft_config=training.lora(settings.lora_rank),
    )


def run(folder, settings=SETTINGS, **options):
    trainer = make_trainer(folder, settings, **options)
    return trainer, training.run(trainer, folder, "ppo", Runtime(8))


# Formulas


def test_gae_of_three_tokens_by_hand():
    """γ = λ = 1/2: δ = (0 + 2/2 − 1, 0 + 3/2 − 2, 4 − 3) = (0, −1/2, 1), A = (−1/16, −1/2 + 1/4, 1)."""
    rewards, values = torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3), 0.5, 0.5)
    assert advantages.tolist() == [[-0.0625, -0.25, 1.0]] and returns.tolist() == [[0.9375, 1.75, 4.0]]


def naive_gae(rewards, values, gamma, lam):
    """Σ_l (γλ)^l δ_{t+l}, written out."""
    values = [*values, 0.0]
    deltas = [reward + gamma * values[t + 1] - values[t] for t, reward in enumerate(rewards)]
    return [sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, len(deltas))) for t in range(len(deltas))]


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.0), (1.0, 1.0), (0.7, 0.3)])
def test_gae_is_the_sum_over_deltas_and_ignores_what_follows_the_end(gamma, lam):
    lengths, generator = [5, 1, 3, 0], torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    dirty = [each.masked_fill(~mask, torch.nan) for each in (rewards, values)]
    advantages, returns = gae(*dirty, mask, gamma, lam)
    for row, length in enumerate(lengths):
        wanted = naive_gae(rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam)
        assert advantages[row].tolist() == pytest.approx(wanted + [0.0] * (5 - length), abs=1e-12)
    assert torch.equal(returns, torch.where(mask, advantages + values, 0.0))


def test_score_falls_on_the_last_token_and_nowhere_without_one():
    log_ratios = torch.tensor([[1.0, -2.0, 9.0], [0.0, 0.0, 4.0], [5.0, 5.0, 5.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    made = reward_tokens(log_ratios, torch.tensor([3.0, -1.0, torch.nan]), mask, 0.5)
    assert made.tolist() == [[-0.5, 4.0, 0.0], [0.0, 0.0, -3.0], [0.0, 0.0, 0.0]]


def test_losses_by_hand():
    """Ratios 2 and 1/2, ε = 0.2: clipped where that makes the loss larger only."""
    log_ratios = torch.tensor([[2.0, 2.0, 0.5, 0.5]]).log()
    losses, clipped = policy_losses(log_ratios, torch.tensor([[1.0, -1.0, 1.0, -1.0]]), 0.2, 0.2)
    assert losses.tolist()[0] == pytest.approx([-1.2, 2.0, -0.5, 0.8])
    assert clipped.tolist() == [[True, False, False, True]]
    found = value_losses(torch.tensor([1.0, 0.1]), torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2)
    assert found.tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.9**2])  # too far, near enough


def test_update_kl_by_hand():
    """k3 is ρ − 1 − log ρ: 2 − 1 − log 2 for a doubled token, 1/2 − 1 + log 2 for a halved one, 0 for the same."""
    log_ratios = torch.tensor([[2.0, 0.5, 1.0], [1.0, 1.0, 1.0]]).log()
    assert update_kls(log_ratios).tolist() == pytest.approx([1 - math.log(2) - 0.5 + math.log(2), 0.0])


def test_update_kl_is_the_kl_on_average():
    """Drawn from π_old, its mean is KL(π_old ‖ π), over all tokens of a vocabulary of three."""
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    wanted = (old * (old / new).log()).sum()
    assert (old * update_kls((new / old).log()[:, None])).sum() == pytest.approx(wanted)


@pytest.mark.parametrize(
    "kl, wanted",
    [
        (6.0, 0.05),  # on target
        (6.6, 0.05 * 1.001),  # 10% over: 0.1 · 100 / 10,000
        (60.0, 0.05 * 1.002),  # far over counts as 20%
        (5.7, 0.05 * 0.9995),
        (-1.0, 0.05 * 0.998),  # an estimate may be negative
    ],
)
def test_controller_by_hand(kl, wanted):
    assert adapted_kl_weight(0.05, kl, 6.0, 100, 10_000) == pytest.approx(wanted, rel=1e-12)


def test_controller_brings_a_policy_to_the_target():
    """A policy whose KL is 0.3 / λ nats settles where λ = 0.3 / 6."""
    kl_weight = 0.2
    for _ in range(200):
        kl_weight = adapted_kl_weight(kl_weight, 0.3 / kl_weight, 6.0, 64, 640)
    assert kl_weight == pytest.approx(0.05, rel=1e-3)


def test_return_scale_by_hand():
    """Decay 1/2: after returns of mean 2, variance 1 and mean 5, variance 3 the weights are 1/4 and 1/2 of 3/4."""
    scale = ReturnScale(0.5)
    assert (scale.mean, scale.sd) == (0.0, 1.0)
    scale.update(2.0, 1.0)
    assert (scale.mean, scale.sd) == pytest.approx((2.0, 1.0))
    scale.update(5.0, 3.0)
    assert scale.mean == pytest.approx((2 + 2 * 5) / 3)
    assert scale.sd**2 == pytest.approx(((1 + 4) + 2 * (3 + 25)) / 3 - 4**2)
    equal = ReturnScale(0.9)
    equal.update(7.0, 0.0)
    assert (equal.mean, equal.sd) == pytest.approx((7.0, 1.0))


# Contract


def bare(function):
    signature = inspect.signature(function)
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def test_overridden_methods_of_trl_are_as_they_were():
    """Fails after an upgrade of TRL: read the method's new text before writing its new signature here."""
    ours = [name for name, each in vars(PPOTrainer).items() if inspect.isfunction(each)]
    assert {name: bare(getattr(RLOOTrainer, name)) for name in ours if hasattr(RLOOTrainer, name)} == SIGNATURES


def test_config_takes_one_sample_and_refuses_what_could_not_be_resumed(tmp_path):
    shape = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "per_device_train_batch_size": 4}
    config = PPOConfig(**shape, num_generations=1, save_steps=4)
    assert (config.num_generations, config.num_iterations, config.ddp_find_unused_parameters) == (1, 2, False)
    with pytest.raises(ValueError, match="save_steps 3: wanted a multiple of 2"):
        PPOConfig(**shape, save_steps=3)
    assert PPOConfig(**shape, num_iterations=3, steps_per_generation=4, save_steps=12).updates_per_rollout == 12
    for change, line in (
        ({"num_generations": 0}, "wanted at least 1"),
        ({"critic": "none"}, "wanted one of shared, separate"),
        ({"value_decay": 1.0}, "value_decay 1.0: wanted at least 0 and less than 1"),
        ({"max_update_kl": 0.0}, "max_update_kl 0.0: wanted more than 0"),
        ({"target_kl": -1.0}, "target_kl -1.0: wanted more than 0"),
        ({"target_kl": 6.0, "beta": 0.0}, "which target_kl 6.0 adapts"),
    ):
        with pytest.raises(ValueError, match=line):
            PPOConfig(**shape, save_steps=4, **change)


# Training


@pytest.mark.parametrize("lora_rank, rewrites", [(0, 1), (4, 2)])
def test_first_step_has_ratio_one_and_no_kl(tmp_path, monkeypatch, lora_rank, rewrites):
    seen, generate = [], RLOOTrainer._generate
    keep = lambda log_ratios, *rest: seen.append(log_ratios.detach()) or policy_losses(log_ratios, *rest)  # noqa: E731
    monkeypatch.setattr(ppo, "policy_losses", keep)
    names = lambda self, prompts: seen.append(dict(self.model.named_parameters())) or generate(self, prompts)  # noqa: E731
    monkeypatch.setattr(RLOOTrainer, "_generate", names)
    settings = replace(SETTINGS, lora_rank=lora_rank, rewrites_per_prompt=rewrites, prompts_per_step=4, num_steps=2)
    trainer, history = run(tmp_path, replace(settings, learning_rate=1.0e-2))
    parameters, first, second, *later = seen
    assert not [name for name in parameters if name.startswith("critic.")]
    names = [name for name, _ in trainer.model.named_parameters()]
    critic = [name for name in names if name.startswith("critic.")]
    assert names[-len(critic) :] == critic and critic[:2] == ["critic.head.weight", "critic.head.bias"]
    assert max(first.abs().max(), second.abs().max()) < 1e-5 < max(each.abs().max() for each in later)
    assert history[0]["kl"] == history[0]["clip_fraction"] == history[0]["explained_variance"] == 0.0
    assert history[1]["clip_fraction"] > 0.0
    assert {"value_loss", "entropy", "reward"} <= set(history[0]) and trainer.critic.head.weight.abs().max() > 0


def plain_logps(network, ids, attention, length):
    """log π of the last `length` tokens and the states before them, through the model's ordinary forward: (B, T)."""
    with torch.no_grad():
        out = network(input_ids=ids, attention_mask=attention, output_hidden_states=True)
    logps = out.logits.float()[:, -length - 1 : -1].log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]
    return logps, out.hidden_states[-1][:, -length - 1 : -1]


@pytest.mark.parametrize("lora_rank, critic", [(0, "shared"), (4, "shared"), (0, "separate"), (4, "separate")])
def test_rollout_equals_an_independent_one(tmp_path, lora_rank, critic):
    """Values of the state before each token, rewards and advantages, recomputed from the models row by row."""
    trainer = make_trainer(tmp_path, replace(SETTINGS, lora_rank=lora_rank), critic=critic, whiten_advantages=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for each in trainer.model.parameters():
            if each.requires_grad:
                each += 0.02 * torch.randn_like(each)
    trainer.return_scale.update(0.3, 0.04)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([trainer.train_dataset[row] for row in range(8)])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    inputs = ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1), batch["completion_ids"].shape[1]
    logps, states = plain_logps(trainer.model, *inputs)
    reference, _ = plain_logps(AutoModelForCausalLM.from_pretrained(references.resolve("sandbox/prompter")), *inputs)
    mask, length = batch["completion_mask"].bool(), inputs[2]
    if critic == "separate":
        with torch.no_grad():
            states = trainer.critic.trunk(inputs[0], attention_mask=inputs[1]).last_hidden_state[:, -length - 1 : -1]
    values = trainer.critic.head(states)[..., 0].detach()
    assert (logps - reference)[mask].abs().mean() > 0.01
    for name, wanted in (("old_logps", logps), ("old_values", values)):
        assert torch.allclose(batch[name][mask], wanted[mask], atol=1e-4)
    scale = trainer.return_scale  # with this rollout's returns
    texts = trainer.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    for row, text in enumerate(texts):
        length = int(mask[row].sum())
        rewards = (-0.05 * (logps - reference)[row, :length]).tolist()
        rewards[-1] += text.count("e") / 10
        expected = 0.3 + 0.2 * values[row, :length]  # by the scale from before this rollout
        wanted = torch.tensor(naive_gae(rewards, expected.tolist(), 1.0, 0.95))
        assert torch.allclose(batch["advantages"][row, :length], wanted / scale.sd, atol=1e-3)
        assert torch.allclose(batch["returns"][row, :length], (wanted + expected - scale.mean) / scale.sd, atol=1e-3)
    assert not batch["advantages"][~mask].any() and not mask.all()


def gradient(trainer, batch):
    """The loss and its whole gradient as one vector."""
    trainer.model.zero_grad()
    trainer._passes = []
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    gradients = [each.grad.flatten() for each in trainer.model.parameters() if each.grad is not None]
    return torch.cat([loss.detach()[None], *gradients])


def test_what_follows_the_end_and_unscored_rows_teach_nothing_and_the_cut_does_not_matter(tmp_path):
    """The gradient stays the same, to the bit for garbage after EOS, and to rounding for other minibatches."""
    some = lambda completions, **_: [None, *count_letters(completions)[1:]]  # noqa: E731
    trainer, _ = run(tmp_path, replace(SETTINGS, num_steps=2), reward=some)
    halves = trainer._buffered_inputs
    batch = {name: torch.cat([half[name] for half in halves]) for name in halves[0]}
    rows = batch["weights"].sum(1) > 0
    assert sum(rows) == 7 and batch["weights"].sum(1).mean() == pytest.approx(1.0)
    used = batch["weights"] > 0
    advantages = batch["advantages"][used]
    assert advantages.mean() == pytest.approx(0.0, abs=1e-5)
    assert advantages.var(correction=0) == pytest.approx(1.0, abs=1e-3)
    assert torch.equal(used[rows], batch["completion_mask"][rows].bool()) and not batch["completion_mask"].all()
    whole = gradient(trainer, batch)
    dirty = batch | {name: batch[name].masked_fill(~used, -1e30) for name in ("old_logps", "returns", "old_values")}
    dirty["completion_ids"] = batch["completion_ids"].masked_fill(batch["completion_mask"] == 0, 7)
    assert torch.equal(gradient(trainer, dirty), whole)
    parts = (gradient(trainer, halves[0]) + gradient(trainer, halves[1])) / 2
    assert torch.allclose(parts, whole, rtol=1e-3, atol=1e-5)


def test_exported_model_is_a_plain_causal_lm(tmp_path):
    trainer, _ = run(tmp_path / "run", replace(SETTINGS, num_steps=2))
    folder = training.export(trainer, trainer.processing_class, tmp_path / "model")
    assert (tmp_path / "run" / "checkpoint-2" / CRITIC_FILE).is_file() and not (folder / CRITIC_FILE).exists()
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    trained = trainer.model.state_dict()
    assert all(torch.equal(each, trained[name]) for name, each in loaded.state_dict().items())
    with pytest.raises(ValueError, match="holds another critic than separate"):
        make_trainer(tmp_path / "other", critic="separate")._load_from_checkpoint(
            str(tmp_path / "run" / "checkpoint-2")
        )
    (tmp_path / "run" / "checkpoint-2" / CRITIC_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="wanted a checkpoint of PPO"):
        make_trainer(tmp_path / "run")._load_from_checkpoint(str(tmp_path / "run" / "checkpoint-2"))


class KillAt(TrainerCallback):
    """Ends the run before the given step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def tensors(state):
    """All tensors and numbers of an optimiser's state, in order."""
    return [(key, name, each) for key, row in state["state"].items() for name, each in row.items()]


@pytest.mark.parametrize("lora_rank, critic", [(0, "shared"), (4, "shared"), (0, "separate"), (4, "separate")])
def test_killed_training_goes_on_to_the_same_numbers(tmp_path, lora_rank, critic):
    """Killed within the second rollout's epochs, after the checkpoint at step 2; files compared to the bit.

    With all that has a state: the critic, its optimiser, the returns' scale, the controller, a bound that is met.
    """
    settings = replace(SETTINGS, lora_rank=lora_rank, learning_rate=1.0e-3)
    options = {"critic": critic, "target_kl": 1.0, "kl_horizon": 50, "max_update_kl": 0.05}
    made, whole = run(tmp_path / "whole", settings, **options)
    killed = make_trainer(tmp_path / "killed", settings, **options)
    killed.add_callback(KillAt(3))
    with pytest.raises(KeyboardInterrupt):
        training.run(killed, tmp_path / "killed", "ppo", Runtime(8))
    trainer, resumed = run(tmp_path / "killed", settings, **options)
    timeless = lambda rows: [{k: v for k, v in row.items() if "time" not in k and "second" not in k} for row in rows]  # noqa: E731
    assert timeless(resumed[:4]) == timeless(whole[:4]) and len(whole) >= 4
    assert (made.return_scale, made.beta) == (trainer.return_scale, trainer.beta) and trainer.beta != 0.05
    ends = [tmp_path / name / "checkpoint-4" for name in ("whole", "killed")]
    for file in (CRITIC_FILE, "adapter_model.safetensors" if lora_rank else "model.safetensors"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    states = [tensors(torch.load(end / "optimizer.pt", weights_only=True)) for end in ends]
    for (key, name, one), (other_key, other_name, other) in zip(*states, strict=True):
        assert (key, name) == (other_key, other_name) and torch.equal(one, other)
    assert trainer.critic.head.weight.any()


class Watch(TrainerCallback):
    """Parameters and optimiser state after every step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        found = [each for _, _, each in tensors(optimizer.state_dict())]
        self.seen.append([each.detach().clone() for each in (*model.parameters(), *found)])


@pytest.mark.parametrize("bound, updates", [(1.0e-4, [1, 0, 0, 1]), (None, [1, 1, 1, 1])])
def test_updates_stop_once_the_policy_has_gone_too_far(tmp_path, bound, updates):
    """Three epochs: the first update is far too large, the other two change no parameter and no state of Adam's."""
    settings = replace(SETTINGS, learning_rate=1.0e-2, save_steps=3)
    trainer = make_trainer(tmp_path, settings, num_iterations=3, max_update_kl=bound)
    start, watch = [each.detach().clone() for each in trainer.model.parameters()], Watch()
    trainer.add_callback(watch)
    history = training.run(trainer, tmp_path, "ppo", Runtime(8))[:4]
    same = lambda one, other: all(map(torch.equal, one, other))  # noqa: E731
    changed = [not same(one, other) for one, other in pairwise([start, *watch.seen])]
    assert changed == [bool(each) for each in updates]
    skipped = [1 - each for each in updates]
    assert [row["updates_skipped"] for row in history] == [skipped[0], skipped[1], sum(skipped[:3]), skipped[3]]
    assert history[0]["update_kl"] == pytest.approx(0.0, abs=1e-6) and history[1]["update_kl"] > 1.0e-4
    assert ("update_kl" in history[2]) == (bound is None) and history[3]["update_kl"] < 1e-5


@pytest.mark.parametrize("critic, rate", [("shared", 5.0e-2), ("separate", 5.0e-3)])
def test_kl_weight_follows_the_target_and_the_critic_learns_at_its_own_rate(tmp_path, critic, rate):
    settings = replace(SETTINGS, learning_rate=1.0e-3, num_steps=6)
    trainer, history = run(tmp_path, settings, critic=critic, target_kl=0.01, kl_horizon=40)
    rates = {id(each): group["lr"] for group in trainer.optimizer.param_groups for each in group["params"]}
    own = {id(each) for each in trainer.critic.parameters()}
    assert all(rates[id(each)] == (rate if id(each) in own else 1.0e-3) for each in trainer.model.parameters())
    weights, kls = [[row[name] for row in history[:6:2]] for name in ("kl_weight", "kl")]
    lengths = [row["completions/mean_length"] for row in history[:6:2]]
    wanted = [0.05]
    for kl, length in zip(kls, lengths, strict=True):
        wanted.append(adapted_kl_weight(wanted[-1], kl * length, 0.01, 8, 40))
    assert weights == pytest.approx(wanted[:3], rel=1e-6) and trainer.beta == pytest.approx(wanted[3], rel=1e-6)
    assert weights[1] == pytest.approx(0.05 * (1 - 0.2 * 8 / 40))  # no KL at first: λ falls


def test_unit_of_the_reward_does_not_matter(tmp_path):
    """Rewards and λ a hundred times as large: the same critic and the same policy, but for rounding."""
    large = lambda completions, **_: [100 * each for each in count_letters(completions)]  # noqa: E731
    ends = []
    for name, reward, kl_weight in (("small", count_letters, 0.05), ("large", large, 5.0)):
        trainer, _ = run(tmp_path / name, replace(SETTINGS, kl_weight=kl_weight), reward=reward)
        ends.append(torch.cat([each.detach().flatten() for each in trainer.model.parameters()]))
    start = torch.cat([each.detach().flatten() for each in make_trainer(tmp_path / "new").model.parameters()])
    assert (ends[0] - ends[1]).norm() < 0.02 * (ends[0] - start).norm()


@pytest.mark.parametrize("lora_rank, critic", [(0, "shared"), (4, "shared"), (0, "separate"), (4, "separate")])
def test_gradient_checkpointing_gives_the_same_gradients(tmp_path, lora_rank, critic):
    settings = replace(SETTINGS, num_steps=2, lora_rank=lora_rank, learning_rate=1.0e-3)
    trainer, _ = run(tmp_path, settings, critic=critic, gradient_checkpointing=True)
    calls = []
    layers = [(name, each) for name, each in trainer.model.named_modules() if name.endswith("layers.0")]
    assert len(layers) == (2 if critic == "separate" else 1)
    for name, layer in layers:
        layer.input_layernorm.register_forward_hook(lambda *_, name=name: calls.append(name))
    found = gradient(trainer, trainer._buffered_inputs[0])
    assert len(calls) == 2 * len(layers)  # forward, and once more on the way back
    for each in trainer.model.modules():
        if hasattr(each, "gradient_checkpointing"):
            each.gradient_checkpointing = False
    assert torch.allclose(gradient(trainer, trainer._buffered_inputs[0]), found, rtol=1e-5, atol=1e-7)
    assert len(calls) == 3 * len(layers) and found.abs().max() > 0


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_bfloat16_autocast_keeps_values_and_losses_in_float32(tmp_path, critic):
    settings = replace(SETTINGS, num_steps=2, max_rewrite_tokens=12)
    trainer, history = run(tmp_path / "bf16", settings, critic=critic, bf16=True)
    assert all(math.isfinite(row[name]) for row in history[:2] for name in ("loss", "value_loss", "grad_norm"))
    batch, exact = trainer._buffered_inputs[0], make_trainer(tmp_path / "fp32", settings, critic=critic)
    exact.model.load_state_dict(trainer.model.state_dict())
    assert batch["old_values"].dtype == batch["old_logps"].dtype == trainer.critic.head.weight.dtype == torch.float32
    one, other = gradient(trainer, batch), gradient(exact, batch)
    assert one.dtype == torch.float32 and one[0] == pytest.approx(other[0].item(), abs=0.02)
    assert not torch.equal(one, other) and torch.cosine_similarity(one[1:], other[1:], dim=0) > 0.95


def test_separate_critic_shares_what_is_frozen_and_stays_out_of_the_model(tmp_path):
    trainer = make_trainer(tmp_path, replace(SETTINGS, lora_rank=4), critic="separate")
    trunk = trainer.model.get_base_model().base_model
    one, other = dict(trunk.named_parameters()), dict(trainer.critic.trunk.named_parameters())
    assert list(one) == list(other)
    assert all((one[name] is other[name]) == (not each.requires_grad) for name, each in one.items())
    assert set(trainer.critic.trained()) == {"head.weight", "head.bias"} | {
        f"trunk.{name}" for name, each in one.items() if each.requires_grad
    }


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank, learning_rate", [(0, 2.0e-4), (8, 2.0e-3)])
def test_learns_the_gold_reward(tmp_path, lora_rank, learning_rate):
    """16 steps (8 rollouts of 32) through the frozen responder."""
    settings = replace(SETTINGS, num_steps=16, prompts_per_step=32, lora_rank=lora_rank, learning_rate=learning_rate)
    models = alignpro.Models("sandbox/prompter", "sandbox/responder", "sandbox/gold")
    reward = alignpro.make_reward(models, settings, Conditions("sandbox", runtime=Runtime(32)))
    _, history = run(tmp_path, settings, reward=reward)
    rewards = [row["reward"] for row in history if row.get("reward") is not None]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.2

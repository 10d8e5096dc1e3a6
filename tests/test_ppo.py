"""PPO: its formulas by hand, TRL's private methods as they were when it was written, learning, saving, resuming."""

import inspect
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import RLOOTrainer

from nbutils import alignpro, models, ppo, templates, training
from nbutils.alignpro import Settings
from nbutils.models import Runtime
from nbutils.ppo import HEAD_FILE, PPOConfig, PPOTrainer, gae, policy_losses, reward_tokens, value_losses
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
    config = PPOConfig(
        **training.arguments(folder, runtime, settings.seed, settings.save_steps),
        **{
            "per_device_train_batch_size": settings.prompts_per_step * settings.rewrites_per_prompt // 2,
            "gradient_accumulation_steps": 2,
            "num_generations": settings.rewrites_per_prompt,
            "max_completion_length": settings.max_rewrite_tokens,
            "beta": settings.kl_weight,
            "learning_rate": settings.learning_rate,
            "lr_scheduler_type": "constant",
            "max_steps": settings.num_steps,
            "model_init_kwargs": models.load_kwargs("sandbox/prompter", runtime),
            "shuffle_dataset": False,
        }
        | changes,
    )
    return PPOTrainer(
        model=models.resolve("sandbox/prompter"),
        reward_funcs=reward,
        args=config,
        train_dataset=alignpro._dataset(alignpro.drawn(PROMPTS, settings), templates.load("meta_prompt", "sandbox")),
        processing_class=models.load_tokenizer("sandbox/prompter", runtime),
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
    with pytest.raises(ValueError, match="wanted at least 1"):
        PPOConfig(**shape, num_generations=0)


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
    assert "value_head.weight" not in parameters
    assert [name for name, _ in trainer.model.named_parameters()][-2:] == ["value_head.weight", "value_head.bias"]
    assert max(first.abs().max(), second.abs().max()) < 1e-5 < max(each.abs().max() for each in later)
    assert history[0]["kl"] == history[0]["clip_fraction"] == history[0]["explained_variance"] == 0.0
    assert history[1]["clip_fraction"] > 0.0
    assert {"value_loss", "entropy", "reward"} <= set(history[0]) and trainer.value_head.weight.abs().max() > 0


def plain_logps(network, ids, attention, length):
    """log π of the last `length` tokens and the states before them, through the model's ordinary forward: (B, T)."""
    with torch.no_grad():
        out = network(input_ids=ids, attention_mask=attention, output_hidden_states=True)
    logps = out.logits.float()[:, -length - 1 : -1].log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]
    return logps, out.hidden_states[-1][:, -length - 1 : -1]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_rollout_equals_an_independent_one(tmp_path, lora_rank):
    """Values of the state before each token, rewards and advantages, recomputed from the two models row by row."""
    trainer = make_trainer(tmp_path, replace(SETTINGS, lora_rank=lora_rank), whiten_advantages=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for each in trainer.model.parameters():
            if each.requires_grad:
                each += 0.02 * torch.randn_like(each)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([trainer.train_dataset[row] for row in range(8)])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    inputs = ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1), batch["completion_ids"].shape[1]
    logps, states = plain_logps(trainer.model, *inputs)
    reference, _ = plain_logps(AutoModelForCausalLM.from_pretrained(models.resolve("sandbox/prompter")), *inputs)
    values, mask = trainer.value_head(states)[..., 0], batch["completion_mask"].bool()
    assert (logps - reference)[mask].abs().mean() > 0.01
    for name, wanted in (("old_logps", logps), ("old_values", values)):
        assert torch.allclose(batch[name][mask], wanted[mask], atol=1e-4)
    texts = trainer.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    for row, text in enumerate(texts):
        length = int(mask[row].sum())
        rewards = (-0.05 * (logps - reference)[row, :length]).tolist()
        rewards[-1] += text.count("e") / 10
        wanted = naive_gae(rewards, values[row, :length].tolist(), 1.0, 0.95)
        assert batch["advantages"][row, :length].tolist() == pytest.approx(wanted, abs=1e-4)
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
    assert (tmp_path / "run" / "checkpoint-2" / HEAD_FILE).is_file() and not (folder / HEAD_FILE).exists()
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    trained = trainer.model.state_dict()
    assert all(torch.equal(each, trained[name]) for name, each in loaded.state_dict().items())
    (tmp_path / "run" / "checkpoint-2" / HEAD_FILE).unlink()
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


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_killed_training_goes_on_to_the_same_numbers(tmp_path, lora_rank):
    """Killed within the second rollout's epochs, after the checkpoint at step 2; files compared to the bit."""
    settings = replace(SETTINGS, lora_rank=lora_rank, learning_rate=1.0e-3)
    _, whole = run(tmp_path / "whole", settings)
    killed = make_trainer(tmp_path / "killed", settings)
    killed.add_callback(KillAt(3))
    with pytest.raises(KeyboardInterrupt):
        training.run(killed, tmp_path / "killed", "ppo", Runtime(8))
    trainer, resumed = run(tmp_path / "killed", settings)
    timeless = lambda rows: [{k: v for k, v in row.items() if "time" not in k and "second" not in k} for row in rows]  # noqa: E731
    assert timeless(resumed[:4]) == timeless(whole[:4]) and len(whole) >= 4
    ends = [tmp_path / name / "checkpoint-4" for name in ("whole", "killed")]
    for file in (HEAD_FILE, "adapter_model.safetensors" if lora_rank else "model.safetensors"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    states = [tensors(torch.load(end / "optimizer.pt", weights_only=True)) for end in ends]
    for (key, name, one), (other_key, other_name, other) in zip(*states, strict=True):
        assert (key, name) == (other_key, other_name) and torch.equal(one, other)
    assert not torch.equal(trainer.value_head.weight, torch.zeros_like(trainer.value_head.weight))


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank, learning_rate", [(0, 2.0e-4), (8, 2.0e-3)])
def test_learns_the_gold_reward(tmp_path, lora_rank, learning_rate):
    """24 steps (12 rollouts of 32) through the frozen responder."""
    settings = replace(SETTINGS, num_steps=24, prompts_per_step=32, lora_rank=lora_rank, learning_rate=learning_rate)
    reward = alignpro.make_reward("sandbox/responder", "sandbox/gold", settings, Runtime(32))
    _, history = run(tmp_path, settings, reward=reward)
    rewards = [row["reward"] for row in history if row.get("reward") is not None]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.2

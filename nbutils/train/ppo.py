"""PPO (Schulman et al. 2017), the paper's algorithm, on TRL's RLOOTrainer: a critic, GAE, a KL per token, clipping.

    maximise  E[ min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t) ] − c · L_value,    ρ_t = π(a_t|s_t) / π_old(a_t|s_t)

Generation, reward functions, LoRA, reference, logging and resuming are TRL's. `beta` is λ, the KL's weight, `epsilon`
the clip range. Logged beside TRL's reward, kl and entropy: value_loss, explained_variance, clip_fraction, kl_weight,
update_kl (nats per completion between the rollout's policy and the one before the update), updates_skipped.

Departures from the papers and from TRL's own former PPO:
1. The critic is a float32 linear head, zero at first, on the policy's trunk, which its loss then trains too
   (`shared`), or on a trunk of its own that begins as the policy's (`separate`; under LoRA it has adapters of its own
   and shares the frozen weights). It has its own learning rate, and learns the returns in SDs from their running mean
   (Yu et al. 2021).
2. The KL penalty is −λ (log π_old − log π_ref) per token, inside the rewards (Ziegler et al. 2019). λ stays fixed, or
   follows `target_kl` as in that paper.
3. Advantages are whitened over all tokens of a rollout, on all processes; so is the loss's mean over tokens, however
   the rollout is cut into minibatches.
4. Beyond `max_update_kl` the rest of a rollout's updates is left out.
5. A completion without a score (None) teaches nothing, to neither policy nor critic.
Text only; not with FSDP or ZeRO-3, where the critic would have to be gathered.

Measured on the sandbox (rollouts of 64, its reward model, seeds 0 to 2): mean reward of rollouts 11 to 30 and mean gold
reward of held-out prompts after 40 to 60.

| critic | reward | gold | explained variance |
|---|---|---|---|
| separate (a third more time) | 2.79 2.80 2.80 | 0.97 0.95 0.98 | 0.0 to 0.3 |
| shared | 2.75 2.78 2.82 | 0.96 0.97 0.97 | −0.2 to 0.3, about 0 in the mean |
| the returns' running mean alone (seed 1) | 2.76 | 0.96 | 0 |
| a shared head in reward units, at the policy's learning rate | 2.60 2.71 2.64 | 0.80 0.97 0.91 | about 0 or below |
"""

import contextlib
import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback
from trl import RLOOConfig, RLOOTrainer

from nbutils.train.ppo_formulas import (
    ReturnScale,
    adapted_kl_weight,
    gae,
    policy_losses,
    reward_tokens,
    update_kls,
    value_losses,
)

CRITIC_FILE = "critic.safetensors"
CRITICS = {"shared": 50, "separate": 5}  # its learning rate, in the policy's


@dataclass
class PPOConfig(RLOOConfig):
    """RLOOConfig, the critic's settings and two guards of the KL. num_generations may be 1, the rollout then even.

    Epochs over a rollout: num_iterations. Minibatches of an epoch: steps_per_generation / gradient_accumulation_steps.
    """

    num_iterations: int = field(default=2, metadata={"help": "Epochs over each rollout."})
    gamma: float = field(default=1.0, metadata={"help": "γ, discount per token."})
    gae_lambda: float = field(default=0.95, metadata={"help": "λ of GAE: 0 trusts the critic, 1 the rewards."})
    whiten_advantages: bool = field(default=True, metadata={"help": "To mean 0, SD 1; else in SDs of the returns."})
    critic: str = field(default="shared", metadata={"help": "shared: a head on the policy's trunk; separate: its own."})
    critic_learning_rate: float | None = field(
        default=None, metadata={"help": "None: learning_rate times 50 for a head alone, times 5 with a trunk."}
    )
    value_weight: float = field(default=0.1, metadata={"help": "c, weight of the value loss."})
    value_clip: float = field(default=0.2, metadata={"help": "Largest rewarded change of a value, SDs of the returns."})
    value_decay: float = field(default=0.9, metadata={"help": "Of the returns' running mean and variance, a rollout."})
    target_kl: float | None = field(default=None, metadata={"help": "Nats per completion: beta is adapted to hold it."})
    kl_horizon: int = field(default=10_000, metadata={"help": "Completions in which beta may change by a fifth."})
    max_update_kl: float | None = field(
        default=None, metadata={"help": "Nats per completion from the rollout's policy: no more updates beyond."}
    )

    def __post_init__(self):
        samples = self.num_generations
        if samples < 1:
            raise ValueError(f"num_generations {samples}: wanted at least 1")
        self.num_generations = max(samples, 2)  # RLOO's own check
        super().__post_init__()
        self.num_generations = samples
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # the values leave by a hook, which DDP cannot follow
        _check(self)

    @property
    def updates_per_rollout(self) -> float:
        """Optimiser steps made of one rollout: epochs × minibatches."""
        return self.num_iterations * self.steps_per_generation / self.gradient_accumulation_steps


def _check(config: PPOConfig) -> None:
    """ValueError for settings that cannot work; checkpoints must fall between rollouts to be resumed to the bit."""
    rollout = config.updates_per_rollout
    if config.save_strategy == "steps" and config.save_steps >= 1 and config.save_steps % rollout:
        raise ValueError(f"save_steps {config.save_steps:g}: wanted a multiple of {rollout:g}, the steps of a rollout")
    if config.critic not in CRITICS:
        raise ValueError(f"critic {config.critic!r}: wanted one of {', '.join(CRITICS)}")
    if not 0 <= config.value_decay < 1:
        raise ValueError(f"value_decay {config.value_decay}: wanted at least 0 and less than 1")
    for name in ("target_kl", "max_update_kl"):
        if getattr(config, name) is not None and not getattr(config, name) > 0:
            raise ValueError(f"{name} {getattr(config, name)}: wanted more than 0, or None for off")
    if config.target_kl is not None and not config.beta > 0:
        raise ValueError(f"beta {config.beta}: wanted more than 0, which target_kl {config.target_kl} adapts")


class Critic(nn.Module):
    """V(s_t) in SDs of the returns from their mean: a linear head, float32 and zero at first, on hidden states.

    trunk: a network of its own, or None for the policy's hidden states.
    """

    def __init__(self, hidden_size, device, trunk=None):
        super().__init__()
        self.head = nn.Linear(hidden_size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.trunk = trunk

    def forward(self, arguments, hidden):
        """Values (B, S) from the policy trunk's arguments, or from its last hidden states (B, S, H)."""
        if self.trunk is not None:
            hidden = self.trunk(**arguments).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.float()).squeeze(-1)

    def trained(self):
        """{name: tensor} of what the optimiser changes."""
        return {name: each.detach() for name, each in self.named_parameters() if each.requires_grad}


def copy_trunk(trunk):
    """A trunk like the given one: what is trained is a copy, in float32; what is frozen (under LoRA) is the same."""
    made = copy.deepcopy(trunk, {id(each): each for each in trunk.parameters() if not each.requires_grad})
    for each in made.parameters():
        if each.requires_grad:
            each.data = each.data.float()
    return made


class _BeforeUpdate(TrainerCallback):
    """Tells the trainer that a whole minibatch's gradients are there."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer._judge_update()


class PPOTrainer(RLOOTrainer):
    """RLOOTrainer with a critic; `args` is a PPOConfig, every other argument is RLOOTrainer's.

    tests/train/test_ppo.py records the signatures of the methods overridden here: they are TRL's private ones.
    """

    _name = "PPO"
    _tag_names = ["trl", "ppo"]
    _paper = {"title": "Proximal Policy Optimization Algorithms", "id": "1707.06347"}

    def __init__(self, model, reward_funcs, args: PPOConfig, **rloo_arguments):
        super().__init__(model, reward_funcs, args, **rloo_arguments)
        if args.max_update_kl is not None and self.is_deepspeed_enabled:
            raise ValueError("max_update_kl with DeepSpeed: its engine updates by itself; leave one of the two out")
        network = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        trunk = network.base_model
        own = copy_trunk(trunk) if args.critic == "separate" else None
        if own is not None and args.gradient_checkpointing:
            own.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)  # LoRA's own call does not reach it
        size, device = network.config.get_text_config().hidden_size, network.get_output_embeddings().weight.device
        self.critic = Critic(size, device, own)
        self.model.add_module("critic", self.critic)  # where optimiser and DDP look for parameters
        trunk.register_forward_hook(self._keep_values, with_kwargs=True)  # the fused LM head returns no hidden states
        self.return_scale = ReturnScale(args.value_decay)
        self.add_callback(_BeforeUpdate(self))
        self._values = None  # list of (chunk, P + T) while log-probs of the policy are computed
        self._passes: list[tuple] = []  # (log-probs, values or None) of the policy, then of the reference
        self._update_kl: list[tuple] = []  # (sum over rows, rows) of each part of the minibatch, nats
        self._stopped, self._num_skipped = False, 0  # of this rollout's updates

    # Critic

    def _keep_values(self, trunk, inputs, arguments, output):
        if self._values is not None:  # not generating, nor the reference's pass
            self._values.append(self.critic(arguments, output.last_hidden_state))  # (chunk, P + T)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *rest, **options):
        self._values = None if self._passes else []
        found = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *rest, **options
        )
        values = torch.cat(self._values)[:, -logits_to_keep - 1 : -1] if self._values else None  # V(s_t), before a_t
        self._passes.append((found[0], values))
        self._values = None
        return found

    @contextlib.contextmanager
    def _without_critic(self):
        """The model as the world knows it, for whatever lists its parameters; the critic goes back to the end."""
        del self.model._modules["critic"]
        try:
            yield
        finally:
            self.model.add_module("critic", self.critic)

    def _generate(self, prompts):
        with self._without_critic():  # vLLM is sent every parameter
            return super()._generate(prompts)

    def create_optimizer(self, model=None):
        """The optimiser, with the critic's parameters in groups of their own learning rate."""
        given = self.optimizer is not None
        rate = self.args.critic_learning_rate or CRITICS[self.args.critic] * self.args.learning_rate
        optimizer = super().create_optimizer(model)
        ours = {id(each) for each in self.critic.parameters()}
        for group in [] if given else list(optimizer.param_groups):
            own = [each for each in group["params"] if id(each) in ours]
            group["params"] = [each for each in group["params"] if id(each) not in ours]
            if own:
                optimizer.add_param_group(group | {"params": own, "lr": rate})
        return optimizer

    # Rollout

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self._rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._rewards_per_func

    def _scores(self, num_rows):
        """r(x, y) of this process's rows, (B,): NaN where every reward function returned None."""
        start = self.accelerator.process_index * num_rows
        found = self._rewards_per_func[start : start + num_rows]  # (B, functions)
        scores = (found * self.reward_weights.to(found.device)).nansum(1).masked_fill(found.isnan().all(1), torch.nan)
        return scores.clamp(*self.reward_clip_range) if self.reward_clip_range else scores

    def _generate_and_score_completions(self, inputs):
        self._passes = []
        batch = super()._generate_and_score_completions(inputs)
        (old_logps, old_values), *reference = self._passes  # (B, T) each
        self._passes = []
        scores = self._scores(len(old_logps))
        written = batch["completion_mask"].bool()
        mask = written & ~scores.isnan()[:, None]
        log_ratios = old_logps - reference[0][0] if reference else torch.zeros_like(old_logps)
        rewards = reward_tokens(log_ratios, scores, mask, self.beta)
        values = self.return_scale.mean + self.return_scale.sd * old_values
        advantages, returns = gae(rewards, values, mask, self.args.gamma, self.args.gae_lambda)
        self._log_explained(advantages, returns, mask)
        kl, num_rows, num_tokens = self._sum(
            torch.where(written, log_ratios, 0.0).sum(), torch.tensor(len(mask), device=mask.device), mask.sum()
        )
        self._log("kl_weight", torch.tensor(self.beta))
        if self.model.training:
            self._learn_scales(returns, mask, num_tokens, kl / num_rows, num_rows)
        scale = self.return_scale
        batch |= {
            "advantages": self._whiten(advantages, mask) if self.args.whiten_advantages else advantages / scale.sd,
            "returns": (returns - scale.mean) / scale.sd,
            "old_logps": old_logps,
            "old_values": old_values,
            "weights": mask * (num_rows / num_tokens.clamp(min=1.0)),  # their mean over rows and sum over T is 1
        }
        return batch

    def _learn_scales(self, returns, mask, num_tokens, kl, num_rows):
        """What the next rollout starts from: the returns' scale, and λ if it is adapted. The same on all processes."""
        if num_tokens > 0:
            self.return_scale.update(*(each.item() for each in self._moments(returns, mask)))
        if self.args.target_kl is not None:
            known = kl.item(), self.args.target_kl, int(num_rows), self.args.kl_horizon
            self.beta = adapted_kl_weight(self.beta, *known)

    def _sum(self, *numbers):
        """Sums over processes, (len(numbers),) in float32."""
        return self.accelerator.reduce(torch.stack([number.float() for number in numbers]), reduction="sum")

    def _moments(self, x, mask):
        """Mean and variance of x where mask, over all processes; x, mask: (B, T)."""
        total, count = self._sum(torch.where(mask, x, 0.0).sum(), mask.sum())
        mean = total / count.clamp(min=1.0)
        return mean, self._sum(torch.where(mask, (x - mean) ** 2, 0.0).sum())[0] / count.clamp(min=1.0)

    def _whiten(self, advantages, mask):
        mean, variance = self._moments(advantages, mask)
        return torch.where(mask, (advantages - mean) * torch.rsqrt(variance + 1e-8), 0.0)

    def _log_explained(self, advantages, returns, mask):
        """explained_variance = 1 − Var(target − V) / Var(target), target − V being the advantage; NaN if all equal."""
        explained = 1 - self._moments(advantages, mask)[1] / self._moments(returns, mask)[1]
        self._log("explained_variance", explained if explained.isfinite() else explained * torch.nan)

    def _log(self, name, value):
        self._metrics["train" if self.model.training else "eval"][name].append(value.item())

    # Updates

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0:  # a new rollout
            self._stopped, self._num_skipped = False, 0
        if not self._stopped:
            return super().training_step(model, inputs, num_items_in_batch)
        self._step += 1
        return torch.zeros((), device=self.accelerator.device)

    def _compute_loss(self, model, inputs):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)  # (B, P + T)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        _, entropies, aux_loss = self._get_per_token_logps_and_entropies(
            model,
            ids,
            attention,
            inputs["completion_ids"].size(1),
            compute_entropy=True,
            compute_aux_loss=self.aux_loss_enabled,
        )
        logps, values = self._passes.pop()
        weights, advantages = inputs["weights"], inputs["advantages"]
        mask = weights > 0
        log_ratios = torch.where(mask, logps - inputs["old_logps"], 0.0)
        policy, clipped = policy_losses(log_ratios, advantages, self.epsilon_low, self.epsilon_high)
        value = value_losses(values, inputs["old_values"], inputs["returns"], self.args.value_clip)
        self._update_kl.append((update_kls(log_ratios.detach()).sum(), mask.any(1).sum()))
        self._log("value_loss", self._moments(value.detach(), mask)[0])
        self._log("clip_fraction", self._moments(clipped.float(), mask)[0])
        self._log("entropy", self._moments(entropies, inputs["completion_mask"].bool())[0])
        losses = torch.where(mask, policy + self.args.value_weight * value, 0.0)  # (B, T)
        loss = (weights * losses).sum(1).mean()
        return loss + self.router_aux_loss_coef * aux_loss if self.aux_loss_enabled else loss

    def _judge_update(self):
        """Before an update: forget its gradients once the policy has gone too far from the rollout's own.

        Without gradients an optimiser changes no parameter and no state. All processes see the same KL.
        """
        if not self._stopped:
            parts = [sum(part) for part in zip(*self._update_kl, strict=True)]
            total, num_rows = self._sum(*parts)
            kl = total / num_rows.clamp(min=1.0)
            self._log("update_kl", kl)
            self._stopped = self.args.max_update_kl is not None and kl.item() > self.args.max_update_kl
        self._update_kl = []
        if self._stopped:
            self.model.zero_grad(set_to_none=True)
            self._num_skipped += 1
        self._metrics["train"]["updates_skipped"].append(self._num_skipped)

    # Checkpoints

    def _save(self, output_dir=None, state_dict=None):
        if state_dict is not None:
            state_dict = {name: each for name, each in state_dict.items() if not name.startswith("critic.")}
        with self._without_critic():
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model, trial):
        if self.args.should_save:  # first, so that a checkpoint with a trainer state always has its critic
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: each.cpu().contiguous() for name, each in self.critic.trained().items()}
            save_file(tensors | self._numbers(), folder / CRITIC_FILE)
        super()._save_checkpoint(model, trial)

    def _numbers(self):
        """λ and the returns' scale as tensors beside the critic's, in full precision."""
        scale = {f"return_scale.{name}": getattr(self.return_scale, name) for name in ("weight", "first", "second")}
        return {name: torch.tensor(each, dtype=torch.float64) for name, each in (scale | {"beta": self.beta}).items()}

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        path = Path(resume_from_checkpoint) / CRITIC_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: wanted a checkpoint of PPO; start the training anew")
        with self._without_critic():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        found = load_file(path)
        if set(found) != {*self.critic.trained(), *self._numbers()}:
            raise ValueError(f"{path} holds another critic than {self.args.critic}: start the training anew")
        self.beta = found.pop("beta").item()
        numbers = {name: found.pop(f"return_scale.{name}").item() for name in ("weight", "first", "second")}
        self.return_scale = ReturnScale(self.args.value_decay, **numbers)
        self.critic.load_state_dict(found, strict=False)  # frozen parts are the base model's

"""PPO (Schulman et al. 2017), the paper's algorithm, on TRL's RLOOTrainer: a critic, GAE, a KL per token, clipping.

    maximise  E[ min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t) ] − c · L_value,    ρ_t = π(a_t|s_t) / π_old(a_t|s_t)

Generation, reward functions, LoRA, reference, logging and resuming are TRL's. `beta` is λ, the KL's weight;
`num_iterations` the epochs over a rollout; `epsilon` the clip range. Logged beside TRL's reward, kl and entropy:
value_loss, clip_fraction, explained_variance.

Departures from the papers and from TRL's own former PPO:
1. The critic is one linear layer, float32 and zero at first, on the policy's own last hidden state; its loss trains
   the shared trunk too. LoRA: no second model at all.
2. The KL penalty is −λ (log π_old − log π_ref) per token, inside the rewards (Ziegler et al. 2019), with a fixed λ.
3. Advantages are whitened over all tokens of a rollout, on all processes; so is the loss's mean over tokens, however
   the rollout is cut into minibatches.
4. A completion without a score (None) teaches nothing, to neither policy nor critic.
Text only; not with FSDP or ZeRO-3, where the value head would have to be gathered.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from trl import RLOOConfig, RLOOTrainer

HEAD_FILE = "value_head.safetensors"


@dataclass
class PPOConfig(RLOOConfig):
    """RLOOConfig and the critic's settings. num_generations may be 1; the rollout's size must then still be even."""

    num_iterations: int = field(default=2, metadata={"help": "Epochs over each rollout."})
    gamma: float = field(default=1.0, metadata={"help": "γ, discount per token."})
    gae_lambda: float = field(default=0.95, metadata={"help": "λ of GAE: 0 trusts the critic, 1 the rewards."})
    value_weight: float = field(default=0.1, metadata={"help": "c, weight of the value loss."})
    value_clip: float = field(default=0.2, metadata={"help": "Largest change of a value that is rewarded."})
    whiten_advantages: bool = field(default=True, metadata={"help": "Advantages to mean 0 and variance 1."})

    def __post_init__(self):
        samples = self.num_generations
        if samples < 1:
            raise ValueError(f"num_generations {samples}: wanted at least 1")
        self.num_generations = max(samples, 2)  # RLOO's own check
        super().__post_init__()
        self.num_generations = samples
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # the head's output leaves by a hook, which DDP cannot follow
        _check_save_steps(self)


def _check_save_steps(config: PPOConfig) -> None:
    """ValueError unless checkpoints fall between rollouts, where a resumed run goes on to the same numbers."""
    rollout = config.num_iterations * config.steps_per_generation / config.gradient_accumulation_steps
    if config.save_strategy == "steps" and config.save_steps >= 1 and config.save_steps % rollout:
        raise ValueError(f"save_steps {config.save_steps:g}: wanted a multiple of {rollout:g}, the steps of a rollout")


def reward_tokens(log_ratios, scores, mask, kl_weight):
    """Rewards per token: −λ (log π_old − log π_ref), and the score added on the completion's last token.

    log_ratios: (B, T) nats; scores: (B,); mask: (B, T), 1 for a completion's tokens, then 0. Returns (B, T).
    """
    mask = mask.bool()
    after = nn.functional.pad(mask[:, 1:], (0, 1))  # (B, T): is the next token one of the completion's?
    return torch.where(mask, -kl_weight * log_ratios, 0.0) + torch.where(mask & ~after, scores[:, None], 0.0)


def gae(token_rewards, values, mask, gamma, lam):
    """Generalised advantage estimates (Schulman et al. 2016, Eqs. 11 to 16) and the critic's targets.

        δ_t = r_t + γ V(s_{t+1}) − V(s_t),    A_t = δ_t + γλ A_{t+1},    target_t = A_t + V(s_t)

    token_rewards, values, mask: (B, T); V and A are 0 after the last token. Returns two (B, T), 0 where mask is 0.
    """
    mask = mask.bool()
    rewards, values = torch.where(mask, token_rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    following = next_value = torch.zeros_like(values[:, 0])  # (B,)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = torch.where(mask[:, t], delta + gamma * lam * following, 0.0)
        next_value = values[:, t]
        advantages[:, t] = following
    return advantages, advantages + values


def policy_losses(log_ratios, advantages, epsilon_low, epsilon_high):
    """−min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) per token (Schulman et al. 2017, Eq. 7), and where the clip was the smaller.

    log_ratios: (B, T) log π − log π_old; advantages: (B, T). Returns (B, T) losses and (B, T) booleans.
    """
    ratios = log_ratios.exp()
    free, clipped = -ratios * advantages, -ratios.clamp(1 - epsilon_low, 1 + epsilon_high) * advantages
    return torch.maximum(free, clipped), clipped > free


def value_losses(values, old_values, returns, value_clip):
    """½ max((V − target)², (clip(V, V_old ± value_clip) − target)²) per token; all (B, T), reward units."""
    near = old_values + (values - old_values).clamp(-value_clip, value_clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


class PPOTrainer(RLOOTrainer):
    """RLOOTrainer with a critic; `args` is a PPOConfig, every other argument is RLOOTrainer's.

    tests/test_ppo.py records the signatures of the methods overridden here: they are TRL's private ones.
    """

    _name = "PPO"
    _tag_names = ["trl", "ppo"]
    _paper = {"title": "Proximal Policy Optimization Algorithms", "id": "1707.06347"}

    def __init__(self, model, reward_funcs, args: PPOConfig, **rloo_arguments):
        super().__init__(model, reward_funcs, args, **rloo_arguments)
        network = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        size = network.config.get_text_config().hidden_size
        self.value_head = nn.Linear(size, 1, device=network.get_output_embeddings().weight.device, dtype=torch.float32)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.model.add_module("value_head", self.value_head)  # where optimiser and DDP look for parameters
        network.base_model.register_forward_hook(self._keep_values)  # the fused LM head returns no hidden states
        self._values = None  # list of (chunk, P + T) while log-probs are computed
        self._passes = []  # (log-probs, values or None) of the policy, then of the reference

    # Critic

    def _keep_values(self, trunk, inputs, output):
        if self._values is None:
            return  # generating
        hidden = output.last_hidden_state  # (B, P + T, H)
        with torch.autocast(hidden.device.type, enabled=False):
            self._values.append(self.value_head(hidden.to(self.value_head.weight)).squeeze(-1))

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *rest, **options):
        self._values = []
        found = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *rest, **options
        )
        values = torch.cat(self._values)[:, -logits_to_keep - 1 : -1] if self._values else None  # V(s_t), before a_t
        self._passes.append((found[0], values))
        self._values = None
        return found

    @contextlib.contextmanager
    def _without_head(self):
        """The model as the world knows it, for whatever lists its parameters; the head goes back to its last place."""
        del self.model._modules["value_head"]
        try:
            yield
        finally:
            self.model.add_module("value_head", self.value_head)

    def _generate(self, prompts):
        with self._without_head():  # vLLM is sent every parameter
            return super()._generate(prompts)

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
        mask = batch["completion_mask"].bool() & ~scores.isnan()[:, None]
        log_ratios = old_logps - reference[0][0] if reference else torch.zeros_like(old_logps)
        rewards = reward_tokens(log_ratios, scores, mask, self.beta)
        advantages, returns = gae(rewards, old_values, mask, self.args.gamma, self.args.gae_lambda)
        self._log_explained(advantages, returns, mask)
        count = self._sum(mask.sum(), torch.tensor(len(mask), device=mask.device))
        batch |= {
            "advantages": self._whiten(advantages, mask) if self.args.whiten_advantages else advantages,
            "returns": returns,
            "old_logps": old_logps,
            "old_values": old_values,
            "weights": mask * (count[1] / count[0].clamp(min=1.0)),  # their mean over rows and sum over T is 1
        }
        return batch

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

    # Loss

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
        self._log("value_loss", self._moments(value.detach(), mask)[0])
        self._log("clip_fraction", self._moments(clipped.float(), mask)[0])
        self._log("entropy", self._moments(entropies, inputs["completion_mask"].bool())[0])
        losses = torch.where(mask, policy + self.args.value_weight * value, 0.0)  # (B, T)
        loss = (weights * losses).sum(1).mean()
        return loss + self.router_aux_loss_coef * aux_loss if self.aux_loss_enabled else loss

    # Checkpoints

    def _save(self, output_dir=None, state_dict=None):
        if state_dict is not None:
            state_dict = {name: each for name, each in state_dict.items() if not name.startswith("value_head.")}
        with self._without_head():
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model, trial):
        if self.args.should_save:  # first, so that a checkpoint with a trainer state always has its head
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: each.cpu() for name, each in self.value_head.state_dict().items()}, folder / HEAD_FILE)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        path = Path(resume_from_checkpoint) / HEAD_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: wanted a checkpoint of PPO; start the training anew")
        with self._without_head():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.value_head.load_state_dict(load_file(path))

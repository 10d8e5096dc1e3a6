"""PPO's formulas: rewards per token, GAE, clipped losses, the KL's controller, the scale of the returns.

Tensors are (B, T): a row per completion, a column per token.
"""

from dataclasses import dataclass

import torch
from torch import nn


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
    """½ max((V − target)², (clip(V, V_old ± value_clip) − target)²) per token; all (B, T), SDs of the returns."""
    near = old_values + (values - old_values).clamp(-value_clip, value_clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def update_kls(log_ratios):
    """Σ_t (ρ_t − 1 − log ρ_t), ρ = π / π_old: KL(π_old ‖ π) of each completion, never negative (Schulman 2020, k3).

    log_ratios: (B, T) log π − log π_old, 0 beyond the completion. Returns (B,) nats.
    """
    return (log_ratios.expm1() - log_ratios).sum(1)


def adapted_kl_weight(kl_weight, kl, target_kl, num_completions, horizon):
    """λ · (1 + clip(kl / target − 1, ±0.2) · completions / horizon): λ after a rollout (Ziegler et al. 2019, 2.2).

    kl, target_kl: nats per completion. The paper's K_β = 0.1 is num_completions / horizon here, as in its code.
    """
    error = min(max(kl / target_kl - 1, -0.2), 0.2)
    return kl_weight * (1 + error * num_completions / horizon)


@dataclass
class ReturnScale:
    """Running mean and SD of the returns, by which the critic's outputs are of order one whatever the reward's scale.

    Exponential averages of a rollout's first and second moments, without the bias of their start (as in Adam).
    """

    decay: float
    weight: float = 0.0
    first: float = 0.0
    second: float = 0.0

    def update(self, mean: float, variance: float) -> None:
        for name, value in (("weight", 1.0), ("first", mean), ("second", variance + mean**2)):
            setattr(self, name, self.decay * getattr(self, name) + (1 - self.decay) * value)

    @property
    def mean(self) -> float:
        return self.first / self.weight if self.weight else 0.0

    @property
    def sd(self) -> float:
        """1 before the first rollout, and while all returns are equal."""
        variance = self.second / self.weight - self.mean**2 if self.weight else 0.0
        return variance**0.5 if variance > 1e-12 * self.second else 1.0

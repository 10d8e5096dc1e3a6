"""Align-Pro's theory, over finite sets and over samples: numpy only, every function with its equation.

Rewards are R(x, x') = E_{y ~ π_F(·|x')} r(x, y) in reward units, one row per prompt x, one column per rewrite x'.
Probabilities sum to 1 along the last axis; KL in nats; λ and β in reward units per nat.

Two notes on the paper:
1. It calls Z the log partition function; it is the partition function (value returns λ log Z).
2. Theorem 6.1 needs rewards in [0, r_max], and d_TV as half the L1 distance. `bound` shifts rewards by their minimum
   and says by how much; a shift changes neither gap nor optimum. With r_max other than 1, section 6's budget is
   r_max (ε1 + ε2) / λ.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

Number = TypeVar("Number", float, np.ndarray)  # averaged over prompts, or (num_prompts,)


class Optimum(NamedTuple):
    """The optimal prompter of one prompt: its mean reward, its KL to the prior, λ log Z, and 1 / Σ weights²."""

    weights: np.ndarray
    reward: np.ndarray
    kl: np.ndarray
    value: np.ndarray
    effective_samples: np.ndarray


class Bound(NamedTuple, Generic[Number]):
    """Both sides of Theorem 6.1: gap ≤ finetuning + rewriting − tilting."""

    gap: Number
    finetuning: Number
    rewriting: Number
    tilting: Number
    right_side: Number
    shift: float
    max_reward: float


def tilt(rewards, kl_weight: float, prior=None) -> np.ndarray:
    """Weights of the closed-form prompter, Align-Pro Eq. (10): ρ*(x'|x) = ρ_sft(x'|x) exp(R(x, x') / λ) / Z(x).

    rewards: (..., num_rewrites); prior: ρ_sft of the same shape, or None for rewrites that were sampled from it (each
    then counts alike). Returns weights of that shape, summing to 1. With the responder's own samples as rows and β
    for λ it is Eq. (4). Raises ValueError if kl_weight <= 0.
    """
    return np.exp(_log_weights(rewards, kl_weight, prior) - _log_partition(rewards, kl_weight, prior)[..., None])


def value(rewards, kl_weight: float, prior=None) -> np.ndarray:
    """λ log Z(x): the largest value of Eq. (9)'s objective, reward units, of shape (...). Arguments as for tilt."""
    return kl_weight * _log_partition(rewards, kl_weight, prior)


def optimum(rewards, kl_weight: float, prior=None) -> Optimum:
    """Lemma 5.1 for each prompt. rewards, prior: (..., num_rewrites); the other fields have shape (...).

    Over sampled rewrites it is the self-normalised estimate: trust it as far as effective_samples goes.
    """
    weights = tilt(rewards, kl_weight, prior)
    rewards = np.asarray(rewards, float)
    base = np.full_like(weights, 1 / weights.shape[-1]) if prior is None else np.broadcast_to(prior, weights.shape)
    return Optimum(
        weights,
        (weights * rewards).sum(-1),
        kl_divergence(weights, base),
        value(rewards, kl_weight, prior),
        1 / (weights**2).sum(-1),
    )


def frontier(rewards, kl_weights, prior=None) -> list[dict]:
    """The attainable reward–KL curve: for each λ the KL (nats per rewrite) and reward of ρ*, averaged over prompts.

    No prompter within the same KL earns more: the curve bounds every trained one. rewards: (num_prompts, num_rewrites).
    """
    points = [(kl_weight, optimum(rewards, kl_weight, prior)) for kl_weight in kl_weights]
    return [
        {
            "kl_weight": float(kl_weight),
            "kl": float(best.kl.mean()),
            "reward": float(best.reward.mean()),
            "value": float(best.value.mean()),
            "effective_samples": float(best.effective_samples.mean()),
        }
        for kl_weight, best in points
    ]


def attainable(
    rewards, kl_weights, prior=None, seed: int = 0, num_resamples: int = 1000, level: float = 0.95
) -> list[dict]:
    """The attainable curve from samples: rewrites and the rewards of their responses.

    rewards: (num_prompts, num_rewrites, num_responses), reward units; prior: (num_prompts, num_rewrites), None for
    rewrites that were all drawn from ρ_sft, else their weights under it (see mixture_prior). One dict per λ: kl_weight,
    kl (nats per rewrite), reward, their bootstrap intervals over prompts (kl_low, …), reward_plug_in, value,
    effective_samples.
    reward is cross-fitted: one half of the responses weighs the rewrites, the other half is averaged, so that a rewrite
    is not praised for the luck of the responses that chose it; it errs downward. reward_plug_in lets the same responses
    do both and errs upward. With one response to a rewrite the two are the same. No KL above −log of the best rewrite's
    prior shows up: log N for N rewrites drawn from ρ_sft.
    """
    rewards = np.asarray(rewards, float)
    picks = np.random.default_rng(seed).integers(len(rewards), size=(num_resamples, len(rewards)))
    ends = [(1 - level) / 2, (1 + level) / 2]
    rows = []
    for kl_weight in kl_weights:
        plug_in = optimum(rewards.mean(-1), kl_weight, prior)
        kl, reward = _cross_fit(rewards, kl_weight, prior)
        row = {"kl_weight": float(kl_weight)}
        for name, each in (("kl", kl), ("reward", reward)):
            low, high = np.quantile(each[picks].mean(-1), ends) if len(each) > 1 else (np.nan, np.nan)
            row |= {name: float(each.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
        row |= {"reward_plug_in": float(plug_in.reward.mean()), "value": float(plug_in.value.mean())}
        rows.append(row | {"effective_samples": float(plug_in.effective_samples.mean())})
    return rows


def _cross_fit(rewards, kl_weight: float, prior):
    """(KL, reward) per prompt of the prompter tilted by one half of the responses and rewarded by the other half."""
    if rewards.shape[-1] < 2:
        only = optimum(rewards.mean(-1), kl_weight, prior)
        return only.kl, only.reward
    halves = rewards[..., ::2].mean(-1), rewards[..., 1::2].mean(-1)  # (num_prompts, num_rewrites) each
    best = [optimum(half, kl_weight, prior) for half in halves]
    crossed = [(each.weights * other).sum(-1) for each, other in zip(best, reversed(halves), strict=True)]
    return (best[0].kl + best[1].kl) / 2, (crossed[0] + crossed[1]) / 2


def mixture_prior(log_ratios, num_initial: int) -> np.ndarray:
    """Weights under ρ_sft of rewrites drawn from two prompters, by the balance heuristic (Veach and Guibas 1995).

        p_i ∝ ρ_sft(x_i) / (N₀ ρ_sft(x_i) + N₁ ρ(x_i)) = 1 / (N₀ + N₁ exp(log ρ(x_i) − log ρ_sft(x_i)))

    log_ratios: (num_prompts, N₀ + N₁) nats, the N₀ = num_initial draws of ρ_sft first, then the N₁ of ρ. Returns that
    shape, rows summing to 1. The draws of a trained ρ stand for rewrites that ρ_sft makes too rarely to be sampled.
    """
    log_ratios = np.asarray(log_ratios, float)
    num_moved = log_ratios.shape[-1] - num_initial
    with np.errstate(divide="ignore"):
        log_weights = -np.logaddexp(np.log(num_initial), np.log(num_moved) + log_ratios)
    weights = np.exp(log_weights - log_weights.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def objective(prompter, rewards, kl_weight: float, prior) -> np.ndarray:
    """Eq. (9) for any prompter: E_ρ[R] − λ KL(ρ ‖ ρ_sft), per prompt. All arrays (..., num_rewrites)."""
    return (np.asarray(prompter) * rewards).sum(-1) - kl_weight * kl_divergence(prompter, prior)


def kl_divergence(p, q) -> np.ndarray:
    """KL(p ‖ q) in nats along the last axis, Eq. (14); 0 log 0 is 0, and p > 0 where q = 0 is infinite."""
    p, q = np.broadcast_arrays(np.asarray(p, float), np.asarray(q, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    return terms.sum(-1)


def total_variation(p, q) -> np.ndarray:
    """d_TV(p, q) = ½ Σ |p − q| along the last axis, for policies that can be enumerated."""
    return 0.5 * np.abs(np.asarray(p, float) - np.asarray(q, float)).sum(-1)


def estimate_total_variation(log_p, log_q) -> np.ndarray:
    """d_TV(P, Q) = E_{y ~ P}[(1 − Q(y)/P(y))₊], from log-probabilities of samples of P.

    log_p, log_q: (..., num_samples), nats per whole sequence. Returns (...), between 0 and 1; unbiased.
    """
    ratio = np.exp(np.minimum(np.asarray(log_q, float) - np.asarray(log_p, float), 0.0))
    return (1 - ratio).mean(-1)


def gap(oracle, frozen, prompted) -> dict[str, float]:
    """Eq. (7): Δ = J(π*) − J(π̃_ρ) = Δ1 + Δ2, from the mean rewards of the oracle, the frozen model, and the prompter.

    Δ1 = J(π*) − J(π_F) is what fine-tuning adds; −Δ2 = J(π̃_ρ) − J(π_F) is what rewriting adds. All in reward units.
    """
    return {"delta": oracle - prompted, "delta_1": oracle - frozen, "delta_2": frozen - prompted}


def bound(rewards, frozen, rewritten, prior, kl_weight: float, beta: float) -> Bound[float]:
    """Theorem 6.1, Eq. (11), for policies that can be enumerated; averaged over prompts.

    rewards: (num_prompts, num_responses) r(x, y); frozen: the same shape, π_F(y|x);
    rewritten: (num_prompts, num_rewrites, num_responses), π_F(y|x'); prior: (num_prompts, num_rewrites), ρ_sft(x'|x).
    The oracle is Eq. (4) with weight beta, the prompter Eq. (10) with kl_weight. Rewards are shifted to [0, r_max].
    """
    rewards = np.asarray(rewards, float)
    shift = rewards.min()
    rewards = rewards - shift
    max_reward = rewards.max()
    oracle = tilt(rewards, beta, frozen)
    expected = np.einsum("pry,py->pr", rewritten, rewards)  # R(x, x')
    best = optimum(expected, kl_weight, prior)
    first = max_reward * total_variation(oracle, frozen).mean()
    apart = total_variation(np.asarray(frozen)[:, None, :], rewritten)  # (num_prompts, num_rewrites)
    second = max_reward * (np.asarray(prior) * apart).sum(-1).mean()
    third = kl_weight * best.kl.mean()
    difference = (oracle * rewards).sum(-1).mean() - best.reward.mean()
    return Bound(difference, first, second, third, first + second - third, float(shift), float(max_reward))


def bound_from_samples(own_rewards, rewards, log_ratios, kl_weight: float, beta: float) -> Bound[np.ndarray]:
    """Theorem 6.1, Eq. (11), estimated for models; each field but shift and max_reward (num_prompts,): average them.

    own_rewards: (num_prompts, num_own) r(x, y) of y ~ π_F(·|x);
    rewards: (num_prompts, num_rewrites, num_responses) r(x, y) of x' ~ ρ_sft(·|x), y ~ π_F(·|x');
    log_ratios: (num_prompts, num_rewrites, num_own) log π_F(y|x') − log π_F(y|x) of the own responses, nats, NaN where
    the responder tells no probabilities. Expectations over π* and ρ* are self-normalised; d_TV is E_P[(1 − Q/P)₊].
    Rewards are shifted by the smallest seen, r_max is the largest seen after that.
    """
    own_rewards, rewards = np.asarray(own_rewards, float), np.asarray(rewards, float)
    shift = min(own_rewards.min(), rewards.min())
    max_reward = max(own_rewards.max(), rewards.max()) - shift
    oracle, best = optimum(own_rewards, beta), optimum(rewards.mean(-1), kl_weight)
    ratio = oracle.weights * own_rewards.shape[-1]  # π*(y|x) / π_F(y|x) of each own response
    first = max_reward * np.maximum(1 - ratio, 0).mean(-1)
    second = max_reward * estimate_total_variation(np.zeros_like(log_ratios), log_ratios).mean(-1)
    third = kl_weight * best.kl
    return Bound(oracle.reward - best.reward, first, second, third, first + second - third, shift, max_reward)


def budget(epsilon_1: Number, epsilon_2: float, kl_weight: float, max_reward: float = 1.0) -> Number:
    """Section 6: the KL, r_max (ε1 + ε2) / λ nats, up to which the bound stays non-negative. ε are total variations."""
    _check(kl_weight)
    return max_reward * (epsilon_1 + epsilon_2) / kl_weight


def _log_weights(rewards, kl_weight: float, prior) -> np.ndarray:
    _check(kl_weight)
    rewards = np.asarray(rewards, float)
    with np.errstate(divide="ignore"):
        log_prior = -np.log(rewards.shape[-1]) if prior is None else np.log(np.asarray(prior, float))
    return log_prior + rewards / kl_weight


def _log_partition(rewards, kl_weight: float, prior) -> np.ndarray:
    """log Z(x), stable for small λ."""
    weights = _log_weights(rewards, kl_weight, prior)
    top = weights.max(-1, keepdims=True)
    return (top + np.log(np.exp(weights - top).sum(-1, keepdims=True)))[..., 0]


def _check(kl_weight: float) -> None:
    if not kl_weight > 0:
        raise ValueError(
            f"kl_weight {kl_weight}: wanted λ > 0; the limit λ → 0 is the best rewrite, taken without tilting"
        )

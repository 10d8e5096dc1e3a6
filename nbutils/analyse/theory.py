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

_GROUPS = 8  # of the jackknife
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
    weights = _log_weights(rewards, kl_weight, prior)
    weights = np.exp(weights - weights.max(-1, keepdims=True))  # dividing by Z would leave R / λ's rounding in the sum
    return weights / weights.sum(-1, keepdims=True)


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
    """The reward–KL curve of ρ*: for each λ its KL (nats per rewrite) and reward, averaged over prompts.

    Where rewards are R itself and every rewrite is listed, no prompter within the same KL earns more.
    rewards: (num_prompts, num_rewrites).
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


def crossed(rewards, kl_weights, prior=None) -> np.ndarray:
    """(1 + num_levels, num_prompts) reward of ρ* at λ = ∞ and at each λ, from rewards with the noise of responses.

    rewards: (num_prompts, num_rewrites, num_responses). Each response is counted under the weights that the others
    give, so that no rewrite is praised for the luck of the responses that chose it; a single one is taken as exact.
    prior: as for tilt.
    """
    rewards = np.asarray(rewards, float)
    start = rewards.mean((1, 2)) if prior is None else (np.asarray(prior) * rewards.mean(-1)).sum(-1)
    return np.stack([start, *(_crossed(rewards, kl_weight, prior) for kl_weight in kl_weights)])


def distance(earned, kl_weights) -> np.ndarray:
    """KL(ρ* ‖ ρ_sft) at λ = ∞ and at each λ from the rewards there, (1 + num_levels, …), nats: KL = ∫ b dJ, b = 1/λ.

    Holds since d log Z / db = E_ρ*[R]. The KL of weights that were made of noisy rewards would count their luck as
    distance; this takes rewards alone. With `crossed` it is unbiased, but for the number of rewrites, where the noise
    is the same for all of them: tilting by R plus such noise is, averaged over the noise, tilting by R. Where it
    differs between rewrites KL comes out too large. kl_weights: from large to small, the first far above the rewards'
    spread; trapezoids between.
    """
    inverse = np.concatenate([[0.0], 1 / np.asarray(kl_weights, float)])
    steps = np.diff(earned, axis=0) * ((inverse[1:] + inverse[:-1]) / 2).reshape(-1, *[1] * (np.ndim(earned) - 1))
    return np.concatenate([np.zeros_like(earned[:1]), steps.cumsum(0)])


def _crossed(rewards: np.ndarray, kl_weight: float, prior) -> np.ndarray:
    """(num_prompts,) reward of the prompter tilted by all responses but one, on that one, averaged over which."""
    num = rewards.shape[-1]
    if num == 1:
        return (tilt(rewards[..., 0], kl_weight, prior) * rewards[..., 0]).sum(-1)
    others = (rewards.sum(-1, keepdims=True) - rewards) / (num - 1)
    each = [(tilt(others[..., i], kl_weight, prior) * rewards[..., i]).sum(-1) for i in range(num)]
    return np.mean(each, axis=0)


class Tilted(NamedTuple):
    """ρ* of one λ from samples, each field (num_prompts,): its reward, λ KL(ρ* ‖ ρ_sft), and what tells whether the
    samples are enough: by how much the jackknife corrected both, and 1 / Σ weights²."""

    reward: np.ndarray
    tilting: np.ndarray
    reward_correction: np.ndarray
    tilting_correction: np.ndarray
    effective_samples: np.ndarray


def tilted(rewards, kl_weight: float, prior=None) -> Tilted:
    """`crossed` and `distance` at one λ, corrected for the number of samples by a jackknife over groups of rewrites.

    rewards: (num_prompts, num_rewrites ≥ 2, num_responses). What N samples cannot hold, nothing corrects: with few
    effective samples, or a correction above the standard error, the estimate is not to be trusted.
    """
    rewards = np.asarray(rewards, float)
    num = rewards.shape[1]
    path = np.geomspace(30 * max(rewards.std(), kl_weight), _check(kl_weight), 24)
    prior = np.full(rewards.shape[:2], 1 / num) if prior is None else np.asarray(prior, float)

    def at_the_end(kept):
        earned = crossed(rewards[:, kept], path, prior[:, kept] / prior[:, kept].sum(-1, keepdims=True))
        return np.stack([earned[-1], kl_weight * distance(earned, path)[-1]])

    groups = min(num, _GROUPS)
    whole = at_the_end(np.arange(num))
    without = np.mean([at_the_end(np.arange(num) % groups != group) for group in range(groups)], axis=0)
    correction = (groups - 1) * (whole - without)
    others = [np.delete(rewards, i, -1) for i in range(rewards.shape[-1])] if rewards.shape[-1] > 1 else [rewards]
    effective = np.mean([optimum(each.mean(-1), kl_weight, prior).effective_samples for each in others], axis=0)
    (reward, tilting), (of_reward, of_tilting) = whole + correction, correction
    return Tilted(reward, tilting, of_reward, of_tilting, effective)


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


def density_ratio(rewards, kl_weight: float, num_initial: int, prior=None) -> np.ndarray:
    """ρ*(x_i) / ρ_sft(x_i) = exp(R_i / λ) / Z of each of the first num_initial samples, Z from all others.

    rewards, prior: (num_prompts, num_samples ≥ 2). Returns (num_prompts, num_initial). A sample that stood in its own
    Z would hide how rare it is.
    """
    log_weights = np.broadcast_to(_log_weights(rewards, kl_weight, prior)[:, None, :], _square(rewards, num_initial))
    own = np.eye(log_weights.shape[-1], dtype=bool)[:num_initial]
    others = np.where(own, -np.inf, log_weights)
    top = others.max(-1)
    log_z = top + np.log(np.exp(others - top[..., None]).sum(-1))
    share = np.full_like(rewards, 1 / np.shape(rewards)[-1]) if prior is None else np.asarray(prior, float)
    log_z = log_z - np.log1p(-share[:, :num_initial])
    return np.exp(np.asarray(rewards, float)[:, :num_initial] / kl_weight - log_z)


def _square(rewards, num_initial: int) -> tuple[int, int, int]:
    num_prompts, num_samples = np.shape(rewards)
    return num_prompts, num_initial, num_samples


def bound_from_samples(
    oracle: Tilted, prompted: Tilted, oracle_ratio, log_ratios, shift: float, max_reward: float
) -> Bound[np.ndarray]:
    """Theorem 6.1, Eq. (11), estimated for models; each field but shift and max_reward (num_prompts,): average them.

    oracle, prompted: π* at β over responses to x, ρ* at λ over rewrites of x;
    oracle_ratio: (num_prompts, num_own) π*(y|x) / π_F(y|x) of y ~ π_F(·|x);
    log_ratios: (num_prompts, num_rewrites, num_own) log π_F(y|x') − log π_F(y|x) of the own responses, nats, NaN where
    the responder tells no probabilities. d_TV(P, Q) is E_P[(1 − Q/P)₊]. shift, max_reward: smallest reward seen, and
    the largest less that one.
    """
    first = max_reward * np.maximum(1 - np.asarray(oracle_ratio), 0).mean(-1)
    second = max_reward * estimate_total_variation(np.zeros_like(log_ratios), log_ratios).mean(-1)
    right = first + second - prompted.tilting
    return Bound(oracle.reward - prompted.reward, first, second, prompted.tilting, right, shift, max_reward)


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


def _check(kl_weight: float) -> float:
    if not kl_weight > 0:
        raise ValueError(
            f"kl_weight {kl_weight}: wanted λ > 0; the limit λ → 0 is the best rewrite, taken without tilting"
        )
    return kl_weight

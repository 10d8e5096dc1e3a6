"""The reward-KL frontier: what each KL allows, and how much of it a training has reached, with intervals over prompts.

attainable   for every λ what the closed-form prompter (Eq. 10) earns, between two ends that noise leaves open
points       J and KL(ρ ‖ ρ_sft) of each checkpoint, and its share of the attainable gain at its KL
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from nbutils.analyse import draws, theory

LEVELS = np.geomspace(0.01, 30, 36)  # λ of the curve, in units of the rewards' SD per nat
_RESAMPLES = 1000
_MOST_SHARE = 10.0  # above which an upper end says nothing


class Curves(NamedTuple):
    """Two curves that the attainable one lies between, by prompt, so that they can be averaged over any of them.

    low: rewards cross-fitted, their KL to be integrated (theory.crossed, theory.distance): less is reached than could
    be where noise hides the better rewrites. high, kl_high: the same responses weigh the rewrites and are averaged, so
    that noise counts as effect. Rewards without noise (a trained responder's draws are the responses) make the two one.
    Each (1 + num_levels, num_prompts), reward units and nats, from λ = ∞ through kl_weights. can_cross: whether there
    is a low curve; effective_samples: of the high one, by level.
    """

    kl_weights: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kl_high: np.ndarray
    can_cross: bool
    effective_samples: np.ndarray


class Means(NamedTuple):
    """Curves averaged over prompts: (1 + num_levels,), or (1 + num_levels, num_resamples)."""

    kl: np.ndarray
    reward: np.ndarray
    kl_high: np.ndarray
    reward_high: np.ndarray


def curves_of(samples: pd.DataFrame) -> Curves:
    """Both curves of the untrained policy, from its draws and those of the trained one."""
    rewards, prior, _ = draws.pooled(samples)
    kl_weights = (rewards.std() or 1.0) * LEVELS[::-1]
    best = [theory.optimum(rewards.mean(-1), each, prior) for each in kl_weights]
    start_ = (prior * rewards.mean(-1)).sum(-1)
    return Curves(
        kl_weights,
        theory.crossed(rewards, kl_weights, prior),
        np.stack([start_, *(each.reward for each in best)]),
        np.stack([np.zeros_like(start_), *(each.kl for each in best)]),
        draws.start(samples) == "own" or rewards.shape[-1] > 1,
        np.array([rewards.shape[1], *(each.effective_samples.mean() for each in best)]),
    )


def means(curves: Curves, picks: np.ndarray | None = None) -> Means:
    """Averages over all prompts, or over each row of picks (num_resamples, num_prompts)."""
    low, high, kl_high = (
        each.mean(-1) if picks is None else each[:, picks].mean(-1)
        for each in (curves.low, curves.high, curves.kl_high)
    )
    low = np.maximum.accumulate(low, axis=0)  # more KL never earns less
    return Means(theory.distance(low, curves.kl_weights), low, kl_high, high)


def attainable(samples: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What lies between the ends of the attainable curve, λ from ∞ to small: one row per λ, KL grows.

    kl, reward: the low end; kl_plug_in, reward_plug_in: the high end (see Curves); nats per draw and reward units,
    averaged over prompts, each reward with its 95% bootstrap end on the far side: reward_low, reward_plug_in_high.
    The low end is missing where a prompter's rewrites have one response each.
    """
    names = ["kl_weight", "kl", "reward", "reward_low", "kl_plug_in", "reward_plug_in", "reward_plug_in_high"]
    if samples.empty:
        return pd.DataFrame(columns=names)
    curves = curves_of(samples)
    ends, drawn = means(curves), means(curves, _picks(samples, seed))
    low, high = np.quantile(drawn.reward, 0.025, axis=-1), np.quantile(drawn.reward_high, 0.975, axis=-1)
    weights = np.concatenate([[np.inf], curves.kl_weights])
    columns = weights, ends.kl, ends.reward, low, ends.kl_high, ends.reward_high, high
    table = pd.DataFrame(dict(zip(names, columns, strict=True))).assign(effective_samples=curves.effective_samples)
    if not curves.can_cross:
        table[["kl", "reward", "reward_low"]] = np.nan
    if samples.prompt_id.nunique() < 2:
        table[["reward_low", "reward_plug_in_high"]] = np.nan
    return table


def _picks(samples: pd.DataFrame, seed: int) -> np.ndarray:
    num = samples.prompt_id.nunique()
    return np.random.default_rng(seed).integers(num, size=(_RESAMPLES, num))


def points(samples: pd.DataFrame, kl_weight: float, seed: int = 0) -> pd.DataFrame:
    """One row per source but own responses: reward J, kl, objective J − λ KL, with t intervals over prompts.

    share_low, share_high: between which (J − J of the untrained) / (attainable at this KL − J of the untrained) lies,
    by the high end of the attainable curve and by its low end (Curves) with their 95% bootstrap ends over prompts: what
    the noise of responses hides and what few prompts leave open. Negative for a policy that lost. Missing for the
    untrained policy itself, and where note says why. kl_per: what the KL is per, rewrite or response: the two do not
    compare. label: for a figure, empty for checkpoints on the way.
    """
    if samples.empty:
        names = ("source", "num_prompts", "reward", "kl", "kl_per", "objective", "share_low", "share_high", "label")
        return pd.DataFrame(columns=list(names))
    first, curves, picks = draws.start(samples), curves_of(samples), _picks(samples, seed)
    base = draws.rewards_of(samples, first).mean((1, 2))
    rows = []
    for source in dict.fromkeys(samples.source):
        if source == "own" and first != "own":
            continue
        part = samples[samples.source == source]
        each = part.groupby("prompt_id", sort=True)[["reward", "log_ratio"]].mean()
        reward, kl = each.reward.to_numpy(), np.zeros(len(each)) if source == first else each.log_ratio.to_numpy()
        row = {"source": source, "num_prompts": len(each)} | draws.interval("reward", reward) | draws.interval("kl", kl)
        row |= {"kl_per": "rewrite" if first == "initial" else "response"}
        row |= draws.interval("objective", reward - kl_weight * kl)
        own = source == first
        rows.append(row | (_share("") if own else share_reached(curves, reward - base, kl, picks)))
    table = pd.DataFrame(rows)
    return table.assign(label=table.source.where(table.source.isin([first, "trained"]), ""))


def share_reached(curves: Curves, gain, kl, picks: np.ndarray) -> dict:
    """{share_low, share_high, note} of a policy: its gain over the untrained one, of what is attainable at its KL.

    gain, kl: (num_prompts,). The share nearer to 0 is that of the high curve, the further one that of the low curve: of
    a gain the upper end, of a loss the lower one.
    """
    gained, at = gain[picks].mean(-1), kl[picks].mean(-1)
    reason = _no_share(curves, kl, at)
    if reason:
        return _share(reason)
    drawn, end = means(curves, picks), means(curves).kl_high[-1]
    beyond = end < kl.mean()
    unknown = np.where(gained < 0, -np.inf, np.inf)
    near = -unknown if beyond else _shares(gained, at, drawn.kl_high, drawn.reward_high)
    far = _shares(gained, at, drawn.kl, drawn.reward) if curves.can_cross else unknown
    ends = {
        "lower": np.quantile(np.where(gained < 0, far, near), 0.025, method="lower"),
        "upper": np.quantile(np.where(gained < 0, near, far), 0.975, method="higher"),
    }
    notes: dict[str, list[str]] = {}
    for name, value in ends.items():
        if abs(value) <= _MOST_SHARE:
            continue
        ends[name] = np.nan
        why = "noise may hide all that is attainable" if curves.can_cross else "one response to each rewrite"
        if beyond and name == ("upper" if gain.mean() < 0 else "lower"):
            why = f"samples end at {end:.2f} nats"
        notes.setdefault(why, []).append(f"no {name} end")
    return _share("; ".join(f"{why}: {', '.join(each)}" for why, each in notes.items()), *ends.values())


def _share(note: str, low: float = np.nan, high: float = np.nan) -> dict:
    return {"share_low": float(low), "share_high": float(high), "note": note}


def _no_share(curves: Curves, kl, at) -> str:
    """Why there is no share at all; empty where there is. at: mean KL of each resample."""
    if len(kl) < 2:
        return "one prompt"
    if not np.any(kl):
        return "as the untrained policy: no KL to reach anything with"
    rise = np.ptp(curves.high, axis=0).max()  # of one prompt: prompts may differ where rewrites do not
    if rise <= 1e-9 * max(1.0, np.abs(curves.high).max()):
        return "all rewards are equal"
    none = np.quantile(at, 0.025, method="lower") <= 0
    return "KL not shown to be above 0: nothing to reach anything with" if none else ""


def _shares(gained, at, kl_curve, reward_curve) -> np.ndarray:
    """(num_resamples,) shares; infinite where the curve does not rise. kl_curve, reward_curve: (levels, resamples)."""
    reached = np.array([np.interp(at[i], kl_curve[:, i], reward_curve[:, i]) for i in range(len(at))])
    allowed = reached - reward_curve[0]
    return np.where(allowed > 0, gained / np.where(allowed > 0, allowed, 1.0), np.where(gained < 0, -np.inf, np.inf))

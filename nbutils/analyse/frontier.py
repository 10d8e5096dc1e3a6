"""The reward-KL frontier and Theorem 6.1 measured: tables made of probe.py's samples, with intervals over prompts.

    attainable   for every λ what the closed-form prompter (Eq. 10) earns, between two ends that noise leaves open
    points       J and KL(ρ ‖ ρ_sft) of each checkpoint, and its share of the attainable gain at its KL
    gaps         Δ = Δ1 + Δ2 (Eq. 7), by the closed forms over samples (Eqs. 4 and 10) and by trained policies
    bound        both sides of Eq. 11 and the budget of section 6

All numbers of one table and one panel come from one sampling: 02's. A prompt with a sample that has no reward is left
out of all, and counted. numpy, pandas and scipy only.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from nbutils.analyse import stats, theory

LEVELS = np.geomspace(0.01, 30, 36)  # λ of the curve, in units of the rewards' SD per nat
_RESAMPLES = 1000
_MOST_SHARE = 10.0  # above which an upper end says nothing
MIN_EFFECTIVE = 8.0  # samples, below which an optimum counts as unknown (tests/analyse/test_frontier_worlds.py)


class Overview(NamedTuple):
    """The frontier of a whole experiment, each table with its cell: curves, points and lines have a panel too."""

    curves: pd.DataFrame
    points: pd.DataFrame
    lines: pd.DataFrame
    gaps: pd.DataFrame
    bounds: pd.DataFrame


def overview(probes: list, seed: int = 0) -> Overview:
    """All of it over the trainings of an experiment (gather.Probed).

    One panel per prompter and frozen responder (per trained responder), reward model and sampling, with the curve of
    its first training. Where several cells fall into a panel, as in a sweep of λ, each is its trained policy alone,
    labelled by what differs. lines: mean reward of the frozen responder (nan) and of the trained one (rlhf) on the
    panel's prompts, as 02 sampled them.
    """
    curves: list[pd.DataFrame] = []
    points_, lines, gaps_, bounds = [], [], [], []
    several = len({_sampling(each) for each in probes}) > 1, len({_reward_model(each) for each in probes}) > 1
    for probe in sorted(probes, key=lambda each: (_panel(each, several), each.parameters["kl_weight"], each.cell)):
        panel, kl_weight = _panel(probe, several), probe.parameters["kl_weight"]
        samples, _ = complete(probe.samples)
        oracle = _oracle_of(probe, probes, samples)
        named = {"panel": panel, "cell": probe.cell, "arm": probe.arm, "sampling": _sampling(probe)}
        points_.append(points(samples, kl_weight, seed).assign(**named, kl_weight=kl_weight))
        if panel not in {each["panel"].iloc[0] for each in curves if len(each)}:
            curves.append(attainable(samples, seed).assign(panel=panel, cell=probe.cell))
            lines.append(_lines(samples, oracle).assign(panel=panel, cell=probe.cell))
        trained = oracle[0] if oracle else None
        beta = oracle[1] if oracle else kl_weight
        weighed = {"cell": probe.cell, "arm": probe.arm, "sampling": _sampling(probe), "beta": beta}
        gaps_.append(gaps(samples, kl_weight, beta, trained).assign(**weighed))
        bounds.append(bound(samples, probe.shifts, kl_weight, beta, trained).assign(**weighed))
    joined = [pd.concat(each, ignore_index=True) if each else pd.DataFrame() for each in (curves, lines, gaps_, bounds)]
    return Overview(joined[0], _labelled(points_), *joined[1:])


def _sampling(probe) -> str:
    """How 02 sampled, in words."""
    named = probe.parameters
    lengths = f"at most {named['max_rewrite_tokens']} tokens of rewrites, {named['max_response_tokens']} of responses"
    return f"temperature {named['temperature']:g}, {lengths}"


def _reward_model(probe) -> str:
    learnt = probe.parameters["reward_pairs"]
    return f"learnt from {learnt}" if learnt else str(probe.parameters["reward_model"])


def _oracle_of(probe, probes: list, samples: pd.DataFrame) -> tuple[pd.DataFrame, float] | None:
    """(samples, β) of the trained responder of a prompter's cell; None unless it answered, and was rewarded, alike."""
    asked = "responder", "reward_model", "reward_pairs", "temperature", "max_response_tokens"
    for other in probes:
        if other.cell != probe.cell or other.parameters["policy"] != "responder" or other is probe:
            continue
        kept, _ = complete(other.samples[other.samples.prompt_id.isin(set(samples.prompt_id))])
        alike = all(other.parameters[name] == probe.parameters[name] for name in asked)
        if alike and set(kept.prompt_id) == set(samples.prompt_id):
            return kept, other.parameters["kl_weight"]
    return None


def _panel(probe, several: tuple[bool, bool]) -> str:
    """several: whether the probes have several samplings, several reward models."""
    named = probe.parameters
    name = f"{named['prompter']} before {named['responder']}"
    if named["policy"] == "responder":
        name = f"{named['responder']}, trained itself"
    parts = [name, _sampling(probe) if several[0] else "", _reward_model(probe) if several[1] else ""]
    return ", ".join(part for part in parts if part)


def _labelled(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All points; where several trainings share a panel and arm, the trained ones alone, labelled by λ or by cell.

    joined: whether a figure may lead a line through them: checkpoints of one training, or trainings in order of λ.
    """
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    table = table.drop_duplicates(["panel", "arm", "source", "kl", "reward"])  # an oracle trained again for a prompter
    sweep = table.groupby(["panel", "arm"])["cell"].transform("nunique") > 1
    table = table[~sweep | table.source.isin(["trained"])]
    sweep = sweep[table.index]
    varied = table.groupby(["panel", "arm"])["kl_weight"].transform("nunique") > 1
    weights = table.kl_weight.map(lambda value: f"λ {value:g}")
    label = table.label.where(~sweep, weights.where(varied, table.cell))
    return table.assign(label=label, joined=~sweep | varied).reset_index(drop=True)


def _lines(samples: pd.DataFrame, oracle: tuple[pd.DataFrame, float] | None) -> pd.DataFrame:
    """Mean reward of nan, the frozen responder's own responses, and of rlhf where its samples are at hand."""
    rows = [{"arm": "nan", "reward": samples.loc[samples.source == "own", "reward"].mean()}]
    if oracle and (oracle[0].source == "trained").any():
        rows.append({"arm": "rlhf", "reward": oracle[0].loc[oracle[0].source == "trained", "reward"].mean()})
    return pd.DataFrame(rows, columns=["arm", "reward"])


def complete(samples: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """(samples of the prompts whose every sample has a reward, number of prompts left out)."""
    samples = samples.astype({"reward": float, "log_ratio": float})
    lost = set(samples.loc[samples.reward.isna(), "prompt_id"])
    return samples[~samples.prompt_id.isin(lost)], len(lost)


def rewards_of(samples: pd.DataFrame, source: str) -> np.ndarray:
    """(num_prompts, num_draws, num_responses) rewards of a source, prompts by their id."""
    part = samples[samples.source == source].sort_values(["prompt_id", "draw", "response_draw"])
    shape = (part.prompt_id.nunique(), part.draw.nunique(), part.response_draw.nunique())
    return part.reward.to_numpy(float).reshape(shape)


def log_ratios_of(samples: pd.DataFrame, source: str) -> np.ndarray:
    """(num_prompts, num_draws) log-ratios of a source, nats, prompts by their id."""
    part = samples[(samples.source == source) & (samples.response_draw == 0)].sort_values(["prompt_id", "draw"])
    return part.log_ratio.to_numpy(float).reshape(part.prompt_id.nunique(), part.draw.nunique())


def start(samples: pd.DataFrame) -> str:
    """The source of the untrained policy: initial for a prompter, own for a responder."""
    return "initial" if (samples.source == "initial").any() else "own"


class Pool(NamedTuple):
    """The samples of the untrained and the trained policy together. rewards: (num_prompts, num_draws, num_responses);
    prior: (num_prompts, num_draws) weights under the untrained policy, whose num_initial draws come first."""

    rewards: np.ndarray
    prior: np.ndarray
    num_initial: int


def pooled(samples: pd.DataFrame) -> Pool:
    """The draws of the untrained policy and, where there are any, those of the trained one (theory.mixture_prior)."""
    first = start(samples)
    rewards = rewards_of(samples, first)
    num_prompts, num_initial, _ = rewards.shape
    if not (samples.source == "trained").any():
        return Pool(rewards, np.full((num_prompts, num_initial), 1 / num_initial), num_initial)
    log_ratios = np.concatenate([log_ratios_of(samples, source) for source in (first, "trained")], axis=1)
    both = np.concatenate([rewards, rewards_of(samples, "trained")], axis=1)
    return Pool(both, theory.mixture_prior(log_ratios, num_initial), num_initial)


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
    rewards, prior, _ = pooled(samples)
    kl_weights = (rewards.std() or 1.0) * LEVELS[::-1]
    best = [theory.optimum(rewards.mean(-1), each, prior) for each in kl_weights]
    start_ = (prior * rewards.mean(-1)).sum(-1)
    return Curves(
        kl_weights,
        theory.crossed(rewards, kl_weights, prior),
        np.stack([start_, *(each.reward for each in best)]),
        np.stack([np.zeros_like(start_), *(each.kl for each in best)]),
        start(samples) == "own" or rewards.shape[-1] > 1,
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
    from the high end of the attainable curve to its low end (Curves) with their 95% bootstrap ends over prompts: what
    the noise of responses hides and what few prompts leave open. Missing for the untrained policy itself, and where
    note says why. kl_per: what the KL is per, rewrite or response: the two do not compare. label: for a figure, empty
    for checkpoints on the way.
    """
    if samples.empty:
        names = ("source", "num_prompts", "reward", "kl", "kl_per", "objective", "share_low", "share_high", "label")
        return pd.DataFrame(columns=list(names))
    first, curves, picks = start(samples), curves_of(samples), _picks(samples, seed)
    base = rewards_of(samples, first).mean((1, 2))
    rows = []
    for source in dict.fromkeys(samples.source):
        if source == "own" and first != "own":
            continue
        part = samples[samples.source == source]
        each = part.groupby("prompt_id", sort=True)[["reward", "log_ratio"]].mean()
        reward, kl = each.reward.to_numpy(), np.zeros(len(each)) if source == first else each.log_ratio.to_numpy()
        row = {"source": source, "num_prompts": len(each)} | _interval("reward", reward) | _interval("kl", kl)
        row |= {"kl_per": "rewrite" if first == "initial" else "response"}
        row |= _interval("objective", reward - kl_weight * kl)
        rows.append(row | ({"note": ""} if source == first else share_reached(curves, reward - base, base, kl, picks)))
    table = pd.DataFrame(rows)
    return table.assign(label=table.source.where(table.source.isin([first, "trained"]), ""))


def share_reached(curves: Curves, gain, base, kl, picks: np.ndarray) -> dict:
    """{share_low, share_high, note} of a policy: its gain over the untrained one, of what is attainable at its KL.

    gain, base, kl: (num_prompts,); base: the untrained policy's reward.
    """
    reason = _no_share(curves, gain, kl)
    if reason:
        return {"share_low": np.nan, "share_high": np.nan, "note": reason}
    drawn, end, notes = means(curves, picks), means(curves).kl_high[-1], []
    low = np.quantile(_shares(gain, base, kl, picks, drawn.kl_high, drawn.reward_high), 0.025, method="lower")
    high = np.quantile(_shares(gain, base, kl, picks, drawn.kl, drawn.reward), 0.975, method="higher")
    if end < kl.mean():
        low = np.nan
        notes.append(f"samples end at {end:.2f} nats: no lower end")
    if not curves.can_cross:
        high = np.nan
        notes.append("one response to each rewrite: no upper end")
    elif high > _MOST_SHARE:
        high = np.nan
        notes.append("noise may hide all that is attainable: no upper end")
    return {"share_low": float(low), "share_high": float(high), "note": "; ".join(notes)}


def _no_share(curves: Curves, gain, kl) -> str:
    """Why there is no share at all; empty where there is."""
    if len(gain) < 2:
        return "one prompt"
    if not np.any(kl):
        return "as the untrained policy: no KL to reach anything with"
    rise = np.ptp(curves.high, axis=0).max()  # of one prompt: prompts may differ where rewrites do not
    return "" if rise > 1e-9 * max(1.0, np.abs(curves.high).max()) else "all rewards are equal"


def _shares(gain, base, kl, picks, kl_curve, reward_curve) -> np.ndarray:
    """(num_resamples,) shares; infinite where the curve does not rise. kl_curve, reward_curve: (levels, resamples)."""
    at = kl[picks].mean(-1)
    reached = np.array([np.interp(at[i], kl_curve[:, i], reward_curve[:, i]) for i in range(len(picks))])
    allowed = reached - base[picks].mean(-1)
    return np.where(allowed > 0, gain[picks].mean(-1) / np.where(allowed > 0, allowed, 1.0), np.inf)


def _interval(name: str, values: np.ndarray, known: bool = True) -> dict:
    """Mean of a value per prompt with its t interval; none below two prompts, or where it cannot be known."""
    found = stats.mean(values)
    low, high = (found.low, found.high) if known else (np.nan, np.nan)
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}


def _doubt(name: str, best: theory.Tilted, num_samples: int) -> str:
    """Why the optimum of these samples cannot be known; empty where it can."""
    effective = best.effective_samples.mean()
    if effective < MIN_EFFECTIVE:
        return f"{name}: {effective:.1f} effective of {num_samples} samples, too few to know it"
    both = (best.reward, best.reward_correction), (best.tilting, best.tilting_correction)
    for values, corrections in both:
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
        if abs(corrections.mean()) > max(error, 1e-9):
            return f"{name}: still moves with the number of samples ({num_samples}), too few to know it"
    return ""


def gaps(samples: pd.DataFrame, kl_weight: float, beta: float, oracle: pd.DataFrame | None = None) -> pd.DataFrame:
    """Eq. (7) twice, from one sampling: by the closed forms over samples, and by the trained policies; reward units.

    oracle: samples of a trained responder (policy responder) on the same prompts, or None: they join the samples that
    π* is tilted from, and give the second row. Where samples are too few to know an optimum, note says so and what
    depends on it has no interval. Empty without rewrites of the untrained prompter (policy responder).
    """
    if start(samples) != "initial":
        names = ("by", "num_prompts", "oracle", "frozen", "prompted", "delta", "delta_1", "delta_2", "note")
        return pd.DataFrame(columns=list(names))
    own = rewards_of(samples, "own").mean((1, 2))
    best, rewritten, doubts = _optima(samples, kl_weight, beta, oracle)
    rows = [{"by": "closed form"} | _gap(best.reward, own, rewritten.reward, doubts)]
    if oracle is not None and all((each.source == "trained").any() for each in (samples, oracle)):
        trained = [rewards_of(each, "trained").mean((1, 2)) for each in (oracle, samples)]
        rows.append({"by": "trained policies"} | _gap(trained[0], own, trained[1], ("", "")))
    return pd.DataFrame(rows)


def _optima(samples, kl_weight: float, beta: float, oracle) -> tuple[theory.Tilted, theory.Tilted, tuple[str, str]]:
    """(π* at β, ρ* at λ, why each cannot be known)."""
    own, rewrites = _oracle_pool(samples, oracle), pooled(samples)
    best = theory.tilted(own.rewards, beta, own.prior)
    rewritten = theory.tilted(rewrites.rewards, kl_weight, rewrites.prior)
    doubt = _doubt("π*", best, own.rewards.shape[1]), _doubt("ρ*", rewritten, rewrites.rewards.shape[1])
    if rewrites.rewards.shape[-1] < 2:
        doubt = doubt[0], "ρ*: one response to each rewrite, luck cannot be told from effect"
    return best, rewritten, doubt


def _oracle_pool(samples: pd.DataFrame, oracle: pd.DataFrame | None) -> Pool:
    """What π* is tilted from: the frozen responder's own responses, with those of its trained self where known."""
    return pooled(samples[samples.source == "own"] if oracle is None else oracle)


def _gap(oracle, frozen, prompted, doubts: tuple[str, str]) -> dict:
    """J of all three and Δ, Δ1, Δ2 with their intervals; arguments: rewards per prompt. doubts: of oracle, prompted."""
    parts = {"oracle": oracle, "frozen": frozen, "prompted": prompted} | theory.gap(oracle, frozen, prompted)
    row = {"num_prompts": len(frozen)}
    for name, values in parts.items():
        known = not any(doubts[i] and name in _RESTS_ON[i] for i in (0, 1))
        row |= _interval(name, values, known)
    return row | {"note": "; ".join(each for each in doubts if each)}


_RESTS_ON = ("oracle", "delta", "delta_1"), ("prompted", "delta", "delta_2")


def bound(
    samples: pd.DataFrame,
    shifts: pd.DataFrame,
    kl_weight: float,
    beta: float,
    oracle: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Theorem 6.1 in numbers: one row per term of Eq. (11), reward units, the budget in nats. oracle: as for gaps.

    Without shifts (an API as responder) the second term, the right side and the budget are missing. note: why a term
    cannot be known; it has no interval then.
    """
    if start(samples) != "initial":
        return pd.DataFrame(columns=["term", "meaning", "value", "num_prompts", "r_max", "shift", "note"])
    best, rewritten, doubts = _optima(samples, kl_weight, beta, oracle)
    own = _oracle_pool(samples, oracle)
    ratio = theory.density_ratio(own.rewards[..., 0], beta, own.num_initial, own.prior)
    seen = np.concatenate([own.rewards.ravel(), rewards_of(samples, "own").ravel(), pooled(samples).rewards.ravel()])
    shift, r_max = float(seen.min()), float(seen.max() - seen.min())
    found = theory.bound_from_samples(best, rewritten, ratio, _log_ratios(samples, shifts), shift, r_max)
    epsilons = (found.finetuning + found.rewriting) / r_max if r_max > 0 else found.finetuning
    terms = {
        "gap": found.gap,
        "finetuning": found.finetuning,
        "rewriting": found.rewriting,
        "tilting": found.tilting,
        "right_side": found.right_side,
        "kl_of_optimum": found.tilting / kl_weight,
        "budget": theory.budget(epsilons, 0.0, kl_weight, r_max),
    }
    rows = []
    for name, each in terms.items():
        doubt = "; ".join(doubts[i] for i in _OPTIMA_OF[name] if doubts[i])
        rows.append({"term": name, "meaning": _MEANING[name]} | _interval("value", each, not doubt) | {"note": doubt})
    return pd.DataFrame(rows).assign(num_prompts=len(ratio), r_max=r_max, shift=shift)


_OPTIMA_OF = {"gap": (0, 1), "finetuning": (0,), "rewriting": (), "tilting": (1,), "right_side": (0, 1)}
_OPTIMA_OF |= {"kl_of_optimum": (1,), "budget": (0,)}  # terms that rest on π* (0), on ρ* (1)
_MEANING = {
    "gap": "J(π*) − J(π̃_ρ*), by tilted samples",
    "finetuning": "r_max E d_TV(π*, π_F)",
    "rewriting": "r_max E d_TV(π_F(·|x), π_F(·|x′)), x′ ~ ρ_sft",
    "tilting": "λ E KL(ρ* ‖ ρ_sft)",
    "right_side": "right side of Eq. 11: finetuning + rewriting − tilting",
    "kl_of_optimum": "E KL(ρ* ‖ ρ_sft), nats",
    "budget": "r_max (ε1 + ε2) / λ, nats (section 6)",
}


def _log_ratios(samples: pd.DataFrame, shifts: pd.DataFrame) -> np.ndarray:
    """(num_prompts, rewrites, own responses) of shifts, prompts by id; NaN (.., 1, 1) where there are none."""
    ids = sorted(set(samples.prompt_id))
    if shifts.empty:
        return np.full((len(ids), 1, 1), np.nan)
    part = shifts[shifts.prompt_id.isin(ids)].sort_values(["prompt_id", "draw", "own_draw"])
    return part.log_ratio.to_numpy(float).reshape(len(ids), part.draw.nunique(), part.own_draw.nunique())

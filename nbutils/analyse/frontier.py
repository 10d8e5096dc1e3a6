"""The reward-KL frontier and Theorem 6.1 measured: tables made of probe.py's samples, with intervals over prompts.

    attainable   for every λ what the closed-form prompter (Eq. 10) earns, over the samples
    points       J and KL(ρ ‖ ρ_sft) of each checkpoint, and how much of the attainable gain at its KL it has reached
    gaps         Δ = Δ1 + Δ2 (Eq. 7), from trained arms and, untrained, from tilted samples (Eqs. 4 and 10)
    bound        both sides of Eq. 11 and the budget of section 6

A prompt with a sample that has no reward is left out of all, and counted. numpy and pandas only.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from nbutils.analyse import theory

LEVELS = np.geomspace(0.01, 30, 36)  # λ of the curve, in units of the rewards' SD per nat
_RESAMPLES = 1000


class Overview(NamedTuple):
    """The frontier of a whole experiment, each table with its cell: curves, points and lines have a panel too."""

    curves: pd.DataFrame
    points: pd.DataFrame
    lines: pd.DataFrame
    gaps: pd.DataFrame
    bounds: pd.DataFrame


def overview(probes: list, answers: pd.DataFrame, seed: int = 0) -> Overview:
    """All of it over the trainings of an experiment (gather.Probed) and the answers of its evaluations.

    One panel per prompter and frozen responder (per trained responder), with the curve of its first training. Where
    several cells fall into a panel, as in a sweep of λ, each is its trained policy alone, labelled by what differs.
    lines: mean reward of nan and of rlhf on the panel's own prompts.
    """
    curves: list[pd.DataFrame] = []
    points_, lines, gaps_, bounds = [], [], [], []
    betas = {each.cell: each.parameters["kl_weight"] for each in probes if each.parameters["policy"] == "responder"}
    for probe in sorted(probes, key=lambda each: (_panel(each), each.parameters["kl_weight"], each.cell)):
        panel, kl_weight = _panel(probe), probe.parameters["kl_weight"]
        samples, _ = complete(probe.samples)
        curve = attainable(samples, seed)
        named = {"panel": panel, "cell": probe.cell, "arm": probe.arm, "kl_weight": kl_weight}
        points_.append(points(samples, curve, kl_weight, seed).assign(**named))
        if panel not in {each["panel"].iloc[0] for each in curves if len(each)}:
            curves.append(curve.assign(panel=panel, cell=probe.cell))
            lines.append(_lines(samples, answers[answers.cell == probe.cell]).assign(panel=panel, cell=probe.cell))
        beta = betas.get(probe.cell, kl_weight)
        trained = _trained(samples, answers[answers.cell == probe.cell], probe.arm)
        gaps_.append(gaps(samples, kl_weight, beta, trained, seed).assign(cell=probe.cell, arm=probe.arm))
        found = bound(samples, probe.shifts, kl_weight, beta, seed)
        bounds.append(found.assign(cell=probe.cell, arm=probe.arm))
    joined = [pd.concat(each, ignore_index=True) if each else pd.DataFrame() for each in (curves, lines, gaps_, bounds)]
    return Overview(joined[0], _labelled(points_), *joined[1:])


def _panel(probe) -> str:
    named = probe.parameters
    if named["policy"] == "responder":
        return f"{named['responder']}, trained itself"
    return f"{named['prompter']} before {named['responder']}"


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


def _lines(samples: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Mean reward of nan and rlhf on the samples' prompts, where they were evaluated; nan else from own responses."""
    known = answers[answers.prompt_id.isin(set(samples.prompt_id)) & answers.arm.isin(["nan", "rlhf"])]
    rows = known.groupby("arm", as_index=False)["reward"].mean().dropna()
    if "nan" not in set(rows.arm):
        own = samples.loc[samples.source == "own", "reward"].mean()
        rows = pd.concat([pd.DataFrame([{"arm": "nan", "reward": own}]), rows], ignore_index=True)
    return rows[["arm", "reward"]]


def _trained(samples: pd.DataFrame, answers: pd.DataFrame, arm: str) -> dict[str, np.ndarray]:
    """{nan, rlhf, alignpro: rewards per prompt} over all evaluated prompts that have all three; {} without one."""
    names = {"nan": "nan", "rlhf": "rlhf", arm: "alignpro"}
    known = answers[answers.arm.isin(list(names))]
    table = known.pivot_table("reward", "prompt_id", "arm", aggfunc="mean").dropna()
    return {ours: table[name].to_numpy() for name, ours in names.items()} if set(names) <= set(table) else {}


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


def attainable(samples: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The attainable curve (theory.attainable) of the untrained policy, λ from large to small: KL grows.

    Its samples and those of the trained policy together, each weighed by the untrained policy (theory.mixture_prior).
    """
    if samples.empty:
        return pd.DataFrame(columns=["kl_weight", "kl", "reward", "reward_plug_in"])
    first = start(samples)
    rewards, prior = rewards_of(samples, first), None
    spread = rewards.std() or 1.0
    if (samples.source == "trained").any():
        log_ratios = np.concatenate([log_ratios_of(samples, source) for source in (first, "trained")], axis=1)
        prior = theory.mixture_prior(log_ratios, rewards.shape[1])
        rewards = np.concatenate([rewards, rewards_of(samples, "trained")], axis=1)
    return pd.DataFrame(theory.attainable(rewards, spread * LEVELS[::-1], prior, seed, _RESAMPLES))


def points(samples: pd.DataFrame, curve: pd.DataFrame, kl_weight: float, seed: int = 0) -> pd.DataFrame:
    """One row per source but own responses: reward J, kl, objective J − λ KL, with bootstrap intervals over prompts.

    share_reached: (J − J of the untrained) / (attainable reward at this KL − J of the untrained), missing for the
    untrained policy itself. beyond_samples: the curve ends before this KL and its end was taken instead, so that the
    true share is at most this one. kl_per: what the KL is per, rewrite or response: the two do not compare. label: for
    a figure, empty for checkpoints on the way.
    """
    if samples.empty:
        names = ("source", "num_prompts", "reward", "kl", "kl_per", "objective", "share_reached", "label")
        return pd.DataFrame(columns=list(names))
    first = start(samples)
    base = rewards_of(samples, first).mean()
    rows = []
    for source in dict.fromkeys(samples.source):
        if source == "own" and first != "own":
            continue
        part = samples[samples.source == source]
        each = part.groupby("prompt_id", sort=True)[["reward", "log_ratio"]].mean()
        kl = np.zeros(len(each)) if source == first else each.log_ratio.to_numpy()
        row = {"source": source, "num_prompts": len(each)}
        row |= _interval("reward", each.reward.to_numpy(), seed) | _interval("kl", kl, seed)
        row |= {"kl_per": "rewrite" if first == "initial" else "response"}
        row |= _interval("objective", each.reward.to_numpy() - kl_weight * kl, seed)
        rows.append(row | ({} if source == first else _reached(row, curve, base)))
    table = pd.DataFrame(rows)
    return table.assign(label=table.source.where(table.source.isin([first, "trained"]), ""))


def _reached(row: dict, curve: pd.DataFrame, base: float) -> dict:
    allowed = float(np.interp(row["kl"], curve.kl, curve.reward)) - base
    share = (row["reward"] - base) / allowed if allowed > 0 else float("nan")
    return {
        "attainable_reward": allowed + base,
        "share_reached": share,
        "beyond_samples": bool(row["kl"] > curve.kl.max()),
    }


def _interval(name: str, values: np.ndarray, seed: int) -> dict:
    """Mean of a value per prompt with the 95% percentile bootstrap; no interval below two prompts."""
    low = high = float("nan")
    if len(values) > 1:
        picks = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
        low, high = np.quantile(values[picks].mean(-1), [0.025, 0.975])
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def gaps(
    samples: pd.DataFrame, kl_weight: float, beta: float, trained: dict[str, np.ndarray], seed: int = 0
) -> pd.DataFrame:
    """Eq. (7) twice: by tilted samples before any training and, where these are known, by trained arms; reward units.

    trained: {arm: rewards per prompt} of nan, rlhf and the prompter's arm (named alignpro), prompts in one order.
    Empty without rewrites of the untrained prompter (policy responder).
    """
    if start(samples) != "initial":
        return pd.DataFrame(
            columns=["by", "num_prompts", "oracle", "frozen", "prompted", "delta", "delta_1", "delta_2"]
        )
    own, initial = (rewards_of(samples, source) for source in ("own", "initial"))
    oracle = theory.optimum(own.mean(-1), beta).reward
    best = theory.optimum(initial.mean(-1), kl_weight).reward
    rows = [{"by": "tilted samples, untrained"} | _gap(oracle, own.mean((1, 2)), best, seed)]
    if {"nan", "rlhf", "alignpro"} <= set(trained):
        rows.append({"by": "trained arms"} | _gap(trained["rlhf"], trained["nan"], trained["alignpro"], seed))
    return pd.DataFrame(rows)


def _gap(oracle, frozen, prompted, seed: int) -> dict:
    """J of all three and Δ, Δ1, Δ2 with their intervals; arguments: rewards per prompt."""
    parts = {"oracle": oracle, "frozen": frozen, "prompted": prompted} | theory.gap(oracle, frozen, prompted)
    return {"num_prompts": len(frozen)} | {k: v for n, e in parts.items() for k, v in _interval(n, e, seed).items()}


def bound(samples: pd.DataFrame, shifts: pd.DataFrame, kl_weight: float, beta: float, seed: int = 0) -> pd.DataFrame:
    """Theorem 6.1 in numbers: one row per term of Eq. (11), reward units, the budget in nats.

    Without shifts (an API as responder) the second term, the right side and the budget are missing.
    """
    if start(samples) != "initial":
        return pd.DataFrame(columns=["term", "meaning", "value", "num_prompts", "r_max", "shift"])
    own, initial = rewards_of(samples, "own")[..., 0], rewards_of(samples, "initial")
    found = theory.bound_from_samples(own, initial, _log_ratios(samples, shifts), kl_weight, beta)
    epsilons = (found.finetuning + found.rewriting) / found.max_reward if found.max_reward > 0 else found.finetuning
    terms = {
        "gap": found.gap,
        "finetuning": found.finetuning,
        "rewriting": found.rewriting,
        "tilting": found.tilting,
        "right_side": found.right_side,
        "kl_of_optimum": found.tilting / kl_weight,
        "budget": theory.budget(epsilons, 0.0, kl_weight, found.max_reward),
    }
    rows = [{"term": name, "meaning": _MEANING[name]} | _interval("value", each, seed) for name, each in terms.items()]
    return pd.DataFrame(rows).assign(num_prompts=len(own), r_max=found.max_reward, shift=found.shift)


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

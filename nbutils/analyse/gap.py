"""Theorem 6.1 measured: the gap to fine-tuning and its bound, from 02's samples, with intervals over prompts.

gaps         Δ = Δ1 + Δ2 (Eq. 7), by the closed forms over samples (Eqs. 4 and 10) and by trained policies
bound        both sides of Eq. 11 and the budget of section 6
"""

import numpy as np
import pandas as pd

from nbutils.analyse import draws, theory

MIN_EFFECTIVE = 8.0  # samples, below which an optimum counts as unknown (tests/analyse/test_frontier_worlds.py)


def doubt(name: str, best: theory.Tilted, num_samples: int) -> str:
    """Why the optimum of these samples cannot be known; empty where it can.

    It picks samples, not at random: of normal rewards and 32 draws it lets nine in ten pass at λ of 1.5 SDs, and one
    in four at 0.85 SD, where under noise as large as the effect only seven in ten of their intervals hold the truth.
    """
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
    depends on it has no interval; else its ends are moved out by the jackknife's correction, as much as may be missing
    yet. Empty without rewrites of the untrained prompter (policy responder).
    """
    if draws.start(samples) != "initial":
        names = ("by", "num_prompts", "oracle", "frozen", "prompted", "delta", "delta_1", "delta_2", "note")
        return pd.DataFrame(columns=list(names))
    own = draws.rewards_of(samples, "own").mean((1, 2))
    best, rewritten, doubts = _optima(samples, kl_weight, beta, oracle)
    slacks = _slack(best.reward_correction), _slack(rewritten.reward_correction)
    rows = [{"by": "closed form"} | _gap(best.reward, own, rewritten.reward, doubts, slacks)]
    if oracle is not None and all((each.source == "trained").any() for each in (samples, oracle)):
        trained = [draws.rewards_of(each, "trained").mean((1, 2)) for each in (oracle, samples)]
        rows.append({"by": "trained policies"} | _gap(trained[0], own, trained[1], ("", ""), (0.0, 0.0)))
    return pd.DataFrame(rows)


def _optima(samples, kl_weight: float, beta: float, oracle) -> tuple[theory.Tilted, theory.Tilted, tuple[str, str]]:
    """(π* at β, ρ* at λ, why each cannot be known)."""
    own, rewrites = _oracle_pool(samples, oracle), draws.pooled(samples)
    best = theory.tilted(own.rewards, beta, own.prior)
    rewritten = theory.tilted(rewrites.rewards, kl_weight, rewrites.prior)
    why = doubt("π*", best, own.rewards.shape[1]), doubt("ρ*", rewritten, rewrites.rewards.shape[1])
    if rewrites.rewards.shape[-1] < 2:
        why = why[0], "ρ*: one response to each rewrite, luck cannot be told from effect"
    return best, rewritten, why


def _oracle_pool(samples: pd.DataFrame, oracle: pd.DataFrame | None) -> draws.Pool:
    """What π* is tilted from: the frozen responder's own responses, with those of its trained self where known."""
    return draws.pooled(samples[samples.source == "own"] if oracle is None else oracle)


def _slack(correction: np.ndarray) -> float:
    return abs(float(correction.mean()))


def _gap(oracle, frozen, prompted, doubts: tuple[str, str], slacks: tuple[float, float]) -> dict:
    """J of all three and Δ, Δ1, Δ2 with their intervals; arguments: rewards per prompt. doubts, slacks: of oracle,
    prompted."""
    parts = {"oracle": oracle, "frozen": frozen, "prompted": prompted} | theory.gap(oracle, frozen, prompted)
    row = {"num_prompts": len(frozen)}
    for name, values in parts.items():
        resting = [i for i in (0, 1) if name in _RESTS_ON[i]]
        known = not any(doubts[i] for i in resting)
        row |= draws.interval(name, values, known, sum(slacks[i] for i in resting))
    return row | {"note": _note(*doubts, num_prompts=len(frozen))}


def _note(*doubts: str, num_prompts: int) -> str:
    alone = "one prompt: no interval" if num_prompts == 1 else ""
    return "; ".join(each for each in (*doubts, alone) if each)


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
    cannot be known; it has no interval then. r_max is the range of the rewards seen: where the true one is larger, so
    is the right side, which is an estimate of the bound and none itself; intervals take r_max as given.
    """
    if draws.start(samples) != "initial":
        return pd.DataFrame(columns=["term", "meaning", "value", "num_prompts", "r_max", "shift", "note"])
    best, rewritten, doubts = _optima(samples, kl_weight, beta, oracle)
    own = _oracle_pool(samples, oracle)
    ratio = theory.density_ratio(own.rewards[..., 0], beta, own.num_initial, own.prior)
    rewards = own.rewards, draws.rewards_of(samples, "own"), draws.pooled(samples).rewards
    seen = np.concatenate([each.ravel() for each in rewards])
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
    gap_slack = _slack(best.reward_correction) + _slack(rewritten.reward_correction)
    slacks = {"gap": gap_slack} | dict.fromkeys(("tilting", "right_side"), _slack(rewritten.tilting_correction))
    slacks["kl_of_optimum"] = slacks["tilting"] / kl_weight
    rows = []
    for name, each in terms.items():
        note = _note(*(doubts[i] for i in _OPTIMA_OF[name]), num_prompts=len(ratio))
        row = {"term": name, "meaning": _MEANING[name]} | draws.interval("value", each, not note, slacks.get(name, 0.0))
        rows.append(row | {"note": note})
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

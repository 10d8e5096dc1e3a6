"""02's samples of the untrained and the trained policy (evaluate/probe.py) as arrays, a row for each prompt.

A prompt with a sample that is missing, or has no reward or log-ratio, is left out of all that is made of them, and
counted.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from nbutils.analyse import stats, theory


def complete(samples: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """(samples of the prompts that have every sample, each with a reward; number of prompts left out).

    A source has log-ratios or none: where it has, each is a finite number, else its prompt is left out.
    """
    samples = samples.astype({"reward": float, "log_ratio": float})
    samples = samples.drop_duplicates(["source", "prompt_id", "draw", "response_draw"])
    has_ratios = samples.log_ratio.notna().groupby(samples.source).transform("any")
    bad = samples.reward.isna() | has_ratios & ~np.isfinite(samples.log_ratio)
    numbers = samples.groupby(["prompt_id", "source"]).size().unstack(fill_value=0)
    lost = set(samples.loc[bad, "prompt_id"]) | set(numbers.index[(numbers < numbers.max()).any(axis=1)])
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


def interval(name: str, values: np.ndarray, known: bool = True, slack: float = 0.0) -> dict:
    """Mean of a value per prompt with its t interval; none below two prompts, or where it cannot be known.

    slack: by how much each end stands further out, for what an estimate may still miss.
    """
    found = stats.mean(values)
    low, high = (found.low - slack, found.high + slack) if known else (np.nan, np.nan)
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}

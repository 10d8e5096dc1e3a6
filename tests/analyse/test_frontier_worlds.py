"""The frontier, the gap and the bound in worlds whose truth can be enumerated, and whose rewards are noisy.

A world: prompts with 2,000 rewrites of normal R(x, x'), SD 1; responses add noise to R. 32 rewrites of the untrained
prompter and 8 of a trained one, two responses each, as 02_train_alignpro draws them.
"""

import functools

import numpy as np
import pandas as pd
import pytest

from nbutils.analyse import draws, frontier, gap, theory

pytestmark = pytest.mark.slow
NUM_PROMPTS, NUM_REWRITES = 24, 2000
INITIAL, TRAINED, RESPONSES = 32, 8, 2


def gaussian(rng, shape):
    return rng.normal(size=shape)


def heavy(rng, shape):
    """t with three degrees of freedom, scaled to SD 1."""
    return rng.standard_t(3, shape) / np.sqrt(3)


@functools.cache
def world(noise: float, kl_weight: float, kind: str, seed: int):
    """(samples, true share that the trained prompter reaches). kind: what the noise is like; with `half` the trained
    prompter writes as ρ* every second time and as the untrained one else."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(NUM_PROMPTS, NUM_REWRITES))
    weights = theory.tilt(truth, kl_weight)
    if kind == "half":
        weights = (weights + 1 / NUM_REWRITES) / 2
    log_ratios = np.log(weights * NUM_REWRITES)
    sizes = noise * (np.exp(rng.normal(0, 0.5, truth.shape)) if kind == "uneven" else np.ones_like(truth))
    parts = []
    for source, num in (("initial", INITIAL), ("trained", TRAINED)):
        policies = np.full_like(weights, 1 / NUM_REWRITES) if source == "initial" else weights
        ids = np.stack([rng.choice(NUM_REWRITES, p=each, size=num) for each in policies])  # (prompts, num)
        extra = (heavy if kind == "heavy" else gaussian)(rng, (*ids.shape, RESPONSES))
        rewards = np.take_along_axis(truth, ids, 1)[..., None] + np.take_along_axis(sizes, ids, 1)[..., None] * extra
        prompt, draw, response = (each.ravel() for each in np.indices(rewards.shape))
        ratios = np.take_along_axis(log_ratios, ids, 1).repeat(RESPONSES)
        columns = {"prompt_id": np.char.mod("%03d", prompt), "source": source, "draw": draw, "log_ratio": ratios}
        parts.append(pd.DataFrame(columns | {"response_draw": response, "reward": rewards.ravel()}))
    samples = pd.concat(parts, ignore_index=True)
    curve = theory.frontier(truth, np.geomspace(0.1, 30, 60)[::-1])
    kl, reward = ([row[name] for row in curve] for name in ("kl", "reward"))
    gain = (weights * truth).sum(-1).mean() - truth.mean()
    allowed = np.interp((weights * log_ratios).sum(-1).mean(), kl, reward) - truth.mean()
    return samples, gain / allowed


def ends(samples, kl_weight):
    """(share by the curve of the same responses, share by the cross-fitted curve), both without bootstrap."""
    row = frontier.points(samples, kl_weight).set_index("source").loc["trained"]
    base, found = draws.rewards_of(samples, "initial").mean(), frontier.means(frontier.curves_of(samples))
    curves = (found.kl_high, found.reward_high), (found.kl, found.reward)
    return [(row.reward - base) / (np.interp(row.kl, *curve) - base) for curve in curves]


@pytest.mark.parametrize("kl_weight", [0.5, 1.0])
@pytest.mark.parametrize("noise, most", [(0.0, 1.06), (0.5, 1.08), (1.0, 1.12)])
def test_noise_as_large_as_the_effect_moves_the_share_by_a_twentieth(noise, kl_weight, most):
    """The trained prompter is ρ*: 100%. With the KL of the noisy weights on the axis it was 111% and 135% at λ 0.5,
    115% and 146% at λ 1; the plug-in says 95% and 83%."""
    found = np.mean([ends(world(noise, kl_weight, "even", seed)[0], kl_weight) for seed in range(4)], axis=0)
    assert found[0] < 1.06 and 0.97 < found[1] < most, found


KINDS = ["even", "half", "uneven", "heavy"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_range_of_shares_holds_the_true_one_whatever_the_noise(kind):
    held, total = 0, 0
    for number, noise in enumerate((0.0, 0.5, 1.0, 2.0, 3.0)):
        for seed in (2 * number, 2 * number + 1):
            samples, share = world(noise, 1.0, kind, seed)
            row = frontier.points(samples, 1.0).set_index("source").loc["trained"]
            held += row.share_low <= share and not row.share_high < share
            total += 1
            assert np.isfinite(row.share_high) or "no upper end" in row.note
    assert held >= total - 2, f"{held} of {total}"


def test_where_rewriting_changes_nothing_no_gain_is_reported():
    """λ a twentieth of the noise. The plug-in praised luck: J 1.4 above the start and a KL of 3 nats; both are 0."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(400, INITIAL, RESPONSES))
    found = theory.tilted(noise, 0.05)
    error = found.reward.std() / np.sqrt(len(noise))
    assert abs(found.reward.mean()) < 3 * error and abs(found.tilting.mean()) < 0.05
    assert theory.optimum(noise.mean(-1), 0.05).reward.mean() > 1.3
    assert gap.doubt("ρ*", found, INITIAL)  # two effective samples: no interval either


def test_intervals_of_an_optimum_cover_where_they_are_shown():
    """ρ* of 24 prompts whose R is normal with SD 1: J = 1/λ and KL = 1/2λ². Of the intervals shown, with the
    correction on both sides, nine in ten hold the truth (95% nominal); where no plain interval would, none is shown."""
    rng = np.random.default_rng(0)
    for kl_weight, noise in ((0.3, 0.3), (0.85, 0.3), (1.0, 0.3), (1.0, 1.0), (2.0, 1.0)):
        held, shown = [], 0
        for _ in range(60):
            effect = rng.normal(size=(NUM_PROMPTS, INITIAL, 1))
            found = theory.tilted(effect + noise * rng.normal(size=(NUM_PROMPTS, INITIAL, RESPONSES)), kl_weight)
            both = (found.reward, found.reward_correction), (found.tilting, found.tilting_correction)
            out = 0 if kl_weight == 0.3 else 1
            ends = [draws.interval("it", each, slack=out * abs(missing.mean())) for each, missing in both]
            truths = 1 / kl_weight, 1 / (2 * kl_weight)
            inside = [row["it_low"] <= truth <= row["it_high"] for row, truth in zip(ends, truths, strict=True)]
            known = not gap.doubt("ρ*", found, INITIAL)
            shown += known
            held += [inside] if known or kl_weight == 0.3 else []
        if kl_weight == 0.3:
            assert shown == 0 and not np.any(held)
        else:
            assert shown > 8 and (np.mean(held, axis=0) >= 0.9).all(), (kl_weight, noise, shown, np.mean(held, 0))

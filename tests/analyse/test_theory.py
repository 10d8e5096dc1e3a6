"""Align-Pro's theory against enumeration: the closed form is never beaten, the bound never violated."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from nbutils.analyse import theory


def policies(rng, *shape):
    """Random distributions along the last axis, some of them nearly deterministic, some with zeros."""
    p = rng.dirichlet(np.full(shape[-1], rng.choice([0.1, 1.0, 10.0])), size=shape[:-1])
    return p / p.sum(-1, keepdims=True)


def test_two_rewrites_by_hand():
    """Prior ½, ½; rewards 0 and λ ln 3: weights ¼, ¾; Z = 2; KL = ¼ ln ½ + ¾ ln 3/2."""
    best = theory.optimum([[0.0, 0.5 * math.log(3)]], 0.5)
    assert best.weights[0] == pytest.approx([0.25, 0.75])
    assert best.value[0] == pytest.approx(0.5 * math.log(2))
    assert best.kl[0] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert best.reward[0] == pytest.approx(0.75 * 0.5 * math.log(3))
    assert best.effective_samples[0] == pytest.approx(1 / (1 / 16 + 9 / 16))


def test_prior_weighs_as_repeated_samples_do():
    """A rewrite with prior ¾ is the same as that rewrite three times among four samples."""
    weighed = theory.optimum([1.0, 2.0], 0.7, [0.75, 0.25])
    repeated = theory.optimum([1.0, 1.0, 1.0, 2.0], 0.7)
    assert weighed.reward == pytest.approx(repeated.reward) and weighed.kl == pytest.approx(repeated.kl)
    assert weighed.value == pytest.approx(repeated.value)


def test_limits_of_the_weight():
    """λ → ∞ is the prior with no KL; λ → 0 the best rewrite, whose KL is −log of its prior; no overflow on the way."""
    rewards, prior = np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])
    assert theory.tilt(rewards, 1e9, prior) == pytest.approx(prior)
    best = theory.optimum(rewards, 1e-6, prior)
    assert best.weights == pytest.approx([0, 0, 1]) and best.kl == pytest.approx(-math.log(0.2))
    assert best.value == pytest.approx(3.0, abs=1e-5)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="wanted λ > 0"):
            theory.tilt(rewards, bad)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 5))
def test_no_random_prompter_beats_the_closed_form(seed, kl_weight):
    """1,000 random prompters per case; the closed form's own objective is λ log Z."""
    rng = np.random.default_rng(seed)
    rewards, prior = rng.normal(size=6) * 2, policies(rng, 6) + 1e-9
    prior /= prior.sum()
    best = theory.optimum(rewards, kl_weight, prior)
    others = theory.objective(policies(rng, 1000, 6), rewards, kl_weight, prior)
    assert others.max() <= best.value + 1e-9
    assert theory.objective(best.weights, rewards, kl_weight, prior) == pytest.approx(best.value, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.02, 5), st.floats(0.02, 5), st.floats(-50, 50))
def test_bound_of_theorem_6_1_is_never_violated(seed, kl_weight, beta, offset):
    rng = np.random.default_rng(seed)
    prompts, rewrites, responses = rng.integers(1, 4), rng.integers(1, 5), rng.integers(2, 6)
    rewards = rng.normal(size=(prompts, responses)) * rng.choice([0.1, 1, 10]) + offset
    frozen, prior = policies(rng, prompts, responses), policies(rng, prompts, rewrites)
    both = theory.bound(rewards, frozen, policies(rng, prompts, rewrites, responses), prior, kl_weight, beta)
    assert both.gap <= both.right_side + 1e-9
    assert both.shift == pytest.approx(rewards.min()) and both.finetuning >= 0 and both.rewriting >= 0


def test_bound_by_hand():
    """One prompt, rewards 0 and 1. π_F = (½, ½), β = 1/ln 3: π* = (¼, ¾), d_TV ¼. One rewrite, π_F(·|x') = (1, 0):
    d_TV ½, ρ* = ρ_sft, no KL. Gap ¾ − 0 against ¼ + ½: the bound is met with equality."""
    made = theory.bound([[5.0, 6.0]], [[0.5, 0.5]], [[[1.0, 0.0]]], [[1.0]], 0.3, 1 / math.log(3))
    assert (made.gap, made.finetuning, made.rewriting, made.tilting) == pytest.approx((0.75, 0.25, 0.5, 0.0))
    assert (made.shift, made.max_reward) == (5.0, 1.0)


def test_total_variation_estimate_agrees_with_enumeration():
    rng = np.random.default_rng(0)
    p, q = policies(rng, 50), policies(rng, 50)
    drawn = rng.choice(50, p=p, size=200_000)
    with np.errstate(divide="ignore"):
        estimate = theory.estimate_total_variation(np.log(p[drawn]), np.log(q[drawn]))
    assert estimate == pytest.approx(theory.total_variation(p, q), abs=0.005)
    assert theory.estimate_total_variation([-1.0, -2.0], [-1.0, -2.0]) == 0


def test_gap_adds_up_and_the_budget_is_where_the_bound_reaches_zero():
    parts = theory.gap(0.9, 0.2, 0.7)
    assert parts["delta"] == pytest.approx(parts["delta_1"] + parts["delta_2"]) == pytest.approx(0.2)
    kl = theory.budget(0.3, 0.1, 0.05, max_reward=2.0)
    assert 2.0 * 0.3 + 2.0 * 0.1 - 0.05 * kl == pytest.approx(0)


def test_kl_divergence_corners():
    assert theory.kl_divergence([1.0, 0.0], [0.5, 0.5]) == pytest.approx(math.log(2))
    assert theory.kl_divergence([0.5, 0.5], [1.0, 0.0]) == math.inf and theory.kl_divergence([1.0, 0], [1.0, 0]) == 0


def test_frontier_rises_and_lies_above_every_prompter_of_the_same_kl():
    rng = np.random.default_rng(3)
    rewards = rng.normal(size=(20, 8))
    curve = theory.frontier(rewards, np.geomspace(0.05, 20, 25)[::-1])
    kl, reward = np.array([p["kl"] for p in curve]), np.array([p["reward"] for p in curve])
    assert (np.diff(kl) > 0).all() and (np.diff(reward) > 0).all()
    for _ in range(200):
        other = policies(rng, 20, 8)
        at = theory.kl_divergence(other, np.full(8, 1 / 8)).mean()
        if kl[0] < at < kl[-1]:
            assert (other * rewards).sum(-1).mean() <= np.interp(at, kl, reward) + 0.02


def test_attainable_curve_of_two_rewrites_by_hand():
    """λ = 1/ln 3. Responses of the first rewrite 0 and 1, of the second 1 and 0: each half prefers the rewrite that the
    other half finds worse, so cross-fitting earns ¼ where the plug-in, whose means are equal, says ½."""
    (row,) = theory.attainable([[[0.0, 1.0], [1.0, 0.0]]], [1 / math.log(3)])
    assert row["reward"] == pytest.approx(0.25) and row["reward_plug_in"] == pytest.approx(0.5)
    assert row["kl"] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert math.isnan(row["reward_low"]) and math.isnan(row["kl_high"])  # one prompt: no interval


def test_attainable_curve_brackets_the_exact_one():
    """400 prompts alike, 5 rewrites with known means, noisy rewards: cross-fitted below, plug-in above, both close."""
    rng = np.random.default_rng(5)
    means, prior = np.array([0.0, 0.5, 1.0, 1.5, 2.0]), np.full(5, 0.2)
    drawn = rng.choice(5, p=prior, size=(400, 64))
    noisy = means[drawn][..., None] + rng.normal(size=(400, 64, 4))
    for row in theory.attainable(noisy, [0.3, 1.0, 4.0], num_resamples=200):
        exact = theory.optimum(means, row["kl_weight"], prior)
        assert row["reward"] - 0.02 < exact.reward < row["reward_plug_in"] + 0.02
        assert row["reward_low"] < row["reward"] < row["reward_high"] and row["kl_low"] < row["kl"] < row["kl_high"]
        assert row["reward_plug_in"] - row["reward"] < 1.3


def test_mixture_prior_by_hand_and_without_a_second_prompter():
    """N₀ = N₁ = 1, ratios 1 and 3: 1/(1 + 1) and 1/(1 + 3), normalised ⅔ and ⅓."""
    assert theory.mixture_prior([[0.0, math.log(3)]], 1)[0] == pytest.approx([2 / 3, 1 / 3])
    assert theory.mixture_prior([[0.5, -2.0, 0.1]], 3)[0] == pytest.approx([1 / 3] * 3)


def test_draws_of_a_trained_prompter_carry_the_curve_where_the_untrained_ones_end():
    """The best of three rewrites has ρ_sft = 0.004: 32 draws seldom hold it, 16 of a prompter that likes it do.

    With both the curve meets the exact one at a KL of log 250 = 5.5; the untrained draws alone end below."""
    rng = np.random.default_rng(2)
    means, prior, moved = np.array([0.0, 1.0, 5.0]), np.array([0.5, 0.496, 0.004]), np.array([0.05, 0.05, 0.9])
    first, second = rng.choice(3, p=prior, size=(200, 32)), rng.choice(3, p=moved, size=(200, 16))
    drawn = np.concatenate([first, second], axis=1)
    weights = theory.mixture_prior(np.log(moved / prior)[drawn], 32)
    (both,) = theory.attainable(means[drawn][..., None], [0.4], weights, num_resamples=50)
    (alone,) = theory.attainable(means[first][..., None], [0.4], num_resamples=50)
    exact = theory.optimum(means, 0.4, prior)
    assert exact.kl > 5 and both["kl"] == pytest.approx(exact.kl, abs=0.15)
    assert both["reward"] == pytest.approx(exact.reward, abs=0.05) and both["reward"] > alone["reward"] + 2
    (start,) = theory.attainable(means[drawn][..., None], [1e6], weights, num_resamples=50)
    assert start["reward"] == pytest.approx(means @ prior, abs=0.03) and start["kl"] < 1e-6


def test_one_response_has_nothing_to_cross():
    rewards = np.random.default_rng(1).normal(size=(4, 6, 1))
    for row, exact in zip(
        theory.attainable(rewards, [0.5, 2.0]), theory.frontier(rewards[..., 0], [0.5, 2.0]), strict=True
    ):
        assert {name: row[name] for name in exact} == pytest.approx(exact) and row["reward"] == row["reward_plug_in"]


def enumerable(rng, responses=5, rewrites=3):
    """(r, π_F(y|x), π_F(y|x'), ρ_sft) of one prompt."""
    rewards = rng.normal(size=(1, responses))
    return rewards, policies(rng, 1, responses), policies(rng, 1, rewrites, responses), policies(rng, 1, rewrites)


@pytest.mark.parametrize("seed", range(3))
def test_sampled_bound_agrees_with_the_enumerated_one(seed):
    """20,000 own responses, 300 rewrites × 600 responses of a policy that can be enumerated."""
    rng = np.random.default_rng(seed)
    rewards, frozen, rewritten, prior = enumerable(rng)
    exact = theory.bound(rewards, frozen, rewritten, prior, 0.4, 0.6)
    own = rng.choice(5, p=frozen[0], size=20_000)
    drawn = rng.choice(3, p=prior[0], size=300)
    told = np.stack([rng.choice(5, p=rewritten[0, each], size=600) for each in drawn])
    with np.errstate(divide="ignore"):
        log_ratios = np.log(rewritten[0, drawn][:, own]) - np.log(frozen[0, own])
    found = theory.bound_from_samples(rewards[:, own], rewards[0][told][None], log_ratios[None], 0.4, 0.6)
    for name in ("gap", "finetuning", "rewriting", "tilting", "right_side"):
        assert getattr(found, name)[0] == pytest.approx(getattr(exact, name), abs=0.12 * exact.max_reward), name
    assert found.max_reward <= exact.max_reward + 1e-12 and found.gap[0] <= found.right_side[0]


def test_bound_without_probabilities_keeps_what_is_known():
    found = theory.bound_from_samples([[0.0, 1.0]], [[[0.5], [1.5]]], [[[np.nan] * 2] * 2], 0.5, 0.5)
    assert np.isnan(found.rewriting).all() and np.isnan(found.right_side).all()
    assert np.isfinite([found.gap, found.finetuning, found.tilting]).all() and found.max_reward == 1.5


def test_self_normalised_estimate_approaches_the_truth():
    """2,000 samples of a prior over 5 rewrites against the exact optimum over the 5."""
    rng = np.random.default_rng(7)
    rewards, prior = rng.normal(size=5), policies(rng, 5)
    drawn = rng.choice(5, p=prior, size=(30, 2000))
    exact, sampled = theory.optimum(rewards, 0.8, prior), theory.optimum(rewards[drawn], 0.8)
    assert sampled.reward.mean() == pytest.approx(exact.reward, abs=0.02)
    assert sampled.kl.mean() == pytest.approx(exact.kl, abs=0.02) and sampled.value.mean() == pytest.approx(
        exact.value, abs=0.02
    )

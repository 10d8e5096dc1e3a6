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


def test_crossed_rewards_and_their_distance_of_two_rewrites_by_hand():
    """λ = 1/ln 3. Responses of the first rewrite 0 and 1, of the second 1 and 0: each response prefers the rewrite that
    the other finds worse, so crossing earns ¼ where the start earns ½. One trapezoid: (0 + ln 3)/2 · (¼ − ½)."""
    weights = [1 / math.log(3)]
    earned = theory.crossed([[[0.0, 1.0], [1.0, 0.0]]], weights)
    assert earned.tolist() == [[0.5], [pytest.approx(0.25)]]
    assert theory.distance(earned, weights).tolist() == [[0.0], [pytest.approx(-math.log(3) / 8)]]


def test_without_noise_the_distance_along_the_curve_is_the_kl_of_its_weights():
    rewards = np.random.default_rng(1).normal(size=(4, 6, 1))
    weights = np.geomspace(100, 0.05, 80)
    earned = theory.crossed(rewards, weights)
    exact = theory.frontier(rewards[..., 0], weights)
    assert earned[1:].mean(-1) == pytest.approx(np.array([row["reward"] for row in exact]))
    assert theory.distance(earned, weights)[1:].mean(-1) == pytest.approx(
        np.array([row["kl"] for row in exact]), abs=0.01
    )


def test_with_noise_both_meet_the_exact_curve_where_the_weights_own_kl_does_not():
    """400 prompts alike, 5 rewrites of known means, responses with as much noise as the rewrites differ."""
    rng = np.random.default_rng(5)
    means, prior = np.array([0.0, 0.5, 1.0, 1.5, 2.0]), np.full(5, 0.2)
    noisy = means[rng.choice(5, p=prior, size=(400, 64))][..., None] + 0.7 * rng.normal(size=(400, 64, 2))
    weights = np.geomspace(40, 0.5, 30)
    earned = theory.crossed(noisy, weights)
    exact, plug_in = theory.optimum(means, 0.5, prior), theory.optimum(noisy.mean(-1), 0.5)
    assert earned[-1].mean() == pytest.approx(exact.reward, abs=0.05)
    assert theory.distance(earned, weights)[-1].mean() == pytest.approx(exact.kl, abs=0.08)
    assert plug_in.reward.mean() > exact.reward + 0.2 and plug_in.kl.mean() > exact.kl + 0.2


def test_tilting_noise_alone_earns_nothing_and_goes_nowhere():
    """Rewriting changes nothing, λ a fifth of the noise: J of the start, KL 0, where the plug-in praises luck."""
    noise = np.random.default_rng(2).normal(size=(400, 32, 2))
    found = theory.tilted(noise, 0.2)
    assert found.reward.mean() == pytest.approx(0, abs=0.1) and found.tilting.mean() == pytest.approx(0, abs=0.06)
    assert theory.optimum(noise.mean(-1), 0.2).reward.mean() > 1.2 and found.effective_samples.mean() < 4


def test_the_jackknife_moves_a_tilt_of_few_samples_towards_the_truth():
    """Normal R of SD 1 at λ = 1: J = 1 and KL = ½ exactly; 32 samples alone fall short of both."""
    rewards = np.random.default_rng(3).normal(size=(1000, 32, 1))
    found = theory.tilted(rewards, 1.0)
    plain = found.reward - found.reward_correction, found.tilting - found.tilting_correction
    assert abs(found.reward.mean() - 1.0) < 0.5 * abs(plain[0].mean() - 1.0) < 0.1
    assert abs(found.tilting.mean() - 0.5) < 0.5 * abs(plain[1].mean() - 0.5) < 0.05


def test_density_ratio_by_hand():
    """exp(R/λ) is 1, 2 and 4; Z of each is the mean of the others'; under a prior of ½, ¼, ¼ their weighted mean."""
    rewards = np.log([[1.0, 2.0, 4.0]])
    assert theory.density_ratio(rewards, 1.0, 3)[0] == pytest.approx([1 / 3, 2 / 2.5, 4 / 1.5])
    weighed = theory.density_ratio(rewards, 1.0, 2, np.array([[0.5, 0.25, 0.25]]))
    assert weighed[0] == pytest.approx([1 / 3, 2 / ((0.5 + 1) / 0.75)])


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
    path = np.geomspace(100, 0.4, 60)
    both, alone = theory.crossed(means[drawn][..., None], path, weights), theory.crossed(means[first][..., None], path)
    exact = theory.optimum(means, 0.4, prior)
    assert exact.kl > 5 and theory.distance(both, path)[-1].mean() == pytest.approx(exact.kl, abs=0.15)
    assert both[-1].mean() == pytest.approx(exact.reward, abs=0.05) and both[-1].mean() > alone[-1].mean() + 2
    assert both[0].mean() == pytest.approx(means @ prior, abs=0.03)


def enumerable(rng, responses=5, rewrites=3):
    """(r, π_F(y|x), π_F(y|x'), ρ_sft) of one prompt."""
    rewards = rng.normal(size=(1, responses))
    return rewards, policies(rng, 1, responses), policies(rng, 1, rewrites, responses), policies(rng, 1, rewrites)


@pytest.mark.parametrize("seed", range(3))
def test_sampled_bound_agrees_with_the_enumerated_one(seed):
    """2,000 own responses, 300 rewrites × 600 responses of a policy that can be enumerated."""
    rng = np.random.default_rng(seed)
    rewards, frozen, rewritten, prior = enumerable(rng)
    exact = theory.bound(rewards, frozen, rewritten, prior, 0.4, 0.6)
    own = rng.choice(5, p=frozen[0], size=2000)
    drawn = rng.choice(3, p=prior[0], size=300)
    told = np.stack([rng.choice(5, p=rewritten[0, each], size=600) for each in drawn])
    with np.errstate(divide="ignore"):
        log_ratios = np.log(rewritten[0, drawn][:, own]) - np.log(frozen[0, own])
    heard = rewards[0][told][None]  # (1, rewrites, responses)
    best, rewrite = theory.tilted(rewards[:, own[:300]][..., None], 0.6), theory.tilted(heard[..., ::100], 0.4)
    ratio, seen = theory.density_ratio(rewards[:, own], 0.6, len(own)), np.append(heard.ravel(), rewards[0, own])
    found = theory.bound_from_samples(best, rewrite, ratio, log_ratios[None], seen.min(), np.ptp(seen))
    for name in ("gap", "finetuning", "rewriting", "tilting", "right_side"):
        assert getattr(found, name)[0] == pytest.approx(getattr(exact, name), abs=0.12 * exact.max_reward), name
    assert found.max_reward <= exact.max_reward + 1e-12 and found.gap[0] <= found.right_side[0]


def test_bound_without_probabilities_keeps_what_is_known():
    best, rewrite = theory.tilted([[[0.0], [1.0]]], 0.5), theory.tilted([[[0.5], [1.5]]], 0.5)
    ratio = theory.density_ratio([[0.0, 1.0]], 0.5, 2)
    found = theory.bound_from_samples(best, rewrite, ratio, [[[np.nan] * 2] * 2], 0.0, 1.5)
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

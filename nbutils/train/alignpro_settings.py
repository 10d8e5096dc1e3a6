"""What Align-Pro's training is asked for: whose models, which settings, and what cannot work."""

from dataclasses import dataclass

from nbutils.experiment.records import Prompt

ALGORITHMS = ("ppo", "rloo", "grpo")


@dataclass(frozen=True)
class Models:
    """The three models of Eq. 9, as references: the prompter ρ, the responder π_F, the reward model r."""

    prompter: str
    responder: str
    reward_model: str

    def trained(self, policy: str) -> str:
        """The one that learns: the prompter, or for policy responder (Eq. 2) the responder."""
        return self.prompter if policy == "prompter" else self.responder


@dataclass(frozen=True)
class Settings:
    """policy: prompter (Eq. 9) | responder (Eq. 2, the RLHF oracle). kl_weight: λ or β, reward units per nat.

    num_responses: to each rewrite, their rewards averaged. reference_responses: r(x, y) less the mean reward of so many
    responses to x itself; 0: off. length_penalty: reward units per token of the rewrite (of the response, for policy
    responder).
    For ppo alone: ppo_epochs over each rollout in ppo_minibatches each; critic: shared (a head on the policy's trunk) |
    separate (a network of its own), with critic_learning_rate (0: the trainer's choice); target_kl: nats per sequence
    that λ is adapted to hold (0: λ stays), by a fifth at most in kl_horizon sequences; max_update_kl: nats from the
    rollout's policy that end its updates (0: off).
    """

    policy: str
    algorithm: str
    kl_weight: float
    learning_rate: float
    num_steps: int
    prompts_per_step: int
    rewrites_per_prompt: int
    lora_rank: int
    temperature: float
    max_rewrite_tokens: int
    max_response_tokens: int
    save_steps: int
    seed: int
    num_responses: int = 1
    reference_responses: int = 0
    length_penalty: float = 0.0
    ppo_epochs: int = 2
    ppo_minibatches: int = 1
    critic: str = "shared"
    critic_learning_rate: float = 0.0
    target_kl: float = 0.0
    kl_horizon: int = 10_000
    max_update_kl: float = 0.0

    @property
    def rewrites_per_step(self) -> int:
        """What one rollout draws."""
        return self.prompts_per_step * self.rewrites_per_prompt

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps made of one rollout: PPO goes over it ppo_epochs times, in minibatches."""
        return self.ppo_epochs * self.ppo_minibatches if self.algorithm == "ppo" else 1


def check(settings: Settings, prompts: list[Prompt]) -> None:
    """ValueError, in one line, for settings that cannot train."""
    if settings.algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {settings.algorithm!r}: wanted one of {', '.join(ALGORITHMS)}")
    if settings.policy not in ("prompter", "responder"):
        raise ValueError(f"policy {settings.policy!r}: wanted prompter or responder")
    if settings.kl_weight <= 0:
        raise ValueError(
            f"kl_weight {settings.kl_weight}: wanted λ > 0; Eq. 9 has no optimum in closed form without it"
        )
    if settings.rewrites_per_prompt < 2 and settings.algorithm != "ppo":
        raise ValueError(f"rewrites_per_prompt {settings.rewrites_per_prompt}: the baseline needs at least 2")
    if settings.algorithm != "ppo" and (settings.target_kl or settings.max_update_kl):
        raise ValueError(f"target_kl and max_update_kl are ppo's: set them to 0 for {settings.algorithm}")
    total = settings.rewrites_per_step
    if settings.algorithm == "ppo" and total % settings.ppo_minibatches:
        raise ValueError(f"ppo_minibatches {settings.ppo_minibatches}: {total} rewrites a step do not divide into them")
    if not prompts:
        raise ValueError("no training prompt is left: every one is also a test prompt, or the set is empty")

"""Align-Pro's reward as TRL asks for it: the completions of a rollout → rewards r(x, y) against the original prompt.

policy prompter:   x' is the completion, y ~ π_F(·|x') by the same generate() as in evaluation      (Eq. 9)
policy responder:  y is the completion itself                                                      (Eq. 2)
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

from nbutils.analyse import changes
from nbutils.evaluate import arms
from nbutils.models import scoring
from nbutils.models.generate import Conditions
from nbutils.models.texts import Sampling, spoken
from nbutils.train import training
from nbutils.train.alignpro_settings import Models, Settings


def make_reward(models: Models, settings: Settings, given: Conditions, work: Path | None = None, begun: str = ""):
    """TRL's reward function: completions → rewards, None where the response or its score is missing.

    Responses are seeded per step, so that a resumed run draws the same ones; they and their scores are kept in given's
    journal by (x, x', responder, sampling, sample). FloatingPointError for a score that is NaN or infinite, naming
    the last good checkpoint in work. begun: what the policy's chat template has written of each completion, the opening
    tag of a thought.
    """
    asking = _Asking(models, settings, given, work)

    def reward(completions, completion_ids, x, trainer_state, log_metric, **_):
        texts = [spoken(begun + turns[0]["content"]) for turns in completions]
        if settings.policy == "responder":
            scores = asking.scores(x, texts)
        else:
            scores = asking.scores_of_rewrites(x, texts, trainer_state.global_step, log_metric)
        log_metric("unscored", sum(score is None for score in scores) / len(scores))
        return asking.adjusted(scores, x, [len(ids) for ids in completion_ids], log_metric)

    return reward


@dataclass(frozen=True)
class _Asking:
    """Who answers and scores in a rollout, and under which conditions."""

    models: Models
    settings: Settings
    given: Conditions
    work: Path | None

    def responses(self, prompts: list[str], samples: list[int]) -> list[str | None]:
        """The frozen responder's answer to each prompt, None where it has none."""
        drawn = self.settings
        sampling = Sampling(drawn.temperature, max_new_tokens=drawn.max_response_tokens, seed=drawn.seed)
        made = self.given.ask(self.models.responder, prompts, sampling, samples)
        return [None if each.reason else each.text for each in made]

    def scores(self, prompts: list[str], responses: list[str | None]) -> list[float | None]:
        model, given = self.models.reward_model, self.given
        try:
            return scoring.score(model, prompts, responses, given.runtime, given.journal, only_finite=True)
        except FloatingPointError as error:
            raise FloatingPointError(training.stopped(str(error), self.work)) from None

    def scores_of_rewrites(self, x: list[str], texts: list[str | None], step: int, log_metric) -> list[float | None]:
        """The mean score of num_responses responses to each rewrite; logs how many rewrites are odd.

        A text of None, a thought that did not end, is no rewrite: nobody answers it and it has no score.
        """
        number = self.settings.num_responses
        rewrites = [arms.clean_rewrite(text or "") for text in texts]
        asked = [prompt for prompt in x for _ in range(number)]
        sent = [arms.sent(*pair) for pair in zip(rewrites, x, strict=True) for _ in range(number)]
        known = [place for place in range(len(sent)) if texts[place // number] is not None]
        made = self.responses([sent[place] for place in known], [step * len(sent) + place for place in known])
        found = dict(zip(known, made, strict=True))
        responses = [found.get(place) for place in range(len(sent))]
        _log_odd(log_metric, x, rewrites, responses[::number])
        return scoring.means(self.scores(asked, responses), number)

    def adjusted(self, scores: list[float | None], x: list[str], tokens: list[int], log_metric) -> list[float | None]:
        """Scores less the reference and the length penalty, where these are on; raw_reward is logged then.

        tokens: how many the policy wrote. A missing score or reference stays missing.
        """
        if not self.settings.reference_responses and not self.settings.length_penalty:
            return scores
        known = [score for score in scores if score is not None]
        log_metric("raw_reward", statistics.fmean(known) if known else float("nan"))
        penalty = self.settings.length_penalty
        rows = zip(scores, self.references(x), tokens, strict=True)
        return [None if r is None or own is None else r - own - penalty * length for r, own, length in rows]

    def references(self, x: list[str]) -> list[float | None]:
        """The mean reward of reference_responses responses to each prompt itself; zeros where that is off."""
        number, unique = self.settings.reference_responses, list(dict.fromkeys(x))
        if not number:
            return [0.0] * len(x)
        asked = [prompt for prompt in unique for _ in range(number)]
        responses = self.responses(asked, list(range(number)) * len(unique))
        own = dict(zip(unique, scoring.means(self.scores(asked, responses), number), strict=True))
        return [own[prompt] for prompt in x]


def _log_odd(log_metric, prompts: list[str], rewrites: list[str], responses: list[str | None]) -> None:
    """Shares of rewrites that are empty, that are the prompt, and that answer it (changes.is_answered)."""
    log_metric("empty", sum(not text for text in rewrites) / len(rewrites))
    log_metric("unchanged", sum(a == b for a, b in zip(rewrites, prompts, strict=True)) / len(rewrites))
    rows = zip(prompts, rewrites, responses, strict=True)
    log_metric("answered", sum(changes.is_answered(*row) for row in rows) / len(rewrites))

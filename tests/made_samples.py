"""Samples behind the frontier by hand: two prompts, two rewrites, known rewards and log-ratios."""

import pandas as pd

from nbutils.experiment.records import Sample


def rows(source, rewards, ratios=None):
    """Samples of one source: rewards[prompt][draw] a list of rewards; ratios[prompt][draw] log-ratios."""
    return [
        Sample(f"p{p}", f"prompt {p}", source, d, f"rewrite {d}", r, "text", reward, ratios and ratios[p][d])
        for p, draws in enumerate(rewards)
        for d, each in enumerate(draws)
        for r, reward in enumerate(each)
    ]


def table(*parts):
    return pd.DataFrame([row for part in parts for row in part], columns=list(Sample.__dataclass_fields__))


OWN = rows("own", [[[0.0], [1.0]], [[0.0], [0.0]]])
UNTRAINED = [[[0.0, 0.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]
INITIAL = rows("initial", UNTRAINED, [[-0.5, 0.5], [0.1, 0.1]])
TRAINED = rows("trained", [[[2.0, 2.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]], [[0.4, 0.6], [0.1, 0.1]])
SAMPLES = table(OWN, INITIAL, TRAINED)
OWN_AND_TRAINED = table(
    rows("own", [[[0.0], [1.0]], [[0.0], [0.0]]], [[0.0, 0.7]] * 2), rows("trained", [[[1.0]], [[0.0]]], [[0.7], [0.0]])
)

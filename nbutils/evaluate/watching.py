"""A second referee watches a training: the judge on each snapshot's responses, against the untrained policy's.

The responses are those of probe.py. Of a held-out prompt the first num_responses draws of each snapshot are set against
the untrained policy's draws of the same numbers, which were sampled with the same noise, in both orders. Of several
responses to a rewrite the first is shown. analyse.watch makes numbers and words of the verdicts.
"""

from nbutils.evaluate import judging
from nbutils.evaluate.judging import Panel
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Answer, Prompt, Sample, Verdict


def is_on(parameters: dict) -> bool:
    """Whether a training step asks the judge: it needs held-out prompts too."""
    return bool(parameters.get("watch_responses") and parameters.get("frontier_prompts"))


def compare(
    samples: list[Sample],
    prompts: list[Prompt],
    panel: Panel,
    num_responses: int,
    journal: Journal | None = None,
    label: str | None = None,
) -> list[Verdict]:
    """Two verdicts, one for each order, per prompt, snapshot and draw; what the journal holds is not asked again.

    samples, prompts: what probe.draw gave and got. arm_a is the snapshot (its source), arm_b the untrained policy:
    initial, or own where the responder is trained; sample: the draw. A pair without one of its responses is unscored.
    """
    sets = {row.prompt_id: row.prompt_set for row in prompts}
    untrained = "initial" if any(row.source == "initial" for row in samples) else "own"
    shown = {
        (row.source, row.prompt_id, row.draw): _answer(row, sets[row.prompt_id])
        for row in samples
        if row.response_draw == 0 and row.draw < num_responses
    }
    pairs = [
        (answer, shown[untrained, prompt_id, draw])
        for (source, prompt_id, draw), answer in shown.items()
        if source not in ("own", untrained)
    ]
    return judging.verdicts_of(judging.judge_pairs(pairs, panel, journal, label))


def _answer(row: Sample, prompt_set: str) -> Answer:
    texts = (row.rewrite, [row.rewrite], row.response)
    return Answer(
        row.prompt_id, prompt_set, row.prompt, row.source, row.draw, *texts, row.reward, None, 0, reason=row.reason
    )

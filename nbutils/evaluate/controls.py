"""A judge on trial: comparisons whose right verdict is known beforehand, judged by the same template and settings.

| control  | shown against the baseline's answer      | a sound judge                                              |
|----------|------------------------------------------|------------------------------------------------------------|
| same     | that very answer                         | calls a tie, in both orders                                |
| constant | one sentence that answers no question    | hardly ever prefers it                                     |
| padded   | that answer with an empty courtesy added | hardly ever prefers it: length alone is no merit           |
| again    | (any pair of the evaluation, once more)  | says the same                                              |
"""

from dataclasses import asdict, dataclass, replace

from nbutils.evaluate.judging import Panel, judge_pairs, verdicts_of
from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Answer, Control

CONSTANT = "That is a good question. There is a lot to say about it, and much depends on what matters most to you."
PADDING = " I hope that this helps. Please let me know if there is anything else that you would like to hear about."


@dataclass(frozen=True)
class Trial:
    """How much of a judge is tried. num_controls: prompts of the baseline for each of the first three controls;
    num_again: pairs against the baseline that are judged once more. Both are drawn by seed."""

    num_controls: int
    num_again: int
    seed: int = 0


def judge_controls(
    answers: list[Answer],
    baseline: str,
    panel: Panel,
    trial: Trial,
    journal: Journal | None = None,
    label: str | None = None,
) -> list[Control]:
    """Verdicts of the controls, two rows per comparison; `again` rows are the second judgement of a pair.

    The same ones are drawn whatever the order of the rows. A greedy judge on this machine is asked the same thing and
    says the same; behind an API the second judgement is a new one.
    """
    based = [row for row in answers if row.arm == baseline and row.reason is None]
    chosen = _drawn(based, trial.num_controls, trial.seed)
    pairs = {
        "same": [(replace(row, arm="same"), row) for row in chosen],
        "constant": [(replace(row, arm="constant", response=CONSTANT), row) for row in chosen],
        "padded": [(replace(row, arm="padded", response=row.response + PADDING), row) for row in chosen],
        "again": _again(answers, based, baseline, trial),
    }
    found = []
    for name, each in pairs.items():
        votes = judge_pairs(each, panel, journal, label and f"{label}: {name}", sample=int(name == "again"))
        found += [Control(**asdict(verdict), control=name) for verdict in verdicts_of(votes)]
    return found


def _again(answers: list[Answer], based: list[Answer], baseline: str, trial: Trial) -> list[tuple]:
    known = {(row.prompt_set, row.prompt_id, row.sample): row for row in based}
    others = [row for row in answers if row.arm != baseline and row.reason is None]
    others = [row for row in others if (row.prompt_set, row.prompt_id, row.sample) in known]
    drawn = _drawn(others, trial.num_again, trial.seed)
    return [(row, known[row.prompt_set, row.prompt_id, row.sample]) for row in drawn]


def _drawn(rows: list[Answer], number: int, seed: int) -> list[Answer]:
    def rank(row):
        return paths.sha256_json([seed, row.prompt_set, row.prompt_id, row.arm, row.sample])

    return sorted(rows, key=rank)[:number]

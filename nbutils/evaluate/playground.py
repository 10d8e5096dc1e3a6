"""One prompt through every arm of a finished evaluation, and its stored cases, to look at side by side.

Models, sampling and judge are those that 04_evaluate ran with: a prompt of its own gives its own rewrites, responses
and verdicts again. What is tried is not stored, and a try of a paid model is paid for.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from nbutils.analyse import choosing, gather
from nbutils.evaluate import answering, arms, judging
from nbutils.evaluate.arms import Arm
from nbutils.experiment import days, paths, records
from nbutils.experiment.records import Answer, Prompt, Verdict
from nbutils.experiment.steps import Step, read_manifest
from nbutils.models import scoring, spending, templates
from nbutils.models.devices import Runtime
from nbutils.models.texts import Sampling
from nbutils.report.sides import Cases

_NEEDED = (
    *("arms", "baseline", "seed", "templates", "prompter", "responder", "reward_model"),
    *("judge", "jury", "judge_template", "max_judge_tokens", "tie_margin"),
    *("batch_size", "device", "dtype", "trust_remote_code", "max_calls", "max_usd", "prices"),
)
T = TypeVar("T")
TROUBLE = (OSError, RuntimeError, ValueError)  # what a model, a server or a file that is gone raises


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: its folder, and the parameters that it ran with."""

    folder: Path
    settings: dict

    @property
    def names(self) -> list[str]:
        """Its arms, the baseline first."""
        return list(dict.fromkeys([self.settings["baseline"], *self.settings["arms"]]))

    @property
    def runtime(self) -> Runtime:
        named = {name: self.settings[name] for name in ("batch_size", "device", "dtype", "trust_remote_code")}
        limits = spending.read_limits(*(self.settings[name] for name in ("max_calls", "max_usd", "prices")))
        return Runtime(**named, limits=limits)

    def build(self, name: str) -> Arm:
        """The arm called name. FileNotFoundError where a model that was trained for it is gone."""
        settings, options = self.settings, arms.options_of(self.settings)
        built = arms.build(name, self.folder.parent, settings["prompter"], settings["responder"], options)
        for model in (*(prompter.model for prompter in built.prompters), built.responder):
            if Path(model).is_absolute() and not Path(model).is_dir():
                raise FileNotFoundError(f"{paths.relative(Path(model))} is gone: train {name} again")
        return built


def find(where: str | Step) -> Evaluation:
    """The evaluation meant by "experiment", "experiment/cell", "experiment/cell/step", or by a step beside it; where
    several are meant, the first. FileNotFoundError, in one line, if there is none that is finished."""
    if isinstance(where, Step):
        names = [where.parameters["experiment"], *([where.folder.parent.name] * (where.folder.parent.name != "all"))]
    else:
        names = [paths.check_name(part, "evaluation") for part in where.strip("/").split("/")]
    pattern = "/".join([*names[:3], *["*"] * (3 - len(names)), "manifest.json"])
    for path in sorted(paths.outputs_root().glob(pattern)):
        manifest = read_manifest(path.parent)
        if manifest is not None and manifest.get("notebook") == "04_evaluate":
            return _complete(Evaluation(path.parent, manifest["parameters"]))
    raise FileNotFoundError(f"{'/'.join(names)} has no finished evaluation: run 04_evaluate first")


def _complete(found: Evaluation) -> Evaluation:
    lacking = [name for name in _NEEDED if name not in found.settings]
    if lacking:
        raise ValueError(f"{paths.relative(found.folder)} was made without {', '.join(lacking)}: run 04_evaluate again")
    return found


def try_prompt(prompt: str, where: str | Step, arms: list[str] | None = None, sample: int = 0) -> Cases:
    """One prompt through every arm of an evaluation (see find), or through some of them and the baseline.

    Returns rows as those of gather.cases, one per arm, that show themselves side by side; what is missing has its
    reason. sample: the same number draws the same texts again, 0 those of 04_evaluate. Models stay loaded from one try
    to the next. ValueError, in one line, for an empty prompt or an arm that there is not.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty: wanted what a user would write")
    started, found = time.perf_counter(), find(where)
    wanted = [arms] if isinstance(arms, str) else arms or found.names
    for name in set(wanted) - set(found.names):
        found.build(name)
    base = found.settings["baseline"]
    with days.of(found.folder):
        answers = [_answered(name, prompt, sample, found) for name in dict.fromkeys([base, *wanted])]
        answers, trouble = _rewarded(answers, found)
        verdicts, more = _judged(answers, found)
    rows = _side_by_side(answers, verdicts, found, sample)
    about = f"{'/'.join(found.folder.parts[-3:])} · sample {sample} · {time.perf_counter() - started:.1f} s"
    return Cases(rows, base, tuple(filter(None, [about, trouble, more])))


def _answered(name: str, prompt: str, sample: int, found: Evaluation) -> Answer:
    """The arm's answer, or one without a response that says why."""
    row = Prompt(records.prompt_id(prompt), prompt, "tried")

    def ask() -> Answer:
        arm = found.build(name)
        beside = [Prompt("", text, "tried") for text in _others(arm, prompt, found)]
        given = answering.conditions(found.settings, found.runtime)
        return answering.answer(arm, [row, *beside], 1, given, first=sample)[0]

    made, trouble = _attempt(ask)
    missing = Answer(row.prompt_id, row.prompt_set, prompt, name, sample, prompt, [], "", None, None, 0, trouble)
    return missing if made is None else made


def _others(arm: Arm, prompt: str, found: Evaluation) -> list[str]:
    """The prompt of the evaluation whose rewrite a shuffled arm sends instead; none for other arms."""
    file = found.folder / "answers.jsonl"
    if not arm.shuffled or not file.exists():
        return []
    asked = [row["prompt"] for row in records.read_rows(file)]
    other = answering.following([prompt, *asked], found.settings["seed"])[prompt]
    return [other] * (other != prompt)


def _rewarded(answers: list[Answer], found: Evaluation) -> tuple[list[Answer], str]:
    """The answers with r(x, y), and a line about why there is none."""
    said = [None if row.reason else row.response for row in answers]
    prompts = [row.prompt for row in answers]
    rewards, trouble = _attempt(lambda: scoring.score(found.settings["reward_model"], prompts, said, found.runtime))
    if rewards is None:
        return answers, f"no rewards: {trouble}"
    return [replace(row, reward=reward) for row, reward in zip(answers, rewards, strict=True)], ""


def _judged(answers: list[Answer], found: Evaluation) -> tuple[list[Verdict], str]:
    """Verdicts of the evaluation's judge, or jury, in both orders, and a line about why there are none."""
    settings = found.settings

    def judge() -> list[Verdict]:
        sampling = Sampling(0.0, max_new_tokens=settings["max_judge_tokens"], seed=settings["seed"])
        template = templates.load(settings["judge_template"], settings["templates"])
        judges = (settings["judge"], *settings["jury"])
        panel = judging.Panel(judges, template, sampling, settings["tie_margin"], found.runtime)
        return judging.verdicts_of(judging.judge_arms(answers, settings["baseline"], panel))

    verdicts, trouble = _attempt(judge)
    return ([], f"no verdicts: {trouble}") if verdicts is None else (verdicts, "")


def _attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What work returns, or None and one line about what was in its way: the other arms are still shown."""
    try:
        return work(), ""
    except TROUBLE as error:
        return None, " ".join(str(error).split()) or type(error).__name__


def _side_by_side(answers: list[Answer], verdicts: list[Verdict], found: Evaluation, sample: int) -> pd.DataFrame:
    cell, columns = found.folder.parent.name, [field.name for field in fields(Verdict)]
    answered = pd.DataFrame([asdict(row) for row in answers]).assign(cell=cell)
    heard = pd.DataFrame([asdict(row) for row in verdicts], columns=columns).assign(cell=cell)
    base, seed = found.settings["baseline"], found.settings["seed"]
    return gather.cases(answered, heard, 1, seed, base, choosing.Choice(sample=sample))


def cases(
    answers: pd.DataFrame,
    verdicts: pd.DataFrame,
    *,
    arm: str | None = None,
    outcome: str | None = None,
    sort: str | None = None,
    num: int = 2,
    prompt_set: str | None = None,
    sample: int = 0,
    baseline: str = "nan",
    seed: int = 0,
) -> Cases:
    """Stored cases of 04_evaluate side by side, without any model: `num` prompts, chosen as choosing.Choice says.

    answers, verdicts: with a column cell, as gather.evaluations reads them. ValueError, in one line with the closest,
    for an arm, outcome, sort or prompt set that there is not.
    """
    choice = choosing.Choice(arm, outcome, sort, prompt_set, sample)
    found = Cases(gather.cases(answers, verdicts, num, seed, baseline, choice), baseline)
    return found if len(found) else replace(found, notes=("there is no such case",))

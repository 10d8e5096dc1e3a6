"""What of an experiment does not go together: arms that nobody trains, data that no step makes, and the sandbox's own
referees, prompts and thresholds left in place where other models are named."""

from pathlib import Path

from nbutils.data import pairs, readers, sets
from nbutils.evaluate.arms import BUILT_IN, links
from nbutils.experiment import paths
from nbutils.experiment.file import Experiment
from nbutils.experiment.grid import PlannedStep, collected_with
from nbutils.experiment.params import closest
from nbutils.models import references
from nbutils.run.uses import is_made_before, used_models

_SANDBOX_USED = {  # parameters that may hold what is made for the sandbox alone, by the notebook that reads them
    "01": ("seeds", "prompt_sets", "overlap_threshold", "novelty_threshold", "templates"),
    "02": ("reward_model", "judge", "prompt_sets", "overlap_threshold", "templates"),
    "03": ("prompt_sets", "overlap_threshold", "templates"),
    "04": ("reward_model", "judge", "gold_reward", "prompt_sets", "templates"),
}
_INSTEAD = {  # what to set, by parameter
    "prompter": "<a hub id or folder>",
    "responder": "<a hub id, folder or api:model>",
    "seeds": "HuggingFaceH4/self-instruct-seed",
    "dataset": "ultrafeedback",
    "prompt_sets": "[vicuna]",
    "overlap_threshold": "0.7",
    "novelty_threshold": "0.7",
    "templates": "paper",
    "reward_model": "<a hub id>",
    "reward_base": "<a hub id>",
    "judge": "<api:model or a hub id>",
    "gold_reward": '""',
}


def check_arms(step: PlannedStep, pending: list[PlannedStep], planned: list[PlannedStep]) -> None:
    """Every arm is built in, trained already, or trained by a step that comes before; chains are read link by link."""
    before = _before(step, pending)
    trains = [other.id for other in planned if other.cell == step.cell and other.notebook[:2] in ("02", "03")]
    known = list(dict.fromkeys([*BUILT_IN, *trains]))
    arms = step.parameters.get("arms") or []
    scored = set(step.parameters.get("benchmark_arms") or []) - {*arms, step.parameters.get("baseline")}
    if scored:
        raise ValueError(f"benchmark_arms: {', '.join(sorted(scored))} not among the arms of this step")
    for arm in dict.fromkeys([*arms, *filter(None, [step.parameters.get("baseline")] if arms else [])]):
        for link in links(arm):
            if link in BUILT_IN or (step.folder.parent / link / "arm.json").is_file():
                continue
            if link not in known:
                raise ValueError(f"unknown arm {link!r}: {closest(link, known)}, or add the step that trains it")
            if not any(other.cell == step.cell and other.id == link for other in before):
                raise ValueError(f"arm {link!r} is not trained yet, and no step before this one does it: move it up")


def check_collected(step: PlannedStep, pending: list[PlannedStep], planned: list[PlannedStep]) -> None:
    """What a training step wants of 01 is there, or made by a step that runs before it."""
    number, get = step.notebook[:2], step.parameters.get
    if number == "02" and get("train_on") == "collect":
        _check_made(step, "prompts.jsonl", "or set train_on: dataset", pending)
    if number == "02" and get("reward_pairs") == "collect":
        _check_made(step, "pairs.jsonl", "or name a pair set in reward_pairs", pending)
    if number == "03" and "target" in step.parameters and not get("preference_pairs") and not get("pairs_of"):
        _check_made(step, "pairs.jsonl", "or name a pairs file in pairs_of", pending)


def _check_made(step: PlannedStep, name: str, instead: str, pending: list[PlannedStep]) -> None:
    file = step.folder.parent / "collect" / name
    here = [other for other in _before(step, pending) if other.cell == step.cell and other.notebook.startswith("01")]
    if file.is_file() or any(other.id == "collect" for other in here):
        return
    called = f"01_collect is called {here[0].id!r} here: leave its id out" if here else "run 01_collect before it"
    raise FileNotFoundError(f"{paths.relative(file)} is not there, and no step makes it first: {called}, {instead}")


def _before(step: PlannedStep, pending: list[PlannedStep]) -> list[PlannedStep]:
    return pending[: pending.index(step)] if step in pending else []


def check_pairs(step: PlannedStep, pending: list[PlannedStep], planned: list[PlannedStep]) -> None:
    """pairs_of, preference_pairs and reward_pairs name a file that is there, pair sets, or what a step collects, of
    which there are as many as a training wants."""
    for name in ("preference_pairs", "reward_pairs"):
        ref = step.parameters.get(name) or ""
        for part in sets.parts(ref) if ref not in ("", "collect") else ():
            if not is_made_before(part, step, planned):
                pairs.check(part)
    _check_enough(step, planned)
    wanted, collecting = step.parameters.get("pairs_of"), [one for one in planned if one.notebook.startswith("01")]
    if not wanted:
        return
    if Path(wanted).suffix.lower() in readers.EXTENSIONS:
        if not is_made_before(wanted, step, planned):
            sets.check(wanted)
        return
    if wanted not in {one.parameters.get("responder") for one in collecting}:
        known = sorted({one.parameters.get("responder", "") for one in collecting})
        raise ValueError(f"pairs_of {wanted!r}: no 01_collect with that responder: {closest(wanted, known)}")
    made = [(one.cell, one.parameters, one) for one in collecting]
    for _, _, other in collected_with(wanted, step.cell, step.parameters.get("seed"), made):
        file = other.folder / "pairs.jsonl"
        if not file.is_file() and other not in _before(step, pending):
            raise FileNotFoundError(f"pairs_of {wanted!r}: {paths.relative(file)} is not there: run that step first")


def _check_enough(step: PlannedStep, planned: list[PlannedStep]) -> None:
    """03 is to train on no more pairs of its own cell than 01 collects."""
    get, wanted = step.parameters.get, step.parameters.get("num_pairs", 0)
    if not step.notebook.startswith("03") or get("preference_pairs") or get("pairs_of"):
        return
    made = [one for one in planned if one.notebook.startswith("01") and (one.cell, one.id) == (step.cell, "collect")]
    for number in (one.parameters.get("num_pairs", wanted) for one in made):
        if wanted > number:
            raise ValueError(f"num_pairs {wanted}, of {number} that 01_collect makes: raise it there, or set 0 for all")


# --- the sandbox's own, beside other models


def check_sandbox(step: PlannedStep, experiment: Experiment) -> None:
    """The notebook's defaults are the sandbox's: beside a model of another kind they have to be replaced, or said.

    A value that the experiment file states is meant; Python functions go with anything.
    """
    used = used_models(step)
    policies = {name: step.parameters[name] for name in ("prompter", "responder") if name in used}
    own = {name: ref for name, ref in policies.items() if _is_no_sandbox(ref)}
    if not own:
        return
    said = stated(step, experiment)
    left = [name for name in _read_names(step, policies) if name not in said and _is_sandbox(step.parameters.get(name))]
    if left:
        model = ", ".join(f"{name} {ref}" for name, ref in own.items())
        have = ", ".join(f"{name} {_shown(step.parameters[name])}" for name in left)
        advice = ", ".join(f"{name}: {_INSTEAD[name]}" for name in left)
        what = f"{model} with what is made for the sandbox ({have}, the notebook's defaults)"
        raise ValueError(f"{what}: set {advice} in the experiment file; a value that it states is taken as meant")


def _read_names(step: PlannedStep, policies: dict) -> list[str]:
    """Parameters that this step reads and whose defaults are the sandbox's."""
    names = [*policies, *_SANDBOX_USED.get(step.notebook[:2], ())]
    if "judge" not in used_models(step):  # 02 without its watch
        names = [name for name in names if name != "judge"]
    if step.parameters.get("reward_pairs"):  # the reward model is learnt, from another one
        names = ["reward_base" if name == "reward_model" else name for name in names]
    if step.parameters.get("train_on") == "dataset":
        names.append("dataset")
    return names


def _is_no_sandbox(ref: str) -> bool:
    """Whether ref is a model on the hub, behind an API or in a folder that no experiment of ours made."""
    if ref.startswith("sandbox/") or references.place(ref).is_relative_to(paths.outputs_root()):
        return False
    return references.kind(ref) in ("hub", "local", "api")


def _is_sandbox(value) -> bool:
    """Whether a value is made for the sandbox: its models, sets and templates, or a threshold that keeps everything."""
    if isinstance(value, list):
        return any(_is_sandbox(one) for one in value)
    return value == 1.0 if isinstance(value, float) else str(value).partition("/")[0].startswith("sandbox")


def _shown(value) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def stated(step: PlannedStep, experiment: Experiment) -> set[str]:
    """The parameters that the experiment file sets for a step, whatever their values."""
    names = set(experiment.shared)
    for axis, values in experiment.grid.items():
        names |= {name for value in values for name in (value if isinstance(value, dict) else (axis,))}
    for each in experiment.steps:
        if each["notebook"] == step.notebook and each.get("id") in (None, step.id):
            names |= set(each.get("with") or {})
    return names

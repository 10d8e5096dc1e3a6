"""What is checked before any work: models, functions, prompt sets, files, arms and output folders that an experiment
names; then, in seconds, the hub and each API server."""

import contextlib
import functools
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nbutils.data import readers, sets
from nbutils.experiment import paths, steps
from nbutils.experiment.file import Experiment
from nbutils.experiment.grid import PlannedStep
from nbutils.experiment.params import closest
from nbutils.models import hub, references
from nbutils.run import functions, together
from nbutils.run.servers import try_servers
from nbutils.run.uses import MODEL_PARAMETERS, hub_ids, is_made_before, limits, published, used_models


@dataclass(frozen=True)
class Fault:
    """Why a step cannot do its work, in one line."""

    step: PlannedStep
    error: ValueError | OSError

    def __str__(self):
        return f"{self.step.cell}/{self.step.id}: {self.error}"


def check_machine(
    experiment: Experiment, pending: list[PlannedStep], planned: list[PlannedStep], reach: bool = True
) -> list[str]:
    """Raises, in one line, for the first thing that cannot be used; returns what is odd about servers.

    pending: what is to run, in order; reach: whether the hub and API servers are asked too.
    """
    for step in pending:
        check_writable(step.folder)
    for fault in faults(experiment, pending, planned)[:1]:
        wanted = FileNotFoundError if isinstance(fault.error, FileNotFoundError) else ValueError
        raise wanted(str(fault)) from None
    if not reach:
        return []
    wanted_by: dict[tuple[str, str], PlannedStep] = {}
    for name, kind, step in _on_hub(pending, planned):
        wanted_by.setdefault((name, kind), step)
    for (name, kind), step in wanted_by.items():
        if said := hub.trouble(name, kind):
            raise FileNotFoundError(f"{step.cell}/{step.id}: {said}")
    return try_servers(pending)


def faults(experiment: Experiment, pending: list[PlannedStep], planned: list[PlannedStep]) -> list[Fault]:
    """Everything that these steps cannot use, as far as that can be known without a network and without a model.

    Looked for from the project's root, which is where kernels run, wherever the command was given.
    """
    experiment = replace(experiment, path=experiment.path.resolve())
    with contextlib.chdir(paths.project_root()):
        return [
            Fault(step, error)
            for step in pending
            for check in _checks(step, experiment, pending, planned)
            if (error := _complaint(check))
        ]


def _complaint(check: Callable[[], None]) -> ValueError | OSError | None:
    try:
        check()
    except (ValueError, OSError) as error:
        return error
    return None


def _checks(
    step: PlannedStep, experiment: Experiment, pending: list[PlannedStep], planned: list[PlannedStep]
) -> Iterator[Callable[[], None]]:
    yield lambda: together.check_arms(step, pending, planned)
    yield lambda: together.check_collected(step, pending, planned)
    yield lambda: together.check_pairs(step, pending, planned)
    code = experiment.path.parent
    for check, reference in dict.fromkeys(_references(step, code)):
        if not is_made_before(reference, step, planned):
            yield functools.partial(check, reference)
    yield lambda: _check_files(step)
    yield lambda: together.check_sandbox(step, experiment)


def _references(step: PlannedStep, code: Path) -> Iterator[tuple]:
    """(check, reference) of each model, data set and template folder that a step's parameters name."""
    trained = steps.trained(step.parameters)
    for name in (*MODEL_PARAMETERS, "jury"):
        value = step.parameters.get(name) or []
        for reference in value if isinstance(value, list) else [value]:
            scores = "reward" in name or reference.startswith(references.REWARD)
            yield _Model("reward" if scores else "trained" if name == trained else "causal", code), reference
    if step.parameters.get("reward_pairs") and step.parameters.get("reward_base"):
        yield _Model("reward base", code), step.parameters["reward_base"]
    for name, function in (("seeds", _check_seeds), ("dataset", sets.check), ("prompt_sets", sets.check)):
        value = step.parameters.get(name) or []
        for reference in value if isinstance(value, list) else [value]:
            yield function, reference
    for name in read_sets(step) if hub.is_offline() else ():
        yield _check_offline, name
    if step.parameters.get("templates"):
        yield _check_templates, step.parameters["templates"]


@dataclass(frozen=True)
class _Model:
    """The check of a model's reference. task: as in references.check; code: the experiment file's folder."""

    task: str
    code: Path

    def __call__(self, reference: str) -> None:
        kind = references.kind(reference)
        learns = self.task in ("trained", "reward base")
        if kind == "callable" and not learns and not reference.removeprefix(references.REWARD).startswith("sandbox/"):
            target = references.resolve(reference)
            if said := functions.trouble(target, "reward" if self.task == "reward" else "text", self.code):
                raise ValueError(said)
            return
        references.check(reference, self.task)
        for hub_id in hub_ids(reference) if hub.is_offline() else ():
            if said := hub.trouble(hub_id):
                raise FileNotFoundError(said)
        if kind == "api" and (server := references.server(reference)).lacks:
            named = " and ".join(dict.fromkeys((server.lacks, server.url_name, server.key_name)))
            raise ValueError(f"{reference} needs {server.lacks}, which is not set: export {named}")
        if kind == "api" and server.flaw:
            raise ValueError(f"{reference}: {server.flaw}")


def read_sets(step: PlannedStep) -> list[str]:
    """The prompt and pair sets that a step reads, of those that its parameters name."""
    get, number = step.parameters.get, step.notebook[:2]
    found = [*(get("prompt_sets") or [])] if number != "05" else []
    found += [get("seeds")] if number == "01" else []
    found += [get("dataset")] if get("train_on") == "dataset" else []
    found += [get(name) for name in ("preference_pairs", "reward_pairs") if get(name) not in ("", "collect")]
    return list(dict.fromkeys(part for name in found if name for part in sets.parts(name)))


def _check_offline(name: str) -> None:
    if not sets.is_here(name):
        raise FileNotFoundError(f"{name} is not on this machine, and HF_HUB_OFFLINE is set: fetch it beforehand")


def _on_hub(pending: list[PlannedStep], planned: list[PlannedStep]) -> Iterator[tuple[str, str, PlannedStep]]:
    """(hub id, models | datasets, step) of what has to be fetched."""
    for step in pending:
        bases = [step.parameters.get("reward_base", "")] if step.parameters.get("reward_pairs") else []
        for reference in (*used_models(step).values(), *published([step], planned), *filter(None, bases)):
            if not references.place(reference).is_relative_to(paths.outputs_root()):
                for hub_id in hub_ids(reference):
                    yield hub_id, "models", step
        for name in read_sets(step):
            if (found := sets.hub_id(name)) and not sets.is_here(name):
                yield found, "datasets", step


def _check_seeds(reference: str) -> None:
    sets.check(reference)
    if (paths.project_root() / reference).is_file() and not sets.seeds(reference):
        raise ValueError(f"{reference} holds no usable prompt: name another prompt set or file with `seeds`")


def _check_templates(name: str) -> None:
    folder = paths.template_folder(name)
    if not folder.is_dir():
        known = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        raise FileNotFoundError(f"template folder {paths.relative(folder)} not found: {closest(name, known)}")


def _check_files(step: PlannedStep) -> None:
    """Word list, prices, labels, and the benchmarks' own folder and package."""
    get = step.parameters.get
    keywords, labels, tasks = (get(name) or "" for name in ("keywords", "labels", "benchmark_folder"))
    if keywords:
        sets.read_lines(keywords)
    limits(step)
    if Path(labels).suffix.lower() in readers.EXTENSIONS:
        sets.check(labels)
    if tasks and not (paths.project_root() / tasks).is_dir():
        raise FileNotFoundError(f"benchmark_folder {tasks} not found: wanted a folder of YAML tasks")
    if get("benchmarks") and importlib.util.find_spec("lm_eval") is None:
        raise ValueError('benchmarks need another package: python -m pip install -e ".[benchmarks]"')


def check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"cannot write to {paths.relative(folder)} ({error.strerror})"
        raise PermissionError(f"{what}: make it writable, or name another place in WORKBOOK_OUTPUTS") from None

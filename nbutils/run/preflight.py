"""What is checked before any work: models, data sets, templates, arms and output folders that an experiment names."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from nbutils.evaluate.arms import BUILT_IN, links
from nbutils.experiment import paths
from nbutils.experiment.grid import PlannedStep
from nbutils.experiment.params import closest
from nbutils.models import references
from nbutils.run.plan import MODEL_PARAMETERS, is_made_before


def check_machine(pending: list[PlannedStep], planned: list[PlannedStep]) -> None:
    """One line for the first model, data set, template folder, arm or output folder that cannot be used."""
    for step in pending:
        check_writable(step.folder)
        _check_arms(step, planned)
        _check_pairs(step, planned)
        for function, reference in dict.fromkeys(_references(step)):
            if is_made_before(reference, step, planned):
                continue
            try:
                function(reference)
            except (ValueError, FileNotFoundError) as error:
                kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                raise kind(f"{step.cell}/{step.id}: {error}") from None


def _references(step: PlannedStep) -> Iterator[tuple]:
    """(check, reference) of each model, data set and template folder that a step's parameters name."""
    from nbutils.data import sets

    for name in (*MODEL_PARAMETERS, "jury"):
        value = step.parameters.get(name) or []
        for reference in value if isinstance(value, list) else [value]:
            scores = "reward" in name or reference.startswith(references.REWARD)
            yield (_check_reward if scores else _check_model), reference
    for name, function in (("seeds", _check_seeds), ("dataset", sets.check), ("prompt_sets", sets.check)):
        value = step.parameters.get(name) or []
        for reference in value if isinstance(value, list) else [value]:
            yield function, reference
    if step.parameters.get("templates"):
        yield _check_templates, step.parameters["templates"]


def _check_model(reference: str) -> None:
    references.check(reference)
    if reference.startswith("api:") and (server := references.server(reference)).lacks:
        named = " and ".join(dict.fromkeys((server.lacks, server.url_name, server.key_name)))
        raise ValueError(f"{reference} needs {server.lacks}, which is not set: export {named}")


def _check_reward(reference: str) -> None:
    references.check(reference, "reward")


def _check_seeds(reference: str) -> None:
    from nbutils.data import sets

    sets.check(reference)
    if (paths.project_root() / reference).is_file() and not sets.seeds(reference):
        raise ValueError(f"{reference} holds no usable prompt: name another prompt set or file with `seeds`")


def _check_templates(name: str) -> None:
    folder = paths.template_folder(name)
    if not folder.is_dir():
        known = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        raise FileNotFoundError(f"template folder {paths.relative(folder)} not found: {closest(name, known)}")


def _check_arms(step: PlannedStep, planned: list[PlannedStep]) -> None:
    """Every arm is built in, or an earlier step of the same cell; `chain:a+b` is checked link by link."""
    trained = [other.id for other in planned if other.cell == step.cell and other.notebook[:2] in ("02", "03")]
    known = [*BUILT_IN, *trained]
    for arm in step.parameters.get("arms", []):
        for link in links(arm):
            if link not in known:
                raise ValueError(f"{step.cell}/{step.id}: unknown arm {link!r}: {closest(link, known)}")


def _check_pairs(step: PlannedStep, planned: list[PlannedStep]) -> None:
    """`pairs_of` names a file that is there, or a model that a step of this experiment collects with."""
    from nbutils.data import readers, sets

    wanted, collecting = step.parameters.get("pairs_of"), [one for one in planned if one.notebook.startswith("01")]
    if not wanted:
        return
    if Path(wanted).suffix.lower() in readers.EXTENSIONS:
        if not is_made_before(wanted, step, planned):
            sets.check(wanted)
    elif wanted not in {one.parameters.get("responder") for one in collecting}:
        known = sorted({one.parameters.get("responder", "") for one in collecting})
        raise ValueError(
            f"{step.cell}/{step.id}: pairs_of {wanted!r}: no 01_collect with that responder: {closest(wanted, known)}"
        )


def check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"cannot write to {paths.relative(folder)} ({error.strerror})"
        raise PermissionError(f"{what}: make it writable, or name another place in WORKBOOK_OUTPUTS") from None

"""What an experiment will do and has done, without doing anything: states, models, memory, calls, what is missing.

Nothing here reaches the network, loads a model or imports torch.
"""

import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from nbutils.evaluate import arms, calls
from nbutils.experiment import paths, steps
from nbutils.experiment.file import Experiment, read_experiment
from nbutils.experiment.grid import PlannedStep, plan_steps
from nbutils.models import references, spending

_ANSWER = re.compile(rb'^\{"key": "[^"#]*",', re.MULTILINE)
FAILED = "failed.txt"  # in a step's folder: the one line of its last failure
MODEL_PARAMETERS = ("prompter", "responder", "reward_model", "judge", "gold_reward")
_USED = {  # model parameters that a notebook loads, by its number
    "01": ("prompter", "responder"),
    "02": ("prompter", "responder", "reward_model"),
    "03": ("prompter",),
    "04": MODEL_PARAMETERS,
    "05": (),
}
_MEMORY = (
    "GPU memory is estimated as 1.2 × 2 bytes per parameter (4 with float32) of all models that a step loads; what is "
    "trained adds 14 bytes per parameter, or 0.5 with LoRA."
)
_PAID = f"Calls are counted without retries, a prompt as {calls.PROMPT_TOKENS} tokens."


def load(path: Path, notebooks: Path | None = None) -> tuple[Experiment, list[PlannedStep]]:
    """An experiment file and its steps, checked."""
    experiment = read_experiment(path)
    return experiment, plan_steps(experiment, notebooks or paths.project_root() / "notebooks")


def state(step: PlannedStep) -> tuple[str, str]:
    """(done | stale | failed | interrupted | to do, why) of a step, from the files in its folder."""
    manifest = steps.read_manifest(step.folder)
    if manifest is None:
        failure, kept = step.folder / FAILED, journalled(step.folder)
        if failure.exists():
            return "failed", failure.read_text("utf-8").strip()
        return ("interrupted", f"{kept:,} answers are kept") if kept else ("to do", "")
    before = manifest.get("parameters", {})
    for name, value in step.parameters.items():
        if name not in before or before[name] != value:
            was = f"was {before[name]!r}" if name in before else "is new"
            return "stale", f"{name} {was}, now {value!r}"
    if manifest.get("notebook_sha256") != steps.notebook_sha256(step.notebook):
        return "stale", f"{step.notebook}.ipynb has changed"
    done, reason = steps.verify(step.folder)
    return ("done", "") if done else ("stale", reason)


def journalled(folder: Path) -> int:
    """Answers that a step's journal holds: what a rerun need not ask for again. Notes on calls are no answers."""
    journal = Path(folder) / "journal.jsonl"
    return len(_ANSWER.findall(journal.read_bytes())) if journal.is_file() else 0


def status(path: Path) -> list[str]:
    """One line per step: where it stands, seconds, tokens."""
    experiment, planned = load(path)
    lines = [f"{experiment.name}: {_count(planned)} in {paths.relative(paths.outputs_root() / experiment.name)}"]
    width = max(len(f"{step.cell}/{step.id}") for step in planned)
    for step in planned:
        kind, reason = state(step)
        manifest = steps.read_manifest(step.folder) or {}
        spent = f"{manifest['seconds']:>8,.0f} s {manifest['tokens']:>12,} tokens" if kind == "done" else ""
        lines.append(f"  {f'{step.cell}/{step.id}':<{width}}  {kind:<11} {spent or reason}".rstrip())
    return lines


def plan(path: Path) -> list[str]:
    """Every step with its parameters, models, memory and paid calls, then what is missing on this machine."""
    experiment, planned = load(path)
    lines = [f"{experiment.name}: {_count(planned)}, from {paths.relative(path)}"]
    for step in planned:
        kind, reason = state(step)
        lines += ["", f"{step.cell}/{step.id}  ({step.notebook}, {kind}{': ' + reason if reason else ''})"]
        changed = {name: value for name, value in step.changed.items() if name not in ("experiment", "cell", "step")}
        shown = ", ".join(f"{name}={value!r}" for name, value in changed.items()) or "the notebook's defaults"
        lines += textwrap.wrap(shown, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        lines += [f"  {line}" for line in (*_models(step), *_calls(step))]
    return [*lines, "", *textwrap.wrap(_MEMORY, 112), *_paid(planned), "", *missing(planned)]


def _count(planned: list[PlannedStep]) -> str:
    cells = {step.cell for step in planned if not step.once}
    return f"{len(planned)} step{'s' * (len(planned) != 1)} in {len(cells)} cell{'s' * (len(cells) != 1)}"


def used_models(step: PlannedStep) -> dict[str, str]:
    """parameter → reference of the models that a step loads."""
    names = set(_USED.get(step.notebook[:2], MODEL_PARAMETERS))
    if step.notebook[:2] in ("02", "03") and trained_parameter(step) == "responder":
        names = names - {"prompter"} | {"responder"}
    used = {name: step.parameters[name] for name in MODEL_PARAMETERS if name in names and step.parameters.get(name)}
    return used | {f"jury {i}": ref for i, ref in enumerate(step.parameters.get("jury") or [], start=1)}


def is_made_before(reference: str, step: PlannedStep, planned: list[PlannedStep]) -> bool:
    """Whether reference lies in the folder of a step planned before this one, as a reward model that it learns does."""
    earlier = planned[: planned.index(step)]
    return any(references.place(reference).is_relative_to(other.folder.resolve()) for other in earlier)


def _described(reference: str) -> dict:
    """models.describe; a folder of outputs/ that is not there yet has no size."""
    place = references.place(reference)
    if place.is_relative_to(paths.outputs_root()) and not place.exists():
        return {"kind": "local", "num_parameters": None, "present": True}
    return references.describe(reference)


def _models(step: PlannedStep) -> Iterator[str]:
    used = used_models(step)
    if used:
        yield "models: " + ", ".join(f"{name} {ref} ({_size(ref)})" for name, ref in used.items())
        memory, complete = memory_bytes(step)
        yield f"GPU memory: about {memory / 1e9:,.1f} GB" + ("" if complete else ", plus models of unknown size")


def _size(ref: str) -> str:
    found = _described(ref)
    number = found["num_parameters"]
    if not number:
        return {"api": "API", "callable": "Python"}.get(found["kind"], "size unknown")
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def memory_bytes(step: PlannedStep) -> tuple[float, bool]:
    """(estimated bytes of GPU memory, whether every model's size was known), by the formula that `plan` prints."""
    bytes_each = 4 if step.parameters.get("dtype") == "float32" else 2
    described = {ref: _described(ref) for ref in used_models(step).values()}
    sizes = {ref: found["num_parameters"] for ref, found in described.items() if found["kind"] in ("local", "hub")}
    total = 1.2 * bytes_each * sum(size or 0 for size in sizes.values())
    trained = sizes.get(step.parameters.get(trained_parameter(step) or "", "")) or 0
    total += trained * (0.5 if step.parameters.get("lora_rank") else 14)
    return total, None not in sizes.values()


def trained_parameter(step: PlannedStep) -> str | None:
    """The parameter whose model a step trains: prompter or responder; None if it trains nothing."""
    if "policy" in step.parameters:
        return step.parameters["policy"]
    if "target" in step.parameters:
        return "responder" if step.parameters["target"] == "dpo_awo" else "prompter"
    return None


def _calls(step: PlannedStep) -> list[str]:
    return [f"paid calls: {line}" for line in calls.sentences(step.notebook, _counted(step), _limits(step))]


def _counted(step: PlannedStep) -> dict:
    """A step's parameters; of an evaluation with the number of its prompts, where that can be known here."""
    if not step.notebook.startswith("04"):
        return step.parameters
    from nbutils.data import sets

    wanted, total = step.parameters.get("num_prompts", 0), 0
    for name in step.parameters.get("prompt_sets", []):
        try:
            size = sets.num_test_prompts(name)
        except (ValueError, OSError):
            size = None
        if size is None and not wanted:
            return step.parameters
        total += min((each for each in (size, wanted) if each), default=0)
    return step.parameters | {"prompt_sets": [""], "num_prompts": total}


def _limits(step: PlannedStep) -> spending.Limits:
    """The limits that a step's parameters set; none, and no prices, for a notebook that has none."""
    names = ("max_calls", "max_usd", "prices")
    known = set(names) <= set(step.parameters)
    return spending.read_limits(*(step.parameters[name] for name in names)) if known else spending.Limits()


def _paid(planned: list[PlannedStep]) -> list[str]:
    found = [
        calls.estimate(model, each, _limits(step).prices)
        for step in planned
        for _, model, each in calls.paid(step.notebook, _counted(step))
    ]
    if not found:
        return ["Paid APIs: none."]
    dollars = sum(each.usd or 0 for each in found)
    usd = f"at most ${dollars:,.2f}" + " and what has no price" * any(each.usd is None for each in found)
    bounded = [f"at most {sum(each.calls for each in found):,} calls in all, {usd}"] * any(each.calls for each in found)
    unbounded = ["as many as the prompt sets have rows where num_prompts is 0"] * any(not each.calls for each in found)
    return textwrap.wrap(f"Paid APIs: {', and '.join(bounded + unbounded)}. {_PAID}", 112)


def missing(planned: list[PlannedStep]) -> list[str]:
    """What this machine lacks for these steps, one line each."""
    named = sorted({ref for step in planned for ref in used_models(step).values()} | _published(planned))
    lines = []
    for ref in named:
        found = _described(ref)
        if found["kind"] == "hub" and not found["present"]:
            size = found["num_parameters"]
            lines.append(f"{ref} is not in the local cache" + (f" (about {size * 2 / 1e9:,.1f} GB)" if size else ""))
    lacking = (references.server(ref).lacks for ref in named if ref.startswith("api:"))
    lines += [f"{name} is not set" for name in dict.fromkeys(lacking) if name]
    needed = max((memory_bytes(step)[0] for step in planned), default=0)
    if needed > 1e9 and not has_gpu():
        lines.append(f"no GPU: the largest step wants about {needed / 1e9:,.0f} GB of GPU memory")
    return ["Missing on this machine:", *(f"  {line}" for line in lines)] if lines else ["Nothing is missing here."]


def _published(planned: list[PlannedStep]) -> set[str]:
    """Models that arms name by themselves."""
    using = [step for step in planned if "bpo" in step.parameters.get("arms", [])]
    own = {step.cell for step in planned if step.id == "bpo"}  # a training step of that name stands in for it
    return {step.parameters.get("bpo_prompter", arms.BPO_MODEL) for step in using if step.cell not in own}


def has_gpu() -> bool:
    """Whether this looks like a machine with an NVIDIA, AMD or Apple GPU; asks no driver."""
    apple = sys.platform == "darwin" and os.uname().machine == "arm64"
    return apple or any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))

"""What an experiment will do and has done, without doing anything: states, models, memory, calls, what is missing.

Nothing here reaches the network, loads a model or imports torch.
"""

import contextlib
import json
import os
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nbutils.data import sets
from nbutils.evaluate import calls
from nbutils.experiment import paths, progress, steps
from nbutils.experiment.file import Experiment, read_experiment
from nbutils.experiment.grid import PlannedStep, edited_lines, plan_steps
from nbutils.experiment.params import closest
from nbutils.models import references, spending
from nbutils.run import preflight
from nbutils.run.uses import described, hub_ids, limits, memory_bytes, published, size, used_models

_ANSWER = re.compile(rb'^\{"key": "[^"#]*",', re.MULTILINE)
_REASON = re.compile(rb'^\{"key": "[^"#]*", "value": .*"reason": ("(?:[^"\\]|\\.)+")', re.MULTILINE)
FAILED = "failed.txt"  # in a step's folder: the one line of its last failure
_MODELS_WIDTH = 46  # letters, in the table
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
        return ("interrupted", f"{kept:,} answers are kept{textless(step.folder)}") if kept else ("to do", "")
    before = manifest.get("parameters", {})
    for name, value in step.parameters.items():
        if name not in before or before[name] != value:
            was = f"was {before[name]!r}" if name in before else "is new"
            return "stale", f"{name} {was}, now {value!r}"
    if manifest.get("notebook_sha256") != steps.notebook_sha256(step.notebook):
        return "stale", f"{step.notebook}.ipynb has changed"
    done, reason = steps.verify(step.folder)
    return ("done", "") if done else ("stale", reason)


def _standing(step: PlannedStep) -> tuple[str, str]:
    """`state`; running, with process, machine and bar, where a process is at work on the step now."""
    now = progress.read(step.folder)
    if now is None:
        return state(step)
    return "running", " · ".join(filter(None, [f"process {now.pid} on {now.host}", str(now)]))


def journalled(folder: Path) -> int:
    """Answers that a step's journal holds: what a rerun need not ask for again. Notes on calls are no answers."""
    journal = Path(folder) / "journal.jsonl"
    return len(_ANSWER.findall(journal.read_bytes())) if journal.is_file() else 0


def textless(folder: Path) -> str:
    """Of a journal's answers those that are a reason in place of a text: how many, and why most of them; or empty."""
    journal = Path(folder) / "journal.jsonl"
    reasons = _REASON.findall(journal.read_bytes()) if journal.is_file() else []
    if not reasons:
        return ""
    why, number = Counter(json.loads(reason) for reason in reasons).most_common(1)[0]
    shown = f"{textwrap.shorten(why, 100)}" + f" ({number:,}), …" * (number < len(reasons))
    return f", {len(reasons):,} answer{'s' * (len(reasons) != 1)} without a text: {shown}"


def status(path: Path) -> list[str]:
    """One line per step: where it stands, seconds, tokens."""
    experiment, planned = load(path)
    lines = [f"{experiment.name}: {_count(planned)} in {paths.relative(paths.outputs_root() / experiment.name)}"]
    width = max(len(f"{step.cell}/{step.id}") for step in planned)
    for step in planned:
        kind, reason = _standing(step)
        manifest = steps.read_manifest(step.folder) or {}
        spent = f"{manifest['seconds']:>8,.0f} s {manifest['tokens']:>12,} tokens" if kind == "done" else ""
        spent += textless(step.folder) if spent else ""
        lines.append(f"  {f'{step.cell}/{step.id}':<{width}}  {kind:<11} {spent or reason}".rstrip())
    return lines


def plan(path: Path, details: bool = False, only: str = "") -> list[str]:
    """A table of all steps, or all about each; then what cannot be used and what this machine lacks.

    details: parameters, models, memory and calls of each step; only: of the steps called so, <cell>/<step> or <step>.
    ValueError names the closest step.
    """
    experiment, planned = load(path)
    shown = _named(planned, only) if only else planned
    lines = [f"{experiment.name}: {_count(planned)}, from {paths.relative(path)}", ""]
    lines += [line for step in shown for line in _detailed(step)] if details or only else _table(shown)
    lines += [*textwrap.wrap(_MEMORY, 112), *_paid(planned)]
    if not (details or only):
        lines.append("All about each step: --details, or --step <name>.")
    unusable, lacking = _unusable(experiment, planned), missing(planned)
    nothing = [] if unusable or lacking else ["Nothing is missing here."]
    return [*lines, *edited_lines(planned), "", *unusable, *[""] * bool(unusable and lacking), *lacking, *nothing]


def _named(planned: list[PlannedStep], name: str) -> list[PlannedStep]:
    found = [step for step in planned if name in (step.id, f"{step.cell}/{step.id}")]
    if not found:
        known = dict.fromkeys(one for step in planned for one in (step.id, f"{step.cell}/{step.id}"))
        raise ValueError(f"no step {name!r} in this experiment: {closest(name, known)}")
    return found


def _detailed(step: PlannedStep) -> Iterator[str]:
    """All about one step, and an empty line."""
    kind, reason = _standing(step)
    yield f"{step.cell}/{step.id}  ({step.notebook}, {kind}{': ' + reason if reason else ''})"
    changed = {name: value for name, value in step.changed.items() if name not in ("experiment", "cell", "step")}
    shown = ", ".join(f"{name}={value!r}" for name, value in changed.items()) or "the notebook's defaults"
    yield from textwrap.wrap(shown, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    yield from (f"  {line}" for line in (*_models(step), *_calls(step)))
    yield ""


def _table(planned: list[PlannedStep]) -> list[str]:
    """One line per step."""
    head = ("step", "notebook", "state", "models (*: trained)", "memory", "calls", "dollars")
    rows = [head, *map(_row, planned)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    right = head.index("memory")
    return [
        "  ".join(f"{text:>{width}}" if place >= right else f"{text:<{width}}" for place, text, width in cells).rstrip()
        for cells in (zip(range(len(head)), row, widths, strict=True) for row in rows)
    ] + [""]


def _row(step: PlannedStep) -> tuple[str, ...]:
    memory, complete = memory_bytes(step)
    number = f"{memory / 1e9:,.1f} GB" if memory >= 1e8 else f"{memory / 1e6:,.0f} MB"
    needs = f"{'' if complete else '> '}{number}" if used_models(step) else "–"
    return (f"{step.cell}/{step.id}", step.notebook, _standing(step)[0], _short_models(step), needs, *_cost(step))


def _short_models(step: PlannedStep) -> str:
    """The models that a step uses, without owners, what it trains first; cut where they are many."""
    used = used_models(step)
    trained = used.get(steps.trained(step.parameters))
    others = [_short(ref) for ref in used.values() if ref != trained]
    names = list(dict.fromkeys([f"*{_short(trained)}", *others] if trained else others))
    kept = 1
    while kept < len(names) and len(", ".join(names[: kept + 1])) <= _MODELS_WIDTH:
        kept += 1
    return ", ".join(names[:kept]) + f" +{len(names) - kept}" * (len(names) > kept) or "–"


def _short(ref: str) -> str:
    return ref if ref.startswith(("sandbox/", "api:")) else ref.rstrip("/").rpartition("/")[2]


def _cost(step: PlannedStep) -> tuple[str, str]:
    """(calls to servers, dollars), each at most; `?` where only the data or a price list could tell."""
    prices, found = limits(step).prices, calls.paid(step.notebook, _counted(step))
    made = [(model, calls.estimate(model, each, prices)) for _, model, each in found]
    if not made:
        return "–", "–"
    number = "?" if any(not each.calls for _, each in made) else f"{sum(each.calls for _, each in made):,}"
    billed = [each for model, each in made if calls.is_paid(model, prices)]
    unknown = any(each.usd is None or not each.calls for each in billed)
    return number, "?" if unknown else f"${sum(each.usd or 0 for each in billed):,.2f}" if billed else "–"


def _count(planned: list[PlannedStep]) -> str:
    cells = {step.cell for step in planned if not step.once}
    return f"{len(planned)} step{'s' * (len(planned) != 1)} in {len(cells)} cell{'s' * (len(cells) != 1)}"


def _models(step: PlannedStep) -> Iterator[str]:
    used = used_models(step)
    if used:
        yield "models: " + ", ".join(f"{name} {ref} ({size(ref)})" for name, ref in used.items())
        memory, complete = memory_bytes(step)
        yield f"GPU memory: about {memory / 1e9:,.1f} GB" + ("" if complete else ", plus models of unknown size")


def _calls(step: PlannedStep) -> list[str]:
    found = calls.paid(step.notebook, _counted(step))
    kind = "paid calls" if any(calls.is_paid(model, limits(step).prices) for _, model, _ in found) else "calls"
    return [f"{kind}: {line}" for line in calls.sentences(step.notebook, _counted(step), limits(step))]


def _counted(step: PlannedStep) -> dict:
    """A step's parameters; of an evaluation with the number of its prompts, where that can be known here."""
    if not step.notebook.startswith("04"):
        return step.parameters
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


def _paid(planned: list[PlannedStep]) -> list[str]:
    """What all steps' calls come to, those that may cost money apart from those to servers of one's own."""
    found = [
        (calls.is_paid(model, limits(step).prices), calls.estimate(model, each, limits(step).prices))
        for step in planned
        for _, model, each in calls.paid(step.notebook, _counted(step))
    ]
    paid, free = ([each for is_paid, each in found if is_paid is wanted] for wanted in (True, False))
    said = [f"Paid APIs: {_summed(paid)}"]
    if paid:
        dollars = sum(each.usd or 0 for each in paid)
        said.append(f"${dollars:,.2f} at most" + " and what has no price" * any(each.usd is None for each in paid))
    text = ", ".join(said) + (f". Servers without a price: {_summed(free)}" if free else "")
    return textwrap.wrap(f"{text}. {_PAID if found else ''}".strip(), 112)


def _summed(found: list[spending.Estimate]) -> str:
    bounded = [f"at most {sum(each.calls for each in found):,} calls in all"] * any(each.calls for each in found)
    unbounded = ["as many as the prompt sets have rows where num_prompts is 0"] * any(not each.calls for each in found)
    return ", and ".join(bounded + unbounded) or "none"


def _unusable(experiment: Experiment, planned: list[PlannedStep]) -> list[str]:
    """What stops these steps, one line for each reason."""
    places: dict[str, dict[str, None]] = {}
    for fault in preflight.faults(experiment, [step for step in planned if state(step)[0] != "done"], planned):
        places.setdefault(str(fault.error), {})[f"{fault.step.cell}/{fault.step.id}"] = None
    lines = []
    for text, where in ((text, list(found)) for text, found in places.items()):
        more = f" and {len(where) - 2} more" if len(where) > 3 else ""
        lines.append(f"  {', '.join(where[:2] if more else where)}{more}: {text}")
    return ["Cannot run as it is:", *lines] if lines else []


def missing(planned: list[PlannedStep]) -> list[str]:
    """What this machine lacks for these steps, one line each."""
    named = sorted({ref for step in planned for ref in used_models(step).values()} | published(planned, planned))
    lines = []
    bases = {hub_id for ref in named if _is_here(ref) for hub_id in hub_ids(ref)}
    for ref in sorted({*named, *bases}):
        found = described(ref)
        if found["kind"] == "hub" and not found["present"]:
            number = found["num_parameters"]
            lines.append(
                f"{ref} is not in the local cache" + (f" (about {number * 2 / 1e9:,.1f} GB)" if number else "")
            )
    lines += [f"prompt set {name} is not on this machine" for name in _sets_elsewhere(planned)]
    lacking = (references.server(ref).lacks for ref in named if ref.startswith("api:"))
    lines += [f"{name} is not set" for name in dict.fromkeys(lacking) if name]
    needed = max((memory_bytes(step)[0] for step in planned), default=0)
    if needed > 1e9 and not has_gpu():
        lines.append(f"no GPU: the largest step wants about {needed / 1e9:,.0f} GB of GPU memory")
    return ["Missing on this machine:", *(f"  {line}" for line in lines)] if lines else []


def _is_here(ref: str) -> bool:
    """Whether a reference's files can be looked at: a folder of outputs/ may be made by an earlier step."""
    place = references.place(ref)
    return place.exists() or not place.is_relative_to(paths.outputs_root())


def _sets_elsewhere(planned: list[PlannedStep]) -> list[str]:
    """Sets that have to be fetched; a name that means nothing is said elsewhere."""
    found = []
    for name in dict.fromkeys(name for step in planned for name in preflight.read_sets(step)):
        with contextlib.suppress(ValueError, FileNotFoundError):
            found += [name] * (not sets.is_here(name))
    return found


def has_gpu() -> bool:
    """Whether this looks like a machine with an NVIDIA, AMD or Apple GPU; asks no driver."""
    apple = sys.platform == "darwin" and os.uname().machine == "arm64"
    return apple or any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))

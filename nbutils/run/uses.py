"""Which models a step uses, which of them it trains, how large they are."""

import contextlib

from nbutils.evaluate import arms, watching
from nbutils.experiment import paths, steps
from nbutils.experiment.grid import PlannedStep
from nbutils.models import references, spending

MODEL_PARAMETERS = ("prompter", "responder", "reward_model", "judge", "gold_reward")
_USED = {  # model parameters that a notebook loads, by its number
    "01": ("prompter", "responder"),
    "02": ("prompter", "responder", "reward_model", "judge"),
    "03": ("prompter",),
    "04": MODEL_PARAMETERS,
    "05": (),
}


def used_models(step: PlannedStep) -> dict[str, str]:
    """parameter → reference of the models that a step loads."""
    names = set(_USED.get(step.notebook[:2], MODEL_PARAMETERS))
    if step.notebook[:2] in ("02", "03") and steps.trained(step.parameters) == "responder":
        names = names - {"prompter"} | {"responder"}
    if step.notebook[:2] == "02" and not watching.is_on(step.parameters):
        names -= {"judge"}
    used = {name: step.parameters[name] for name in MODEL_PARAMETERS if name in names and step.parameters.get(name)}
    return used | {f"jury {i}": ref for i, ref in enumerate(step.parameters.get("jury") or [], start=1)}


def is_made_before(reference: str, step: PlannedStep, planned: list[PlannedStep]) -> bool:
    """Whether reference lies in the folder of a step planned before this one, as a reward model that it learns does."""
    earlier = planned[: planned.index(step)]
    return any(references.place(reference).is_relative_to(other.folder.resolve()) for other in earlier)


def hub_ids(reference: str) -> list[str]:
    """What has to come from the hub for a model: itself, or what an adapter stands on. What is nowhere is said by
    references.check."""
    found = []
    with contextlib.suppress(ValueError):
        for each in (reference, references.base(reference)):
            found += [references.resolve(each)] if "/" in each and references.kind(each) == "hub" else []
    return found


def described(reference: str) -> dict:
    """references.describe; a folder of outputs/ that is not there yet has no size."""
    place = references.place(reference)
    if place.is_relative_to(paths.outputs_root()) and not place.exists():
        return {"kind": "local", "num_parameters": None, "present": True}
    return references.describe(reference)


def size(reference: str) -> str:
    found = described(reference)
    number = found["num_parameters"]
    if not number:
        return {"api": "API", "callable": "Python"}.get(found["kind"], "size unknown")
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def memory_bytes(step: PlannedStep) -> tuple[float, bool]:
    """(estimated bytes of GPU memory, whether every model's size was known), by the formula that `plan` prints."""
    bytes_each = 4 if step.parameters.get("dtype") == "float32" else 2
    models = {ref: described(ref) for ref in used_models(step).values()}
    sizes = {ref: found["num_parameters"] for ref, found in models.items() if found["kind"] in ("local", "hub")}
    total = 1.2 * bytes_each * sum(number or 0 for number in sizes.values())
    trained = sizes.get(step.parameters.get(steps.trained(step.parameters), "")) or 0
    total += trained * (0.5 if step.parameters.get("lora_rank") else 14)
    return total, None not in sizes.values()


def published(steps_of: list[PlannedStep], planned: list[PlannedStep]) -> set[str]:
    """Models that the arms of these steps name by themselves, in what is planned in all."""
    using = [step for step in steps_of if "bpo" in step.parameters.get("arms", [])]
    own = {step.cell for step in planned if step.id == "bpo"}  # a training step of that name stands in for it
    return {step.parameters.get("bpo_prompter", arms.BPO_MODEL) for step in using if step.cell not in own}


def limits(step: PlannedStep) -> spending.Limits:
    """The limits that a step's parameters set; none, and no prices, for a notebook that has none."""
    names = ("max_calls", "max_usd", "prices")
    known = set(names) <= set(step.parameters)
    return spending.read_limits(*(step.parameters[name] for name in names)) if known else spending.Limits()

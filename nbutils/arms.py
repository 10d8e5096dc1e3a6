"""An arm is zero or more prompters in front of a responder; evaluation knows nothing else."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from nbutils import models, paths, templates
from nbutils.generate import Generation, Sampling, generate
from nbutils.models import Runtime
from nbutils.records import Answer, Journal, Prompt

BPO_MODEL = "THUDM/BPO"


@dataclass(frozen=True)
class Prompter:
    """A model that rewrites: its template's name, and where its generation stops (None: at its own end)."""

    model: str
    template: str = "meta_prompt"
    stop: str | None = None


@dataclass(frozen=True)
class Arm:
    """x → prompters[0] → … → x' → responder → y."""

    name: str
    prompters: tuple[Prompter, ...]
    responder: str


def build(name: str, cell_folder: Path, prompter: str, responder: str) -> Arm:
    """The arm called name: nan, untrained, bpo, chain:a+b, or a training step of this cell (its arm.json says how).

    Raises ValueError for a name that is none of them, naming the closest.
    """
    if name == "nan":
        return Arm(name, (), responder)
    if name == "untrained":
        return Arm(name, (Prompter(prompter),), responder)
    if name == "bpo":
        return Arm(name, (Prompter(BPO_MODEL, "bpo"),), responder)
    if name.startswith("chain:"):
        links = [build(part, cell_folder, prompter, responder) for part in name.removeprefix("chain:").split("+")]
        return Arm(name, tuple(link for arm in links for link in arm.prompters), responder)
    return _trained(name, Path(cell_folder), responder)


def _trained(name: str, cell_folder: Path, responder: str) -> Arm:
    path = cell_folder / name / "arm.json"
    if not path.exists():
        known = ["nan", "untrained", "bpo", "chain:a+b", *sorted(p.parent.name for p in cell_folder.glob("*/arm.json"))]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(
            f"arm {name!r} not found: {hint} (a trained arm needs 02_train_alignpro or 03_train_poir first)"
        )
    trained = json.loads(path.read_text("utf-8"))
    model = str(path.parent / trained["model"])
    if trained["policy"] == "responder":
        return Arm(name, (), model)
    return Arm(name, (Prompter(model, trained["template"], trained["stop"]),), responder)


def write_arm(folder: Path, policy: str, template: str | None, stop: str | None) -> Path:
    """arm.json: how the model trained in folder is used. policy: prompter | responder."""
    row = {"arm": Path(folder).name, "policy": policy, "model": "model", "template": template, "stop": stop}
    return paths.write_atomic(Path(folder) / "arm.json", json.dumps(row, indent=1) + "\n")


def files(arm: Arm) -> list[Path]:
    """Local model folders behind an arm, for the manifest."""
    return models.local_files(arm.responder, *(prompter.model for prompter in arm.prompters))


def rewrite_requests(template: templates.Template, prompts: list[str]) -> list[list[dict]]:
    """The prompter's messages for each prompt."""
    return [templates.messages(template, prompt=prompt) for prompt in prompts]


def clean_rewrite(text: str) -> str:
    """What the prompter wrote, up to the delimiter and without blanks around it."""
    return templates.cut_at_delimiter(text)[0].strip()


def sent(rewrite: str, prompt: str) -> str:
    """What the responder gets: the rewrite, or the prompt itself where the prompter wrote nothing."""
    return rewrite or prompt


def rewrite(
    arm: Arm,
    prompts: list[str],
    samples: list[int],
    folder: str,
    sampling: Sampling,
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    label: str | None = None,
) -> list[list[str]]:
    """Rewrites of each prompt, one per prompter in sequence: a list of lists, empty for an arm without prompter."""
    current, trail = list(prompts), [[] for _ in prompts]
    for prompter in arm.prompters:
        template = templates.load(prompter.template, "paper" if prompter.template == "bpo" else folder)
        stop = (prompter.stop,) if prompter.stop else ()
        chosen = Sampling(**{**sampling.__dict__, "stop": stop})
        made = generate(
            prompter.model, rewrite_requests(template, current), chosen, runtime, journal, samples, label=label
        )
        for row, (previous, answer) in enumerate(zip(list(current), made, strict=True)):
            text = clean_rewrite(answer.text)
            trail[row].append(text)
            current[row] = sent(text, previous)
    return trail


def answer(
    arm: Arm,
    prompts: list[Prompt],
    num_samples: int,
    folder: str,
    rewriting: Sampling,
    responding: Sampling,
    runtime: Runtime = Runtime(),
    journal: Journal | None = None,
    progress: bool = False,
) -> list[Answer]:
    """num_samples Answers per prompt, without rewards, in the order of prompts."""
    rows = [(prompt, sample) for prompt in prompts for sample in range(num_samples)]
    texts, samples = [prompt.prompt for prompt, _ in rows], [sample for _, sample in rows]
    label = (lambda what: f"{arm.name}: {what}") if progress else (lambda what: None)
    trail = rewrite(arm, texts, samples, folder, rewriting, runtime, journal, label("rewrites"))
    finals = [last_sent(text, steps) for text, steps in zip(texts, trail, strict=True)]
    made = generate(arm.responder, finals, responding, runtime, journal, samples, label=label("responses"))
    columns = zip(rows, finals, trail, made, strict=True)
    return [_answer(arm, *row, final, steps, generation) for row, final, steps, generation in columns]


def last_sent(prompt: str, trail: list[str]) -> str:
    """The last rewrite that is not empty, or the prompt."""
    return next((text for text in reversed(trail) if text), prompt)


def _answer(arm: Arm, prompt: Prompt, sample: int, final: str, trail: list[str], made: Generation) -> Answer:
    return Answer(
        prompt_id=prompt.prompt_id,
        prompt_set=prompt.prompt_set,
        prompt=prompt.prompt,
        arm=arm.name,
        sample=sample,
        rewrite=final,
        rewrites=trail,
        response=made.text,
        reward=None,
        gold_reward=None,
        num_tokens=made.num_tokens,
        reason=made.reason,
    )


def rewrite_and_respond(experiment: str, cell: str, arm: str, prompt: str) -> tuple[list[str], str]:
    """(rewrites, response) of one prompt by a finished arm of an experiment, with its evaluation's settings."""
    from nbutils.steps import read_manifest

    folder = paths.step_folder(experiment, cell, "x").parent
    manifests = [read_manifest(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    settings = {key: value for manifest in manifests if manifest for key, value in manifest["parameters"].items()}
    if not settings:
        raise FileNotFoundError(
            f"{paths.relative(folder)} has no finished step: workbook run params/{experiment}.yml first"
        )
    settings |= (read_manifest(folder / "evaluate") or {"parameters": {}})["parameters"]
    names = ("temperature", "top_p", "top_k", "seed")
    shared = {name: settings[name] for name in names if name in settings}
    built = build(arm, folder, settings["prompter"], settings["responder"])
    runtime = Runtime(1, settings["device"], settings["dtype"], settings["trust_remote_code"])
    row = Prompt("", prompt, "command line")
    rewriting = Sampling(max_new_tokens=settings.get("max_rewrite_tokens", 128), **shared)
    responding = Sampling(max_new_tokens=settings.get("max_response_tokens", 512), **shared)
    made = answer(built, [row], 1, settings["templates"], rewriting, responding, runtime)[0]
    if made.reason:
        raise ValueError(f"{arm}: no response: {made.reason}")
    return made.rewrites, made.response

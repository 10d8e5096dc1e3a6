"""An arm is zero or more prompters in front of a responder; evaluation knows nothing else."""

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from nbutils.collect.critique import Loop
from nbutils.experiment import paths, steps
from nbutils.models import references, templates
from nbutils.models.texts import spoken

BPO_MODEL = "THUDM/BPO"
POIR_REQUEST = ("rewrite_answer", templates.DELIMITER)  # template and stop of every prompter of 03, trained or not
BUILT_IN = ("nan", "untrained", "untrained_poir", "tilted", "poir_s1", "bpo", "length_matched")


@dataclass(frozen=True)
class Prompter:
    """A model that rewrites: its template's name, and where its generation stops (None: at its own end)."""

    model: str
    template: str = "meta_prompt"
    stop: str | None = None


@dataclass(frozen=True)
class Tilt:
    """Lemma 5.1 without training: of num_rewrites rewrites one is drawn with weight exp(R(x, x') / λ), R(x, x') being
    the mean reward of num_responses responses. kl_weight: λ > 0, reward units per nat."""

    reward_model: str
    kl_weight: float
    num_rewrites: int
    num_responses: int


@dataclass(frozen=True)
class Arm:
    """x → prompters[0] → … → x' → responder → y.

    With a tilt x' is chosen among the one prompter's rewrites; with a loop the one prompter criticises the responder's
    answers and rewrites; fixed: a template whose text is x', without any prompter; shuffled: x' is another prompt's.
    """

    name: str
    prompters: tuple[Prompter, ...]
    responder: str
    tilt: Tilt | None = None
    loop: Loop | None = None
    fixed: str | None = None
    shuffled: bool = False


@dataclass(frozen=True)
class Options:
    """What the arms that no step of ours trains go by: tilted, poir_s1, and the model of bpo."""

    tilt: Tilt | None = None
    loop: Loop = Loop()
    bpo: str = BPO_MODEL


def build(name: str, cell_folder: Path, prompter: str, responder: str, options: Options = Options()) -> Arm:
    """The arm called name: a training step of this cell (see its arm.json), one of BUILT_IN, chain:a+b or shuffled:a.

    Two are controls: length_matched asks for more detail with the same words behind every prompt, shuffled:a sends the
    rewrite that arm a made of another prompt. untrained_poir is the prompter that 03 trains, asked as the trained ones
    are: what training did is told from what the request did. A training step may be called bpo, and then stands in for
    the published model. Raises ValueError for a name that is none of them, naming the closest, for tilted without a
    tilt, and for what has no place in a chain.
    """
    if name.startswith("chain:"):
        links = [build(part, cell_folder, prompter, responder, options) for part in name[6:].split("+")]
        alone = [arm.name for arm in links if arm.tilt or arm.loop or arm.fixed or arm.shuffled]
        if alone:
            raise ValueError(f"arm {alone[0]!r} stands for itself: it has no place in a chain")
        return Arm(name, tuple(link for arm in links for link in arm.prompters), responder)
    if name.startswith("shuffled:"):
        return replace(build(name[9:], cell_folder, prompter, responder, options), name=name, shuffled=True)
    trained = Path(cell_folder) / name / "arm.json"
    if name not in BUILT_IN or (name == "bpo" and trained.exists()):
        return _trained(name, Path(cell_folder), responder)
    if name == "tilted" and options.tilt is None:
        raise ValueError("arm 'tilted' wants a Tilt: reward model, λ, rewrites, responses")
    base = (Prompter(prompter),)
    return {
        "nan": Arm(name, (), responder),
        "untrained": Arm(name, base, responder),
        "untrained_poir": Arm(name, (Prompter(prompter, *POIR_REQUEST),), responder),
        "tilted": Arm(name, base, responder, tilt=options.tilt),
        "poir_s1": Arm(name, base, responder, loop=options.loop),
        "bpo": Arm(name, (Prompter(options.bpo, "bpo"),), responder),
        "length_matched": Arm(name, (), responder, fixed="more_detail"),
    }[name]


def _trained(name: str, cell_folder: Path, responder: str) -> Arm:
    path = cell_folder / name / "arm.json"
    if not path.exists():
        known = [*BUILT_IN, "chain:a+b", "shuffled:a", *sorted(p.parent.name for p in cell_folder.glob("*/arm.json"))]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(
            f"arm {name!r} not found: {hint} (a trained arm needs 02_train_alignpro or 03_train_poir first)"
        )
    trained = json.loads(path.read_text("utf-8"))
    model = str(path.parent / trained["model"])
    wanted = steps.trained(steps.meaning(name)) or trained["policy"]
    if trained["policy"] != wanted:
        found = f"wants a trained {wanted}, found a trained {trained['policy']} in {paths.relative(path.parent)}"
        raise ValueError(f"arm {name!r} {found}: train it again by its own name")
    if trained["policy"] == "responder":
        return Arm(name, (), model)
    return Arm(name, (Prompter(model, trained["template"], trained["stop"]),), responder)


def links(name: str) -> list[str]:
    """The arms that an arm's name is made of: a and b of chain:a+b, a of shuffled:a, else itself."""
    name = name.removeprefix("shuffled:")
    return name[6:].split("+") if name.startswith("chain:") else [name]


def write_arm(folder: Path, policy: str, template: str | None, stop: str | None) -> Path:
    """arm.json: how the model trained in folder is used. policy: prompter | responder."""
    row = {"arm": Path(folder).name, "policy": policy, "model": "model", "template": template, "stop": stop}
    return paths.write_atomic(Path(folder) / "arm.json", json.dumps(row, indent=1) + "\n")


def files(arm: Arm) -> list[Path]:
    """Local model folders behind an arm, for the manifest."""
    return references.local_files(arm.responder, *(prompter.model for prompter in arm.prompters))


def rewrite_requests(template: templates.Template, prompts: list[str]) -> list[list[dict]]:
    """The prompter's messages for each prompt."""
    return [templates.messages(template, prompt=prompt) for prompt in prompts]


def clean_rewrite(text: str) -> str:
    """What the prompter wrote behind its thought, if any, up to the delimiter and without blanks around it."""
    return templates.cut_at_delimiter(spoken(text) or "")[0].strip()


def sent(rewrite: str, prompt: str) -> str:
    """What the responder gets: the rewrite, or the prompt itself where the prompter wrote nothing."""
    return rewrite or prompt


def options_of(parameters: dict) -> Options:
    """The options that 04's parameters name; a tilt only where they hold one."""
    names = ("reward_model", "tilt_weight", "tilt_rewrites", "tilt_responses")
    tilt = Tilt(*(parameters[name] for name in names)) if set(names) <= set(parameters) else None
    names = ("num_rounds", "good_score", "num_retries", "max_prompt_tokens")
    loop = Loop(*(parameters[name] for name in names)) if set(names) <= set(parameters) else Loop()
    return Options(tilt, loop, parameters.get("bpo_prompter", BPO_MODEL))

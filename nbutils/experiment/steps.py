"""A step of an experiment as its notebook sees it: a folder, its inputs and outputs, and the manifest written last.

A step is done when its notebook ended without an exception and `verify` accepts its manifest. The executed notebook
proves nothing: after a kernel is killed its cells still read as completed.
"""

import importlib.metadata
import json
import shutil
import subprocess
from pathlib import Path

from nbutils.experiment import days, errors, paths, progress, recording, sessions
from nbutils.experiment.journal import Journal
from nbutils.experiment.params import check, read_schema

_VERSIONS = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "papermill",
    "numpy",
    "pandas",
    "lm_eval",
)


# What an arm of that name is: a step called so trains nothing else, whoever runs it.
_NAMED = {"alignpro": ("policy", "prompter"), "rlhf": ("policy", "responder")}
_NAMED |= {target: ("target", target) for target in ("poir", "dpo_awi", "sft", "dpo_awo")}

_COMMIT = ("refs", "main")  # of a hub's cache: where there is no cache, as on another machine, no model has moved on


class Step:
    """One run of one notebook. Made by `open_step`; `finish` writes manifest.json.

    A manifest that is there goes when the first output is about to change, not before: looking undoes nothing.
    """

    def __init__(self, notebook: str, parameters: dict, step: str):
        self.notebook = notebook
        self.parameters = {**parameters, "step": step}
        self.folder = paths.step_folder(parameters["experiment"], parameters["cell"], step)
        self.counts: dict[str, float] = {}
        self._inputs: dict[str, str] = {}
        self._outputs: list[str] = []
        self._new_folders: list[str] = []
        self._started = 0.0  # of this session, by sessions.begin

    def input(self, path: Path, made_by: str) -> Path:
        """path, recorded with its hash. FileNotFoundError names the notebook that makes it."""
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{paths.relative(path)} not found: run {made_by} first")
        self._inputs[paths.relative(path)] = fingerprint(path)
        return path

    def uses(self, *sources: Path) -> None:
        """Record files or folders (templates, model folders, prompt files) that the numbers depend on."""
        for path in sources:
            self._inputs[paths.relative(path)] = fingerprint(path)

    def sibling(self, step: str, name: str) -> Path:
        """A file of another step of the same experiment and cell."""
        return self.folder.parent / step / name

    def output(self, name: str) -> Path:
        """Path for an output of this step; hashed into the manifest by finish. A folder's name stands for all in it."""
        if name not in self._outputs:
            self._outputs.append(name)
        (self.folder / "manifest.json").unlink(missing_ok=True)
        return self.folder / name

    def new_folder(self, name: str) -> Path:
        """An empty folder that takes the place of the output folder `name` on finish: until then the old one stays."""
        fresh = self._fresh(name)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        self._new_folders.append(name)
        return fresh

    def _fresh(self, name: str) -> Path:
        return self.folder / f".{name}{paths.SCRATCH}"

    def _place_new_folders(self) -> None:
        for name in self._new_folders:
            shutil.rmtree(self.output(name), ignore_errors=True)
            self._fresh(name).rename(self.folder / name)
        self._new_folders.clear()

    def journal(self) -> Journal:
        """The step's journal, to be opened by `with`: what models answered stays in it from run to run."""
        return Journal(self.folder / "journal.jsonl")

    def count(self, name: str, number: float) -> None:
        self.counts[name] = number if isinstance(number, float) else int(number)

    def finish(self, tokens: int = 0) -> dict:
        """Write manifest.json, atomically and last; returns it. tokens: generated in this step, or trained on by 03.

        Its seconds are those of all the sessions that the step took, one that was killed until its last sign of life.
        Raises FileNotFoundError if a promised output is not there.
        """
        self._place_new_folders()
        missing = [name for name in self._outputs if not (self.folder / name).exists()]
        if missing:
            raise FileNotFoundError(f"{paths.relative(self.folder)}: {', '.join(missing)} not written by this notebook")
        seconds, num_sessions = sessions.end(self.folder, self._started)
        manifest = {
            "schema": 1,
            "notebook": self.notebook,
            "notebook_sha256": notebook_sha256(self.notebook),
            "experiment": self.parameters["experiment"],
            "cell": self.parameters["cell"],
            "step": self.parameters["step"],
            "parameters": self.parameters,
            "seed": self.parameters["seed"],
            "inputs": self._inputs,
            "outputs": {name: fingerprint(self.folder / name) for name in self._outputs},
            "counts": self.counts,
            "versions": versions(),
            "commit": commit(),
            "seconds": round(seconds, 1),
            "sessions": num_sessions,
            "tokens": tokens,
        }
        paths.write_atomic(self.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        progress.begin(None)
        days.begin(None)
        return manifest


def open_step(notebook: str, parameters: dict, step: str = "") -> Step:
    """Open outputs/<experiment>/<cell>/<step> for this notebook; what it holds stays until outputs change.

    parameters: the notebook's namespace or the parameters alone; only names of its parameters cell are kept, and they
    are checked by it as the runner checks them; one that `papermill -p` made up is refused. step: the folder; empty:
    see default_name. In a notebook run by hand, outputs are kept from here on (recording.py) and errors shown in one
    line (errors.py).
    Raises ValueError in one line for a value that does not fit, PermissionError when the folder cannot be written.
    """
    errors.show_in_one_line()
    recording.record()
    schema = read_schema(paths.project_root() / "notebooks" / f"{notebook}.ipynb")
    named = [*schema, *(recording.injected() - schema.keys())]
    known = check(schema, {name: parameters[name] for name in named if name in parameters}, notebook)
    name = step or default_name(notebook, known)
    check_name(name, known)
    opened = Step(notebook, known, name)
    try:
        opened.folder.mkdir(parents=True, exist_ok=True)
        opened._started = sessions.begin(opened.folder)
        progress.begin(opened.folder)
        days.begin(opened.folder)
        for scratch in opened.folder.rglob(f".*{paths.SCRATCH}"):  # of a run that was killed while it wrote
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink(missing_ok=True)
    except OSError as error:
        raise PermissionError(
            f"cannot write to {opened.folder} ({error.strerror}): change outputs' owner or set WORKBOOK_OUTPUTS"
        ) from None
    return opened


def default_name(notebook: str, parameters: dict) -> str:
    """A step's name where none is given: that of what it trains, else the notebook's own."""
    if parameters.get("step"):
        return parameters["step"]
    if "target" in parameters:
        return parameters["target"]
    for name, (parameter, value) in _NAMED.items():
        if parameter == "policy" and parameters.get("policy") == value:
            return name
    return notebook.lstrip("0123456789").lstrip("_") or notebook


def meaning(name: str) -> dict[str, str]:
    """The parameter that an arm's name stands for: {"policy": "prompter"} of alignpro; {} of a name that is free."""
    return dict([_NAMED[name]]) if name in _NAMED else {}


def trained(parameters: dict) -> str:
    """What a step with these parameters trains: prompter or responder; "" if it trains nothing."""
    if "policy" in parameters:
        return parameters["policy"]
    return {"": "", "dpo_awo": "responder"}.get(parameters.get("target", ""), "prompter")


def check_name(name: str, parameters: dict) -> None:
    """ValueError, in one line, where a step has an arm's name and trains something else."""
    for parameter, wanted in meaning(name).items():
        got = parameters.get(parameter, wanted)
        if got != wanted:
            fitting = next((other for other in _NAMED if meaning(other) == {parameter: got}), "")
            named = f"call it {fitting}" if fitting else "give it another name"
            raise ValueError(f"step {name!r} means {parameter}: {wanted}, got {got!r}: {named}, or correct {parameter}")


def verify(folder: Path) -> tuple[bool, str]:
    """Whether the step in folder is done: manifest there, every output and input as the manifest says. Else why not."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False, "no manifest"
    for name, digest in manifest["outputs"].items():
        if not (Path(folder) / name).exists():
            return False, f"output {name} is gone"
        if fingerprint(Path(folder) / name) != digest:
            return False, f"output {name} has changed"
    for name, digest in manifest["inputs"].items():
        path = paths.project_root() / name
        if not path.exists() and path.parts[-2:] == _COMMIT:
            continue
        if not path.exists():
            return False, f"input {name} is gone"
        if fingerprint(path) != digest:
            return False, f"input {name} has changed"
    return True, "done"


def read_manifest(folder: Path) -> dict | None:
    path = Path(folder) / "manifest.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def fingerprint(path: Path) -> str:
    return paths.sha256_tree(path) if Path(path).is_dir() else paths.sha256_file(path)


def _cells(notebook: str) -> list[dict]:
    path = paths.project_root() / "notebooks" / f"{notebook}.ipynb"
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def _source(cell: dict) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def notebook_sha256(notebook: str) -> str:
    """Hash of the source notebook's code: prose may change without a rerun, parameters are compared as such."""
    return paths.sha256_json([_source(cell) for cell in _cells(notebook) if not _is_parameters(cell)])


def _is_parameters(cell: dict) -> bool:
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def versions() -> dict[str, str]:
    found = {}
    for name in ("nbutils", *_VERSIONS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The project's commit, with + for uncommitted changes; None outside a repository."""
    command = ["git", "-C", str(paths.project_root()), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None

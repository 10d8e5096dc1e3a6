"""A step of an experiment as its notebook sees it: a folder, its inputs and outputs, and the manifest written last.

A step is done when its notebook ended without an exception and `verify` accepts its manifest. The executed notebook
proves nothing: after a kernel is killed its cells still read as completed.
"""

import ast
import importlib.metadata
import json
import subprocess
from pathlib import Path

from nbutils.experiment import paths, sessions
from nbutils.experiment.journal import Journal

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


class Step:
    """One run of one notebook. Made by `open_step`; `finish` writes manifest.json."""

    def __init__(self, notebook: str, parameters: dict, step: str):
        self.notebook = notebook
        self.parameters = {**parameters, "step": step}
        self.folder = paths.step_folder(parameters["experiment"], parameters["cell"], step)
        self.counts: dict[str, float] = {}
        self._inputs: dict[str, str] = {}
        self._outputs: list[str] = []
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
        return self.folder / name

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
        return manifest


def open_step(notebook: str, parameters: dict, step: str) -> Step:
    """Open outputs/<experiment>/<cell>/<step> for this notebook; an old manifest goes, the journal stays.

    parameters: the notebook's namespace or the parameters alone; only names of its parameter cell are kept.
    Raises PermissionError when the folder cannot be written.
    """
    names = parameter_names(notebook)
    known = {name: parameters[name] for name in names if name in parameters}
    opened = Step(notebook, known, step)
    try:
        opened.folder.mkdir(parents=True, exist_ok=True)
        (opened.folder / "manifest.json").unlink(missing_ok=True)
        opened._started = sessions.begin(opened.folder)
        for scratch in opened.folder.rglob(f".*{paths.SCRATCH}"):  # of a run that was killed while it wrote
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise PermissionError(
            f"cannot write to {opened.folder} ({error.strerror}): change outputs' owner or set WORKBOOK_OUTPUTS"
        ) from None
    return opened


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
    """Hash of the code of the source notebook: prose may change without a rerun."""
    return paths.sha256_json([_source(cell) for cell in _cells(notebook)])


def parameter_names(notebook: str) -> list[str]:
    """Names that the tagged parameter cell of the source notebook assigns."""
    tagged = [cell for cell in _cells(notebook) if "parameters" in cell.get("metadata", {}).get("tags", [])]
    tree = ast.parse("\n".join(_source(cell) for cell in tagged))
    targets = [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


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

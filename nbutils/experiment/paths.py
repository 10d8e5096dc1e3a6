"""Where things are, and how a file is written so that it is either the old one or the new one."""

import errno
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import tqdm.std

# Every module imports this one first. tqdm.auto, which other libraries use, would make a widget of each bar, and a
# stored notebook or its page would show it at 0% for ever: text bars are what we want.
sys.modules.setdefault("tqdm.autonotebook", tqdm.std)

_WHOLE, _BLOCK = 256 * 2**20, 2**20
_LITTER = ("__pycache__", "Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "Icon\r")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def project_root() -> Path:
    """The folder that holds params/ and notebooks/: $WORKBOOK_ROOT, else upwards from here, else the package's own."""
    if os.environ.get("WORKBOOK_ROOT"):
        return expanded(os.environ["WORKBOOK_ROOT"]).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "params").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return Path(__file__).resolve().parents[2]


def outputs_root() -> Path:
    return expanded(os.environ.get("WORKBOOK_OUTPUTS") or project_root() / "outputs").resolve()


def expanded(path: str | Path) -> Path:
    """path with a home folder in place of its ~, which a shell leaves in quotes; one of nobody's stays as it is."""
    return Path(os.path.expanduser(path))


def code_folders() -> list[Path]:
    """Where a <module>:<function> of one's own is looked for first: $WORKBOOK_CODE (the runner makes it the folder of
    the experiment file), the project's root, params/."""
    own = os.environ.get("WORKBOOK_CODE")
    return [*([expanded(own)] if own else []), project_root(), project_root() / "params"]


def check_name(name: str, what: str) -> str:
    """name, if it can be a folder's name anywhere; ValueError otherwise."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r}: letters, digits and . _ + - are allowed, the first a letter or digit")
    return name


def step_folder(experiment: str, cell: str, step: str) -> Path:
    """outputs/<experiment>/<cell>/<step>; not created here."""
    parts = (("experiment", experiment), ("cell", cell), ("step", step))
    return outputs_root().joinpath(*(check_name(name, what) for what, name in parts))


def template_folder(name: str) -> Path:
    """params/templates/<name>, or any folder relative to the project when name holds a separator."""
    root = project_root()
    return root / expanded(name) if "/" in name or os.sep in name else root / "params" / "templates" / name


def relative(path: Path) -> str:
    """path as manifests name it: relative to the project where it lies inside, with forward slashes."""
    path = Path(path).resolve()
    root = project_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def shown(path: Path) -> str:
    """path as a user can open it from where they are: relative to the project only inside it."""
    inside = Path.cwd().resolve().is_relative_to(project_root())
    return relative(path) if inside else Path(path).resolve().as_posix()


def without_places(value):
    """value (text, or lists and dicts of it) without the folders of this machine, for what may be shared."""
    places = {outputs_root(): "outputs/", project_root(): "", Path(sys.prefix): "python/", Path.home(): "~/"}
    known = {f"{place}/": short for place, short in places.items() if len(place.parts) > 1}
    ordered = sorted(known, key=len, reverse=True)
    pattern = re.compile(r"(?<![\w/.])(?:" + "|".join(map(re.escape, ordered)) + ")")
    return _replaced(value, pattern, known)


def _replaced(value, pattern: re.Pattern, known: dict[str, str]):
    if isinstance(value, str):
        return pattern.sub(lambda found: known[found[0]], value)
    if isinstance(value, dict):
        return {key: _replaced(one, pattern, known) for key, one in value.items()}
    return [_replaced(one, pattern, known) for one in value] if isinstance(value, list) else value


SCRATCH = ".part"  # ends the hidden file that becomes the real one; a kill can leave it behind


def write_atomic(path: Path | str, data: str | bytes) -> Path:
    """Write data (text as UTF-8) so that a reader, a crash or a full disk never meets half a file.

    An OSError names the file, relative to the project.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode("utf-8") if isinstance(data, str) else data
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SCRATCH)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o666 & ~_umask())
        os.replace(scratch, path)
    except BaseException as error:
        Path(scratch).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, relative(path)) from None
        raise
    return path


def append_line(file: int, line: bytes, path: Path) -> None:
    """Add one line to an open file by one write; on a full disk none of it stays, and the OSError names the file.

    file: descriptor, opened for appending. Not fsynced here.
    """
    start = os.fstat(file).st_size
    try:
        written = os.write(file, line)
    except OSError as error:
        os.ftruncate(file, start)
        raise OSError(error.errno, error.strerror, relative(path)) from None
    if written != len(line):  # a disk that fills up takes a part: leave none of it
        os.ftruncate(file, start)
        raise OSError(errno.ENOSPC, "No space left on device", relative(path))


def reason(error: OSError) -> str:
    """What the system says, and of which file: `No space left on device: outputs/x/main/collect/pairs.jsonl`."""
    return str(error) if error.filename is None or not error.strerror else f"{error.strerror}: {error.filename}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256_file(path: Path) -> str:
    """Hash of a file's content; above 256 MB, of its size and of 64 blocks of 1 MB spread over it, ends included."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for block in range(64):
            file.seek((size - _BLOCK) * block // 63)
            digest.update(file.read(_BLOCK))
        return digest.hexdigest()


def sha256_tree(folder: Path) -> str:
    """One hash for all files below folder, by name and content, without what is_litter."""
    folder = Path(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and not is_litter(path.relative_to(folder))]
    return sha256_json([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in sorted(files)])


def is_litter(path: Path) -> bool:
    """Whether a file is what systems, editors and caches leave: hidden, in a hidden folder, or of a known name."""
    return any(part.startswith(".") or part.endswith("~") or part in _LITTER for part in path.parts)


def sha256_json(value) -> str:
    """Hash of the canonical JSON of value; any str survives, lone surrogates included (escaped as ASCII)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()

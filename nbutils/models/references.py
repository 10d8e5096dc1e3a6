"""What the one string that names a model means: sandbox/<name>, a hub id, a local folder, api:<model>[@<server>], or
<module>:<function>; what it is known by in keys and manifests, how large it is, and whether it can be used.

Nothing here loads weights or imports torch; nothing is fetched but the configs of a hub model that is not here yet,
whose commit is part of what it is known by.
"""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from nbutils.experiment import paths
from nbutils.models import folders, hub

SANDBOX = {
    "prompter": "weights/base",
    "responder": "weights/base",
    "llama_prompter": "weights/llama",
    "llama_responder": "weights/llama",
    "reward": "weights/reward",
    "judge": "nbutils.sandbox.judge:answer",
    "gold": "nbutils.sandbox.gold:score",
}
REWARD = "reward:"  # before a model's reference, where a judge is wanted: a reward model that judges
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SERVER = re.compile(r"(.+)@([A-Za-z]\w*)")  # a version such as @20240620 is part of a model's name
_QUOTES = "\"'“”‘’„‚«»`"
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Server:
    """Where a model behind an API is asked: its name there, and the environment's variables with address and key."""

    model: str
    url_name: str
    key_name: str
    is_named: bool

    @property
    def url(self) -> str:
        return os.environ.get(self.url_name, "").rstrip("/")

    @property
    def key(self) -> str:
        """A server of one's own may want none; another server never gets the default one's."""
        return os.environ.get(self.key_name, "none" if self.is_named else "")

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own, which is asked where no address is set."""
        host = urllib.parse.urlsplit(self.url).hostname
        return host == "api.openai.com" or not (self.is_named or self.url)

    @property
    def lacks(self) -> str:
        """The variable without which nothing can be asked, if it is not set; else empty."""
        needed = self.url_name if self.is_named else self.key_name
        return "" if os.environ.get(needed) else needed

    @property
    def flaw(self) -> str:
        """Why the key cannot be one, without a letter of it; else empty."""
        odd = next((letter for letter in self.key if letter in _QUOTES or not "!" <= letter <= "~"), "")
        if not odd:
            return ""
        kind = "a blank or line end" if odd.isspace() else "a letter that no key has"
        kind = "quotes" if odd in _QUOTES else kind
        return f"{self.key_name} holds {kind}: set it to the bare key, as your provider shows it"


def server(ref: str) -> Server:
    """api:<model> is asked at OPENAI_BASE_URL (OpenAI's, if that is not set) with OPENAI_API_KEY; api:<model>@<server>
    at <SERVER>_OPENAI_BASE_URL with <SERVER>_OPENAI_API_KEY, if that is set."""
    model = ref.removeprefix("api:")
    named = _SERVER.fullmatch(model)
    start = f"{named[2].upper()}_" if named else ""
    return Server(
        named[1] if named else model, f"{start}OPENAI_BASE_URL", f"{start}OPENAI_API_KEY", is_named=bool(named)
    )


def resolve(ref: str) -> str:
    """The local folder (absolute), hub id, api:<model> or <module>:<function> behind ref. ValueError if it is none.

    A judge's `reward:` in front of a reference says what the model is used for, and is no part of its name.
    """
    ref = ref.removeprefix(REWARD)
    if ref.startswith("sandbox/"):
        return _sandbox(ref.removeprefix("sandbox/"))
    if ref.startswith("api:") or _CALLABLE.fullmatch(ref):
        return ref
    for folder in (paths.expanded(ref), place(ref)):
        if folder.is_dir():
            return str(folder.resolve())
    if _HUB.fullmatch(ref):
        return ref
    raise ValueError(
        f"model {ref!r} not found: wanted sandbox/<{'|'.join(SANDBOX)}>, a hub id (owner/name), an existing folder, "
        "api:<model> or <module>:<function>"
    )


def place(ref: str) -> Path:
    """Where a folder reference lies: in outputs, wherever that is, or in the project."""
    inside = ref.removeprefix("outputs/")
    return (paths.project_root() / ref if inside == ref else paths.outputs_root() / inside).resolve()


def _sandbox(name: str) -> str:
    if name not in SANDBOX:
        near = difflib.get_close_matches(name, SANDBOX, n=1)
        hint = f"did you mean sandbox/{near[0]}?" if near else f"there are sandbox/{', sandbox/'.join(SANDBOX)}"
        raise ValueError(f"model 'sandbox/{name}' not found: {hint}")
    target = SANDBOX[name]
    return target if ":" in target else str(Path(__file__).resolve().parents[1] / "sandbox" / target)


def kind(ref: str) -> str:
    """local | hub | api | callable."""
    target = resolve(ref)
    if target.startswith("api:"):
        return "api"
    if os.path.isabs(target):
        return "local"
    return "callable" if _CALLABLE.fullmatch(target) else "hub"


def check(ref: str, task: str = "causal") -> None:
    """Raise one clear line (ValueError, FileNotFoundError) if ref can't be used for task; loads and fetches nothing.

    task: causal (writes: needs a chat template) | trained (causal, and whole: no adapter) | reward (needs a
    sequence-classification head of one output, in its weights) | reward base (whole, with a chat template and any head)
    | weights (needs none of these). A hub model is checked as far as it is in the cache.
    """
    target = resolve(ref)
    if task in ("trained", "reward base") and kind(ref) not in ("local", "hub"):
        raise ValueError(f"{ref!r} has no weights to train: wanted a hub id or a model folder")
    if kind(ref) == "callable":
        load_callable(target)
    elif kind(ref) == "local":
        folders.check(Path(target), task)
    elif (cached := folder(ref)) and _is_whole(cached):
        folders.check(cached, task)
    if on := base(ref):
        _check_base(ref, on)


def _is_whole(cached: Path) -> bool:
    """Whether all files that the weights need are in a cached snapshot: what is not will be fetched."""
    names = folders.weights(cached)
    return folders.has_tokenizer(cached) and bool(names) and all(path.exists() for path in names)


def folder(ref: str) -> Path | None:
    """Where a model's files are on this machine: its folder, or its snapshot in the hub's cache; None if nowhere."""
    if kind(ref) == "local":
        return Path(resolve(ref))
    return hub.snapshot(resolve(ref)) if kind(ref) == "hub" else None


def base(ref: str) -> str:
    """The reference of the model that an adapter stands on; empty for all that is no adapter, as far as it is here."""
    found = folder(ref)
    return folders.base(found) if found else ""


def _check_base(ref: str, on: str) -> None:
    if "/" not in on and not place(on).is_dir():
        return  # one of the hub's oldest models, which have no owner
    try:
        there = kind(on) in ("local", "hub")
    except ValueError:
        there = False
    if not there:
        advice = "put it there, or correct base_model_name_or_path in adapter_config.json"
        raise FileNotFoundError(f"{ref} is an adapter on {on}, which is not here: {advice}")
    if base(on):
        raise ValueError(f"{ref} is an adapter on {on}, an adapter too: merge that into its model first")
    check(on, "weights")


def local_files(*refs: str) -> list[Path]:
    """Local model folders, callables' source files and the hub cache's commits among refs: what a manifest can hash.

    A notebook asks when it opens its step: a folder or function that is not there is one line before any work.
    """
    found = []
    for ref in refs:
        target = resolve(ref)
        if kind(ref) == "local":
            found.append(Path(target))
        elif kind(ref) == "callable":
            load_callable(ref)
            with _own_code():
                spec = importlib.util.find_spec(target.split(":")[0])
            if spec and spec.origin:
                found.append(Path(spec.origin))
        elif kind(ref) == "hub" and hub.commit(target):
            found.append(hub.main(target))
        if "/" in (on := base(ref)):
            found += local_files(on)
    return found


@functools.lru_cache(maxsize=64)
def _identity(target: str, stamp: tuple) -> str:
    return paths.sha256_tree(Path(target)) if os.path.isdir(target) else target


def identity(ref: str) -> str:
    """What a request's key says about the model: content hash of a folder, module source hash, a hub id with the commit
    that is loaded (fetched first, where no file of it is here), else the reference; an adapter's with its model's."""
    own, on = _own_identity(ref), base(ref)  # in this order: an adapter on the hub may not be here before
    return own + (f" on {_own_identity(on) if '/' in on else on}" if on else "")


def _own_identity(ref: str) -> str:
    target = resolve(ref)
    if kind(ref) == "local":
        files = sorted(path for path in Path(target).rglob("*") if path.is_file())
        return _identity(target, tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files))
    if kind(ref) == "callable":
        return target + ":" + "".join(paths.sha256_file(path) for path in local_files(ref))
    if kind(ref) == "api":
        return f"{server(ref).url} api:{server(ref).model}"
    return f"{target}@{commit}" if (commit := hub.commit(target)) else target


def load_callable(ref: str):
    """The function behind <module>:<function>, of paths.code_folders or installed. ValueError if there is none."""
    module, name = resolve(ref).split(":")
    try:
        with _own_code():
            found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"{ref!r}: {_not_found(module, error.name or '')}") from None
    except SyntaxError as error:
        where = f"{Path(error.filename or module).name}:{error.lineno}"
        raise ValueError(f"{ref!r}: {where} is not valid Python ({error.msg}): correct it") from None
    if not callable(found):
        raise ValueError(f"{ref!r}: module {module} has no function {name}")
    return found


def shown(value) -> str:
    """The beginning of what a function returned, for an error's one line."""
    if inspect.iscoroutine(value):
        value.close()  # nobody will await it
        return "it is async, wrap it in a function that waits for it"
    return "got " + " ".join(repr(value).split())[:60]


def _not_found(module: str, missing: str) -> str:
    if module != missing and not module.startswith(f"{missing}."):
        return f"{module} imports {missing}, which is not installed: install it"
    file = f"{module.replace('.', '/')}.py"
    return f"module {missing} not found: put {file} beside the experiment file or into the project's root"


@contextlib.contextmanager
def _own_code():
    """The user's own folders first on the path of imports; after it last, for what their modules import later."""
    folders, before = [str(folder) for folder in paths.code_folders()], list(sys.path)
    sys.path[:0] = folders
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before + [folder for folder in folders if folder not in before]


def describe(ref: str) -> dict:
    """{"kind", "num_parameters": int | None, "present": bool}, from safetensors headers or the name.

    An adapter counts with the model that it stands on.
    """
    if kind(ref) not in ("local", "hub"):
        return {"kind": kind(ref), "num_parameters": None, "present": kind(ref) == "callable"}
    found = folder(ref)
    number = folders.num_parameters(found) if found else None
    if found and folders.is_adapter(found):
        number = _with_base(found, number)
    return {
        "kind": kind(ref),
        "num_parameters": number or (_size_in_name(resolve(ref)) if kind(ref) == "hub" else None),
        "present": found is not None,
    }


def _with_base(adapter: Path, number: int | None) -> int | None:
    try:
        on = folders.base(adapter)
        whole = describe(on)["num_parameters"] if not base(on) else None
    except ValueError:  # it is nowhere, or its config is no JSON, which `check` says
        whole = None
    return number + whole if number and whole else None


def _size_in_name(name: str) -> int | None:
    found = re.search(r"(\d+(?:\.\d+)?)[bB](?![a-zA-Z0-9])", name)
    if found:
        return int(float(found[1]) * 1e9)
    return 3_800_000_000 if "Phi-3.5-mini" in name or "Phi-3-mini" in name else None

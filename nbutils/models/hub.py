"""The Hugging Face hub, asked one short question before anything is loaded: is it there, and may we have it?

Its own client asks again and again for a minute where a name is mistyped or the network is gone. And which commit of a
model is in the cache: that one is loaded, whatever the hub has by now, until somebody downloads another.
"""

import contextlib
import functools
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path

_SECONDS = 8
_ADVICE = "go online, download it first, or name a local folder"


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _cache(hub_id: str, kind: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}--{hub_id.replace('/', '--')}"


def is_cached(hub_id: str, kind: str = "models") -> bool:
    """Whether any of a repository is in the hub's cache on this machine. kind: models | datasets."""
    return any((_cache(hub_id, kind) / "snapshots").glob("*/*"))


def main(hub_id: str) -> Path:
    """The file in the cache that holds the commit of a model's main branch."""
    return _cache(hub_id, "models") / "refs" / "main"


def snapshot(hub_id: str) -> Path | None:
    """The folder in the cache that holds what has been fetched of a model; None where there is none."""
    if not main(hub_id).is_file():
        return None
    found = _cache(hub_id, "models") / "snapshots" / main(hub_id).read_text("utf-8").strip()
    return found if found.is_dir() else None


def commit(hub_id: str) -> str:
    """The commit of a model that this process loads, the same all through it; "" where none can be known.

    It is the cache's. Where nothing of the model is here, its configs are fetched, which puts its newest commit there.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    if not is_cached(hub_id) and not trouble(hub_id):
        with contextlib.suppress(OSError, HfHubHTTPError):  # loading says why
            huggingface_hub.snapshot_download(hub_id, allow_patterns=["*config.json"])
    try:
        return _first_commit(main(hub_id))
    except FileNotFoundError:
        return ""


@functools.cache  # what is not there raises, and is looked for again
def _first_commit(file: Path) -> str:
    return file.read_text("utf-8").strip()


def trouble(hub_id: str, kind: str = "models") -> str:
    """One line about a repository that cannot be fetched; "" for one that can, or is here already. kind: models |
    datasets. Takes eight seconds at most."""
    if is_cached(hub_id, kind):
        return ""
    if is_offline():
        return f"{hub_id} is not in the local cache, and HF_HUB_OFFLINE is set: {_ADVICE}"
    from huggingface_hub import constants, get_token

    folder, token = "" if kind == "models" else f"{kind}/", get_token()
    request = urllib.request.Request(
        f"{constants.ENDPOINT}/{folder}{hub_id}/resolve/main/README.md",
        headers={"Authorization": f"Bearer {token}"} if token else {},
        method="HEAD",
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        return _refused(hub_id, error)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        why = getattr(error, "reason", None) or error
        if isinstance(why, ssl.SSLError):
            return ""  # certificates of a proxy: the client may know them
        return f"{hub_id} cannot be fetched, {constants.ENDPOINT} cannot be reached ({why}): {_ADVICE}"


def _refused(hub_id: str, error: urllib.error.HTTPError) -> str:
    """What an error status says of a repository; a missing README, or a busy hub, says nothing."""
    code = error.headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        return f"{hub_id} is gated: ask for access on its hub page, then set HF_TOKEN"
    if code == "RepoNotFound" or (error.code in (401, 404) and not code):
        return f"{hub_id} does not exist on the hub, or HF_TOKEN may not see it: check the name"
    return ""

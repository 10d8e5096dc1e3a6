"""The Hugging Face hub, asked one short question before anything is loaded: is it there, and may we have it?

Its own client asks again and again for a minute where a name is mistyped or the network is gone.
"""

import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path

_SECONDS = 8
_ADVICE = "go online, download it first, or name a local folder"


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def is_cached(hub_id: str, kind: str = "models") -> bool:
    """Whether any of a repository is in the hub's cache on this machine. kind: models | datasets."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"{kind}--{hub_id.replace('/', '--')}"
    return any((folder / "snapshots").glob("*/*"))


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

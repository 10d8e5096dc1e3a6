"""One trial of each API server before any work: address, key and model are found wanting in seconds, not after hours.

The list of models (GET /models) costs nothing and is asked for first. Where it tells nothing of the key (it is open to
everyone) or of the model (which is not in it), a completion of one token follows; it is in the journal of the first
step that asks this server, so that its limits and counts know of it.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nbutils.experiment.grid import PlannedStep
from nbutils.experiment.journal import Journal
from nbutils.experiment.redaction import redact
from nbutils.models import references, refusals
from nbutils.models.references import Server
from nbutils.models.spending import ATTEMPT, SETTLED, Spending, SpendLimit
from nbutils.run.uses import limits, used_models

_SECONDS = 10.0  # for the list of models
_ANSWER_SECONDS = 60.0  # for one token: a local server may load its model first
_SKIP = "--no-check-servers runs without this trial"


@dataclass(frozen=True)
class _Trial:
    """A model behind an API, and the first step that asks it."""

    reference: str
    step: PlannedStep

    @property
    def server(self) -> Server:
        return references.server(self.reference)

    def fault(self, said: str) -> ValueError:
        where, server = f"{self.step.cell}/{self.step.id}: {self.reference}", self.server
        address = f"{server.url or 'https://api.openai.com/v1'} ({server.url_name})"
        text = " ".join(redact(said).split())[:300]
        return ValueError(f"{where}: the server at {address}, key from {server.key_name}, {text}; {_SKIP}")


def try_servers(pending: list[PlannedStep]) -> list[str]:
    """What is to be said of servers that answered oddly, but may do; ValueError for one that cannot be used."""
    return [note for trial in _trials(pending) if (note := _try(trial))]


def _trials(pending: list[PlannedStep]) -> Iterator[_Trial]:
    """Each model behind an API once."""
    seen: set[str] = set()
    for step in pending:
        for ref in used_models(step).values():
            if ref.startswith("api:") and ref not in seen:
                seen.add(ref)
                yield _Trial(ref, step)


def _try(trial: _Trial) -> str:
    import openai

    server = trial.server
    if server.flaw:
        raise ValueError(f"{trial.step.cell}/{trial.step.id}: {trial.reference}: {server.flaw}")
    options = {"base_url": server.url or None, "max_retries": 0}
    with openai.OpenAI(api_key=server.key, timeout=_SECONDS, **options) as client:
        try:
            listed = _listed(client)
            if listed is not None and (not listed or server.model in listed) and _is_guarded(options, server):
                return ""
            return _ask(trial, client.with_options(timeout=_ANSWER_SECONDS))
        except openai.APITimeoutError:
            raise trial.fault(f"gives no answer within {_SECONDS:.0f} s: is the address right?") from None
        except (openai.APIConnectionError, UnicodeEncodeError) as error:
            why = error.__cause__ or error
            raise trial.fault(f"cannot be reached ({why}): correct the address, or start the server") from None


def _listed(client) -> list[str] | None:
    """Names of the models that a server lists; None where it does not."""
    import openai

    try:
        made = client.get("/models", cast_to=object)
        rows = (json.loads(made) if isinstance(made, str) else made)["data"]
        return [row["id"] for row in rows]
    except (openai.APIStatusError, ValueError, TypeError, KeyError):
        return None


def _is_guarded(options: dict, server: Server) -> bool:
    """Whether the list says something of the key: there is none, or who has none does not get the list."""
    import openai

    if server.key == "none":
        return True
    with openai.OpenAI(api_key="none", timeout=_SECONDS, **options) as stranger:
        return _listed(stranger) is None


def _ask(trial: _Trial, client) -> str:
    """A completion of one token, journalled like any call; what is to be said if it was answered oddly."""
    server, step = trial.server, trial.step
    step.folder.mkdir(parents=True, exist_ok=True)
    with Journal(step.folder / "journal.jsonl") as journal:
        try:
            Spending(limits(step), journal).begin(server.model, 1, 1)
        except SpendLimit:
            return ""  # the step itself says so
        stamp = time.time_ns()
        attempt = {"model": server.model, "unanswered_calls": 1, "read": 1, "written": 1}
        journal.append(f"trial{ATTEMPT}{stamp}", attempt)
        usage, note = _complete(trial, client)
        settled = {"unanswered_calls": -1, "read": usage.get("prompt_tokens") or 0}
        journal.append(f"trial{SETTLED}{stamp}", settled | {"written": usage.get("completion_tokens") or 0})
    return note


def _complete(trial: _Trial, client) -> tuple[dict, str]:
    """(tokens used, what is to be said)."""
    import openai

    body = {"model": trial.server.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    try:
        made = client.post("/chat/completions", body=body, cast_to=object)
        made = json.loads(made) if isinstance(made, str) else made
        if not (said := refusals.inside(made)):
            return made.get("usage") or {}, ""
    except openai.APITimeoutError:
        return {}, f"{trial.reference} gave no answer to a trial call within {_ANSWER_SECONDS:.0f} s; going on"
    except openai.APIStatusError as error:
        said = refusals.read(error)
    except (ValueError, AttributeError):
        raise trial.fault("answers with something else than JSON: is the address right (…/v1)?") from None
    return {}, _odd(trial, said)


def _odd(trial: _Trial, said: refusals.Said) -> str:
    """What is to be said of an error, but that a limit of one token is too low or has another name; or ValueError."""
    if said.is_hopeless or said.is_quota or (said.status < 500 and said.is_about_model):
        raise trial.fault(f"answers {said.status}: {said.words}")
    if said.status in (400, 422) and "max_" in said.text:
        return ""
    return redact(f"{trial.reference} answers {said.status}: {said.words}")[:300] + "; going on"

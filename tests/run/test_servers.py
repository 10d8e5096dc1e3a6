"""One trial of each API server before any work: free where it can be, else counted; one line where it fails."""

import time

import fakes
import pytest
from server import Fault, Server, billed
from tiny_project import SHARED, make_project, write_experiment, write_notebook

from nbutils.experiment.journal import Journal
from nbutils.models import completions
from nbutils.models.spending import Limits, Spending
from nbutils.run import plan
from nbutils.run.servers import try_servers

ASK = SHARED + 'responder: str = "api:gpt-x"\njudge: str = "api:gpt-x"\n'
LIMITED = ASK + 'max_calls: int = 1\nmax_usd: float = 0.0\nprices: str = "prices.csv"\n'


@pytest.fixture
def server(tmp_path, monkeypatch):
    completions.refused_by.cache_clear()  # a port may have been another server's
    with Server(fakes.everyone, tmp_path / "ledger.txt") as served:
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary0123456789abcdef")
        yield served


@pytest.fixture
def steps(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    monkeypatch.delenv("WORKBOOK_OUTPUTS", raising=False)
    make_project(tmp_path)
    (tmp_path / "prices.csv").write_text("model,read,written\ngpt-x,1,1\n")
    write_notebook(tmp_path / "notebooks" / "04_more.ipynb", LIMITED, ["1"])
    path = write_experiment(
        tmp_path / "params" / "tiny.yml",
        grid={"color": ["red", "blue"]},
        shared={},
        steps=[{"notebook": "04_more"}],
    )
    return plan.load(path)[1]


def journalled(step):
    with Journal(step.folder / "journal.jsonl") as journal:
        return Spending(Limits(), journal).calls, journal.total("unanswered_calls")


def test_a_guarded_list_that_has_the_model_is_enough_and_free(server, steps):
    server.lists, server.keys = ("gpt-x",), ("sk-canary0123456789abcdef",)
    assert try_servers(steps) == [] and not server.calls and not steps[0].folder.exists()


@pytest.mark.parametrize(
    ("lists", "keys"), [(("gpt-x",), ()), (("another",), ("sk-canary0123456789abcdef",)), (None, ())]
)
def test_where_the_list_says_too_little_one_token_is_asked_for_once_and_counted(server, steps, lists, keys):
    server.lists, server.keys = lists, keys
    assert try_servers(steps) == []
    assert [body["max_tokens"] for body in server.bodies] == [1] and sum(billed(server.ledger_path).values()) == 1
    assert journalled(steps[0]) == (1, 0) and plan.journalled(steps[0].folder) == 0
    assert try_servers(steps) == [] and len(server.calls) == 1  # max_calls is 1: no call goes beyond it


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("401", "answers 401: "),
        ("402", "answers 402: payment required"),
        ("quota", "answers 429: you have no money left"),
        ("html", "answers with something else than JSON"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line_with_address_variables_and_its_words(server, steps, fault, words):
    server.lists, server.faults[None] = None, [fault, "…"]
    with pytest.raises(ValueError) as caught:
        try_servers(steps)
    line = str(caught.value)
    assert (
        f"red/more: api:gpt-x: the server at {server.url} (OPENAI_BASE_URL), key from OPENAI_API_KEY, {words}" in line
    )
    assert "--no-check-servers" in line and "sk-canar" not in line and "\n" not in line


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"error": {"message": "gpt-x is not a valid model ID", "code": 400}},
            "answers 400: gpt-x is not a valid model",
        ),
        (
            {"error": {"message": "The model `gpt-x` does not exist", "code": "model_not_found"}},
            "answers 400: The model",
        ),
        ({"error": {"message": "Your credit balance is too low"}}, "answers 400: Your credit balance"),
    ],
)
@pytest.mark.parametrize("status", [400, 200])
def test_a_name_that_a_server_does_not_know_is_found_wherever_it_says_so(server, steps, status, body, words):
    error = body["error"] | ({"type": "invalid_request_error"} if status == 200 else {})
    server.lists, server.faults[None] = None, [Fault(status, {"error": error}), "…"]
    with pytest.raises(ValueError) as caught:
        try_servers(steps)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "Could not finish the message because max_tokens or model output limit was reached.",
    ],
)
def test_a_server_that_wants_another_limit_than_one_token_is_none_the_worse(server, steps, words):
    server.lists, server.faults[None] = None, [Fault(400, {"error": {"message": words}}), "…"]
    assert try_servers(steps) == []


def test_a_key_in_curly_quotes_is_one_line_without_the_key(server, steps, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "“sk-canary0123456789abcdef”")
    with pytest.raises(
        ValueError, match="^red/more: api:gpt-x: OPENAI_API_KEY holds quotes: set it to the bare key"
    ) as it:
        try_servers(steps)
    assert "canary" not in str(it.value) and not server.calls


@pytest.mark.parametrize("fault", ["429", "500"])
def test_what_may_pass_is_said_and_the_run_goes_on(server, steps, fault):
    server.lists, server.faults[None] = None, [fault, "…"]
    (note,) = try_servers(steps)
    assert note.startswith(f"api:gpt-x answers {fault}") and note.endswith("; going on")


def test_an_address_where_nothing_answers_is_said_in_seconds(steps, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    started = time.monotonic()
    with pytest.raises(ValueError, match="the server at http://127.0.0.1:9/v1 .* cannot be reached"):
        try_servers(steps)
    assert time.monotonic() - started < 10

"""What an API can do wrong, row by row, against a server that keeps its own ledger.

Promises: a known answer is paid for once, every call ends by a deadline, what stays open has a reason and is asked
again by the next run, calls that may have been billed for nothing are counted, no secret is stored or shown.
"""

import asyncio
import signal
import threading
import time
import traceback
from dataclasses import asdict

import fakes
import pytest
import server as scripted
from hypothesis import given, strategies as st
from server import FAULTS, Fault, Server, fingerprint, http_date, read_ledger, retry_after

from nbutils.experiment.journal import Journal
from nbutils.models import api, completions, fates, refusals
from nbutils.models.devices import Runtime
from nbutils.models.gate import Gate
from nbutils.models.generate import generate
from nbutils.models.spending import Limits, Spending, SpendLimit
from nbutils.models.texts import Generation, Sampling, request, request_seed

NAMES = [
    "choices",
    "message",
    "content",
    "refusal",
    "finish_reason",
    "error",
    "code",
    "type",
    "text",
    "msg",
    "loc",
    "x",
]
KEY = "sk-canary0123456789abcdef"
LONG = 60.0  # seconds that only a hanging test can take
PASSING = ["429", "500", "503", "reset", "reset before", "truncated JSON", "choices null", "choices empty"]
PASSING += ["no message", "content null", "content empty", "broken off", "html", "html as JSON", "plain text"]
EMPTY = ["content null", "content empty"]
BROKEN = [name for name in PASSING if FAULTS[name].status == 200 and FAULTS[name].cut is None and name not in EMPTY]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, which echoes prompts; retries come after 10 ms where the server does not ask for a wait."""
    completions.refused_by.cache_clear()  # a port may have been another server's
    with Server(fakes.echo, tmp_path / "ledger.txt") as served:
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setattr(api.random, "uniform", lambda *_: 0.01)
        yield served


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def ask(path, prompts, batch_size=4, **kwargs):
    with Journal(path) as journal:
        return generate("api:m", prompts, Sampling(), Runtime(batch_size), journal, **kwargs)


def unanswered(path):
    with Journal(path) as journal:
        return journal.total("unanswered_calls")


def ledger_of(server, prompt):
    """[(outcome, fault)] of every request with this prompt."""
    asked = request("", prompt, asdict(Sampling()), 0)
    name = fingerprint(asked["messages"], request_seed(asked) % 2**31)
    return [(outcome, fault) for one, outcome, fault in read_ledger(server.ledger_path) if one == name]


def times(server, prompt):
    return [when for when, _, text, _ in server.calls if text == prompt]


# --- what passes --------------------------------------------------------------------------------------------------


def test_trouble_that_passes_costs_one_more_call_and_is_not_in_the_answers(server, path):
    """All such faults at once, each on a prompt of its own: every answer comes, and a second run asks nothing."""
    server.faults = {name: [name] for name in PASSING}
    made = ask(path, PASSING, 16)
    assert [each.text for each in made] == PASSING and not any(each.reason for each in made)
    for name in PASSING:
        assert ledger_of(server, name) == [("billed" if FAULTS[name].billed else "not", name), ("billed", "-")]
    before = len(server.calls)
    assert ask(path, PASSING, 16) == made and len(server.calls) == before


def test_calls_that_may_have_been_billed_for_nothing_are_totalled(server, path):
    """Refusals (429, 503) are known not to be; a reset, a 500 or an answer that cannot be read may have been."""
    known, unknown = ["429", "503", "400"], ["500", "reset", "truncated JSON", "content null"]
    server.faults = {name: [name] for name in known + unknown}
    ask(path, [*known, *unknown, "fine"])
    assert unanswered(path) == len(unknown)
    billed = scripted.billed(server.ledger_path)
    assert sum(billed.values()) - len(billed) <= unanswered(path)


@pytest.mark.parametrize("name", BROKEN)
def test_answers_that_never_carry_a_text_are_bounded(server, path, monkeypatch, name):
    """They are billed: three calls at most, then the request is unanswered, and the next run asks it again."""
    server.faults["a"] = [name, "…"]
    made = ask(path, ["a", "b"])
    why = "answer broken off: upstream stopped" if name == "broken off" else "broken answer"
    assert made[0].text == "" and made[0].reason.startswith(why) and made[1].text == "b"
    assert len(ledger_of(server, "a")) == api._BROKEN == unanswered(path)
    server.faults.clear()
    assert [each.text for each in ask(path, ["a", "b"])] == ["a", "b"]
    assert ledger_of(server, "a")[-1] == ("billed", "-") and ledger_of(server, "b") == [("billed", "-")]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("all thought", "no text within 256 tokens: raise max_…_tokens of such texts"),
        ("thought cut", "no text within 90 tokens of thought, fewer than the 256 allowed: the server's own limit"),
        ("only thought", "no text, only a thought"),
        ("filtered", "no text: the server's content filter"),
        ("filtered half-way", "no text: the server's content filter cut it off"),
        ("refused", "the model refuses: I can't help with that."),
        ("refused in parts", "the model refuses: No."),
    ],
)
def test_an_answer_without_a_text_that_says_why_is_paid_for_once_and_for_all(server, path, name, why):
    """A model that thinks to the limit, a filter, a refusal: any call would end the same way and cost the same."""
    server.faults["a"] = [name, "…"]
    made = ask(path, ["a", "b"])
    assert made[0].reason == why and made[0].text == "" and made[1].text == "b"
    assert made[0].finish == ("length" if why.startswith("no text within") else None)
    assert ask(path, ["a", "b"]) == made
    assert ledger_of(server, "a") == [("billed", name)] and unanswered(path) == 0


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_answer_is_asked_for_thrice_and_then_final_where_others_are_answered(server, path, name):
    """A greedy model that has nothing to say says it every time, and is paid every time."""
    server.faults["a"] = [name, "…"]
    made = ask(path, ["a", "b"])
    assert made[0].reason == "empty answer, given up after 3 calls" and made[1].text == "b"
    assert ask(path, ["a", "b"]) == made and ledger_of(server, "a") == [("billed", name)] * 3


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "x"}]}, "x"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"text": "x"}]}, "x"),
        ({"content": ["x", {"type": "output_text", "text": "y"}, {"type": "image", "url": "z"}]}, "xy"),
        ({"content": "x", "refusal": None, "reasoning_content": "Hm."}, "x"),
    ],
)  # fmt: skip
def test_a_text_is_read_in_whatever_shape_it_comes(message, text):
    body = {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", **message}}]}
    made = completions.parse(body, Sampling())
    assert (made.text, made.finish, made.reason) == (text, "stop", None)


@pytest.mark.parametrize(
    ("said", "stop", "finish"),
    [
        ("stop", (), "stop"), ("length", (), "length"), ("eos", (), "stop"), ("tool_calls", (), "stop"),
        ("MAX_TOKENS", (), "length"), ("model_length", (), "length"), (None, (), None), ("", (), None),
        ("length", ("###",), "stop"), ("length", ("@",), "length"),
    ],
)  # fmt: skip
def test_how_a_text_ended_is_the_servers_word_or_unknown(said, stop, finish):
    """A stop string that the server did not heed ends the text before its limit does."""
    body = {"choices": [{"finish_reason": said, "message": {"content": "a text ### and more"}}]}
    assert completions.parse(body, Sampling(stop=stop)).finish == finish


MISTRAL = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
REFUSALS = {  # as these APIs word them
    "max_tokens": scripted._error(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use ...",
                                  "unsupported_parameter"),
    "temperature": scripted._error(400, "Unsupported value: 'temperature' does not support 0 with this model.",
                                   "unsupported_value"),
    "seed": Fault(422, MISTRAL),
    "top_k": scripted._error(400, "Unrecognized request argument supplied: `top_k`"),
}  # fmt: skip


@pytest.mark.parametrize("names", [*([name] for name in REFUSALS), list(REFUSALS)], ids="+".join)
def test_a_parameter_that_a_server_does_not_take_is_left_out_and_that_is_said(server, path, capsys, names):
    """The first calls are refused and not billed; all later ones go without it, and each answer is paid for once."""
    server.refuses = {name: REFUSALS[name] for name in names}
    prompts, sampling = [f"say {i}" for i in range(12)], Sampling(0.0, top_k=5, max_new_tokens=7)
    with Journal(path) as journal:
        made = generate("api:m", prompts, sampling, Runtime(2), journal)
    assert [each.text for each in made] == prompts and unanswered(path) == 0
    assert set(scripted.billed(server.ledger_path).values()) == {1}
    last = server.bodies[-1]
    assert not set(names) & set(last) and ("max_completion_tokens" in last) == ("max_tokens" in names)
    assert last.get("max_tokens", last.get("max_completion_tokens")) == 7
    most = 2 * len(names)
    assert len(server.bodies) <= 12 + most
    assert [each.text for each in generate("api:m", ["more"], sampling)] == ["more"] and len(server.bodies) <= 13 + most
    said = capsys.readouterr().out
    assert all(said.count(f"api:m takes no {name}") == 1 for name in names)


WORDINGS = [  # (parameter that is dropped, status, body), as servers put it
    ("top_k", 400, {"error": {"message": "Unrecognized request argument supplied: top_k"}}),
    ("stop", 400, {"code": "invalid argument", "error": "Argument not supported on this model: stop"}),
    ("stop", 400, {"code": "invalid-argument", "error": "Model big-4 does not support parameter stop."}),
    ("top_k", 400, {"error": {"message": "openai does not support parameters: ['top_k'], for model=m. To …"}}),
    ("top_p", 422, {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0", "error_type": "validation"}),
    ("temperature", 422, {"error": "Input validation error: `temperature` must be strictly positive"}),
    ("temperature", 422, {"detail": [{"type": "greater_than", "loc": ["body", "temperature"], "msg": "Too small"}]}),
    ("seed", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra input", "input": 7}]}),
    ("seed", 400, {"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed')}]"}),
    ("max_tokens", 400, {"error": {"message": "max_tokens is not supported"}}),
    ("max_tokens", 400, {"error": {"message": "Unsupported parameter", "param": "max_tokens"}}),
    ("top_p", 400, {"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}),
    ("stop", 400, {"error": {"message": "Array too long: expected at most 4, got 5.", "param": "stop"}}),
    ("seed", 400, b"seed is deprecated here"),
    ("system role", 400, {"error": {"message": "System role not supported"}}),
    ("system role", 400, {"error": {"message": "Unsupported value: 'messages[0].role' does not support 'system' with "
                                               "this model.", "param": "messages[0].role"}}),
    ("system role", 400, {"error": {"message": "Developer instruction is not enabled for models/gemma-3-27b-it"}}),
    ("system role", 400, {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}),
    ("system role", 422, {"detail": [{"type": "enum", "loc": ["body", "messages", 0, "role"], "msg": "no 'user'"}]}),
]  # fmt: skip
CHAT = [{"role": "system", "content": "Judge this: temperature, stop, seed, content_filter."}]


@pytest.mark.parametrize(("name", "status", "body"), WORDINGS, ids=str)
def test_a_parameter_is_dropped_in_whatever_words_it_is_refused(server, path, capsys, name, status, body):
    """Each prompt is answered and paid for once; the rest is sent as before, the journal's key knows nothing of it."""
    server.refuses = {name: Fault(status, body)}
    prompts = [[*CHAT, {"role": "user", "content": f"say {i}"}] for i in range(6)]
    sampling = Sampling(0.0, 0.9, 5, 7, stop=("###",))
    with Journal(path) as journal:
        made = generate("api:m", prompts, sampling, Runtime(2), journal)
    assert [each.text for each in made] == [
        f"{CHAT[0]['content']}\n\nsay {i}" if name == "system role" else f"say {i}" for i in range(6)
    ]
    assert len(server.bodies) <= 6 + 2 and set(scripted.billed(server.ledger_path).values()) == {1}
    sent = {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop"} - {name}
    sent |= {"max_completion_tokens"} if name == "max_tokens" else set()
    assert set(server.bodies[-1]) == sent | {"model", "messages"}
    assert capsys.readouterr().out.count(f"api:m takes no {name}") == 1
    server.refuses = {}
    with Journal(path) as journal:
        assert generate("api:m", prompts, sampling, Runtime(2), journal) == made


def test_what_is_off_is_not_sent_and_a_temperature_of_zero_is_not_off(server, path):
    with Journal(path) as journal:
        generate("api:m", ["a"], Sampling(0.0), Runtime(), journal)
    assert set(server.bodies[0]) == {"model", "messages", "max_tokens", "temperature", "seed"}
    assert server.bodies[0]["temperature"] == 0.0


def test_a_parameter_that_was_blamed_for_nothing_is_sent_again(server, path, capsys):
    """One request's refusal names the temperature, and stays without it: the others keep theirs."""
    odd = Fault(400, {"error": {"message": "what is the temperature there"}})
    server.faults["a"] = [odd, "…"]
    made = ask(path, ["a", "b"], 1)
    assert made[0].reason == "bad request: what is the temperature there" and made[1].text == "b"
    assert ["temperature" in body for body in server.bodies] == [True, False, True]
    assert "takes no" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 256. This model supports at most 64 completion tokens",
        "max_tokens must be at least 512",
        "max_tokens and max_completion_tokens are not supported",
    ],
)
def test_a_limit_of_tokens_that_no_call_may_have_stops_at_once(server, path, words):
    """It is never dropped: what is not limited has no bound of its price."""
    server.refuses = {name: Fault(400, {"error": {"message": words}}) for name in refusals.LIMITS}
    with pytest.raises(api.ApiError, match="api:m refuses the limit of tokens: max_tokens"):
        ask(path, [f"prompt {i}" for i in range(20)], 2)
    assert len(server.bodies) <= 4 and unanswered(path) == 0


OWN_FATES = {
    "filter": Fault(400, {"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's "
                                    "content management policy.", "param": "prompt", "code": "content_filter"}}),
    "moderation": Fault(403, {"error": {"message": "m requires moderation, your input was flagged", "code": 403}}),
    "length": Fault(400, {"error": {"message": "This model's maximum context length is 4096 tokens. However, you "
                                    "requested 9000 tokens.", "param": "messages", "code": "context_length_exceeded"}}),
    "length by vLLM": Fault(400, {"error": {"message": "'max_tokens' is too large: 256. This model's maximum context "
                                            "length is 512 tokens and your request has 400 input tokens"}}),
    "size": Fault(413, b"<html><h1>Request Entity Too Large</h1></html>"),
    "other": Fault(400, {"error": {"code": "1301", "message": "系统检测到输入内容"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_FATES)
def test_prompts_that_are_refused_stop_nothing_and_are_asked_once(server, path, name):
    """Twelve in a row before any answer; a rerun asks nobody again, whatever was killed beside them."""
    bad, good = [f"bad {i}" for i in range(12)], [f"good {i}" for i in range(6)]
    server.faults = {text: [OWN_FATES[name], "…"] for text in bad}
    made = ask(path, [*bad, *good], 4)
    assert [each.text for each in made] == [""] * 12 + good and all(each.reason for each in made[:12])
    asked = [body["messages"][-1]["content"] for body in server.bodies]
    assert sorted(set(asked) - {"Hi"}) == sorted([*bad, *good]) and len(asked) - asked.count("Hi") == 18
    assert asked.count("Hi") == (0 if name in ("filter", "moderation") else 1) and unanswered(path) == 0
    before = len(server.bodies)
    assert ask(path, [*bad, *good], 4) == made and ask(path, bad, 4) == made[:12] and len(server.bodies) == before


def test_a_run_killed_beside_refused_prompts_ends(server, path):
    """Ctrl-C while prompts are refused and others hang: the next run meets the refused ones first, and ends."""
    bad, good = [f"bad {i}" for i in range(12)], [f"good {i}" for i in range(4)]
    server.faults = {text: [OWN_FATES["other"], "…"] for text in bad} | {"good 3": ["silence"]}
    threading.Timer(1.5, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        ask(path, [*bad, *good], 2)
    made = ask(path, [*bad, *good], 2)
    assert [each.text for each in made] == [""] * 12 + good
    assert {outcome for text in good[:3] for outcome in ledger_of(server, text)} == {("billed", "-")}
    assert len([body for body in server.bodies if body["messages"][0]["content"] in good[:3]]) == 3


def test_a_refusal_that_all_requests_meet_stops_the_step_with_the_servers_words(server, path):
    """Eight and a call that says Hi: then it is the server. Nothing of it is final."""
    server.faults[None] = [Fault(400, {"error": {"message": "this deployment is paused"}}), "…"]
    with pytest.raises(
        api.ApiError, match=r"\d+ calls refused and none answered, the last: bad request: this deployment"
    ):
        ask(path, [f"prompt {i}" for i in range(40)], 4)
    assert len(server.bodies) <= 8 + 4 + 1 and server.bodies[-1]["messages"][0]["content"] == "Hi"
    server.faults.clear()
    assert [each.text for each in ask(path, ["prompt 0", "prompt 39"])] == ["prompt 0", "prompt 39"]


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (400, {"error": {"message": "foo is not a valid model ID", "code": 400}}, "check the model's name: foo is not"),
        (400, {"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}, "check the model's name"),
        (400, {"message": "Invalid model: foo", "code": "1500"}, "check the model's name"),
        (400, {"error": {"message": "Your credit balance is too low"}}, "quota is used up: Your credit balance"),
        (404, {"error": {"message": "no such model"}}, "refused the call .404.: .* it says: no such model"),
        (200, {"error": {"message": "Incorrect key", "code": 401}}, "refused the call .401.: .* it says: Incorrect"),
        (200, {"error": {"message": "no money", "code": "insufficient_quota"}}, "quota is used up: no money"),
    ],
)  # fmt: skip
def test_what_no_call_can_mend_stops_at_once_wherever_it_is_said(server, path, status, body, why):
    server.faults[None] = [Fault(status, body), "…"]
    with pytest.raises(api.ApiError, match=why):
        ask(path, [f"prompt {i}" for i in range(20)], 1)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (500, {"error": {"message": "model requires more system memory (5.6 GiB) than is available (2.1 GiB)"}},
         "server error 500: model requires more system memory (5.6 GiB)"),
        (502, b"<html><style>b{}</style><title>502 Bad Gateway</title></html>", "server error 502: 502 Bad Gateway"),
        (200, {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "Too Many"}}},
         "rate limit: Provider returned error; Too Many"),
        (200, {"choices": None, "error": {"message": "upstream", "code": 502}}, "server error 502: upstream"),
        (200, {"error": "overloaded"}, "server error 502: overloaded"),
    ],
)  # fmt: skip
def test_a_reason_has_the_servers_words_and_a_later_run_asks_again(server, path, monkeypatch, status, body, why):
    monkeypatch.setattr(api, "_ATTEMPTS", 2)
    server.faults["a"] = [Fault(status, body), "…"]
    made = ask(path, ["a", "b"])
    assert made[0].reason.startswith(why) and made[0].is_open and made[1].text == "b"
    server.faults.clear()
    assert ask(path, ["a", "b"])[0].text == "a" and len(times(server, "a")) == 3


def test_a_refusal_that_names_no_parameter_of_ours_is_a_bad_request(server, path):
    """Not every 400 with a parameter's name in it is about that parameter."""
    texts = ["the temperatures differ", "unsupported language", "extra 'tools' are forbidden"]
    server.faults = {str(i): [scripted._error(400, text)] for i, text in enumerate(texts)}
    made = ask(path, ["0", "1", "2"])
    assert all(each.reason.startswith("bad request") for each in made) and len(server.bodies) == 3


def test_two_servers_at_once_each_with_its_own_address_and_key(server, path, tmp_path, monkeypatch):
    """A judge at OpenAI and a responder of one's own: neither server sees the other's key, nor its requests."""
    show_key = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "{key}"}}]}
    with Server(fakes.echo, tmp_path / "local.txt") as local:
        monkeypatch.setenv("LOCAL_OPENAI_BASE_URL", local.url)
        for each in (server, local):
            each.faults["whose"] = [Fault(body=show_key, billed=True)]
        with Journal(path) as journal:
            made = [
                generate(model, ["whose", "a"], Sampling(), Runtime(2), journal) for model in ("api:m", "api:m@local")
            ]
            assert [[each.text for each in texts] for texts in made] == [[KEY, "a"], ["none", "a"]]
            assert generate("api:m@local", ["a"], Sampling(), Runtime(2), journal)[0].text == "a"
        assert len(server.bodies) == len(local.bodies) == 2 and local.bodies[0]["model"] == "m"
        monkeypatch.setenv("LOCAL_OPENAI_API_KEY", "sk-local-0123456789")
        local.faults["mine"] = [Fault(body=show_key, billed=True)]
        assert generate("api:m@local", ["mine"], Sampling())[0].text == "sk-local-0123456789"
    monkeypatch.delenv("LOCAL_OPENAI_BASE_URL")
    with pytest.raises(api.ApiError, match=r"^api:m@local: LOCAL_OPENAI_BASE_URL is not set$"):
        generate("api:m@local", ["a"], Sampling())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["length", "error", "400"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)


@given(body=JSON, choice=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5))
def test_no_body_breaks_its_reader(body, choice):
    """Whatever a server sends is an answer, an error in its words, or a body that is none; a text is a text."""
    for each in (body, {"choices": [choice], "usage": body}):
        said = refusals.inside(each)
        if said:
            assert isinstance(said.words, str) and 400 <= said.status < 600 and "\n" not in said.words
            continue
        try:
            made = completions.parse(each, Sampling())
        except (ValueError, TypeError, LookupError, AttributeError):
            continue
        assert isinstance(made, refusals.Trouble) or bool(made.text) is not bool(made.reason)


def test_missing_usage_is_no_reason_to_pay_again(server, path):
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "二字"}}]}
    server.faults[None] = [Fault(body=body | {"usage": usage}, billed=True) for usage in (None, {}, {"x": 1})]
    made = ask(path, ["a", "b", "c"])
    assert [(each.text, each.num_tokens) for each in made] == [("二字", 2)] * 3 and len(server.calls) == 3


def test_a_good_answer_under_another_content_type_is_an_answer(server, path):
    """Some servers and proxies send JSON as plain text, or say nothing of its type."""
    kinds = ["text/plain", "text/html; charset=utf-8", ""]
    server.faults = {kind or "none": [Fault(headers=(("content-type", kind),), billed=True)] for kind in kinds}
    made = ask(path, list(server.faults))
    assert [each.text for each in made] == [kind or "none" for kind in kinds] and len(server.calls) == 3


# --- Retry-After --------------------------------------------------------------------------------------------------


def test_retry_after_is_obeyed_in_every_form(server, path):
    """Seconds, a fraction, a date, on a 429 and on a 503. What says nothing sensible is waited for as if absent."""
    waits = {"1": 1.0, "0.4": 0.4, " 0.3 ": 0.3, "1e0": 1.0, "0": 0, "-5": 0}
    waits |= {"": 0, "soon": 0, "nan": 0, "inf": 0, "Wed, 99 Foo 2026 99:99:99 GMT": 0, "1, 2": 0, "١٢x": 0}
    waits |= {"Sun, 06 Nov 1994 08:49:37 GMT": 0}
    server.faults = {f"wait {value}": [retry_after(value)] for value in waits}
    server.faults |= {"503": [retry_after("0.4", 503)], "date": [retry_after(http_date(0.5))]}
    started = time.time()
    made = ask(path, list(server.faults), 32)
    assert not any(each.reason for each in made)
    for value, seconds in (waits | {"date": 0.5}).items():
        first, second = times(server, value if value == "date" else f"wait {value}")
        assert second - first >= seconds - 0.01, value
    first, second = times(server, "503")
    assert second - first >= 0.39 and time.time() - started < LONG


@pytest.mark.parametrize(
    "value, seconds",
    [("7", 7.0), ("1.5", 1.5), ("0", 0.0), ("-1", 0.0), ("", None), ("soon", None), ("nan", None), ("1e999", None)],
)
def test_retry_after_as_a_number(value, seconds):
    assert refusals.retry_after(value) == seconds


def test_retry_after_as_a_date(monkeypatch):
    monkeypatch.setattr(api.time, "time", lambda: 784111747.0)  # Sun, 06 Nov 1994 08:49:07 GMT
    assert refusals.retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 30.0
    assert refusals.retry_after("Sun, 06 Nov 1994 08:48:37 GMT") == 0.0
    assert refusals.retry_after("Sunday, 06-Nov-94 08:49:37 GMT") == 30.0
    assert refusals.retry_after("Sun Nov  6 08:49:37 1994") is not None  # asctime names no zone
    for nonsense in ("Sun, 99 Nov 1994 08:49:37 GMT", "06 Nov", "\x00", "Sun, 06 Nov 99999 08:49:37 GMT"):
        assert refusals.retry_after(nonsense) is None


def test_a_wait_beyond_the_deadline_is_not_waited_for(server, path):
    """An hour is not slept through, and no call is made before its time: the next run may."""
    server.faults = {"a": [retry_after("3600")], "b": [retry_after(http_date(3600))]}
    made = ask(path, ["a", "b", "c"])
    assert [each.text for each in made] == ["", "", "c"] and len(server.calls) == 3 and unanswered(path) == 0
    assert (
        made[0].reason == "rate limit: slow down (asked to wait 3600 s), given up after 1 calls"
        and "36" in made[1].reason
    )
    assert [each.text for each in ask(path, ["a", "b", "c"])] == ["a", "b", "c"] and len(server.calls) == 5


# --- deadlines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["silence", "drip"])
def test_a_call_ends_by_its_time_and_a_request_by_its_deadline(server, path, monkeypatch, name):
    """Whole calls are timed: a byte now and then does not keep one alive."""
    assert ask(path, ["b"])[0].text == "b"
    with monkeypatch.context() as short:
        short.setattr(api, "_CALL_SECONDS", 0.4)
        short.setattr(api, "_DEADLINE_SECONDS", 1.4)
        server.faults["a"] = [name, "…"]
        started = time.monotonic()
        made = ask(path, ["a", "b"])
        assert time.monotonic() - started < LONG and [each.text for each in made] == ["", "b"]
    calls = unanswered(path)
    assert made[0].reason == f"no answer within 0 s, given up after {calls} calls" and 1 <= calls <= 3
    assert len(times(server, "a")) <= calls
    server.faults.clear()
    assert [each.text for each in ask(path, ["a", "b", "c"])] == ["a", "b", "c"] and len(times(server, "b")) == 1


def test_an_endless_rate_limit_ends_by_the_deadline(server, path, monkeypatch):
    """No call is begun that the deadline would cut short."""
    monkeypatch.setattr(api, "_CALL_SECONDS", 5.0)
    monkeypatch.setattr(api, "_DEADLINE_SECONDS", 6.0)
    server.faults["a"] = [retry_after("0.6"), "…"]
    (made,) = ask(path, ["a"])
    assert made.reason.startswith("rate limit: slow down (asked to wait 1 s), given up") and len(server.calls) <= 2


def test_an_endless_rate_limit_without_a_wait_ends_by_the_number_of_calls(server, path):
    server.faults["a"] = ["429", "…"]
    (made,) = ask(path, ["a"])
    assert (
        made.reason == f"rate limit: slow down, given up after {api._ATTEMPTS} calls"
        and len(server.calls) == api._ATTEMPTS
    )
    assert unanswered(path) == 0 and scripted.billed(server.ledger_path) == {}


def test_an_answer_after_the_time_out_is_paid_for_twice_and_counted_once(server, path, monkeypatch):
    """There is no calling it back: what the ledger has too much is what the journal counts as unanswered."""
    monkeypatch.setattr(api, "_CALL_SECONDS", 0.6)
    server.faults["a"] = ["late"]
    (made,) = ask(path, ["a"])
    assert made.text == "a" and ledger_of(server, "a")[:1] == [("billed", "late")]
    assert unanswered(path) == len(times(server, "a")) - 1 >= 1


def test_a_server_that_is_not_there_stops_the_step_with_nothing_billed(server, path, monkeypatch):
    monkeypatch.setattr(api, "_ATTEMPTS", 2)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(api.ApiError, match="8 calls failed in a row, the last: connection failed"):
        ask(path, [f"prompt {i}" for i in range(20)])
    assert unanswered(path) == 0


# --- what stays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quota", "402", "401", "403", "404"])
def test_what_more_calls_cannot_mend_stops_the_step(server, path, name):
    """What is under way is waited for and kept: it has been paid for. The next run asks only for the rest."""
    prompts = [f"prompt {i}" for i in range(24)]
    server.delay, server.faults = 0.02, {"prompt 3": [name]}
    with pytest.raises(api.ApiError, match="api:m"):
        ask(path, prompts)
    assert len(server.calls) < 24 and len(times(server, "prompt 3")) == 1 and unanswered(path) == 0
    made = ask(path, prompts)
    assert [each.text for each in made] == prompts and len(server.calls) == 25
    assert set(scripted.billed(server.ledger_path).values()) == {1}


def test_a_pause_is_cut_short_when_the_step_stops(server, path):
    """A request that waits for its Retry-After does not hold up the error, nor is it sent again."""
    server.faults = {"a": [retry_after("100")], "b": [Fault(401, {"error": {"message": "revoked"}}, late=0.5)]}
    started = time.monotonic()
    with pytest.raises(api.ApiError, match="refused the call"):
        ask(path, ["a", "b"])
    assert time.monotonic() - started < LONG and len(server.calls) <= 2


@pytest.mark.parametrize(("name", "why"), [("400", "prompt too long, said [secret]"), ("422", "bad request: odd")])
def test_a_bad_request_is_unanswered_with_the_servers_words_but_not_the_key(server, path, name, why):
    """For good, since the server answers another: it is not asked again."""
    server.faults["a"] = [name, "…"]
    made = ask(path, ["a", "b"])
    assert why in made[0].reason and "said [secret]" in made[0].reason and made[1].text == "b"
    assert len(server.calls) == 2 and unanswered(path) == 0
    assert ask(path, ["a", "b"]) == made and len(server.calls) == 2


def test_breaker_opens_after_failures_in_a_row_and_what_was_answered_stays(server, path, monkeypatch):
    monkeypatch.setattr(api, "_ATTEMPTS", 2)
    prompts = [f"prompt {i}" for i in range(30)]
    server.faults = {f"prompt {i}": ["500", "…"] for i in range(10, 30)}
    with pytest.raises(
        api.ApiError, match="8 calls failed in a row, the last: server error 500: oops, .secret., given up"
    ):
        ask(path, prompts, 2)
    assert len(server.calls) <= 10 + (fates.BREAKER + 2) * 2
    server.faults.clear()
    assert [each.text for each in ask(path, prompts, 2)] == prompts
    assert set(scripted.billed(server.ledger_path).values()) == {1}


def test_failures_that_are_not_in_a_row_stop_nothing(server, path, monkeypatch):
    monkeypatch.setattr(api, "_ATTEMPTS", 1)
    prompts = [f"prompt {i}" for i in range(20)]
    server.faults = {text: ["500"] for text in prompts[::2]}
    made = ask(path, prompts, 1)
    assert [each.text for each in made[1::2]] == prompts[1::2] and all(each.reason for each in made[::2])


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("OPENAI_BASE_URL", "127.0.0.1:9/v1", "check OPENAI_BASE_URL and OPENAI_API_KEY"),
        ("OPENAI_API_KEY", KEY + "\n", "OPENAI_API_KEY holds a blank or line end: set it to the bare key"),
        ("OPENAI_API_KEY", f" {KEY}", "OPENAI_API_KEY holds a blank or line end"),
        ("OPENAI_API_KEY", f"“{KEY}”", "OPENAI_API_KEY holds quotes"),
        ("OPENAI_API_KEY", f'"{KEY}"', "OPENAI_API_KEY holds quotes"),
        ("OPENAI_API_KEY", f"\ufeff{KEY}", "OPENAI_API_KEY holds a letter that no key has"),
        ("OPENAI_API_KEY", "sk-ключ" + KEY, "OPENAI_API_KEY holds a letter that no key has"),
    ],
)
def test_a_call_that_cannot_be_made_stops_at_once(server, path, monkeypatch, name, value, why):
    """An address without http://, a key copied with its quotes: mistakes that no retry mends, nor is the key shown."""
    monkeypatch.setenv(name, value)
    with pytest.raises(api.ApiError, match=why) as caught:
        ask(path, ["a", "b"])
    seen = "".join(traceback.format_exception(caught.value)) + path.read_text()
    assert KEY[:8] not in seen and "ключ" not in seen and not server.calls and unanswered(path) == 0


# --- how many at once ---------------------------------------------------------------------------------------------


def test_after_a_429_fewer_requests_are_in_flight_and_then_more_again(server, path):
    """The first eight are refused when all are there: that halves once. Then 4 + 5 + 6 + 7 answers allow eight again:
    the last eight are answered when all are there, or else never."""
    prompts, gathered = [f"prompt {i}" for i in range(32)], threading.Barrier(8)

    def together():
        gathered.wait(LONG)
        return "0"

    def model(messages):
        if messages[-1]["content"] in prompts[-8:]:
            gathered.wait(LONG)
        return fakes.echo(messages)

    server.model, server.delay = model, 0.03
    server.faults = {text: [retry_after(together)] for text in prompts[:8]}
    made = ask(path, prompts, 8)
    assert [each.text for each in made] == prompts and len(server.calls) == 8 + len(prompts)
    flying = [number for _, number, _, _ in server.calls]
    assert max(flying[:8]) == 8 and max(flying[8:15]) <= 4 and max(flying[15:20]) <= 5 and max(flying[20:]) == 8


def test_a_server_that_takes_few_at_once_is_not_hammered(server, path):
    """At most 4 at once where 32 are allowed: once that is found out, few calls are refused."""
    server.delay, server.capacity = 0.03, 4
    prompts = [f"prompt {i}" for i in range(80)]
    made = ask(path, prompts, 32)
    assert [each.text for each in made] == prompts and set(scripted.billed(server.ledger_path).values()) == {1}
    statuses = [status for *_, status in server.calls]
    assert statuses[len(statuses) // 2 :].count(429) <= len(statuses) // 8


def test_gate_by_hand():
    """8, halved to 4 and 2; a 429 to a call from before the halving changes nothing; 2 + 3 answers give 4; never 9."""

    async def play():
        gate, limited, answer = Gate(8), refusals.Trouble("rate limit", 429), Generation("x", 1, "stop")
        limits = []
        gate.heed(limited, time.monotonic())
        limits.append(gate.limit)
        gate.heed(limited, gate.halved - 1)
        gate.heed(refusals.Trouble("server error 500", 500), time.monotonic())
        limits.append(gate.limit)
        gate.heed(limited, gate.halved + 1)
        for _ in range(5):
            limits.append(gate.limit)
            gate.heed(answer, time.monotonic())
        limits.append(gate.limit)
        for _ in range(100):
            gate.heed(answer, time.monotonic())
        return [*limits, gate.limit]

    assert asyncio.run(play()) == [4, 4, 2, 2, 3, 3, 3, 4, 8]


# --- interruptions, texts, secrets --------------------------------------------------------------------------------


def test_a_journal_that_cannot_be_written_stops_all_sending(server, path, monkeypatch):
    """A full disk: the error comes at once, and no more than what was in flight is sent for nothing."""
    written, append = [], Journal.append_many

    def scarce(self, items, sync=True):
        written.append(1)
        if len(written) > 20:
            raise OSError(28, "no space left")
        append(self, items)

    monkeypatch.setattr(Journal, "append_many", scarce)
    with pytest.raises(OSError, match="no space left"):
        ask(path, [f"prompt {i}" for i in range(200)])
    time.sleep(0.3)
    assert len(server.calls) <= 20 + 4


def test_ctrl_c_stops_all_sending(server, path):
    """Not after the hundreds of requests that were still to be sent, nor after the deadline of those that hang."""
    server.faults[None] = ["silence", "…"]
    threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask(path, [f"prompt {i}" for i in range(200)])
    assert time.monotonic() - started < LONG and len(server.calls) <= 4


def test_an_abandoned_run_sends_nothing_more(server, path):
    """Ctrl-C outside of the API's own code: the generator may live on in a traceback; nothing runs behind our back."""
    requests = {str(i): request("", f"prompt {i}", asdict(Sampling()), 0) for i in range(200)}
    with Journal(path) as journal:
        batches = api.generate_api("api:m", requests, {}, Sampling(), Runtime(4), journal, note=str)
        while not next(batches):
            pass
    sent, size = len(server.calls), path.stat().st_size
    time.sleep(0.3)
    assert len(server.calls) <= sent + 4 and path.stat().st_size == size
    batches.close()
    assert len(server.calls) <= sent + 4 and path.stat().st_size == size


@pytest.mark.parametrize(
    "text", ["a\u0085b\u2028c\u2029d", "nul \x00 bell \x07", "\u202eright to left", "x" * 1_000_000]
)
def test_nasty_texts_make_the_round_trip(server, path, text):
    assert ask(path, [text])[0].text == text == ask(path, [text])[0].text and len(server.calls) == 1


def test_half_a_character_comes_back_from_a_server_but_is_not_sent_to_one(server, path):
    """JSON can escape a lone surrogate; UTF-8 cannot hold one: it comes back as U+FFFD. What would send one is not
    sent; nothing is billed, the reason says why."""
    server.model = lambda messages: "half \ud83d"
    assert ask(path, ["a"])[0].text == "half \ufffd" == ask(path, ["a"])[0].text
    (made,) = ask(path, ["half \ud83d"])
    assert "lone surrogate" in made.reason and len(server.calls) == 1 and unanswered(path) == 0


@pytest.mark.parametrize("name", ["401", "403", "400", "500", "plain text", "silence", "reset"])
def test_no_secret_in_any_exception_or_journal(server, path, monkeypatch, name):
    """Servers quote the key in what they refuse. Neither it nor its first 8 characters is kept or shown."""
    monkeypatch.setattr(api, "_ATTEMPTS", 2)
    monkeypatch.setattr(api, "_CALL_SECONDS", 0.3)
    server.faults[None] = [name, "…"]
    with pytest.raises(api.ApiError) as caught:
        ask(path, [f"prompt {i}" for i in range(12)], 12)
    seen = "".join(traceback.format_exception(caught.value)) + path.read_text() + server.ledger_path.read_text()
    assert "api:m" in seen and KEY not in seen and KEY[:8] not in seen


def test_key_of_an_answer_names_the_server(server, path, monkeypatch, tmp_path):
    """P2: the same model elsewhere is another model. The same server needs no key for what is known."""
    with Server(fakes.always_first, tmp_path / "other.txt") as other:
        first = ask(path, ["a"])
        monkeypatch.setenv("OPENAI_BASE_URL", other.url)
        assert ask(path, ["a"]) != first and len(other.calls) == 1
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask(path, ["a"]) == first and len(server.calls) == 1


def test_the_numbers_at_once_and_the_order_do_not_change_the_answers(server, tmp_path):
    """P7, with trouble on the way."""
    prompts = [f"prompt {i}" for i in range(12)]
    tables = []
    for run, (size, order) in enumerate([(1, 1), (4, 1), (12, -1)]):
        server.faults = {"prompt 3": ["500"], "prompt 7": ["choices null", "429"]}
        tables.append(ask(tmp_path / f"{run}.jsonl", prompts[::order], size)[::order])
    assert tables[0] == tables[1] == tables[2] and not any(each.reason for each in tables[0])


# --- limits to what calls may cost


def limited(path, prompts, limits, batch_size=4):
    with Journal(path) as journal:
        return generate("api:m", prompts, Sampling(max_new_tokens=100), Runtime(batch_size, limits=limits), journal)


def test_max_calls_is_kept_and_a_higher_one_goes_on(server, path):
    """The server bills exactly max_calls, and each prompt once over both runs."""
    prompts = [f"prompt {i}" for i in range(20)]
    with pytest.raises(SpendLimit, match="spend limit of 7 calls reached after 7 calls"):
        limited(path, prompts, Limits(max_calls=7))
    assert len(read_ledger(server.ledger_path)) == 7
    with pytest.raises(SpendLimit):
        limited(path, prompts, Limits(max_calls=7))  # a rerun has no calls of its own
    assert [each.text for each in limited(path, prompts, Limits(max_calls=20))] == prompts
    assert [outcome for _, outcome, _ in read_ledger(server.ledger_path)] == ["billed"] * 20


def test_retries_count_as_calls(server, path):
    server.faults = {"a": ["500", "500"]}
    with pytest.raises(SpendLimit, match="spend limit of 2 calls"):
        limited(path, ["a"], Limits(max_calls=2))
    assert len(read_ledger(server.ledger_path)) == 2


def test_max_usd_is_kept_by_the_tokens_that_the_server_reports(server, path):
    """A call is set aside at 100 tokens written, a millionth each, and costs what the server says it wrote."""
    prompts = [f"prompt {i}" + " word" * 20 for i in range(40)]
    limits = Limits(max_usd=0.0005, prices={"m": (0.0, 1.0)})
    with pytest.raises(SpendLimit, match=r"spend limit of \$0.00 reached"):
        limited(path, prompts, limits, batch_size=2)
    with Journal(path) as journal:
        spent = Spending(limits, journal)
    assert 0.0005 - 3 * 0.0001 < spent.usd <= 0.0005 and spent.calls == len(read_ledger(server.ledger_path)) < 40

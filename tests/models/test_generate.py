"""The same request gives the same text, whatever the batch, order or interruption; sampling is exact."""

import copy
import json
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.models import api, generate as g, loading, references
from nbutils.models.devices import Runtime
from nbutils.models.generate import generate
from nbutils.models.sampling import SeededSampler, filter_scores, gumbel
from nbutils.models.texts import Sampling, request, request_seed

ANIMALS = ["fox", "wolf", "bear", "owl", "seal", "cow", "pig", "bat", "crow", "frog", "lion"]
PROMPTS = [f"tell me about the {animal}." for animal in ANIMALS] + [
    "rephrase: what is a wolf like?",
    "the owl in detail.",
]


def texts(prompts, sampling, batch_size=64, **kwargs):
    return [made.text for made in generate("sandbox/responder", prompts, sampling, Runtime(batch_size), **kwargs)]


@pytest.mark.parametrize("sampling", [Sampling(1.0, 1.0, 0, 48, 3), Sampling(1.5, 0.6, 20, 48, 3), Sampling(0.0)])
def test_batch_sizes_1_7_and_64_give_the_same_texts(sampling):
    one = texts(PROMPTS * 2, sampling, 1, samples=[0] * 13 + [1] * 13)
    assert one == texts(PROMPTS * 2, sampling, 7, samples=[0] * 13 + [1] * 13)
    assert one == texts(PROMPTS * 2, sampling, 64, samples=[0] * 13 + [1] * 13)
    assert all(one)


def test_order_does_not_matter_and_samples_and_seeds_do():
    sampling = Sampling(seed=1)
    assert texts(PROMPTS[::-1], sampling)[::-1] == texts(PROMPTS, sampling)
    again = texts(PROMPTS, sampling, samples=[1] * 13)
    assert again != texts(PROMPTS, sampling) and texts(PROMPTS, Sampling(seed=2)) != texts(PROMPTS, sampling)


def test_greedy_equals_transformers_own_greedy():
    net, tokenizer = loading.load_causal("sandbox/responder", Runtime())
    for prompt, made in zip(PROMPTS, texts(PROMPTS, Sampling(0.0, max_new_tokens=30)), strict=True):
        turns = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        ids = net.generate(**inputs, do_sample=False, max_new_tokens=30)[0, inputs["input_ids"].shape[1] :]
        assert made == tokenizer.decode(ids, skip_special_tokens=True)


def test_gumbel_noise_is_standard_gumbel():
    """Mean 0.5772 (Euler's), variance π²/6, no repeated column, same value whatever the other rows."""
    seeds, tokens = torch.arange(2000)[:, None] * 7919, torch.arange(500)[None, :]
    noise = gumbel(seeds, 5, tokens)
    assert abs(noise.mean().item() - 0.5772) < 0.005 and abs(noise.var().item() - 1.6449) < 0.01
    assert torch.equal(noise[17:18], gumbel(seeds[17:18], 5, tokens))
    assert len(noise[0].unique()) == 500 and not torch.equal(noise, gumbel(seeds, 6, tokens))
    columns = torch.corrcoef(noise[:, :8].T) - torch.eye(8)
    assert columns.abs().max() < 0.1


def test_seeded_choice_has_the_right_frequencies():
    """20,000 draws against the softmax at temperature 2; a chi-square of 4 degrees stays below its 99.9% point."""
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]]).repeat(20_000, 1)
    sampler = SeededSampler(list(range(20_000)), 3, Sampling(temperature=2.0))
    chosen = Counter(sampler(torch.zeros(20_000, 4), scores).argmax(1).tolist())
    wanted = torch.softmax(scores[0] / 2.0, 0) * 20_000
    assert sum((chosen[i] - wanted[i].item()) ** 2 / wanted[i].item() for i in range(5)) < 18.5


@pytest.mark.parametrize(
    "sampling, kept",
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_p=0.5), {0}),
        (Sampling(top_p=0.65), {0, 1}),
        (Sampling(top_k=9), {0, 1, 2, 3}),
        (Sampling(top_p=1.0), {0, 1, 2, 3}),
    ],
)
def test_filters_by_hand(sampling, kept):
    """Probabilities 0.6, 0.3, 0.08, 0.02."""
    scores = torch.log(torch.tensor([[0.6, 0.3, 0.08, 0.02]]))
    filtered = filter_scores(scores, sampling)[0]
    assert {i for i in range(4) if torch.isfinite(filtered[i])} == kept


def test_stop_string_ends_the_text_and_is_cut_off():
    request = ["rewrite and answer: tell me about the fox."] * 8
    whole = texts(request, Sampling(max_new_tokens=60), samples=list(range(8)))
    stopped = texts(request, Sampling(max_new_tokens=60, stop=("\n### Response\n",)), samples=list(range(8)))
    assert [text.split("\n### Response\n")[0] for text in whole] == stopped
    assert any("### Response" in text for text in whole)


def test_length_limit_is_told_apart_from_an_end():
    made = generate("sandbox/responder", ["tell me about the fox."], Sampling(0.0, max_new_tokens=2))[0]
    assert made.finish == "length" and made.num_tokens == 2
    made = generate("sandbox/responder", ["tell me about the fox."], Sampling(0.0))[0]
    assert made.finish == "stop" and made.text.endswith(".")


def test_a_functions_text_is_as_long_as_it_has_words_in_any_script():
    made = generate("fakes:echo", ["three words – here", "写一首诗"], Sampling())
    assert [(each.text, each.num_tokens) for each in made] == [("three words – here", 3), ("写一首诗", 4)]


def test_a_function_that_returns_none_gave_no_text_and_anything_else_is_one_line(tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        refused, told = generate("fakes:none_or_dict", ["refuse", "x"], Sampling(), journal=journal)
        assert (refused.text, refused.reason, told.text) == ("", "fakes:none_or_dict returned None", "x")
        assert len(journal) == 1  # asked again by the next run
    with pytest.raises(ValueError, match="none_or_dict returned dict, wanted a str or None: got {'content': 'dict'}"):
        generate("fakes:none_or_dict", ["dict"], Sampling())
    with pytest.raises(ValueError, match="asynchronous returned coroutine, .*: it is async, wrap it"):
        generate("fakes:asynchronous", ["x"], Sampling())


def test_each_answer_of_a_function_is_kept_when_it_comes(tmp_path, monkeypatch):
    """The 8th call raises and the 100th kills: 200 prompts cost 202 calls in all."""
    monkeypatch.setenv("WORKBOOK_TEST_LEDGER", str(tmp_path / "ledger"))
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from nbutils.experiment.journal import Journal\n"
        "from nbutils.models.generate import generate\nfrom nbutils.models.texts import Sampling\n"
        "with Journal(sys.argv[1]) as journal:\n"
        "    generate('fakes:paid', [f'p{i}' for i in range(200)], Sampling(), journal=journal)"
    )
    kept, ends = [], []
    for _ in range(3):
        command = [sys.executable, "-c", code, str(tmp_path / "j.jsonl"), str(Path(__file__).parents[1])]
        ends.append(subprocess.run(command, capture_output=True, check=False).returncode)
        with Journal(tmp_path / "j.jsonl") as journal:
            kept.append(len(journal))
    assert ends == [1, -9, 0] and kept == [7, 98, 200]
    asked = (tmp_path / "ledger").read_text().split()
    assert len(asked) == 202 and len(set(asked)) == 200


def test_prompt_beyond_the_context_has_a_reason():
    long, short = generate("sandbox/responder", ["word " * 9000, "tell me about the fox."], Sampling(max_new_tokens=8))
    assert long.text == "" and "the model takes" in long.reason and short.reason is None


def test_journalled_answers_are_not_asked_again(tmp_path, monkeypatch):
    with Journal(tmp_path / "j.jsonl") as journal:
        first = generate("sandbox/responder", PROMPTS[:5], Sampling(), Runtime(2), journal)
    asked = []
    forward = g._forward
    monkeypatch.setattr(
        g, "_forward", lambda net, tok, batch, *rest: asked.extend(batch) or forward(net, tok, batch, *rest)
    )
    with Journal(tmp_path / "j.jsonl") as journal:
        assert generate("sandbox/responder", PROMPTS[:7], Sampling(), Runtime(2), journal)[:5] == first
    assert len(asked) == 2


def test_journal_key_names_model_messages_sampling_and_sample():
    def asked(model, prompt, sampling=Sampling(), sample=0):  # noqa: B008
        return request(references.identity(model), prompt, asdict(sampling), sample)

    base = asked("sandbox/responder", "x")
    others = [
        asked("sandbox/judge", "x"),
        asked("sandbox/responder", "y"),
        asked("sandbox/responder", "x", Sampling(top_p=0.9)),
        asked("sandbox/responder", "x", Sampling(stop=("a",))),
        asked("sandbox/responder", "x", sample=1),
    ]
    keys = {paths.sha256_json(each) for each in [base, *others]}
    assert len(keys) == 6 and request_seed(base) == request_seed(others[0])


def test_out_of_memory_halves_the_batch_and_loses_nothing(monkeypatch):
    forward, sizes = g._forward, []

    def scarce(net, tokenizer, batch, *rest):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.cuda.OutOfMemoryError("mocked")
        return forward(net, tokenizer, batch, *rest)

    wanted = texts(PROMPTS, Sampling())
    monkeypatch.setattr(g, "_forward", scarce)
    assert texts(PROMPTS, Sampling()) == wanted and max(sizes) == 13 and sizes.count(3) >= 3


def test_raw_message_reaches_the_model_without_a_chat_template(tmp_path):
    """The published BPO prompter takes its [INST] block as it stands, and has no chat template of its own."""
    import shutil

    from nbutils.evaluate import arms
    from nbutils.models import templates

    folder = shutil.copytree(references.resolve("sandbox/responder"), tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    request = arms.rewrite_requests(templates.load("bpo", "paper"), ["tell me about the fox."])[0]
    _, tokenizer = loading.load_causal(str(folder), Runtime())
    wanted = "[INST] You are an expert prompt engineer. Please help me improve this prompt to get a more helpful and "
    wanted += "harmless response:\ntell me about the fox. [/INST]"
    assert g.render(str(folder), tokenizer, request) == (tokenizer.bos_token or "") + wanted
    assert generate(str(folder), [request], Sampling(max_new_tokens=4))[0].num_tokens > 0
    with pytest.raises(ValueError, match="has no chat template"):
        generate(str(folder), ["tell me about the fox."], Sampling())


def test_a_template_that_refuses_the_system_role_gets_its_text_in_the_users_turn():
    """As Gemma's does. What it refuses for any other reason is one line."""
    _, tokenizer = loading.load_causal("sandbox/responder", Runtime())
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}{{ message['role'] }}: {{ message['content'] }}|{% endfor %}"
    )
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert g.render("m", strict, asked) == "user: be brief\n\nhello|"
    assert g.render("m", strict, asked[1:]) == "user: hello|"
    with pytest.raises(ValueError, match="m's chat template refuses the messages: no system role"):
        g.render("m", strict, asked[:1])


# --- OpenAI-compatible API: a scripted server with a ledger of its own


class Server(ThreadingHTTPServer):
    """Answers from a script: status codes, or texts; every request goes into the ledger."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ledger, self.script, self.lock = [], [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.ledger.append(body)
            step = self.server.script.pop(0) if self.server.script else "fine"
        status, headers, text = step if isinstance(step, tuple) else (200, {}, step)
        reply = {
            "id": "x", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        }  # fmt: skip
        if status != 200:
            reply = {"error": {"message": text, "code": text}}
        raw = text.encode() if headers.get("raw") else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    served = Server()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{served.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "canary-1234567890")
    monkeypatch.setattr(api.random, "uniform", lambda *_: 0.01)
    yield served
    served.shutdown()


def test_api_gets_messages_and_sampling_and_is_asked_once_per_key(server, tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        made = generate("api:m", ["a", "b", "a"], Sampling(0.7, 0.9, 0, 9, stop=("END",)), Runtime(2), journal)
        again = generate("api:m", ["a", "b"], Sampling(0.7, 0.9, 0, 9, stop=("END",)), Runtime(2), journal)
    assert [each.text for each in made] == ["fine"] * 3 and again == made[:2] and len(server.ledger) == 2
    body = server.ledger[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["stop"]) == (0.7, 0.9, 9, ["END"])
    assert "seed" in body and "canary" not in (tmp_path / "j.jsonl").read_text()
    assert (tmp_path / "j.jsonl").read_text().count("#attempt") == 2


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"retry-after": "0"}, "slow down"),
        (500, {}, "oops"),
        (200, {"raw": "1"}, '{"choices": nu'),
        (200, {}, None),
    ],
)
def test_passing_trouble_is_tried_again(server, trouble):
    server.script = [trouble, "after all"] if trouble[2] is not None else [(200, {}, ""), "after all"]
    assert generate("api:m", ["a"], Sampling())[0].text == "after all" and len(server.ledger) == 2


@pytest.mark.parametrize("status, text", [(401, "bad key"), (429, "insufficient_quota"), (404, "no such model")])
def test_trouble_that_stays_stops_at_once(server, status, text):
    server.script = [(status, {}, text)] * 9
    with pytest.raises(api.ApiError, match="api:m") as caught:
        generate("api:m", ["a"], Sampling())
    assert len(server.ledger) == 1 and "canary" not in str(caught.value)


def test_answers_that_arrived_before_a_fatal_error_are_kept(server, tmp_path):
    server.script = ["one", (401, {}, "revoked")]
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(api.ApiError):
        generate("api:m", ["a", "b"], Sampling(), Runtime(1), journal)
    with Journal(tmp_path / "j.jsonl") as journal:
        generate("api:m", ["a", "b"], Sampling(), Runtime(1), journal)
    assert len(server.ledger) == 3


def test_bad_request_is_unanswered_with_its_reason(server):
    server.script = [(400, {}, "too long")]
    made = generate("api:m", ["a"], Sampling())[0]
    assert made.text == "" and made.reason.startswith("bad request")


def test_api_without_key_says_so(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(api.ApiError, match="OPENAI_API_KEY is not set"):
        generate("api:m", ["a"], Sampling())

"""A real OpenAI-compatible server that is not ours: `transformers serve` with a sandbox model, as responder and judge.

Two files of the model's copy are changed. Its generation config lets the server sample, which otherwise is greedy at
any temperature. And a response template says where an answer begins and ends: for Qwen's architecture the server
assumes ChatML, and where it does not find <|im_start|>assistant it answers with the whole prompt and the end token.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from nbutils.evaluate import judging
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Answer
from nbutils.models import loading, references, templates
from nbutils.models.devices import Runtime
from nbutils.models.generate import generate, render
from nbutils.models.texts import Sampling, messages_of
from nbutils.sandbox import prompt_sets

pytest.importorskip("fastapi", reason="transformers serve needs fastapi, which is in the extra [dev]")
pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn, which is in the extra [dev]")
pytestmark = pytest.mark.slow

OWN = "sandbox/responder"
PROMPTS = [row["prompt"] for row in prompt_sets.prompts("sandbox_mixed", "test")[:6]]
GREEDY = Sampling(0.0, max_new_tokens=40)
ANSWER = {"start_anchor": "<|assistant|>", "fields": {"content": {"close": "<|end|>", "content": "text"}}}
SECONDS_TO_START = 120


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """api:<folder> of a server that is up; log.txt beside the folder has a line for every request."""
    folder, port = tmp_path_factory.mktemp("served") / "base", free_port()
    shutil.copytree(references.resolve(OWN), folder)
    change(folder / "generation_config.json", do_sample=True, top_k=0)
    change(folder / "tokenizer_config.json", response_template=ANSWER)
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = folder.with_name("log.txt")
    with log.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        patch.setenv("OPENAI_API_KEY", "any")
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            wait_until_up(f"http://127.0.0.1:{port}/health", server, log)
            yield f"api:{folder}"
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def wait_until_up(address, server, log):
    deadline = time.monotonic() + SECONDS_TO_START
    while server.poll() is None and time.monotonic() < deadline:
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
    state = "is not up" if server.poll() is None else f"ended with {server.returncode}"
    pytest.fail(f"transformers serve {state}:\n{log.read_text()[-2000:]}")


def num_requests(served):
    """How many requests the server has answered, by its own log."""
    return Path(served.removeprefix("api:")).with_name("log.txt").read_text().count("POST /v1/chat/completions")


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(GREEDY, id="whole"),
        pytest.param(Sampling(0.0, max_new_tokens=40, stop=(" is", ". the")), id="up to a stop string"),
        pytest.param(Sampling(0.0, max_new_tokens=5), id="up to the length"),
        pytest.param(Sampling(0.0, top_k=1, max_new_tokens=40), id="with a parameter that the server refuses"),
    ],
)
def test_texts_are_those_of_the_model_itself(served, sampling):
    """Neither the client nor the wire adds, loses or counts otherwise a letter or a token."""
    made, own = generate(served, PROMPTS, sampling, Runtime(2)), generate(OWN, PROMPTS, sampling)
    assert [(row.text, row.num_tokens, row.finish, row.reason) for row in made] == [
        (row.text, row.num_tokens, row.finish, row.reason) for row in own
    ]
    tokenizer = loading.load_tokenizer(OWN)
    texts = [render(OWN, tokenizer, messages_of(prompt)) for prompt in PROMPTS]
    inputs = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [row.prompt_tokens for row in made] == [len(ids) for ids in inputs]


def test_what_the_journal_holds_is_not_asked_for_again(served, tmp_path):
    """A resumed run pays for nothing twice, by the server's own count."""
    before = num_requests(served)
    with Journal(tmp_path / "j.jsonl") as journal:
        made = generate(served, PROMPTS, GREEDY, Runtime(2), journal)
        assert num_requests(served) - before == len(PROMPTS)
        assert journal.total("unanswered_calls") == 0
    with Journal(tmp_path / "j.jsonl") as journal:
        assert generate(served, PROMPTS, GREEDY, Runtime(2), journal) == made
    assert num_requests(served) - before == len(PROMPTS)


def test_seed_and_temperature_reach_the_server(served):
    """Sampled texts come again with the same seed, one call at a time: this server has one seed for all its calls."""

    def sample(seed):
        return [row.text for row in generate(served, PROMPTS, Sampling(max_new_tokens=40, seed=seed), Runtime(1))]

    first = sample(0)
    assert sample(0) == first != sample(1)


def test_a_model_that_is_no_judge_leaves_every_verdict_unscored_with_its_words(served):
    """The sandbox's language model was never taught to judge: its texts are kept, and none counts as a tie."""

    def answer(arm, i):
        return Answer(f"id{i}", "set", PROMPTS[i], arm, 0, PROMPTS[i], [], f"{arm} says it is red.", None, None, 6)

    answers = [answer(arm, i) for i in range(3) for arm in ("nan", "poir")]
    panel = judging.Panel((served,), templates.load("judge_pairwise", "sandbox"), GREEDY, runtime=Runtime(2))
    votes = judging.judge_arms(answers, "nan", panel)
    shown = [(f"id{i}", first) for i in range(3) for first in ("poir", "nan")]
    assert [(vote.prompt_id, vote.first_shown) for vote in votes] == shown
    assert {(vote.verdict, vote.reason) for vote in votes} == {
        ("unscored", "no [[A]], [[B]] or [[C]] in the last line")
    }
    assert all(vote.raw for vote in votes)

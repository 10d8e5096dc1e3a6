"""A real OpenAI-compatible server that is not ours: `transformers serve` with a sandbox model, as responder and judge.

The Llama-shaped model: for Qwen's architecture the server cuts answers by Qwen's own special tokens, which the
sandbox does not have.
"""

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

from nbutils import judge, models, templates
from nbutils.generate import Sampling, generate
from nbutils.models import Runtime
from nbutils.records import Answer, Journal

pytest.importorskip("fastapi", reason="transformers serve needs fastapi and uvicorn")
pytest.importorskip("uvicorn", reason="transformers serve needs fastapi and uvicorn")
pytestmark = pytest.mark.slow

PROMPTS = [f"tell me about the {animal}{how}." for animal in ("fox", "owl", "bear") for how in ("", " in detail")]
GREEDY = Sampling(0.0, max_new_tokens=40)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(api:<model>, the same model's folder) behind a server that is up."""
    folder, port = tmp_path_factory.mktemp("served") / "llama", free_port()
    shutil.copytree(models.resolve("sandbox/llama_responder"), folder)
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    log = folder.parent / "log.txt"
    with log.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        patch.setenv("OPENAI_API_KEY", "any")
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            wait_for_health(port, server, log)
            yield f"api:{folder}", str(folder)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for_health(port, server, log, seconds=120):
    for _ in range(2 * seconds):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
        except OSError:
            assert server.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


def test_texts_are_those_of_the_model_itself_and_are_asked_for_once(served, tmp_path):
    """Neither the client nor the wire adds or loses a letter; what the journal holds is not asked for again."""
    remote, local = served
    with Journal(tmp_path / "j.jsonl") as journal:
        made = generate(remote, PROMPTS, GREEDY, Runtime(2), journal)
        attempts = sum("#attempt" in key for key, _ in journal.items())
        assert generate(remote, PROMPTS, GREEDY, Runtime(2), journal) == made
        assert sum("#attempt" in key for key, _ in journal.items()) == attempts == len(PROMPTS)
        assert journal.total("unanswered_calls") == 0
    own = generate(local, PROMPTS, GREEDY)
    assert [(each.text, each.num_tokens, each.finish) for each in made] == [
        (each.text, each.num_tokens, each.finish) for each in own
    ]
    assert all(each.prompt_tokens > 0 for each in made)


def test_a_model_that_is_no_judge_leaves_every_verdict_unscored_with_its_words(served):
    """The sandbox's language model was never taught to judge: its texts are kept, and none counts as a tie."""

    def answer(arm, i):
        return Answer(f"id{i}", "set", PROMPTS[i], arm, 0, PROMPTS[i], [], f"{arm} says it is red.", None, None, 6)

    panel = judge.Panel((served[0],), templates.load("judge_pairwise", "sandbox"), GREEDY)
    votes = judge.judge_arms([answer(arm, i) for i in range(3) for arm in ("nan", "poir")], "nan", panel, Runtime(2))
    assert len(votes) == 6 and {vote.verdict for vote in votes} == {"unscored"}
    assert all(vote.reason and vote.raw for vote in votes)

"""Out of memory, for real: a process that may not have more address space halves its batches and loses nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nbutils.models import generate as g, loading
from nbutils.models.devices import Runtime
from nbutils.models.texts import Sampling

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, resource, sys
import torch
from nbutils.models import generate as g
from nbutils.models.devices import Runtime
from nbutils.models.scoring import score
from nbutils.models.texts import Sampling
torch.set_num_threads(1)

room, runtime = int(sys.argv[1]), Runtime(256)
prompts = [f"tell me about the {animal}. " * 12 for animal in ("fox", "owl", "bear", "cat")] * 64
sampling = Sampling(max_new_tokens=4)
g.generate("sandbox/responder", ["warm up"], sampling, runtime)
score("sandbox/reward", ["warm"], ["up"], runtime)
questions = [f"{i} {text}" for i, text in enumerate(prompts)]
replies = [f"{i} it is brown." for i in range(256)]
alone = [g.generate("sandbox/responder", [each], sampling, runtime)[0].text for each in questions[:12]]
scored = [score("sandbox/reward", [x], [y], runtime)[0] for x, y in zip(prompts[:12], replies)]
sizes, forward = [], g._forward
g._forward = lambda net, tokenizer, batch, *rest: sizes.append(len(batch)) or forward(net, tokenizer, batch, *rest)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
made = [each.text for each in g.generate("sandbox/responder", questions, sampling, runtime)]
scores = score("sandbox/reward", prompts, replies, runtime)
print(json.dumps([alone, made, [round(each, 4) for each in scored], [round(each, 4) for each in scores], sizes]))
"""


def run(room_mb):
    command = [sys.executable, "-c", SCRIPT, str(room_mb * 2**20)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to limit the address space")
def test_a_full_memory_halves_the_batch_and_changes_no_text_and_no_score():
    """Texts and scores are those of one request at a time with memory to spare; and it did run out."""
    alone, texts, scored, scores, sizes = run(24)
    assert texts[:12] == alone and scores[:12] == scored and len(texts) == len(scores) == 256
    assert max(sizes) == 256 > min(sizes) and len(sizes) > 1


def test_a_full_device_drops_the_models_that_are_not_in_use(monkeypatch):
    """Two models are cached; the batch that does not fit beside both fits once the other is gone, undivided."""
    loading.unload()
    loading.load_reward("sandbox/reward"), loading.load_causal("sandbox/responder")
    forward, sizes = g._forward, []

    def scarce(net, tokenizer, batch, *rest):
        sizes.append(len(batch))
        if len(sizes) == 1:
            raise torch.OutOfMemoryError("mocked")
        return forward(net, tokenizer, batch, *rest)

    monkeypatch.setattr(g, "_forward", scarce)
    prompts = [f"{i} tell me about the fox." for i in range(5)]
    assert len(g.generate("sandbox/responder", prompts, Sampling(max_new_tokens=4))) == 5 and sizes == [5, 5]
    assert loading.load_reward.cache_info().currsize == loading.load_causal.cache_info().currsize == 0


def test_a_model_that_does_not_fit_beside_the_others_is_loaded_without_them(monkeypatch):
    """Out of memory on the way to the device: the cached models go, then it is tried again, and only once."""
    loading.unload()
    loading.load_reward("sandbox/reward")
    place, tried = torch.nn.Module.to, []

    def full(model, *where):
        tried.append(where)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("mocked")
        return place(model, *where)

    monkeypatch.setattr(torch.nn.Module, "to", full)
    net, _ = loading.load_causal("sandbox/responder")
    assert len(tried) == 2 and loading.load_reward.cache_info().currsize == 0 and not net.training

    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("mocked")))
    loading.unload()
    with pytest.raises(torch.OutOfMemoryError):
        loading.load_causal("sandbox/llama_responder")


def test_a_model_that_main_memory_has_no_room_for_is_loaded_once_the_others_are_gone(monkeypatch):
    """0.75 million parameters of four bytes, and half as much again: 4 MB are too few, 5 MB are enough."""
    import psutil

    loading.unload()
    for room, kept in ((5_000_000, 1), (4_000_000, 0)):
        loading.load_reward("sandbox/reward")
        monkeypatch.setattr(psutil, "virtual_memory", lambda room=room: type("Memory", (), {"available": room}))
        loading.load_causal.cache_clear()
        loading.load_causal("sandbox/responder", Runtime(device="cpu"))
        assert loading.load_reward.cache_info().currsize == kept and loading.load_causal.cache_info().currsize == 1

"""Model references: one string, four kinds, and one clear line for each that cannot be used."""

import json
import shutil

import pytest

from nbutils import models
from nbutils.models import Runtime


@pytest.mark.parametrize(
    "ref, kind",
    [
        ("sandbox/prompter", "local"),
        ("sandbox/reward", "local"),
        ("sandbox/judge", "callable"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "hub"),
        ("api:gpt-4", "api"),
        ("fakes:echo", "callable"),
    ],
)
def test_kinds(ref, kind):
    assert models.kind(ref) == kind


def test_a_server_is_named_behind_the_model_and_a_version_is_not_one(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    own, version = models.server("api:org/llama-3@my_box"), models.server("api:claude@20240620")
    assert (own.model, own.url_name, own.key_name) == ("org/llama-3", "MY_BOX_OPENAI_BASE_URL", "MY_BOX_OPENAI_API_KEY")
    assert own.lacks == own.url_name and own.key == "none"
    assert (version.model, version.url_name, version.lacks) == ("claude@20240620", "OPENAI_BASE_URL", "")
    monkeypatch.setenv(own.url_name, "http://box:8000/v1/")
    assert models.identity("api:org/llama-3@my_box") == "http://box:8000/v1 api:org/llama-3"


@pytest.mark.parametrize(
    "ref, line",
    [
        ("sandbox/promter", "did you mean sandbox/prompter"),
        ("sandbox/zzz", "there are sandbox/prompter"),
        ("no such thing", "wanted sandbox/"),
        ("fakes:nothing", "has no function nothing"),
        ("no_such_module:f", "module no_such_module not found"),
    ],
)
def test_unknown_references_are_one_line(ref, line):
    with pytest.raises(ValueError, match=line) as caught:
        models.check(ref)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(models.resolve("sandbox/responder"), tmp_path / "model")


@pytest.mark.parametrize(
    "file, line",
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "pickled weights are refused"),
        ("tokenizer.json", "has no tokenizer"),
        ("chat_template.jinja", "has no chat template"),
    ],
)
def test_incomplete_folder_is_named_with_what_it_lacks(folder, file, line):
    models.check(str(folder))
    (folder / file).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=line):
        models.check(str(folder))


def test_pickled_weights_are_never_opened(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    with pytest.raises((ValueError, FileNotFoundError)):
        models.load_causal(str(folder), Runtime())
    assert not canary.exists()


def test_repository_code_is_refused_unless_that_repository_is_named(folder, tmp_path):
    """A model whose config names code of its own: without trust the canary stays untouched."""
    canary = tmp_path / "canary"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w')\nclass Own: pass\n")
    with pytest.raises((ValueError, OSError)):
        models.load_causal(str(folder), Runtime(trust_remote_code="another/repository"))
    assert not canary.exists()
    trusted = models.load_kwargs(str(folder), Runtime(trust_remote_code=str(folder)))["trust_remote_code"]
    assert trusted and not models.load_kwargs(str(folder), Runtime())["trust_remote_code"]


def test_reward_model_needs_its_head():
    models.check("sandbox/reward", "reward")
    with pytest.raises(ValueError, match="needs a ForSequenceClassification head"):
        models.check("sandbox/responder", "reward")


def test_hub_model_that_is_not_here_is_one_line(monkeypatch):
    with pytest.raises(FileNotFoundError, match="nobody/nothing could not be loaded") as caught:
        models.load_causal("nobody/nothing", Runtime())
    assert "\n" not in str(caught.value)


def test_loaded_models_are_frozen_and_quiet_about_their_defaults(folder):
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 2, "temperature": 0.1, "top_k": 1, "repetition_penalty": 9.0})
    )
    net, tokenizer = models.load_causal(str(folder), Runtime())
    assert not any(weight.requires_grad for weight in net.parameters()) and not net.training
    assert net.generation_config.repetition_penalty in (None, 1.0) and net.generation_config.eos_token_id == 2
    assert tokenizer.padding_side == "left"


def test_identity_changes_with_the_weights_and_not_with_the_place(folder, tmp_path):
    before = models.identity(str(folder))
    assert models.identity("sandbox/responder") == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert models.identity(str(folder)) != before


def test_sizes_come_from_headers_or_names():
    net, _ = models.load_causal("sandbox/responder", Runtime())
    stored = {weight.data_ptr(): weight.numel() for weight in net.parameters()}
    assert models.describe("sandbox/responder") == {
        "kind": "local",
        "num_parameters": sum(stored.values()),
        "present": True,
    }
    assert models.describe("Qwen/Qwen2.5-1.5B-Instruct")["num_parameters"] == 1_500_000_000
    assert models.describe("nobody/nothing") == {"kind": "hub", "num_parameters": None, "present": False}

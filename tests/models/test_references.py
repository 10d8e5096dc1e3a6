"""Model references: one string, four kinds, and one clear line for each that cannot be used."""

import shutil

import pytest

from nbutils.models import loading, references
from nbutils.models.devices import Runtime


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
    assert references.kind(ref) == kind


def test_a_server_is_named_behind_the_model_and_a_version_is_not_one(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    own, version = references.server("api:org/llama-3@my_box"), references.server("api:claude@20240620")
    assert (own.model, own.url_name, own.key_name) == ("org/llama-3", "MY_BOX_OPENAI_BASE_URL", "MY_BOX_OPENAI_API_KEY")
    assert own.lacks == own.url_name and own.key == "none"
    assert (version.model, version.url_name, version.lacks) == ("claude@20240620", "OPENAI_BASE_URL", "")
    monkeypatch.setenv(own.url_name, "http://box:8000/v1/")
    assert references.identity("api:org/llama-3@my_box") == "http://box:8000/v1 api:org/llama-3"


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
        references.check(ref)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(references.resolve("sandbox/responder"), tmp_path / "model")


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
    references.check(str(folder))
    (folder / file).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=line):
        references.check(str(folder))


def test_reward_model_needs_its_head():
    references.check("sandbox/reward", "reward")
    with pytest.raises(ValueError, match="needs a ForSequenceClassification head"):
        references.check("sandbox/responder", "reward")


def test_identity_changes_with_the_weights_and_not_with_the_place(folder, tmp_path):
    before = references.identity(str(folder))
    assert references.identity("sandbox/responder") == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert references.identity(str(folder)) != before


def test_sizes_come_from_headers_or_names():
    net, _ = loading.load_causal("sandbox/responder", Runtime())
    stored = {weight.data_ptr(): weight.numel() for weight in net.parameters()}
    assert references.describe("sandbox/responder") == {
        "kind": "local",
        "num_parameters": sum(stored.values()),
        "present": True,
    }
    assert references.describe("Qwen/Qwen2.5-1.5B-Instruct")["num_parameters"] == 1_500_000_000
    assert references.describe("nobody/nothing") == {"kind": "hub", "num_parameters": None, "present": False}


@pytest.mark.parametrize(
    ("ref", "line"),
    [
        ("fakes:no_such", "has no function no_such"),
        ("no_such_module:f", "no_such_module"),
        ("./no/folder", "not found"),
    ],
)
def test_what_a_step_uses_is_there_when_it_opens(ref, line):
    """04 by hand would otherwise answer every prompt before it looks for its judge."""
    with pytest.raises(ValueError) as caught:
        references.local_files("sandbox/judge", ref)
    assert line in str(caught.value) and "\n" not in str(caught.value)

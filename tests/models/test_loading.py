"""What is loaded: safetensors only, no code of a repository, frozen, and one clear line where it fails."""

import json
import shutil

import pytest

from nbutils.models import loading, references
from nbutils.models.devices import Runtime


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(references.resolve("sandbox/responder"), tmp_path / "model")


def test_pickled_weights_are_never_opened(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    with pytest.raises((ValueError, FileNotFoundError)):
        loading.load_causal(str(folder), Runtime())
    assert not canary.exists()


def test_repository_code_is_refused_unless_that_repository_is_named(folder, tmp_path):
    """A model whose config names code of its own: without trust the canary stays untouched."""
    canary = tmp_path / "canary"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w')\nclass Own: pass\n")
    with pytest.raises((ValueError, OSError)):
        loading.load_causal(str(folder), Runtime(trust_remote_code="another/repository"))
    assert not canary.exists()
    trusted = loading.load_kwargs(str(folder), Runtime(trust_remote_code=str(folder)))["trust_remote_code"]
    assert trusted and not loading.load_kwargs(str(folder), Runtime())["trust_remote_code"]


def test_hub_model_that_is_not_here_is_one_line(monkeypatch):
    with pytest.raises(
        FileNotFoundError, match="nobody/nothing is not in the local cache, and HF_HUB_OFFLINE"
    ) as caught:
        loading.load_causal("nobody/nothing", Runtime())
    assert "\n" not in str(caught.value)


def test_loaded_models_are_frozen_and_quiet_about_their_defaults(folder):
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 2, "temperature": 0.1, "top_k": 1, "repetition_penalty": 9.0})
    )
    net, tokenizer = loading.load_causal(str(folder), Runtime())
    assert not any(weight.requires_grad for weight in net.parameters()) and not net.training
    assert net.generation_config.repetition_penalty in (None, 1.0)
    assert net.generation_config.eos_token_id == [2, 1]  # the model's own, and what its chat template ends a turn with
    assert tokenizer.padding_side == "left"

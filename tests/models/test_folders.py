"""Model folders as people have them: pointers, cut files, copies, adapters; one line each, with the file."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_models
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from nbutils.models import folders, loading, references
from nbutils.models.devices import Runtime

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1625222120\n"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(references.resolve("sandbox/responder"), tmp_path / "model")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_models.save(tmp_path_factory.mktemp("tiny") / "whole", tiny_models.make("llama"))


def adapter(folder, on, task="CAUSAL_LM", **changes):
    model = tiny_models.make("llama", "reward" if task == "SEQ_CLS" else "causal")
    made = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type=task, init_lora_weights=False))
    made.peft_config["default"].base_model_name_or_path = on
    return tiny_models.save(folder, made)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (lambda old: POINTER, "is a Git LFS pointer"),
        (lambda old: b"", r"is cut or no safetensors file \(0 bytes\)"),
        (lambda old: old[:5], r"is cut or no safetensors file \(5 bytes\)"),
        (lambda old: old[:700], "is cut or no safetensors file"),
        (lambda old: old[:-1], "is cut: .* bytes of "),
        (lambda old: (2**63).to_bytes(8, "little") + old[8:], "is cut or no safetensors file"),
        (lambda old: (2**64 - 1).to_bytes(8, "little"), "is cut or no safetensors file"),
        (lambda old: (9).to_bytes(8, "little") + b"not json!" + old, "its header cannot be read"),
        (lambda old: (99_999).to_bytes(8, "little") + b"[" * 99_999, "its header cannot be read"),
        (lambda old: (8).to_bytes(8, "little") + b'{"a": 1}', "its header cannot be read"),
    ],
)
def test_weights_that_are_no_weights_are_one_line_with_their_file(folder, content, line):
    path = folder / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))
    for use in (references.check, loading.load_causal):
        with pytest.raises(ValueError, match=line) as caught:
            use(str(folder))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert references.describe(str(folder)) == {"kind": "local", "num_parameters": None, "present": True}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("tokenizer.json", POINTER, "tokenizer.json is a Git LFS pointer"),
        ("tokenizer.json", b'{"version": "1.0", "model": {', "tokenizer.json is no JSON object"),
        ("config.json", b"<html>log in</html>", "config.json is no JSON object"),
        ("config.json", b"[" * 99_999, "config.json is no JSON object"),
        ("tokenizer_config.json", b"", "tokenizer_config.json is no JSON object"),
    ],
)
def test_other_files_that_are_not_what_they_are_called_are_one_line(folder, name, content, line):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=line) as caught:
        references.check(str(folder))
    assert "\n" not in str(caught.value)


def test_a_copy_beside_the_shards_is_not_counted_and_a_shard_that_is_gone_is_named(folder):
    number = references.describe(str(folder))["num_parameters"]
    held = load_file(folder / "model.safetensors")
    shutil.move(folder / "model.safetensors", folder / "consolidated.safetensors")
    with pytest.raises(FileNotFoundError, match="no safetensors weights"):  # transformers does not load that name
        references.check(str(folder))
    parts = dict.fromkeys(held, "model-00001-of-00002.safetensors") | {min(held): "model-00002-of-00002.safetensors"}
    for part in set(parts.values()):
        save_file({name: held[name] for name in held if parts[name] == part}, folder / part, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    references.check(str(folder))
    assert references.describe(str(folder))["num_parameters"] == number
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002.safetensors is not there"):
        references.check(str(folder))


def test_an_adapter_counts_with_the_model_that_it_stands_on(tmp_path, whole):
    made = adapter(tmp_path / "adapter", whole)
    own = sum(weight.numel() for weight in load_file(Path(made) / "adapter_model.safetensors").values())
    assert references.describe(made)["num_parameters"] == references.describe(whole)["num_parameters"] + own
    lost = adapter(tmp_path / "lost", "/scratch/me/base-7b")
    assert references.describe(lost)["num_parameters"] is None
    hub = adapter(tmp_path / "hub", "acme/Base-7B")
    assert references.describe(hub)["num_parameters"] == 7_000_000_000 + own
    (tmp_path / "hub" / "adapter_config.json").write_text("<html>")
    assert references.describe(hub)["num_parameters"] is None


def test_an_adapter_whose_model_is_not_here_is_one_line(tmp_path, whole):
    lost = adapter(tmp_path / "lost", "/scratch/me/base-7b")
    with pytest.raises(FileNotFoundError, match="is an adapter on /scratch/me/base-7b, which is not here") as caught:
        references.check(lost)
    assert "\n" not in str(caught.value)
    stacked = adapter(tmp_path / "stacked", adapter(tmp_path / "first", whole))
    with pytest.raises(ValueError, match="an adapter too: merge that into its model first"):
        references.check(stacked)


def test_what_a_model_is_for_is_checked(tmp_path, whole):
    causal = adapter(tmp_path / "causal", whole)
    scoring = adapter(tmp_path / "scoring", whole, "SEQ_CLS")
    classifier = tiny_models.save(tmp_path / "classifier", tiny_models.make("llama", "reward"))
    references.check(causal)
    references.check(scoring, "reward")
    references.check(classifier, "reward base")
    for ref, task, line in (
        (causal, "trained", "is an adapter: merge it into its model first"),
        (causal, "reward base", "is an adapter: merge it into its model first"),
        (causal, "reward", "is an adapter of task CAUSAL_LM, wanted SEQ_CLS"),
        (scoring, "causal", "is an adapter of task SEQ_CLS, wanted CAUSAL_LM"),
        (classifier, "causal", "is a LlamaForSequenceClassification: it scores, and writes nothing"),
        ("api:gpt", "trained", "'api:gpt' has no weights to train"),
        ("fakes:echo", "trained", "'fakes:echo' has no weights to train"),
    ):
        with pytest.raises(ValueError, match=line) as caught:
            references.check(ref, task)
        assert "\n" not in str(caught.value)


def test_a_padding_token_that_the_model_does_not_know_is_one_line(tmp_path):
    grown = tiny_models.tokenizer()
    grown.add_special_tokens({"pad_token": "[PAD]"})
    made = tiny_models.save(tmp_path / "grown", tiny_models.make("llama"), grown)
    with pytest.raises(ValueError, match="pads with token 900, and its model knows tokens up to 899: name one"):
        references.check(made)
    (tmp_path / "grown" / "tokenizer_config.json").unlink()  # nothing tells before it is loaded
    references.check(made, "weights")


def test_a_model_loaded_with_a_padding_token_that_it_does_not_know_is_one_line(tmp_path, monkeypatch):
    grown = tiny_models.tokenizer()
    grown.add_special_tokens({"pad_token": "[PAD]"})
    made = tiny_models.save(tmp_path / "grown", tiny_models.make("llama"), grown)
    monkeypatch.setattr(loading, "check", lambda *_: None)  # as of a hub model that loading fetches
    with pytest.raises(ValueError, match="pads with token 900, and its model knows tokens up to 899"):
        loading.load_causal(made, Runtime())


def test_a_tokenizer_without_padding_and_end_is_one_line(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": None, "eos_token": None}))
    with pytest.raises(ValueError, match="neither a padding nor an end token: name a pad_token"):
        loading.load_tokenizer(str(folder))


# --- heads


def renamed(folder, name):
    """A reward model whose head has another name in its file."""
    made = tiny_models.save(folder, tiny_models.make("llama", "reward"))
    held = load_file(folder / "model.safetensors")
    held[name] = held.pop("score.weight")
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    return made


def called_classifier(folder, **changes):
    """A causal model whose config says that it is a classifier."""
    made = tiny_models.save(folder, tiny_models.make("llama", **changes))
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    return made


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda folder: renamed(folder, "value_head.weight"), "holds value_head.weight in its place: its head would"),
        (called_classifier, "holds lm_head.weight in its place: its head would be random"),
        (lambda folder: called_classifier(folder, tie_word_embeddings=True), "holds none: its head would be random"),
        (
            lambda folder: tiny_models.save(folder, tiny_models.make("llama", "reward", num_labels=5)),
            "has a head of 5 outputs: a reward model has one",
        ),
        (
            lambda folder: tiny_models.save(folder, tiny_models.make("roberta", "reward", num_labels=2)),
            "has a head of 2 outputs: a reward model has one",
        ),
    ],
)
def test_a_head_that_was_never_trained_or_is_no_reward_is_refused_before_work_and_when_loaded(
    tmp_path, monkeypatch, build, line
):
    made = build(tmp_path / "made")
    with pytest.raises(ValueError, match=line) as caught:
        references.check(made, "reward")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(loading, "check", lambda *_: None)  # as of a hub model that loading fetches
    with pytest.raises(ValueError, match="a reward model needs its trained head, of one output") as caught:
        loading.load_reward(made, Runtime())
    assert "\n" not in str(caught.value)


def test_a_head_of_a_name_that_transformers_does_not_know_is_refused_when_loaded(tmp_path):
    made = renamed(tmp_path / "made", "regression.weight")
    with pytest.raises(ValueError, match="score.weight is in no file; a reward model needs its trained head"):
        loading.load_reward(made, Runtime())


def test_an_adapter_brings_the_head_or_is_refused(tmp_path, whole):
    made = Path(adapter(tmp_path / "made", whole, "SEQ_CLS"))
    net, _ = loading.load_reward(str(made), Runtime())
    held = load_file(made / "adapter_model.safetensors")
    assert net.score.weight.equal(held["base_model.model.score.weight"])
    without_head = {name: weight for name, weight in held.items() if "score" not in name}
    save_file(without_head, made / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="is an adapter without its head, which would be random"):
        loading.load_reward(str(made), Runtime(2))


def test_weights_that_are_in_no_file_are_refused_in_causal_models_and_adapters(tmp_path, whole):
    made = Path(adapter(tmp_path / "made", whole))
    held = load_file(made / "adapter_model.safetensors")
    held.pop(min(held))
    save_file(held, made / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lora_A.weight is in no file; wanted a causal model with all its weights"):
        loading.load_causal(str(made), Runtime())
    torn = shutil.copytree(whole, tmp_path / "torn")
    held = load_file(torn / "model.safetensors")
    del held["model.layers.1.mlp.up_proj.weight"], held["lm_head.weight"]
    save_file(held, torn / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lm_head.weight is in no file and 1 more; wanted a causal model"):
        loading.load_causal(str(torn), Runtime())
    assert folders.num_parameters(torn)

"""A hub model is known by the commit in the cache: one that moved on undoes steps and mixes with nothing."""

import json
import shutil

import huggingface_hub
import huggingface_hub.constants
import pytest
import tiny_models

from nbutils.experiment import steps
from nbutils.experiment.journal import Journal
from nbutils.models import hub, loading, references, scoring
from nbutils.models.devices import Runtime
from nbutils.models.generate import generate
from nbutils.models.texts import Sampling

ME, OLD, NEW = "me/tiny", "a" * 40, "b" * 40
PROMPTS = [f"tell me about the {animal}." for animal in ("fox", "owl", "cow", "pig")]
SAMPLING = Sampling(0.0, max_new_tokens=6)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """cache(commit, source): the hub's cache with me/tiny at that commit; what a process has seen is forgotten."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def move(commit, source):
        tiny_models.cache(tmp_path / "hub", ME, commit, source)
        hub._first_commit.cache_clear()
        loading.unload()

    yield move
    hub._first_commit.cache_clear()
    loading.unload()


@pytest.fixture
def models(tmp_path):
    """Two folders of different weights."""
    first = tiny_models.save(tmp_path / "first", tiny_models.make("llama"))
    return first, tiny_models.save(tmp_path / "second", tiny_models.make("llama", intermediate_size=48))


def texts(ref, journal=None, prompts=PROMPTS):
    return [made.text for made in generate(ref, prompts, SAMPLING, Runtime(2), journal)]


def test_a_resumed_run_asks_a_model_that_moved_on_anew_and_mixes_nothing(cache, models, tmp_path):
    first, second = models
    assert texts(first) != texts(second)
    cache(OLD, first)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert references.identity(ME) == f"{ME}@{OLD}"
        assert texts(ME, journal, PROMPTS[:2]) == texts(first)[:2]
    cache(NEW, second)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert references.identity(ME) == f"{ME}@{NEW}"
        assert texts(ME, journal) == texts(second)


def test_a_process_stays_with_the_commit_that_it_began_with(cache, models, tmp_path):
    """The main branch moves in the cache while the kernel is at work: neither its name nor its weights change."""
    first, second = models
    cache(OLD, first)
    wanted = texts(ME)
    tiny_models.cache(tmp_path / "hub", ME, NEW, second)
    loading.unload()
    assert references.identity(ME) == f"{ME}@{OLD}" and texts(ME) == wanted
    assert loading.load_kwargs(ME, Runtime())["revision"] == OLD


def test_a_model_that_moved_on_makes_the_step_stale_and_a_cache_that_is_gone_does_not(cache, models, outputs, tmp_path):
    first, second = models
    cache(OLD, first)
    run = steps.open_step("04_evaluate", {"experiment": "e", "cell": "main", "seed": 0, "step": "evaluate"})
    run.uses(*references.local_files(ME))
    (run.output("answers.jsonl")).write_text("")
    run.finish()
    assert steps.verify(run.folder) == (True, "done")
    cache(NEW, second)
    done, reason = steps.verify(run.folder)
    assert not done and "models--me--tiny/refs/main has changed" in reason
    shutil.rmtree(tmp_path / "hub")
    assert steps.verify(run.folder) == (True, "done")


def test_a_cached_model_is_checked_like_a_folder_before_work_and_one_in_part_is_left_to_be_fetched(cache, tmp_path):
    made = tiny_models.save(tmp_path / "five", tiny_models.make("llama", "reward", num_labels=5))
    cache(OLD, made)
    with pytest.raises(ValueError, match="has a head of 5 outputs: a reward model has one"):
        references.check(ME, "reward")
    with pytest.raises(ValueError, match="has a head of 5 outputs"):
        scoring.score(ME, ["x"], ["y"])
    snapshot = hub.snapshot(ME)
    (snapshot / "model.safetensors").unlink()
    references.check(ME, "reward")
    assert references.describe(ME) == {"kind": "hub", "num_parameters": None, "present": True}


def test_a_cached_adapter_is_merged_into_its_cached_model(cache, models, tmp_path):
    from peft import LoraConfig, get_peft_model

    cache(OLD, models[0])
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    made = get_peft_model(tiny_models.make("llama"), config)
    made.peft_config["default"].base_model_name_or_path = ME
    adapter = tiny_models.save(tmp_path / "adapter", made)
    tiny_models.cache(tmp_path / "hub", "me/adapter", NEW, adapter)
    references.check("me/adapter")
    assert references.base("me/adapter") == ME
    assert texts("me/adapter") == texts(adapter) != texts(models[0])
    number = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"]
    assert references.describe("me/adapter")["num_parameters"] > references.describe(ME)["num_parameters"] + number


def test_a_model_that_is_not_here_yet_has_its_commit_before_it_is_asked(models, monkeypatch, tmp_path):
    """Its configs are fetched first: the first run's answers are known by the same name as the next one's."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "trouble", lambda *_: "")
    fetched = []

    def snapshot_download(hub_id, allow_patterns):
        fetched.append((hub_id, allow_patterns))
        tiny_models.cache(tmp_path / "hub", hub_id, OLD, models[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert references.identity("me/new") == references.identity("me/new") == f"me/new@{OLD}"
    assert fetched == [("me/new", ["*config.json"])]


def test_an_adapter_is_known_by_its_model_too(cache, models, tmp_path):
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(tiny_models.make("llama"), LoraConfig(r=2, target_modules="all-linear"))
    made.peft_config["default"].base_model_name_or_path = ME
    adapter = tiny_models.save(tmp_path / "adapter", made)
    cache(OLD, models[0])
    before = references.identity(adapter)
    assert before.endswith(f" on {ME}@{OLD}") and hub.main(ME) in references.local_files(adapter)
    cache(NEW, models[1])
    assert references.identity(adapter) == before.replace(OLD, NEW)


def test_an_adapter_on_a_model_without_owner_is_loaded_whatever_its_own_commit(cache, models, tmp_path):
    """gpt2 and its like: no reference of ours, but what old adapters name."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    made = get_peft_model(tiny_models.make("llama"), config)
    made.peft_config["default"].base_model_name_or_path = "tiny2"
    adapter = tiny_models.save(tmp_path / "adapter", made)
    cache(OLD, adapter)
    tiny_models.cache(tmp_path / "hub", "tiny2", NEW, models[0])
    references.check(ME)
    assert references.identity(ME) == f"{ME}@{OLD} on tiny2"
    assert texts(ME) == texts(adapter) != texts(models[0])

"""The papers' settings stand in their files: what is planned is what the papers, or what they name, say."""

import datasets
import pytest

from nbutils.data import sets
from nbutils.evaluate.benchmarks import read_benchmarks
from nbutils.experiment import paths
from nbutils.experiment.file import read_experiment
from nbutils.experiment.grid import plan_steps
from nbutils.models import spending
from nbutils.train.alignpro_settings import Settings
from nbutils.train.ppo import PPOConfig

ROOT = paths.project_root()


def planned(name):
    """{step id: [parameters of each cell]}"""
    found = {}
    for step in plan_steps(read_experiment(ROOT / "params" / f"{name}.yml"), ROOT / "notebooks"):
        found.setdefault(step.id, []).append(step.parameters)
    return found


def holds(steps, **wanted):
    for parameters in steps:
        assert {name: parameters[name] for name in wanted} == wanted


def test_align_pro_trains_as_the_example_that_it_links():
    """TRL 0.11's PPOConfig: adap_kl_ctrl, init_kl_coef 0.2, target 6, horizon 10000, ppo_epochs 4, batch_size 128 in
    one mini_batch_size of 128, one response to a query, learning_rate 1.41e-5."""
    steps = planned("alignpro_paper")
    for name, policy in (("alignpro", "prompter"), ("rlhf", "responder")):
        assert len(steps[name]) == 12
        holds(steps[name], policy=policy, algorithm="ppo", learning_rate=1.41e-5, kl_weight=0.2, target_kl=6.0)
        holds(steps[name], kl_horizon=10000, ppo_epochs=4, ppo_minibatches=1, train_on="dataset")
        for each in steps[name]:
            assert each["prompts_per_step"] * each["rewrites_per_prompt"] == 128
            assert each["num_steps"] * each["prompts_per_step"] == each["num_prompts"] == 6400  # one pass
            known = {field: each[field] for field in Settings.__dataclass_fields__ if field in each}
            assert Settings(**known).updates_per_step == 4


def test_what_that_example_leaves_at_its_defaults_is_what_ours_is_fixed_to():
    """gamma 1, lam 0.95, cliprange 0.2, cliprange_value 0.2, vf_coef 0.1."""
    ours = {name: field.default for name, field in PPOConfig.__dataclass_fields__.items()}
    assert (ours["gamma"], ours["gae_lambda"], ours["epsilon"]) == (1.0, 0.95, 0.2)
    assert (ours["value_clip"], ours["value_weight"]) == (0.2, 0.1)


def test_poirs_settings_are_the_papers():
    steps = planned("poir_paper")
    holds(steps["collect"], num_pairs=10_000, num_shots=4, num_rounds=3, good_score=4, pairs_per_prompt="one")
    for name in ("poir", "poir_other", "dpo_awi"):
        holds(steps[name], num_pairs=10_000, learning_rate=1e-6, beta=0.4, num_epochs=1.0, train_batch_size=1)
    holds(steps["sft"], num_pairs=10_000, learning_rate=2e-5, num_epochs=3.0, train_batch_size=4)
    holds(steps["dpo_awo"], preference_pairs="ultrafeedback+orca", num_pairs=0, learning_rate=1e-6, beta=0.4)
    holds(steps["evaluate"], num_prompts=0, prompt_sets=["vicuna", "dolly", "bpo_test", "self_instruct"])
    holds(steps["evaluate"], temperature=0.6, top_p=0.9, benchmark_arms=["nan", "bpo", "poir"])
    holds(steps["plot"], baseline="poir", compare_with_paper=True)


def test_table_4_is_of_its_three_models_and_its_three_benchmarks():
    wanted = {"mmlu": 5, "arc_challenge": 25, "hellaswag": 10}
    asked = {each["cell"]: each["benchmarks"] for each in planned("poir_paper")["evaluate"]}
    found = {cell: {one.name: one.num_fewshot for one in read_benchmarks(names)} for cell, names in asked.items()}
    assert {cell for cell, names in found.items() if names == wanted} == {"vicuna-7b", "qwen-7b", "mistral-7b"}
    assert found["vicuna-13b"] == found["qwen-14b"] == {}


def test_all_175_seeds_are_shown(monkeypatch):
    rows = datasets.Dataset.from_list([{"instruction": f"task {number}"} for number in range(175)])
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, streaming: {"train": rows.to_iterable_dataset()})
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for each in planned("poir_paper")["collect"]:
        assert len(sets.seeds(each["seeds"], each["prompt_sets"])) == 175


@pytest.mark.parametrize("name", ["alignpro_paper", "poir_paper", "poir_blackbox"])
def test_a_papers_judge_is_one_dated_model_with_a_price(name):
    for each in planned(name)["evaluate"]:
        model = each["judge"].removeprefix("api:")
        assert model in ("gpt-4-0613", "gpt-4-1106-preview")
        assert spending.price(each["judge"], spending.read_limits(0, 0, each["prices"]).prices, 1e6, 0)

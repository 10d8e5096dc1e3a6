"""The bound on paid calls holds: by hand, and against the calls that real runs of the loops make."""

import importlib
import sys

import pytest

from nbutils.collect import critique, invent
from nbutils.collect.collecting import Wanted, collect
from nbutils.data.novelty import NoveltyFilter
from nbutils.evaluate import answering, arms, calls, controls, judging
from nbutils.experiment.records import Prompt, prompt_id
from nbutils.models import templates
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.spending import Limits
from nbutils.models.texts import Sampling

SHORT = Sampling(max_new_tokens=9)
EVALUATE = {
    "prompter": "api:p", "responder": "api:r", "judge": "api:j", "jury": ["api:k", "sandbox/judge"],
    "templates": "sandbox",
    "arms": ["untrained", "tilted", "poir_s1", "chain:untrained+untrained", "shuffled:untrained"], "baseline": "nan",
    "prompt_sets": ["a", "b"], "num_prompts": 3, "num_samples": 2, "pairs": ["all"], "num_controls": 2,
    "again_share": 0.1, "tilt_rewrites": 4, "tilt_responses": 2, "num_rounds": 2, "num_retries": 1, "good_score": 4,
    "max_prompt_tokens": 10, "max_rewrite_tokens": 20, "max_response_tokens": 30, "max_judge_tokens": 40,
}  # fmt: skip


def by_model(notebook, parameters):
    """{(parameter, model): [number of each kind]}"""
    found = {}
    for name, model, each in calls.paid(notebook, parameters):
        found.setdefault((name, model), []).append(each.number)
    return found


def test_an_evaluations_calls_by_hand():
    """12 rows (2 sets × 3 prompts × 2 samples). Rewrites: 4 of untrained arms, of tilted 4, of the loop 3 critiques and
    2 rewrites, tried twice. Responses: of 6 arms, of tilted 4 × 2, of the loop 3. Verdicts: 5 arms against nan and
    their 10 pairs, in both orders, 2 × 3 × 2 of the trial, a tenth once more."""
    verdicts = [120, 240, 12, 36]
    assert by_model("04_evaluate", EVALUATE) == {
        ("prompter", "api:p"): [48, 48, 72, 48],
        ("responder", "api:r"): [72, 96, 36],
        ("judge", "api:j"): verdicts,
        ("jury 1", "api:k"): verdicts,
    }


def test_the_two_untrained_requests_are_counted_apart():
    """12 rows; one rewrite each by the meta-prompt, three by 03's request, whose template is longer."""
    parameters = EVALUATE | {"arms": ["untrained", "untrained_poir", "chain:untrained_poir+untrained_poir"]}
    found = [each for name, _, each in calls.paid("04_evaluate", parameters) if name == "prompter"]
    assert [each.number for each in found] == [12, 36]
    assert [each.factors[-1] for each in found] == [(1, "untrained rewrites"), (3, "untrained_poir rewrites")]
    assert found[1].read > found[0].read


def test_a_trainings_responses_by_hand():
    """10 steps × 4 × 2 rewrites × 3; 2 responses to each prompt itself; frontier: 3 sets × 2 prompts, of which each
    gets 8 own responses, 8 × 2 to the untrained rewrites and, at 3 checkpoints, 2 × 2; 4 prompts by 2 arms."""
    parameters = {
        "responder": "api:r", "num_steps": 10, "prompts_per_step": 4, "rewrites_per_prompt": 2, "num_responses": 3,
        "save_steps": 4, "reference_responses": 2, "frontier_prompts": 5, "frontier_rewrites": 8,
        "frontier_responses": 2, "prompt_sets": ["a", "b", "c"],
    }  # fmt: skip
    assert by_model("02_train_alignpro", parameters) == {("responder", "api:r"): [240, 80, 6 * (8 + 16 + 12), 4 * 2]}
    assert by_model("03_train_poir", parameters) == {("responder", "api:r"): [4]}
    assert by_model("05_plot", parameters) == {}


def test_tokens_dollars_and_limits_in_words():
    """Of 30 calls each reads 100 tokens and writes 50: 3,000 × 2 and 1,500 × 10 millionths of a dollar."""
    parameters = {"responder": "api:r", "arms": ["nan"], "num_prompts": 30, "prompt_sets": ["a"], "num_samples": 1}
    lines = calls.sentences("04", parameters | {"max_response_tokens": 50}, Limits(max_usd=1, prices={"r": (2, 10)}))
    cost = "about 3,000 tokens read and at most 1,500 written, at most $0.02"
    assert lines[0] == f"responder api:r: at most 30 prompts = 30 calls, {cost}"
    assert lines[1] == "limit: $1.00"
    assert calls.sentences("04", parameters | {"responder": "sandbox/responder"}, Limits()) == []
    known = calls.sentences("04", parameters, Limits(), ["a" * 70, "b" * 140])[0]
    assert "at most 2 prompts = 2 calls, about 60 tokens read" in known
    unknown = calls.sentences("04", parameters | {"num_prompts": 0}, Limits())[0]
    assert unknown == "responder api:r: at most all prompts"


COUNTED = """
asked = []
def prompter(messages):
    asked.append("prompter")
    if messages[-1]["content"].startswith("invent:"):
        return f"Generated Instruction 1: say {len(asked) // 9}"
    if messages[-1]["content"].startswith("revise:"):
        return f"Revised question: say {len(asked)}"
    return f"Score: 2\\nImprove: say {len(asked)}"
def responder(messages):
    return asked.append("responder") or "it is an animal"
def judge(messages):
    return asked.append("judge") or "[[C]]"
def score(prompts, responses):
    return [1.0] * len(prompts)
"""


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A module of functions that answer as models do, and count: `asked` holds the name of each one's calls."""
    (tmp_path / "counted.py").write_text(COUNTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "counted", raising=False)
    module = importlib.import_module("counted")
    return module


@pytest.mark.parametrize(
    ("model", "address", "wanted"),
    [
        ("api:gpt-4o", "", True),  # priced
        ("api:gpt-4o", "http://127.0.0.1:4000/v1", True),  # a proxy on this machine: what has a price is billed
        ("api:llama", "http://127.0.0.1:8000/v1", False),
        ("api:llama@local", "", False),
        ("api:llama", "https://llm.example.org/v1", False),
        ("api:free", "", False),  # a price of 0
        ("api:gpt-9", "", True),  # OpenAI's, whose price nobody wrote down
        ("api:gpt-9", "https://api.openai.com/v1", True),
    ],
)
def test_only_what_may_be_billed_is_called_paid(monkeypatch, model, address, wanted):
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    prices = {"gpt-4o": (2.5, 10.0), "free": (0.0, 0.0)}
    assert calls.is_paid(model, prices) is wanted
    (line, *_) = calls.sentences("03_train_poir", {"responder": model}, Limits(prices=prices))
    assert ("$" in line or "price unknown" in line) is wanted


def test_no_evaluation_makes_more_calls_than_its_bound(counted, tmp_path):
    """Every built-in arm, the loop's retries, all pairs and the judge's trial, by functions that count."""
    local = EVALUATE | {"prompt_sets": ["a"], "reward_model": "counted:score", "tilt_weight": 0.1}
    sampling, runtime = Sampling(max_new_tokens=9), Runtime(8)
    prompts = [Prompt(prompt_id(text), text, "a") for text in ("tell me of it", "what is it", "name two of them")]
    names = ["nan", *local["arms"]]
    made = [
        row
        for name in names
        for row in answering.answer(
            arms.build(name, tmp_path, "counted:prompter", "counted:responder", arms.options_of(local)),
            prompts, 2, Conditions("sandbox", sampling, sampling, runtime),
        )
    ]  # fmt: skip
    panel = judging.Panel(("counted:judge",), templates.load("judge_pairwise", "sandbox"), sampling, runtime=runtime)
    pairs = judging.pairs_of(made, "nan", judging.read_pairs(["all"], names, "nan"))
    judging.judge_pairs(pairs, panel)
    controls.judge_controls(made, "nan", panel, controls.Trial(2, round(0.1 * len(pairs))))
    for (name, _), bounds in by_model("04", local | {"jury": []}).items():
        assert 0 < counted.asked.count(name) <= sum(bounds)


def test_no_collection_makes_more_calls_than_its_bound(counted):
    """No prompt ever gives a pair: both steps go on until the limit of prompts, the one said or ten for a pair."""
    for wanted, most in ((Wanted(2), 20), (Wanted(9, max_prompts=5), 5)):
        counted.asked.clear()
        refuse, given = invent.refusal(1, 50, [], set()), Conditions("sandbox", SHORT, SHORT, Runtime(2))
        settings, seeds = invent.Settings(2, min_acceptance=0), ["say a", "say b"]
        pool = invent.Invention("counted:prompter", seeds, settings, refuse, NoveltyFilter(1.0), given)
        found = collect(pool, "counted:responder", critique.Loop(2, 4, 1, 9), wanted, lambda rows: set())
        assert (len(pool.rows), len(found.rounds)) == (most, 3 * most) and "raise max_prompts" in found.message
        parameters = EVALUATE | {"num_pairs": wanted.num_pairs, "max_prompts": wanted.max_prompts, "num_shots": 2}
        for (name, _), bounds in by_model("01_collect", parameters).items():
            assert 0 < counted.asked.count(name) <= sum(bounds)


def test_a_collections_calls_by_hand():
    """Ten prompts for each of 3 pairs, each 20 calls to invent, 3 critiques and 2 rewrites, tried twice, 3 responses;
    or as many as max_prompts says."""
    parameters = EVALUATE | {"num_pairs": 3, "max_prompts": 0}
    assert by_model("01_collect", parameters) == {
        ("prompter", "api:p"): [20 * 30, 30 * 3 * 2, 30 * 2 * 2], ("responder", "api:r"): [30 * 3],
    }  # fmt: skip
    assert by_model("01_collect", parameters | {"max_prompts": 4})["responder", "api:r"] == [4 * 3]

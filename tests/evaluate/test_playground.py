"""One prompt through every arm: as 04 would have answered it, with a line for what is missing, models loaded once."""

import json
import shutil
from dataclasses import asdict, replace

import pandas as pd
import pytest

from nbutils.evaluate import answering, arms, judging, playground
from nbutils.experiment import params, paths, records, steps
from nbutils.experiment.records import Prompt
from nbutils.models import loading, references, scoring, templates
from nbutils.models.texts import Sampling

FOX, OWL = "tell me about the fox.", "what is the owl?"
NOTEBOOK = paths.project_root() / "notebooks" / "04_evaluate.ipynb"
NAMES = ["nan", "untrained", "mine", "shuffled:untrained"]


def settings(**changes):
    """04's own defaults, small."""
    known = {name: each.default for name, each in params.read_schema(NOTEBOOK).items()}
    small = {"max_rewrite_tokens": 24, "max_response_tokens": 24, "arms": NAMES}
    return known | small | {"experiment": "e", "cell": "main", "step": "evaluate"} | changes


def evaluated(outputs, **changes):
    """A finished evaluation of two prompts, its arm `mine` trained (a copy of the untrained model)."""
    folder, chosen = outputs / "e" / "main" / "evaluate", settings(**changes)
    arms.write_arm(folder.parent / "mine", "prompter", "meta_prompt", None)
    shutil.copytree(references.resolve("sandbox/prompter"), folder.parent / "mine" / "model", dirs_exist_ok=True)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"notebook": "04_evaluate", "parameters": chosen}))
    return playground.find("e/main")


def as_in_04(found, prompts):
    """Answers and verdicts as the notebook makes them, all prompts at once."""
    rows = [Prompt(records.prompt_id(text), text, "set") for text in prompts]
    given = answering.conditions(found.settings, found.runtime)
    answers = [row for name in found.names for row in answering.answer(found.build(name), rows, 2, given)]
    said = [row.response for row in answers]
    rewards = scoring.score("sandbox/reward", [row.prompt for row in answers], said, found.runtime)
    answers = [replace(row, reward=reward) for row, reward in zip(answers, rewards, strict=True)]
    asked = templates.load("judge_pairwise", "sandbox")
    panel = judging.Panel(("sandbox/judge",), asked, Sampling(0.0, max_new_tokens=512), 0.0, found.runtime)
    records.write_rows(found.folder / "answers.jsonl", answers)
    return answers, judging.judge_arms(answers, "nan", panel)


@pytest.mark.slow
def test_a_prompt_of_the_evaluation_gives_its_own_rows_again_in_every_sample_and_loads_no_model_twice(outputs):
    found = evaluated(outputs)
    answers, verdicts = as_in_04(found, [FOX, OWL, "name the sound of the wolf."])
    loading.load_causal.cache_clear()
    for sample in (0, 1):
        rows = playground.try_prompt(OWL, "e/main/evaluate", sample=sample).rows
        theirs = [row for row in answers if (row.prompt, row.sample) == (OWL, sample)]
        assert [(row.arm, row.rewrite, row.response) for row in theirs] == list(
            rows[["arm", "rewrite", "response"]].itertuples(index=False, name=None)
        )
        assert list(rows.reward) == pytest.approx([row.reward for row in theirs], abs=1e-5)
        heard = {(row.arm_a, row.first_shown): row.verdict for row in verdicts
                 if (row.prompt_id, row.sample) == (records.prompt_id(OWL), sample)}  # fmt: skip
        for row in rows[rows.arm != "nan"].to_dict("records"):
            assert row["verdict_arm_first"] == heard[row["arm"], row["arm"]]
            assert row["verdict_baseline_first"] == heard[row["arm"], "nan"]
    assert loading.load_causal.cache_info().misses == 3  # sandbox/prompter, sandbox/responder, mine


def with_fakes(outputs, **changes):
    fakes = {"prompter": "fakes:echo", "responder": "fakes:echo", "reward_model": "fakes:length"}
    return evaluated(outputs, **fakes | {"judge": "fakes:longer", "arms": ["nan", "untrained", "mine"]} | changes)


def test_an_arm_whose_model_is_gone_is_one_line_and_the_others_are_shown(outputs):
    found = with_fakes(outputs)
    shutil.rmtree(found.folder.parent / "mine" / "model")
    tried = playground.try_prompt("x", "e")
    rows = tried.rows.set_index("arm")
    assert rows.loc["untrained", ["rewrite", "reward", "verdict"]].tolist() == ["rephrase: x", 11.0, "win"]
    assert rows.loc["mine", "note"].endswith("mine/model is gone: train mine again") and pd.isna(
        rows.loc["mine", "reward"]
    )
    assert rows.loc["mine", "verdict"] == "unscored" and "train mine again" in tried._repr_html_()


def test_without_a_judge_or_a_reward_model_the_responses_are_still_shown(outputs):
    with_fakes(outputs, judge="fakes:nobody", reward_model="no/such:thing", arms=["nan", "untrained"])
    tried = playground.try_prompt("x", "e")
    assert list(tried.rows.response) == ["x", "rephrase: x"] and tried.rows.reward.isna().all()
    assert "no verdicts: 'fakes:nobody': module fakes has no function nobody" in tried.notes
    assert len([note for note in tried.notes if note.startswith("no rewards: ")]) == 1


@pytest.mark.parametrize(
    "ask, line",
    [
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"arms": ["untraind"]}, "arm 'untraind' not found: did you mean untrained"),
        ({"where": "f"}, "f has no finished evaluation: run 04_evaluate first"),
        ({"where": "e/main/mine"}, "e/main/mine has no finished evaluation"),
        ({"where": "../e"}, "evaluation '..': letters"),
    ],
)
def test_what_cannot_be_tried_is_one_line(outputs, ask, line):
    with_fakes(outputs)
    with pytest.raises((ValueError, FileNotFoundError), match=line):
        playground.try_prompt(**{"prompt": "x", "where": "e"} | ask)


def test_some_arms_come_with_the_baseline_and_a_step_stands_for_its_experiment(outputs):
    with_fakes(outputs)
    step = steps.Step("05_plot", {"experiment": "e", "cell": "all"}, "plot")
    assert list(playground.try_prompt("x", step, arms="untrained").rows.arm) == ["nan", "untrained"]


def test_an_evaluation_of_another_time_says_what_it_lacks(outputs):
    found = with_fakes(outputs)
    old = {name: value for name, value in found.settings.items() if name != "jury"}
    (found.folder / "manifest.json").write_text(json.dumps({"notebook": "04_evaluate", "parameters": old}))
    with pytest.raises(ValueError, match="evaluate was made without jury: run 04_evaluate again"):
        playground.find("e")


def test_nothing_is_stored(outputs):
    found = with_fakes(outputs)
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}
    playground.try_prompt("x", "e")
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*")} == before and found.folder.exists()


def test_stored_cases_need_no_model(outputs, monkeypatch):
    found = with_fakes(outputs)
    answers, _ = [], monkeypatch.setattr(references, "load_callable", None)
    for arm in ("nan", "mine"):
        answers.append(records.Answer("i", "s", "x", arm, 0, "x", [], arm, 1.0, None, 1))
    judged = [records.Verdict("i", "s", "mine", "nan", 0, first, "win", None, "") for first in ("mine", "nan")]
    frames = [pd.DataFrame([asdict(row) for row in rows]).assign(cell="main") for rows in (answers, judged)]
    assert len(playground.cases(*frames, arm="mine", outcome="win")) == 1
    none = playground.cases(*frames, arm="mine", outcome="lose")
    assert len(none) == 0 and none.notes == ("there is no such case",) and found.names[0] == "nan"
    with pytest.raises(ValueError, match="did you mean mine"):
        playground.cases(*frames, arm="mien")

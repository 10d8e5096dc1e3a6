"""05 reads every cell, and shows cases that nobody picked by their results."""

import pytest

from nbutils import gather, records, steps
from nbutils.records import Answer, Round, Verdict

PARAMETERS = {"experiment": "e", "cell": "all", "seed": 0}


def answer(prompt, arm, reward=1.0, sample=0):
    return Answer(records.prompt_id(prompt), "set", prompt, arm, sample, prompt, [], f"{arm} says", reward, None, 3)


def verdicts(prompt, outcome, arm="poir", base="nan"):
    ids = records.prompt_id(prompt)
    return [Verdict(ids, "set", arm, base, 0, first, outcome, None, "raw") for first in (arm, base)]


@pytest.fixture
def run(outputs):
    for cell in ("a", "b"):
        folder = outputs / "e" / cell / "evaluate"
        prompts = [f"prompt {n}" for n in range(20)]
        records.write_rows(folder / "answers.jsonl", [answer(p, arm) for p in prompts for arm in ("nan", "poir")])
        records.write_rows(
            folder / "verdicts.jsonl", [v for p in prompts for v in verdicts(p, "win" if cell == "a" else "lose")]
        )
    records.write_rows(outputs / "e" / "a" / "alignpro" / "history.jsonl", [{"step": 1, "reward": 0.5, "loss": 0.0}])
    records.write_rows(outputs / "e" / "b" / "poir" / "history.jsonl", [{"step": 1, "loss": 0.5}])
    records.write_rows(outputs / "e" / "a" / "collect" / "rounds.jsonl", [Round("1", "x", 0, "x", "y", 3, "c", "raw")])
    return steps.open_step("05_plot", PARAMETERS, "plot")


def test_every_cell_is_read_and_kept_apart(run):
    found = gather.evaluations(run, [], ["evaluate"])
    assert found.cells == ["a", "b"] and len(found.answers) == 80
    assert {name: len(part) for name, part, _ in found.by_cell()} == {"a": 40, "b": 40}
    assert gather.evaluations(run, ["b"], ["evaluate"]).cells == ["b"]


def test_missing_evaluation_names_its_notebook(outputs):
    run = steps.open_step("05_plot", PARAMETERS, "plot")
    with pytest.raises(FileNotFoundError, match="answers.jsonl not found: run 04_evaluate first"):
        gather.evaluations(run, [], ["evaluate"])


def test_histories_go_to_their_kind_and_inputs_into_the_manifest(run):
    rl, preference = gather.histories(run, ["a", "b"])
    assert list(rl.arm) == ["alignpro"] and list(preference.arm) == ["poir"] and list(preference.cell) == ["b"]
    rounds, counts = gather.collection(run, ["a", "b"])
    assert list(rounds.score) == [3] and counts == {}
    assert sum(name.endswith("history.jsonl") for name in run.finish()["inputs"]) == 2


def test_cases_are_whole_and_do_not_depend_on_results(run):
    found = gather.evaluations(run, ["a"], ["evaluate"])
    cases = gather.cases(found.answers, found.verdicts, 5, 0, "nan")
    assert len(cases) == 10 and cases.prompt_id.nunique() == 5
    assert set(cases[cases.arm == "poir"].verdict) == {"win"} and set(cases[cases.arm == "nan"].verdict) == {""}
    other = found.answers.assign(reward=range(40)).sample(frac=1, random_state=1)
    assert list(gather.cases(other, found.verdicts, 5, 0, "nan").prompt_id.unique()) == list(cases.prompt_id.unique())
    assert set(gather.cases(found.answers, found.verdicts, 5, 1, "nan").prompt_id) != set(cases.prompt_id)


def test_missing_rewards_stay_missing(outputs):
    folder = outputs / "e" / "a" / "evaluate"
    records.write_rows(folder / "answers.jsonl", [answer("x", "nan", reward=None)])
    records.write_rows(folder / "verdicts.jsonl", [])
    found = gather.evaluations(steps.open_step("05_plot", PARAMETERS, "plot"), [], ["evaluate"])
    assert found.answers.reward.isna().all() and len(found.verdicts) == 0

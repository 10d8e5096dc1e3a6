"""05 reads every cell, and shows cases that nobody picked by their results."""

import dataclasses
import json

import pandas as pd
import pytest

from nbutils.analyse import gather, health, tables
from nbutils.data import labels
from nbutils.experiment import records, steps
from nbutils.experiment.records import Answer, Round, Sample, Verdict

PARAMETERS = {"experiment": "e", "cell": "all", "seed": 0}
END = {"prompt 1": "length", "prompt 2": "stop"}


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


def test_trainings_are_watched_by_the_verdicts_beside_their_samples_and_older_ones_have_none(run, outputs):
    ids = records.prompt_id("x")
    samples = [
        Sample(ids, "x", source, 0, "more", 0, "two words", r) for source, r in (("initial", 0.0), ("trained", 1.5))
    ]
    for cell in ("a", "b"):
        folder = outputs / "e" / cell / "alignpro"
        records.write_rows(folder / "samples.jsonl", samples)
        records.write_rows(folder / "shifts.jsonl", [])
        (folder / "manifest.json").write_text(json.dumps({"parameters": {"num_steps": 40}}))
    records.write_rows(outputs / "e" / "a" / "alignpro" / "watch.jsonl", verdicts("x", "win", "trained", "initial"))
    table, said = gather.watched(run, ["a", "b"], 0)
    assert list(table.cell) == ["a", "a", "b", "b"] and list(table.step) == [0, 40] * 2
    assert list(table.win_rate.fillna(-1)) == [-1, 1, -1, -1] and list(table.gain.fillna(-1)) == [-1, 1.5] * 2
    assert said[0].startswith("a/alignpro: Not known: 1 held-out prompt with a reward") and len(said) == 2
    assert sum(name.endswith("watch.jsonl") for name in run.finish()["inputs"]) == 1
    nothing, silence = gather.watched(run, [], 0)
    assert nothing.empty and {"cell", "arm", "gain"} <= set(nothing) and silence == []


def test_histories_go_to_their_kind_and_inputs_into_the_manifest(run):
    rl, preference = gather.histories(run, ["a", "b"])
    assert list(rl.arm) == ["alignpro"] and list(preference.arm) == ["poir"] and list(preference.cell) == ["b"]
    rounds, counts = gather.collection(run, ["a", "b"])
    assert list(rounds.score) == [3] and counts == {}
    assert sum(name.endswith("history.jsonl") for name in run.finish()["inputs"]) == 2


def test_benchmarks_of_all_cells_are_read_where_there_are_any(run, outputs):
    assert gather.benchmarks(run, ["a", "b"], ["evaluate"]) == ([], [])
    records.write_rows(outputs / "e" / "b" / "evaluate" / "benchmarks.jsonl", [{"benchmark": "mmlu", "value": 0.5}])
    records.write_rows(outputs / "e" / "b" / "evaluate" / "benchmark_questions.jsonl", [{"task": "mmlu"}])
    scores, questions = gather.benchmarks(run, ["a", "b"], ["evaluate"])
    assert scores == [{"benchmark": "mmlu", "value": 0.5, "cell": "b"}] and questions[0]["cell"] == "b"


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


def test_endings_are_read_where_they_were_stored(outputs):
    """Cell a is of an older run; in b one of two responses was cut, behind a rewrite that was not."""
    new = [dataclasses.replace(answer(x, "poir"), finish=end, rewrites_cut=False) for x, end in END.items()]
    old = [{k: v for k, v in dataclasses.asdict(row).items() if k not in ("finish", "rewrites_cut")} for row in new]
    for cell, rows in (("a", old), ("b", new)):
        records.write_rows(outputs / "e" / cell / "evaluate" / "answers.jsonl", rows)
        records.write_rows(outputs / "e" / cell / "evaluate" / "verdicts.jsonl", [])
    found = gather.evaluations(steps.open_step("05_plot", PARAMETERS, "plot"), [], ["evaluate"])
    shares = {name: tables.summary(a, v, name)[["cut", "cut_rewrites"]].iloc[0] for name, a, v in found.by_cell()}
    assert shares["a"].isna().all() and shares["b"].tolist() == [0.5, 0.0]


def test_models_come_from_the_manifest_of_the_evaluation(run, outputs):
    assert gather.evaluations(run, [], ["evaluate"]).models == {}
    models = {"prompter": "a/small", "responder": "a/large"}
    path = outputs / "e" / "b" / "evaluate" / "manifest.json"
    path.write_text(json.dumps({"parameters": models | {"seed": 0}}))
    (outputs / "e" / "a" / "evaluate" / "manifest.json").write_text("torn {")
    assert gather.evaluations(run, [], ["evaluate"]).models == {"b": models}
    assert sum(name.endswith("b/evaluate/manifest.json") for name in run.finish()["inputs"]) == 1


def judged(raw_arm_first, raw_nan_first, arm_a="poir", arm_b="nan", says=("win", "tie")):
    ids = records.prompt_id("prompt 1")
    rows = [("poir", says[0], raw_arm_first), ("nan", says[1], raw_nan_first)]
    return [Verdict(ids, "set", arm_a, arm_b, 0, first, verdict, None, raw) for first, verdict, raw in rows]


def cases_of(rows):
    answers = pd.DataFrame([answer("prompt 1", arm) for arm in ("nan", "poir")]).assign(cell="a")
    return gather.cases(answers, pd.DataFrame(rows).assign(cell="a"), 1, 0, "nan")


@pytest.mark.parametrize(("arms", "says"), [(("poir", "nan"), ("win", "tie")), (("nan", "poir"), ("lose", "tie"))])
def test_cases_tell_scores_and_words_of_the_judge_in_each_order(arms, says):
    """As in Align-Pro C.4: scores of the arm and of the baseline, whichever was shown first or named first."""
    table = cases_of(judged("8 7.5\nBetter.", "7 7\nAlike.", *arms, says))
    base, arm = table.to_dict("records")
    assert (arm["verdict"], arm["verdict_arm_first"], arm["verdict_baseline_first"]) == ("tie", "win", "tie")
    assert (arm["arm_score_arm_first"], arm["baseline_score_arm_first"]) == (8, 7.5)
    assert (arm["arm_score_baseline_first"], arm["baseline_score_baseline_first"]) == (7, 7)
    assert (arm["judge_arm_first"], arm["judge_baseline_first"]) == ("8 7.5\nBetter.", "7 7\nAlike.")
    assert pd.isna(base["judge_arm_first"]) and pd.isna(base["arm_score_arm_first"]) and base["verdict"] == ""
    text = gather.as_text(table, "nan")
    assert "Judge, poir shown first: win (poir 8, nan 7.5)\n  | 8 7.5\n  | Better." in text
    assert text.startswith(
        "Prompt: prompt 1\n\n[nan]\nResponse: nan says\nReward: 1.000\n\n[poir]\nResponse: poir says\nReward: 1.000\n"
    )


def test_scores_of_the_baseline_come_first_where_it_was_shown_first():
    (_, arm) = cases_of(judged("8/10 6/10", "6 9")).to_dict("records")
    assert (arm["arm_score_baseline_first"], arm["baseline_score_baseline_first"]) == (9, 6)
    assert (arm["arm_score_arm_first"], arm["baseline_score_arm_first"]) == (8, 6)


@pytest.mark.parametrize("raw", ["", "8 7 [[A]]", "8 7\n[[B]]", "I cannot judge.", "11 2", "8 7 6", "\ud800"])
def test_texts_without_two_scores_have_none(raw):
    assert gather.judge_scores(raw) == (None, None)
    assert gather.judge_scores("\n **8, 7.5**\nBetter.") == (8.0, 7.5)


def test_unscored_orders_give_their_reason_and_cases_without_verdicts_have_none():
    rows = judged("nonsense", "6 9", says=("unscored", "win"))
    table = cases_of([dataclasses.replace(rows[0], reason="first line is not two scores"), rows[1]])
    assert "Judge, poir shown first: unscored (first line is not two scores)\n  | nonsense" in gather.as_text(
        table, "nan"
    )
    answers = pd.DataFrame([answer("prompt 1", "poir")]).assign(cell="a")
    empty = gather.cases(answers, pd.DataFrame(columns=[*Verdict.__dataclass_fields__, "cell"]), 1, 0, "nan")
    assert empty["judge_arm_first"].isna().all() and "Judge" not in gather.as_text(empty, "nan")


def labelled(run, file="", step="evaluate"):
    found = gather.evaluations(run, [], ["evaluate"])
    return found, gather.human_labels(run, found, [step], file, "nan")


def test_labels_of_each_cell_meet_its_own_verdicts_and_are_an_input(run, outputs):
    for cell, word in (("a", "win"), ("b", "tie")):
        path, prompt = outputs / "e" / cell / "evaluate" / "labels.jsonl", records.prompt_id("prompt 3")
        labels.append(path, records.Label(prompt, "set", "poir", "nan", 0, word, "anna", "now"))
    found, people = labelled(run)
    assert [(row["cell"], row["outcome"], row["label"]) for row in people.rows] == [
        *(("a", "win", "win"), ("b", "lose", "tie")),
    ]
    cards = found.health_cards(people)
    assert cards[cards.check == health.AGREES].set_index("cell").value.to_dict() == {"a": 1.0, "b": 0.0}
    assert len(found.health_cards()) == 16
    assert sum(name.endswith("labels.jsonl") for name in run.finish()["inputs"]) == 2


def test_labels_from_a_file_need_the_cell_where_there_are_several(run, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,arm_a,arm_b,label,cell\nprompt 3,poir,nan,A,b\nprompt 4,poir,nan,A,\nprompt 5,x,nan,A,b\n")
    _, people = labelled(run, str(path))
    assert [(row["cell"], row["outcome"], row["label"]) for row in people.rows] == [("b", "lose", "win")]
    assert sorted(people.left_out.values()) == [1, 1] and any("several pairs" in why for why in people.left_out)
    assert any(name.endswith("mine.csv") for name in run.finish()["inputs"])


def test_without_labels_there_are_none_and_the_first_one_makes_the_step_stale(run, outputs):
    _, people = labelled(run)
    assert not people.rows and not people.left_out
    run.finish()
    assert steps.verify(run.folder) == (True, "done")
    first = records.Label("p", "s", "x", "y", 0, "tie", "anna")
    labels.append(outputs / "e" / "b" / "evaluate" / "labels.jsonl", first)
    done, why = steps.verify(run.folder)
    assert not done and "labels.jsonl has changed" in why
    with pytest.raises(FileNotFoundError, match="none.csv not found: wanted a file of human labels"):
        labelled(run, "none.csv")


def test_a_note_of_no_rewrite_does_not_say_that_the_prompt_was_sent():
    row = {"rewrites": [""], "reason": "no rewrite: no text: a thought that does not end, 48 tokens"}
    assert gather._note(row) == f"no response: {row['reason']}"
    assert gather._note(row | {"reason": None}) == "the prompter wrote nothing, the prompt was sent"

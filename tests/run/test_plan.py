"""plan and status say what will be done, what it takes and what is missing, and touch nothing."""

import json
import sys
from dataclasses import asdict

import pytest
from tiny_project import SHARED, make_project, write_experiment, write_notebook

from nbutils.experiment.journal import Journal
from nbutils.models import references
from nbutils.models.texts import Generation
from nbutils.run import plan, uses

TRAIN = SHARED + (
    'prompter: str = "acme/Tiny-1.5B-Instruct"\nresponder: str = "acme/Big-7B"\nreward_model: str = "acme/RM-2B"\n'
    'step: str = ""\npolicy: str = "prompter"\nlora_rank: int = 0\ndtype: str = "auto"\n'
    "num_steps: int = 10\nprompts_per_step: int = 4\nrewrites_per_prompt: int = 2\n"
)
EVALUATE = SHARED + (
    'prompter: str = "acme/Tiny-1.5B-Instruct"\nresponder: str = "api:gpt-x"\njudge: str = "api:gpt-y"\n'
    'step: str = "evaluate"\n'
    'arms: list = ["nan", "untrained", "alignpro"]\nbaseline: str = "nan"\nprompt_sets: list = ["a", "b"]\n'
    "num_prompts: int = 50\nnum_samples: int = 3\n"
)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    for name in ("WORKBOOK_OUTPUTS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(plan, "has_gpu", lambda: False)
    make_project(tmp_path)
    write_notebook(tmp_path / "notebooks" / "02_train.ipynb", TRAIN, ["1"])
    write_notebook(tmp_path / "notebooks" / "04_evaluate.ipynb", EVALUATE, ["1"])
    steps = [{"notebook": "02_train", "id": "full"}, {"notebook": "02_train", "id": "lora", "with": {"lora_rank": 8}}]
    return write_experiment(tmp_path / "params" / "tiny.yml", steps=[*steps, {"notebook": "04_evaluate"}])


def step(path, name):
    return next(one for one in plan.load(path)[1] if one.id == name)


def test_memory_follows_the_formula_that_is_printed(path):
    inference = 1.2 * 2 * (1.5e9 + 7e9 + 2e9)  # three models in two bytes per parameter, a fifth on top
    assert uses.memory_bytes(step(path, "full")) == (pytest.approx(inference + 14 * 1.5e9), True)
    assert uses.memory_bytes(step(path, "lora")) == (pytest.approx(inference + 0.5 * 1.5e9), True)
    assert "GPU memory: about 46.2 GB" in "\n".join(plan.plan(path, details=True))


def test_a_step_that_trains_the_responder_loads_no_prompter(path):
    write_experiment(path, steps=[{"notebook": "02_train", "id": "rlhf", "with": {"policy": "responder"}}])
    assert list(uses.used_models(step(path, "rlhf"))) == ["responder", "reward_model"]
    assert uses.memory_bytes(step(path, "rlhf"))[0] == pytest.approx(1.2 * 2 * (7e9 + 2e9) + 14 * 7e9)


def test_models_of_unknown_size_are_said_to_be_missing_from_the_estimate(path):
    write_experiment(path, shared={"responder": "acme/mystery"}, steps=[{"notebook": "02_train", "id": "full"}])
    assert uses.memory_bytes(step(path, "full"))[1] is False
    assert "plus models of unknown size" in "\n".join(plan.plan(path, details=True))


def test_a_reward_model_that_an_earlier_step_learns_is_no_missing_model(path):
    learnt = "outputs/tiny/main/first/reward_model"
    steps = [{"notebook": "02_train", "id": "first"}, {"notebook": "02_train", "id": "second"}]
    steps[1]["with"] = {"reward_model": learnt}
    write_experiment(path, steps=steps)
    planned = plan.load(path)[1]
    assert [uses.is_made_before(learnt, one, planned) for one in planned] == [False, True]
    assert not uses.is_made_before("acme/RM-2B", planned[1], planned)
    text = "\n".join(plan.plan(path, details=True))
    assert f"{learnt} (size unknown)" in text and "plus models of unknown size" in text


def test_paid_calls_stand_with_their_step_and_are_summed(path):
    text = "\n".join(plan.plan(path, details=True))
    product = "100 prompts × 3 samples each × 3 arms = 900 calls"
    assert f"paid calls: responder api:gpt-x: at most {product}" in text
    assert "paid calls: limit: none" in text
    assert "Paid APIs: at most 2,100 calls in all, $0.00 at most and what has no price. Calls" in text


def test_what_is_paid_at_most_is_in_the_plan(path, tmp_path):
    """900 responses and 1,200 verdicts of 64 tokens at most, ten millionths of a dollar each."""
    (tmp_path / "prices.csv").write_text("model,read,written\ngpt-x,0,10\ngpt-y,0,10\n")
    more = "max_response_tokens: int = 64\nmax_judge_tokens: int = 64\nmax_calls: int = 99\nmax_usd: float = 2.0\n"
    write_notebook(
        tmp_path / "notebooks" / "04_evaluate.ipynb", EVALUATE + more + 'prices: str = "prices.csv"\n', ["1"]
    )
    text = "\n".join(plan.plan(path, details=True))
    assert "at most 57,600 written, at most $0.58" in text and "paid calls: limit: 99 calls and $2.00" in text
    assert "Paid APIs: at most 2,100 calls in all, $1.34 at most. Calls" in text


@pytest.mark.parametrize(("num_prompts", "total"), [(0, 80 + 212), (100, 80 + 100)])
def test_prompts_are_counted_where_that_can_be_known(path, num_prompts, total):
    """Vicuna's test set has 80 prompts, the sandbox's 212; neither is fetched for that."""
    shared = {"num_prompts": num_prompts, "prompt_sets": ["vicuna", "sandbox"]}
    write_experiment(path, shared=shared, steps=[{"notebook": "04_evaluate"}])
    assert f"at most {total} prompts × 3 samples each × 3 arms = {9 * total:,} calls" in "\n".join(
        plan.plan(path, details=True)
    )


def test_calls_that_only_the_data_bound_are_not_given_a_number(path):
    write_experiment(path, shared={"num_prompts": 0}, steps=[{"notebook": "04_evaluate"}])
    text = "\n".join(plan.plan(path, details=True))
    assert "all prompts" in text and "as many as the prompt sets have rows where num_prompts is 0" in text


def test_what_this_machine_lacks_is_listed(path):
    missing = "\n".join(plan.missing(plan.load(path)[1]))
    assert "acme/Big-7B is not in the local cache (about 14.0 GB)" in missing
    assert "OPENAI_API_KEY is not set" in missing and "no GPU: the largest step wants about 46 GB" in missing


def test_nothing_missing_is_said_too(path, tmp_path):
    write_experiment(tmp_path / "params" / "tiny.yml")
    assert plan.plan(path)[-1] == "Nothing is missing here."


def test_every_step_shows_what_differs_from_its_notebook(path):
    lines = plan.plan(path, details=True)
    assert lines[0] == "tiny: 3 steps in 1 cell, from params/tiny.yml"
    place = lines.index("main/lora  (02_train, to do)")
    assert lines[place + 1].strip() == "seed=1, lora_rank=8"


def test_plan_and_status_write_nothing(path, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    plan.plan(path), plan.status(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_cannot_exist_stops_the_plan(path):
    write_experiment(path, shared={"responder": "sandbox/respnder"}, steps=[{"notebook": "02_train"}])
    with pytest.raises(ValueError, match="did you mean sandbox/responder"):
        plan.plan(path)


def test_sizes_of_the_sandbox_come_from_its_files():
    number = references.describe("sandbox/prompter")["num_parameters"]
    assert 500_000 < number < 1_000_000 and uses.size("sandbox/prompter") == f"{number / 1e6:.1f} M"


# --- states


@pytest.fixture
def done(path, tmp_path, monkeypatch):
    """A step whose manifest verifies, made as a notebook would."""
    from nbutils.experiment import records, steps

    write_experiment(path, steps=[{"notebook": "01_make"}])
    planned = step(path, "make")
    opened = steps.open_step("01_make", planned.parameters, "make")
    opened.uses(path)
    records.write_rows(opened.output("rows.jsonl"), [{"row": 1}])
    opened.finish()
    assert plan.state(planned) == ("done", "")
    return planned


def test_a_changed_parameter_notebook_input_or_output_makes_a_step_stale(done, path, tmp_path):
    (done.folder / "rows.jsonl").write_text("")
    assert plan.state(done) == ("stale", "output rows.jsonl has changed")
    (done.folder / "rows.jsonl").unlink()
    assert plan.state(done) == ("stale", "output rows.jsonl is gone")
    path.write_text(path.read_text() + "\n")
    assert plan.state(done)[0] == "stale"
    write_experiment(path, shared={"number": 5}, steps=[{"notebook": "01_make"}])
    assert plan.state(step(path, "make")) == ("stale", "seed was 1, now 0")
    write_notebook(tmp_path / "notebooks" / "01_make.ipynb", "a: int = 1", ["2"])
    assert plan.state(done) == ("stale", "01_make.ipynb has changed")


def test_a_changed_input_alone_makes_a_step_stale(done, path):
    path.write_text(path.read_text() + "\n")
    assert plan.state(done) == ("stale", "input params/tiny.yml has changed")


def test_prose_may_change_without_a_rerun(done, tmp_path):
    notebook = tmp_path / "notebooks" / "01_make.ipynb"
    content = json.loads(notebook.read_text("utf-8"))
    content["cells"][0]["source"] = "# Another title"
    notebook.write_text(json.dumps(content), "utf-8")
    assert plan.state(done) == ("done", "")


def test_failed_interrupted_and_to_do_are_told_apart(done):
    (done.folder / "manifest.json").unlink()
    assert plan.state(done) == ("to do", "")
    (done.folder / "journal.jsonl").write_text('{"key": "a", "value": {}}\n{"key": "b", "value": {}}\n')
    assert plan.state(done) == ("interrupted", "2 answers are kept")
    (done.folder / plan.FAILED).write_text("KeyError: 'x'\n")
    assert plan.state(done) == ("failed", "KeyError: 'x'")
    (done.folder / "manifest.json").write_text("{ torn")
    assert plan.state(done)[0] == "failed"


def test_answers_that_are_kept_are_counted_without_the_notes_on_calls(tmp_path):
    """A key with a hash sign is a note; a text with one is an answer like any other."""
    with Journal(tmp_path / "journal.jsonl") as journal:
        for key, text in (("a", "x #attempt1"), ("a#attempt1", ""), ("a#settled1", ""), ("b", '"key": "c#"')):
            journal.append(key, {"text": text})
    assert plan.journalled(tmp_path) == 2 and plan.journalled(tmp_path / "nowhere") == 0


def test_status_says_how_many_answers_have_no_text_and_why(done, path):
    """Of a step that is done, and of one that was interrupted; a text that looks like a reason is none."""
    fates = [
        Generation("", 0, None, reason) for reason in ("no text: the “filter”", "no text: the “filter”", "too long")
    ]
    fates.append(Generation('", "reason": "nothing", "', 3, "stop"))
    with Journal(done.folder / "journal.jsonl") as journal:
        journal.append_many((str(i), asdict(fate)) for i, fate in enumerate(fates))
    said = ", 3 answers without a text: no text: the “filter” (2), …"
    assert plan.status(path)[1].endswith(f"tokens{said}")
    (done.folder / "manifest.json").unlink()
    assert plan.state(done) == ("interrupted", f"4 answers are kept{said}")
    assert plan.textless(done.folder.parent) == ""


def test_status_gives_a_line_to_each_step(done, path):
    lines = plan.status(path)
    assert lines[0] == "tiny: 1 step in 1 cell in outputs/tiny" and lines[1].split()[:2] == ["main/make", "done"]
    assert "0 tokens" in lines[1]


def test_planning_imports_no_torch(path):
    import subprocess

    code = f"import sys; from nbutils.run import plan; plan.plan({str(path)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

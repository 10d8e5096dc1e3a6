"""Whatever can be known is known before any work: each thing that is wrong is one line, in `plan` and in `run`."""

import http.server
import threading
from pathlib import Path

import pytest
import yaml

from nbutils.models import hub
from nbutils.run import plan, preflight, together, uses

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECT, EVALUATE = {"notebook": "01_collect"}, {"notebook": "04_evaluate", "with": {"arms": ["nan", "untrained"]}}
ALIGNPRO, POIR = {"notebook": "02_train_alignpro", "id": "alignpro"}, {"notebook": "03_train_poir", "id": "poir"}
AWO = POIR | {"id": "dpo_awo"}
REAL = {"prompter": "acme/Small-1B", "responder": "acme/Big-7B"}


@pytest.fixture
def write(tmp_path, outputs, monkeypatch):
    """write(steps, **shared): an experiment on the project's own notebooks."""
    monkeypatch.setenv("WORKBOOK_ROOT", str(REPOSITORY))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "mine").mkdir()

    def make(*steps, grid=None, **shared):
        path = tmp_path / "mine" / "tried.yml"
        content = {"experiment": "tried", "shared": shared, "grid": grid or {}, "steps": list(steps)}
        path.write_text(yaml.safe_dump(content), "utf-8")
        return path

    return make


def faults(path):
    experiment, planned = plan.load(path)
    return [str(fault) for fault in preflight.faults(experiment, planned, planned)]


def given(step, **values):
    return step | {"with": values}


def test_a_key_that_is_none_is_one_line_that_does_not_show_it(write, monkeypatch):
    path = write(given(COLLECT, responder="api:gpt-x"))
    monkeypatch.setenv("OPENAI_API_KEY", "“sk-canary”")
    (line,) = [line for line in faults(path) if "OPENAI_API_KEY" in line]
    assert (
        line
        == "main/collect: api:gpt-x: OPENAI_API_KEY holds quotes: set it to the bare key, as your provider shows it"
    )
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    assert not [line for line in faults(path) if "OPENAI_API_KEY" in line]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([given(COLLECT, seeds="nowhere.csv")], "prompt set nowhere.csv not found at"),
        ([given(COLLECT, prompt_sets=["nowhere.jsonl"])], "prompt set nowhere.jsonl not found at"),
        ([given(COLLECT, prompt_sets=["vicunna"])], "did you mean vicuna?"),
        ([given(COLLECT, keywords="words.txt")], "words.txt not found"),
        ([given(COLLECT, prices="cheap.csv")], "cheap.csv not found: wanted a csv file"),
        ([given(COLLECT, templates="papers")], "folder params/templates/papers not found: did you mean paper?"),
        ([given(COLLECT, responder="no_such_module:answer")], "module no_such_module not found: put no_such_module.py"),
        ([given(COLLECT, responder="api:gpt-x")], "api:gpt-x needs OPENAI_API_KEY, which is not set"),
        ([given(COLLECT, responder="acme/Big-7B")], "acme/Big-7B is not in the local cache, and HF_HUB_OFFLINE is set"),
        ([given(COLLECT, seeds="acme/seeds")], "acme/seeds is not on this machine, and HF_HUB_OFFLINE is set"),
        ([given(COLLECT, prompt_sets=["dolly"])], "dolly is not on this machine, and HF_HUB_OFFLINE is set"),
        ([ALIGNPRO], "main/collect/prompts.jsonl is not there, and no step makes it first: run 01_collect before it"),
        ([POIR], "main/collect/pairs.jsonl is not there, and no step makes it first"),
        ([POIR, COLLECT], "main/collect/pairs.jsonl is not there, and no step makes it first"),
        ([COLLECT | {"id": "mine"}, POIR], "01_collect is called 'mine' here: leave its id out"),
        ([given(ALIGNPRO, train_on="dataset", reward_pairs="collect")], "main/collect/pairs.jsonl is not there"),
        ([given(ALIGNPRO, train_on="dataset", reward_pairs="no.csv")], "prompt set no.csv not found at"),
        ([given(AWO, target="dpo_awo", preference_pairs="no.jsonl")], "prompt set no.jsonl not found at"),
        ([given(AWO, target="dpo_awo", preference_pairs="sandbox")], "sandbox has prompts but no preference pairs"),
        ([given(POIR, pairs_of="no.jsonl")], "prompt set no.jsonl not found at"),
        ([COLLECT, given(POIR, pairs_of="acme/x")], "no 01_collect with that responder"),
        ([given(EVALUATE, arms=["nan", "poir"])], "unknown arm 'poir': did you mean poir_s1?, or add the step that"),
        ([COLLECT, given(EVALUATE, arms=["poir"]), POIR], "arm 'poir' is not trained yet, and no step before this one"),
        ([given(EVALUATE, arms=["shuffled:poir"])], "unknown arm 'poir'"),
        ([given(EVALUATE, arms=["nan"], baseline="sft")], "unknown arm 'sft'"),
        ([given(EVALUATE, arms=["nan"], judge="sandbox/judg")], "did you mean sandbox/judge?"),
        ([given(EVALUATE, arms=["nan"], benchmark_folder="tasks")], "benchmark_folder tasks not found"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_one_line_in_the_plan_and_stops_the_run(write, steps, message):
    path = write(*steps)
    try:
        found = faults(path)
    except ValueError as error:  # a model that cannot be: `plan` itself stops with that line
        found = [str(error)]
    assert [line for line in found if message in line], found
    assert all("\n" not in line for line in found)
    experiment, planned = plan.load(path)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        preflight.check_machine(experiment, planned, planned, reach=False)
    assert "main/" in str(caught.value)


def test_what_is_there_already_needs_no_step_before_it(write, outputs):
    for name in ("collect/prompts.jsonl", "collect/pairs.jsonl", "poir/arm.json"):
        file = outputs / "tried/main" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")
    assert faults(write(ALIGNPRO, given(EVALUATE, arms=["nan", "poir"]))) == []


def test_all_that_is_wrong_stands_in_the_plan_once_with_its_steps(write):
    path = write(given(COLLECT, seeds="no.csv"), grid={"seed": [0, 1, 2, 3]})
    lines = plan.plan(path)
    place = lines.index("Cannot run as it is:")
    assert lines[place + 1].startswith("  seed-0/collect, seed-1/collect and 2 more: prompt set no.csv not found at")
    assert lines[place + 2] == ""


# --- the sandbox's own beside other models


@pytest.mark.parametrize(
    ("step", "left"),
    [
        (COLLECT, "seeds sandbox, prompt_sets sandbox, overlap_threshold 1.0, novelty_threshold 1.0, templates"),
        (ALIGNPRO, "reward_model sandbox/reward, judge sandbox/judge, prompt_sets sandbox, overlap_threshold 1.0"),
        (POIR, "prompt_sets sandbox, overlap_threshold 1.0, templates sandbox"),
        (EVALUATE, "reward_model sandbox/reward, judge sandbox/judge, gold_reward sandbox/gold, prompt_sets sandbox"),
    ],
)  # fmt: skip
def test_the_sandboxs_own_beside_another_model_is_refused_with_what_to_set(write, step, left):
    experiment, planned = plan.load(write(step, **REAL))
    with pytest.raises(ValueError, match="set .* in the experiment file") as caught:
        together.check_sandbox(planned[0], experiment)
    assert f"({left}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shared",
    [
        {},
        {"prompter": "fakes:echo", "responder": "fakes:echo"},
        {"prompter": "sandbox/llama_prompter"},
        {"prompter": "outputs/sandbox/main/alignpro/model"},
    ],
)
def test_the_sandbox_and_functions_go_with_the_sandboxs_own(write, shared):
    experiment, planned = plan.load(write(COLLECT, ALIGNPRO, POIR, EVALUATE, **shared))
    for step in planned:
        together.check_sandbox(step, experiment)


def test_a_value_that_the_file_states_is_meant(write):
    said = {"prompt_sets": ["sandbox"], "templates": "sandbox", "overlap_threshold": 1.0}
    experiment, planned = plan.load(write(given(COLLECT, seeds="sandbox", novelty_threshold=1.0), **REAL, **said))
    together.check_sandbox(planned[0], experiment)


def test_the_watch_of_a_training_needs_a_judge_and_without_it_none_is_asked_for(write):
    said = {"train_on": "dataset", "dataset": "sandbox", "reward_model": "acme/RM-2B", "templates": "sandbox"}
    said |= {"prompt_sets": ["sandbox"], "overlap_threshold": 1.0}
    on, off, nothing_held_out = (given(ALIGNPRO, **said, **more) for more in (
        {}, {"watch_responses": 0}, {"frontier_prompts": 0},
    ))  # fmt: skip
    for step, used in ((on, True), (off, False), (nothing_held_out, False)):
        path = write(step, **REAL)
        experiment, planned = plan.load(path)
        assert ("judge" in uses.used_models(planned[0])) is used
        left = [line for line in faults(path) if "what is made for the sandbox (judge sandbox/judge" in line]
        assert len(left) == used and all("set judge: <api:model or a hub id>" in line for line in left)


def test_a_sandbox_model_left_beside_another_one_is_named(write):
    experiment, planned = plan.load(write(POIR | {"with": {"target": "poir"}}, COLLECT, responder="acme/Big-7B"))
    with pytest.raises(
        ValueError, match="responder acme/Big-7B with what is made for the sandbox .prompter sandbox/pr"
    ):
        together.check_sandbox(planned[1], experiment)


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "params").glob("*.yml")))
def test_no_shipped_experiment_mixes_them(name, outputs, monkeypatch):
    monkeypatch.setenv("WORKBOOK_ROOT", str(REPOSITORY))
    experiment, planned = plan.load(REPOSITORY / "params" / f"{name}.yml")
    for step in planned:
        together.check_sandbox(step, experiment)
        together.check_arms(step, planned, planned)
        together.check_collected(step, planned, planned)
        together.check_pairs(step, planned, planned)


# --- the hub


@pytest.fixture
def served(monkeypatch):
    """A hub that knows acme/there and nothing else; a list of the paths that were asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            code = {"there": "", "gated": "GatedRepo", "bare": "EntryNotFound"}.get(
                self.path.split("/")[-4], "RepoNotFound"
            )
            self.send_response(404 if code else 200)
            self.send_header("X-Error-Code", code)
            self.end_headers()

        def log_message(self, *_):
            pass

    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("acme/there", ""),
        ("acme/bare", ""),
        ("acme/gated", "acme/gated is gated: ask for access"),
        ("acme/tpyo", "acme/tpyo does not exist on the hub, or HF_TOKEN may not see it"),
    ],
)
def test_the_hub_is_asked_one_short_question(served, name, said):
    assert hub.trouble(name).startswith(said) and bool(hub.trouble(name)) == bool(said)
    assert set(served) == {f"/{name}/resolve/main/README.md"}


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "acme/x cannot be fetched, http://127.0.0.1:9 cannot be reached" in hub.trouble("acme/x", "datasets")


def test_a_mistyped_model_stops_the_run_before_any_work(served, write):
    experiment, planned = plan.load(
        write(given(POIR, pairs_of=str(REPOSITORY / "tests/nowhere.jsonl")), **REAL | {"prompter": "acme/tpyo"})
    )
    wanted = list(preflight._on_hub(planned))
    assert [name for name, kind, _ in wanted if kind == "models"] == ["acme/tpyo"]

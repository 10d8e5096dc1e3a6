"""Whatever can be known is known before any work: each thing that is wrong is one line, in `plan` and in `run`."""

import http.server
import threading
from pathlib import Path

import pytest
import tiny_models
import yaml
from peft import LoraConfig, get_peft_model

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
        ([given(AWO, target="dpo_awo", preference_pairs="orca+no.jsonl")], "prompt set no.jsonl not found at"),
        ([given(AWO, target="dpo_awo", preference_pairs="orca+helpster")], "'helpster': did you mean helpsteer?"),
        ([given(AWO, target="dpo_awo", preference_pairs="orca+acme/x")], "acme/x is not on this machine, and HF_HUB"),
        ([given(COLLECT, seeds="sandbox+no.csv")], "prompt set no.csv not found at"),
        ([given(COLLECT, num_pairs=50), given(POIR, num_pairs=60)], "num_pairs 60, of 50 that 01_collect makes"),
        ([given(POIR, pairs_of="no.jsonl")], "prompt set no.jsonl not found at"),
        ([COLLECT, given(POIR, pairs_of="acme/x")], "no 01_collect with that responder"),
        ([given(EVALUATE, arms=["nan", "poir"])], "unknown arm 'poir': did you mean poir_s1?, or add the step that"),
        ([COLLECT, given(EVALUATE, arms=["poir"]), POIR], "arm 'poir' is not trained yet, and no step before this one"),
        ([given(EVALUATE, arms=["shuffled:poir"])], "unknown arm 'poir'"),
        ([given(EVALUATE, arms=["nan"], baseline="sft")], "unknown arm 'sft'"),
        ([given(EVALUATE, arms=["nan"], judge="sandbox/judg")], "did you mean sandbox/judge?"),
        ([given(EVALUATE, arms=["nan"], judge="no_such_module:judge")], "module no_such_module not found: put"),
        ([given(EVALUATE, arms=["nan"], benchmark_folder="tasks")], "benchmark_folder tasks not found"),
        ([given(EVALUATE, arms=["nan"], benchmark_arms=["nan", "bpo"])], "benchmark_arms: bpo not among the arms"),
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


def test_pairs_that_another_cell_of_the_grid_makes_first_are_one_file_though_its_name_has_a_plus(write, outputs):
    """Cells of two axes are called a+b: their folder is there only once the step has run."""
    made = outputs / "tried" / "num_rounds-1+seed-0" / "collect" / "pairs.jsonl"
    trained = given(AWO, target="dpo_awo", preference_pairs=str(made))
    found = faults(write(COLLECT, trained, grid={"seed": [0], "num_rounds": [1]}))
    assert found == []


def test_one_number_of_pairs_serves_collecting_and_training(write):
    assert faults(write(COLLECT, POIR, num_pairs=40)) == []
    assert faults(write(given(COLLECT, num_pairs=40), given(POIR, num_pairs=0))) == []
    with pytest.raises(ValueError, match=r"shared \(01_collect\): num_pairs: wanted int \[> 0\], got 0"):
        plan.load(write(COLLECT, POIR, num_pairs=0))


def test_what_01_was_asked_for_before_is_answered_with_what_it_is_asked_for_now(write):
    with pytest.raises(ValueError) as caught:
        plan.load(write(given(COLLECT, num_prompts=500)))
    line = (
        "with (01_collect): unknown parameter 'num_prompts': did you mean max_prompts? It is: prompts invented at most"
    )
    assert line in str(caught.value) and "on the way to num_pairs" in str(caught.value)


def test_what_a_model_is_for_is_known_before_work(write, tmp_path):
    """An adapter as what is trained, one whose model is gone, a reward model to write with, a causal one to score."""
    causal = tiny_models.save(tmp_path / "causal", tiny_models.make("llama"))
    scoring = tiny_models.save(tmp_path / "scoring", tiny_models.make("llama", "reward"))
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    made = get_peft_model(tiny_models.make("llama"), lora)
    for name, on in (("adapter", causal), ("lost", "/scratch/base-7b"), ("away", "acme/Base-7B")):
        made.peft_config["default"].base_model_name_or_path = on
        tiny_models.save(tmp_path / name, made)
    adapter, lost, away = (str(tmp_path / name) for name in ("adapter", "lost", "away"))
    awo = AWO | {"with": {"target": "dpo_awo", "preference_pairs": "fakes.jsonl"}}
    given_pairs = {"train_on": "dataset", "reward_pairs": "collect"}
    for step, shared, line in (
        (POIR, {"prompter": adapter}, f"{adapter} is an adapter: merge it into its model first"),
        (ALIGNPRO, {"prompter": adapter}, f"{adapter} is an adapter: merge it into its model first"),
        (awo, {"responder": adapter}, f"{adapter} is an adapter: merge it into its model first"),
        (POIR, {"prompter": "fakes:echo"}, "'fakes:echo' has no weights to train"),
        (given(ALIGNPRO, reward_base=adapter, **given_pairs), {}, f"{adapter} is an adapter: merge it"),
        (EVALUATE, {"prompter": lost}, f"{lost} is an adapter on /scratch/base-7b, which is not here"),
        (EVALUATE, {"prompter": away}, "acme/Base-7B is not in the local cache, and HF_HUB_OFFLINE is set"),
        (EVALUATE, {"responder": scoring}, "it scores, and writes nothing"),
        (EVALUATE, {"reward_model": causal}, "a reward model needs a ForSequenceClassification head"),
    ):
        found = faults(write(step, **shared))
        assert [text for text in found if line in text], (line, found)
    assert not [text for text in faults(write(EVALUATE, prompter=adapter)) if f"{adapter} is" in text]
    shown = "\n".join(plan.plan(write(EVALUATE, prompter=lost)))
    assert f"{lost} is an adapter on /scratch/base-7b, which is not here" in shown and "Cannot run as it is" in shown
    assert "acme/Base-7B is not in the local cache (about 14.0 GB)" in "\n".join(
        plan.plan(write(EVALUATE, prompter=away))
    )


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
    assert lines[place + 2 :] == []  # and not that nothing is missing here


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
    wanted = list(preflight._on_hub(planned, planned))
    assert [name for name, kind, _ in wanted if kind == "models"] == ["acme/tpyo"]


def test_a_step_that_trains_bpo_stands_in_for_the_published_model_on_the_hub(write, monkeypatch):
    """No network is needed for a model that nobody uses; without that step it is asked for."""
    asked = []
    monkeypatch.setattr(hub, "trouble", lambda name, kind="models": asked.append(name))
    train, use = given(POIR | {"id": "bpo"}, target="sft"), given(EVALUATE, arms=["nan", "bpo"])
    for steps in ((COLLECT, train, use), (COLLECT, use)):
        experiment, planned = plan.load(write(*steps))
        preflight.check_machine(experiment, planned, planned)
    assert asked == ["THUDM/BPO"]

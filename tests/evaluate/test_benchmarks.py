"""Benchmarks: against lm_eval's own model class and plain transformers; what is rewritten and what never is."""

import importlib.util
import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import scipy.stats

from nbutils.evaluate import benchmarks
from nbutils.evaluate.arms import Arm, Prompter
from nbutils.evaluate.benchmarks import Benchmark, Question, Responder, Score, evaluate, read_benchmarks
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import dump
from nbutils.models import loading, references
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.texts import Sampling

FOLDER = Path(__file__).resolve().parent / "tasks"
MODEL = "sandbox/responder"
NAN = Arm("nan", (), MODEL)
LOUD = Arm("loud", (Prompter("test_benchmarks:louder"),), MODEL)
GREEDY = Sampling(0.0, max_new_tokens=32)
ANIMALS = Benchmark("animals", 3, 0, "question", str(FOLDER))

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed: pip install -e '.[benchmarks]'"
)


def louder(messages):
    """A prompter: the question in capitals."""
    return messages[-1]["content"].removeprefix("rephrase: ").upper()


def run(arm, benchmark, journal=None, runtime=Runtime()):
    scores, questions = evaluate(arm, [benchmark], Conditions("sandbox", GREEDY, GREEDY, runtime, journal))
    return scores[0], questions


def rows(name="animals"):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def asked(monkeypatch):
    """{context: [its options]} of all that the responder is asked to score."""
    seen, plain = {}, Responder.log_likelihoods

    def log_likelihoods(self, requests, **others):
        for (context, option), _, _ in requests:
            seen.setdefault(context, []).append(option)
        return plain(self, requests, **others)

    monkeypatch.setattr(Responder, "log_likelihoods", log_likelihoods)
    return seen


# --- names and errors


def test_names_carry_their_number_of_examples():
    five, own = read_benchmarks(["mmlu:5", "hellaswag"], 10, folder="mine", chat_template=True)
    assert five == Benchmark("mmlu", 5, 10, "", "mine", True) and own.num_fewshot is None
    for text in ("mmlu:", "mmlu:five", ":5", "", "mmlu:-1"):
        with pytest.raises(ValueError, match="as in mmlu:5"):
            read_benchmarks([text])


def test_what_cannot_be_scored_is_one_line():
    for responder in ("api:gpt-4o", "fakes:echo"):
        with pytest.raises(ValueError, match=f"arm nan: {responder} tells no log-likelihoods"):
            benchmarks.check([NAN, replace(NAN, responder=responder)], [ANIMALS])
    with pytest.raises(ValueError, match="benchmark mine: which field is the question is known of mmlu, .* name it"):
        benchmarks.check([NAN], [Benchmark("mine")])
    with pytest.raises(FileNotFoundError, match="benchmark folder nowhere not found"):
        benchmarks.check([NAN], [replace(ANIMALS, folder="nowhere")])
    assert benchmarks.chosen([NAN, LOUD], []) == [NAN, LOUD] and benchmarks.chosen([NAN, LOUD], ["loud"]) == [LOUD]
    with pytest.raises(
        ValueError, match="benchmark_arms: 'lout' is not among the arms of this step: did you mean loud"
    ):
        benchmarks.chosen([NAN, LOUD], ["lout"])
    benchmarks.check([replace(NAN, responder="api:gpt-4o")], [])  # without benchmarks nothing is asked of the arms


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[benchmarks\]'"):
        run(NAN, ANIMALS)


def test_fields_of_known_tasks_and_of_their_parts():
    assert benchmarks.field_of(Benchmark("mmlu_anatomy")) == benchmarks.field_of(Benchmark("mmlu")) == "question"
    assert benchmarks.field_of(Benchmark("hellaswag")) == "query"
    assert benchmarks.field_of(Benchmark("hellaswag", field="ctx")) == "ctx"
    with pytest.raises(ValueError, match="benchmark mmlux"):
        benchmarks.field_of(Benchmark("mmlux"))
    assert benchmarks.files([ANIMALS, Benchmark("mmlu"), ANIMALS]) == [FOLDER]


@needs_lm_eval
def test_tasks_that_cannot_be_had_are_one_line(monkeypatch):
    from lm_eval.tasks import TaskManager

    arc = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks" / "arc"
    monkeypatch.setattr(benchmarks, "_all_tasks", lambda: TaskManager(include_path=arc, include_defaults=False))
    with pytest.raises(FileNotFoundError, match="benchmark arc_challenge: its data could not be loaded .*ai2_arc"):
        run(NAN, Benchmark("arc_challenge", 25))
    with pytest.raises(ValueError, match="'arc_chalenge' is no task of lm_eval: did you mean arc_challenge"):
        run(NAN, Benchmark("arc_chalenge", field="question"))
    with pytest.raises(ValueError, match="is no task of lm_eval or of .*: did you mean animals"):
        run(NAN, replace(ANIMALS, name="animalz"))
    with pytest.raises(ValueError, match="'ai2_arc' is a tag: name its tasks, arc_challenge, arc_easy"):
        run(NAN, Benchmark("ai2_arc", field="question"))
    for field in ("choices", "answer", "quest"):
        with pytest.raises(ValueError, match=f"task animals shows no text of a field '{field}': it has question"):
            run(NAN, replace(ANIMALS, field=field))
    with pytest.raises(ValueError, match="benchmark animals with 7 examples: "):
        run(NAN, replace(ANIMALS, num_fewshot=7))


@needs_lm_eval
def test_the_field_of_each_known_task_is_in_its_layout():
    from lm_eval.tasks._index import TaskIndex

    tasks = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"
    folders = (
        "mmlu/default",
        "arc",
        "hellaswag",
        "openbookqa",
        "piqa",
        "commonsense_qa",
        "sciq",
        "super_glue",
        "gsm8k",
    )
    index = TaskIndex.build([tasks / folder for folder in folders])
    for name, field in benchmarks.FIELDS.items():
        assert field in index["mmlu_anatomy" if name == "mmlu" else name].cfg["doc_to_text"]


# --- against lm_eval's own


def theirs(benchmark, model, monkeypatch):
    """lm_eval's results with its own model class, which loads the folder itself."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(FOLDER)  # where the task's YAML finds its rows
    return simple_evaluate(
        model="hf",
        model_args={"pretrained": references.resolve(model), "dtype": "float32"},
        tasks=[benchmark.name],
        num_fewshot=benchmark.num_fewshot,
        device="cpu",
        batch_size=7,
        limit=benchmark.num_questions or None,
        apply_chat_template=benchmark.chat_template,
        fewshot_as_multiturn=benchmark.chat_template,
        task_manager=TaskManager(include_path=FOLDER, include_defaults=False),
    )


@needs_lm_eval
@pytest.mark.slow
@pytest.mark.parametrize("model", [MODEL, "sandbox/llama_responder"])
@pytest.mark.parametrize(("name", "chat"), [("animals", False), ("animals", True), ("animals_all", False)])
def test_an_arm_without_prompters_scores_as_lm_eval_does(name, chat, model, monkeypatch):
    benchmark = replace(ANIMALS, name=name, chat_template=chat, num_questions=8 if name == "animals_all" else 0)
    wanted = theirs(benchmark, model, monkeypatch)
    responder = Responder(model, Runtime(), None, None)
    found = benchmarks._run(benchmark, benchmarks._load(benchmark), {}, responder)
    for task, samples in wanted["samples"].items():
        for theirs_, ours in zip(samples, found["samples"][task], strict=True):
            assert ours["arguments"] == theirs_["arguments"] and ours["doc"] == theirs_["doc"]
            for (value, greedy), (wanted_value, wanted_greedy) in zip(
                ours["filtered_resps"], theirs_["filtered_resps"], strict=True
            ):
                assert value == pytest.approx(wanted_value, abs=1e-4) and greedy == wanted_greedy
    score, questions = run(replace(NAN, responder=model), benchmark)
    metric = f"{score.metric},none"
    assert score.value == wanted["results"][name][metric]
    assert score.standard_error == pytest.approx(wanted["results"][name][metric.replace(",", "_stderr,")])
    assert score.num_questions == len(questions) == sum(map(len, wanted["samples"].values()))
    assert score.value == pytest.approx(sum(row.correct for row in questions) / len(questions))


@needs_lm_eval
@pytest.mark.slow
def test_what_the_responder_writes_is_what_lm_eval_has_it_write(monkeypatch):
    benchmark = replace(ANIMALS, name="animals_write", num_fewshot=2, chat_template=True)
    wanted = theirs(benchmark, MODEL, monkeypatch)
    found = benchmarks._run(benchmark, benchmarks._load(benchmark), {}, Responder(MODEL, Runtime(5), None, None))
    texts = [[sample["resps"] for sample in result["samples"]["animals_write"]] for result in (found, wanted)]
    assert texts[0] == texts[1]
    assert run(NAN, benchmark)[0].value == wanted["results"]["animals_write"]["exact_match,none"] > 0


# --- against plain transformers


def by_hand(context, option):
    """log π(option | context), the two tokenised as one text, token by token through the model's plain forward.

    Blanks at the context's end count to the option, as they do in lm_eval."""
    import torch

    net, tokenizer = loading.load_causal(MODEL, Runtime())
    whole, start = tokenizer(context + option)["input_ids"], len(tokenizer(context.rstrip())["input_ids"])
    total = 0.0
    for place in range(start, len(whole)):
        with torch.inference_mode():
            logits = net(input_ids=torch.tensor([whole[:place]])).logits[0, -1]
        total += torch.log_softmax(logits, -1)[whole[place]].item()
    return total


def requests(pairs, lm):
    return [(pair, *lm._encode_pair(*pair)) for pair in pairs]


PAIRS = [
    ("what is the food of the fox?\nAnswer:", " the fox eats mice."),
    ("what is the food of the fox?\nAnswer:", " mice"),
    ("what is the food of the fox?\nAnswer:", " A"),
    ("what is the food of the fox?\nAnswer:", " B"),
    ("tell me about the owl. ", "the owl hoots."),
    ("the fox", " eats mice, and then it sleeps for a long while in the forests."),
]


@needs_lm_eval
@pytest.mark.parametrize("size", [1, 4])
def test_log_likelihoods_are_the_models_own(size):
    responder = Responder(MODEL, Runtime(size), None, None)
    found = responder.log_likelihoods(requests(PAIRS + PAIRS[:2], responder.lm))
    assert [value for value, _ in found] == pytest.approx([by_hand(*pair) for pair in PAIRS + PAIRS[:2]], abs=1e-4)
    assert responder.cut == set()


@needs_lm_eval
def test_options_of_one_token_share_their_pass(monkeypatch):
    responder, passes = Responder(MODEL, Runtime(), None, None), []
    monkeypatch.setattr(responder, "_forward", lambda batch: passes.append(batch) or [[[0.0, True]] * 4] * len(batch))
    responder.log_likelihoods([(("x", "abcd"[token]), [5, 6, 7], [token]) for token in range(4)])
    assert passes == [[((5, 6, 7), ((0,), (1,), (2,), (3,)))]]


@needs_lm_eval
def test_a_prompt_too_long_loses_its_beginning_as_in_lm_eval_and_is_counted():
    from lm_eval.models.huggingface import HFLM

    net, tokenizer = loading.load_causal(MODEL, Runtime())
    own, responder = HFLM(pretrained=net, tokenizer=tokenizer), Responder(MODEL, Runtime(), None, None)
    responder.lm._max_length = own._max_length = 12
    wanted = own._loglikelihood_tokens(requests(PAIRS[:4], own), disable_tqdm=True)
    found = responder.log_likelihoods(requests(PAIRS[:4], responder.lm))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert responder.cut == {PAIRS[0][0]}
    assert found[0][0] != pytest.approx(by_hand(*PAIRS[0]), abs=1e-3)


# --- what is rewritten


@needs_lm_eval
def test_only_the_question_is_rewritten(asked):
    run(NAN, ANIMALS)
    plain = dict(asked)
    asked.clear()
    score, questions = run(LOUD, ANIMALS)
    assert score.num_rewritten == score.num_questions == len(rows()) == len(asked) == len(plain)
    for (before, options), (after, same), row, known in zip(
        plain.items(), asked.items(), rows(), questions, strict=True
    ):
        question = row["question"]
        assert before.endswith(question) and after == before.removesuffix(question) + question.upper()
        assert options == same == [f" {choice}" for choice in row["choices"]]
        assert (known.question, known.rewrite, known.arm) == (question, question.upper(), "loud")


@needs_lm_eval
def test_examples_drawn_from_the_questions_stay_as_they_are_and_never_show_the_one_asked(asked):
    benchmark = replace(ANIMALS, name="animals_letters", num_fewshot=20, num_questions=6)
    run(NAN, benchmark)
    plain = list(asked)
    asked.clear()
    run(LOUD, benchmark)
    for before, after, row in zip(plain, asked, rows()[:6], strict=True):
        examples, question = before.split("\n\n")[1:-1], row["question"]
        assert len(examples) == 20
        assert not any(example.startswith(f"{question}\nA. {row['choices'][0]}") for example in examples)
        start, _, end = before.rpartition(question)
        assert after == start + question.upper() + end
        assert end.startswith("\nA. ") and end.endswith("\nAnswer:")
    assert {tuple(options) for options in asked.values()} == {(" A", " B", " C", " D")}


@needs_lm_eval
@pytest.mark.parametrize("chat", [False, True])
def test_what_the_responder_scores_depends_on_the_rewrite(chat):
    """The sandbox's responder knows its animals, until it is asked about another one."""
    benchmark, other = replace(ANIMALS, num_fewshot=0, chat_template=chat), Prompter("test_benchmarks:distracted")
    assert run(NAN, benchmark)[0].value > 0.9 > run(Arm("distracted", (other,), MODEL), benchmark)[0].value


def distracted(messages):
    return "what is the colour of the zebra? it is striped."


@needs_lm_eval
def test_arms_of_every_kind():
    """Chains, fixed words and other prompts' rewrites; an empty rewrite leaves the question alone."""
    few = replace(ANIMALS, num_questions=4)
    questions = [row["question"] for row in rows()[:4]]
    twice = replace(LOUD, name="chain:loud+loud", prompters=LOUD.prompters * 2)
    assert [row.rewrite for row in run(twice, few)[1]] == [f"REPHRASE: {text}".upper()[10:] for text in questions]
    fixed = Arm("length_matched", (), MODEL, fixed="more_detail")
    assert [row.rewrite for row in run(fixed, few)[1]] == [f"{text} in detail." for text in questions]
    others = [row.rewrite for row in run(replace(LOUD, shuffled=True), few)[1]]
    assert sorted(others) == sorted(text.upper() for text in questions)
    assert not {(row, text.upper()) for row, text in zip(others, questions, strict=True) if row == text.upper()}
    silent = Arm("silent", (Prompter("test_benchmarks:silent"),), MODEL)
    assert run(silent, few)[0] == replace(run(NAN, few)[0], arm="silent")


def silent(messages):
    return "  "


REAL = {
    "mmlu_anatomy": ("mmlu/default/mmlu_anatomy.yaml", {"question": " why N? ", "choices": list("wxyz"), "answer": 1}),
    "arc_challenge": (
        "arc/arc_challenge.yaml",
        {"id": "1", "question": "why N?", "choices": {"text": list("wxyz"), "label": list("ABCD")}, "answerKey": "B"},
    ),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        {"activity_label": "Why", "ctx_a": "man N", "ctx_b": "he", "endings": list("wxyz"), "label": "1"},
    ),
}


@needs_lm_eval
@pytest.mark.parametrize("name", REAL)
def test_the_papers_tasks_with_rows_like_theirs(name, tmp_path, asked):
    """lm_eval's own YAML of the three benchmarks, with rows in the data sets' shape in place of the hub's."""
    source, row = REAL[name]
    tasks = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"
    splits = ", ".join(f"{split}: rows.jsonl" for split in ("train", "dev", "validation", "test"))
    (tmp_path / "task.yaml").write_text(
        f"include: {tasks / source}\ntask: {name}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{{splits}}}}}\n"
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row).replace("N", str(i)) + "\n" for i in range(3)))
    score, questions = run(LOUD, Benchmark(name, 1, folder=str(tmp_path)))
    assert score.metric == ("acc" if name == "mmlu_anatomy" else "acc_norm") and score.num_fewshot == 1
    text = {"mmlu_anatomy": " why N? ", "arc_challenge": "why N?", "hellaswag": "Why: man N He"}[name]
    letters = name == "mmlu_anatomy"
    for i, (row, (context, options)) in enumerate(zip(questions, asked.items(), strict=True)):
        assert row.question == text.replace("N", str(i)) and row.rewrite == row.question.strip().upper()
        example, question = context.split("\n\n")[-2:]
        assert row.rewrite in question and row.rewrite not in example and text.split()[0] in example
        assert example.endswith(" B" if letters else " x")
        assert options == ([" A", " B", " C", " D"] if letters else [" w", " x", " y", " z"])


# --- the journal


@needs_lm_eval
def test_a_stopped_run_goes_on_and_gives_the_same_rows(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        whole = run(LOUD, ANIMALS, journal, Runtime(16))
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (0, 30, len(lines) - 5):
        path.write_bytes(b"".join(lines[:kept]) + b'{"key": "torn')
        with Journal(path) as journal:
            assert run(LOUD, ANIMALS, journal, Runtime(16)) == whole
        assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)
    monkeypatch.setattr(Responder, "_forward", None)  # nothing is left to compute
    with Journal(path) as journal:
        assert run(LOUD, ANIMALS, journal, Runtime(16)) == whole
    assert all(json.loads(dump(row)) == asdict(row) for row in (whole[0], *whole[1]))


@needs_lm_eval
def test_batches_do_not_matter_and_a_full_memory_halves_them(monkeypatch):
    import torch

    few = replace(ANIMALS, num_questions=40)
    one, plain = run(LOUD, few, runtime=Runtime(1)), Responder._forward

    def tight(self, batch):
        if len(batch) > 3:
            raise torch.cuda.OutOfMemoryError
        return plain(self, batch)

    monkeypatch.setattr(Responder, "_forward", tight)
    assert run(LOUD, few, runtime=Runtime(16)) == one


@needs_lm_eval
def test_another_folder_under_the_same_name_is_read_anew(tmp_path):
    """The harness's index is not kept for folders of one's own, which change."""
    shutil.copytree(FOLDER, tmp_path / "mine")
    mine = replace(ANIMALS, folder=str(tmp_path / "mine"), num_questions=5)
    assert run(NAN, mine)[0].num_questions == 5
    changed = (tmp_path / "mine" / "animals.yaml").read_text("utf-8").replace("task: animals", "task: pets")
    (tmp_path / "mine" / "animals.yaml").write_text(changed)
    assert run(NAN, replace(mine, name="pets"))[0].benchmark == "pets"


# --- tables


def score(benchmark="mmlu", arm="nan", value=0.5, **others):
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return Score(benchmark, 5, arm, "acc", value, low, high, 0.05, 100, 0, 0), others


def scored(*rows):
    return [asdict(row) | others for row, others in rows]


def test_the_papers_layout():
    rows = scored(
        score("mmlu", "poir", 0.587, cell="a"),
        score("mmlu", "nan", 0.569, cell="a"),
        score("mmlu", "nan", 0.591, cell="b"),
        score("hellaswag", "nan", 0.848, cell="b"),
    )
    table = benchmarks.table(rows, {"a": "Qwen/Qwen-7B-Chat", "b": "mistral"})
    assert list(table.index) == ["MMLU (5)", "HellaSwag (5)"]
    assert list(table) == [("Qwen/Qwen-7B-Chat", "nan"), ("Qwen/Qwen-7B-Chat", "poir"), ("mistral", "nan")]
    assert table.to_numpy().tolist() == [
        ["56.9 [46.9, 66.9]", "58.7 [48.7, 68.7]", "59.1 [49.1, 69.1]"],
        ["–", "–", "84.8 [74.8, 94.8]"],
    ]
    same = benchmarks.table(rows, {"a": "mistral", "b": "mistral"})
    assert list(same.columns.levels[0]) == ["mistral (a)", "mistral (b)"]
    assert benchmarks.table([replace(score()[0], value_low=None, value_high=None)]).iloc[0, 0] == "50.0"
    assert benchmarks.table([]).empty and benchmarks.table(pd.DataFrame(rows)).shape == (2, 3)


def questions(arm, correct, task="mmlu_anatomy", **others):
    made = [Question("mmlu", 5, task, i, arm, "x", "x", bool(right)) for i, right in enumerate(correct)]
    return [asdict(row) | others for row in made]


def test_differences_are_paired_by_question():
    """8 gained, 1 lost of 20: McNemar's exact p is the binomial's."""
    base, arm = [1] * 6 + [0] * 14, [1] * 5 + [0] + [1] * 8 + [0] * 6
    (row,) = benchmarks.differences(questions("nan", base) + questions("poir", arm)[::-1]).to_dict("records")
    assert (row["num_questions"], row["num_gained"], row["num_lost"]) == (20, 8, 1)
    assert row["difference"] == pytest.approx(0.35) and row["difference_low"] > 0
    assert row["p_mcnemar"] == pytest.approx(scipy.stats.binomtest(8, 9).pvalue) == row["p_mcnemar_holm"]
    swapped = benchmarks.differences(questions("nan", base) + questions("poir", arm), "poir").iloc[0]
    assert swapped.difference == pytest.approx(-0.35) and swapped.difference_high == pytest.approx(
        -row["difference_low"]
    )


def test_differences_by_cell_and_over_the_tasks_of_a_group():
    rows = []
    for cell, right in (("a", [1, 1]), ("b", [0, 1])):
        for task in ("mmlu_anatomy", "mmlu_virology"):
            rows += questions("nan", [0, 1], task, cell=cell) + questions("poir", right, task, cell=cell)
    rows += questions("sft", [1], cell="a")  # asked fewer questions
    table = benchmarks.differences(rows)
    assert table[["cell", "arm", "num_questions", "num_gained"]].to_numpy().tolist() == [
        ["a", "poir", 4, 2],
        ["a", "sft", 1, 1],
        ["b", "poir", 4, 0],
    ]
    assert math.isnan(table.difference_low[1]) and table.p_mcnemar[2] == 1.0
    assert list(table) == list(benchmarks.DIFFERENCE_COLUMNS)
    assert benchmarks.differences([]).empty and benchmarks.differences(questions("poir", [1])).empty

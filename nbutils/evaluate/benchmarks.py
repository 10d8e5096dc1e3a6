"""Benchmarks (MMLU, ARC-C, HellaSwag: POIR's Table 4) for any arm, through EleutherAI's lm-evaluation-harness.

The arm rewrites the question; the task then lays it out as ever, with its own examples and options, and what is scored
is how likely the responder finds each option. An arm that rewrites nothing scores as lm_eval's own model class does.
Needs the extra `benchmarks`, and a responder of one's own: chat APIs tell no log-likelihoods of given options.
Departures from the paper, which says nothing about 1 and 2, and from lm_eval (3):
1. Only the question is rewritten (of HellaSwag: the text to be continued), never options, examples or instructions.
2. The accuracy is acc_norm, by the options' lengths, where a task reports it (ARC, HellaSwag), else acc (MMLU): with 5,
   25 and 10 examples these are the measures of the Open LLM Leaderboard.
3. Log-probabilities are made in float32 whatever the model's dtype, and only of the options' tokens.
"""

import contextlib
import difflib
import functools
import importlib.util
import io
import logging
import random
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from nbutils.analyse import stats, tables
from nbutils.evaluate import answering
from nbutils.evaluate.arms import Arm
from nbutils.experiment import paths
from nbutils.experiment.journal import Journal
from nbutils.experiment.params import closest
from nbutils.experiment.progress import Bar
from nbutils.models import likelihood, loading, references
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions, cut_batches, run_batches

FIELDS = {  # where a task's rows (mmlu: mmlu_anatomy's too) hold the question, which is what the arm rewrites
    "mmlu": "question",
    "arc_challenge": "question",
    "arc_easy": "question",
    "hellaswag": "query",
    "openbookqa": "question_stem",
    "piqa": "goal",
    "commonsense_qa": "question",
    "sciq": "question",
    "boolq": "question",
    "gsm8k": "question",
}
METRICS = ("acc_norm", "acc", "exact_match")  # the first that a task reports is its accuracy
TITLES = {"mmlu": "MMLU", "arc_challenge": "ARC-C", "hellaswag": "HellaSwag"}
DIFFERENCE_COLUMNS = (
    *("cell", "benchmark", "num_fewshot", "arm", "baseline", "num_questions", "num_gained", "num_lost"),
    *("difference", "difference_low", "difference_high", "p_mcnemar", "p_mcnemar_holm"),
)
_EXAMPLES_SEED = 1234  # lm_eval's own default


@dataclass(frozen=True)
class Benchmark:
    """A task or group of lm_eval, and how it is asked.

    num_fewshot: worked examples before the question, None for the task's own number; num_questions: how many, the first
    ones, of a group of each of its tasks, 0 for all; field: of its rows, the one with the question ("": see FIELDS);
    folder: with tasks of one's own; chat_template: whether to use the responder's, with the examples as turns.
    """

    name: str
    num_fewshot: int | None = None
    num_questions: int = 0
    field: str = ""
    folder: str = ""
    chat_template: bool = False


@dataclass(frozen=True)
class Score:
    """One arm's accuracy on one benchmark, in [0, 1], with Wilson's 95% interval and lm_eval's standard error.

    num_rewritten: questions that the arm changed; num_cut: prompts that had to lose their beginning to fit the model.
    """

    benchmark: str
    num_fewshot: int
    arm: str
    metric: str
    value: float
    value_low: float | None
    value_high: float | None
    standard_error: float | None
    num_questions: int
    num_rewritten: int
    num_cut: int


@dataclass(frozen=True)
class Question:
    """One arm on one question; task: the benchmark, or which of its tasks, where it is a group."""

    benchmark: str
    num_fewshot: int
    task: str
    doc_id: int
    arm: str
    question: str
    rewrite: str
    correct: bool


def read_benchmarks(
    names: list[str], num_questions: int = 0, field: str = "", folder: str = "", chat_template: bool = False
) -> list[Benchmark]:
    """Benchmarks from "mmlu:5" (five examples) or "mmlu" (the task's own number). ValueError for anything else."""
    found = []
    for text in names:
        name, colon, number = text.partition(":")
        if not name or (colon and not number.isdigit()):
            raise ValueError(f"benchmark {text!r}: wanted a task and its number of examples, as in mmlu:5")
        shots = int(number) if colon else None
        found.append(Benchmark(name, shots, num_questions, field, folder, chat_template))
    return found


def chosen(arms: list[Arm], names: list[str]) -> list[Arm]:
    """The arms that are scored: those named, all where none is. ValueError for a name that is none of theirs."""
    known = [arm.name for arm in arms]
    for name in names:
        if name not in known:
            raise ValueError(f"benchmark_arms: {name!r} is not among the arms of this step: {closest(name, known)}")
    return [arm for arm in arms if arm.name in (names or known)]


def files(benchmarks: list[Benchmark]) -> list[Path]:
    """Folders with tasks of one's own, for the manifest."""
    return sorted({references.place(benchmark.folder) for benchmark in benchmarks if benchmark.folder})


def check(arms: list[Arm], benchmarks: list[Benchmark]) -> None:
    """Raise one clear line if an arm cannot be scored, a field is unknown, or a folder or lm_eval is missing.

    ValueError, FileNotFoundError for a folder, ModuleNotFoundError for lm_eval. Loads nothing.
    """
    for arm in arms if benchmarks else ():
        if not likelihood.knows_probabilities(arm.responder):
            raise ValueError(
                f"arm {arm.name}: {arm.responder} tells no log-likelihoods of given options (no chat API or function "
                "does): benchmarks need a responder of one's own"
            )
    for benchmark in benchmarks:
        field_of(benchmark)
        if benchmark.folder and not references.place(benchmark.folder).is_dir():
            raise FileNotFoundError(f"benchmark folder {benchmark.folder} not found: wanted a folder with YAML tasks")
    if benchmarks and importlib.util.find_spec("lm_eval") is None:
        raise ModuleNotFoundError(
            "benchmarks need lm_eval, which is not installed: .venv/bin/python -m pip install -e '.[benchmarks]'"
        )


def field_of(benchmark: Benchmark) -> str:
    """The field of its rows that holds the question. ValueError if neither FIELDS nor the benchmark says."""
    known = (field for name, field in FIELDS.items() if f"{benchmark.name}_".startswith(f"{name}_"))
    field = benchmark.field or next(known, None)
    if field is None:
        raise ValueError(
            f"benchmark {benchmark.name}: which field is the question is known of {', '.join(FIELDS)} only: name it"
        )
    return field


# --- an arm on benchmarks


def evaluate(arm: Arm, benchmarks: list[Benchmark], given: Conditions) -> tuple[list[Score], list[Question]]:
    """(a Score per benchmark, a Question per benchmark and question) of one arm.

    given: how prompters rewrite, one rewrite per question, and how the responder answers, for arms whose rewrites
    depend on its responses. Every arm gets the same questions and examples; what the journal holds is kept.
    Raises as check does; ValueError for a task that is unknown, shows no such field or reports no accuracy;
    FileNotFoundError where its data can't be had.
    """
    check([arm], benchmarks)
    scores, questions = [], []
    for benchmark in benchmarks:
        label = f"{arm.name}: {benchmark.name}" if given.progress else None
        with _quiet() as screen:
            loaded = _load(benchmark)
            texts = _questions(benchmark, loaded["tasks"])
        rewrites = _rewrite(arm, texts, given)
        with _quiet():
            responder = Responder(arm.responder, given.runtime, given.journal, label, screen)
            result = _run(benchmark, loaded, rewrites, responder)
        score, rows = _read(arm, benchmark, result, rewrites, responder)
        scores.append(score)
        questions += rows
    return scores, questions


@contextlib.contextmanager
def _quiet():
    """Without lm_eval's bars and remarks, one of each per task; gives the stream that they would have gone to."""
    screen, logger = sys.stderr, logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield screen
    finally:
        logger.setLevel(level)


@functools.lru_cache(maxsize=1)
def _all_tasks():
    """lm_eval's index of some 14,000 tasks: reading their files takes half a minute."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _find(benchmark: Benchmark):
    """The index that has the task: of one's own folder, or lm_eval's."""
    from lm_eval.tasks import TaskManager

    own = (
        TaskManager(include_path=references.place(benchmark.folder), include_defaults=False)
        if benchmark.folder
        else None
    )
    manager = own if own and benchmark.name in own.task_index else _all_tasks()
    entry = manager.task_index.get(benchmark.name)
    if entry is None:
        known = [*(own.all_tasks if own else ()), *manager.all_tasks]
        near = difflib.get_close_matches(benchmark.name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see lm_eval ls tasks"
        where = f" or of {benchmark.folder}" if benchmark.folder else ""
        raise ValueError(f"benchmark {benchmark.name!r} is no task of lm_eval{where}: {hint}")
    if entry.kind.name == "TAG":
        raise ValueError(f"benchmark {benchmark.name!r} is a tag: name its tasks, {', '.join(sorted(entry.tags))}")
    return manager


def _load(benchmark: Benchmark):
    """{"tasks": {name: task}, "groups": ...} with their data, as lm_eval's simple_evaluate has them."""
    manager = _find(benchmark)
    random.seed(0)  # some tasks shuffle their options: the same way for every arm
    np.random.seed(_EXAMPLES_SEED)
    try:
        with contextlib.chdir(references.place(benchmark.folder)):  # whose YAML may name files beside it
            loaded = manager.load([benchmark.name])
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"benchmark {benchmark.name}: its data could not be loaded ({_first_line(error)}): run it once with a "
            "network, which keeps them, or name tasks of your own"
        ) from None
    for task in loaded["tasks"].values():
        if benchmark.num_fewshot is not None and task.config.num_fewshot != 0:  # some tasks insist on none
            task.set_config("num_fewshot", benchmark.num_fewshot)
        elif task.config.num_fewshot is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(_EXAMPLES_SEED)
    return loaded


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _questions(benchmark: Benchmark, tasks: dict) -> list[str]:
    """Each question once. ValueError if changing the field would not change what a task shows."""
    field = field_of(benchmark)
    found: dict[str, None] = {}
    for name, task in tasks.items():
        docs = [doc for _, doc in task.doc_iterator(limit=benchmark.num_questions or None)]
        held = docs[0].get(field)
        marked = {**docs[0], field: f"{held} \ue000"}
        known = isinstance(held, str) and task.config.doc_to_text is not None
        if not known or "\ue000" not in str(task.doc_to_text(marked)):
            raise ValueError(f"task {name} shows no text of a field {field!r}: it has {', '.join(docs[0])}")
        found |= dict.fromkeys(doc[field] for doc in docs)
    return list(found)


def _rewrite(arm: Arm, texts: list[str], given: Conditions) -> dict[str, str]:
    """{question: what the responder is asked instead}, for each of texts; empty for an arm that rewrites nothing."""
    if not arm.prompters and not arm.fixed:
        return {}
    trail = answering.rewrites_of(arm, texts, [0] * len(texts), given)
    return {text: answering.last_sent(text, steps) for text, steps in zip(texts, trail, strict=True)}


def _ask_instead(task, field: str, rewrites: dict[str, str]) -> None:
    """Have the task show the rewrite of its question. Its row stays as it is, and with it options, answer and the
    choice of examples; these are told by the layout that lm_eval hands on for them."""
    plain = task.doc_to_text

    def doc_to_text(doc, layout=None):
        question = doc if layout is not None else {**doc, field: rewrites.get(doc[field], doc[field])}
        return plain(question, layout)

    task.doc_to_text = doc_to_text


def _run(benchmark: Benchmark, loaded, rewrites: dict[str, str], responder: "Responder") -> dict:
    """lm_eval's results."""
    from lm_eval.evaluator import evaluate as run

    for task in loaded["tasks"].values() if rewrites else ():
        _ask_instead(task, field_of(benchmark), rewrites)
    try:
        return run(
            responder.lm,
            loaded,
            limit=benchmark.num_questions or None,
            bootstrap_iters=1000,
            apply_chat_template=benchmark.chat_template,
            fewshot_as_multiturn=benchmark.chat_template,
        )
    except (AssertionError, ValueError) as error:  # too few rows for the examples, code that lm_eval calls unsafe
        shots = max(task.config.num_fewshot for task in loaded["tasks"].values())
        raise ValueError(f"benchmark {benchmark.name} with {shots} examples: {_first_line(error)}") from None


def _read(arm: Arm, benchmark: Benchmark, result: dict, rewrites: dict, responder) -> tuple[Score, list[Question]]:
    found = result["results"][benchmark.name]
    measure = next((key for metric in METRICS for key in found if key.partition(",")[0] == metric), None)
    if measure is None:
        raise ValueError(f"benchmark {benchmark.name} reports {', '.join(found)}: wanted one of {', '.join(METRICS)}")
    metric, _, kind = measure.partition(",")
    shots = result["n-shot"].get(benchmark.name, max(result["n-shot"].values()))
    rows, field = [], field_of(benchmark)
    for task, samples in result["samples"].items():
        for sample in (each for each in samples if each["filter"] == kind):
            question, correct = sample["doc"][field], bool(sample[metric])
            shown = rewrites.get(question, question)
            rows.append(Question(benchmark.name, shots, task, sample["doc_id"], arm.name, question, shown, correct))
    value, error = float(found[measure]), found.get(f"{metric}_stderr,{kind}")
    score = Score(
        benchmark=benchmark.name,
        num_fewshot=shots,
        arm=arm.name,
        metric=metric,
        value=value,
        **_interval(value, len(rows)),
        standard_error=float(error) if isinstance(error, float) and len(rows) > 1 else None,
        num_questions=len(rows),
        num_rewritten=sum(row.rewrite != row.question for row in rows),
        num_cut=len(responder.cut),
    )
    return score, rows


def _interval(value: float, num: int) -> dict:
    low, high = map(float, stats.wilson_interval(value, num)) if num > 1 else (None, None)
    return {"value_low": low, "value_high": high}


class Responder:
    """lm_eval's own class for transformers models, around our model, with batches and journal of ours.

    lm: what lm_eval gets; cut: prompts that were longer than the model's context.
    """

    def __init__(self, model: str, runtime: Runtime, journal: Journal | None, label: str | None, screen=None):
        from lm_eval.models.huggingface import HFLM

        self.net, tokenizer = loading.load_causal(model, runtime)
        runtime = loading.runtime_of(model, runtime)
        self.lm = HFLM(pretrained=self.net, tokenizer=tokenizer, batch_size=runtime.batch_size)
        self.write = self.lm.generate_until
        self.lm._loglikelihood_tokens, self.lm.generate_until = self.log_likelihoods, self.texts
        self.identity, self.runtime, self.journal = references.identity(model), runtime, journal
        self.label, self.screen = label, screen
        self.cut: set[str] = set()

    def log_likelihoods(self, requests: list[tuple], **_) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether a greedy choice) of each option.

        requests: ((context, option), context's token ids, option's token ids). Options of one token share their pass.
        """
        rows, most = [], self.lm.max_length
        for text, before, option in requests:
            ids = (*before, *option)
            self.cut |= {text and text[0]} if len(ids) > most + 1 else set()
            rows.append((ids[-most - 1 : -1], tuple(option)))
        options: dict[tuple, dict] = {}
        for ids, option in rows:
            options.setdefault(ids, {})[option] = None
        units = [(ids, tuple(each)) for ids, each in options.items()]
        made = self._answered("options", units, [len(ids) for ids, _ in units], self._forward)
        found = {
            (ids, option): tuple(value)
            for (ids, each), values in zip(units, made, strict=True)
            for option, value in zip(each, values, strict=True)
        }
        return [found[row] for row in rows]

    def texts(self, requests: list, **_) -> list[str]:
        """What the responder writes, by lm_eval's own means."""
        from lm_eval.models.utils import normalize_gen_kwargs

        units = [request.args for request in requests]
        tokens = [len(self.lm.tok_encode(context)) for context, _ in units]
        for (context, how), number in zip(units, tokens, strict=True):
            room = self.lm.max_length - normalize_gen_kwargs(how, self.lm.max_gen_toks)["max_gen_toks"]
            self.cut |= {context} if number > room else set()
        first = {(context, str(how)): request for (context, how), request in zip(units, requests, strict=True)}
        return self._answered(
            "text", units, tokens, lambda batch: self.write([first[context, str(how)] for context, how in batch])
        )

    def _answered(self, what: str, units: list, tokens: list[int], forward) -> list:
        """forward's answers to units, in order: from the journal, or in batches of much the same length."""
        named = {"schema": 1, "model": self.identity, "asked": what}
        keys = [paths.sha256_json({**named, "unit": unit}) for unit in units]
        unique = dict(zip(keys, zip(units, tokens, strict=True), strict=True))
        known = {key: self.journal.get(key) for key in unique} if self.journal is not None else {}
        found = {key: value[what] for key, value in known.items() if value is not None}
        order = sorted(unique, key=lambda key: (-unique[key][1], key))
        batches = cut_batches(order, [unique[key][1] for key in order], self.runtime)
        batches = [
            batch for batch in batches if not found.keys() >= set(batch)
        ]  # no part: it would differ in last bits
        with Bar(len(unique), self.label or None, len(found), self.screen) as bar:
            for batch, made in run_batches(batches, lambda batch: forward([unique[key][0] for key in batch])):
                new = {key: value for key, value in zip(batch, made, strict=True) if key not in found}
                if self.journal is not None:
                    self.journal.append_many((key, {what: value}) for key, value in new.items())
                found |= new
                bar.update(len(new))
        return [found[key] for key in keys]

    def _forward(self, batch: list[tuple]) -> list[list]:
        """[[log-likelihood, greedy] of each option] per unit; rows are padded on the right, where causal models don't
        look, and logits are made from the first position on that an option's token follows."""
        import torch

        width = max(len(ids) for ids, _ in batch)
        start = min(len(ids) - max(map(len, options)) for ids, options in batch)
        padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in batch], device=self.net.device)
        with torch.inference_mode():
            logits = self.net(input_ids=padded, logits_to_keep=width - start, use_cache=False).logits
        made = []
        for row, (ids, options) in zip(logits, batch, strict=True):
            scores = torch.log_softmax(row[: len(ids) - start].float(), dim=-1)  # (positions, V)
            made.append([_sum(scores[-len(option) :], option) for option in options])
        return made


def _sum(scores, option: tuple) -> list:
    """[Σ_t log π(token_t), whether each token is the likeliest]; scores: (len(option), V) log-probabilities."""
    import torch

    tokens = torch.tensor(option, device=scores.device)[:, None]
    greedy = bool((scores.argmax(dim=-1, keepdim=True) == tokens).all())
    return [scores.gather(1, tokens).double().sum().item(), greedy]


# --- tables


def table(scores, responders: dict | None = None) -> pd.DataFrame:
    """POIR's Table 4: a row per benchmark, columns (model, arm), percent correct with 95% interval; text.

    scores: rows of Score, with a column cell where there are several; responders: {cell: its responder's name}. Cells
    with the same responder are told apart by their names.
    """
    rows = _frame(scores, Score)
    names = {cell: (responders or {}).get(cell, cell) for cell in dict.fromkeys(rows["cell"])}
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    names = {cell: f"{name} ({cell})" if name in shared else name for cell, name in names.items()}
    known: dict[str, dict[tuple, str]] = {}
    for row in rows.itertuples():
        line = f"{TITLES.get(row.benchmark, row.benchmark)} ({row.num_fewshot})"
        known.setdefault(line, {})[names[row.cell], row.arm] = _percent(row.value, row.value_low, row.value_high)
    held = {column for line in known.values() for column in line}
    columns = [(name, arm) for name in names.values() for arm in tables.arm_order(a for n, a in held if n == name)]
    heads = pd.MultiIndex.from_tuples(columns, names=["model", "arm"])
    shown = [[line.get(column, "–") for column in columns] for line in known.values()]
    return pd.DataFrame(shown, index=pd.Index(known, name="benchmark"), columns=heads)


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f}" + ("" if pd.isna(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")


def differences(questions, baseline: str = "nan") -> pd.DataFrame:
    """Each arm's accuracy less the baseline's, on the questions that both were asked; rows of DIFFERENCE_COLUMNS.

    questions: rows of Question, with a column cell where there are several. num_gained: right where the baseline is
    wrong. Tango's 95% interval for paired shares; p of McNemar's exact test, and after Holm over all rows.
    """
    rows, found = _frame(questions, Question), []
    for (cell, benchmark, shots), part in rows.groupby(["cell", "benchmark", "num_fewshot"], sort=False):
        correct = part.set_index(["task", "doc_id", "arm"])["correct"].astype(bool).unstack("arm")
        for arm in tables.arm_order(set(correct) - {baseline} if baseline in correct else ()):
            pair = correct[[arm, baseline]].dropna().astype(bool)
            found.append((cell, benchmark, shots, arm, baseline, *_paired(pair[arm], pair[baseline])))
    compared = pd.DataFrame(found, columns=list(DIFFERENCE_COLUMNS[:-1]))
    return compared.assign(p_mcnemar_holm=stats.holm(compared["p_mcnemar"]))


def _paired(right, base) -> tuple:
    gained, lost, num = int((right & ~base).sum()), int((~right & base).sum()), len(right)
    low, high = stats.tango_interval(gained, lost, num) if num > 1 else (stats.NAN, stats.NAN)
    difference = (gained - lost) / num if num else stats.NAN
    return num, gained, lost, difference, float(low), float(high), stats.sign_test(right & ~base, ~right & base)


def _frame(rows, kind: type) -> pd.DataFrame:
    """rows as a table with kind's columns, and one for the cell."""
    rows = pd.DataFrame(rows, columns=None if len(rows) else [field.name for field in fields(kind)])
    return rows if "cell" in rows else rows.assign(cell="")

"""A notebook's parameter cell is its schema: what does not fit stops with one line that says what to do."""

import pytest
from tiny_project import write_notebook

from nbutils.experiment.params import Parameter, check, closest, parse_schema, read_schema

SCHEMA = parse_schema(
    "kl_weight: float = 0.05  # λ, nats⁻¹ [> 0]\n"
    "num_steps: int = 60  # optimiser steps [1..]\n"
    "top_p: float = 1.0  # 1.0 is off [0..1]\n"
    'policy: str = "prompter"  # what is trained [prompter | responder]\n'
    'arms: list = ["nan", "poir"]  # any number of arms\n'
    "sizes: list[int] = [1, 2]  # [≥ 1]\n"
    "note: Optional[str] = None  # free text [optional]\n"
    "verbose: bool = False  # \n"
    "max_new_tokens: int = 8  # [>= 1]\n"
    'keywords: str = "keywords.txt"  # a file of words\n',
    "01_x.ipynb",
)


def test_schema_holds_name_type_default_and_help():
    assert SCHEMA["kl_weight"] == Parameter("kl_weight", "float", 0.05, "λ, nats⁻¹ [> 0]")
    assert SCHEMA["arms"].default == ["nan", "poir"] and SCHEMA["note"].annotation == "Optional[str]"
    assert list(SCHEMA)[:2] == ["kl_weight", "num_steps"]


def test_limits_hold_where_a_formatter_has_spread_a_line():
    schema = parse_schema("share: float = (\n    1.0  # of the seeds [0..1]\n)", "01_x.ipynb")
    assert schema["share"].help == "of the seeds [0..1]"
    with pytest.raises(ValueError, match="got 2.0"):
        check(schema, {"share": 2}, "x.yml")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("a = 1", "no type annotation"),
        ("a: int = 1\nprint(a)", "line 2 is not a parameter"),
        ("a: int", "not a parameter"),
        ("a: int = 1 + b", "not a literal"),
        ("a: int = 1\na: int = 2", "there twice"),
        ("a: int = (", "not valid Python"),
        ("a: int = 'x'", "wanted int, got 'x' (str)"),
        ("a: int = 0  # [> 0]", "wanted int [> 0], got 0"),
        ("a: int = 1  # [> zero]", "not understood"),
        ("a: str = 'x'  # [0..1]", "needs a number"),
        ("a: complex = 1", "type complex is not known"),
        ("a: list[Path] = []", "not known"),
    ],
)
def test_a_cell_with_one_flaw_is_refused(cell, message):
    with pytest.raises(ValueError) as caught:
        parse_schema(cell, "01_x.ipynb")
    assert message in str(caught.value) and str(caught.value).startswith("01_x.ipynb") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tags", "found"), [((), "found 0"), (("parameters", "parameters"), "found 2"), (("x",), "found 0")]
)
def test_a_notebook_has_one_tagged_cell(tmp_path, tags, found):
    notebook = write_notebook(tmp_path / "01_x.ipynb", "a: int = 1", [], tags)
    with pytest.raises(ValueError, match=found):
        read_schema(notebook)


def test_a_notebook_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="01_x.ipynb not found"):
        read_schema(tmp_path / "01_x.ipynb")
    (tmp_path / "02_x.ipynb").write_text("{")
    with pytest.raises(ValueError, match="02_x.ipynb: not a notebook"):
        read_schema(tmp_path / "02_x.ipynb")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("kl_weight", 1e-9), ("top_p", 0.0), ("top_p", 1.0), ("num_steps", 1), ("policy", "responder"), ("arms", [])],
        *[
            ("sizes", [1, 7]),
            ("note", None),
            ("note", "x"),
            ("verbose", True),
            ("max_new_tokens", 1),
            ("keywords", "k"),
        ],
    ],
)
def test_values_that_fit_come_back(name, value):
    assert check(SCHEMA, {name: value}, "x.yml") == {name: value}


def test_whole_numbers_become_float_where_a_float_is_wanted():
    checked = check(SCHEMA, {"kl_weight": 1}, "x.yml")
    assert checked == {"kl_weight": 1.0} and type(checked["kl_weight"]) is float


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kl_wieght", 0.1, "unknown parameter 'kl_wieght': did you mean kl_weight?"),
        ("num_steps", True, "wanted int, got True (bool)"),
        ("num_steps", 1.0, "wanted int, got 1.0 (float)"),
        ("num_steps", "5", "remove the quotes"),
        ("kl_weight", "5e-7", "write 5.0e-7"),
        ("kl_weight", "1e5", "write 1.0e+5"),
        ("kl_weight", 0, "wanted float [> 0], got 0.0"),
        ("kl_weight", float("nan"), "finite"),
        ("kl_weight", float("inf"), "finite"),
        ("top_p", 1.01, "[0..1], got 1.01"),
        ("top_p", -0.01, "[0..1]"),
        ("num_steps", 0, "[1..], got 0"),
        ("policy", "both", "[prompter | responder], got 'both'"),
        ("policy", None, "wanted str, got None"),
        ("policy", False, "put it in quotes"),
        ("arms", "nan", "write ['nan']"),
        ("arms", ["nan", float("nan")], "wanted a list of str, got nan"),
        ("arms", [True], "wanted a list of str"),
        ("sizes", [1, 0], "[≥ 1], got 0"),
        ("max_new_tokens", 0, "[>= 1], got 0"),
        ("verbose", 1, "wanted bool, got 1 (int)"),
    ],
)
def test_values_that_do_not_fit_stop_with_one_line(name, value, message):
    with pytest.raises(ValueError) as caught:
        check(SCHEMA, {name: value}, "x.yml")
    assert message in str(caught.value) and str(caught.value).startswith("x.yml: ")


def test_the_written_hint_is_what_yaml_reads_as_a_float():
    yaml = pytest.importorskip("yaml")
    with pytest.raises(ValueError) as caught:
        check(SCHEMA, {"kl_weight": yaml.safe_load("5e-7")}, "x.yml")
    assert yaml.safe_load(str(caught.value).rpartition("write ")[2]) == 5e-7


@pytest.mark.parametrize(
    "name", ["api_key", "hf_token", "MY_SECRET", "password", "openai_key", "hfToken", "access_tokens"]
)
def test_names_of_secrets_are_refused(name):
    with pytest.raises(ValueError, match="looks like a secret.*environment"):
        check(parse_schema(f'{name}: str = ""', "x"), {name: "abc"}, "x.yml")


@pytest.mark.parametrize(
    "name", ["max_new_tokens", "num_tokens", "max_prompt_tokens", "min_tokens", "keywords", "tokenizer", "monkeys"]
)
def test_counts_of_tokens_and_words_are_no_secrets(name):
    assert check(parse_schema(f"{name}: int = 1", "x"), {name: 2}, "x.yml") == {name: 2}


@pytest.mark.parametrize("value", ["sk-canary-123456", ["a", "sk-canary-123456"], "x sk-canary-123456 y"])
def test_the_value_of_a_secret_is_refused_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-123456")
    schema = parse_schema("note: str = ''\nnames: list = []", "x")
    name = "names" if isinstance(value, list) else "note"
    with pytest.raises(ValueError, match="secret") as caught:
        check(schema, {name: value}, "x.yml")
    assert "canary" not in str(caught.value)


def test_closest_lists_all_where_nothing_is_near():
    assert closest("zzz", ["alpha", "beta"]) == "there are alpha, beta" and closest("x", []) == "there are none"

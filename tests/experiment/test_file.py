"""Experiment files with one flaw each: one line with the file's name."""

import pytest

from nbutils.experiment.file import read_experiment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not readable as YAML"),
        ("experiment: x\nexperiment: y\nsteps: []", "'experiment' is there twice"),
        ("experiment: x\nshared: {<<: {a: 1}, a: 1, a: 2}\nsteps: []", "'a' is there twice"),
        ("experiment: x\nshared: {<<: 7}\nsteps: []", "expected a mapping"),
        ("experiment: x\nshared: {seed: 2025-13-45}", "not readable as YAML: month must be in 1..12"),
        (f"experiment: x\nshared: {{seed: {'9' * 5000}}}", "not readable as YAML: Exceeds the limit"),
        ("[" * 5000, "not readable as YAML"),
        ("- a", "wanted a mapping"),
        ("", "got nothing"),
        ("steps: [{notebook: a}]", "key 'experiment' is missing"),
        ("experiment: x", "key 'steps' is missing"),
        ("experiment: 7\nsteps: []", "wanted a name, got 7"),
        ("experiment: ../x\nsteps: [{notebook: a}]", "experiment '../x'"),
        ("experiment: x\nsteps: []\n", "wanted a list of notebooks"),
        ("experiment: x\nstesp: []", "unknown key 'stesp': did you mean steps?"),
        ("experiment: x\nsteps: [a]", "step 1: wanted {notebook: ...}"),
        ("experiment: x\nsteps: [{id: a}]", "step 1: key 'notebook' is missing"),
        ("experiment: x\nsteps: [{notebok: a}]", "did you mean notebook?"),
        ("experiment: x\nsteps: [{notebook: a, once: 1}]", "wanted true or false"),
        ("experiment: x\nsteps: [{notebook: a, id: 'a/b'}]", "step id 'a/b'"),
        ("experiment: x\nsteps: [{notebook: a, id: b}, {notebook: c, id: b}]", "id 'b' is there 2 times"),
        ("experiment: x\ngrid: {prompter: []}\nsteps: [{notebook: a}]", "grid: prompter is empty"),
        ("experiment: x\ngrid: {prompter: a}\nsteps: [{notebook: a}]", "wanted a list of values, got 'a'"),
        ("experiment: x\ngrid: {prompter: [a, a]}\nsteps: [{notebook: a}]", "is there twice"),
        (
            "experiment: x\ngrid: {m: [{a: 1}, b]}\nsteps: [{notebook: a}]",
            "wanted parameters in every entry, or in none",
        ),
        ("experiment: x\ngrid: {m: [{}]}\nsteps: [{notebook: a}]", "an entry sets no parameter"),
        ("experiment: x\nshared: [a]\nsteps: [{notebook: a}]", "shared: wanted parameter: value pairs"),
        ("experiment: x\nshared: {cell: a}\nsteps: [{notebook: a}]", "cell is set by the plan"),
    ],
)
def test_a_file_with_one_flaw_stops_with_one_line(tmp_path, text, message):
    path = tmp_path / "x.yml"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError) as caught:
        read_experiment(path)
    assert message in str(caught.value) and str(caught.value).startswith("x.yml: ") and "\n" not in str(caught.value)


def test_merge_keys_fill_in_what_a_mapping_does_not_say_itself(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text(
        "experiment: x\nshared: &a {seed: 1, number: 2}\ngrid: {m: [{<<: *a, seed: 3}, {<<: *a, seed: 4, name: b}]}\n"
        "steps:\n  - &e {notebook: n, id: e1, with: {arms: [nan]}}\n  - &f {<<: *e, id: e2}\n  - {<<: *f, id: e3}\n"
    )
    found = read_experiment(path)
    assert found.grid == {"m": [{"seed": 3, "number": 2}, {"seed": 4, "number": 2, "name": "b"}]}
    assert found.steps == [{"notebook": "n", "id": f"e{i}", "with": {"arms": ["nan"]}} for i in (1, 2, 3)]


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="x.yml not found"):
        read_experiment(tmp_path / "x.yml")
    (tmp_path / "x.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="x.yml: not readable"):
        read_experiment(tmp_path / "x.yml")

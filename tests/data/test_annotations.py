"""AlpacaEval's annotations, made up: what is read is what its leaderboard would show."""

import json

import pytest

from nbutils.analyse import conventions
from nbutils.data import annotations

ROW = {"instruction": "Name a fox.", "generator_1": "gpt4", "generator_2": "mine", "annotator": "weighted"}
PREFERENCES = (1.9, 1.25, 1.5, 2.0, 0, None, 1.0)


def written(tmp_path, rows):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    return path


def test_win_rate_and_error_are_the_leaderboards(tmp_path):
    """helpers.py, AbsoluteScoringRule: 0.9 0.25 0.5 1 0.5 (an old tie) and 0; null is dropped. Mean 3.15 / 6."""
    rows = [ROW | {"instruction": f"Name fox {i}.", "preference": p} for i, p in enumerate(PREFERENCES)]
    read = annotations.read(written(tmp_path, rows))
    table = conventions.side_by_side(read, "gpt4").set_index("convention").loc["AlpacaEval"]
    assert tuple(table[["wins", "ties", "losses", "num", "left_out"]]) == (2, 2, 2, 6, 1)
    deviations = (0.375, -0.275, -0.025, 0.475, -0.025, -0.525)
    error = (sum(d * d for d in deviations) / 5 / 6) ** 0.5
    assert (table["win_rate"], table["standard_error"]) == pytest.approx((0.525, error))
    assert [row.verdict for row in read] == ["win", "lose", "tie", "win", "tie", "unscored", "lose"]


def test_an_instruction_that_comes_again_is_another_sample(tmp_path):
    rows = [ROW | {"preference": 1.75}, ROW | {"preference": 1.25}, ROW | {"generator_2": "other", "preference": 2}]
    read = annotations.read(written(tmp_path, rows))
    assert [(row.arm_a, row.sample, row.preference) for row in read] == [
        ("mine", 0, 0.75),
        ("mine", 1, 0.25),
        ("other", 0, 1.0),
    ]
    assert len({row.prompt_id for row in read}) == 1 and read[0].judge == "weighted"


@pytest.mark.parametrize("value", [0.5, -1, 2.01, "1.5", True, [1.5]])
def test_another_scale_is_one_line_with_row_and_prompt(tmp_path, value):
    path = written(tmp_path, [ROW | {"preference": 1.5}, ROW | {"preference": value}])
    with pytest.raises(ValueError, match="annotations.json: row 2: prompt [0-9a-f]{16}: wanted a preference") as error:
        annotations.read(path)
    assert "\n" not in str(error.value)


def test_another_file_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="row 1: wanted AlpacaEval's annotations, got no generator_1"):
        annotations.read(written(tmp_path, [{"instruction": "x", "output": "y"}]))

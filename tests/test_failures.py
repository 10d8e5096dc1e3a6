"""failures.md names for each failure the tests that bring it about: they exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = [line for line in (TESTS / "failures.md").read_text("utf-8").splitlines() if line.startswith("| ")][1:]
NAMED = re.compile(r"`(test_\w+)::(test_\w+)`")


def test_every_row_names_tests_that_exist():
    assert len(ROWS) == 33
    for row in ROWS:
        named = NAMED.findall(row)
        assert named, f"no test in the row {row[:60]}"
        for file, name in named:
            paths = list(TESTS.rglob(f"{file}.py"))
            assert len(paths) == 1 and f"\ndef {name}(" in paths[0].read_text("utf-8"), f"{file}::{name} is no test"

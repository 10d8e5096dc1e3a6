"""Rows of .json, .jsonl, .csv and .parquet files as other people write them; errors name file and line."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

EXTENSIONS = (".json", ".jsonl", ".csv", ".parquet")


def read_rows(path: Path) -> Iterator[dict]:
    """Rows of a .json, .jsonl, .csv or .parquet file. ValueError names file and line of what is broken."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8: save the file as UTF-8") from None
    if path.suffix.lower() == ".csv":
        return _read_csv(path, text)
    return _read_lines(path, text) if path.suffix.lower() == ".jsonl" else _read_json(path, text)


def _read_lines(path: Path, text: str) -> Iterator[dict]:
    for number, line in enumerate(text.split("\n"), 1):  # never splitlines(): U+0085 and U+2028 are text
        if line.strip(" \t\r"):
            yield _as_row(_parse_json(line, path, number), f"{path}:{number}")


def _read_json(path: Path, text: str) -> Iterator[dict]:
    try:
        value = _parse_json(text, path, 1)
    except ValueError:
        if not re.match(r"\s*\{.*\}[ \t\r]*\n\s*\{", text):
            raise
        yield from _read_lines(path, text)  # JSON lines under the name .json
        return
    lists = [each for each in value.values() if isinstance(each, list)] if isinstance(value, dict) else [value]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise ValueError(f"{path}: wanted a list of rows, got {type(value).__name__}: give a JSON list of objects")
    for number, row in enumerate(lists[0], 1):
        yield _as_row(row, f"{path}: row {number}")


def _parse_json(text: str, path: Path, first_line: int):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(f"{path}:{line}: not valid JSON ({error.msg}): correct or remove the line") from None
    except RecursionError:
        raise ValueError(f"{path}:{first_line}: JSON is nested too deeply: correct or remove the line") from None


def _as_row(value, where: str) -> dict:
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: wanted an object or a string, got {type(value).__name__}: correct or remove it")
    return value


def _read_csv(path: Path, text: str) -> Iterator[dict]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                wanted = f"wanted {len(reader.fieldnames or ())} fields"
                raise ValueError(f"{path}:{reader.line_num}: {wanted}, got more or fewer: correct or quote the line")
            yield row
    except csv.Error as error:
        raise ValueError(
            f"{path}:{reader.reader.line_num}: not valid CSV ({error}): correct or remove the line"
        ) from None


def _read_parquet(path: Path) -> Iterator[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        shown = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not a readable Parquet file ({shown}): save it again") from None

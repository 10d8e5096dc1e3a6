"""Rows of .json, .jsonl, .csv and .parquet files as other people write them; errors name file and line."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

EXTENSIONS = (".json", ".jsonl", ".csv", ".parquet")
_GZIP, _UTF_16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")
_OTHERS = {  # first bytes: what the file is, whatever its name says, and what to do
    b"version https://git-lfs.github.com/spec/": ("a Git LFS pointer in place of the data", "git lfs pull"),
    b"PK\x03\x04": ("a zip archive or a workbook of Excel", "unpack it, or save it as CSV"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it"),
    b"BZh": ("compressed by bzip2", "unpack it"),
    b"PAR1": ("Parquet", "call it .parquet"),
    b"<!doctype html": ("a web page in place of the data", "download the file itself"),
    b"<html": ("a web page in place of the data", "download the file itself"),
}


def read_rows(path: Path) -> Iterator[dict]:
    """Rows of a .json, .jsonl, .csv or .parquet file, gzip and UTF-16 included. ValueError names file and line of what
    is broken, and what the file is where its name says something else."""
    parquet = path.suffix.lower() == ".parquet"
    with open(path, "rb") as file:
        start = file.read(64)
    for known, (what, advice) in _OTHERS.items():
        if start.lstrip().lower().startswith(known.lower()) and not (parquet and known == b"PAR1"):
            raise ValueError(f"{path}:1: this is {what}: {advice}")
    if parquet:
        return _read_parquet(path)
    text = _decode(path)
    if path.suffix.lower() == ".csv":
        return _read_csv(path, text)
    return _read_lines(path, text) if path.suffix.lower() == ".jsonl" else _read_json(path, text)


def _decode(path: Path) -> str:
    raw = path.read_bytes()
    if raw.startswith(_GZIP):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: gzip data that is cut or damaged ({error}): fetch it again") from None
    try:
        if raw.startswith(_UTF_16):
            return raw.decode("utf-16")
        return raw.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8: save the file as UTF-8") from None


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
        return json.loads(text, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(f"{path}:{line}: not valid JSON ({error.msg}): correct or remove the line") from None
    except RecursionError:
        raise ValueError(f"{path}:{first_line}: JSON is nested too deeply: correct or remove the line") from None


def _whole_number(digits: str) -> int | str:
    """A number of more digits than Python turns into one (4,300) stays as it is written."""
    try:
        return int(digits)
    except ValueError:
        return digits


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

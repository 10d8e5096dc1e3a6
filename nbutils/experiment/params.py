"""The tagged `parameters` cell of a notebook is its schema: name, type, default and a help comment, one per line.

Limits stand in square brackets in the help comment and are checked: `[> 0]`, `[0..1]`, `[1..]`, `[a | b | c]`.
Write `[1..]` or `[≥ 1]` rather than `[>= 1]`: papermill's own parser takes one `=` a line, the comment included.
"""

import ast
import difflib
import io
import json
import math
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from operator import ge, gt, le, lt
from pathlib import Path

from nbutils.experiment.redaction import is_secret_name, secrets

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_BOUND = re.compile(rf"(>=|<=|≥|≤|>|<)\s*({_NUMBER})")
_SPAN = re.compile(rf"({_NUMBER})?\s*\.\.\s*({_NUMBER})?")
_MANY = 12  # names that an error lists
_COMPARE = {">": gt, "<": lt, ">=": ge, "≥": ge, "<=": le, "≤": le}
_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameter cell. annotation is its source text, e.g. "Optional[str]"."""

    name: str
    annotation: str
    default: object
    help: str


def read_schema(notebook: Path) -> dict[str, Parameter]:
    """The parameters of a notebook, in order. ValueError or FileNotFoundError says what its cell should look like."""
    notebook = Path(notebook)
    if not notebook.exists():
        raise FileNotFoundError(f"{notebook} not found: wanted a notebook with a cell tagged 'parameters'")
    try:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook.name}: not a notebook ({error}); restore the file") from None
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook.name}: wanted one code cell tagged 'parameters', found {len(tagged)}")
    source = tagged[0]["source"]
    return parse_schema(source if isinstance(source, str) else "".join(source), notebook.name)


def parse_schema(source: str, where: str) -> dict[str, Parameter]:
    """Parameters of a cell's source by `ast`; every default must satisfy its own type and limits."""
    try:
        tree, comments = ast.parse(source), _comments(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{where}: the parameters cell is not valid Python ({error})") from None
    schema = {}
    for node in tree.body:
        parameter = _parameter(node, comments, where)
        if parameter.name in schema:
            raise ValueError(f"{where}: parameter {parameter.name} is there twice in the parameters cell")
        _check_value(parameter, parameter.default, f"{where}: default of {parameter.name}")
        schema[parameter.name] = parameter
    return schema


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT}


def _parameter(node: ast.stmt, comments: dict[int, str], where: str) -> Parameter:
    form = "wanted `name: type = literal  # help` on each line of the parameters cell"
    if isinstance(node, ast.Assign):
        raise ValueError(f"{where}: line {node.lineno} has no type annotation: {form}")
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
        raise ValueError(f"{where}: line {node.lineno} is not a parameter: {form}")
    try:
        default = ast.literal_eval(node.value)
    except ValueError:
        raise ValueError(f"{where}: the value of {node.target.id} is not a literal: {form}") from None
    annotation = ast.unparse(node.annotation)
    _accepted(annotation, f"{where}: {node.target.id}")
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return Parameter(
        node.target.id, annotation, default, " ".join(comments[line] for line in lines if line in comments)
    )


def check(schema: dict[str, Parameter], values: dict, where: str) -> dict:
    """values with whole numbers made float where a float is wanted; ValueError on the first that does not fit.

    Refused: an unknown name, a wrong type, a value outside its limits, a secret.
    """
    checked = {}
    for name, value in values.items():
        _refuse_secret(name, value, where)
        if name not in schema:
            near = difflib.get_close_matches(str(name), schema, n=1)
            meaning = f" It is: {schema[near[0]].help}" if near and schema[near[0]].help else ""
            raise ValueError(f"{where}: unknown parameter {name!r}: {closest(name, schema)}{meaning}")
        checked[name] = _check_value(schema[name], value, f"{where}: {name}")
    return checked


def closest(name: str, known: Iterable[str]) -> str:
    """What to do about an unknown name: the nearest known one, else what there is."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    listed = ", ".join(known[:_MANY]) + (f" and {len(known) - _MANY} more" if len(known) > _MANY else "")
    return f"did you mean {near[0]}?" if near else f"there are {listed or 'none'}"


def _refuse_secret(name: str, value, where: str) -> None:
    if is_secret_name(name) and not isinstance(value, (bool, float, list)):
        raise ValueError(f"{where}: {name} looks like a secret, and parameters are stored: set it in the environment")
    written = json.dumps(value, ensure_ascii=False, default=str)
    if any(secret in written or secret in str(value) for secret in secrets()):
        raise ValueError(
            f"{where}: {name} holds a secret of the environment, and parameters are stored: leave it there"
        )


def _check_value(parameter: Parameter, value, where: str):
    """value as its annotation wants it (an int becomes a float). ValueError: wanted, got, what to do."""
    optional, kind, item = _accepted(parameter.annotation, where)
    if value is None and optional:
        return None
    value = _typed(value, kind, parameter.annotation, where)
    if isinstance(value, list):
        item = item or _common_type(parameter.default)
        value = [_typed(one, item, f"a list of {item}", where) for one in value] if item else value
    for one in value if isinstance(value, list) else [value]:
        _check_limits(parameter, one, where)
    return value


def _accepted(annotation: str, where: str) -> tuple[bool, str, str | None]:
    """(None allowed, type, type of a list's items) of an annotation such as int, Optional[str] or list[str]."""
    text = annotation.replace(" ", "").replace("List[", "list[").replace("Dict[", "dict[")
    optional = text.startswith("Optional[")
    text = text[len("Optional[") : -1] if optional else text
    kind, _, rest = text.partition("[")
    item = rest.removesuffix("]") if kind == "list" and rest else None
    if kind not in _TYPES or (item and item not in _TYPES):
        known = f"{', '.join(_TYPES)}, list[...] or Optional[...]"
        raise ValueError(f"{where}: type {annotation} is not known: wanted {known}")
    return optional, kind, item


def _common_type(default) -> str | None:
    """The one type of a default list's items, if there is one: what a bare `list` means."""
    names = {type(one).__name__ for one in default} if isinstance(default, list) else set()
    return names.pop() if len(names) == 1 and names <= set(_TYPES) else None


def _typed(value, kind: str, wanted: str, where: str):
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value) is not _TYPES[kind]:
        raise ValueError(f"{where}: wanted {wanted}, got {value!r} ({type(value).__name__}){_hint(value, kind)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: wanted a finite number, got {value!r}")
    return value


def _hint(value, kind: str) -> str:
    """The usual slips: YAML reads 5e-7 as a string and yes/no as booleans; a single value where a list is wanted."""
    if isinstance(value, str) and kind in ("int", "float"):
        try:
            number = float(value)
        except ValueError:
            return ""
        exponent = re.search(r"[eE]", value) and kind == "float"
        return f": write {_yaml_float(number)}" if exponent else ": remove the quotes"
    if isinstance(value, bool) and kind == "str":
        return ": put it in quotes"
    return f": write [{value!r}]" if kind == "list" and isinstance(value, (str, int, float)) else ""


def _yaml_float(number: float) -> str:
    """number in a form that YAML 1.1 reads as a float: point and signed exponent, 5.0e-7."""
    mantissa, exponent = f"{number:e}".split("e")
    return f"{float(mantissa)}e{int(exponent):+d}"


def _check_limits(parameter: Parameter, value, where: str) -> None:
    for limit in re.findall(r"\[([^\[\]]+)\]", parameter.help):
        if _inside(limit.strip(), value, where) is False:
            raise ValueError(f"{where}: wanted {parameter.annotation} [{limit.strip()}], got {value!r}")


def _inside(limit: str, value, where: str) -> bool | None:
    """Whether value is within a limit; None if the bracket holds prose."""
    if "|" in limit:
        return str(value) in [choice.strip().strip("\"'") for choice in limit.split("|")]
    bound, span = _BOUND.fullmatch(limit), _SPAN.fullmatch(limit)
    if isinstance(value, str) and (bound or span):
        raise ValueError(f"{where}: limit [{limit}] in the help needs a number, the value is text")
    if bound:
        return _COMPARE[bound[1]](value, float(bound[2]))
    if span:
        return float(span[1] or "-inf") <= value <= float(span[2] or "inf")
    if limit.startswith(("<", ">", "≤", "≥")) or ".." in limit:
        raise ValueError(f"{where}: limit [{limit}] in the help is not understood: write [> 0], [0..1] or [a | b]")
    return None

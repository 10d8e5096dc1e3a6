"""The five notebooks' shape: what makes their parameter cells a schema and keeps their sources clean.

Each rule is a function from a notebook file to a list of faults; a table of notebooks with one flaw each shows that
the rule finds it.
"""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("01_collect", "02_train_alignpro", "03_train_poir", "04_evaluate", "05_plot")
NOTEBOOKS = [ROOT / "notebooks" / f"{name}.ipynb" for name in NAMES]
SHARED_FIRST, SHARED_LAST = "experiment", "trust_remote_code"
MOST_LINES, MOST_DEF_LINES, MOST_IN_GROUP = 15, 5, 8


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def is_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


def parameter_source(path):
    return next((cell.source for cell in code_cells(path) if is_parameters(cell)), "")


def shared_block(path):
    """The parameter lines that all five notebooks have, from `experiment` to `trust_remote_code`, as text."""
    lines = parameter_source(path).splitlines()
    last = [number for number, line in enumerate(lines) if line.startswith(f"{SHARED_LAST}:")]
    return "\n".join(lines[: last[0] + 1]) if last else ""


def parameters_by_ast(source):
    """{name: (annotation, value)} of the annotated literal assignments in a cell; other statements raise."""
    found = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise ValueError(f"not an annotated parameter: {ast.unparse(node)}")
        found[node.target.id] = (ast.unparse(node.annotation), ast.literal_eval(node.value))
    return found


def parameters_by_papermill(path):
    """The same as papermill sees it, with the line of help."""
    seen = papermill.inspect_notebook(str(path)).items()
    return {name: (row["inferred_type_name"], ast.literal_eval(row["default"]), row["help"]) for name, row in seen}


def faults_of_parameters(path):
    cells = [cell for cell in code_cells(path) if is_parameters(cell)]
    if len(cells) != 1:
        return [f"{len(cells)} cells tagged parameters"]
    try:
        ours = parameters_by_ast(cells[0].source)
        theirs = parameters_by_papermill(path)
    except (ValueError, SyntaxError) as error:
        return [str(error)]
    faults = [] if list(ours) == list(theirs) else [f"papermill sees {list(theirs)}, ast sees {list(ours)}"]
    for name in ours.keys() & theirs.keys():
        faults += [f"{name}: {ours[name]} and {theirs[name][:2]}"] * (ours[name] != theirs[name][:2])
        faults += [f"{name} has no help"] * (not theirs[name][2].strip())
    return faults + list(faults_of_groups(cells[0].source))


def faults_of_groups(source):
    """Parameters stand in groups: a comment line, then a handful of parameters, then a blank line."""
    for group in source.split("\n\n"):
        heading, *rest = group.strip().splitlines()
        if not heading.startswith("# ") or any(line.startswith("#") for line in rest):
            yield f"wanted one comment line above the group that begins with {heading}"
        if len(rest) > MOST_IN_GROUP:
            yield f"{heading}: {len(rest)} parameters in one group"


def faults_of_outputs(path):
    notebook = read(path)
    faults = [f"cell {n} has outputs" for n, cell in enumerate(notebook.cells) if cell.get("outputs")]
    faults += [f"cell {n} was executed" for n, cell in enumerate(notebook.cells) if cell.get("execution_count")]
    faults += [f"cell {n} has no id of its own" for n, cell in enumerate(notebook.cells) if not cell.get("id")]
    faults += [f"leftover metadata {key}" for key in ("papermill", "widgets") if key in notebook.metadata]
    return faults


def faults_of_code(path):
    """Too long cells, classes, long functions, shell and magic lines, absolute paths."""
    faults = []
    for number, cell in enumerate(code_cells(path)):
        num_lines = len(cell.source.splitlines())
        if num_lines > MOST_LINES and not is_parameters(cell):
            faults.append(f"code cell {number}: {num_lines} lines")
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            faults.append(f"code cell {number} is not plain Python: {error.text}")
            continue
        faults += [f"code cell {number}: {fault}" for node in ast.walk(tree) for fault in faults_of_node(node)]
    return faults


def faults_of_node(node):
    if isinstance(node, ast.ClassDef):
        yield f"class {node.name}"
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > MOST_DEF_LINES:
        yield f"def {node.name} has more than {MOST_DEF_LINES} lines"
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"(/|~/|[A-Z]:\\)\w", node.value):
        yield f"absolute path {node.value}"
    if isinstance(node, ast.Attribute) and node.attr == "chdir":
        yield "changes the working folder"


def faults_of_title(path):
    """The first cell is markdown: a title, then what the notebook reads, writes and needs."""
    first = read(path).cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        return ["the first cell is no title"]
    return [
        f"the first cell does not say what it {word}"
        for word in ("reads", "writes", "needs")
        if word not in first.source
    ]


RULES = (faults_of_parameters, faults_of_outputs, faults_of_code, faults_of_title)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shape(path, rule):
    assert rule(path) == []


def test_the_five_and_no_other():
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == NOTEBOOKS


def test_shared_block_is_equal_word_for_word():
    blocks = {path.stem: shared_block(path) for path in NOTEBOOKS}
    first = blocks[NAMES[0]]
    assert next(iter(parameters_by_ast(first))) == SHARED_FIRST
    assert {name for name, block in blocks.items() if block != first} == set()
    assert len(parameters_by_ast(first)) >= 10


def test_no_parameter_means_two_things():
    """A name that occurs in several notebooks has one type, so that an experiment file can share it."""
    types = {}
    for path in NOTEBOOKS:
        for name, (annotation, _) in parameters_by_ast(parameter_source(path)).items():
            types.setdefault(name, set()).add(annotation)
    assert {name: sorted(kinds) for name, kinds in types.items() if len(kinds) > 1} == {}


PARAMETERS = """\
# Group
experiment: str = "sandbox"  # where results go
trust_remote_code: str = ""  # none
beta: float = 5.0e-7  # DPO
"""


def write_notebook(folder, parameters=PARAMETERS, code="print(experiment)", title=None, tag="parameters", outputs=()):
    """A notebook without fault, unless an argument brings one."""
    title = "# Title\n| reads | writes | needs |" if title is None else title
    cells = [
        nbformat.v4.new_markdown_cell(title),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": [tag]}),
        nbformat.v4.new_code_cell(code, outputs=list(outputs)),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_rules_pass_a_clean_notebook(tmp_path):
    path = write_notebook(tmp_path)
    assert [rule(path) for rule in RULES] == [[], [], [], []]
    assert shared_block(path) == "\n".join(PARAMETERS.splitlines()[:3])


FLAWS = {
    "no tag": (faults_of_parameters, {"tag": "settings"}),
    "a line papermill does not see": (faults_of_parameters, {"parameters": "# G\nbeta: str | None = None  # help\n"}),
    "no annotation": (faults_of_parameters, {"parameters": "# G\nbeta = 0.4  # help\n"}),
    "derived value": (faults_of_parameters, {"parameters": "# G\nbeta: float = 2 * 0.2  # help\n"}),
    "value cut at a hash": (faults_of_parameters, {"parameters": '# G\nmark: str = "a # b"  # help\n'}),
    "no help": (faults_of_parameters, {"parameters": "# G\nbeta: float = 0.4\n"}),
    "no heading": (faults_of_parameters, {"parameters": "beta: float = 0.4  # help\n"}),
    "a wall": (faults_of_parameters, {"parameters": "# G\n" + "".join(f"p{i}: int = 0  # help\n" for i in range(9))}),
    "outputs": (faults_of_outputs, {"outputs": [nbformat.v4.new_output("stream", text="hello")]}),
    "long cell": (faults_of_code, {"code": "x = 1\n" * (MOST_LINES + 1)}),
    "class": (faults_of_code, {"code": "class Trainer:\n    pass"}),
    "long function": (faults_of_code, {"code": "def run():\n" + "    x = 1\n" * MOST_DEF_LINES}),
    "shell": (faults_of_code, {"code": "!ls"}),
    "magic": (faults_of_code, {"code": "%pip install torch"}),
    "absolute path": (faults_of_code, {"code": 'open("/home/me/data.csv")'}),
    "changes folder": (faults_of_code, {"code": 'os.chdir("..")'}),
    "no title": (faults_of_title, {"title": "Welcome"}),
    "no table": (faults_of_title, {"title": "# Title"}),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_rules_find_each_flaw(flaw, tmp_path):
    rule, flawed = FLAWS[flaw]
    assert rule(write_notebook(tmp_path, **flawed))

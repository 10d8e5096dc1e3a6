"""What the cells of a notebook that is run by hand put out, kept as a notebook file of its own.

Run in JupyterLab, by papermill or any other front end, a kernel sends its outputs away and keeps none; the file that
the front end saves comes later, or never. So from `record` on every message that leaves the kernel is also kept, under
the cell that it belongs to. Nothing is kept where the runner runs the notebook: it has its own copy.
"""

import ast
import copy
import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from nbutils.experiment import paths

BATCH = "WORKBOOK_BATCH"  # set in the environment of the runner's kernels
_OUTPUTS = ("stream", "display_data", "execute_result", "error", "update_display_data", "clear_output")
_INJECTED = "# Parameters"  # what papermill's own cell begins with
_recording: "Recording | None" = None


def by_hand() -> bool:
    """Whether this is a notebook's kernel, and not one of the runner's."""
    return not os.environ.get(BATCH) and shell() is not None


def record() -> None:
    """Keep the outputs of this cell and of all that follow; where the runner runs, or no kernel is, do nothing."""
    global _recording
    if by_hand() and _recording is None:
        _recording = Recording(shell())


def notebook(name: str) -> dict | None:
    """The notebook of this kernel as far as it has been run: its cells with what was kept. None without a recording."""
    if _recording is None:
        return None
    _recording.flush()
    content = json.loads(_path(name).read_text("utf-8"))
    sources = [str(source) for source in _recording.shell.history_manager.input_hist_raw]
    return _filled(content, sources, _recording.outputs)


def injected() -> set[str]:
    """The parameters that papermill was given by hand, known here or not: set in its own cell behind the tagged one."""
    sources = [str(source) for source in shell().history_manager.input_hist_raw] if by_hand() else []
    found: set[str] = set()
    for before, source in itertools.pairwise(sources):
        if source.startswith(_INJECTED) and "experiment: str" in before:
            nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
            found |= {target.id for node in nodes for target in node.targets if isinstance(target, ast.Name)}
    return found


def shell() -> Any:
    """The shell of the kernel that this process is; None where it is none."""
    known = sys.modules.get("IPython")  # in a kernel it is there
    found = known.get_ipython() if known else None
    return found if hasattr(found, "kernel") else None


def is_attended() -> bool:
    """Whether someone sits in front of this kernel: a front end with a person lets a cell ask for input; papermill,
    nbconvert and the runner never do."""
    return by_hand() and bool((shell().kernel.get_parent() or {}).get("content", {}).get("allow_stdin"))


def _path(name: str) -> Path:
    """The file that is being run: the one that the front end names, if it opens this step; else the project's own.

    A notebook that starts another one (by papermill, say) hands on its own name in the environment.
    """
    opened = Path(os.environ.get("JPY_SESSION_NAME", ""))
    own = paths.project_root() / "notebooks" / f"{name}.ipynb"
    named = opened.suffix == ".ipynb" and opened.is_file()
    return opened if named and re.search(rf"open_step\(\W*{re.escape(name)}\W", opened.read_text("utf-8")) else own


class Recording:
    """outputs: execution count → outputs in nbformat's form, in order."""

    def __init__(self, shell: Any):
        self.shell = shell
        self.outputs: dict[int, list[dict]] = {}
        self._count_of: dict[str, int] = {}
        request = shell.kernel.get_parent("shell").get("header", {}).get("msg_id", "")
        self._begin(request, len(shell.history_manager.input_hist_raw) - 1)
        session, send = shell.kernel.session, shell.kernel.session.send

        def sent(stream, message, *args, **kwargs):
            self._keep(message, *args, **kwargs)
            return send(stream, message, *args, **kwargs)

        session.send = sent

    def flush(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()

    def _begin(self, request: str, count: int) -> None:
        """A cell begins: what answers this request belongs to it, and what an earlier run put out does not."""
        self._count_of[request] = count
        self.outputs[count] = []

    def _keep(self, message, content=None, parent=None, *_, **__) -> None:
        if isinstance(message, dict):
            kind, content, parent = message["header"]["msg_type"], message["content"], message["parent_header"]
        else:
            kind, parent = message, (parent or {}).get("header", parent or {})
        request = (parent or {}).get("msg_id", "")
        if kind == "execute_input":
            self._begin(request, content["execution_count"])
        elif kind in _OUTPUTS and (count := self._count_of.get(request)) is not None:
            if kind == "update_display_data":
                self._update(content)
            else:
                _add(self.outputs[count], kind, copy.deepcopy(content))

    def _update(self, content: dict) -> None:
        """A display that is updated in place, in whichever cell it stands."""
        for output in itertools.chain(*self.outputs.values()):
            if output.get("shown_as") == content["transient"].get("display_id"):
                output.update(data=content["data"], metadata=content["metadata"])


def _add(outputs: list[dict], kind: str, content: dict) -> None:
    """Append a message's output to a cell's, as a front end would: streams grow."""
    if kind == "clear_output":
        outputs.clear()
    elif kind == "stream" and outputs and outputs[-1].get("name") == content["name"]:
        outputs[-1]["text"] += content["text"]
    else:
        shown_as = content.pop("transient", {}).get("display_id")
        outputs.append({"output_type": kind} | content | ({"shown_as": shown_as} if shown_as else {}))


def _filled(content: dict, sources: list[str], outputs: dict[int, list[dict]]) -> dict:
    """A notebook's content whose code cells hold what their last run put out. sources: by execution count.

    papermill's own cell of parameters, which no file has, follows the tagged one.
    """
    counts = {_key(source): count for count, source in enumerate(sources) if source.strip()}  # the last run counts
    cells = []
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            count = counts.get(_key(source))
            kept = [{k: v for k, v in each.items() if k != "shown_as"} for each in outputs.get(count or 0, [])]
            cell = cell | {"execution_count": count, "outputs": kept}
        cells.append(cell)
        if "parameters" in cell["metadata"].get("tags", []):
            cells += [_injected(source, count) for count, source in enumerate(sources) if source.startswith(_INJECTED)]
    return content | {"cells": cells}


def _injected(source: str, count: int) -> dict:
    metadata = {"tags": ["injected-parameters"]}
    return {
        **{"cell_type": "code", "id": f"injected-{count}", "metadata": metadata, "source": source},
        **{"execution_count": count, "outputs": []},
    }


def _key(source: str) -> str:
    return re.sub(r"\s+", " ", source).strip()

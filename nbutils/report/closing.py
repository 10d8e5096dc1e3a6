"""The end of a notebook: the step is closed, and what was made, where it is and what comes next is said.

By hand, in JupyterLab or through papermill, the step is left what the runner leaves it: the executed notebook, its
page, and after 05 the report.
"""

import json

from nbutils.experiment import paths, recording
from nbutils.experiment.steps import Step

_NEXT = {
    "01_collect": "02_train_alignpro or 03_train_poir",
    "02_train_alignpro": "04_evaluate, once every arm that it names is trained",
    "03_train_poir": "04_evaluate, once every arm that it names is trained",
    "04_evaluate": "05_plot",
}


def close(run: Step, tokens: int = 0) -> None:
    """Finish a step (see Step.finish) and say what it made. To be the last call of the last cell."""
    manifest = run.finish(tokens)
    counted = ", ".join(f"{name} {number:,}" for name, number in manifest["counts"].items())
    print(f"made:  {', '.join(manifest['outputs'])}")
    print(f"in:    {paths.relative(run.folder)}")
    print(*[f"count: {counted}"] * bool(counted), sep="\n", end="\n" * bool(counted))
    if run.notebook in _NEXT:
        print(f"next:  {_NEXT[run.notebook]}")
    if recording.by_hand():
        _keep(run)


def _keep(run: Step) -> None:
    """Notebook, page and report of a step that was run by hand."""
    from nbutils.report import assemble, pages

    page = run.folder / "notebook.html"
    print(f"page:  {paths.relative(page)}")
    is_last = run.parameters["cell"] == "all"
    if is_last:
        print(f"report: {paths.relative(assemble.report_path(run.parameters['experiment']))}")
    content = recording.notebook(run.notebook)
    if content is not None:
        executed = paths.write_atomic(run.folder / "notebook.ipynb", json.dumps(content, indent=1) + "\n")
        pages.redact_notebook(executed)
        place = "/".join(run.parameters[name] for name in ("cell", "step"))
        pages.render_notebook(executed, page, f"{run.parameters['experiment']} · {place} · {run.notebook}")
    if is_last:
        assemble.write_report(run.parameters["experiment"])

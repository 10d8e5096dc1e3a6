"""Executed notebooks as HTML pages that are safe to share: one file, no script, nothing loaded from elsewhere.

Model text can hold anything. So every part of a page is escaped by its template, except HTML that `clean` has reduced
to an allowed set of tags; images are embedded; formulas are drawn, for want of a script to do it.
"""

import base64
import binascii
import functools
import json
import re
from pathlib import Path

import jinja2
import nbformat
import nh3
from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from nbutils.experiment import paths
from nbutils.experiment.redaction import redact
from nbutils.report.formulas import formula

_HTML = Path(__file__).parent / "html"
_LONGEST_OUTPUT = 200_000
_IMAGE_STARTS = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8"}
_DATA_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|svg\+xml);base64,[A-Za-z0-9+/=\s]+")
_LINK = re.compile(r"(?:https?://|mailto:|#|[\w./%+ -]+$)", re.IGNORECASE)
_TAGS = (nh3.ALLOWED_TAGS - {"map", "area"}) | {"progress", "section"}
_ATTRIBUTES = {
    "a": {"href", "title"},
    "img": {"src", "alt", "title", "width", "height", "class", "style"},
    "td": {"colspan", "rowspan", "style", "class"},
    "th": {"colspan", "rowspan", "scope", "style", "class"},
    "tr": {"style"},
    "table": {"class"},
    "section": {"class"},
    "div": {"class"},
    "ol": {"start"},
    "progress": {"value", "max"},
}
_CLASSES = {"math", "math display", "dataframe"}
_CLASSES |= {"cases mathjax_ignore tex2jax_ignore", "case", "sides", "side", "label", "text", "order", "note"}
_CLASSES |= {"text prompt", "text as-it-is"}  # those of cases.html.j2
_STYLES = {"text-align", "vertical-align", "height"}


def render_notebook(notebook: Path, page: Path, title: str = "", error: str = "") -> Path:
    """Write an executed notebook as a page. title, error: lines above it. Secrets of the environment are blanked."""
    content = redact(nbformat.read(notebook, as_version=4))
    content, _ = CoalesceStreamsPreprocessor(enabled=True)(content, {})
    cells = [_cell(cell) for cell in content.cells if cell.source.strip() or cell.get("outputs")]
    title = redact(title) or Path(notebook).stem
    return write_page(page, "notebook.html.j2", cells=cells, title=title, error=paths.without_places(redact(error)))


def write_page(page: Path, template: str, **values) -> Path:
    """Fill nbutils/html/<template> and write it, atomically; lone surrogates become replacement characters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HTML), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    style = Markup("".join((_HTML / name).read_text("utf-8") for name in ("style.css", "cases.css")))
    text = environment.get_template(template).render(style=style, **values)
    return paths.write_atomic(page, printable(text))


def printable(text: str) -> str:
    """text without control characters that HTML forbids, and encodable."""
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text)
    return text.encode("utf-8", "replace").decode("utf-8")


def redact_notebook(notebook: Path) -> None:
    """Blank secrets of the environment, and this machine's folders in outputs and papermill's notes, in place."""
    content = redact(json.loads(Path(notebook).read_text("utf-8")))
    for cell in content["cells"]:
        if "outputs" in cell:
            cell["outputs"] = paths.without_places(cell["outputs"])
    notes = content["metadata"].get("papermill", {})
    for name in {"input_path", "output_path"} & notes.keys():
        notes[name] = paths.relative(notes[name]) if isinstance(notes[name], str) else None
    paths.write_atomic(notebook, json.dumps(content, indent=1) + "\n")


def _cell(cell) -> dict:
    tags = cell.metadata.get("tags", [])
    if cell.cell_type != "code":
        body = markdown(cell.source) if cell.cell_type == "markdown" else Markup("<pre>{}</pre>").format(cell.source)
        return {"kind": "text", "body": body}
    outputs = [output for output in map(_output, cell.outputs) if output]
    source = Markup(_highlighter()(cell.source))
    label = "parameters of this run" if "injected-parameters" in tags else "defaults" if "parameters" in tags else ""
    return {"kind": "code", "source": source, "label": label, "seconds": _seconds(cell), "outputs": outputs}


@functools.cache
def _highlighter() -> Highlight2HTML:
    return Highlight2HTML(pygments_lexer="python3")


def _seconds(cell) -> str:
    duration = (cell.metadata.get("papermill") or {}).get("duration")
    return f"{duration:.1f} s" if isinstance(duration, (int, float)) and duration >= 0.05 else ""


def _output(output) -> Markup | None:
    if output.output_type == "stream":
        return Markup('<pre class="{}">{}</pre>').format(
            "stderr" if output.name == "stderr" else "stdout", _ansi(output.text)
        )
    if output.output_type == "error":
        return Markup('<pre class="error">{}</pre>').format(_ansi("\n".join(output.traceback) or output.evalue))
    return _data(output.get("data", {}))


def _ansi(text: str) -> Markup:
    left_out = len(text) - _LONGEST_OUTPUT
    note = f"\n… {left_out:,} more characters in the executed notebook" if left_out > 0 else ""
    return Markup(ansi2html(text[:_LONGEST_OUTPUT])) + note


def _data(data: dict) -> Markup | None:
    """The richest form of an output that is safe; anything else is left out."""
    text = _text(data.get("text/plain"))
    for kind in _IMAGE_STARTS:
        if kind in data:
            return image(kind, _decoded(data[kind]), text) or _pre(text)
    if "image/svg+xml" in data:
        return image("image/svg+xml", _text(data["image/svg+xml"]).encode("utf-8", "replace"), text)
    for kind, convert in (("text/html", clean), ("text/markdown", markdown)):
        if kind in data and (converted := convert(_text(data[kind]))).strip():
            return Markup('<div class="rich">{}</div>').format(converted)
    return _pre(text or _text(data.get("text/latex")))


def _text(value) -> str:
    return "".join(value) if isinstance(value, list) else value if isinstance(value, str) else ""


def _pre(text: str) -> Markup | None:
    return Markup("<pre>{}</pre>").format(_ansi(text)) if text else None


def _decoded(text) -> bytes:
    try:
        return base64.b64decode(_text(text))
    except binascii.Error:
        return b""


def image(kind: str, content: bytes, text: str = "") -> Markup | None:
    """An embedded image; None if content is not what kind says. SVG is safe here: an <img> runs and loads nothing."""
    if not content.startswith(_IMAGE_STARTS.get(kind, b"")) or not content:
        return None
    encoded = base64.b64encode(content).decode("ascii")
    return Markup('<img src="data:{};base64,{}" alt="{}">').format(kind, encoded, text[:200])


def markdown(source: str) -> Markup:
    """Markdown as clean HTML, its formulas drawn."""
    return clean(MarkdownWithMath(renderer=_Renderer(escape=False)).render(source))


def clean(html: str) -> Markup:
    """HTML reduced to text, tables, links and embedded images: no script, handler, frame, form or remote load."""
    return Markup(
        nh3.clean(
            printable(html),
            tags=_TAGS,
            clean_content_tags={"script", "style", "template", "noscript", "iframe", "object", "title", "svg", "math"},
            attributes=_ATTRIBUTES,
            attribute_filter=_kept_attribute,
            url_schemes={"http", "https", "mailto", "data"},
            filter_style_properties=_STYLES,
        )
    )


def _kept_attribute(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "src":
        return value if _DATA_IMAGE.fullmatch(value) else None
    if attribute == "href":
        return value if _LINK.match(value) else None
    if attribute == "class":
        return value if value in _CLASSES else None
    return value


class _Renderer(IPythonRenderer):
    """nbconvert's renderer, which leaves formulas to a script, with the formulas drawn."""

    def heading(self, text, level, **attributes):
        return f"<h{level}>{text}</h{level}>\n"

    def block_math(self, body):
        return f"<p>{formula(body, display=True)}</p>"

    def multiline_math(self, text):
        return self.block_math(text.strip("$"))

    def latex_environment(self, name, body):
        return self.block_math(body)

    def inline_math(self, body):
        return formula(body, display=False)

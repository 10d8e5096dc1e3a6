"""Pages can be shared: whatever a notebook printed, nothing in its page runs, loads or gives a secret away."""

import base64
import json
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, PNG
from hostile import HOSTILE_HTML, HOSTILE_MARKDOWN, NOWHERE, active_content, visible_text
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils.report import pages
from nbutils.report.formulas import formula

KINDS = ("text/html", "text/markdown", "text/latex", "text/vnd.mermaid", "application/javascript", "image/svg+xml")


def render(tmp_path: Path, *cells, **lines) -> str:
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "n.ipynb")
    return pages.render_notebook(tmp_path / "n.ipynb", tmp_path / "n.html", **lines).read_text("utf-8")


def hostile_notebook() -> list:
    """Every hostile text in every place of a notebook that a page shows."""
    shown = [new_output("display_data", {kind: text, "text/plain": text}) for kind in KINDS for text in HOSTILE_HTML]
    streams = [new_output("stream", name=name, text="\n".join(HOSTILE_HTML)) for name in ("stdout", "stderr")]
    error = new_output("error", ename="E", evalue="x", traceback=list(HOSTILE_HTML))
    image = new_output("display_data", {"image/png": "bm90IGEgcG5n' onerror='alert(1)", "text/plain": HOSTILE_HTML[0]})
    source = "x = '''" + "\n".join(HOSTILE_HTML) + "'''"
    cell = new_code_cell(source, outputs=[*shown, *streams, error, image])
    cell.metadata["tags"] = ["parameters", "'><script>alert(1)</script>"]
    cell.metadata["papermill"] = {"duration": "<script>alert(1)</script>"}
    return [*map(new_markdown_cell, HOSTILE_MARKDOWN), nbformat.v4.new_raw_cell(HOSTILE_HTML[0]), cell]


@pytest.mark.parametrize("text", HOSTILE_HTML)
def test_the_parser_of_these_tests_sees_the_hostile_text_for_what_it_is(text):
    assert active_content(text) or text.startswith("<img alt")


@pytest.mark.parametrize("text", HOSTILE_HTML)
def test_html_is_reduced_to_what_only_shows(text):
    assert active_content(pages.clean(text)) == []


@pytest.mark.parametrize("text", HOSTILE_MARKDOWN)
def test_markdown_is_reduced_to_what_only_shows(text):
    assert active_content(pages.markdown(text)) == []


def test_a_hostile_notebook_gives_a_page_without_active_content(tmp_path):
    page = render(tmp_path, *hostile_notebook(), title=HOSTILE_HTML[0], error=HOSTILE_HTML[1])
    assert active_content(page) == []
    assert "alert(1)" in visible_text(page)  # it is shown as the text that it is


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_a_hostile_notebook_without_request_or_dialog(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    render(tmp_path, *hostile_notebook(), title=HOSTILE_HTML[0], error=HOSTILE_HTML[1])
    seen = []
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        tab = browser.new_page()
        tab.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: seen.append(request.url))
        tab.goto((tmp_path / "n.html").as_uri())
        tab.wait_for_timeout(300)
        assert tab.evaluate("document.scripts.length") == 0 and "alert(1)" in tab.inner_text("body")
        browser.close()
    assert [url for url in seen if not url.startswith(("file://", "data:image/"))] == []


def test_tables_images_links_and_formulas_come_through(tmp_path):
    table = "<table class='dataframe'><tr style='text-align: right;'><th>a</th></tr><tr><td>1</td></tr></table>"
    page = render(
        tmp_path,
        new_markdown_cell(r"# Title" + "\n\n[site](https://example.org) and $\\lambda$\n\n|a|b|\n|---|---|\n|1|2|"),
        new_code_cell("df", outputs=[new_output("display_data", {"text/html": table, "text/plain": "a\n1"})]),
        new_code_cell("f", outputs=[new_output("display_data", {"image/png": base64.b64encode(PNG).decode()})]),
    )
    assert '<table class="dataframe">' in page and "text-align:right" in page and page.count("<table") == 2
    assert base64.b64encode(PNG).decode() in page and 'href="https://example.org"' in page
    assert page.count('class="math"') == 1 and "<h1>Title</h1>" in page


def test_outputs_that_nothing_safe_is_left_of_fall_back_to_their_text(tmp_path):
    outputs = [
        new_output("display_data", {"text/html": "<script>x</script>", "text/plain": "plain one"}),
        new_output("display_data", {"image/png": "bm90IGEgcG5n", "text/plain": "plain two"}),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "plain three"}),
        new_output("display_data", {"text/vnd.mermaid": "graph"}),
    ]
    page = visible_text(render(tmp_path, new_code_cell("x", outputs=outputs)))
    assert all(f"plain {number}" in page for number in ("one", "two", "three")) and "graph" not in page


def test_progress_bars_fold_into_their_last_state(tmp_path):
    states = [new_output("stream", name="stderr", text=f"\r{percent}%") for percent in range(0, 101, 10)]
    page = visible_text(render(tmp_path, new_code_cell("x", outputs=states)))
    assert "100%" in page and "50%" not in page


def test_very_long_output_is_cut_and_says_so(tmp_path):
    page = render(tmp_path, new_code_cell("x", outputs=[new_output("stream", name="stdout", text="a" * 1_000_000)]))
    assert len(page) < 300_000 and "800,000 more characters" in page


@pytest.mark.parametrize(
    "text", ["a\x85b\u2028c", "nul \x00 esc \x1b[31mred\x1b[0m", "\ud800 lone", "\u202e rtl", "{{ 7*7 }}"]
)
def test_nasty_strings_are_shown_and_never_break_a_page(tmp_path, text):
    content = new_notebook(cells=[new_markdown_cell(text), new_code_cell("x", outputs=[])])
    content.cells[1].outputs = [new_output("stream", name="stdout", text=text)]
    (tmp_path / "n.ipynb").write_text(json.dumps(content), "ascii")
    page = pages.render_notebook(tmp_path / "n.ipynb", tmp_path / "n.html").read_text("utf-8")
    assert active_content(page) == [] and "\x00" not in page and "49" not in page


def test_no_secret_and_no_beginning_of_one_is_in_page_or_notebook(tmp_path, monkeypatch):
    secret = "sk-canary-" + "0123456789abcdefghij"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    error = new_output("error", ename="E", evalue="x", traceback=[f"Incorrect API key: {secret[:9]}****ghij", secret])
    cells = [new_markdown_cell(f"key {secret}"), new_code_cell(f"k = '{secret}'", outputs=[error])]
    page = render(tmp_path, *cells, title=f"t {secret}", error=f"e {secret}")
    pages.redact_notebook(tmp_path / "n.ipynb")
    for text in (page, (tmp_path / "n.ipynb").read_text("utf-8")):
        assert secret[:8] not in text and "[secret]" in text
    nbformat.validate(nbformat.read(tmp_path / "n.ipynb", as_version=4))


def test_redacting_leaves_ordinary_words_alone(monkeypatch):
    monkeypatch.setenv("JUPYTER_TOKEN", "workbook-2024")
    assert pages.redact({"a": ["the workbook", "workbook-2024"]}) == {"a": ["the workbook", "[secret]"]}


@pytest.mark.parametrize(
    "latex",
    [
        r"\max_\rho \; \mathbb{E}_{x' \sim \rho(\cdot \mid x)}\bigl[ r \bigr] - \lambda\,\mathrm{KL}(\rho \| \rho_0)",
        r"\mathcal{L} = -\log \sigma\left(\beta \log \frac{\pi_\theta(y_w|x)}{\pi_{\text{ref}}(y_w|x)}\right)",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
    ],
)
def test_the_papers_formulas_can_be_drawn(latex):
    assert "data:image/svg+xml" in formula(latex, display=True)


def test_a_formula_that_cannot_be_drawn_is_shown_as_text():
    assert formula(r"\nosuchthing{<b>}", display=False) == r"<code>\nosuchthing{&lt;b&gt;}</code>"


def test_pages_name_no_outside_address(tmp_path):
    page = render(tmp_path, *hostile_notebook())
    attributes = [part for part in page.split('"') if part.startswith(("http://", "https://", "//"))]
    assert attributes == [] and f'src="{NOWHERE}' not in page

"""JupyterLab in a real browser: open a notebook, run all its cells, wait, look."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from browser import CHROMIUM

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def served(project: Path, **variables):
    """The address of a JupyterLab that serves a project's notebooks, as `make lab` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(project / ".jupyter")} | variables
    environment.pop("WORKBOOK_OUTPUTS", None)
    command = [sys.executable, "-m", "jupyterlab", "notebooks", "--no-browser", f"--port={port}", "--allow-root"]
    command += ["--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1", "--LabApp.news_url=", "--log-level=ERROR"]
    server = subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield _when_up(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(timeout=30)


def _when_up(address: str, seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{address}/api", timeout=2).close()
            return address
        except OSError:
            assert time.monotonic() < deadline, "JupyterLab did not start"
            time.sleep(0.3)


@contextlib.contextmanager
def opened(address: str, notebook: str):
    """A browser's page with this notebook open and its kernel idle."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(f"{address}/lab/tree/{notebook}?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        page.wait_for_selector(".jp-Toolbar-kernelName:has-text('Python 3')", timeout=60_000)
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=60_000)
        page.wait_for_timeout(3000)  # the indicator is idle before the kernel has answered for the first time
        try:
            yield page
        finally:
            browser.close()


def run_all(page, seconds: float = 600) -> None:
    """Run > Run All Cells, by the menu; returns when the kernel has been idle for two seconds."""
    status = "document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status"
    page.locator(".lm-MenuBar-itemLabel").get_by_text("Run", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function(f"() => {status} === 'busy'", timeout=20_000)
    deadline, quiet = time.monotonic() + seconds, 0
    while quiet < 4:
        assert time.monotonic() < deadline, "the notebook did not end"
        page.wait_for_timeout(500)
        quiet = quiet + 1 if page.evaluate(status) == "idle" else 0


def last_output(page) -> str:
    """What stands below the last code cell; Lab shows only the cells that are in view."""
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 1e7)")
    page.wait_for_timeout(700)
    return page.locator(".jp-CodeCell").last.inner_text()

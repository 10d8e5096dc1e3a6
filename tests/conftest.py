"""Every test runs offline, with two threads, and writes its results below a temporary folder."""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest  # noqa: E402

LONGEST = ("test_resume.py", "test_runner.py", "test_audit.py", "test_sandbox.py", "test_poir.py", "test_alignpro.py")


def pytest_collection_modifyitems(items):
    """The longest files first, so that workers side by side end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """An empty outputs folder of the test's own."""
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"

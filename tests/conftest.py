"""Every test runs offline, with two threads, and writes its results below a temporary folder."""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest  # noqa: E402

LONGEST = (
    *(
        "test_lab",
        "test_resume_evaluation",
        "test_resume",
        "test_runner",
        "test_ppo",
        "test_api_resume",
        "test_resume_ledger",
    ),
    *("test_paid_steps", "test_benchmarks", "test_sandbox", "test_plots", "test_alignpro", "test_coverage"),
    *("test_plots_audit", "test_reward_model", "test_memory", "test_transformers_serve"),
)


def pytest_collection_modifyitems(items):
    """The longest files first, so that workers side by side end at about the same time."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """An empty outputs folder of the test's own."""
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"

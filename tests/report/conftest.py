import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    """No figure of one test is open in the next."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")

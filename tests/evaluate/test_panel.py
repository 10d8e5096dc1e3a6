"""The panel is a widget where someone sits in front of the kernel, and a stored case everywhere else."""

import pandas as pd
import pytest
from hostile import active_content
from made_rows import answer, judged

from nbutils.evaluate import panel, playground
from nbutils.experiment import recording

ANSWERS = pd.DataFrame(
    [answer(n, arm, float(n), response="y" * (n + 1), rewrite="x") for n in range(5) for arm in ("nan", "poir")]
).assign(cell="c")
VERDICTS = pd.DataFrame(
    [row for n in range(5) for row in judged(n, *["win" if n else "lose"] * 2, arm_a="poir")]
).assign(cell="c")
CELL = f"""
import sys
sys.path.insert(0, {str(playground.__file__).rsplit("/nbutils/", 1)[0]!r})
from nbutils.evaluate import panel
import pandas as pd
answers = pd.DataFrame({ANSWERS.to_dict("records")!r})
verdicts = pd.DataFrame({VERDICTS.to_dict("records")!r})
"""
LAST = "print('torch' in sys.modules, 'ipywidgets' in sys.modules)\npanel.show(['e/c/evaluate'], answers, verdicts)"


def test_without_a_kernel_it_is_a_stored_case():
    shown = panel.show(["e/c/evaluate"], ANSWERS, VERDICTS)
    assert not recording.is_attended() and len(shown) == 1 and "stored case" in repr(shown)


@pytest.mark.slow
@pytest.mark.parametrize("allowed, runner", [(True, ""), (False, ""), (True, "1")])
def test_a_kernel_is_attended_where_a_cell_may_ask_for_input(allowed, runner, monkeypatch):
    """JupyterLab allows it and papermill does not, whatever the environment that either was started in."""
    from jupyter_client.manager import start_new_kernel

    attended = allowed and not runner
    monkeypatch.setenv("WORKBOOK_BATCH", runner)
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/notebook.ipynb")
    manager, client = start_new_kernel()
    seen = []
    try:
        ask = {"allow_stdin": allowed, "timeout": 120, "output_hook": seen.append}
        assert client.execute_interactive(CELL + LAST, **ask)["content"]["status"] == "ok", seen
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    shown = [message["content"] for message in seen if message["msg_type"] == "execute_result"]
    kinds = {"text/html", "text/plain"} | ({"application/vnd.jupyter.widget-view+json"} if attended else set())
    assert set(shown[0]["data"]) == kinds and "stored case" in shown[0]["data"]["text/html"]
    opened = [message for message in seen if message["msg_type"] == "comm_open"]
    printed = "".join(
        m["content"]["text"] for m in seen if m["msg_type"] == "stream" and m["content"]["name"] == "stdout"
    )
    assert bool(opened) == attended and printed.startswith("False False")


def test_a_prompt_is_tried_on_enter_and_trouble_is_one_line(monkeypatch):
    asked = []

    def tried(prompt, where, sample):
        asked.append((prompt, where, sample))
        if "<" in prompt:
            raise ValueError(f"no {prompt}\nat all")
        return playground.cases(ANSWERS, VERDICTS, num=1)

    monkeypatch.setattr(playground, "try_prompt", tried)
    trying = panel.Trying(["e/c/evaluate"])
    trying.prompt.value = "the fox"
    trying.prompt._handle_custom_msg({"event": "submit"}, [])
    trying.again.click()
    assert asked == [("the fox", "e/c/evaluate", 0), ("the fox", "e/c/evaluate", 1)] and "sides" in trying.shown.value
    trying.prompt.value = "<script>"
    trying.button.click()
    assert trying.status.value == "no &lt;script&gt; at all" and not trying.button.disabled
    assert active_content(trying.status.value) == []


def test_the_browser_chooses_and_turns_pages():
    browser = panel.Browser(ANSWERS, VERDICTS, "nan")
    assert browser.status.value == "1 to 2 of 5 cases" and browser.back.disabled
    browser.on.click()
    browser.on.click()
    assert browser.status.value == "5 to 5 of 5 cases" and browser.on.disabled
    browser.outcome.value = "lose"
    assert browser.status.value == "1 to 1 of 1 cases" and browser.shown.value.count('class="case"') == 1
    browser.outcome.value = "flips"
    assert browser.status.value == "there is no such case" and browser.shown.value == ""
    browser.outcome.value, browser.sort.value = "any", "response, longest first"
    assert browser.keys[0][2] == "p4"
    browser.arm.value, browser.outcome.value = "nan", "win"
    assert "the baseline has none" in browser.status.value

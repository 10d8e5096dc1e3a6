"""Functions of one's own: found beside the experiment file and in the project's root, tried before any work."""

import importlib
import sys

import pytest

from nbutils.models import references
from nbutils.run.functions import trouble

FILES = {
    "tried_good": "print('hello')\nnumber = 3\ndef judge(messages): return 'x'\n"
    "def reward(prompts, responses): return []\n",
    "tried_syntax": "x = 1\ndef judge(messages)\n    return 'x'\n",
    "tried_key": "import os\nkey = os.environ['NO_SUCH_VARIABLE']\ndef judge(messages): return key\n",
    "tried_name": "from collections import NoSuchThing\n",
    "tried_async": "async def judge(messages): return 'x'\n",
    "tried_umlaut": "raise ValueError('水獭 – ü')\n",
    "tried_exit": "raise SystemExit(0)\n",
    "tried_import": "import no_such_package\n",
    "tried_sibling": "import tried_good\njudge = tried_good.judge\n",
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """(project's root, the experiment file's folder)."""
    root, code = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir(), code.mkdir()
    monkeypatch.setenv("WORKBOOK_ROOT", str(root))
    yield root, code
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("function", "gives", "said"),
    [
        ("tried_good:judge", "text", ""),
        ("tried_good:reward", "reward", ""),
        ("tried_sibling:judge", "text", ""),
        ("math:sqrt", "text", ""),
        ("tried_good:jugde", "text", "module tried_good has no function jugde"),
        ("tried_good:number", "text", "module tried_good has no function number"),
        ("tried_good:judge", "reward", "cannot be called with a list of prompts and a list of responses"),
        ("tried_good:reward", "text", "cannot be called with one list of messages"),
        ("tried_syntax:judge", "text", "tried_syntax.py:2 is not valid Python"),
        ("tried_key:judge", "text", "KeyError: 'NO_SUCH_VARIABLE' (when it was imported, tried_key.py:2)"),
        ("tried_name:judge", "text", "NoSuchThing' from 'collections' (when it was imported, tried_name.py:1)"),
        ("tried_async:judge", "text", "is async: wrap it in a function that waits for it"),
        ("tried_umlaut:judge", "text", "水獭 – ü (when it was imported, tried_umlaut.py:1)"),
        ("tried_exit:judge", "text", "its module ended the process when it was imported"),
        ("tried_import:judge", "text", "tried_import imports no_such_package, which is not installed"),
        ("tried_nowhere:judge", "text", "put tried_nowhere.py beside the experiment file or into the project's root"),
        ("tried.nowhere:judge", "text", "module tried not found: put tried/nowhere.py"),
    ],
)
@pytest.mark.parametrize("place", [0, 1], ids=["root", "beside the file"])
def test_each_fault_is_one_line(folders, monkeypatch, function, gives, said, place):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    for name, text in FILES.items():
        (folders[place] / f"{name}.py").write_text(text)
    found = trouble(function, gives, folders[1])
    assert said in found and bool(found) == bool(said) and "\n" not in found
    assert not said or found.startswith(repr(function))


def test_ones_own_file_comes_before_an_installed_module_of_that_name(folders, monkeypatch):
    (folders[0] / "colorsys.py").write_text("def judge(messages): return 'mine'\n")
    sys.modules.pop("colorsys", None)
    assert references.load_callable("colorsys:judge")([]) == "mine"
    assert references.local_files("colorsys:judge") == [folders[0] / "colorsys.py"]
    sys.modules.pop("colorsys", None)
    assert hasattr(importlib.import_module("colorsys"), "rgb_to_hsv")  # only while a function is looked for
    sys.modules.pop("colorsys", None)

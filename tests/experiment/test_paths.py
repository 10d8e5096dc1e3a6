"""Names that become folders, and writes that never leave half a file."""

import subprocess
import sys

import pytest

from nbutils.experiment import paths


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-x", "ä", "x\n"])
def test_names_that_cannot_be_folders_are_refused(name):
    with pytest.raises(ValueError, match="letters, digits"):
        paths.step_folder(name, "main", "collect")


def test_step_folder_lies_below_outputs(outputs):
    assert paths.step_folder("e", "Qwen2.5-7B+x", "collect") == outputs / "e" / "Qwen2.5-7B+x" / "collect"


def test_a_home_folder_is_meant_by_its_tilde_and_nobodys_is_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, found in (("ROOT", paths.project_root), ("OUTPUTS", paths.outputs_root)):
        monkeypatch.setenv(f"WORKBOOK_{name}", "~/own")
        assert found() == tmp_path / "own"
    monkeypatch.setenv("WORKBOOK_CODE", "~/code")
    assert paths.code_folders()[0] == tmp_path / "code"
    assert paths.template_folder("~/mine") == tmp_path / "mine"
    assert paths.expanded("~no_such_user/x").name == "x"


def test_failed_write_leaves_the_old_file_and_no_scratch(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    paths.write_atomic(path, "old")
    monkeypatch.setattr(paths.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError):
        paths.write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_tree_hash_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = paths.sha256_tree(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert paths.sha256_tree(tmp_path) != before
    (tmp_path / "b").rename(tmp_path / "a")
    assert paths.sha256_tree(tmp_path) == before


LITTER = (".DS_Store", "._a", ".ipynb_checkpoints/a-checkpoint", ".cache/huggingface/a.lock", ".git/HEAD", "a~")


@pytest.mark.parametrize("name", [*LITTER, "b/.DS_Store", "__pycache__/a.pyc", "Thumbs.db", "b/desktop.ini"])
def test_tree_hash_does_not_see_what_systems_and_editors_leave(tmp_path, name):
    folder = tmp_path / ".hidden" / "model"  # where the folder itself lies is nobody's business
    folder.mkdir(parents=True)
    (folder / "a").write_text("1")
    before = paths.sha256_tree(folder)
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text("x")
    assert paths.sha256_tree(folder) == before
    (folder / "b").mkdir(exist_ok=True)
    (folder / "b" / "c.d").write_text("2")
    assert paths.sha256_tree(folder) != before


def test_json_hash_ignores_key_order_and_survives_surrogates():
    assert paths.sha256_json({"a": 1, "b": "\ud800"}) == paths.sha256_json({"b": "\ud800", "a": 1})
    with pytest.raises(ValueError):
        paths.sha256_json(float("nan"))


def test_bars_of_other_libraries_stay_text_in_a_notebook():
    """As tqdm sees it, a process that has loaded ipykernel is a notebook. A stored widget would stay at 0% for ever."""
    code = "import IPython, ipykernel.zmqshell, {}\nfrom tqdm.auto import tqdm\nprint("
    code += "any(each.__name__ == 'tqdm_notebook' for each in tqdm.__mro__))"
    seen = [
        subprocess.run([sys.executable, "-c", code.format(first)], capture_output=True, text=True, check=True).stdout
        for first in ("nbutils.experiment.paths", "json")
    ]
    assert seen == ["False\n", "True\n"]

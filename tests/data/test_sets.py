"""Protects which rows become prompts, which role they serve, and that broken input stops with one helpful line."""

import csv
import gzip
import http.server
import json
import threading

import datasets
import pytest

from nbutils.data import hub, sets
from nbutils.experiment import paths, records


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return str(path)

    return write


def texts(rows):
    return [row.prompt for row in rows]


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_no_column_fits(write):
    with pytest.raises(ValueError, match="no column holds a prompt; wanted one of prompt, .*; got answer, id: rename"):
        sets.load(write("a.jsonl", jsonl({"id": 1, "answer": "a"})), "test")


# Files


NASTY = [
    "next\x85line",
    "line\u2028separator",
    "lone \ud800 surrogate",
    "nul \x00",
    "{answer_b}",
    "עברית",
    'q"uo,te\n2',
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_prompts(tmp_path, write, name):
    prompts = [text for text in NASTY if name != "a.parquet" or "\ud800" not in text]  # Parquet holds valid UTF-8 only
    if name == "a.parquet":
        datasets.Dataset.from_list([{"prompt": text} for text in prompts]).to_parquet(tmp_path / name)
    elif name == "a.csv":
        with open(tmp_path / name, "w", newline="", encoding="utf-8", errors="surrogatepass") as file:
            csv.writer(file).writerows([["prompt"], *([text] for text in prompts)])
    else:
        content = json.dumps([{"prompt": text} for text in prompts], ensure_ascii=False)
        content = content if name == "a.json" else "\n".join(json.dumps({"prompt": text}) for text in prompts)
        write(name, content)
    rows = sets.load(str(tmp_path / name), "train")
    wanted = [text.replace("\ud800", "\ufffd") for text in prompts]  # half a character is none
    assert texts(rows) == wanted
    assert [row.prompt_id for row in rows] == [records.prompt_id(text) for text in wanted]


def test_raw_separators_bom_blank_lines_and_crlf(write):
    content = '\ufeff{"prompt": "a\u2028b\x85c"}\r\n\r\n  \n"only a string"\n'
    assert texts(sets.load(write("a.jsonl", content), "test")) == ["a\u2028b\x85c", "only a string"]
    assert texts(sets.load(write("a.csv", "\ufefftext,id\r\nhello,1\r\n\r\n"), "test")) == ["hello"]


def test_json_file_with_its_rows_under_a_key(write):
    assert texts(sets.load(write("a.json", '{"version": 1, "data": [{"text": "t"}]}'), "test")) == ["t"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', r"a\.jsonl:3: not valid JSON .*: correct or remove"),
        ("a.jsonl", '{"prompt": "a"}\n[1]\n', r"a\.jsonl:2: wanted an object or a string, got list"),
        ("a.jsonl", b'{"prompt": "a"}\n"\xff"\n', r"a\.jsonl:2: not UTF-8"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: JSON is nested too deeply"),
        ("a.json", '[\n{"prompt": "a"},\n]', r"a\.json:3: not valid JSON"),
        ("a.json", '{"prompt": "a"}', r"a\.json: wanted a list of rows, got dict"),
        ("a.json", '{"prompt": "a"}\n{"prompt": ', r"a\.json:2: not valid JSON"),
        ("a.json", "3", r"a\.json: wanted a list of rows, got int"),
        ("a.csv", "prompt,id\na,1\nb,2,3\n", r"a\.csv:3: wanted 2 fields"),
        ("a.csv", 'prompt\n"a"b\n', r"a\.csv:2: not valid CSV"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: not a readable Parquet file"),
        ("a.jsonl", "", r"no usable prompt for test \(0 read"),
        ("a.json", "[]", "no usable prompt"),
        ("a.csv", "prompt\n", "no usable prompt"),
        ("a.jsonl", '{"prompt": " \\n"}\n{"prompt": null}', r"no usable prompt for test \(2 read, 2 empty"),
    ],
)
def test_broken_files_stop_with_one_line(write, name, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        sets.load(write(name, content), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n",
            "Git LFS pointer .*lfs pull",
        ),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer in place of the data"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "a Git LFS pointer"),
        ("a.json", b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page in place of the data: download"),
        ("a.csv", b"PK\x03\x04\x14\x00", "a zip archive or a workbook of Excel: unpack it, or save it as CSV"),
        ("a.jsonl", b"PAR1\x15\x04", "this is Parquet: call it .parquet"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\x24", "compressed by zstd"),
        ("a.jsonl", gzip.compress(b'{"prompt": "a"}\n', mtime=0)[:-9], "gzip data that is cut or damaged"),
        ("a.csv", b"\xff\xfep", "not UTF-8"),
    ],
)
def test_a_file_that_is_something_else_than_its_name_says_is_one_line(write, name, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        sets.load(write(name, content), "test")
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_gzip_utf_16_and_numbers_of_any_length_are_read(write):
    digits = "9" * 5000  # Python refuses to turn more than 4,300 into a number
    rows = f'{{"prompt": "a", "id": {digits}, "n": 12}}\n{{"prompt": {digits}}}\n'
    found = sets.load(write("a.jsonl", gzip.compress(rows.encode())), "test")
    assert texts(found) == ["a", digits] and found[0].source["id"] == digits
    assert texts(sets.load(write("b.csv", "prompt,category\nÄpfel,x\n".encode("utf-16")), "test")) == ["Äpfel"]


def test_empty_and_duplicate_prompts_are_counted(write):
    path = write("a.jsonl", jsonl({"prompt": "a"}, {"prompt": ""}, {"prompt": " a\n"}, {"prompt": "b"}, {"other": 1}))
    rows, counts = sets.load_counted(path, "test")
    assert texts(rows) == ["a", "b"]
    assert counts == {"read": 5, "empty": 2, "duplicates": 1, "other_split": 0, "kept": 2}


def test_rows_say_where_they_come_from(write):
    path = write("my set.jsonl", jsonl({"prompt": ""}, {"prompt": "a", "category": "c", "idx": 9, "response": "r"}))
    assert sets.load(path, "test") == [
        records.Prompt(
            records.prompt_id("a"), "a", "my set", "test", {"set": path, "row": 1, "idx": 9, "category": "c"}
        )
    ]


# Roles and choice


def test_a_split_column_decides(write):
    path = write("a.jsonl", jsonl({"prompt": "a", "split": "train_sft"}, {"prompt": "b", "split": "validation"}))
    assert texts(sets.load(path, "train")) == ["a"]
    rows, counts = sets.load_counted(path, "test")
    assert texts(rows) == ["b"] and rows[0].split == "test" and counts["other_split"] == 1
    with pytest.raises(ValueError, match="column split holds 'fold 3', wanted train or test"):
        sets.load(write("b.jsonl", jsonl({"prompt": "a", "split": "fold 3"})), "train")


def test_without_a_split_column_rows_serve_either_role(write):
    path = write("a.jsonl", jsonl({"prompt": "a"}))
    assert [sets.load(path, split)[0].split for split in ("train", "test")] == ["train", "test"]


def test_choice_depends_on_the_seed_and_not_on_row_order(write):
    prompts = [f"prompt {number}" for number in range(50)]
    forward = write("a.jsonl", jsonl(*({"prompt": text} for text in prompts)))
    backward = write("b.jsonl", jsonl(*({"prompt": text} for text in reversed(prompts))))
    chosen = texts(sets.load(forward, "train", num_prompts=10, seed=3))
    assert len(chosen) == 10 and chosen == sorted(chosen, key=prompts.index)
    assert set(chosen) == set(texts(sets.load(backward, "train", num_prompts=10, seed=3)))
    assert set(chosen) < set(texts(sets.load(forward, "train", num_prompts=20, seed=3)))
    assert set(chosen) != set(texts(sets.load(forward, "train", num_prompts=10, seed=4)))
    assert texts(sets.load(forward, "train", num_prompts=10, shuffle=False)) == prompts[:10]
    assert len(sets.load(forward, "train", num_prompts=1000)) == 50


def test_unknown_split():
    with pytest.raises(ValueError, match="train or test, got 'dev'"):
        sets.load("sandbox", "dev")


SANDBOX_SETS = ("sandbox", "sandbox_lists", "sandbox_mixed")


@pytest.mark.parametrize("name", SANDBOX_SETS)
def test_no_test_prompt_of_a_sandbox_set_is_a_training_prompt_of_any(name):
    train = [row for each in SANDBOX_SETS for row in sets.load(each, "train")]
    test = sets.load(name, "test")
    assert {row.prompt_set for row in test} == {name} and {row.split for row in test} == {"test"}
    assert len(test) >= 100 and sets.overlap(train, test, 1.0) == set()
    assert len(sets.load(name, "test", num_prompts=100)) == 100


def test_overlap_is_exact_or_above_the_threshold():
    def rows(*prompts):
        return [records.Prompt(records.prompt_id(text), text, "x") for text in prompts]

    near, same, far = train = rows("one two three four five", "列出三种水果", "something else")
    test = rows("One two three four!", "列出三种水果", "写一首诗")
    assert sets.overlap(train, test, 0.7) == {near.prompt_id, same.prompt_id}  # near: 2 * 4 / 9 = 0.89
    assert sets.overlap(train, test, 0.9) == {same.prompt_id}
    assert sets.overlap(train, test, 1.0) == {same.prompt_id}
    assert sets.overlap(rows("列出三种水果。", "说三句话"), test, 0.7) == {records.prompt_id("列出三种水果。")}
    assert sets.not_compared([*train, *rows("？？")], 0.7) == " · 1 prompt without words: not compared"
    assert sets.overlap(train, [], 0.7) == set() and far.prompt_id not in sets.overlap(train, test, 0.7)


def test_seeds(write):
    assert len(sets.seeds("sandbox")) > 10 and all(isinstance(seed, str) for seed in sets.seeds("sandbox"))
    assert sets.seeds("sandbox_lists") == texts(sets.load("sandbox_lists", "train"))
    assert sets.seeds(write("s.jsonl", jsonl({"instruction": "a"}, {"instruction": "b"}))) == ["a", "b"]
    with pytest.raises(ValueError, match="no usable prompt for train"):
        sets.seeds(write("e.jsonl", jsonl({"instruction": " "})))


def test_a_hub_set_of_seeds_is_read_whole_unless_it_is_tested_on(fake_hub):
    """Self-Instruct's 175 have no test split: a tenth is not held out of what nobody is tested on."""
    fake_hub(train=[{"instruction": f"task {number}"} for number in range(175)])
    seeds = sets.seeds("HuggingFaceH4/self-instruct-seed", ["sandbox"])
    assert set(seeds) == {f"task {number}" for number in range(175)} and len(seeds) == 175
    trained = texts(sets.load("owner/name", "train"))
    assert len(trained) < 175 and set(sets.seeds("owner/name", ["sandbox", "owner/name"])) == set(trained)


def test_a_hub_set_of_seeds_with_a_test_split_keeps_it(fake_hub):
    fake_hub(train=[{"prompt": "a"}], test=[{"prompt": "b"}])
    assert sets.seeds("owner/name") == ["a"]


# Several sets in one name


@pytest.mark.parametrize(
    ("ref", "wanted"),
    [
        ("ultrafeedback", ["ultrafeedback"]),
        ("ultrafeedback+orca", ["ultrafeedback", "orca"]),
        (" helpsteer + owner/name-1.5 + b.csv", ["helpsteer", "owner/name-1.5", "b.csv"]),
        ("a+b.jsonl", ["a+b.jsonl"]),  # is there
        ("orca+a+b.jsonl+sandbox", ["orca", "a+b.jsonl", "sandbox"]),
        ("b+c.jsonl", ["b", "c.jsonl"]),  # is not
        ("outputs/mine/a+seed-0/collect/pairs.jsonl", ["outputs/mine/a+seed-0/collect/pairs.jsonl"]),  # nor made yet
        ("outputs/mine/a+b/p.jsonl+orca", ["outputs/mine/a+b/p.jsonl", "orca"]),
        ("~nobody_here/a.jsonl", ["~nobody_here/a.jsonl"]),  # a home of nobody's
        ("orca+", ["orca", ""]),
        ("", [""]),
    ],
)
def test_a_plus_stands_between_sets_but_where_a_files_name_has_it(ref, wanted, tmp_path, monkeypatch):
    (tmp_path / "a+b.jsonl").write_text(jsonl({"prompt": "x"}))
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    assert sets.parts(ref) == wanted


def test_several_sets_are_one_without_what_they_share(write):
    one = write("one.jsonl", jsonl({"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}))
    two = write("t+wo.jsonl", jsonl({"prompt": "b"}, {"prompt": " "}, {"prompt": "c"}))
    found, counts = sets.load_counted(f"{one}+{two}", "train")
    assert [(row.prompt, row.prompt_set) for row in found] == [("a", "one"), ("b", "one"), ("c", "t+wo")]
    assert counts == {
        "read": 6, "empty": 1, "duplicates": 2, "other_split": 0, "kept": 3,
        f"{one} read": 3, f"{one} kept": 2, f"{two} read": 3, f"{two} kept": 1,
    }  # fmt: skip
    assert sets.load(f"{one}+{two}", "train", 2, seed=1) == sets.load(f"{one}+{two}", "train", 2, seed=1)
    assert len(sets.load(f"{one}+{two}", "train", 2)) == 2 == len(sets.load(f"{one}+{two}", "test", 2))
    assert [str(path) for path in sets.files(f"{one}+{two}", "orca+sandbox")] == [one, two]
    assert sets.seeds(f"{one}+{two}") == ["a", "b", "b", "c"] and sets.num_test_prompts(f"{one}+sandbox") == 2 + 212


def test_of_several_sets_the_one_that_is_wrong_is_named(write):
    one = write("one.jsonl", jsonl({"prompt": "a"}))
    with pytest.raises(ValueError, match="unknown prompt set 'ultrafedback': did you mean ultrafeedback"):
        sets.check(f"{one}+ultrafedback")
    with pytest.raises(ValueError, match=r"empty.jsonl has no usable prompt for train \(1 read, 1 empty"):
        sets.load(f"{one}+{write('empty.jsonl', jsonl({'prompt': ''}))}", "train")


def test_files_are_those_on_this_machine(write, tmp_path, monkeypatch):
    path = write("vicuna_eval.jsonl", jsonl({"text": "t"}))
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    assert [str(file) for file in sets.files("sandbox", path, "vicuna", "dolly", "orca", path)] == [path]


def test_read_lines(write, tmp_path, monkeypatch):
    path = write("words.txt", "\ufeff# violence\n\n  two words \r\none # kept\n")
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    assert sets.read_lines(path) == sets.read_lines("words.txt") == ["two words", "one # kept"]
    with pytest.raises(FileNotFoundError, match="nowhere.txt not found at /.*: wanted a text file"):
        sets.read_lines("nowhere.txt")


def test_the_shipped_keywords_are_words():
    keywords = sets.read_lines(str(paths.project_root() / "params" / "keywords.txt"))
    assert 20 < len(keywords) == len(set(keywords)) and all(word == word.lower() for word in keywords)


# Names


def test_check_takes_what_can_exist(write):
    for ref in (*SANDBOX_SETS, "vicuna", "ultrafeedback", "owner/name-v1.5", write("a.csv", "prompt\na\n")):
        sets.check(ref)


@pytest.mark.parametrize(
    ("ref", "error", "message"),
    [
        ("vicunna", ValueError, "unknown prompt set 'vicunna': did you mean vicuna"),
        ("Dolly15k", ValueError, "did you mean dolly_15k"),
        ("zzz", ValueError, "known are sandbox, sandbox_lists, sandbox_mixed, vicuna"),
        ("sandbox_list", ValueError, "did you mean sandbox_lists"),
        ("missing/file.jsonl", FileNotFoundError, "missing/file.jsonl not found at /"),
        ("prompts.txt", ValueError, "another kind of file: name a .json"),
        ("a/b/c", ValueError, "unknown prompt set"),
        ("../name", ValueError, "unknown prompt set"),
        ("", ValueError, "is a folder"),
    ],
)
def test_check_stops_with_one_line(ref, error, message):
    with pytest.raises(error, match=message) as caught:
        sets.check(ref)
    assert "\n" not in str(caught.value)


def test_relative_paths_are_sought_in_the_project_first(tmp_path, monkeypatch):
    for folder, text in (("project", "inside"), ("elsewhere", "outside")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text(jsonl({"prompt": text}))
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path / "project"))
    assert texts(sets.load("a.jsonl", "test")) == ["inside"]
    (tmp_path / "project" / "a.jsonl").unlink()
    assert texts(sets.load("a.jsonl", "test")) == ["outside"]


# Hub sets, with a stand-in for the hub


@pytest.fixture
def fake_hub(monkeypatch):
    """load_dataset() answers with these splits, streamed; gives the list of what was asked for."""

    def serve(**splits):
        def load_dataset(hub_id, streaming):
            asked.append((hub_id, streaming))
            return {name: datasets.Dataset.from_list(rows).to_iterable_dataset() for name, rows in splits.items()}

        asked = []
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        return asked

    return serve


def test_a_hub_set_with_a_test_split_keeps_it(fake_hub):
    asked = fake_hub(train=[{"prompt": "a", "split": "odd"}], validation=[{"prompt": "v"}], test=[{"prompt": "b"}])
    assert texts(sets.load("helpsteer", "train")) == ["a"]
    assert texts(sets.load("helpsteer", "test")) == ["b"]
    assert asked == [("nvidia/HelpSteer", True)] * 2


def test_a_hub_set_with_a_validation_split_only(fake_hub):
    fake_hub(train=[{"prompt": "a"}], validation=[{"prompt": "v"}])
    assert texts(sets.load("helpsteer", "test")) == ["v"]


def test_a_hub_set_without_a_test_split_is_cut_by_the_prompts_hash(fake_hub):
    prompts = [f"prompt {number}" for number in range(300)]
    fake_hub(train=[{"question": text} for text in prompts])
    test = [text for text in prompts if int(records.prompt_id(text), 16) % 10 == 0]
    assert 15 < len(test) < 45
    assert texts(sets.load("orca", "test")) == test
    assert set(texts(sets.load("orca", "train"))) == set(prompts) - set(test)
    some = sets.load("orca", "train", num_prompts=20, seed=1)
    assert len(some) == 20 and texts(some) != texts(sets.load("orca", "train", num_prompts=20, shuffle=False))
    assert texts(some) == texts(sets.load("orca", "train", num_prompts=20, seed=1))


def test_a_stream_is_read_no_further_than_needed(monkeypatch):
    def generate():
        for number in range(1_000_000):
            read.append(number)
            yield {"prompt": f"prompt {number}"}

    read = []
    stream = datasets.IterableDataset.from_generator(generate)
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, streaming: {"train": stream})
    assert len(sets.load("owner/name", "train", num_prompts=50)) == 50
    assert len(read) < 30_000


def test_a_hub_set_without_the_wanted_split(fake_hub):
    fake_hub(test=[{"prompt": "b"}], extra=[{"prompt": "c"}])
    with pytest.raises(ValueError, match="owner/name has no split for train, it has test, extra: save the rows"):
        sets.load("owner/name", "train")


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (
            datasets.exceptions.DatasetNotFoundError("'o/n' is a gated dataset on the Hub.\nVisit the page"),
            PermissionError,
            "o/n is gated: ask for access at https://huggingface.co/datasets/o/n, then `hf auth login`",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("doesn't exist"),
            FileNotFoundError,
            "o/n is not on the hub, or private",
        ),
        (FileNotFoundError("x LocalEntryNotFoundError: y"), ConnectionError, "o/n cannot be reached: go online"),
        (ConnectionError("Couldn't reach 'o/n'\n(OfflineModeIsEnabled)"), ConnectionError, "o/n cannot be reached"),
        (
            ValueError("Config name is missing.\nPick one"),
            ValueError,
            "o/n cannot be read .Config name is missing. Pick",
        ),
        (RuntimeError("Dataset scripts are no longer supported"), ValueError, "o/n cannot be read .Dataset scripts"),
    ],
)
def test_a_failed_hub_set_says_what_to_do(monkeypatch, failure, error, message):
    def load_dataset(hub_id, streaming):
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(error, match=message) as caught:
        sets.load("o/n", "train")
    assert "\n" not in str(caught.value) and ".jsonl" in str(caught.value)


# Evaluation sets


@pytest.fixture
def bpo_server(tmp_path, monkeypatch):
    """Loopback stand-in for BPO's repository: serves one file; gives the list of requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200 if self.path.endswith("dolly_eval.json") else 404)
            self.end_headers()
            self.wfile.write(json.dumps([{"instruction": "i", "context": "c"}, {"instruction": "j"}]).encode())

        def log_message(self, *arguments):
            pass

    requests = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(hub, "BPO_URL", f"http://127.0.0.1:{server.server_port}/testset/")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WORKBOOK_ROOT", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("WORKBOOK_DATA", raising=False)
    yield requests
    server.shutdown()
    server.server_close()


def test_an_evaluation_set_is_fetched_once(bpo_server):
    for _ in range(2):
        rows = sets.load("dolly", "test")
        assert texts(rows) == ["i\nc", "j"] and rows[0].prompt_set == "dolly"
    assert bpo_server == ["/testset/dolly_eval.json"]


def test_a_local_copy_comes_first(bpo_server, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vicuna_eval.jsonl").write_text(jsonl({"text": "in data"}))
    assert texts(sets.load("vicuna", "test")) == ["in data"]
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path / "mine"))
    assert texts(sets.load("vicuna", "test")) == ["in data"]
    (tmp_path / "mine" / "vicuna_eval.jsonl").write_text(jsonl({"text": "mine"}))
    assert texts(sets.load("vicuna", "test")) == ["mine"] and not bpo_server


def test_an_evaluation_set_that_cannot_be_had(bpo_server, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match="bpo_test.json answered 404: go online, or put bpo_test.json into data/"
    ):
        sets.load("bpo_test", "test")
    monkeypatch.setattr(hub, "BPO_URL", "http://127.0.0.1:9/")
    with pytest.raises(ConnectionError, match="cannot be reached .*: go online, or put"):
        sets.load("vicuna", "test")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set: go online, or put"):
        sets.load("self_instruct", "test")

"""Preference pairs: the better response is in `chosen`, whatever the set looks like, and every row is counted."""

import json
import random
from pathlib import Path

import datasets
import pytest

from nbutils.data import pairs, sets
from nbutils.experiment import paths, records, steps
from nbutils.experiment.records import Pair


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def completion(response, score, **more):
    return {"response": response, "overall_score": score, "model": "m"} | more


def rated(prompt, response, *ratings):
    return {"prompt": prompt, "response": response} | dict(zip(pairs.RATING_WEIGHTS, ratings, strict=True))


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="pairs.jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows) if name.endswith(".jsonl") else json.dumps(rows)
        (tmp_path / name).write_text(text, "utf-8")
        return str(tmp_path / name)

    return write


@pytest.fixture
def fake_hub(monkeypatch):
    """load_dataset() answers with these training rows, streamed; gives the list of the ids that were asked for."""

    def serve(*rows):
        def load_dataset(hub_id, streaming):
            asked.append(hub_id)
            return {"train": datasets.Dataset.from_list(rows).to_iterable_dataset()}

        asked = []
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        return asked

    return serve


def sides(found):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in found]


# Direction

COLLECTED = Pair("id", "x", "good rewrite", "up", "bad rewrite", "down", 5, 2, 1, 0)
TRAINING_PROMPT = next(f"p{i}" for i in range(20) if int(records.prompt_id(f"p{i}"), 16) % 10)
TEST_PROMPT = next(f"p{i}" for i in range(99) if int(records.prompt_id(f"p{i}"), 16) % 10 == 0)


@pytest.mark.parametrize(
    "row",
    [
        json.loads(records.dump(COLLECTED)),
        {"prompt": "x", "optimized_prompt": "x!", "good_res": "up", "bad_res": "down"},
        {"prompt": "x", "chosen": "up", "rejected": " down\n"},
        {"rejected": "down", "chosen": "up", "question": "x", "system": "be brief"},
        {"system": "s", "input": "x", "chosen": "up", "rejected": "down", "rating": [9, 8], "status": "swapped"},
        {"chosen": [user("x"), assistant("up")], "rejected": [user("x"), assistant("down")]},
        {"prompt": [user("x")], "chosen": [assistant("up")], "rejected": [assistant("down")]},
        {
            "prompt": [user([{"type": "input_text", "text": "x"}])],
            "chosen": [assistant([{"type": "text", "text": "up"}])],
            "rejected": [assistant([{"type": "thinking", "thinking": "t"}, {"type": "output_text", "text": "down"}])],
        },
        {"chosen": "### Human: x### Assistant: up", "rejected": "### Human: x\n### Assistant: down"},
        {"prompt": "\n\nHuman: x\n\nAssistant:", "chosen": " up", "rejected": " down"},
        {"prompt": "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n", "chosen": "up", "rejected": "down"},
        {
            "prompt": "x",
            "chosen": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "up"}],
            "rejected": "down",
        },
        {"chosen": "\n\nHuman: x\n\nAssistant: up", "rejected": "\n\nHuman: x\n\nAssistant: down"},
        {"prompt": "x", "chosen": "up", "rejected": "down", "score_chosen": 2.0, "score_rejected": 1.5},
        {"instruction": "x", "chosen": "up", "rejected": "down", "chosen-rating": "5", "rejected-rating": "4"},
        {"instruction": "x", "completions": [completion("down", 1), completion("mid", 5), completion("up", 7.5)]},
        {
            "instruction": "x",
            "completions": [completion("up", "9"), completion("down", "10.0e-1"), completion("?", None)],
        },
    ],
)
def test_the_better_response_is_chosen(write, row):
    found, counts = pairs.load(write(row))
    assert sides(found) == [("x", "up", "down")]
    assert counts["read"] == counts["kept"] == 1 and sum(counts.values()) == 2
    assert found[0].prompt_id == records.prompt_id("x") and found[0].source["row"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_rated_responses_are_ordered_by_their_weighted_sum_in_any_order_of_the_rows(write, seed):
    """Sums by hand: up 4·4 + 3·4 + 2·4 + 2 − 2 = 36, long 34, mid 27, down 4·1 + 3·3 + 2·4 = 21; even 10 twice."""
    rows = [
        rated("x", "up", 4, 4, 4, 2, 2),
        rated("x", "long", 4, 4, 4, 2, 4),
        rated("x", "mid", 3, 3, 3, 2, 2),
        rated("x", "down", 1, 3, 4, 0, 0),
        rated("even", "a", 1, 1, 1, 1, 0),
        rated("even", "b", 1, 1, 1, 2, 1),
        rated("alone", "a", 4, 4, 4, 4, 4),
        rated("x", "unrated", 4, 4, 4, 4, None),
    ]
    random.Random(seed).shuffle(rows)
    found, counts = pairs.load(write(*rows))
    assert sides(found) == [("x", "up", "down")]
    assert counts["read"] == 8 and counts["kept"] == counts["tied"] == 1 and counts["incomplete"] == 2


def test_helpfulness_weighs_most_and_length_is_no_merit():
    weights = pairs.RATING_WEIGHTS
    assert max(weights, key=weights.get) == "helpfulness" and weights["verbosity"] < 0
    assert all(isinstance(weight, int) for weight in weights.values())  # equal ratings are equal sums


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "x", "chosen": "up", "rejected": "up "}, "same"),
        ({"prompt": "x", "chosen": [user("x"), assistant("a")], "rejected": [user("x"), assistant("a")]}, "same"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "score_chosen": 3, "score_rejected": 3.0}, "tied"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "status": "tie"}, "tied"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 3}, "contradictory"),
        (json.loads(records.dump(COLLECTED)) | {"good_score": 1}, "contradictory"),
        ({"prompt": "x", "chosen": "a", "rejected": ""}, "incomplete"),
        ({"prompt": "x", "chosen": None, "rejected": "b"}, "incomplete"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "incomplete"),
        ({"prompt": "x", "chosen": [user("x")], "rejected": [user("x"), assistant("b")]}, "incomplete"),
        (
            {"prompt": "x", "chosen": [user("x"), assistant("a"), user("y"), assistant("b")], "rejected": "c"},
            "multi_turn",
        ),
        ({"prompt": [user("x"), assistant("a"), user("y")], "chosen": "b", "rejected": "c"}, "multi_turn"),
        (
            {"chosen": "Human: x\n\nAssistant: a\n\nHuman: y\n\nAssistant: b", "rejected": "c", "prompt": "x"},
            "multi_turn",
        ),
        (rated("x<extra_id_1>Assistant\na", "b", 4, 4, 4, 4, 4), "multi_turn"),
        ({"instruction": "x", "completions": [completion("a", 3), completion("b", 3)]}, "tied"),
        ({"instruction": "x", "completions": [completion("a", 3), completion("a", 4)]}, "same"),
        ({"instruction": "x", "completions": [completion("a", 3)]}, "incomplete"),
        (
            {
                "instruction": "x",
                "completions": [
                    completion("a", 10, **{"fine-grained_score": 1.5}),
                    completion("b", 7, **{"fine-grained_score": 4.0}),
                ],
            },
            "contradictory",
        ),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "split": "test"}, "other_split"),
    ],
)
def test_what_is_not_a_preference_is_dropped_and_counted(write, row, why):
    found, counts = pairs.load(write({"prompt": "kept", "chosen": "a", "rejected": "b"}, row))
    assert sides(found) == [("kept", "a", "b")]
    assert {name for name, count in counts.items() if count} == {"read", "kept", why} and counts[why] == 1


def test_repeats_merge_and_a_pair_labelled_both_ways_is_no_pair(write):
    rows = [("x", "a", "b"), ("x", "a", "b"), ("y", "c", "d"), ("y", "d", "c"), ("y", "c", "d"), ("z", "a", "b")]
    found, counts = pairs.load(write(*({"prompt": p, "chosen": a, "rejected": b} for p, a, b in rows)))
    assert sides(found) == [("x", "a", "b"), ("z", "a", "b")]
    assert counts["duplicates"] == 2 and counts["contradictory"] == 2
    assert counts["read"] == sum(count for name, count in counts.items() if name != "read")


# Sets


def test_several_sets_are_one_and_what_they_say_of_the_same_pair_is_counted_as_within_one(write):
    """Both hold x; of y they say opposite things, which is two rows that contradict each other."""
    labelled = lambda *rows: [{"prompt": p, "chosen": a, "rejected": b} for p, a, b in rows]  # noqa: E731
    one = write(*labelled(("x", "a", "b"), ("y", "c", "d"), ("z", "a", "b"), ("z", "a", "b")), name="o+ne.jsonl")
    two = write(*labelled(("y", "d", "c"), ("x", "a", "b"), ("w", "a", "b"), ("v", "a", "a")), name="two.jsonl")
    found, counts = pairs.load(f"{one}+{two}")
    assert sides(found) == [("x", "a", "b"), ("z", "a", "b"), ("w", "a", "b")]
    assert {name: count for name, count in counts.items() if count} == {
        "read": 8, "same": 1, "duplicates": 2, "contradictory": 2, "kept": 3,
        f"{one} read": 4, f"{one} kept": 2, f"{two} read": 4, f"{two} kept": 1,
    }  # fmt: skip
    assert counts["read"] == sum(counts[name] for name in (*pairs.DROPPED, "kept"))
    assert len(pairs.load(f"{one}+{two}", 2)[0]) == 2
    assert set(sides(pairs.load(f"{two}+{one}")[0])) == set(sides(found))
    with pytest.raises(ValueError, match="sandbox has prompts but no preference pairs"):
        pairs.load(f"{one}+sandbox")


def test_two_hub_sets_in_one_name(fake_hub):
    asked = fake_hub(*({"prompt": p, "chosen": "up", "rejected": "down"} for p in (TRAINING_PROMPT, TEST_PROMPT)))
    found, counts = pairs.load("ultrafeedback+orca")
    assert asked == ["openbmb/UltraFeedback", "Intel/orca_dpo_pairs"]
    assert sides(found) == [(TRAINING_PROMPT, "up", "down")] and counts["other_split"] == 2
    assert (counts["duplicates"], counts["ultrafeedback kept"], counts["orca kept"]) == (1, 1, 0)


def test_drawing_is_seeded_whatever_the_order_of_the_rows(write):
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(50)]
    path = write(*rows)
    ten = pairs.load(path, 10, seed=1)[0]
    assert len(ten) == 10 and ten == pairs.load(path, 10, seed=1)[0] != pairs.load(path, 10, seed=2)[0]
    assert {pair.prompt for pair in ten} == {p.prompt for p in pairs.load(write(*rows[::-1], name="r.json"), 10, 1)[0]}
    assert {pair.prompt for pair in ten} < {pair.prompt for pair in pairs.load(path, 20, seed=1)[0]}
    assert len(pairs.load(path, 60)[0]) == 50


@pytest.mark.parametrize(
    ("ref", "hub_id"),
    [
        ("ultrafeedback", "openbmb/UltraFeedback"),
        ("helpsteer", "nvidia/HelpSteer"),
        ("orca", "Intel/orca_dpo_pairs"),
        ("owner/name", "owner/name"),
    ],
)
def test_hub_sets_by_name_keep_their_test_prompts_out(fake_hub, ref, hub_id):
    asked = fake_hub(*({"prompt": p, "chosen": "up", "rejected": "down"} for p in (TRAINING_PROMPT, TEST_PROMPT)))
    for num_pairs in (0, 5):
        found, counts = pairs.load(ref, num_pairs)
        assert sides(found) == [(TRAINING_PROMPT, "up", "down")] and counts["other_split"] == 1
    assert asked == [hub_id] * 2
    assert [row.prompt for row in sets.load("owner/name", "test")] == [TEST_PROMPT]  # the same cut as for prompts


def test_a_stream_is_read_no_further_than_needed(fake_hub, monkeypatch):
    monkeypatch.setattr(pairs.hub, "_SHUFFLE_BUFFER", 10)
    fake_hub(*({"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(500)))
    found, counts = pairs.load("owner/name", 20)
    assert len(found) == counts["kept"] == 20 and counts["read"] < 50


def test_a_stream_without_pairs_is_given_up_early(fake_hub, monkeypatch):
    monkeypatch.setattr(pairs, "_LOOK", 10)
    fake_hub(*({"question": f"q{i}", "response": "a"} for i in range(100)))
    with pytest.raises(ValueError, match="no columns hold a preference pair; wanted .*; got question, response"):
        pairs.load("owner/name", 20)


def test_evaluation_sets_and_json_files_are_read_alike(write, monkeypatch, tmp_path):
    path = write({"prompt": "x", "good_res": "up", "bad_res": "down"}, name="bpo_test.json")
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    assert sides(pairs.load("bpo_test")[0]) == sides(pairs.load(path)[0]) == [("x", "up", "down")]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([], r"has no usable preference pair \(no row\): check its columns"),
        (
            [{"prompt": "x", "response": "y"}],
            "no columns hold a preference pair; wanted .*chosen and rejected; .*got prompt",
        ),
        ([{"prompt": "x", "chosen": "a"}], "no columns hold a preference pair; .*got chosen, prompt: rename"),
        ([{"prompt": "x", "chosen": "a", "rejected": "a"}] * 3, r"no usable preference pair \(3 read, 3 same\)"),
        (
            [{"prompt": "x", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 1}],
            r"no usable preference pair \(1 read, 1 tied\)",
        ),
    ],
)
def test_a_set_without_pairs_is_one_line(write, rows, line):
    with pytest.raises(ValueError, match=line) as caught:
        pairs.load(write(*rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ref", ["sandbox", "sandbox_lists", "ultrafedback", "nothing_here.jsonl", "notes.txt"])
def test_a_name_that_is_no_set_is_one_line(ref):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        pairs.load(ref)
    assert "\n" not in str(caught.value) and ref in str(caught.value)


# --- pairs of rewrites, for POIR


def rewrites(prompt="p", good="better p", bad="p"):
    return Pair(records.prompt_id(prompt), prompt, good, "yes", bad, "no", 5, 2, 1, 0)


def collected(outputs, cell, responder, seed=0, step="collect", made=()):
    """A finished 01_collect, as its manifest tells."""
    folder = outputs / "e" / cell / step
    records.write_rows(folder / "pairs.jsonl", made or [rewrites()])
    parameters = {"responder": responder, "seed": seed}
    manifest = {"notebook": "01_collect", "cell": cell, "parameters": parameters}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / "pairs.jsonl"


@pytest.fixture
def run(outputs):
    names = {"experiment": "e", "cell": "a", "seed": 0}
    return steps.open_step("03_train_poir", names, "poir")


def test_pairs_are_those_of_the_cell_or_of_the_model_named(run, outputs):
    own, other = [rewrites("own")], [rewrites("other")]
    mine, theirs = collected(outputs, "a", "m", made=own), collected(outputs, "b", "n", made=other)
    assert pairs.of_step(run) == (own, {"read": 1, "incomplete": 0, "same": 0, "kept": 1})
    assert pairs.of_step(run, "n")[0] == other and pairs.of_step(run, "m")[0] == own
    assert set(run._inputs) == {paths.relative(mine), paths.relative(theirs)}


def test_of_several_cells_with_one_model_the_own_comes_first_then_that_of_the_seed(run, outputs):
    collected(outputs, "b", "n", seed=1, made=[rewrites("b")])
    collected(outputs, "c", "n", seed=0, made=[rewrites("c")])
    assert pairs.of_step(run, "n")[0] == [rewrites("c")]
    collected(outputs, "a", "n", seed=0, made=[rewrites("a")])
    assert pairs.of_step(run, "n")[0] == [rewrites("a")]


def test_pairs_that_are_not_made_or_not_one_step_s_are_one_line(run, outputs):
    with pytest.raises(FileNotFoundError, match="collect/pairs.jsonl not found: run 01_collect first"):
        pairs.of_step(run)
    with pytest.raises(
        FileNotFoundError, match="no cell of e has collected with n: run 01_collect in such a cell first"
    ):
        pairs.of_step(run, "n")
    collected(outputs, "b", "n")
    collected(outputs, "c", "n")
    with pytest.raises(ValueError, match=r"several steps collected with it \(b/collect, c/collect\)"):
        pairs.of_step(run, "n")


def test_bpo_rows_set_the_optimised_prompt_against_the_prompt(run, write):
    row = {"prompt": " p ", "optimized_prompt": "better p", "good_res": "yes", "bad_res": "no", "extra": 1}
    ref = write(row, row | {"optimized_prompt": "p"}, row | {"bad_res": " "}, row | {"good_res": None}, name="bpo.json")
    found, counts = pairs.of_step(run, ref)
    assert found == [Pair(records.prompt_id("p"), "p", "better p", "yes", "p", "no")]
    assert counts == {"read": 4, "incomplete": 2, "same": 1, "kept": 1} and len(run._inputs) == 1


@pytest.mark.parametrize(
    "row, line",
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "x.jsonl holds no rewrites: wanted 01_collect's pairs.jsonl"),
        ({"prompt": "p", "optimized_prompt": "p", "good_res": "a", "bad_res": "b"}, "no usable pair of rewrites"),
        ({"good_rewrite": "a", "bad_rewrite": "b"}, "x.jsonl: not a pair of 01_collect"),
    ],
)
def test_a_file_without_rewrites_is_one_line(run, write, row, line):
    with pytest.raises(ValueError, match=line) as caught:
        pairs.of_step(run, write(row, name="x.jsonl"))
    assert "\n" not in str(caught.value)


def test_real_bpo_pairs_are_192_usable_ones(run):
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "bpo_test.json"
    if not path.exists():
        pytest.skip(f"{path.name}: the public prompt sets are not beside this clone")
    assert pairs.of_step(run, str(path))[1] == {"read": 200, "incomplete": 0, "same": 8, "kept": 192}

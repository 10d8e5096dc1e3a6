"""Checkpoints that can be trusted, numbers that are finite, exports that anyone can load."""

from types import SimpleNamespace

import pytest
import transformers

from nbutils.experiment import records
from nbutils.models.devices import Runtime
from nbutils.train import training


def checkpoint(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if complete:
        (path / "complete").write_text("complete\n")
    return path


def test_torn_checkpoint_is_removed_and_the_one_before_it_taken(tmp_path):
    good = checkpoint(tmp_path, 20)
    checkpoint(tmp_path, 5)
    torn = checkpoint(tmp_path, 100, complete=False)
    assert training.last_checkpoint(tmp_path) == good and not torn.exists()
    assert training.last_checkpoint(tmp_path / "nothing") is None


def test_a_seed_of_any_size_is_one_that_numpy_takes_and_small_ones_stay(tmp_path):
    """A date with its time has 45 bits; transformers seeds numpy, which takes 32."""
    made = {seed: training.arguments(tmp_path, Runtime(), seed, 5) for seed in (0, 7, 2**32 - 1, 2**32, 20251127153000)}
    for arguments in made.values():
        transformers.set_seed(arguments["seed"])
        assert arguments["data_seed"] == arguments["seed"]
    assert [made[seed]["seed"] for seed in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    assert len({arguments["seed"] for arguments in made.values()}) == 5


def test_latest_is_by_number_not_by_name(tmp_path):
    checkpoint(tmp_path, 9)
    assert training.last_checkpoint(tmp_path) != checkpoint(tmp_path, 10)
    assert training.last_checkpoint(tmp_path).name == "checkpoint-10"


def test_checkpoints_of_other_settings_lie_elsewhere(tmp_path):
    one = training.checkpoint_folder(tmp_path, {"kl_weight": 0.1}, "model")
    assert one != training.checkpoint_folder(tmp_path, {"kl_weight": 0.2}, "model")
    assert one == training.checkpoint_folder(tmp_path, {"kl_weight": 0.1}, "model")


@pytest.mark.parametrize("name", ["reward", "kl", "loss"])
def test_number_that_is_not_finite_stops_and_names_the_last_good_checkpoint(tmp_path, name):
    good = checkpoint(tmp_path, 20)
    watch = training._Watch("test")
    args, state = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=23, max_steps=60)
    watch.on_train_begin(args, state, None)
    watch.on_log(args, state, None, logs={"reward": 1.0, "kl": 0.1, "loss": 0.0})
    with pytest.raises(FloatingPointError, match=f"{name} is nan at step 23.*{good.name}"):
        watch.on_log(args, state, None, logs={"reward": 1.0, "kl": 0.1, "loss": 0.0, name: float("nan")})


def test_the_bar_shows_kl_per_sequence_as_the_history_does(tmp_path):
    """0.02 nats a token over 15 tokens are 0.3 nats a rewrite; preference training logs no KL."""
    row = {"reward": 1.0, "kl": 0.02, "loss": 0.0, "completions/mean_length": 15.0}
    assert training.per_sequence(row)["kl"] == pytest.approx(0.3) and row["kl"] == 0.02
    assert training.per_sequence({"loss": 0.5}) == {"loss": 0.5}
    watch, shown = training._Watch("test"), []
    watch.bar = SimpleNamespace(set_postfix=lambda values, refresh: shown.append(values))
    watch.on_log(SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=1), None, logs=row)
    assert shown == [{"reward": "1.000", "kl": "0.300", "loss": "0.000"}]


def test_history_keeps_missing_values_missing(tmp_path):
    rows = [
        {"step": 1, "reward": 0.5, "loss": 0.0},
        {"step": 2, "reward": float("nan")},
        {"step": 2, "train_runtime": 3},
    ]
    training.write_history(tmp_path / "h.jsonl", rows, {"reward": "reward"})
    assert records.read_rows(tmp_path / "h.jsonl") == [{"step": 1, "reward": 0.5}, {"step": 2, "reward": None}]

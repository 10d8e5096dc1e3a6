"""What every TRL training here shares: arguments, checkpoints that can be trusted, history, progress, export.

Checkpoints live in <step>/checkpoints/<key>, the key being a hash of all that the training depends on, so that a run
never goes on from another run's state. A checkpoint counts once its marker, written last, is there.
"""

import math
import re
import shutil
import warnings
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback

from nbutils.experiment import paths, records
from nbutils.experiment.progress import Bar
from nbutils.models import loading
from nbutils.models.devices import Runtime, pick_device, pick_dtype, settle_threads

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # TRL's defaults, not ours
_MARKER = "complete"
_KEEP = 2


def arguments(folder: Path, runtime: Runtime, seed: int, save_steps: int) -> dict:
    """Keyword arguments for any TRL config: quiet, local, saving every save_steps, seeded, on the runtime's device."""
    import torch

    device = pick_device(runtime.device)
    dtype = pick_dtype(runtime.dtype, device)
    return {
        "output_dir": str(folder),
        "seed": _small(seed),
        "data_seed": _small(seed),
        "save_steps": save_steps,
        "save_total_limit": _KEEP,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "gradient_checkpointing": device.startswith("cuda"),
        "dataloader_pin_memory": device.startswith("cuda"),
    }


def _small(seed: int) -> int:
    """A seed of at most 32 bits, which is what numpy takes: a larger one (a date with its time) by its hash."""
    return seed if seed < 2**32 else int(paths.sha256_json(seed)[:8], 16)


def lora(rank: int, task_type: str = "CAUSAL_LM"):
    """LoRA on all linear layers, alpha twice the rank; None (train everything) for rank 0.

    task_type SEQ_CLS also trains and saves the classifier's head.
    """
    if rank == 0:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type=task_type)


def load_kwargs(ref: str, runtime: Runtime, lora_rank: int) -> dict:
    """from_pretrained's keyword arguments for a model to train.

    Without LoRA all weights are float32 and the passes run under autocast: bfloat16's 8 bits lose an update smaller
    than a 256th of its weight, which at the papers' learning rates is nearly every one. With LoRA the base keeps the
    runtime's type.
    """
    import torch

    known = loading.load_kwargs(ref, runtime)
    return known if lora_rank else known | {"dtype": torch.float32}


def checkpoint_folder(step_folder: Path, *depends_on) -> Path:
    """<step>/checkpoints/<hash of what the training depends on>."""
    return Path(step_folder) / "checkpoints" / paths.sha256_json(depends_on)[:12]


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint whose marker is there; torn ones, left by a kill while saving, are removed."""
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        if not re.fullmatch(r"checkpoint-\d+", path.name):
            continue
        if (path / _MARKER).exists():
            found.append(path)
        else:
            shutil.rmtree(path)
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def run(trainer, folder: Path, label: str, runtime: Runtime) -> list[dict]:
    """Train, from the last good checkpoint if there is one; returns the logged rows, one per step.

    Raises FloatingPointError at the first step whose loss, reward or KL is not finite, naming the last good checkpoint.
    """
    settle_threads(trainer.model, runtime)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Watch(label))
    checkpoint = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer.state.log_history


def stopped(what: str, folder: Path | None) -> str:
    """The line that a training ends with when a number is not finite: what, and where to go on from."""
    last = last_checkpoint(folder) if folder else None
    where = f"last good checkpoint: {paths.relative(last)}" if last else "no checkpoint yet"
    return f"{what}: training stopped; {where}"


def export(trainer, tokenizer, folder: Path) -> Path:
    """The trained model or adapter with its tokenizer, as plain files that transformers and peft load."""
    scratch = folder.with_name(f".{folder.name}.saving")
    shutil.rmtree(scratch, ignore_errors=True)
    trainer.save_model(str(scratch))
    (scratch / "training_args.bin").unlink(missing_ok=True)
    tokenizer.save_pretrained(str(scratch))
    for path in scratch.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    return folder


def write_history(path: Path, rows: list[dict], names: dict[str, str]) -> Path:
    """history.jsonl: one row per logged step; names: TRL's name → ours. Values that are not finite stay missing."""
    logged = [row for row in rows if any(name in row for name in names)]
    made = [
        {"step": row["step"]} | {ours: _finite(row[theirs]) for theirs, ours in names.items() if theirs in row}
        for row in logged
    ]
    return records.write_rows(path, made)


def per_sequence(row: dict) -> dict:
    """A row as TRL logs it in reinforcement learning, its KL in nats per completion: TRL's is per token."""
    if row.get("kl") is None or row.get("completions/mean_length") is None:
        return row
    return row | {"kl": row["kl"] * row["completions/mean_length"]}


def _finite(value) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


class _Watch(TrainerCallback):
    """Progress bar, marker of a finished checkpoint, and the stop at the first number that is not finite."""

    def __init__(self, label: str):
        self.label = label

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = Bar(state.max_steps, self.label, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = per_sequence(logs or {})
        shown = {name: logs[name] for name in ("reward", "kl", "loss") if logs.get(name) is not None}
        for name, value in shown.items():
            if not math.isfinite(value):
                what = f"{name} is {value} at step {state.global_step}"
                raise FloatingPointError(stopped(what, Path(args.output_dir)))
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_save(self, args, state, control, **kwargs):
        marker = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _MARKER
        paths.write_atomic(marker, "complete\n")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

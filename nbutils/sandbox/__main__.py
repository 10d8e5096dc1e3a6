"""`python -m nbutils.sandbox build [--out DIR]` makes the weights again; `check` measures the shipped ones.

The build takes one core for eight minutes or so. Two threads would be faster on idle cores, and stall on busy ones.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def build(out):
    """Train base and reward model in `out`, in a folder beside each that replaces it at the end."""
    import torch
    from transformers.utils import logging

    from nbutils.sandbox import preferences, recipe

    logging.disable_progress_bar()  # of loading weights
    torch.set_num_threads(1)
    started = time.monotonic()
    for name in ("base", "reward"):
        part = out / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        recipe.train_base(part) if name == "base" else preferences.train_reward(part, out / "base")
        shutil.rmtree(out / name, ignore_errors=True)
        part.rename(out / name)
    print(f"{out} written in {time.monotonic() - started:.0f} s")


def check(out):
    """Print every figure beside what it must be. Returns whether all hold."""
    from nbutils.sandbox import measure, recipe

    figures = measure.measure(out / "base", out / "reward")
    for name, value in figures.items():
        low, high = recipe.FIGURES[name]
        print(f"{name:24} {value:7.3f}   {low} to {high}   {'ok' if low <= value <= high else 'MISSED'}")
    return all(low <= figures[name] <= high for name, (low, high) in recipe.FIGURES.items())


def main():
    parser = argparse.ArgumentParser(prog="python -m nbutils.sandbox", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("build", "check"))
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "weights", help="folder of base/ and reward/"
    )
    arguments = parser.parse_args()
    if arguments.command == "build":
        build(arguments.out)
    return 0 if check(arguments.out) else 1


if __name__ == "__main__":
    raise SystemExit(main())

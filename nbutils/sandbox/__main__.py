"""`python -m nbutils.sandbox build [--only NAME ...] [--out DIR]` makes the weights; `check` measures those there.

The build takes one core for half an hour or so, most of it for the two base models. Two threads would be faster on
idle cores, and stall on busy ones.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

NAMES = ("base", "llama", "reward")


def build(out, names):
    """Train these models in `out`, each in a folder beside its own that replaces it at the end."""
    import torch
    from transformers.utils import logging

    from nbutils.sandbox import preferences, recipe

    logging.disable_progress_bar()  # of loading weights
    torch.set_num_threads(1)
    started = time.monotonic()
    for name in names:
        part = out / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        if name == "reward":
            preferences.train_reward(part, out / "base")
        else:
            recipe.train_base(part, recipe.FAMILIES[name])
        shutil.rmtree(out / name, ignore_errors=True)
        part.rename(out / name)
    print(f"{', '.join(names)} in {out} written in {time.monotonic() - started:.0f} s")


def check(out):
    """Print every figure of every family beside what it must be. Returns whether all hold."""
    from nbutils.sandbox import measure, recipe

    num_missed = 0
    for family in recipe.FAMILIES.values():
        print(f"{family.name}:")
        for name, value in measure.measure(out / family.name, out / "reward").items():
            low, high = family.figures[name]
            num_missed += not low <= value <= high
            print(f"  {name:24} {value:7.3f}   {low} to {high}   {'ok' if low <= value <= high else 'MISSED'}")
    return num_missed == 0


def main():
    parser = argparse.ArgumentParser(prog="python -m nbutils.sandbox", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("build", "check"))
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="models to build; all without it")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "weights", help=f"folder of {', '.join(NAMES)}"
    )
    arguments = parser.parse_args()
    if arguments.command == "build":
        build(arguments.out, arguments.only)
    return 0 if check(arguments.out) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""Verdicts and models of a grid like Align-Pro's."""

import pandas as pd

from nbutils.analyse import alignpro_paper

PHI, LLAMA = "microsoft/Phi-3.5-mini-instruct", "meta-llama/Llama-3.1-8B-Instruct"
MODELS = {"one": {"prompter": PHI, "responder": LLAMA}}
OUTCOMES = [("win", "win"), ("win", "win"), ("lose", "lose"), ("win", "lose"), ("tie", "tie"), ("win", "unscored")]


def judged(prompt, first, second, cell="one", prompt_set="orca", arms=("alignpro", "nan"), sample=0):
    keys = {"cell": cell, "prompt_id": f"p{prompt}", "prompt_set": prompt_set, "sample": sample}
    keys |= {"arm_a": arms[0], "arm_b": arms[1]}
    return [
        {**keys, "first_shown": arm, "verdict": says, "reason": "garbled" if says == "unscored" else None, "raw": ""}
        for arm, says in zip(arms, (first, second), strict=True)
    ]


def verdicts(outcomes=OUTCOMES, **where):
    return pd.DataFrame([row for i, says in enumerate(outcomes) for row in judged(i, *says, **where)])


def grid(prompters=(PHI, "Qwen/Qwen2.5-1.5B-Instruct"), responders=(LLAMA, "Qwen/Qwen2.5-7B-Instruct")):
    """The paper's twelve cells, a data set each, and their models."""
    models = {
        f"{name}-{i}{j}": {"prompter": prompter, "responder": responder}
        for name in alignpro_paper.DATA_SETS
        for i, prompter in enumerate(prompters)
        for j, responder in enumerate(responders)
    }
    return pd.concat([verdicts(cell=cell, prompt_set=cell[:-3]) for cell in models], ignore_index=True), models

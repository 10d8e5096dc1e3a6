"""Rows of answers and verdicts as 04 writes them, made by hand."""


def answer(prompt, arm, reward, sample=0, prompt_set="s", **changes):
    row = {"prompt_id": f"p{prompt}", "prompt_set": prompt_set, "prompt": "x", "arm": arm, "sample": sample}
    row |= {"rewrite": "x", "rewrites": [], "response": "y", "reward": reward, "gold_reward": None, "num_tokens": 5}
    return row | {"reason": "no response" if reward is None else None} | changes


def judged(prompt, first, second, arm_a="alignpro", arm_b="nan", sample=0, prompt_set="s"):
    keys = {"prompt_id": f"p{prompt}", "prompt_set": prompt_set, "arm_a": arm_a, "arm_b": arm_b, "sample": sample}
    return [
        {**keys, "first_shown": arm, "verdict": says, "reason": "garbled" if says == "unscored" else None, "raw": ""}
        for arm, says in ((arm_a, first), (arm_b, second))
    ]


def rewritten(number, prompt, rewrite, arm="bpo", sample=0, **changes):
    """A row of an arm with one prompter; without a rewrite the prompt was sent."""
    texts = {"prompt": prompt, "rewrite": rewrite or prompt, "rewrites": [rewrite], "response": "Fine."}
    return answer(number, arm, 1.0, sample) | texts | changes


def study(arm="bpo"):
    """Six prompts with a number, lost in three of them (once in one of two samples), and a seventh without a number."""
    kept, gone = "Say 1 now", "Say it now"
    made = [(0, 0, gone), (1, 0, gone), (2, 0, gone), (2, 1, kept), (3, 0, kept), (4, 0, kept), (5, 0, kept)]
    rows = [rewritten(number, "Say 1", rewrite, arm, sample) for number, sample, rewrite in made]
    return [*rows, rewritten(6, "Say it", "Say it now", arm)]


def heard(arm="bpo"):
    says = {(0, 0): "lose", (1, 0): "tie", (2, 0): "lose", (2, 1): "win", (3, 0): "win", (4, 0): "win"}
    rows = [row for (p, s), said in says.items() for row in judged(p, said, said, arm_a=arm, sample=s)]
    return rows + judged(5, "unscored", "win", arm_a=arm)

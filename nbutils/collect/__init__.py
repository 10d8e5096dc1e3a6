"""What 01 does: new prompts from seeds, answers, self-critique, rewrites, pairs of good and bad (POIR).

Never trains.
"""

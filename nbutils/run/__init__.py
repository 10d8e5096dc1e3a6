"""The command line: plan an experiment, check it before any work, run it step by step, resume it.

Never imported by a notebook. Loads no model itself: a step's work happens in its notebook's kernel.
"""

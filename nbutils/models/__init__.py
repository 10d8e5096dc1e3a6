"""One string names a model; from it come texts, scores and probabilities, on this machine, over an API or in Python.

Never trains, and knows no arms.
"""

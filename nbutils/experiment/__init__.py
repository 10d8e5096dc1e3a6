"""Experiment files, parameters, steps and their folders, rows, the journal, secrets: what every other room stands on.

Never imports torch, and knows nothing of models.
"""

"""Rows to numbers: statistics, theory, tables, and the two papers' own views. What 05 computes.

Never draws, loads a model, imports torch or reaches the network.
"""

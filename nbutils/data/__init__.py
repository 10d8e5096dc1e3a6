"""Prompts and preference pairs, by name, hub id or file, as rows with one key whatever their columns are called.

Never loads a model or imports torch.
"""

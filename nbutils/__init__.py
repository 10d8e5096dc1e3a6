"""What the five notebooks share: see README.md for the rooms. Importing this package loads nothing heavy."""

__version__ = "0.1.0"

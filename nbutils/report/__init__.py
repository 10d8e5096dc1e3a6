"""What 05 leaves to look at: figures, tables, pages, the report.

Never computes a statistic, imports torch or reaches the network; its pages hold no active content.
"""

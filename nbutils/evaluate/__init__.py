"""What 04 does: arms, their rewrites and responses, pairwise verdicts, the judge's own trial, benchmarks.

Never trains. Everything that the papers compare is an arm, and no other room knows what an arm is made of.
"""

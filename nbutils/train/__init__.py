"""What 02 and 03 train: the prompter or the responder by reinforcement learning, DPO or SFT, and reward models.

The only room that trains. Never imported by what evaluates; Align-Pro and POIR know nothing of each other.
"""

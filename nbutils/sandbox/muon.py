"""The optimizer of the sandbox's matrices: Muon, as torch.optim.Muon but in float32.

torch computes each update in bfloat16, which takes thirty times as long on a CPU without instructions for it.
"""

import math

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic that drives all singular values towards 1
NUM_ITERATIONS = 5


def orthogonal(matrix):
    """The matrix with its singular values brought near 1 (0.7 to 1.2), by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    result = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = result @ result.T
        result = a * result + (b * gram + c * gram @ gram) @ result
    return result


class Muon(torch.optim.Optimizer):
    """Momentum whose updates are made orthogonal, at the root mean square that AdamW's updates have."""

    def __init__(self, matrices, lr, weight_decay):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for matrix in group["params"]:
                average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonal(matrix.grad.lerp(average, MOMENTUM))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.sub_(update, alpha=group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))

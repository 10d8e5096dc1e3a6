"""Where and how models run: device, number type, threads, memory; batch size and the limits to what paid calls cost."""

from dataclasses import dataclass, field

from nbutils.models.spending import Limits

_SMALL = 20_000_000  # parameters


@dataclass(frozen=True)
class Runtime:
    """How models run here. batch_size: requests per forward pass, or in flight for an API; limits: to what paid calls
    may cost."""

    batch_size: int = 64
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: str = ""
    limits: Limits = field(default=Limits(), compare=False)


def pick_device(device: str = "auto") -> str:
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str, device: str):
    """torch dtype; auto is bfloat16 on CUDA, float32 elsewhere."""
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or this machine, had no room left for a tensor: each device says so in its own words."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def settle_threads(model, runtime: Runtime) -> None:
    """One CPU thread for a small model: two gain little, and beside other work they wait for each other.

    Sandbox, two cores, one of them busy: batch of 256, 5.5 s with two threads and 0.9 s with one.
    """
    import torch

    if pick_device(runtime.device) == "cpu" and sum(weight.numel() for weight in model.parameters()) < _SMALL:
        torch.set_num_threads(1)

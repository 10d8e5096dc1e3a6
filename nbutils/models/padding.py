"""Padding in front of a text: whether a model reads on as if it were not there.

Most count positions by the mask or by distance. GPT-2 and its kin count from the first column unless they are given
positions, which transformers' generate does and TRL's rollouts do not; RWKV takes padding for text in any case.
"""

_TOKENS, _PADDING = 6, 8


def is_padding_harmless(net, by_generate: bool = False) -> bool:
    """Whether the next token's logits stay what they are with padding in front, by one small try of the model itself.

    by_generate: through net.generate, else by a plain pass with a mask and without positions. Rounding moves logits by
    5% of their norm at most (29 architectures, 24 layers, bfloat16), padding that is not left out by 20% and more.
    """
    import torch

    ids = torch.arange(5, 5 + _TOKENS, device=net.device)[None] % net.get_input_embeddings().weight.shape[0]  # (1, T)
    padding = torch.zeros((1, _PADDING), dtype=ids.dtype, device=net.device)
    alone = _next_logits(net, ids, torch.ones_like(ids), by_generate)
    mask = torch.cat([padding, torch.ones_like(ids)], dim=1)  # (1, P + T)
    padded = _next_logits(net, torch.cat([padding, ids], dim=1), mask, by_generate)
    moved = (padded - alone).norm() / (alone - alone.mean()).norm().clamp_min(torch.finfo(alone.dtype).tiny)
    return moved.item() < torch.finfo(net.dtype).eps ** 0.5  # 0.0003 in float32, 0.09 in bfloat16


def _next_logits(net, ids, mask, by_generate: bool):
    """(V,) of the token after ids."""
    import torch

    was_training = net.training
    net.eval()
    with torch.no_grad():  # tensors of inference_mode, kept in a buffer, would be of no use to a training
        if by_generate:
            told = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
            logits = net.generate(input_ids=ids, attention_mask=mask, **told).logits[0][0]
        else:
            logits = net(input_ids=ids, attention_mask=mask).logits[0, -1]
    net.train(was_training)
    return logits.float()

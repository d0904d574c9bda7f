"""What the walk through the blocks must equal: one forward pass with a graph over the whole model,
every matrix kept.

It shares no line with the code under test: the textbook's softmax stands in for the kernel, and
autograd goes through all blocks at once. B images, L blocks, H heads, T tokens, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Stack = tuple[Tensor, Tensor, Tensor]


@contextmanager
def textbook_attention() -> Iterator[list[Tensor]]:
    """P v in place of the kernel, each P in the graph."""
    seen: list[Tensor] = []

    def attention(query, key, value, attn_mask=None, **_options):
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        matrix = (scores if attn_mask is None else scores + attn_mask).softmax(dim=-1)
        if not matrix.requires_grad:
            matrix.requires_grad_()
        seen.append(matrix)
        return seen[-1] @ value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        yield seen


def whole_stacks(
    model: nn.Module, images: Tensor, directions: Tensor
) -> tuple[Stack, Tensor | None]:
    """Attention (B, L, H, T, T), its gradients and LeGrad's (C, B, L, H, T, T); attention pooling
    (B, H, queries, T).

    Args:
        directions: weights of the logits, (C, B, K).
    """
    outputs: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _m, _a, out: outputs.append(out))
        for block in model.blocks
    ]
    with torch.enable_grad(), textbook_attention() as seen:
        logits = model(images)
        attn = seen[: len(model.blocks)]
        pooling = seen[len(model.blocks) :]
        grads = []
        early = []
        for weights in directions:
            grads.append(
                torch.stack(
                    torch.autograd.grad((logits * weights).sum(), attn, retain_graph=True), dim=1
                )
            )
            scores = [(model.forward_head(model.norm(out)) * weights).sum() for out in outputs]
            pairs = zip(scores, attn, strict=True)
            early.append(
                torch.stack(
                    [torch.autograd.grad(s, a, retain_graph=True)[0] for s, a in pairs], dim=1
                )
            )
    for hook in hooks:
        hook.remove()
    return (torch.stack(attn, dim=1).detach(), torch.stack(grads), torch.stack(early)), (
        pooling or [None]
    )[-1]


def whole_maps(
    stack: Stack, readout: Tensor, fusion: str, ratio: float, prefix: int
) -> dict[str, Tensor]:
    """Every map, (B, T), of attention, gradients and LeGrad's, (B, L, H, T, T) each, by products of
    whole matrices."""
    attn, grads, early = stack
    eye = torch.eye(attn.shape[-1]).to(attn)
    fused = attn.mean(dim=2) if fusion == "mean" else attn.amax(dim=2)
    positive = (attn * grads).mean(dim=2).clamp_min(0)

    def rolled(matrices: Tensor) -> Tensor:
        result = eye.expand(len(attn), -1, -1)
        for matrix in matrices.unbind(dim=1):
            matrix = matrix.clone()
            for image in matrix:
                entries = image[:, prefix:].flatten()
                entries[entries.argsort()[: int(ratio * len(entries))]] = 0
                image[:, prefix:] = entries.view(len(eye), -1)
            mixed = 0.5 * matrix + 0.5 * eye
            result = mixed / mixed.sum(dim=-1, keepdim=True) @ result
        return result

    relevance = eye.expand(len(attn), -1, -1)
    for matrix in (attn * grads).clamp_min(0).mean(dim=2).unbind(dim=1):
        relevance = relevance + matrix @ relevance
    square = {
        "last block": fused[:, -1],
        "rollout": rolled(fused),
        "gradient rollout": rolled(positive),
    }
    read = {
        name: torch.einsum("bt,bts->bs", readout, m)
        for name, m in (square | {"relevance": relevance}).items()
    }
    return read | {"LeGrad": early.clamp_min(0).mean(dim=(1, 2, 3))}

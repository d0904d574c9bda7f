"""The last block, if only its CLS token is read: the same numbers for a fraction of the work."""

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor


def cls_attention(attn: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of the first token over all tokens, without forming keys or values.

    With one query only, q·k_t = q·(W_k y_t + b_k) = (W_kᵀ q)·y_t + q·b_k. The last term is the same
    for all t, so it cancels in the softmax. And Σ p_t (W_v y_t + b_v) = W_v (Σ p_t y_t) + b_v. The
    cost falls from O(T D²) to O(T H D).

    Args:
        tokens: (B, T, D), normalised.

    Returns:
        The attention output for the first token (B, D), and its probabilities (B, H, T).
    """
    heads = attn.num_heads
    head_dim = attn.head_dim
    width = tokens.shape[-1]
    weight_q, weight_k, weight_v = attn.qkv.weight.view(3, heads, head_dim, width)
    query = torch.einsum("bc,hdc->bhd", tokens[:, 0], weight_q)
    if attn.qkv.bias is not None:
        query = query + attn.qkv.bias.view(3, heads, head_dim)[0]
    folded = torch.einsum("bhd,hdc->bhc", query * attn.scale, weight_k)
    probabilities = torch.matmul(folded, tokens.transpose(1, 2)).softmax(dim=-1)
    value = torch.einsum("bhc,hdc->bhd", torch.matmul(probabilities, tokens), weight_v)
    if attn.qkv.bias is not None:
        value = value + attn.qkv.bias.view(3, heads, head_dim)[2]
    return attn.proj(attn.norm(value.flatten(1))), probabilities


def cls_of_block(block: Block, tokens: Tensor) -> Tensor:
    """The first token (B, D) of `block(tokens)`, for tokens (B, T, D)."""
    attended, _ = cls_attention(block.attn, block.norm1(tokens))
    cls = tokens[:, 0] + block.ls1(attended)
    return cls + block.ls2(block.mlp(block.norm2(cls)))

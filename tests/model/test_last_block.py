"""The last block that computes its CLS token alone is that block."""

import torch

from vit_finetune.model.last_block import cls_attention, cls_of_block


def test_cls_token_alone_has_the_blocks_own_output_gradients_and_attention(tiny_vit):
    block = tiny_vit.blocks[-1]
    tokens = torch.randn(4, 17, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    inputs = [tokens, *block.parameters()]
    alone = cls_of_block(block, tokens)
    full = block(tokens)[:, 0]
    torch.testing.assert_close(alone, full, rtol=0, atol=1e-5)
    own = torch.autograd.grad((alone * weights).sum(), inputs)
    expected = torch.autograd.grad((full * weights).sum(), inputs)
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    block.attn.fused_attn = False
    seen = []
    block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    block(tokens)
    _, probabilities = cls_attention(block.attn, block.norm1(tokens))
    torch.testing.assert_close(probabilities, seen[0][:, :, 0], rtol=0, atol=1e-6)

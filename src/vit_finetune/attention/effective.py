"""The parts of a logit while the operators of the model are held fixed.

With its operators fixed at their values for an image, a ViT is linear in its tokens, plus what the
biases give (`operators`). So gradient times token decomposes the logit exactly. The ordinary
gradient also says how the operators would change, and has no such sum. DAVE (Wróbel et al. 2026,
arXiv:2602.06613) splits the gradient in this way; LibraGrad (Mehri et al. 2024, arXiv:2411.16760)
derives such rules from completeness.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd import grad

from vit_finetune.attention.operators import Operators
from vit_finetune.attention.walk import encoder_blocks, explicit_attention, token_gradients


@dataclass(frozen=True)
class Parts:
    """Where the logit of one image comes from.

    Attributes:
        patches: from the image, through the patch embedding.
        positions: from the position embedding of the patches.
        prefix: from the prefix tokens, such as CLS.
        biases: from those of the blocks and after them.
        score: what the model itself gives.
    """

    patches: float
    positions: float
    prefix: float
    biases: float
    score: float

    def sizes(self) -> dict[str, float]:
        """The size of each part, by what the reader calls it."""
        return {
            "the image": abs(self.patches),
            "positions of the patches": abs(self.positions),
            "prefix tokens": abs(self.prefix),
            "biases": abs(self.biases),
        }

    def error(self, patches: float) -> float:
        """How far the parts are from adding up to the score, relative to the sum of their sizes.

        Args:
            patches: what a map says that the patches add together.
        """
        total = patches + self.positions + self.prefix + self.biases
        return abs(total - self.score) / (sum(self.sizes().values()) or 1.0)


def decompose(model: nn.Module, image: Tensor, label: int) -> Parts:
    """The parts of the logit of one image (3, h, w) for a class.

    One pass with a graph over the whole model gives them. It shares the fixed operators with the
    maps, which go back block by block (`Walk`), and nothing else, so each checks the other.
    """
    operators = Operators()
    patches: Tensor | None = None
    tokens: Tensor | None = None

    def embedded(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        nonlocal patches
        patches = output.detach().requires_grad_()
        return patches

    def given(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal tokens
        tokens = args[0]

    part: Any = model
    biases = [one for name, one in model.named_parameters() if is_added(name)]
    with token_gradients(model), ExitStack() as stack:
        for bias in biases:
            bias.requires_grad_()
        stack.enter_context(operators.watched(model))
        for block in encoder_blocks(model).values():
            stack.enter_context(explicit_attention(block.get_submodule("attn")))
        stack.callback(part.patch_embed.register_forward_hook(embedded).remove)
        stack.callback(part.blocks[0].register_forward_pre_hook(given).remove)
        score = model(image[None])[0, label]
        assert patches is not None
        assert tokens is not None
        with operators.fixed():
            of_patches, of_tokens, *of_biases = grad(
                score, [patches, tokens, *biases], allow_unused=True, materialize_grads=True
            )
    added = (of_tokens * tokens.detach())[0].sum(dim=-1)
    prefix = len(added) - part.patch_embed.num_patches
    from_patches = float((of_patches * patches.detach()).sum())
    from_biases = [(one * bias).sum() for one, bias in zip(of_biases, biases, strict=True)]
    return Parts(
        patches=from_patches,
        positions=float(added[prefix:].sum()) - from_patches,
        prefix=float(added[:prefix].sum()),
        biases=sum(float(one.detach()) for one in from_biases),
        score=float(score.detach()),
    )


def is_added(name: str) -> bool:
    """Whether a parameter is added to the tokens in a block or after it."""
    inside = name.startswith(("blocks.", "norm.", "fc_norm.", "attn_pool.", "head"))
    return inside and (name.endswith("bias") or name == "attn_pool.pos_embed")

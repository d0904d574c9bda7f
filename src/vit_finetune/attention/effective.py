"""What each token adds to a logit: the model as a linear map of its tokens, with fixed operators.

For one image, a ViT is a chain of linear layers and of operators that depend on the image: the
attention, the statistics of normalisation, the gates of activations. With these operators held
fixed at their values for the image, the model is linear plus a constant, so its gradient times the
tokens is an exact decomposition of the logit. The gradient that also goes through the operators
says how they would change, and that part has no such sum. DAVE (Wróbel et al. 2026,
arXiv:2602.06613) decomposes the gradient in this way, LibraGrad (Mehri et al. 2024,
arXiv:2411.16760) derives the same rules from completeness.

B images, T tokens, D width, C directions; see `walk`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import DropPath, GluMlp, LayerScale, Mlp, RmsNorm, SwiGLU
from torch import Tensor, nn
from torch.autograd import grad

from vit_finetune.attention.walk import Walk, token_gradients
from vit_finetune.model.families import family_of

# that are linear, or a constant, as they are in timm
LINEAR = (nn.Linear, nn.Identity, nn.Dropout, DropPath, LayerScale)
NORMS = (nn.LayerNorm, nn.RMSNorm, RmsNorm)


class Operators:
    """The operators of parts of a model, each fixed by its first call: later calls, on any input of
    the same shape, use it again. Its methods are forward hooks."""

    def __init__(self) -> None:
        self.fixed: dict[nn.Module, Tensor] = {}

    def hold(self, module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        """What the module gives, as a constant."""
        return self.fixed.setdefault(module, output.detach())

    def hold_gate(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """An activation a(x) as x times a constant, a(x) / x."""
        x = args[0]
        gate = torch.where(x == 0, 0.0, output / x)
        return x * self.fixed.setdefault(module, gate.detach())

    def hold_deviation(self, module: Any, args: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        """A normalisation with its standard deviation, or root mean square, as a constant."""
        x = args[0]
        if isinstance(module, nn.LayerNorm):
            x = x - x.mean(dim=-1, keepdim=True)
        scale = (x.square().mean(dim=-1, keepdim=True) + module.eps).rsqrt()
        scaled = x * self.fixed.setdefault(module, scale.detach())
        if module.weight is not None:
            scaled = scaled * module.weight
        bias = getattr(module, "bias", None)
        return scaled if bias is None else scaled + bias

    def hooks(self, part: nn.Module) -> dict[nn.Module, Any]:
        """Which module of a part gets which hook."""
        found: dict[nn.Module, Any] = {}
        for name, module in part.named_modules():
            if isinstance(module, NORMS):
                found[module] = self.hold_deviation
            if isinstance(module, Mlp):
                found[module.act] = self.hold_gate
            if isinstance(module, GluMlp | SwiGLU):
                found[module.act] = self.hold
            if name.endswith(("attn_drop", "attn.gate", "k_norm")):
                found[module] = self.hold
        return found


@contextmanager
def fixed_operators(*parts: nn.Module) -> Iterator[None]:
    """Inside, these parts of a model are linear in their input, plus a constant.

    Fixed by the first call are

    - the matrix of attention, and the keys of attention pooling;
    - the standard deviation in LayerNorm, the root mean square in RMSNorm (the mean is linear);
    - of an activation a(x) the gate a(x) / x, as Phi(x) is that of GELU;
    - of a product of two branches (SwiGLU, gated attention) the branch that is the gate.
    """
    operators = Operators()
    with ExitStack() as hooks:
        for part in parts:
            for module, hook in operators.hooks(part).items():
                hooks.callback(module.register_forward_hook(hook).remove)
        yield


def unknown_operators(model: nn.Module) -> list[str]:
    """The kinds of layers of a model of which `fixed_operators` makes nothing linear."""
    unknown = set()
    for part in [model.get_submodule("blocks"), *around_blocks(model)]:
        gates = {id(mlp.act) for mlp in part.modules() if isinstance(mlp, Mlp | GluMlp | SwiGLU)}
        for module in part.modules():
            known = isinstance(module, LINEAR + NORMS) or id(module) in gates
            if not known and not [*module.children()]:
                unknown.add(type(module).__name__)
    return sorted(unknown)


def around_blocks(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that are neither its blocks nor what makes tokens of an image."""
    names = ("norm_pre", "norm", "fc_norm", "attn_pool", "head_drop", "head", "head_dist")
    return [part for name, part in model.named_children() if name in names]


def blank_tokens(walk: Walk) -> Tensor:
    """The tokens before the first block without what the patches add, (B, T, D): prefix tokens,
    and of each patch its position."""
    model = walk.model
    family = family_of(model)

    def erase(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    with token_gradients(model, False), fixed_operators(*around_blocks(model)):
        family.tokens(model, walk.images)
        hook = model.patch_embed.register_forward_hook(erase)
        try:
            return family.tokens(model, walk.images)
        finally:
            hook.remove()


def effective_gradients(walk: Walk, directions: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of each direction's score with respect to the tokens before the first block,
    with all operators held fixed, (B, T, D)."""
    gradients, _ = _back(walk, directions, with_constants=False)
    return gradients


def _back(
    walk: Walk, directions: Sequence[Tensor], with_constants: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Those gradients, and of each direction the part of the score (B,) that comes from biases
    inside the blocks and after them; of no biases unless it is asked for."""
    constants = [torch.zeros_like(walk.logits[:, 0]) for _ in directions]
    with token_gradients(walk.model):
        with fixed_operators(*around_blocks(walk.model)):
            handed = walk.head_gradients(directions)
            if with_constants:
                of_nothing = walk.head(torch.zeros_like(walk.outputs))
                for c, weights in enumerate(directions):
                    constants[c] = constants[c] + (weights * of_nothing.detach()).sum(dim=1)
        for index, block in reversed([*enumerate(walk.blocks.values())]):
            tokens = walk.tokens(index).detach().requires_grad_()
            with fixed_operators(block):
                output = walk.run_block(index, tokens)[0]
                if with_constants:
                    of_nothing = walk.run_block(index, torch.zeros_like(tokens))[0].detach()
                    for c, gradient in enumerate(handed):
                        constants[c] = constants[c] + (gradient * of_nothing).sum(dim=(1, 2))
            handed = [grad(output, tokens, one, retain_graph=True)[0] for one in handed]
    return handed, constants


def evidence_of(walk: Walk, directions: Sequence[Tensor]) -> list[Tensor]:
    """What the image at each patch adds to each direction's score, (B, T); 0 on prefix tokens."""
    content = walk.tokens(0) - blank_tokens(walk)
    gradients = effective_gradients(walk, directions)
    return [(gradient * content).sum(dim=-1) for gradient in gradients]


@dataclass(frozen=True)
class Parts:
    """Where a score comes from, (B,) each.

    Attributes:
        patches: from the image, through the patch embedding.
        positions: from the position embedding of the patches.
        prefix: from the prefix tokens, such as CLS.
        constant: from the biases in the blocks and in the head.
        score: what the model itself gives.
    """

    patches: Tensor
    positions: Tensor
    prefix: Tensor
    constant: Tensor
    score: Tensor

    @property
    def error(self) -> float:
        """How far the parts are from adding up to the score: the largest difference, relative to
        the largest sum of the parts' sizes."""
        parts = torch.stack([self.patches, self.positions, self.prefix, self.constant])
        size = parts.abs().sum(dim=0).maximum(self.score.abs()).amax()
        return float((parts.sum(dim=0) - self.score).abs().amax() / size)


def decompose(walk: Walk, weights: Tensor) -> Parts:
    """The parts of the score of a direction, (B, K). Each is computed by itself, so that their sum
    is a check."""
    (gradient,), (constant,) = _back(walk, [weights], with_constants=True)
    blank = blank_tokens(walk)
    first_patch = blank.shape[1] - walk.model.patch_embed.num_patches
    of_blank = (gradient * blank).sum(dim=-1)
    return Parts(
        patches=(gradient * (walk.tokens(0) - blank)).sum(dim=(1, 2)),
        positions=of_blank[:, first_patch:].sum(dim=1),
        prefix=of_blank[:, :first_patch].sum(dim=1),
        constant=constant,
        score=(weights * walk.logits).sum(dim=1),
    )

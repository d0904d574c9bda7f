"""Operators of a ViT that can be held fixed on the way back, so that the model is linear in its
tokens.

For one image, a ViT is a chain of linear layers and of operators that depend on the image: the
attention, the statistics of normalisation, the gates of activations. Here each operator's gradient
can be switched off. Then the model's gradient is that of the linear map which it is for this image.

The values of the forward pass stay as they are. B images, T tokens, D width.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.layers import AttentionPoolLatent, DropPath, GluMlp, LayerScale, Mlp, RmsNorm, SwiGLU
from torch import Tensor, nn
from torch.autograd import Function

# linear, or nothing at all, as they are in timm
LINEAR = (nn.Linear, nn.Identity, nn.Dropout, DropPath, LayerScale)
NORMS = (nn.LayerNorm, nn.RMSNorm, RmsNorm)
# a model's parts other than its blocks and what makes tokens of the image
AROUND = ("norm_pre", "norm", "fc_norm", "attn_pool", "head_drop", "head", "head_dist")


class Operators:
    """A switch for the gradients of operators. Fixed are

    - the matrix of attention; of attention pooling the queries and keys;
    - the standard deviation in LayerNorm, the root mean square in RMSNorm (the mean is linear);
    - of an activation a(x) the gate a(x) / x, which is Phi(x) for GELU;
    - of a product of two branches (SwiGLU, gated attention) the branch that is the gate.
    """

    def __init__(self) -> None:
        self.are_fixed = False

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Inside, gradients are computed with fixed operators."""
        self.are_fixed = True
        try:
            yield
        finally:
            self.are_fixed = False

    @contextmanager
    def watched(self, *parts: nn.Module) -> Iterator[None]:
        """Inside, what these parts of a model compute can be differentiated in both ways."""
        with ExitStack() as hooks:
            for part in parts:
                for module, hook in self.hooks(part).items():
                    hooks.callback(module.register_forward_hook(hook).remove)
            yield

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
            if isinstance(module, AttentionPoolLatent):
                found[module.q_norm] = self.hold
                found[module.k_norm] = self.hold
            if name.rpartition(".")[2] in ("attn_drop", "gate"):
                found[module] = self.hold
        return found

    def hold(self, _module: nn.Module, _args: Any, output: Tensor) -> Any:
        """Of fixed operators, the output is a constant."""
        return Constant.apply(output, self)

    def hold_gate(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Any:
        """Of fixed operators, an activation a(x) is x times the constant a(x) / x."""
        return Gated.apply(args[0], output, module, self)

    def hold_deviation(self, module: Any, args: tuple[Tensor, ...], output: Tensor) -> Any:
        """Of fixed operators, the deviation that a normalisation divides by is a constant."""
        bias = getattr(module, "bias", None)
        return Normalised.apply(args[0], output, module.weight, bias, module, self)


class Constant(Function):
    """The tensor itself; without a gradient while operators are fixed."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, operators: Operators) -> Tensor:
        ctx.operators = operators
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return (None if ctx.operators.are_fixed else gradient), None


class Gated(Function):
    """a(x), given x, a(x) and a. On the way back a(x) is computed again, which takes less memory
    than to keep it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, activation: Any, operators: Operators) -> Any:
        ctx.activation = activation
        ctx.operators = operators
        ctx.save_for_backward(x)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if not ctx.operators.are_fixed:
            return None, gradient, None, None
        (x,) = ctx.saved_tensors
        gate = ctx.activation.forward(x) / x
        gate.nan_to_num_(nan=0.0)  # a(0) = 0, so any gate serves there
        return gate.mul_(gradient), None, None, None


class Normalised(Function):
    """The output of a normalisation of x, given both and its weight and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, *others: Any) -> Tensor:
        weight, _bias, module, ctx.operators = others
        ctx.is_centred = isinstance(module, nn.LayerNorm)
        if ctx.is_centred:
            scale = torch.native_layer_norm(x, x.shape[-1:], None, None, module.eps)[2]
        else:
            scale = (x.square().mean(dim=-1, keepdim=True) + module.eps).rsqrt()
        ctx.save_for_backward(scale, weight)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if not ctx.operators.are_fixed:
            return None, gradient, None, None, None, None
        scale, weight = ctx.saved_tensors
        of_bias = None
        if ctx.needs_input_grad[3]:
            of_bias = gradient.flatten(0, -2).sum(dim=0)
        of_x = gradient * scale
        if weight is not None:
            of_x = of_x * weight
        if ctx.is_centred:
            of_x = of_x - of_x.mean(dim=-1, keepdim=True)
        return of_x, None, None, of_bias, None, None


def unknown_operators(model: nn.Module) -> list[str]:
    """The kinds of layers of a model that are neither linear nor known to `Operators`."""
    unknown = set()
    for name, part in model.named_children():
        if name != "blocks" and name not in AROUND:
            continue
        gates = {id(mlp.act) for mlp in part.modules() if isinstance(mlp, Mlp | GluMlp | SwiGLU)}
        for module in part.modules():
            known = isinstance(module, LINEAR + NORMS) or id(module) in gates
            if not known and not [*module.children()]:
                unknown.add(type(module).__name__)
    return sorted(unknown)

"""One pass forward, then back through the blocks, with the matrices of one block at a time.

B images, L encoder blocks, H heads, T tokens, D width, K classes. A matrix is (B, H, T, T), row =
query, column = key, after q/k-norm, rotary embedding and bias. A direction weighs the logits of
each image, (B, K): one-hot for a class, +1 and -1 for one class against another. Its score is the
weighted sum of the logits.

The pass forward uses the fast kernel, which makes no matrix, and keeps the tokens between the
blocks. On the way back each block runs again with its attention computed step by step. Its matrix
is read where the model itself has it: in front of the dropout of the attention. The self-check
compares what this attention gives with what the kernel gave.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional as F

from vit_finetune.core.errors import UserError
from vit_finetune.model.families import fused_attention

# relative; right float32 attention stays below 1e-5, a dropped scale or norm goes beyond 1e-2
TOLERANCE = 1e-4

# gradients that a map may ask for, see `BlockAttention`
GRADIENT, EARLY, EVIDENCE = "gradient", "early", "evidence"


def encoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The encoder blocks in order, by names such as "blocks.3" (UserError for a model without)."""
    blocks = dict(model.named_children()).get("blocks")
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise UserError(
            f"attention of a {type(model).__name__} cannot be shown: it has no encoder `blocks`"
        )
    return {f"blocks.{name}": block for name, block in blocks.named_children()}


@dataclass(frozen=True)
class BlockAttention:
    """One block's attention, and the gradients of the score of one direction that were asked for.

    Attributes:
        index: of the block, from 0.
        direction: its place among the directions.
        attn: (B, H, T, T).
        gradient: (B, H, T, T), of the score with respect to `attn`.
        early: (B, H, T, T), the same for the score that the head makes of this block's own output.
        evidence: (B, T), what each token before the first block adds to the score; the same for
            every block. See `effective`.
    """

    index: int
    direction: int
    attn: Tensor
    gradient: Tensor | None = None
    early: Tensor | None = None
    evidence: Tensor | None = None

    def _with(self, change: Callable[[str], Tensor]) -> "BlockAttention":
        names = [n for n in (GRADIENT, EARLY, EVIDENCE) if getattr(self, n) is not None]
        changed: dict[str, Any] = {name: change(name) for name in names}
        return replace(self, **changed)

    def minus(self, other: "BlockAttention") -> "BlockAttention":
        """The same block for the difference of two directions; all that it holds is linear in
        them."""
        return self._with(lambda name: getattr(self, name) - getattr(other, name))

    def opposite(self) -> "BlockAttention":
        """The same block for the negative direction."""
        return self._with(lambda name: -getattr(self, name))


class Walk:
    """One forward pass, then the way back through the blocks.

    What is kept between them grows with L T. On the way back, one block's graph and matrices are
    added.

    Attributes:
        logits: (B, K).
        outputs: (B, T, D), of the last block.
        pooling: (B, H, queries, T), attention pooling only.
        error: the largest relative error of the self-checks up to now.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        """Of images (B, 3, h, w).

        Raises:
            RuntimeError: the model is in training mode.
            UserError: the model has no encoder blocks, or they do not attend once each, in order.
        """
        if model.training:
            raise RuntimeError(
                "a model in training mode gives random attention; call model.eval() before"
            )
        self.model: Any = model
        self.images = images
        self.blocks = encoder_blocks(model)
        self.pooling: Tensor | None = None
        self.error = 0.0
        self._inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._reads: list[Tensor] = []  # what each block's attention gave, (B, T, D)
        ran: list[str] = []
        with torch.inference_mode(False), torch.no_grad(), ExitStack() as hooks:
            hooks.enter_context(fused_attention(model))
            for name, block in self.blocks.items():
                self._listen(name, block, ran, hooks)
            hooks.callback(block.register_forward_hook(self._keep_output).remove)
            if getattr(model, "attn_pool", None) is not None:
                self._listen_to_pooling(self.model.attn_pool, hooks)
            self.logits: Tensor = model(images)
        if ran != [*self.blocks] or len(self._inputs) != len(ran):
            raise UserError(
                f"the blocks of a {type(model).__name__} must attend once each, in their order, "
                f"but these attended: {', '.join(ran) or 'none'}; use a model of timm without "
                "gradient checkpointing"
            )

    def _listen(self, name: str, block: nn.Module, ran: list[str], hooks: ExitStack) -> None:
        """Keep what a block is given, and what its attention gives."""

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._inputs.append((args, kwargs))

        def after(_module: nn.Module, _args: Any, output: Tensor) -> None:
            ran.append(name)
            self._reads.append(output)

        hooks.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
        attention = block.get_submodule("attn")
        hooks.callback(attention.register_forward_hook(after).remove)

    def _keep_output(self, _block: nn.Module, _args: Any, output: Tensor) -> None:
        self.outputs = output

    def _listen_to_pooling(self, pool: Any, hooks: ExitStack) -> None:
        """Make the matrix of timm's attention pooling from its queries and keys, and check it:
        the module itself computes no matrix that could be read."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
                seen[name] = output

            return hook

        def finish(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            scores = seen["query"] * pool.scale @ seen["key"].transpose(-2, -1)
            self.pooling = scores.softmax(dim=-1)
            keys_and_values = seen["both"].unflatten(-1, (2, pool.num_heads, -1))
            values = keys_and_values[:, :, 1].transpose(1, 2)
            self._check("attn_pool", (self.pooling @ values).transpose(1, 2).flatten(2), args[0])

        for name, module in (("query", pool.q_norm), ("key", pool.k_norm), ("both", pool.kv)):
            hooks.callback(module.register_forward_hook(keep(name)).remove)
        hooks.callback(pool.proj.register_forward_pre_hook(finish).remove)

    def _check(self, name: str, found: Tensor, expected: Tensor) -> None:
        """Two ways to compute the same attention must agree."""
        largest = expected.abs().amax().clamp_min(torch.finfo(expected.dtype).tiny)
        error = float((found - expected).abs().amax() / largest)
        if not error <= TOLERANCE:  # also if it is NaN
            raise UserError(
                f"{name}: attention computed step by step differs from the model's own by "
                f"{error:.1e} (relative), at most {TOLERANCE:.0e} is allowed; run the model in "
                "float32"
            )
        self.error = max(self.error, error)

    def direction(self, classes: Tensor | int) -> Tensor:
        """The direction of one class of each image, (B,), or of one class of all: (B, K)."""
        count, classes_of_model = self.logits.shape
        chosen = torch.as_tensor(classes, device=self.logits.device).expand(count)
        return F.one_hot(chosen, classes_of_model).to(self.logits)

    def tokens(self, index: int) -> Tensor:
        """What a block reads, (B, T, D)."""
        args, _ = self._inputs[index]
        tokens: Tensor = args[0]
        return tokens

    def run_block(self, index: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run a block on tokens (B, T, D), its attention step by step.

        Returns:
            Its output (B, T, D), its matrix (B, H, T, T), and what its attention gave (B, T, D).
        """
        name = [*self.blocks][index]
        args, kwargs = self._inputs[index]
        with explicit_attention(self.blocks[name]) as seen:
            output = self.blocks[name](tokens, *args[1:], **kwargs)
        if "matrix" not in seen:
            raise UserError(f"the attention of {name} computes no matrix that could be shown")
        return output, seen["matrix"], seen["read"]

    def head(self, tokens: Tensor) -> Tensor:
        """Logits (B, K) that the head makes of a block's output (B, T, D)."""
        logits: Tensor = self.model.forward_head(self.model.norm(tokens))
        return logits

    def head_gradients(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of each direction's score with respect to the last block's output,
        (B, T, D)."""
        tokens = self.outputs.detach().requires_grad_()
        logits = self.head(tokens)
        return [grad(logits, tokens, weights, retain_graph=True)[0] for weights in directions]

    def each_block(
        self,
        visit: Callable[[BlockAttention], object],
        directions: Sequence[Tensor],
        asked: frozenset[str],
        evidence: Sequence[Tensor] = (),
    ) -> None:
        """Call `visit` for each block, last block first, and in it for each direction.

        Of matrices nothing stays but what `visit` keeps. The parameters' .grad stay as they are.

        Args:
            directions: of (B, K) each; at least one, also if no gradient is asked for.
            asked: which of GRADIENT and EARLY are wanted.
            evidence: of each direction, (B, T), to be handed on to `visit`.

        Raises:
            UserError: a block's attention has no matrix, or it is not the model's own.
        """
        for weights in directions:
            if weights.shape != self.logits.shape:
                shape, wanted = tuple(weights.shape), tuple(self.logits.shape)
                raise ValueError(f"a direction has the shape {shape}; use {wanted}")
        differentiate = GRADIENT in asked or EARLY in asked
        with token_gradients(self.model, differentiate):
            handed = self.head_gradients(directions) if GRADIENT in asked else []
            for index in reversed(range(len(self.blocks))):
                tokens = self.tokens(index).detach().requires_grad_(differentiate)
                output, matrix, read = self.run_block(index, tokens)
                self._check([*self.blocks][index], read.detach(), self._reads[index])
                attn = matrix.detach()
                early_logits = self.head(output) if EARLY in asked else None
                for c, weights in enumerate(directions):
                    found: dict[str, Tensor] = {}
                    if early_logits is not None:
                        (found[EARLY],) = grad(early_logits, matrix, weights, retain_graph=True)
                    if handed:
                        found[GRADIENT], handed[c] = grad(
                            output, (matrix, tokens), handed[c], retain_graph=True
                        )
                    if evidence:
                        found[EVIDENCE] = evidence[c]
                    visit(BlockAttention(index, c, attn, **found))


@contextmanager
def explicit_attention(block: Any) -> Iterator[dict[str, Tensor]]:
    """Inside, the attention of a block is computed step by step. Gives its `matrix` and what it
    `read`, the output of the attention."""
    attention = block.attn
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            seen[name] = output

        return hook

    with ExitStack() as restore:
        restore.callback(setattr, attention, "fused_attn", attention.fused_attn)
        attention.fused_attn = False
        restore.callback(attention.attn_drop.register_forward_hook(keep("matrix")).remove)
        restore.callback(attention.register_forward_hook(keep("read")).remove)
        yield seen


@contextmanager
def token_gradients(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, gradients flow to tokens, or not at all, and never to the model's parameters."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_()

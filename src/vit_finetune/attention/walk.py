"""One pass forward, then back through the blocks, with the matrices of one block at a time.

B images, L encoder blocks, H heads, T tokens, D width, K classes. A matrix is (B, H, T, T), row =
query, column = key, after q/k-norm, rotary embedding and bias. A direction weighs the logits of
each image, (B, K): one-hot for a class, +1 and -1 for one class against another. Its score is the
weighted sum of the logits.

The pass forward uses the fast kernel of attention, which makes no matrix. On the way back the
attention of each block runs again, step by step, and its matrix is read where the model itself has
it: in front of the dropout of the attention. The self-check compares what this attention gives with
what the kernel gave.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional as F

from vit_finetune.attention.operators import Operators
from vit_finetune.core.errors import UserError
from vit_finetune.model.families import fused_attention

# relative; right float32 attention stays below 1e-5, a dropped scale or norm goes beyond 1e-2
TOLERANCE = 1e-4

# gradients that a map may ask for, see `BlockAttention`
GRADIENT = "gradient"
EARLY = "early"
EFFECTIVE = "effective"


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
        effective: (B, T), of the first block alone: what each patch adds to the score while the
            operators of the model are held fixed; 0 for prefix tokens. See `Operators`.
    """

    index: int
    direction: int
    attn: Tensor
    gradient: Tensor | None = None
    early: Tensor | None = None
    effective: Tensor | None = None

    def _with(self, change: Callable[[str], Tensor]) -> "BlockAttention":
        names = [n for n in (GRADIENT, EARLY, EFFECTIVE) if getattr(self, n) is not None]
        changed: dict[str, Any] = {name: change(name) for name in names}
        return replace(self, **changed)

    def minus(self, other: "BlockAttention") -> "BlockAttention":
        """The same block for the difference of two directions; all that it holds is linear in
        them."""
        return self._with(lambda name: getattr(self, name) - getattr(other, name))

    def opposite(self) -> "BlockAttention":
        """The same block for the negative direction."""
        return self._with(lambda name: -getattr(self, name))


class Step:
    """One block of the pass forward.

    It is cut out of the graph of the model: `tokens` and `read` begin a graph of their own, and the
    attention between `reads` and `read` has none.

    Attributes:
        tokens: (B, T, D), what the block gets.
        reads: (B, T, D), what its attention gets.
        read: (B, T, D), what its attention gives.
        output: (B, T, D), what the block gives.
    """

    tokens: Tensor
    reads: Tensor
    read: Tensor
    output: Tensor

    def __init__(self, name: str, block: Any, differentiate: bool, operators: Operators) -> None:
        self.name = name
        self.block = block
        self.differentiate = differentiate
        self.operators = operators
        self.others: tuple[tuple[Any, ...], dict[str, Any]] = (), {}

    def _begin(self, tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_(self.differentiate)

    def listen(self, hooks: ExitStack, order: list[str]) -> None:
        """Keep all this from the next pass forward. `order` gets the name of the block when its
        attention has run."""

        def begin(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            self.tokens = self._begin(args[0])
            return (self.tokens, *args[1:]), kwargs

        def attend(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            self.reads = args[0]
            self.others = args[1:], kwargs
            return (args[0].detach(), *args[1:]), kwargs

        def attended(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            order.append(self.name)
            self.read = self._begin(output)
            return self.read

        def end(_module: nn.Module, _args: Any, output: Tensor) -> None:
            self.output = output

        attention = self.block.attn
        hooks.callback(self.block.register_forward_pre_hook(begin, with_kwargs=True).remove)
        hooks.callback(self.block.register_forward_hook(end).remove)
        hooks.callback(attention.register_forward_pre_hook(attend, with_kwargs=True).remove)
        hooks.callback(attention.register_forward_hook(attended).remove)

    def attend_again(self) -> "Explicit":
        """Run the attention again, step by step, with a graph of its own."""
        reads = self._begin(self.reads)
        attention = self.block.attn
        with self.operators.watched(attention), explicit_attention(attention) as seen:
            others, options = self.others
            read = attention(reads, *others, **options)
        if not seen:
            raise UserError(f"the attention of {self.name} computes no matrix that could be shown")
        return Explicit(reads, seen[0], read)

    def back_through_end(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """From a gradient (B, T, D) for the block's output to those for what its attention gives,
        and for its tokens on the way past the attention."""
        of_read, of_tokens = grad(
            self.output, (self.read, self.tokens), gradient, retain_graph=True
        )
        return of_read, of_tokens

    def back_through_end_from_head(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The same from a gradient that the head itself gives.

        What follows the attention takes each token by itself. The head may read CLS alone: then the
        other tokens have no gradient, and only the block's end for CLS runs again.
        """
        rows = gradient.any(dim=2).any(dim=0).nonzero()[:, 0]
        if len(rows) >= gradient.shape[1] / 2:
            return self.back_through_end(gradient)
        with attention_gives(self.block, self.read[:, rows]), self.operators.watched(self.block):
            output = self.block(self.tokens[:, rows])
        of_read, of_tokens = grad(output, (self.read, self.tokens), gradient[:, rows])
        return of_read, of_tokens

    def back_through_attention(
        self, explicit: "Explicit", of_read: Tensor, of_tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the two gradients of the block's end to those for its matrix (B, H, T, T) and for
        its tokens (B, T, D)."""
        of_matrix, of_reads = grad(
            explicit.read, (explicit.matrix, explicit.reads), of_read, retain_graph=True
        )
        (through_attention,) = grad(self.reads, self.tokens, of_reads, retain_graph=True)
        return of_matrix, of_tokens + through_attention


@dataclass(frozen=True)
class Explicit:
    """Attention step by step: what it gets (B, T, D), its matrix, what it gives (B, T, D)."""

    reads: Tensor
    matrix: Tensor
    read: Tensor


class Walk:
    """One forward pass, then the way back through the blocks.

    The pass keeps its graph as a training step does, but none of the attention: its memory grows
    with L T. On the way back the matrices of one block at a time are added.

    Attributes:
        pooling: (B, H, queries, T), attention pooling only.
        error: the largest relative error of the self-checks up to now.
    """

    def __init__(self, model: nn.Module, images: Tensor, asked: frozenset[str]) -> None:
        """Of images (B, 3, h, w).

        Args:
            asked: which of GRADIENT, EARLY and EFFECTIVE `each_block` gives; if none, no graph is
                kept.

        Raises:
            RuntimeError: the model is in training mode.
            UserError: the model has no encoder blocks, or they do not attend once each, in order.
        """
        if model.training:
            raise RuntimeError(
                "a model in training mode gives random attention; call model.eval() before"
            )
        self.model: Any = model
        self.asked = asked
        self.operators = Operators()
        self.pooling: Tensor | None = None
        self.error = 0.0
        blocks = encoder_blocks(model)
        self.steps = [
            Step(name, block, bool(asked), self.operators) for name, block in blocks.items()
        ]
        order: list[str] = []
        with token_gradients(model, bool(asked)), ExitStack() as hooks:
            hooks.enter_context(fused_attention(model))
            if EFFECTIVE in asked:
                hooks.enter_context(self.operators.watched(model))
            for step in self.steps:
                step.listen(hooks, order)
            self._listen_to_patches(hooks)
            if getattr(model, "attn_pool", None) is not None:
                self._listen_to_pooling(self.model.attn_pool, hooks)
            self._logits: Tensor = model(images)
        if order != [*blocks]:
            raise UserError(
                f"the blocks of a {type(model).__name__} must attend once each, in their order, "
                f"but these attended: {', '.join(order) or 'none'}; use a model of timm without "
                "gradient checkpointing"
            )

    @property
    def logits(self) -> Tensor:
        """(B, K)."""
        return self._logits.detach()

    def _listen_to_patches(self, hooks: ExitStack) -> None:
        """Keep what the patch embedding gives, where a graph begins, and the tokens made of it."""

        def embedded(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            self._patches = output.detach().requires_grad_(bool(self.asked))
            return self._patches

        def given(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._given = args[0]

        hooks.callback(self.model.patch_embed.register_forward_hook(embedded).remove)
        hooks.callback(self.model.blocks[0].register_forward_pre_hook(given, prepend=True).remove)

    def _listen_to_pooling(self, pool: Any, hooks: ExitStack) -> None:
        """Make the matrix of timm's attention pooling from its queries and keys, and check it:
        the module itself computes no matrix that could be read."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
                seen[name] = output.detach()

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
        expected = expected.detach()
        largest = expected.abs().amax().clamp_min(torch.finfo(expected.dtype).tiny)
        error = float((found.detach() - expected).abs().amax() / largest)
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

    def each_block(
        self, visit: Callable[[BlockAttention], object], directions: Sequence[Tensor]
    ) -> None:
        """Call `visit` for each block, last block first, and in it for each direction.

        Of matrices nothing stays but what `visit` keeps. The parameters' .grad stay as they are.

        Args:
            directions: of (B, K) each; at least one, also if no gradient was asked for.

        Raises:
            UserError: a block's attention has no matrix, or it is not the model's own.
        """
        for weights in directions:
            if weights.shape != self.logits.shape:
                shape = tuple(weights.shape)
                wanted = tuple(self.logits.shape)
                raise ValueError(f"a direction has the shape {shape}; use {wanted}")
        with token_gradients(self.model, bool(self.asked)):
            handed = self._at_head(directions) if GRADIENT in self.asked else []
            effective: list[Tensor] = []
            if EFFECTIVE in self.asked:
                with self.operators.fixed():
                    effective = self._at_head(directions)
            for index in reversed(range(len(self.steps))):
                self._visit_block(index, visit, directions, handed, effective)

    def _visit_block(
        self,
        index: int,
        visit: Callable[[BlockAttention], object],
        directions: Sequence[Tensor],
        handed: list[Tensor],
        effective: list[Tensor],
    ) -> None:
        """Visit one block. The gradients for its output, ordinary ones and those of fixed
        operators, are replaced by those for its tokens; empty lists if they were not asked for."""
        step = self.steps[index]
        explicit = step.attend_again()
        self._check(step.name, explicit.read, step.read)
        early_logits = self._early_logits(step)
        is_last = index == len(self.steps) - 1
        end_back = step.back_through_end_from_head if is_last else step.back_through_end
        for c, weights in enumerate(directions):
            found: dict[str, Any] = {}
            if effective:
                with self.operators.fixed():
                    ends = end_back(effective[c])
                    effective[c] = step.back_through_attention(explicit, *ends)[1]
                    if index == 0:
                        found[EFFECTIVE] = self._at_patches(effective[c])
            if handed:
                ends = end_back(handed[c])
                found[GRADIENT], handed[c] = step.back_through_attention(explicit, *ends)
            if early_logits is not None:
                (of_output,) = grad(early_logits, step.output, weights, retain_graph=True)
                of_read, _ = step.back_through_end_from_head(of_output)
                found[EARLY] = grad(explicit.read, explicit.matrix, of_read, retain_graph=True)[0]
            visit(BlockAttention(index, c, explicit.matrix.detach(), **found))

    def _at_head(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of each direction's score with respect to the last block's output,
        (B, T, D)."""
        last = self.steps[-1].output
        return [grad(self._logits, last, one, retain_graph=True)[0] for one in directions]

    def _early_logits(self, step: Step) -> Tensor | None:
        """What the head makes of a block's own output, (B, K), if that was asked for."""
        if EARLY not in self.asked:
            return None
        logits: Tensor = self.model.forward_head(self.model.norm(step.output))
        return logits

    def _at_patches(self, gradient: Tensor) -> Tensor:
        """What each patch adds to the score: from the gradient for the tokens before the first
        block (B, T, D) to (B, T), 0 for prefix tokens."""
        (of_patches,) = grad(self._given, self._patches, gradient, retain_graph=True)
        added = (of_patches * self._patches).sum(dim=-1).flatten(1).detach()
        return F.pad(added, (gradient.shape[1] - added.shape[1], 0))


@contextmanager
def explicit_attention(attention: Any) -> Iterator[list[Tensor]]:
    """Inside, attention is computed step by step. Gives its matrix, in a list that is empty until
    it runs."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
        seen.append(output)

    with ExitStack() as restore:
        if hasattr(attention, "attn_drop"):
            restore.callback(setattr, attention, "fused_attn", attention.fused_attn)
            attention.fused_attn = False
            restore.callback(attention.attn_drop.register_forward_hook(keep).remove)
        yield seen


@contextmanager
def attention_gives(block: Any, read: Tensor) -> Iterator[None]:
    """Inside, the attention of a block computes nothing and gives `read`."""
    attention = block.attn
    block.attn = Given(read)
    try:
        yield
    finally:
        block.attn = attention


class Given(nn.Module):
    """Gives the same tensor for any input."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_args: Any, **_options: Any) -> Tensor:
        return self.output


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

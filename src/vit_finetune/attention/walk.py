"""One pass forward, then the way back through the blocks, with the matrices of one block at a time.

B images, L encoder blocks, H heads, T tokens, d values per head, K classes, C directions. A
direction weighs the logits of each image, (B, K): one-hot for a class, +1 and -1 for one class
against another. The gradient of the weighted sum y with respect to attention P is never kept: as
the heads read O = P v, it is dy/dP = (dy/dO) v^T, and dy/dO and v are (B, H, T, d) each. It is
linear in the direction, and so is dy/dO: sums and differences of directions need no further pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional as F

from vit_finetune.attention.capture import capture, check
from vit_finetune.core.errors import UserError

T = TypeVar("T")


def directions_of(classes: Tensor, against: Tensor | None, count: int) -> Tensor:
    """(B,) classes -> one direction (1, B, K): the logit of each, or its difference from that of
    `against`, (B,)."""
    weights = F.one_hot(classes, count).float()
    return (weights if against is None else weights - F.one_hot(against, count))[None]


@dataclass(frozen=True)
class BlockAttention:
    """One block's attention, and for each direction the gradient with respect to it."""

    index: int
    attn: Tensor  # (B, H, T, T)
    values: Tensor  # (B, H, T, d), v
    reads: Tensor  # (C, B, H, T, d), dy/dO
    # the same for the logits that the head makes of this block's own output (LeGrad)
    early_reads: Tensor | None

    def gradient(self, read: Tensor) -> Tensor:
        """dy/dP, (B, H, T, T), of one of `reads` or `early_reads`, or of a sum or difference of
        them."""
        return read @ self.values.transpose(-2, -1)

    def mean_gradient(self, read: Tensor) -> Tensor:
        """The mean of that over heads and rows, (B, T), without the matrix: v^T is the same for
        every row."""
        return self.gradient(read.mean(dim=2, keepdim=True)).mean(dim=(1, 2))


class Walk:
    """One forward pass that keeps no matrix, then the way back through the blocks.

    The pass keeps its graph as a training step does, and each block's queries, keys and values:
    memory that grows with L T, not with L T^2. The matrices of a block are made from them when the
    way back comes to it.

    Attributes:
        pooling: (B, H, queries, T), attention pooling only.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, gradients: bool = True) -> None:
        """Of images (B, 3, h, w).

        Args:
            gradients: False keeps no graph, for the attention alone.

        Raises:
            RuntimeError: the model is in training mode.
            UserError: the model has no encoder blocks, or they do not attend once each, in order.
        """
        if model.training:
            raise RuntimeError(
                "a model in training mode gives random attention; call model.eval() before"
            )
        # (B, T, D), before the first block and after each
        self.model, self._tokens = model, list[Tensor]()
        with (
            _settings(model, gradients),
            capture(model, later=True) as self._seen,
            ExitStack() as hooks,
        ):
            for name in self._seen.block_names:
                self._listen(model.get_submodule(name), hooks, gradients)
            self._scores: Tensor = model(images)
        check(self._seen)
        if self._seen.names != [*self._seen.block_names]:
            raise UserError(
                f"the encoder blocks of a {type(model).__name__} do not run in their order"
            )
        self.pooling = self._seen.pooling_row()

    @property
    def logits(self) -> Tensor:
        """(B, K)."""
        return self._scores.detach()

    @property
    def error(self) -> float:
        """The largest relative error of the self-checks up to now."""
        return max(self._seen.selfcheck.values(), default=0.0)

    def _listen(self, block: nn.Module, hooks: ExitStack, gradients: bool) -> None:
        """Keep what a block gives; before the first, begin the graph."""

        def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._tokens.append(args[0].detach().requires_grad_(gradients))
            return (self._tokens[0], *args[1:]), kwargs

        def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
            self._tokens.append(output)

        if block is self.model.get_submodule(self._seen.block_names[0]):
            hooks.callback(block.register_forward_pre_hook(begin, with_kwargs=True).remove)
        hooks.callback(block.register_forward_hook(keep).remove)

    def each_block(
        self,
        visit: Callable[[BlockAttention], T],
        directions: Tensor | None = None,
        *,
        early: bool = False,
    ) -> list[T]:
        """What `visit` returns for each block, last block first.

        Of matrices nothing stays but what `visit` keeps. The parameters' .grad stay as they are.

        Args:
            directions: (C, B, K); None for the attention alone.
            early: also what LeGrad needs: the final norm and head read the block's own output, and
                the gradient of these early logits is taken with respect to the block's attention.

        Raises:
            UserError: a captured matrix is not the model's own.
        """
        shape = self._scores.shape
        if directions is not None and directions.shape[1:] != shape:
            raise ValueError(
                f"directions: shape {tuple(directions.shape)}; use (C, {', '.join(map(str, shape))})"
            )
        weights = () if directions is None else tuple(directions.to(self._scores))
        found, handed = (
            [],
            [grad(self._scores, self._tokens[-1], one, retain_graph=True)[0] for one in weights],
        )
        for index, call in reversed([*enumerate(self._seen.calls)]):
            reads, handed = self._back(index, handed)
            early_reads = self._early_reads(index, weights) if early and weights else None
            attn, values = self._seen.matrix(index), call.value.float()
            check(self._seen)
            stacked = torch.stack(reads) if reads else values.new_zeros(0, *values.shape)
            found.append(visit(BlockAttention(index, attn, values, stacked, early_reads)))
            del attn  # else it would live beside the next one
        return found

    def _back(self, index: int, handed: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Through one block: from gradients (B, T, D) for its output to those for what it reads and
        for its input."""
        read, (before, after) = self._seen.calls[index].read, self._tokens[index : index + 2]
        pairs = [grad(after, (read, before), one, retain_graph=True) for one in handed]
        return [of_read.float() for of_read, _ in pairs], [of_tokens for _, of_tokens in pairs]

    def _early_reads(self, index: int, weights: Sequence[Tensor]) -> Tensor:
        """Gradients (C, B, H, T, d) of the logits that the head makes of one block's own output."""
        head, read = _any(self.model), self._seen.calls[index].read
        with _settings(self.model, gradients=True):
            scores = head.forward_head(head.norm(self._tokens[index + 1]))
            return torch.stack(
                [grad(scores, read, one, retain_graph=True)[0].float() for one in weights]
            )


@contextmanager
def _settings(model: nn.Module, gradients: bool) -> Iterator[None]:
    """Inside, gradients flow or not, and never to the model's parameters.

    A bias of the attention that asks for its gradient would make the kernel keep whole matrices.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_()


def _any(model: Any) -> Any:
    """A model whose methods the type checker does not know."""
    return model


class Gradients(NamedTuple):
    """Attention and its gradients for one class per image, whole: for small models, and for what
    needs all blocks.

    Of a contrast, the gradients are those of the difference of two logits.
    """

    attn: Tensor  # (B, L, H, T, T)
    grads: Tensor  # (B, L, H, T, T), of the class logit
    logits: Tensor  # (B, K)
    pooling: Tensor | None  # (B, H, queries, T), attention pooling only
    # (B, L, H, T, T), of the class logit read from the block's own output
    block_grads: Tensor | None


def attention_gradients(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    against: Tensor | None = None,
    *,
    per_block: bool = False,
) -> Gradients:
    """Attention and the gradient of one logit with respect to it, of all blocks at once: it takes
    their memory.

    Args:
        images: (B, 3, h, w).
        classes: the logit of each image, (B,); ValueError if there is not one for each.
        against: a second class of each image, (B,), whose logit is subtracted from the first.
        per_block: also the gradients that LeGrad needs, as `Walk.each_block` gives them.
    """
    one_class_each(len(images), classes=classes, against=against)
    walk = Walk(model, images)
    directions = directions_of(classes, against, walk.logits.shape[1])

    def keep(block: BlockAttention) -> tuple[Tensor, ...]:
        reads = [block.reads[0]] + ([] if block.early_reads is None else [block.early_reads[0]])
        return block.attn, *map(block.gradient, reads)

    blocks = walk.each_block(keep, directions, early=per_block)
    attn, grads, *early = (torch.stack(parts[::-1], dim=1) for parts in zip(*blocks, strict=True))
    return Gradients(attn, grads, walk.logits, walk.pooling, early[0] if early else None)


def one_class_each(images: int, **given: Tensor | None) -> None:
    """ValueError unless each of the tensors, by name, holds one class per image, (B,), or is
    None."""
    for name, classes in given.items():
        if classes is not None and classes.shape != (images,):
            raise ValueError(
                f"{name}: shape {tuple(classes.shape)}; use one class per image, ({images},)"
            )

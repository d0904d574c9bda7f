"""Attention and its gradients one block at a time, last block first, so that memory does not grow with the depth.

B images, L encoder blocks, H heads, T tokens, d values per head, K classes, C directions. A direction weighs the
logits of each image, (B, K): one-hot for a class, +1 and -1 for one class against another. The gradient of the
weighted sum y with respect to attention P is never kept: as the heads read O = P v, it is dy/dP = (dy/dO) v^T, and
dy/dO and v are (B, H, T, d) each. It is linear in the direction, and so is dy/dO: sums and differences of directions
need no further pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional as F

from vit_finetune.attention.capture import Capture, capture, check, encoder_blocks
from vit_finetune.core.errors import UserError

REPEATED = 1e-5  # relative; a block run twice on the same input differs by rounding alone, if at all

T = TypeVar("T")


def directions_of(classes: Tensor, against: Tensor | None, count: int) -> Tensor:
    """(B,) classes -> one direction (1, B, K): the logit of each, or its difference from that of `against`, (B,)."""
    weights = F.one_hot(classes, count).float()
    return (weights if against is None else weights - F.one_hot(against, count))[None]


@dataclass(frozen=True)
class BlockAttention:
    """One block's attention, and for each direction the gradient with respect to it."""

    index: int
    attn: Tensor  # (B, H, T, T)
    values: Tensor  # (B, H, T, d), v
    reads: Tensor  # (C, B, H, T, d), dy/dO
    early_reads: Tensor | None  # the same for the logits that the head makes of this block's own output (LeGrad)

    def gradient(self, read: Tensor) -> Tensor:
        """dy/dP, (B, H, T, T), of one of `reads` or `early_reads`, or of a sum or difference of them."""
        return read @ self.values.transpose(-2, -1)

    def mean_gradient(self, read: Tensor) -> Tensor:
        """The mean of that over heads and rows, (B, T), without the matrix: v^T is the same for every row."""
        return self.gradient(read.mean(dim=2, keepdim=True)).mean(dim=(1, 2))


class Walk:
    """One forward pass without matrices, then the way back through the blocks with those of one block at a time.

    The pass keeps each block's input and output, (B, T, D), and a graph from the last block's output to the logits.

    Raises:
        UserError: the model has no encoder blocks, or they do not run once each, in order.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        """Of images (B, 3, h, w)."""
        self.model, self.names = model, encoder_blocks(model)
        self._inputs: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._outputs: list[Tensor] = []
        with _settings(model, gradients=False), capture(model, blocks=False) as seen, ExitStack() as hooks:
            for name in self.names:
                self._listen(name, hooks)
            self._scores: Tensor = model(images)
        if [name for name, *_ in self._inputs] != [*self.names]:
            raise UserError(f"the encoder blocks of a {type(model).__name__} do not run once each, in their order")
        self.pooling = seen.pooling_row()  # (B, H, queries, T), attention pooling only
        self.error = self._error_of(seen, [])  # the largest relative error of the self-checks up to now

    @property
    def logits(self) -> Tensor:
        """(B, K)."""
        return self._scores.detach()

    def _listen(self, name: str, hooks: ExitStack) -> None:
        """Keep what the block takes and gives; of the last one, begin the graph of the head."""
        block = self.model.get_submodule(name)

        def keep_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._inputs.append((name, args, kwargs))

        def keep_output(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
            self._outputs.append(output)
            if name != self.names[-1]:
                return None
            torch.set_grad_enabled(True)  # until the pass ends
            return output.requires_grad_()

        hooks.callback(block.register_forward_pre_hook(keep_input, with_kwargs=True).remove)
        hooks.callback(block.register_forward_hook(keep_output).remove)

    def each_block(
        self, visit: Callable[[BlockAttention], T], directions: Tensor | None = None, *, early: bool = False
    ) -> list[T]:
        """What `visit` returns for each block, last block first.

        Nothing of a block stays but what `visit` keeps. The parameters' .grad stay as they are.

        Args:
            directions: (C, B, K); None for the attention alone.
            early: also what LeGrad needs: the final norm and head read the block's own output, and the gradient of
                these early logits is taken with respect to the block's attention.

        Raises:
            UserError: the attention of a block was not captured, or is not the model's own.
            RuntimeError: a block that is run again gives another output.
        """
        shape = self._scores.shape
        if directions is not None and directions.shape[1:] != shape:
            raise ValueError(f"directions: shape {tuple(directions.shape)}; use (C, {', '.join(map(str, shape))})")
        weights = () if directions is None else tuple(directions.to(self._scores))
        handed = [grad(self._scores, self._outputs[-1], one, retain_graph=True)[0] for one in weights]
        found = []
        for index in reversed(range(len(self.names))):
            block, handed = self._run_again(index, handed, weights if early else ())
            found.append(visit(block))
            del block  # else it would live beside the next one
        return found

    def _run_again(
        self, index: int, handed: list[Tensor], early: Sequence[Tensor]
    ) -> tuple[BlockAttention, list[Tensor]]:
        """One block, and the gradients (B, T, D) with respect to its input, from those for its output.

        Args:
            early: directions of which the gradient from the block's own output is asked for, too.
        """
        name, args, kwargs = self._inputs[index]
        early_reads, head = [], _any(self.model)
        with _settings(self.model, gradients=bool(handed)):
            tokens = args[0].detach().requires_grad_(bool(handed))
            with capture(self.model) as seen:
                output = self.model.get_submodule(name)(tokens, *args[1:], **kwargs)
            self._compare(index, output.detach())
            self.error = max(self.error, self._error_of(seen, [name]))
            attn, values, read = seen.attn[0], seen.values[0].float(), seen.reads[0]
            pairs = [grad(output, (read, tokens), one, retain_graph=True) for one in handed]
            if early:
                scores = head.forward_head(head.norm(output))
                early_reads = [grad(scores, read, one, retain_graph=True)[0].float() for one in early]
        reads = torch.stack([of_read.float() for of_read, _ in pairs]) if pairs else values.new_zeros(0, *values.shape)
        block = BlockAttention(index, attn, values, reads, torch.stack(early_reads) if early_reads else None)
        return block, [of_tokens for _, of_tokens in pairs]

    def _compare(self, index: int, output: Tensor) -> None:
        """RuntimeError unless the block's output is that of the first pass."""
        first = self._outputs[index].detach()
        error = float((output - first).abs().amax() / first.abs().amax().clamp_min(torch.finfo(first.dtype).tiny))
        if not error <= REPEATED:
            raise RuntimeError(
                f"{self.names[index]} gave another output when it was run again, relative error {error:.1e} where at "
                f"most {REPEATED:.0e} is allowed; call model.eval() before"
            )

    @staticmethod
    def _error_of(seen: Capture, blocks: list[str]) -> float:
        """The largest relative error that `check` finds, of blocks and of attention pooling."""
        checked = check(seen, blocks=blocks)
        return max(checked["selfcheck_max_rel_err"], checked["pooling_max_rel_err"] or 0.0)


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
    """Attention and its gradients for one class per image, whole: for small models, and for what needs all blocks.

    Of a contrast, the gradients are those of the difference of two logits.
    """

    attn: Tensor  # (B, L, H, T, T)
    grads: Tensor  # (B, L, H, T, T), of the class logit
    logits: Tensor  # (B, K)
    pooling: Tensor | None  # (B, H, queries, T), attention pooling only
    block_grads: Tensor | None  # (B, L, H, T, T), of the class logit read from the block's own output


def attention_gradients(
    model: nn.Module, images: Tensor, classes: Tensor, against: Tensor | None = None, *, per_block: bool = False
) -> Gradients:
    """Attention and the gradient of one logit with respect to it, of all blocks at once: it takes their memory.

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
    """ValueError unless each of the tensors, by name, holds one class per image, (B,), or is None."""
    for name, classes in given.items():
        if classes is not None and classes.shape != (images,):
            raise ValueError(f"{name}: shape {tuple(classes.shape)}; use one class per image, ({images},)")

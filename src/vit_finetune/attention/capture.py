"""The attention that a ViT really used, with proof: captured where it happens.

B images, H heads, T tokens, d values per head. A matrix is (B, H, T, T) float32, row = query,
column = key, after q/k-norm, rotary embedding and bias. Attention is not an explanation; how far a
map made from it deserves trust is measured in `faithfulness`.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_finetune.core.errors import UserError
from vit_finetune.model.families import fused_attention

# relative; right float32 captures stay below 1e-5, a dropped scale or norm goes beyond 1e-2
TOLERANCE = 1e-4

_LOCK = threading.Lock()  # the stand-in replaces a function of the whole process


@dataclass(frozen=True)
class Call:
    """One call of scaled_dot_product_attention: all that its matrix is made of."""

    query: Tensor  # (B, H, T, d), as key and value, detached
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float | None
    read: Tensor  # the kernel's P v, (B, H, T, d), in the graph if there is one

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return (*self.query.shape[:-1], self.key.shape[-2])

    def attend(self) -> tuple[Tensor, float]:
        """The matrix (B, H, T, T), and its proof: max|P v - read| / max|read|."""
        with torch.no_grad(), torch.autocast(self.query.device.type, enabled=False):
            probabilities = _probabilities(self.query, self.key, self.mask, self.scale)
            read = self.read.detach().float()
            largest = read.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
            return probabilities, float(
                (probabilities @ self.value.float() - read).abs().amax() / largest
            )


@dataclass
class Capture:
    """What `capture` records: matrices of the latest forward pass, the self-check over all
    passes."""

    block_names: tuple[str, ...]
    later: bool = False  # blocks' matrices are made when `matrix` asks for them, and not kept
    # block of each entry of `calls` or `attn`, in execution order
    names: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)  # of the blocks, if `later`
    # each (B, H, T, T) float32, detached, unless `later`
    attn: list[Tensor] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)  # of the matrices
    pooling: dict[str, Tensor] = field(default_factory=dict)  # by module: (B, H, queries, T)
    # worst max|P v - out| / max|out| by name
    selfcheck: dict[str, float] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget the matrices of the last forward pass, keep the self-check."""
        self.names, self.calls, self.attn, self.shapes, self.pooling = [], [], [], [], {}

    def block_of(self, module: str) -> str | None:
        """The encoder block that the module of that name lies in."""
        return next(
            (b for b in self.block_names if module == b or module.startswith(f"{b}.")), None
        )

    def record(self, module: str, call: Call) -> None:
        """File one attention call of the module of that name."""
        block = self.block_of(module)
        if block is None:
            self.pooling[module or "model"] = self._proven(module or "model", call)
            return
        self.names.append(block)
        self.shapes.append(call.shape)
        if self.later:
            self.calls.append(call)
        else:
            self.attn.append(self._proven(block, call))

    def matrix(self, index: int) -> Tensor:
        """The matrix (B, H, T, T) of one of `calls`; its proof goes into `selfcheck`."""
        return self._proven(self.names[index], self.calls[index])

    def _proven(self, name: str, call: Call) -> Tensor:
        probabilities, error = call.attend()
        # a NaN stays: nothing exceeds it
        if error > self.selfcheck.setdefault(name, 0.0) or math.isnan(error):
            self.selfcheck[name] = error
        return probabilities

    def stacked(self) -> Tensor:
        """All blocks as one (B, L, H, T, T)."""
        return torch.stack(self.attn, dim=1)

    def pooling_row(self) -> Tensor | None:
        """Attention pooling of the head, (B, H, queries, T), or None if the model pools without
        attention."""
        return next(reversed(self.pooling.values()), None)


def encoder_blocks(model: nn.Module) -> tuple[str, ...]:
    """Names of the encoder blocks in order, such as "blocks.3" (UserError for a model without)."""
    blocks = dict(model.named_children()).get("blocks")
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise UserError(
            f"attention of a {type(model).__name__} cannot be shown: it has no encoder `blocks`"
        )
    return tuple(f"blocks.{name}" for name, _ in blocks.named_children())


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """softmax(q k^T * scale + mask) in float32, as scaled_dot_product_attention defines it."""
    scores = (
        q.float() @ k.float().transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    )
    if mask is None:
        return scores.softmax(dim=-1)
    scores = (
        scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.float()
    )
    nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)  # such a row gives 0, not 0/0
    return scores.masked_fill(nothing, 0).softmax(dim=-1).masked_fill(nothing, 0)


def _stand_in(
    original: Callable[..., Tensor], seen: Capture, stack: list[str]
) -> Callable[..., Tensor]:
    """A scaled_dot_product_attention that also records; the model goes on with its own kernel's
    output."""

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        output = original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
        if not stack:  # another model's call
            return output
        if dropout_p > 0:
            raise RuntimeError(
                f"attention dropout of {dropout_p} is active in {stack[-1]!r}, so its output is random; "
                "call model.eval() before capturing"
            )
        seen.record(
            stack[-1], Call(query.detach(), key.detach(), value.detach(), attn_mask, scale, output)
        )
        return output

    return attention


@contextmanager
def capture(model: nn.Module, *, later: bool = False) -> Iterator[Capture]:
    """Record the attention of every forward pass of `model` inside the block; restore everything
    afterwards.

    It stands in for torch.nn.functional.scaled_dot_product_attention, which receives the final q,
    k, mask and scale, so no architecture needs code of its own. The model's own kernel runs as
    ever: what it returns is the proof, and the model's output.

    Args:
        later: keep what the blocks' matrices are made of, (B, H, T, d) each, and make a (T, T)
            matrix only when `Capture.matrix` asks for it.

    Raises:
        UserError: the model has no encoder blocks.
        RuntimeError: captures are nested (the stand-in is process-wide), or attention dropout is
            active.
    """
    seen = Capture(encoder_blocks(model), later)
    if not _LOCK.acquire(blocking=False):
        raise RuntimeError(
            "a capture is already running in this process; end it before starting another"
        )
    stack: list[str] = []
    with ExitStack() as restore:
        restore.callback(_LOCK.release)
        restore.callback(setattr, F, "scaled_dot_product_attention", F.scaled_dot_product_attention)
        for name, module in model.named_modules():

            def enter(_module: nn.Module, _args: Any, name: str = name) -> None:
                if not name:
                    seen.clear()
                stack.append(name)

            def leave(*_: Any) -> None:
                stack.pop()

            restore.callback(module.register_forward_pre_hook(enter).remove)
            restore.callback(module.register_forward_hook(leave, always_call=True).remove)
        restore.enter_context(fused_attention(model))
        F.scaled_dot_product_attention = _stand_in(F.scaled_dot_product_attention, seen, stack)
        yield seen


def check(seen: Capture, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Proof that the capture is whole and right, as numbers; UserError naming the block if it is
    not.

    Each of the encoder blocks exactly once, a square matrix in each, and P v equal to the model's
    own attention output to `tolerance` (relative, worst over all forward passes; of matrices made
    later, over those made up to now).
    """
    missing = [b for b in seen.block_names if b not in seen.names]
    if missing:
        raise UserError(
            f"attention of {len(missing)} of {len(seen.block_names)} encoder blocks was not captured: "
            f"{', '.join(missing)}; they do not call scaled_dot_product_attention or no forward pass was run"
        )
    repeated = sorted(
        {n for n in seen.names if seen.names.count(n) > 1}, key=seen.block_names.index
    )
    if repeated:
        raise UserError(
            f"{', '.join(repeated)} attended more than once, one matrix per block and pass is allowed; "
            "call the model itself, without gradient checkpointing"
        )
    for name, shape in zip(seen.names, seen.shapes, strict=True):
        if len(shape) != 4 or shape[-1] != shape[-2]:
            raise UserError(f"{name} has attention of shape {shape}; (B, H, T, T) is needed")
    for name, error in seen.selfcheck.items():
        if not error <= tolerance:
            raise UserError(
                f"{name}: the captured attention gives another output than the model's own, relative error "
                f"{error:.1e} where at most {tolerance:.0e} is allowed; run the model in float32"
            )
    return {
        "selfcheck_max_rel_err": max(
            (seen.selfcheck.get(name, 0.0) for name in seen.names), default=0.0
        ),
        "blocks_captured": len(seen.names),
        "blocks_total": len(seen.block_names),
        "pooling_captured": len(seen.pooling),
        "pooling_max_rel_err": max((seen.selfcheck[name] for name in seen.pooling), default=None),
    }

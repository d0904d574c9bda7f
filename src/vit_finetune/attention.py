"""The attention a ViT really used, with proof: captured where it happens, for any model that calls SDPA.

B images, L encoder blocks, H heads, T tokens, a grid of G_h x G_w patches. `attn` is (B, L, H, T, T) float32,
row = query, column = key, after q/k-norm, rotary embedding and bias. Attention is not an explanation; how far
a map made from it deserves trust is measured in `faithfulness`.
"""

import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOLERANCE = 1e-4  # relative; right float32 captures stay below 1e-5, a dropped scale or norm goes beyond 1e-2

_LOCK = threading.Lock()  # the stand-in replaces a function of the whole process
_REFUSED = (  # qualified class name -> why no (T, T) matrix can be read from it
    (
        r"\.(swin_transformer\w*|gcvit|davit|maxxvit|nest|tiny_vit|twins|hiera\w*|vision_transformer_sam)\.",
        "it attends inside windows or pooled stages, so no matrix spans all the tokens of the image",
    ),
    (r"\.(levit|tnt|mvitv2|crossvit)\.", "its attention never passes through scaled_dot_product_attention"),
    (r"\.coat\.", "its factorised attention never forms a token-to-token matrix"),
    (r"\.GPSA$", "it blends positional with content attention after the softmax"),
    (r"\.TalkingHead", "it mixes the heads after the softmax (talking heads)"),
    (r"\.XCA$", "it attends across channels, not across tokens (cross-covariance attention)"),
    (r"\.Diff\w+$", "it subtracts one attention from another (differential attention)"),
    (r"\.ParallelThingsBlock$", "it runs several attentions side by side in each block"),
    (r"(Script|Traced|Graph|Optimized)Module\w*$", "it is traced or compiled, its calls are bound already"),
)


def require_supported(model: nn.Module) -> tuple[str, ...]:
    """Names of the encoder blocks in order, such as "blocks.3"; ValueError saying why if there is no attention."""
    for module in model.modules():
        name = f"{type(module).__module__}.{type(module).__qualname__}"
        for pattern, reason in _REFUSED:
            if re.search(pattern, name):
                raise ValueError(
                    f"attention of {type(model).__name__} cannot be shown: {reason}; use a plain ViT such as "
                    "vit, deit, dinov2, dinov3, siglip, beit or eva02"
                )
    for path in ("blocks", "encoder.layers"):  # timm, torchvision
        found = dict(model.named_modules()).get(path)
        if isinstance(found, (nn.Sequential, nn.ModuleList)) and len(found):
            return tuple(f"{path}.{name}" for name, _ in found.named_children())
    raise ValueError(
        f"attention of {type(model).__name__} cannot be shown: it has neither `blocks` (timm) nor "
        "`encoder.layers` (torchvision), where the encoder blocks of a ViT are"
    )


# Capture


@dataclass
class Capture:
    """What `capture` records: matrices of the latest forward pass, the self-check over all passes."""

    block_names: tuple[str, ...]
    names: list[str] = field(default_factory=list)  # block of each entry of `attn`, in execution order
    attn: list[Tensor] = field(default_factory=list)  # each (B, H, T, T) float32
    pooling: dict[str, Tensor] = field(default_factory=dict)  # by module: (B, H, queries, T)
    selfcheck: dict[str, float] = field(default_factory=dict)  # worst max|P v - out| / max|out| by name

    def clear(self) -> None:
        """Forget the matrices of the last forward pass, keep the self-check."""
        self.names, self.attn, self.pooling = [], [], {}

    def record(self, module: str, probabilities: Tensor, error: float) -> None:
        """File one attention call of the module of that name."""
        block = next((b for b in self.block_names if module == b or module.startswith(f"{b}.")), None)
        if block is None:
            self.pooling[module or "model"] = probabilities
        else:
            self.names.append(block)
            self.attn.append(probabilities)
        name = block or module or "model"
        if error > self.selfcheck.setdefault(name, 0.0) or math.isnan(error):  # a NaN stays: nothing exceeds it
            self.selfcheck[name] = error

    def stacked(self) -> Tensor:
        """All blocks as one (B, L, H, T, T)."""
        return torch.stack(self.attn, dim=1)

    def pooling_row(self) -> Tensor | None:
        """Attention pooling of the head, (B, H, queries, T), or None if the model pools without attention."""
        return next(reversed(self.pooling.values()), None)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """softmax(q k^T * scale + mask) in float32, as scaled_dot_product_attention defines it."""
    scores = q.float() @ k.float().transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is None:
        return scores.softmax(dim=-1)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.float()
    nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)  # such a row gives 0, not 0/0
    return scores.masked_fill(nothing, 0).softmax(dim=-1).masked_fill(nothing, 0)


def _stand_in(original: Callable[..., Tensor], seen: Capture, stack: list[str], replace: bool) -> Callable[..., Tensor]:
    """A scaled_dot_product_attention that also records; the model's own kernel is run for the proof."""

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        gradients = torch.is_grad_enabled()
        with torch.set_grad_enabled(gradients and not (replace and stack)):
            output = original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if not stack:  # another model's call
            return output
        if dropout_p > 0:
            raise RuntimeError(
                f"attention dropout of {dropout_p} is active in {stack[-1]!r}, so its output is random; "
                "call model.eval() before capturing"
            )
        full_precision = torch.autocast(query.device.type, enabled=False)
        with torch.set_grad_enabled(gradients and replace), full_precision:
            if enable_gqa:
                groups = query.shape[-3] // key.shape[-3]
                key, value = (x.repeat_interleave(groups, dim=-3) for x in (key, value))
            probabilities = _probabilities(query, key, attn_mask, is_causal, scale)
            if torch.is_grad_enabled() and not probabilities.requires_grad:
                probabilities.requires_grad_()  # a frozen model has no graph yet: it begins here
            product = probabilities @ value.float()
            largest = output.detach().float().abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
            error = float((product.detach() - output.float()).abs().amax() / largest)
        seen.record(stack[-1], probabilities, error)
        return product.to(output.dtype) if replace else output

    return attention


@contextmanager
def capture(model: nn.Module, mode: Literal["observe", "replace"] = "observe") -> Iterator[Capture]:
    """Record the attention of every forward pass of `model` inside the block; restore everything afterwards.

    It stands in for torch.nn.functional.scaled_dot_product_attention, which receives the final q, k, mask and
    scale, so no architecture needs code of its own. "observe" returns the model's own output, P is detached;
    "replace" returns P v with P in the autograd graph. ValueError for a model that cannot be shown,
    RuntimeError if captures are nested (the stand-in is process-wide) or attention dropout is active.
    """
    if mode not in ("observe", "replace"):
        raise ValueError(f"capture mode is {mode!r}; use 'observe' or 'replace'")
    seen = Capture(require_supported(model))
    if not _LOCK.acquire(blocking=False):
        raise RuntimeError("a capture is already running in this process; end it before starting another")
    stack: list[str] = []
    with ExitStack() as restore:
        restore.callback(_LOCK.release)
        restore.callback(setattr, F, "scaled_dot_product_attention", F.scaled_dot_product_attention)
        restore.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        for name, module in model.named_modules():

            def enter(_module: nn.Module, _args: Any, name: str = name) -> None:
                if not name:
                    seen.clear()
                stack.append(name)

            def leave(*_: Any) -> None:
                stack.pop()

            restore.callback(module.register_forward_pre_hook(enter).remove)
            restore.callback(module.register_forward_hook(leave, always_call=True).remove)
            if getattr(module, "fused_attn", True) is False:
                restore.callback(setattr, module, "fused_attn", False)
                module.fused_attn = True
        F.scaled_dot_product_attention = _stand_in(F.scaled_dot_product_attention, seen, stack, mode == "replace")
        torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder bypasses SDPA
        yield seen


def check(seen: Capture, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Proof that the capture is whole and right, as numbers; RuntimeError naming the block if it is not.

    Every encoder block exactly once, a square matrix in each, and P v equal to the model's own attention
    output to `tolerance` (relative, worst over all forward passes).
    """
    missing = [b for b in seen.block_names if b not in seen.names]
    if missing:
        raise RuntimeError(
            f"attention of {len(missing)} of {len(seen.block_names)} encoder blocks was not captured: "
            f"{', '.join(missing)}; they do not call scaled_dot_product_attention or no forward pass was run"
        )
    repeated = sorted({n for n in seen.names if seen.names.count(n) > 1}, key=seen.block_names.index)
    if repeated:
        raise RuntimeError(
            f"{', '.join(repeated)} attended more than once, one matrix per block and pass is allowed; "
            "call the model itself, without gradient checkpointing"
        )
    for name, matrix in zip(seen.names, seen.attn, strict=True):
        if matrix.ndim != 4 or matrix.shape[-1] != matrix.shape[-2]:
            raise RuntimeError(f"{name} has attention of shape {tuple(matrix.shape)}; (B, H, T, T) is needed")
    for name, error in seen.selfcheck.items():
        if not error <= tolerance:
            raise RuntimeError(
                f"{name}: the captured attention gives another output than the model's own, relative error "
                f"{error:.1e} where at most {tolerance:.0e} is allowed; run the model in float32"
            )
    return {
        "selfcheck_max_rel_err": max(seen.selfcheck[name] for name in seen.names),
        "blocks_captured": len(seen.names),
        "blocks_total": len(seen.block_names),
        "pooling_captured": len(seen.pooling),
        "pooling_max_rel_err": max((seen.selfcheck[name] for name in seen.pooling), default=None),
    }


class Gradients(NamedTuple):
    """Attention and its gradients for one class per image, from one forward pass; all detached."""

    attn: Tensor  # (B, L, H, T, T)
    grads: Tensor  # (B, L, H, T, T), of the class logit
    logits: Tensor  # (B, K)
    pooling: Tensor | None  # (B, H, queries, T), attention pooling only
    block_grads: Tensor | None  # (B, L, H, T, T), of the class logit read from the block's own output
    checked: dict[str, Any]  # what `check` returns


def attention_gradients(model: nn.Module, images: Tensor, classes: Tensor, per_block: bool = False) -> Gradients:
    """Attention and the gradient of logit `classes` (B,) with respect to it, images (B, 3, h, w).

    `per_block` adds what LeGrad needs: the final norm and head read every block's own output, and this early
    logit's gradient is taken with respect to that block's attention. Parameters' .grad stay as they are.
    ValueError if `classes` does not fit the images, or the model has no `norm` and `forward_head` to read with.
    """
    if classes.shape != images.shape[:1]:
        raise ValueError(f"classes are {tuple(classes.shape)}; use one class per image, ({len(images)},)")
    if per_block and not (hasattr(model, "norm") and hasattr(model, "forward_head")):
        raise ValueError(f"per_block needs timm's `norm` and `forward_head`; {type(model).__name__} has none")
    outputs: list[Tensor] = []
    with torch.enable_grad(), capture(model, "replace") as seen, ExitStack() as hooks:
        if per_block:
            for name in seen.block_names:
                block = model.get_submodule(name)
                hooks.callback(block.register_forward_hook(lambda _m, _a, out: outputs.append(out)).remove)
        logits: Tensor = model(images)
        checked, pooling = check(seen), seen.pooling_row()

        def chosen(scores: Tensor) -> Tensor:
            return scores.gather(1, classes[:, None]).sum()  # images do not mix, so one sum serves all

        head: Any = model
        early = [
            torch.autograd.grad(chosen(head.forward_head(head.norm(out))), matrix, retain_graph=True)[0]
            for out, matrix in zip(outputs, seen.attn, strict=False)
        ]
        grads = torch.stack(torch.autograd.grad(chosen(logits), seen.attn), dim=1)
    block_grads = torch.stack(early, dim=1) if early else None
    pooling = None if pooling is None else pooling.detach()
    return Gradients(seen.stacked().detach(), grads, logits.detach(), pooling, block_grads, checked)


# Tokens


@dataclass(frozen=True)
class TokenLayout:
    """Which token is what: first the prefix tokens, then the patches row by row."""

    prefix: tuple[str, ...]  # such as ("CLS", "REG1")
    grid: tuple[int, int]  # (G_h, G_w)
    patch: tuple[int, int]  # (height, width) in pixels of the model's input
    pooling: Literal["token", "avg", "map"]
    pooled: range  # tokens of which the head takes the mean (token, avg) or its attention pooling (map)

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.prefix) + self.grid[0] * self.grid[1]

    def readout(self, pooling: Tensor | None = None) -> Tensor:
        """Weight of each token in what the head reads, (T,), or (B, T) with attention pooling; sums to one.

        The CLS row (with DIST, their mean), the mean of the patches, or the first row of attention pooling,
        mean over heads, for which `pooling` (B, H, queries, T) is needed (ValueError).
        """
        if self.pooling != "map":
            weights = torch.zeros(self.tokens)
            weights[list(self.pooled)] = 1 / len(self.pooled)
            return weights
        if pooling is None or pooling.shape[-1] != len(self.pooled):
            found = None if pooling is None else tuple(pooling.shape)
            raise ValueError(
                f"the model pools by attention over {len(self.pooled)} tokens, so its readout needs that "
                f"attention, (B, H, queries, {len(self.pooled)}); got {found}"
            )
        weights = pooling.new_zeros(len(pooling), self.tokens)
        weights[:, list(self.pooled)] = pooling[:, :, 0].mean(dim=1)
        return weights

    def to_grid(self, values: Tensor) -> Tensor:
        """Values per token (..., T) -> the patches' values (..., G_h, G_w); ValueError if T does not fit."""
        if values.shape[-1] != self.tokens:
            raise ValueError(
                f"{values.shape[-1]} tokens, but {len(self.prefix)} prefix tokens and a grid of "
                f"{self.grid[0]} x {self.grid[1]} patches make {self.tokens}"
            )
        return values[..., len(self.prefix) :].unflatten(-1, self.grid)


def token_layout(model: nn.Module, image_size: tuple[int, int] | None = None) -> TokenLayout:
    """Layout of a timm or torchvision ViT; `image_size` (h, w) only for a model that takes any size.

    ValueError where prefix tokens, grid or pooling are not of a known kind.
    """
    known: Any = model
    if not hasattr(model, "patch_embed") and hasattr(model, "class_token"):  # torchvision
        rows, patch = known.image_size // known.patch_size, known.patch_size
        return TokenLayout(("CLS",), (rows, rows), (patch, patch), "token", range(1))
    embed: Any = getattr(known, "patch_embed", None)
    if getattr(embed, "grid_size", None) is None:
        raise ValueError(f"{type(model).__name__} has no fixed grid of patches (patch_embed.grid_size)")
    grid = tuple(embed.dynamic_feat_size(image_size) if image_size else embed.grid_size)
    prefix = ["CLS"] if getattr(known, "cls_token", None) is not None else []
    prefix += ["DIST"] if getattr(known, "dist_token", None) is not None else []
    registers = getattr(known, "reg_token", None)
    prefix += [f"REG{i + 1}" for i in range(0 if registers is None else registers.shape[1])]
    if len(prefix) != getattr(known, "num_prefix_tokens", len(prefix)):
        raise ValueError(f"{type(model).__name__} has {known.num_prefix_tokens} prefix tokens, known are {prefix}")
    total = len(prefix) + grid[0] * grid[1]
    latent = hasattr(getattr(known, "attn_pool", None), "latent")
    pooling: Any = "map" if latent else getattr(known, "global_pool", "")
    if pooling not in ("token", "avg", "map"):
        raise ValueError(f"{type(model).__name__} pools by {pooling!r}; known are token, avg and map")
    # Eva's attention pooling has no such switch and looks over the prefix too
    with_prefix = getattr(known, "pool_include_prefix", latent)
    pooled = range(0 if with_prefix else len(prefix), total)
    if pooling == "token":
        pooled = range(2 if "DIST" in prefix else 1)  # the distilled head is the mean of two heads
    return TokenLayout(tuple(prefix), grid, tuple(embed.patch_size), pooling, pooled)


def readout_maps(attn: Tensor, layout: TokenLayout, readout: Tensor) -> Tensor:
    """Where each head of each block looks for the readout, (T,) or (B, T): attn -> (B, L, H, G_h, G_w)."""
    weights = readout.to(attn).expand(len(attn), -1)
    return layout.to_grid(torch.einsum("bt,blhts->blhs", weights, attn))


# Pixels


@dataclass(frozen=True)
class PixelGrid:
    """Where the patches lie on the original: resized to `resized`, centre-cropped to `crop`, cut into `grid`.

    All (height, width) in pixels, the grid in patches. Offsets are those of torchvision's center_crop, which
    pads where the crop is larger. ValueError if the grid does not divide the crop.
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        if any(side % count for side, count in zip(self.crop, self.grid, strict=True)):
            raise ValueError(f"a crop of {self.crop} pixels cannot be cut into {self.grid} equal patches")

    def _offset(self, axis: int) -> int:
        spare = self.resized[axis] - self.crop[axis]
        return round(spare / 2) if spare >= 0 else -(-spare // 2)

    def boxes(self) -> npt.NDArray[np.float64]:
        """(G_h, G_w, 4): top, left, bottom, right of each patch in original pixels, edges not rounded."""
        edges = [
            (self._offset(i) + np.arange(self.grid[i] + 1) * (self.crop[i] // self.grid[i]))
            * (self.image[i] / self.resized[i])
            for i in (0, 1)
        ]
        top, left = np.meshgrid(edges[0][:-1], edges[1][:-1], indexing="ij")
        bottom, right = np.meshgrid(edges[0][1:], edges[1][1:], indexing="ij")
        return np.stack([top, left, bottom, right], axis=-1)

    def _patch_of_pixel(self, axis: int, size: int) -> npt.NDArray[np.int64]:
        """Row (or column) of the patch in which each pixel's centre lies, on a canvas of `size` pixels.

        In whole numbers: the centre (i + 1/2) * resized / size must not slip over an edge by rounding.
        """
        centre = (2 * np.arange(size) + 1) * self.resized[axis] - 2 * size * self._offset(axis)
        return np.asarray(centre // (2 * size * (self.crop[axis] // self.grid[axis])), dtype=np.int64)

    def paint(self, patch_map: npt.NDArray[Any], size: Sequence[int] | None = None) -> npt.NDArray[np.float64]:
        """(G_h, G_w) -> the whole image (height, width), each pixel its patch's value, NaN outside the crop.

        Nearest patch, no invented smoothness. `size` defaults to the original image; on a canvas of size
        `resized`, or a multiple of it, every patch is its exact rectangle (after 32 -> 224 a patch of 16
        covers 2.29 original pixels). ValueError if the map is not of the grid's shape.
        """
        if patch_map.shape != self.grid:
            raise ValueError(f"the map is {patch_map.shape}, the grid {self.grid}")
        size = self.image if size is None else size
        rows, columns = (self._patch_of_pixel(axis, size[axis]) for axis in (0, 1))
        inside = np.ix_(
            np.flatnonzero((rows >= 0) & (rows < self.grid[0])),
            np.flatnonzero((columns >= 0) & (columns < self.grid[1])),
        )
        canvas = np.full(tuple(size), np.nan)
        canvas[inside] = patch_map[np.ix_(rows[inside[0].ravel()], columns[inside[1].ravel()])]
        return canvas

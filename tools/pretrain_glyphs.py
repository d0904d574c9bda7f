"""Pretrain the demo's small ViT on letters and digits rendered from matplotlib's fonts.

    python tools/pretrain_glyphs.py pretrained/glyph-vit        # one to two hours on two CPU cores

Every image is made on the fly: a glyph (62 classes, three fonts held out to score with), a random
affine and elastic warp, a stroke width, a resampling through a low resolution, a contrast. No
handwritten digit and no other data set is read. The result is a folder that
`timm.create_model("local-dir:…", pretrained=True)` loads.
"""

import argparse
import json
import math
import string
import time
from pathlib import Path

import matplotlib
import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor

CLASSES = string.digits + string.ascii_uppercase + string.ascii_lowercase
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *(
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
    ),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *(
        "STIXGeneral",
        "STIXGeneralBol",
        "STIXGeneralItalic",
        "STIXGeneralBolIta",
        "cmr10",
        "cmb10",
        "cmtt10",
    ),
)
HELD_OUT_FONTS = ("DejaVuSansDisplay", "cmss10", "cmmi10")
STROKES = (0, 1, 2, 4)  # pixels added on each side of the stroke, in the bank's resolution
BANK_SIZE = 64
IMAGE_SIZE = 32
LOW_RESOLUTIONS = (8, 8, 8, 10, 12, 16, 32)  # the share of a value is how often it stands here

MODEL_ARGS = {"img_size": IMAGE_SIZE, "patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4}
# a plain timm VisionTransformer; MODEL_ARGS gives it its size
ARCHITECTURE = "vit_tiny_patch16_224"


def render_glyph(char: str, font: ImageFont.FreeTypeFont, stroke: int) -> np.ndarray:
    """One glyph, light on dark, filling a square of side BANK_SIZE in its longer direction: uint8
    (S, S)."""
    canvas = Image.new("L", (256, 256))
    ImageDraw.Draw(canvas).text(
        (128, 128), char, fill=255, font=font, anchor="mm", stroke_width=2 * stroke
    )
    glyph = canvas.crop(canvas.getbbox())
    scale = BANK_SIZE / max(glyph.size)
    glyph = glyph.resize([max(1, round(side * scale)) for side in glyph.size], Image.Resampling.BOX)
    square = Image.new("L", (BANK_SIZE, BANK_SIZE))
    square.paste(glyph, [(BANK_SIZE - side) // 2 for side in glyph.size])
    return np.asarray(square)


def render_bank(fonts: tuple[str, ...] | list[str]) -> Tensor:
    """All glyphs of all classes: float (K, fonts × strokes, 1, S, S) in 0..1."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = [ImageFont.truetype(folder / f"{name}.ttf", 110) for name in fonts]
    bank = [
        [render_glyph(char, face, stroke) for face in faces for stroke in STROKES]
        for char in CLASSES
    ]
    return torch.from_numpy(np.array(bank)).float().div(255).unsqueeze(2)


def random_grid(n: int, generator: torch.Generator) -> Tensor:
    """Sampling grids (N, 32, 32, 2): rotation, anisotropic scale, shear, shift and a smooth elastic
    field."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle = uniform(-0.3, 0.3)
    shear = uniform(-0.35, 0.35)
    # > 1 makes the glyph smaller
    scale_x = uniform(0.95, 1.9)
    scale_y = uniform(0.95, 1.25)
    cos = angle.cos()
    sin = angle.sin()
    theta = torch.stack(
        [
            torch.stack([scale_x * cos, scale_x * (shear - sin), uniform(-0.12, 0.12)], 1),
            torch.stack([scale_y * sin, scale_y * cos, uniform(-0.08, 0.08)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    coarse = torch.randn(n, 2, 4, 4, generator=generator) * uniform(0.0, 0.16).view(n, 1, 1, 1)
    elastic = F.interpolate(coarse, size=IMAGE_SIZE, mode="bicubic", align_corners=True)
    return grid + elastic.permute(0, 2, 3, 1)


def make_batch(bank: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) normalised to -1..1 and labels (N,)."""
    labels = torch.randint(bank.shape[0], (n,), generator=generator)
    variants = torch.randint(bank.shape[1], (n,), generator=generator)
    images = F.grid_sample(bank[labels, variants], random_grid(n, generator), align_corners=False)
    # one resolution for each eighth of the batch: block means, as a coarse sensor counts ink
    chunks = []
    for chunk in images.chunk(8):
        side = LOW_RESOLUTIONS[
            torch.randint(len(LOW_RESOLUTIONS), (1,), generator=generator).item()
        ]
        low = F.adaptive_avg_pool2d(chunk, side)
        chunks.append(F.interpolate(low, size=IMAGE_SIZE, mode="bicubic", align_corners=False))
    images = torch.cat(chunks)
    gain = torch.rand(n, 1, 1, 1, generator=generator) * 0.9 + 0.6
    offset = torch.rand(n, 1, 1, 1, generator=generator) * 0.15
    noise = torch.randn(images.shape, generator=generator) * 0.03
    images = (images * gain + offset + noise).clamp(0, 1)
    return images.mul(2).sub(1).expand(-1, 3, -1, -1), labels


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are orthogonalised (K. Jordan 2024), scaled to AdamW's update
    (arXiv:2502.16982).

    torch.optim.Muon and timm's do this in bfloat16, which is many times slower on a CPU without
    such units.
    """

    def __init__(
        self, matrices: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalised(matrix.grad.lerp(mean, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix with all singular values near 1, by five Newton-Schulz steps."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):
        square = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * square + 2.0315 * square @ square) @ matrix
    return matrix


@torch.no_grad()
def score(model: torch.nn.Module, bank: Tensor, generator: torch.Generator, batches: int) -> float:
    """Accuracy on fresh images drawn from a bank."""
    model.eval()
    drawn = [make_batch(bank, 256, generator) for _ in range(batches)]
    hits = sum((model(images).argmax(1) == labels).sum().item() for images, labels in drawn)
    return hits / (256 * batches)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--lr", type=float, default=3e-3, help="of the blocks' matrices; half of it for the rest"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)  # timm initialises from the global generator
    model = timm.create_model(ARCHITECTURE, num_classes=len(CLASSES), **MODEL_ARGS)
    generator = torch.Generator().manual_seed(args.seed)
    bank = render_bank(FONTS)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers = [
        Muon(matrices, lr=args.lr),
        torch.optim.AdamW(rest, lr=args.lr / 2, weight_decay=0.0),
    ]
    warmup = args.steps // 20

    def share_of_lr(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / args.steps)))

    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_lr) for optimizer in optimizers
    ]
    start = time.monotonic()
    losses = []
    hits = 0
    model.train()
    for step in range(1, args.steps + 1):
        images, labels = make_batch(bank, args.batch_size, generator)
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.05)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        losses.append(loss.item())
        hits += (logits.argmax(1) == labels).sum().item()
        if step % 100 == 0 or step == args.steps:
            rate = step * args.batch_size / (time.monotonic() - start)
            accuracy = hits / (len(losses) * args.batch_size)
            print(
                f"step {step}: loss {np.mean(losses):.3f}, accuracy {accuracy:.3f}, "
                f"{rate:.0f} images/s",
                flush=True,
            )
            losses = []
            hits = 0

    held_out = score(model, render_bank(HELD_OUT_FONTS), generator, batches=20)
    print(f"accuracy on {len(HELD_OUT_FONTS)} held-out fonts: {held_out:.4f} (n = {20 * 256})")
    args.folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), args.folder / "model.safetensors")
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": len(CLASSES),
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "classifier": "head",
            "crop_pct": 1.0,
            "first_conv": "patch_embed.proj",
            "fixed_input_size": True,
            "input_size": [3, IMAGE_SIZE, IMAGE_SIZE],
            "interpolation": "bicubic",
            "license": "apache-2.0",
            "mean": [0.5, 0.5, 0.5],
            "num_classes": len(CLASSES),
            "pool_size": None,
            "std": [0.5, 0.5, 0.5],
            "tag": "glyphs",
        },
    }
    (args.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()

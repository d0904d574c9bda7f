"""How near the frozen pass comes to what this machine can multiply: `python benchmarks/pass.py`

The same run multiplies large square matrices, in the same precision, on the same cores, each core
its own as in the embed stage; the two take turns. Operations are counted from the shapes, two for
each multiplication and addition: the products of the patch embedding and of the blocks. Softmax,
norms, GELU and the resize take time and count nothing.
"""

import argparse
import statistics
import time

import torch

from vit_finetune.core.arrays import read_split
from vit_finetune.core.threads import ordered_map
from vit_finetune.model.boundary import autocast, run_prefix, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.params import read_params

# the pass that leaves one block to train is the longest with tokens at its end
CPU = torch.device("cpu")
BLOCKS = 1
BATCH = 16  # images, as the embed stage takes on a CPU
SIDE = 1024


def operations(model, blocks):
    """Of one image through the prefix, without the resize."""
    tokens = model.pos_embed.shape[1]
    width = model.embed_dim
    patches = tokens - model.num_prefix_tokens
    high, wide = model.patch_embed.patch_size
    hidden = model.blocks[0].mlp.fc1.out_features
    block = (
        tokens * (3 * width * width + width * width + 2 * width * hidden)
        + 2 * tokens * tokens * width
    )
    return 2 * (patches * 3 * high * wide * width + (len(model.blocks) - blocks) * block)


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    params = read_params()
    options = params.model
    model = build_model(
        options.name, pretrained=options.pretrained, image_size=options.image_size, seed=params.seed
    )
    preprocess = preprocessing(model, options.crop_pct)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = torch.tensor(read_split("data/subset", "train", "images")[0][: args.images])
    batches = images.split(BATCH)
    each = operations(model, BLOCKS)
    print(
        f"{args.images} images, batches of {len(batches[0])}, {threads} cores, "
        f"{each / 1e9:.3f} G operations an image"
    )
    print("precision  products GF/s  pass GF/s  images/s  fraction, median (lowest to highest)")
    for precision in (torch.float32, torch.bfloat16):
        to_device(model, CPU, precision)
        matrices = [torch.randn(SIDE, SIDE).to(precision) for _ in range(16 * threads)]

        def products(matrices=matrices):
            list(ordered_map(lambda one: one @ one, matrices, threads))

        @torch.inference_mode()
        def run(batch, precision=precision):
            with autocast(CPU, precision):
                run_prefix(model, preprocess(batch), BLOCKS).float()

        def frozen_pass(run=run):
            list(ordered_map(run, batches, threads))

        products(), frozen_pass()
        pairs = [(seconds(products), seconds(frozen_pass)) for _ in range(args.repeats)]
        rates = [
            (2 * SIDE**3 * len(matrices) / a / 1e9, each * args.images / b / 1e9) for a, b in pairs
        ]
        fractions = sorted(b / a for a, b in rates)
        peak, reached = (statistics.median(column) for column in zip(*rates, strict=True))
        spread = f"{statistics.median(fractions):.2f} ({fractions[0]:.2f} to {fractions[-1]:.2f})"
        name = str(precision).removeprefix("torch.")
        print(
            f"{name:9}  {peak:13.0f}  {reached:9.0f}  {reached * 1e9 / each:8.0f}  {spread}",
            flush=True,
        )


if __name__ == "__main__":
    main()

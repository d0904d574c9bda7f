"""What maps and shapes of the attention cost against the number of tokens: `python
benchmarks/attention_tokens.py`

Randomly initialised models of timm, each in a process of its own, on one core: seconds of the
processor for each image, and the peak of the process's memory (VmHWM of Linux), for four images
that one batch of the settings would hold. It writes benchmarks/attention_tokens.csv.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch

from vit_finetune.attention.judge import maps_and_shapes
from vit_finetune.attention.maps import MapMaker
from vit_finetune.attention.sample import Sample
from vit_finetune.core.files import write_csv

TABLE = Path(__file__).with_suffix(".csv")
MODELS = {  # name -> side of the input
    "vit_tiny_patch16_224": 224,
    "vit_small_patch14_reg4_dinov2": 420,
    "vit_small_patch14_dinov2": 518,
}
IMAGES = 4


def peak_mib():
    """The most memory that this process held, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def measure(name):
    """One line of the table, printed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=MODELS[name], num_classes=10).eval()
    maker = MapMaker(model)
    loaded = peak_mib()
    pixels = torch.randn(IMAGES, 3, MODELS[name], MODELS[name])
    labels = torch.arange(IMAGES)
    start = time.process_time()
    maps_and_shapes(maker, Sample(np.arange(IMAGES), pixels, labels, labels))
    seconds = (time.process_time() - start) / IMAGES
    print(f"{name},{maker.layout.tokens},{seconds:.2f},{peak_mib()},{loaded}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", choices=MODELS, help="measure this one in this process and print its line"
    )
    if chosen := parser.parse_args().model:
        return measure(chosen)
    names = ("model", "tokens", "seconds_per_image", "peak_mib", "model_alone_mib")
    rows = []
    print("{:32}{:>8}{:>20}{:>10}{:>17}".format(*names))
    for name in MODELS:
        run = subprocess.run(
            [sys.executable, __file__, "--model", name], capture_output=True, text=True
        )
        if run.returncode:
            sys.stderr.write(run.stderr)
        values = (
            run.stdout.strip().split(",") if run.returncode == 0 else [name, "", "failed", "", ""]
        )
        rows.append(dict(zip(names, values, strict=True)))
        print("{:32}{:>8}{:>20}{:>10}{:>17}".format(*values), flush=True)
        write_csv(TABLE, rows)
    return None


if __name__ == "__main__":
    main()

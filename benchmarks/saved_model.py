"""Does timm alone get from models/finetuned what the pipeline reports? `python
benchmarks/saved_model.py`

Runs the saved folder in float32 on the original test images with timm's own PIL transform, nothing
of this project, and compares with plots/predictions.csv, which comes from activations stored in
half precision.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from tqdm import tqdm


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=None, help="only the first so many test images"
    )
    args = parser.parse_args()
    model = timm.create_model("local-dir:models/finetuned", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    images = np.load("data/subset/test_images.npy", mmap_mode="r")[: args.images]
    logits = [
        model(torch.stack([transform(Image.fromarray(image)) for image in some]))
        for some in tqdm(np.array_split(images, max(1, len(images) // 32)), disable=None)
    ]
    confidence, classes = torch.cat(logits).softmax(dim=1).max(dim=1)
    names = model.pretrained_cfg["label_names"]
    with Path("plots/predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[: args.images]
    same = np.array([names[k] == row["predicted"] for k, row in zip(classes, rows, strict=True)])
    right = np.array([names[k] == row["actual"] for k, row in zip(classes, rows, strict=True)])
    reported = np.array([row["predicted"] == row["actual"] for row in rows])
    shift = np.abs(confidence.numpy() - np.array([float(row["confidence"]) for row in rows]))[same]
    print(f"images                          {len(rows)}")
    print(f"same class                      {same.sum()} ({same.mean():.4%})")
    print(f"accuracy, pipeline              {reported.mean():.4f}")
    print(f"accuracy, timm alone in float32 {right.mean():.4f}")
    print(f"difference in confidence        mean {shift.mean():.1e}, largest {shift.max():.1e}")


if __name__ == "__main__":
    main()

"""Which prior keeps one temperature sensible on few validation images? `python
benchmarks/temperature.py` prints the table of docs/benchmarks.md.

Logits of ten classes are drawn, and labels from their softmax, so the true temperature is known. A
temperature is fitted on some images. Its loss is measured on 3,000 others, above the loss with the
true one.
"""

import argparse

import numpy as np

from vit_finetune.training.temperature import fit_temperature, quality

SIZES = (5, 10, 20, 50, 200, 1000)
TEMPERATURES = (0.4, 0.7, 1.0, 1.5, 2.5)
SPREADS = (2.0, 4.0, 8.0)  # of the logits: accuracies of about 0.55, 0.75, 0.88
OTHERS = 3000
WAYS = {  # name -> images added, of which half are wrong; standard deviation of log T
    "likelihood alone": (0, 1e6),
    "prior of log T": (0, 0.5),
    "one image": (1, 1e6),
    "one image and prior of log T (here)": (1, 0.5),
    "two images (Platt)": (2, 1e6),
    "two images and prior of log T": (2, 0.5),
}


def draw(rng: np.random.Generator, images: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, 10) that are true as they are, and labels (N,)."""
    logits = rng.normal(size=(images, 10))
    logits[np.arange(images), rng.integers(10, size=images)] += 1
    logits *= spread
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)
    return logits, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="draws of each kind (%(default)s)")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    losses: dict[tuple[str, int], list[float]] = {}
    for spread in SPREADS:
        others, other_labels = draw(rng, OTHERS, spread)
        best = quality(others, other_labels).nll
        for size in SIZES:
            for temperature in TEMPERATURES * args.times:
                logits, labels = draw(rng, size, spread)
                losses.setdefault(("no temperature", size), []).append(
                    quality(others * temperature, other_labels).nll - best
                )
                for name, (added, spread_of_log) in WAYS.items():
                    fitted = fit_temperature(logits * temperature, labels, added, spread_of_log)
                    loss = quality(others * temperature / fitted, other_labels).nll
                    losses.setdefault((name, size), []).append(loss - best)
    print("| | " + " | ".join(f"{size:,}" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for name in ("no temperature", *WAYS):
        means = [f"{np.mean(losses[name, size]):.3f}" for size in SIZES]
        print(f"| {name} | " + " | ".join(means) + " |")


if __name__ == "__main__":
    main()

"""Does the page of `export page.html` answer as `predict`? In headless Chromium, without a network:
`python benchmarks/browser.py page.html`, in the folder of a finished run.

The images: test images as PNG, and photographs that scikit-learn and matplotlib ship, cut, resized
and turned at random, as JPEG or PNG. Writes a row for each image to benchmarks/browser.csv.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import psutil
import sklearn
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.browser import chromium

from vit_finetune.core.files import write_csv
from vit_finetune.prediction.predictor import Predictor

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = [
    Path(sklearn.__file__).parent / "datasets/images/china.jpg",
    Path(sklearn.__file__).parent / "datasets/images/flower.jpg",
    Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg",
]
LONGEST = (200, 4000)  # pixels of the longer side of a photograph
ORIENTATION = 0x0112  # in EXIF
ANSWERS = """
return [...document.querySelectorAll(".card")].map((card) =>
  [card.querySelector("p").textContent, card.querySelector("li span")?.textContent,
   card.querySelector("data")?.value]);
"""
SECONDS = "return performance.getEntriesByName('classify').map((entry) => entry.duration / 1000)"
REQUESTS = "return performance.getEntriesByType('resource').map((entry) => entry.name)"


def write_test_images(folder: Path, count: int) -> Iterator[Path]:
    for number, image in enumerate(np.load("data/subset/test_images.npy", mmap_mode="r")[:count]):
        path = folder / f"test-{number:04}.png"
        Image.fromarray(image).save(path)
        yield path


def write_photographs(folder: Path, count: int) -> Iterator[Path]:
    rng = np.random.default_rng(0)
    sources = [Image.open(path).convert("RGB") for path in SHIPPED]
    for number in range(count):
        photograph = random_part(rng, sources[number % len(sources)])
        exif = Image.Exif()
        exif[ORIENTATION] = int(rng.integers(1, 9))
        path = folder / f"photograph-{number:04}.{'png' if number % 2 else 'jpg'}"
        photograph.save(path, quality=90, exif=exif)
        yield path


def random_part(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    width, height = (rng.uniform(0.3, 1, size=2) * image.size).astype(int)
    left = rng.integers(image.width - width + 1)
    top = rng.integers(image.height - height + 1)
    scale = np.exp(rng.uniform(*np.log(LONGEST))) / max(width, height)
    size = (max(int(width * scale), 1), max(int(height * scale), 1))
    return image.crop((left, top, left + width, top + height)).resize(size, Image.LANCZOS)


def answers_of_predict(model: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    predictor = Predictor(model, "cpu")
    for file in tqdm(files, desc="predict", disable=None):
        photograph = predictor.read(file.name, file, draw=False)
        probability, label = predictor.probabilities([photograph.pixels])[0].max(dim=0)
        yield {"class": predictor.classes[label], "probability": float(probability)}


def answers_of_page(page: Path, files: list[Path]) -> list[dict[str, Any]]:
    with chromium(1440, 900) as driver:
        driver.set_network_conditions(offline=True, latency=0, throughput=0)
        driver.get(page.resolve().as_uri())
        status = driver.find_element("id", "status")
        while status.text != "Ready":
            time.sleep(1)
        before = cpu_seconds(driver)
        driver.find_element("id", "files").send_keys("\n".join(map(str, files)))
        while not status.text.endswith(" classified"):
            time.sleep(1)
        spent = (cpu_seconds(driver) - before) / len(files)
        print(f"all of Chromium: {spent:.2f} CPU seconds an image")
        seconds = driver.execute_script(SECONDS)
        rows = driver.execute_script(ANSWERS)
        assert driver.execute_script(REQUESTS) == []
        assert driver.get_log("browser") == []
    assert [row[0] for row in rows] == [file.name for file in files]
    return [
        {"class": label, "probability": float(probability), "seconds": time}
        for (_, label, probability), time in zip(rows, seconds, strict=True)
    ]


def cpu_seconds(driver: Any) -> float:
    """CPU time of the browser, which other work on the machine does not lengthen."""
    processes = psutil.Process(driver.service.process.pid).children(recursive=True)
    times = [process.cpu_times() for process in processes]
    return sum(spent.user + spent.system for spent in times)


def as_row(file: Path, ours: Mapping[str, Any], pages: Mapping[str, Any]) -> dict[str, str]:
    return {
        "images": file.stem.split("-")[0],
        "number": file.stem.split("-")[1],
        "predict": ours["class"],
        "page": pages["class"],
        "predict_probability": f"{ours['probability']:.4f}",
        "page_probability": f"{pages['probability']:.4f}",
        "seconds": f"{pages['seconds']:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, help="from python -m vit_finetune.export")
    parser.add_argument("--model", type=Path, default=Path("models/finetuned"))
    parser.add_argument("--images", type=int, default=1000, help="test images (%(default)s)")
    parser.add_argument("--photographs", type=int, default=200, help="(%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [
            *write_test_images(Path(folder), args.images),
            *write_photographs(Path(folder), args.photographs),
        ]
        pages = answers_of_page(args.page, files)
        ours = answers_of_predict(args.model, files)
        rows = [as_row(*answers) for answers in zip(files, ours, pages, strict=True)]
    write_csv(ROOT / "benchmarks/browser.csv", rows)
    same = sum(row["predict"] == row["page"] for row in rows)
    print(f"{same:,} of {len(rows):,} images: the same class")
    print(f"{args.page}: {args.page.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

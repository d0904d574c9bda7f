"""`python benchmarks/maps.py NAME FOLDER`: which map is best on a finished run, by paired
intervals.

The maps of the test images that the stage `attention` judges are made again, and each is compared
with gradient rollout and with relevance on the same images and the same mosaics: by deletion and
insertion, and by the share of the positive part on the right image of 2 x 2 and of 3 x 3. Rows are
added to benchmarks/maps.csv; those of the same NAME are replaced.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from vit_finetune.attention.judge import cells, faithfulness_of
from vit_finetune.attention.maps import MapMaker
from vit_finetune.attention.pointing import cell_share
from vit_finetune.attention.sample import draw_mosaics, draw_sample, read_predicted_images
from vit_finetune.core.files import read_csv, write_csv
from vit_finetune.intervals import mean
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import class_names, load_model

TABLE = Path(__file__).with_suffix(".csv")
RIVALS = ("gradient rollout", "relevance")
IMAGES = 200
MOSAICS = 64


def differences(name: str, folder: Path, count: int) -> list[dict]:
    """A row for each map and each measure: its value, and its difference from each rival.

    Args:
        count: of mosaics, for each size of them.
    """
    classes = class_names(folder / "models/finetuned")
    model = load_model(folder / "models/finetuned")
    preprocess = preprocessing(model, None)
    predictions = str(folder / "plots/predictions.csv")
    test = read_predicted_images(str(folder / "data/subset"), predictions, classes)
    rng = np.random.default_rng(0)
    maker = MapMaker(model)
    rows = []

    sample = draw_sample(test, preprocess, IMAGES, rng)
    maps = maker.maps(sample.pixels, sample.predicted)
    with torch.no_grad():
        curves = faithfulness_of(model, sample, maps, rng)
    for method in maps:
        row = {"run": name, "measure": "score", "map": method, "n": len(sample.pixels)}
        row |= cells("value", curves[method].score())
        for rival in RIVALS:
            compared = None if rival == method else curves[method].score(curves[rival])
            row |= cells(f"minus_{rival.replace(' ', '_')}", compared)
        rows.append(row)

    for side in (2, 3):
        mosaics = draw_mosaics(test, preprocess, count, rng, side)
        found = maker.maps(mosaics.pixels, mosaics.classes)
        shares = {method: cell_share(one, mosaics.cells, side) for method, one in found.items()}
        for method, share in shares.items():
            row = {"run": name, "measure": f"mosaic {side} x {side}", "map": method, "n": count}
            row |= cells("value", mean(share))
            for rival in RIVALS:
                compared = None if rival == method else mean(share - shares[rival])
                row |= cells(f"minus_{rival.replace(' ', '_')}", compared)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="what the rows are called")
    parser.add_argument("folder", type=Path, help="of a finished run")
    parser.add_argument("--mosaics", type=int, default=MOSAICS, help="of each size")
    arguments = parser.parse_args()
    before = read_csv(TABLE) if TABLE.is_file() else []
    kept = [row for row in before if row["run"] != arguments.name]
    rows = differences(arguments.name, arguments.folder, arguments.mosaics)
    write_csv(TABLE, [*kept, *rows])
    for row in rows:
        print(", ".join(str(value) for value in row.values()))


if __name__ == "__main__":
    main()

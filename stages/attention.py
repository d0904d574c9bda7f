"""attention: models/finetuned and pretrained, test images, predictions -> attention/, metrics,
curves, pictures"""

import numpy as np
import torch

from vit_finetune.attention import gallery
from vit_finetune.attention.figures import draw_all
from vit_finetune.attention.judge import STEPS, judge
from vit_finetune.attention.maps import MapMaker
from vit_finetune.attention.pixels import PixelGrid
from vit_finetune.attention.sample import (
    choose_gallery,
    draw_mosaics,
    draw_sample,
    read_predicted_images,
)
from vit_finetune.core.device import resolve_precision, set_up_torch
from vit_finetune.core.files import new_folder, write_bytes, write_csv, write_json
from vit_finetune.core.process import progress, run_stage
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import class_names, load_model
from vit_finetune.params import read_params
from vit_finetune.params.attention import Attention
from vit_finetune.params.model import Model
from vit_finetune.style import font_warnings, png

MOSAICS = 64


def main() -> None:
    params = read_params()
    settings = params.section(Attention)
    device = set_up_torch("cpu", params.runtime.threads)  # every matrix and its gradient in float32
    quick = resolve_precision(
        "float32" if params.section(Model).precision == "float32" else "auto", device
    )
    model, pretrained = load_model("models/finetuned"), load_model("models/pretrained")
    classes, preprocess = class_names("models/finetuned"), preprocessing(model, None)
    test = read_predicted_images("data/subset", "plots/predictions.csv", classes)
    maker = MapMaker(model, settings.fusion, settings.discard_ratio, settings.batch_size)
    grid = PixelGrid.of(test.images.shape[1:3], preprocess, maker.layout.grid)

    rng = np.random.default_rng(params.seed)
    sample = draw_sample(test, preprocess, settings.sample, rng)
    mosaics = draw_mosaics(test, preprocess, min(len(sample.rows), MOSAICS), rng)
    with progress(range(STEPS), "attention: analysis", "step", total=STEPS) as bar:
        judgement = judge(
            maker, pretrained, sample, mosaics, test.above_chance, params.seed, bar.update, quick
        )
    rows = choose_gallery(test, settings.gallery, rng)
    shown = test.take(rows)
    filled = gallery.fill_gallery(
        maker, preprocess(torch.from_numpy(shown.images)), rows, shown, len(classes)
    )
    relevance = judgement.maps["relevance"]
    relevance, drawn = gallery.relevance_by_class(maker, test, preprocess, sample, relevance, rng)
    means = gallery.class_means(relevance, test.predicted[drawn], test.labels[drawn], classes)

    with new_folder("attention") as folder:
        gallery.write_page(
            folder / "index.html", filled, grid, classes, maker.layout.prefix, judgement
        )
        gallery.write_tensors(folder, filled, judgement.maps, sample.rows, maker.layout.prefix)
        write_csv(folder / "distance.csv", gallery.distance_rows(judgement.distances))
    write_json("metrics/attention.json", judgement.metrics)
    for name, table in judgement.tables.items():
        write_csv(f"plots/{name}.csv", table)
    pictures = draw_all(filled, judgement, means, grid, classes)
    for name, picture in pictures.items():
        write_bytes(f"plots/{name}.png", png(picture))
    for warning in font_warnings(pictures.values()):
        print(f"attention: warning: {warning}")


if __name__ == "__main__":
    run_stage("attention", main, smaller="attention.batch_size")

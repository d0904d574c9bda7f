"""attention: models/finetuned and pretrained, test images, predictions -> attention/, metrics, curves, pictures"""

import numpy as np
import torch

from vit_finetune import figures, gallery
from vit_finetune.analysis import METHODS, STEPS, Reader, band_rows, judge
from vit_finetune.attention import PixelGrid, token_layout
from vit_finetune.backbone import class_names, load_model, preprocessing
from vit_finetune.faithfulness import FRACTIONS, mosaics
from vit_finetune.files import new_folder, read_csv, read_split, write_csv, write_json
from vit_finetune.params import read_params
from vit_finetune.params.attention import Attention
from vit_finetune.runtime import progress, run_stage, set_up_torch
from vit_finetune.viewer import render


def main() -> None:
    params = read_params()
    settings = params.section(Attention)
    set_up_torch("cpu", params.runtime.threads)  # every matrix and its gradient in float32
    model, pretrained = load_model("models/finetuned"), load_model("models/pretrained")
    classes, layout, preprocess = class_names("models/finetuned"), token_layout(model), preprocessing(model, None)
    images, labels = (np.array(array) for array in read_split("data/subset", "test", "images", "labels"))
    predicted = np.array([classes.index(row["predicted"]) for row in read_csv("plots/predictions.csv")])
    reader = Reader(model, layout, settings.fusion, settings.discard_ratio, settings.batch_size)
    size = images.shape[1:3]
    grid = PixelGrid(size, preprocess.resized(*size), preprocess.input_size, layout.grid)

    rng = np.random.default_rng(params.seed)
    count = min(settings.sample, len(images))
    sample = np.sort(rng.choice(len(images), count, replace=False))
    tiles, sources, quadrants = mosaics(images, labels, count, rng)
    asked = labels[sources[np.arange(count), quadrants]]
    analysis = judge(
        reader,
        pretrained,
        preprocess(torch.from_numpy(images[sample])),
        torch.from_numpy(predicted[sample]),
        torch.from_numpy(labels[sample]),
        (preprocess(torch.from_numpy(tiles)), torch.from_numpy(asked), torch.from_numpy(quadrants)),
        params.seed,
    )
    found = list(progress(analysis, "attention: analysis", "step", total=STEPS))[-1]
    assert found is not None

    rows = gallery.choose(predicted == labels, min(settings.gallery, len(images)), rng)
    shown = images[rows], labels[rows], predicted[rows]
    chosen = gallery.read_gallery(reader, preprocess(torch.from_numpy(shown[0])), rows, *shown, len(classes))
    means = gallery.class_means(found.maps["relevance"], predicted[sample], len(classes))
    with new_folder("attention") as folder:
        gallery.write_tensors(folder, chosen, found.maps, sample, layout.prefix)
        page = render(
            gallery.page_records(chosen, grid),
            title="What the model attends to",
            classes=classes,
            prefix_names=layout.prefix,
            methods=METHODS,
            facts=gallery.facts(found.report),
        )
        (folder / "index.html").write_text(page, encoding="utf-8")
    write_json("metrics/attention.json", found.report)
    for kind, bands in found.bands.items():
        write_csv(f"plots/{kind}.csv", band_rows(bands))
    write_csv("plots/attention_distance.csv", gallery.distance_rows(found.distances))
    write_csv("plots/attention_spread.csv", gallery.spread_rows(found.report))
    painted = gallery.painted_maps(chosen, grid)
    montage = figures.attention_montage(list(shown[0]), painted, *shown[1:], classes, unit="share of its maximum")
    figures.save_png(montage, "plots/attention_montage.png")
    figures.save_png(figures.block_head_grid(chosen.heads[0].numpy()), "plots/attention_blocks.png")
    figures.save_png(figures.class_mean_maps(means, classes, unit="relevance"), "plots/attention_classes.png")
    figures.save_png(figures.distance_plot(*found.distances.numpy()), "plots/attention_distance.png")
    curves = figures.curves_plot(np.array(FRACTIONS), found.bands["deletion"], found.bands["insertion"])
    figures.save_png(curves, "plots/faithfulness.png")


if __name__ == "__main__":
    run_stage("attention", main)

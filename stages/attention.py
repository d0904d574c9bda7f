"""attention: models/finetuned and pretrained, test images, predictions -> attention/, metrics,
curves, pictures"""

import numpy as np
import torch

from vit_finetune.attention import bars, figures, gallery, judge, maps, page, pixels, sample
from vit_finetune.core.device import resolve_precision
from vit_finetune.core.files import new_folder, write_bytes, write_csv, write_json
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import class_names, load_model
from vit_finetune.stage import Stage
from vit_finetune.style import darken, font_warnings, png
from vit_finetune.verdict import BARS, bars_in_words

MOSAICS = 64
MOSAICS_3X3 = 32


def main(stage: Stage) -> None:
    settings = stage.params.attention
    precision = stage.params.model.precision
    seed = stage.params.seed

    device = stage.device()
    fast_precision = resolve_precision("float32" if precision == "float32" else "auto", device)
    model = load_model("models/finetuned").to(device)
    pretrained = load_model("models/pretrained").to(device)
    classes = class_names("models/finetuned")
    preprocess = preprocessing(model, None)

    def pixels_of(images: torch.Tensor) -> torch.Tensor:
        return preprocess(images.to(device))

    test = sample.read_predicted_images("data/subset", "plots/predictions.csv", classes)
    maker = maps.MapMaker(model, settings.fusion, settings.discard_ratio, settings.batch_size)

    rng = np.random.default_rng(seed)
    judged = sample.draw_sample(test, pixels_of, settings.sample, rng)
    count = min(len(judged.rows), MOSAICS)
    mosaics = sample.draw_mosaics(test, pixels_of, count, rng)
    mosaics_3x3 = sample.draw_mosaics(test, pixels_of, min(count, MOSAICS_3X3), rng, side=3)
    trial = sample.Trial(judged, mosaics, mosaics_3x3, test.above_chance)
    with stage.progress(range(judge.STEPS), "step", total=judge.STEPS) as bar:
        judgement = judge.judge(maker, pretrained, trial, seed, bar.update, fast_precision)

    rows = sample.choose_gallery(test, settings.gallery)
    shown = test.take(rows)
    shown_pixels = pixels_of(torch.from_numpy(shown.images))
    filled = gallery.fill_gallery(maker, shown_pixels, rows, shown)
    relevance, drawn = gallery.relevance_by_class(
        maker, test, pixels_of, judged, judgement.maps["relevance"], rng
    )
    means = gallery.class_means(relevance, test.predicted[drawn], test.labels[drawn], classes)
    if test.content is not None:
        drawn_images = test.take(judged.rows)
        found = bars.exchange_bars(model, drawn_images, pixels_of, rng)
        judgement.metrics["bars"] = found
        tell = stage.warn if found.get("decides") == BARS else stage.say
        tell(bars_in_words(judgement.metrics))
    common = page.Common(
        classes=classes,
        prefix=maker.layout.prefix,
        methods=page.methods_in_order(judgement.tables["attention_maps"]),
        kept=filled.on_page,
        grid=pixels.PixelGrid.of(test.images.shape[1:3], preprocess, maker.layout.grid),
    )

    pictures = figures.draw_all(filled.images, judgement, means, common)
    for name, picture in pictures.items():
        write_bytes(f"plots/{name}.png", png(picture))
    with new_folder("attention") as folder:
        html = page.attention_page(filled.images, common, judgement)
        (folder / "index.html").write_text(html, encoding="utf-8")
        gallery.write_tensors(folder, filled, judgement.maps, judged.rows, maker.layout.prefix)
        write_csv(folder / "distance.csv", gallery.distance_rows(judgement.distances))
        for name, picture in pictures.items():  # the same pictures for a dark page
            darken(picture)
            write_bytes(folder / "dark" / f"{name}.png", png(picture))
    write_json("metrics/attention.json", judgement.metrics)
    for name, table in judgement.tables.items():
        write_csv(f"plots/{name}.csv", table)
    stage.record_versions()
    for warning in font_warnings(pictures.values()):
        stage.warn(warning)

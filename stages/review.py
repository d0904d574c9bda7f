"""review: data/subset, features, data/corrections.csv -> review.html, plots/review.csv,
plots/review.png, metrics/review.json"""

from vit_finetune.core.files import write_bytes, write_csv, write_json, write_text
from vit_finetune.data.corrections import COLUMNS, CORRECTIONS
from vit_finetune.data.tables import read_table
from vit_finetune.review import figures, page, suspects
from vit_finetune.stage import Stage
from vit_finetune.style import font_warnings, png

TABLE = "plots/review.csv"


def main(stage: Stage) -> None:
    settings = stage.params.review
    images = suspects.Images.read("data/subset", "data/pretrained_features", "data/embedded")
    corrections = [row for _, row in read_table(CORRECTIONS, COLUMNS)]  # `subset` has checked them

    found = suspects.review(
        images,
        suspects.kept_rows(images, corrections),
        stage.params.seed,
        settings.wrong_labels,
        settings.copies,
    )
    write_csv(TABLE, suspects.table(images, found.suspects), suspects.COLUMNS)
    write_json("metrics/review.json", suspects.metrics(found))
    write_text("review.html", page.compose(images, found, corrections))
    picture = figures.first_suspects(images, found.suspects)
    write_bytes("plots/review.png", png(picture))
    for warning in font_warnings([picture]):
        stage.warn(warning)
    if found.not_judged:
        stage.warn(suspects.not_judged_in_words(found.not_judged))
    if found.mirrored:
        stage.warn(
            f"{found.mirrored} near-copies under another label are mirror images: if left and "
            "right are different classes, set adapt.flip to false"
        )
    stage.say(f"{suspects.in_words(found.suspects)} (review.html, {TABLE})")
    stage.record_versions()

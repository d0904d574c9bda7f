"""adapt: data/subset, pretrained weights -> models/pretrained, models/adapted,
plots/adaptation.csv"""

from vit_finetune.core.checkpoints import checkpoint_folder, forget_checkpoints
from vit_finetune.core.device import resolve_precision, set_up_torch
from vit_finetune.core.files import new_folder, read_json, write_json
from vit_finetune.core.process import run_stage
from vit_finetune.core.ranks import Ranks, side_by_side
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import save_model, weights_digest
from vit_finetune.params import Params, read_params
from vit_finetune.training.adaptation import RECORD, adopt, check_later_stages, with_head
from vit_finetune.training.recipe import History, Recipe, read_training_images
from vit_finetune.training.results import train_with_bar, write_adaptation
from vit_finetune.training.settings import Settings


def main() -> None:
    params = read_params()
    with side_by_side(params.runtime.processes) as ranks:
        adapt(params, ranks)


def adapt(params: Params, ranks: Ranks) -> None:
    """What each of the processes does: its own shards of every batch; the first one writes."""
    options, adaptation, runtime = params.model, params.adapt, params.runtime
    recipe = Recipe(
        Settings("adapt", **adaptation.model_dump(exclude={"parameters"})), params.seed, ranks
    )
    device = set_up_torch(runtime.device, runtime.threads, ranks.local_rank, ranks.local_size)
    precision = resolve_precision(options.precision, device)
    backbone = build_model(
        options.name, pretrained=options.pretrained, image_size=options.image_size, seed=params.seed
    )
    preprocess = preprocessing(backbone, options.crop_pct)
    model = with_head(backbone, len(read_json("data/subset/dataset.json")["classes"]))
    notes, history = check_later_stages(model, params), History()
    if adaptation.epochs:
        freeze(model, "all", adaptation.parameters)
        split_model = SplitModel(
            to_device(model, device, precision), "all", preprocess, device, precision
        )
        data, images = read_training_images("data/subset", params.embed.flip)
        for note in notes + recipe.without_effect(split_model):
            print(f"adapt: {note}", flush=True)
        keys = (
            adaptation.model_dump(),
            str(precision),
            images,
            len(data.views),
            weights_digest(backbone),
        )
        checkpoint = checkpoint_folder("adapt", params.seed, *keys) / "last.pt"
        history = train_with_bar(recipe, split_model, data, checkpoint, write_adaptation)
    if ranks.first:
        with new_folder("models/pretrained") as folder:
            save_model(backbone, folder, preprocess)
        record = {
            "precision": str(precision).removeprefix("torch."),
            **adopt(backbone, model, history),
        }
        with new_folder("models/adapted") as folder:
            save_model(backbone, folder, preprocess)
            write_json(folder / RECORD, record)
        write_adaptation(history)
        forget_checkpoints("adapt")


if __name__ == "__main__":
    run_stage("adapt", main, several=True, smaller="adapt.batch_size")

"""adapt: data/subset, pretrained weights -> models/pretrained, models/adapted,
plots/adaptation.csv"""

from vit_finetune.core.device import resolve_precision
from vit_finetune.core.files import new_folder, read_json, write_json
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import save_model, weights_digest
from vit_finetune.params.adapt import Adapt
from vit_finetune.params.embed import Embed
from vit_finetune.params.model import Model
from vit_finetune.stage import Stage
from vit_finetune.training.adaptation import RECORD, adopt, check_later_stages, with_head
from vit_finetune.training.recipe import History, Recipe, read_training_images
from vit_finetune.training.results import train_with_bar, write_adaptation
from vit_finetune.training.settings import Settings


def main(stage: Stage) -> None:
    options = stage.params.section(Model)
    settings = stage.params.section(Adapt)
    seed = stage.params.seed
    training = Settings("adapt", **settings.model_dump(exclude={"parameters"}))
    recipe = Recipe(training, seed, stage.ranks)

    device = stage.device()
    precision = resolve_precision(options.precision, device)
    backbone = build_model(
        options.name, pretrained=options.pretrained, image_size=options.image_size, seed=seed
    )
    preprocess = preprocessing(backbone, options.crop_pct)
    model = with_head(backbone, len(read_json("data/subset/dataset.json")["classes"]))
    for warning in check_later_stages(model, stage.params):
        stage.say(warning)

    history = History()
    if settings.epochs:
        freeze(model, "all", settings.parameters)
        placed = to_device(model, device, precision)
        split_model = SplitModel(placed, "all", preprocess, device, precision)
        history = train(stage, recipe, split_model, weights_digest(backbone))

    if stage.ranks.is_first:
        with new_folder("models/pretrained") as folder:
            save_model(backbone, folder, preprocess)
        adopted = adopt(backbone, model, history)
        record = {"precision": str(precision).removeprefix("torch."), **adopted}
        with new_folder("models/adapted") as folder:
            save_model(backbone, folder, preprocess)
            write_json(folder / RECORD, record)
        write_adaptation(history)
        stage.forget_checkpoints()


def train(stage: Stage, recipe: Recipe, split_model: SplitModel, pretrained: str) -> History:
    """Train the whole model; `pretrained` is the hash of the weights it starts from."""
    flip = stage.params.section(Embed).flip
    data, images = read_training_images("data/subset", flip)
    for warning in recipe.without_effect(split_model):
        stage.say(warning)
    settings = stage.params.section(Adapt).model_dump()
    checkpoint = stage.checkpoint(
        recipe.seed, settings, str(split_model.precision), images, len(data.views), pretrained
    )
    return train_with_bar(recipe, split_model, data, checkpoint / "last.pt", write_adaptation)

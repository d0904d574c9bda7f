"""A short training of the whole backbone, before it is frozen.

Images that are unlike those of pretraining at the input, such as 32 pixels enlarged to 224, are
foreign to the first blocks, which a frozen backbone cannot change (Lee et al., arXiv:2210.11466).
Once it has adapted, it is frozen.
"""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vit_finetune.model.freezing import count_parameters, freeze
from vit_finetune.training.recipe import History

if TYPE_CHECKING:
    from vit_finetune.params import Params


def with_head(backbone: Any, classes: int) -> Any:
    """A copy of a model without a head, with a head of zeros for so many classes."""
    model = copy.deepcopy(backbone)
    with torch.random.fork_rng(devices=[]):  # timm draws the head that is set to zeros here
        model.reset_classifier(classes)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return model.eval()


def check_later_stages(model: nn.Module, params: "Params") -> list[str]:
    """Stop now what `embed` or `train` would stop after the adaptation; returns what the user
    should know.

    Raises:
        UserError: the model has fewer blocks than are to be trained, or no parameter of a name.
    """
    blocks = params.freeze.trainable_blocks
    freeze(model, blocks, params.freeze.parameters)
    if blocks == "all" and params.adapt.epochs:
        return [
            "freeze.trainable_blocks is all, so everything is trained twice, here and in train; set adapt.epochs to 0"
        ]
    return []


def adopt(backbone: nn.Module, model: nn.Module, history: History) -> dict[str, int]:
    """Give the backbone the adapted weights, unless the untouched one was as good on the validation
    images.

    Returns:
        Parameters that were adapted, and the best epoch; both 0 where the backbone stays as it was.
    """
    if not history.best_epoch:
        if history.rows:
            print(
                "adapt: no epoch was better on the validation images than a probe of the pretrained backbone, "
                f"{history.best['val_accuracy']:.4f}, which therefore stays as it was"
            )
        return {"parameters_adapted": 0, "best_epoch": 0}
    adapted = model.cpu().state_dict()
    backbone.load_state_dict({name: adapted[name] for name in backbone.state_dict()})
    return {
        "parameters_adapted": count_parameters(model)[0],
        "best_epoch": history.best_epoch,
    }

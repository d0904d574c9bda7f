"""A short training of the whole backbone, before it is frozen.

Images that differ from those of pretraining at the input, such as 32 pixels enlarged to 224, are
foreign to the first blocks, which a frozen backbone cannot change (Lee et al., arXiv:2210.11466).
Once it has adapted, it is frozen.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vit_finetune.model.adapted import Adapted
from vit_finetune.model.build import kept_head, known_classes
from vit_finetune.model.freezing import count_parameters, freeze
from vit_finetune.params import Params
from vit_finetune.training.history import History


def find_head(
    params: Params, backbone: Any, classes: Sequence[str]
) -> tuple[dict[str, Tensor] | None, str | None]:
    """The head of a model that knows these classes already, if training is to start from one, and
    what to say of the head that the model has."""
    name = params.model.name
    if not params.model.pretrained or params.adapt.head_init == "zeros":
        return None, None
    known = known_classes(backbone)
    head = kept_head(name, backbone, classes)
    if head is not None:
        return head, f"starts with the head of {name}, which knows the same {len(known)} classes"
    if not known:
        return None, None
    some = ", ".join(known[:4])
    return None, (
        f"the head of {name} is not used: it knows {len(known)} other classes, such as {some}; "
        "a linear probe is the start"
    )


def with_head(backbone: Any, classes: int, head: dict[str, Tensor] | None = None) -> Any:
    """A copy of a model without a head, with a head for so many classes.

    Args:
        head: its `weight` (K, D) and `bias` (K,); zeros if there is none.
    """
    model = copy.deepcopy(backbone)
    with torch.random.fork_rng(devices=[]):  # timm draws the weights that become zeros here
        model.reset_classifier(classes)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    if head is not None:
        model.head.load_state_dict(head)
    return model.eval()


def check_later_stages(model: nn.Module, params: Params) -> list[str]:
    """Stop now for what would stop `embed` or `train` after the adaptation.

    Nothing that is computed depends on `freeze` here, so `adapt` is not keyed on it.

    Returns:
        What a user should know.

    Raises:
        UserError: the model has fewer blocks than `freeze` wants to train, or no such parameters.
    """
    freeze(model, params.freeze.trainable_blocks, params.freeze.parameters)
    if params.freeze.trainable_blocks == "all" and params.adapt.epochs:
        return [
            "freeze.trainable_blocks is all, so everything is trained twice, here and in train; "
            "set adapt.epochs to 0"
        ]
    return []


def other_size(dataset: Mapping[str, Any], input_size: Sequence[int]) -> str | None:
    """What to say if images of the user are stored in another size than the model's input.

    Args:
        dataset: `image_shape`, and `fitted`: whether images of any size were brought to it.
        input_size: height and width.
    """
    stored = dataset["image_shape"][0]
    wanted = input_size[0]
    if not dataset["fitted"] or stored == wanted:
        return None
    if stored < wanted:
        effect = "they are enlarged, and detail that the files may have is lost"
    else:
        effect = "they are reduced, and what is stored beyond that has no use"
    return (
        f"images are stored with {stored} pixels (data.image_size), the model takes {wanted} "
        f"(model.image_size): {effect}"
    )


def adopt(
    backbone: nn.Module,
    model: nn.Module,
    history: History,
    precision: str,
    *,
    kept_head: bool = False,
    warnings: Sequence[str] = (),
) -> Adapted:
    """Give the backbone the adapted weights, unless the untouched one was clearly better.

    Args:
        history: of the adaptation; without rows if there was none.
        kept_head: whether the model started with a head of its own.
        warnings: what was said of the training.
    """
    probe_accuracy = None
    if history.rows:
        probe_accuracy = round(history.rows[0]["val_accuracy"], 6)
    parameters = 0
    if history.kept_epoch > 0:
        parameters, _ = count_parameters(model)
        adapted = model.cpu().state_dict()
        backbone.load_state_dict({name: adapted[name] for name in backbone.state_dict()})
    return Adapted(
        precision, parameters, history.kept_epoch, probe_accuracy, kept_head, list(warnings)
    )

"""Which parameters are trained."""

from torch import nn


def freeze(model: nn.Module, trainable_blocks: int | str) -> None:
    """Let gradients flow to the head alone (0), to head, final norm and the last k blocks, or to `all`.

    Raises:
        ValueError: the model has fewer blocks.
    """
    depth = len(model.get_submodule("blocks")._modules)
    if trainable_blocks != "all" and int(trainable_blocks) > depth:
        raise ValueError(
            f"freeze.trainable_blocks is {trainable_blocks}: the model has {depth} blocks; use 0 to {depth} or all"
        )
    model.requires_grad_(trainable_blocks == "all")
    modules = ["head"]
    if trainable_blocks not in ("all", 0):
        modules += ["norm", "fc_norm", *(f"blocks.{i}" for i in range(depth - int(trainable_blocks), depth))]
    for name in modules:
        model.get_submodule(name).requires_grad_(True)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable and frozen parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, trained in sizes if not trained)

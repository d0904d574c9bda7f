"""Which parameters are trained."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from vit_finetune.core.errors import UserError
from vit_finetune.model.families import family_of


def freeze(
    model: nn.Module,
    trainable_blocks: int | str,
    parameters: str | Sequence[str] = "all",
    key: str = "freeze.parameters",
) -> None:
    """Let gradients flow to what lies behind the freeze boundary, or to a part of it.

    Args:
        trainable_blocks: 0, the head alone; k, the last k blocks and all that follows the blocks;
            `all`.
        parameters: which of these learn: `all`, the `norms` alone, the `biases` alone (BitFit,
            arXiv:2106.10199), or a list of patterns of names, such as "blocks.*.attn.*". They apply
            in their order, and "!pattern" takes names away again. The head always learns.
        key: of params.yaml that they come from, for messages.

    Raises:
        UserError: the model has fewer blocks, or a pattern matches nothing behind the boundary.
    """
    behind = _behind_boundary(model, trainable_blocks)
    head = f"{family_of(model).heads[0]}."
    trained = _chosen(model, behind, parameters, key) | _starting_with(behind, (head,))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _behind_boundary(model: nn.Module, trainable_blocks: int | str) -> set[str]:
    """Names of the parameters that may be trained."""
    depth = len(model.get_submodule("blocks")._modules)
    if trainable_blocks != "all" and int(trainable_blocks) > depth:
        raise UserError(
            f"freeze.trainable_blocks is {trainable_blocks}: the model has {depth} blocks; "
            f"use 0 to {depth} or all"
        )
    family = family_of(model)
    # other heads than the first are not trained: `save_model` replaces them by it
    head, *unused = (f"{name}." for name in family.heads)
    names = {name for name, _ in model.named_parameters()}
    names -= _starting_with(names, tuple(unused))
    if trainable_blocks == "all":
        return names
    starts = [head]
    if trainable_blocks != 0:
        starts += [f"{module}." for module in family.after_blocks]
        starts += [f"blocks.{i}." for i in range(depth - int(trainable_blocks), depth)]
    return _starting_with(names, tuple(starts))


def _starting_with(names: set[str], starts: tuple[str, ...]) -> set[str]:
    return {name for name in names if name.startswith(starts)}


def _chosen(
    model: nn.Module, names: set[str], parameters: str | Sequence[str], key: str
) -> set[str]:
    if parameters == "all":
        return names
    if parameters == "biases":
        return {name for name in names if name.endswith("bias")}
    if parameters == "norms":
        modules = model.named_modules()
        norms = {name for name, module in modules if "norm" in type(module).__name__.lower()}
        return {name for name in names if name.rpartition(".")[0] in norms}
    chosen: set[str] = set()
    for pattern in parameters:
        matched = {name for name in names if fnmatchcase(name, pattern.removeprefix("!"))}
        if not matched:
            raise UserError(
                f"{key}: {pattern!r} matches no parameter that may be trained (those behind "
                f"freeze.trainable_blocks, in adapt all); there are "
                f"{', '.join(sorted(names)[:4])}, ... and {len(names)} in all"
            )
        chosen = chosen - matched if pattern.startswith("!") else chosen | matched
    return chosen


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable and frozen parameters."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in model.parameters()) - trainable

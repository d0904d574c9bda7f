"""Which parameters are trained."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from vit_finetune.core.errors import UserError
from vit_finetune.model.families import family_of


def freeze(
    model: nn.Module, trainable_blocks: int | str, parameters: str | Sequence[str] = "all"
) -> None:
    """Let gradients flow to what lies behind the freeze boundary, or to some of it.

    Args:
        trainable_blocks: 0, the head alone; k, the head, all that follows the blocks, and the last
            k blocks; `all`.
        parameters: of these `all`, the `norms` or the `biases` (BitFit, arXiv:2106.10199) alone, or
            a list of name patterns in order, such as "blocks.*.attn.*", where "!pattern" takes away
            again. The head always learns.

    Raises:
        UserError: the model has fewer blocks, or a pattern matches nothing behind the boundary.
    """
    depth = len(model.get_submodule("blocks")._modules)
    if trainable_blocks != "all" and int(trainable_blocks) > depth:
        raise UserError(
            f"freeze.trainable_blocks is {trainable_blocks}: the model has {depth} blocks; use 0 to {depth} or all"
        )
    family = family_of(model)
    # an unused head becomes the first one when saved
    head, *unused = (f"{name}." for name in family.heads)
    names = {name for name, _ in model.named_parameters() if not name.startswith(tuple(unused))}
    if trainable_blocks == "all":
        behind = names
    elif trainable_blocks == 0:
        behind = {name for name in names if name.startswith(head)}
    else:
        blocks = range(depth - int(trainable_blocks), depth)
        parts = (
            head,
            *(f"{part}." for part in family.after_blocks),
            *(f"blocks.{i}." for i in blocks),
        )
        behind = {name for name in names if name.startswith(parts)}
    trained = _chosen(model, behind, parameters) | {name for name in names if name.startswith(head)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _chosen(model: nn.Module, names: set[str], parameters: str | Sequence[str]) -> set[str]:
    if parameters == "all":
        return names
    if parameters == "biases":
        return {name for name in names if name.endswith("bias")}
    if parameters == "norms":
        norms = {
            name
            for name, module in model.named_modules()
            if "norm" in type(module).__name__.lower()
        }
        return {name for name in names if name.rpartition(".")[0] in norms}
    chosen: set[str] = set()
    for pattern in parameters:
        matched = {name for name in names if fnmatchcase(name, pattern.removeprefix("!"))}
        if not matched:
            raise UserError(
                f"freeze.parameters: {pattern!r} matches no parameter behind the freeze boundary (freeze."
                f"trainable_blocks); there are {', '.join(sorted(names)[:4])}, ... and {len(names)} in all"
            )
        chosen = chosen - matched if pattern.startswith("!") else chosen | matched
    return chosen


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable and frozen parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, trained in sizes if not trained)

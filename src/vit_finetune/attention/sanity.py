"""Does a map change with the weights? If not, it explains nothing (Adebayo et al. 2018,
arXiv:1810.03292)."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


def randomised(model: nn.Module, parts: Sequence[str], generator: torch.Generator) -> nn.Module:
    """A copy in which the parameters of the submodules `parts` are shuffled, each within itself.

    Adebayo et al. 2018 (arXiv:1810.03292); shuffling keeps every parameter's scale, so the signal
    survives. ValueError for a part without parameters.
    """
    changed = copy.deepcopy(model)
    for part in parts:
        parameters = [
            p for name, p in changed.named_parameters() if f"{name}.".startswith(f"{part}.")
        ]
        if not parameters:
            raise ValueError(
                f"no parameters in {part!r} of {type(model).__name__}; name a submodule such as "
                "'head'"
            )
        for parameter in parameters:
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.data = parameter.data.flatten()[order.to(parameter.device)].view_as(parameter)
    return changed


def rank_correlation(first: Tensor, second: Tensor) -> npt.NDArray[Any]:
    """Spearman's correlation of two maps per image, (B, G_h, G_w) twice -> (B,); equal values share
    their rank.

    0 where a map is constant: it says nothing about the other.
    """
    from scipy.stats import rankdata  # which takes a second and 40 MB to import

    a = rankdata(first.flatten(1).cpu().numpy(), axis=1)
    b = rankdata(second.flatten(1).cpu().numpy(), axis=1)
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 0))

import weakref
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.small_vits import RELPOS, SIDES, build
from vit_finetune.attention import gallery, judge, maps
from vit_finetune.attention.walk import Walk


@pytest.fixture(scope="module", params=[*SIDES, RELPOS])
def any_model(request) -> nn.Module:
    return build(request.param)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return build()


@pytest.fixture
def other_walks(monkeypatch) -> list[int]:
    """For each walk that a test begins: how many others still lived then."""
    living: weakref.WeakSet[Walk] = weakref.WeakSet()
    counts: list[int] = []

    class Counted(Walk):
        def __init__(self, *args: Any) -> None:
            counts.append(len(living))
            living.add(self)
            super().__init__(*args)

    for module in (gallery, judge, maps):
        monkeypatch.setattr(module, "Walk", Counted)
    return counts


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

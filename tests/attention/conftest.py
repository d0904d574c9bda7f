import numpy as np
import pytest
from torch import nn

from tests.small_vits import RELPOS, SIDES, build


@pytest.fixture(scope="module", params=[*SIDES, RELPOS])
def any_model(request) -> nn.Module:
    return build(request.param)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return build()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

"""Hashes that tell whether something is the same."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def key_of(*values: Any) -> str:
    """A hash of plain values, 16 characters: the same values, the same key."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def digest(*arrays: "NDArray[Any]") -> str:
    """SHA-256 over dtype, shape and bytes of arrays."""
    import numpy as np  # not by the stage runner, which limits its threads first

    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()

"""Other values have another hash, and the same values the same one, in any process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.project import ROOT
from vit_finetune.core.hashes import digest, key_of

BASE = np.arange(6, dtype=np.int32).reshape(2, 3)


@pytest.mark.parametrize(
    "other",
    [
        [BASE.astype(np.int64)],
        [BASE.view(np.uint32)],
        [BASE.view(np.float32)],
        [BASE.astype(">i4")],
        [BASE.reshape(3, 2)],
        [BASE.reshape(6)],
        [BASE.reshape(1, 2, 3)],
        [BASE.T],
        [BASE + np.eye(2, 3, dtype=np.int32)],
        [BASE[:1], BASE[1:]],
        [BASE, BASE],
        [BASE, BASE[:0]],
        [BASE[:0]],
        [],
    ],
)
def test_another_dtype_shape_content_or_number_of_arrays_gives_another_digest(other):
    assert digest(*other) != digest(BASE)


def test_the_digest_depends_on_the_order_of_arrays():
    assert digest(BASE, BASE + 1) != digest(BASE + 1, BASE)


def test_the_digest_is_of_the_values_not_of_how_they_lie_in_memory(tmp_path):
    np.save(tmp_path / "base.npy", BASE)
    mapped = np.load(tmp_path / "base.npy", mmap_mode="r")
    strided = np.repeat(BASE, 2, axis=1)[:, ::2]
    for same in (BASE.copy(), np.asfortranarray(BASE), mapped, strided):
        assert digest(same) == digest(BASE)


KEYED = [
    (), ("",), ("a",), ("ab",), ("a", "b"), ("b", "a"), (["a", "b"],), (["a"], ["b"]), ([],), ({},),
    ({"a": 1},), ({"a": 2},), ({"b": 1},), (None,), (True,), (False,), (0,), (1,), (1.0,), (1.5,),
    ("1",), ("True",), ("null",), (1, 1), (11,), ("é",), ("e",),
]  # fmt: skip


def test_keys_of_different_values_differ_and_are_fit_for_a_file_name():
    keys = {key_of(*values) for values in KEYED}
    assert len(keys) == len(KEYED)
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)


def test_the_key_of_the_same_values_is_the_same_in_another_process():
    script = "import json, sys; from vit_finetune.core.hashes import key_of\n" \
             "print(*(key_of(*values) for values in json.load(sys.stdin)))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(KEYED),
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [key_of(*values) for values in KEYED], done.stderr


@pytest.mark.parametrize("value", [Path("a"), {1, 2}, BASE])
def test_a_value_that_is_not_plain_has_no_key(value):
    with pytest.raises(TypeError, match="not JSON serializable"):
        key_of("a", value)

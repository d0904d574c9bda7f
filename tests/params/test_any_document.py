"""Whatever the document: its values are taken as written, or it is refused in lines that a terminal
can print."""

import copy
import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.params.edited import TEXT, VALUES, changed, complaint
from vit_finetune.core.errors import UserError
from vit_finetune.params import KEYS, SECTIONS, Params, check_params, read_params


@pytest.fixture(scope="module")
def odd_file(tmp_path_factory):
    """Where the property tests write their documents: one file for all examples."""
    return tmp_path_factory.mktemp("odd") / "params.yaml"


ODD = settings(max_examples=100, deadline=None)
# lone surrogates and controls too
CHARACTERS = st.text(st.characters(exclude_categories=()), max_size=8)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**200, 2**4000),
    st.floats(),
    CHARACTERS,
    st.sampled_from(["all", "auto", "cifar10", "digits", "folder", "norms", "mean", "yes", "1e-4"]),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(timezones=st.just(datetime.UTC)),
)
NAMES = st.sampled_from(["seed", *SECTIONS, *(key.split(".")[-1] for key in KEYS)])
HASHABLE = st.one_of(NAMES, SCALARS, st.tuples(SCALARS))
STRUCTURES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=6),
        st.sets(HASHABLE, max_size=3),
    ),
    max_leaves=12,
)
SNIPPETS = [
    "\t", "\n", " ", ":", "- ", "? ", "#", "'", '"', "{", "}", "[", "]", ",", "|", ">", "&a ", "*a",
    "<<: ", "---\n", "...\n", "%YAML 1.1\n---\n", "!!bool x", "!!float ''", "!!int x", "!!set ",
    "!!omap ", "!!binary x", "!!str ", "!!timestamp x", "2024-13-45", "1e-4", ".nan", "-.inf", "0x",
    "1_0", "~", "yes", "null", '"\\uD800"', "\x00", "\x85", "\u2028", "é", "😀", "all", "0", "-",
    "seed: 1\n", "  lr: 2\n",
]  # fmt: skip


def assert_params_or_lines(check, source):
    """`check()` gives Params, returned here, or a UserError of short printable lines that begin
    with the file."""
    try:
        params = check()
    except UserError as error:
        lines = str(error).split("\n")
        assert all(
            line.startswith(source) and line.isprintable() and len(line) < 800 for line in lines
        ), lines
        return None
    assert isinstance(params, Params)
    return params


def check_values(values):
    """Whatever is accepted is what was written."""
    params = assert_params_or_lines(lambda: check_params(values), "params.yaml")
    if params:
        assert params.model_dump() == values


def check_file(path, content):
    path.write_bytes(content)
    return assert_params_or_lines(lambda: read_params(path), str(path))


@ODD
@given(
    content=st.binary(max_size=60)
    | CHARACTERS.map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_no_file_of_random_bytes_or_text_gives_a_traceback(odd_file, content):
    check_file(odd_file, content)


@ODD
@given(pieces=st.lists(st.sampled_from([*SNIPPETS, "a", "seed", "train"]), max_size=15))
def test_no_file_of_yaml_fragments_gives_a_traceback(odd_file, pieces):
    check_file(odd_file, "".join(pieces).encode())


@ODD
@given(data=st.data())
def test_no_damaged_copy_of_the_real_file_gives_a_traceback(odd_file, data):
    text = TEXT
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6) | st.integers(0, 200))
        text = text[:at] + data.draw(st.sampled_from(["", *SNIPPETS])) + text[at + cut :]
    check_file(odd_file, text.encode())


@ODD
@given(document=STRUCTURES)
def test_no_structure_as_the_document_gives_a_traceback(document):
    check_values(document)


@ODD
@given(
    section=st.sampled_from(list(SECTIONS)),
    block=STRUCTURES | st.dictionaries(HASHABLE, STRUCTURES, max_size=6),
)
def test_no_structure_as_a_section_gives_a_traceback(section, block):
    check_values({**VALUES, section: block})


@settings(ODD, max_examples=250)
@given(key=st.sampled_from(list(KEYS)), value=STRUCTURES)
def test_no_structure_as_a_value_gives_a_traceback_or_is_taken_for_another(key, value):
    values = copy.deepcopy(VALUES)
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    check_values(values)


def test_aliases_that_unfold_without_end_are_refused_at_once():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True):
        bomb += f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    lines = complaint(changed(("train.lr", "*k"), text=bomb + TEXT)).splitlines()
    assert "params.yaml: train.lr is a list: it should be a valid number" in lines
    assert complaint(changed(("train", "&a {lr: *a}"))).startswith(
        "params.yaml: train.epochs is missing"
    )

"""The versions of the libraries that compute and draw."""

from importlib.metadata import version

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "pillow",
    "matplotlib",
    "vl-convert-python",
)


def library_versions() -> dict[str, str]:
    """As they are installed, by name; a build for one kind of machine has a suffix, as in
    `2.9.0+cpu`."""
    return {name: version(name) for name in LIBRARIES}


def released_versions() -> dict[str, str]:
    """Without the suffix of a build, so that machines with and without a GPU agree."""
    return {name: full.partition("+")[0] for name, full in library_versions().items()}

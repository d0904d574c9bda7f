"""ONNX Runtime Web, which runs a model in a browser: fetched with npm once, checked by its hash."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vit_finetune.core.errors import UserError
from vit_finetune.core.files import new_file

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
FILE_NAME = f"onnxruntime-web-{VERSION}.tgz"
# `npm view onnxruntime-web@1.30.0 dist.integrity`
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
MODULE = "package/dist/ort.wasm.bundle.min.mjs"
WASM = "package/dist/ort-wasm-simd-threaded.wasm"
TO_NAME_IT = (
    f"`npm pack {PACKAGE}` writes the file, also on another machine; name it: --runtime FILE"
)


@dataclass(frozen=True)
class Runtime:
    """The parts of ONNX Runtime Web that a page needs.

    Attributes:
        script: a JavaScript module that sets the global `ort`.
        wasm: the WebAssembly that it starts.
    """

    script: str
    wasm: bytes


def kept_runtime() -> Path:
    """Where the package is kept: in the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "vit-finetune" / FILE_NAME


def fetch_runtime(target: Path) -> None:
    """Write the package with npm, from the registry that npm is set to.

    Raises:
        UserError: npm is not installed, fails, or gives another file.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm, which fetches {PACKAGE}, is not installed; {TO_NAME_IT}")
    with tempfile.TemporaryDirectory() as folder:
        # without a network, npm tries for minutes if nothing says otherwise
        patience = ["--fetch-retries", "1", "--fetch-retry-mintimeout", "1000"]
        options = ["--pack-destination", folder, "--loglevel", "error", *patience]
        command = [npm, "pack", PACKAGE, *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = re.findall(r"^npm error (?!A complete log)(.*)", done.stderr, re.MULTILINE)
            reason = " ".join(lines)
            raise UserError(f"npm could not fetch {PACKAGE}: {reason}; {TO_NAME_IT}")
        with new_file(target) as partial:
            shutil.move(Path(folder) / FILE_NAME, partial)
            require_hash(partial)


def require_hash(file: Path) -> None:
    """UserError if a file is another than the package of VERSION."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha512").digest()
    found = base64.b64encode(digest).decode("ascii")
    if found != SHA512:
        raise UserError(
            f"{file} is not {PACKAGE}: its SHA-512 is {found}, not {SHA512}; {TO_NAME_IT}"
        )


def read_runtime(file: Path) -> Runtime:
    """The parts of the package.

    Raises:
        UserError: the file is another.
    """
    require_hash(file)
    with tarfile.open(file) as package:
        parts = {name: package.extractfile(name) for name in (MODULE, WASM)}
        module, wasm = (part.read() for part in parts.values() if part is not None)
    script = with_global(with_a_base(module.decode("utf-8")))
    return Runtime(script, wasm)


def with_a_base(module: str) -> str:
    """A module that a page can start which is opened as a file.

    It completes its own address by the origin of the page. In Firefox the origin of a file is
    "null", which completes no address; the address of the page does in every browser.
    """
    return module.replace("location.origin", "location.href")


def with_global(module: str) -> str:
    """A module whose exports are the properties of the global `ort`: scripts of a page cannot
    import what stands inside the page."""
    code, _, exported = module.rpartition("export{")
    names = re.findall(r"(\w+) as (\w+)", exported.partition("}")[0])
    properties = ",".join(f"{name}:{local}" for local, name in names)
    return f"{code}globalThis.ort={{{properties}}};\n"

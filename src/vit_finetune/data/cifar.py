"""CIFAR-10 and CIFAR-100: the original files, checked by their published checksums, downloaded
once."""

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from vit_finetune.core.errors import UserError
from vit_finetune.core.files import new_folder
from vit_finetune.core.locks import file_lock
from vit_finetune.core.progress import progress
from vit_finetune.data.source import ArraySource

FOLDER_VARIABLE = "VIT_DATA_DIR"
PATIENCE = 30.0  # seconds without a byte
TRIES = 4  # attempts in a row that bring nothing
PAUSE = 1.0  # seconds between two, doubled after each that brought nothing
NOTHING_LEFT = 416  # HTTP: the range that was asked for begins after the end of the file
PASSING = {429, 500, 502, 503, 504, NOTHING_LEFT}  # answers of HTTP that may be others next time
NOT_PUBLISHED = "what came is not the published archive (cut off, or a page that a proxy made)"


def load_cifar(name: str) -> ArraySource:
    """CIFAR-10 or CIFAR-100 with its fine labels (Krizhevsky 2009), every original file checked by
    its published md5.

    They are taken from the folder that VIT_DATA_DIR names, which holds either the extracted batches
    or the archive; else from the user's cache folder, to which they are downloaded once.

    Raises:
        UserError: no file, a wrong checksum, or no network; the message names the way out.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            raise UserError(
                f"{FOLDER_VARIABLE} is {named!r}, which is not a folder; it must hold "
                f"{source.base_folder}/ or {source.filename} (unset it to download them; "
                "`make demo` needs neither)"
            )
        if root.name == source.base_folder:
            root = root.parent
        if not (root / source.base_folder).is_dir() and (root / source.filename).is_file():
            with tempfile.TemporaryDirectory() as scratch:
                _extract(source, root / source.filename, Path(scratch))
                return _read_cifar(source, Path(scratch))
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit_finetune"
        if _broken_file(source, root):
            _download(source, root)
    return _read_cifar(source, root)


def _read_cifar(source: Any, root: Path) -> ArraySource:
    broken = _broken_file(source, root)
    if broken:
        raise UserError(
            f"{broken}; {FOLDER_VARIABLE} must name a folder with {source.base_folder}/ or "
            f"{source.filename} as its author published them (unset it to download them; "
            "`make demo` needs neither)"
        )
    parts = {"train": source(root, train=True), "test": source(root, train=False)}
    return ArraySource(
        classes=list(parts["train"].classes),
        images={split: np.ascontiguousarray(part.data) for split, part in parts.items()},
        labels={split: np.array(part.targets, dtype=np.int64) for split, part in parts.items()},
        checksums=dict(_files(source)),
    )


def _broken_file(source: Any, root: Path) -> str | None:
    """The first original file that is missing or not the published one, in words."""
    folder = root / source.base_folder
    for name, md5 in _files(source):
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        found = _md5(folder / name)
        if found != md5:
            return (
                f"{folder / name} has md5 {found}, not the published {md5}: it is damaged or "
                "another file"
            )
    return None


def _download(source: Any, root: Path) -> None:
    """Fetch and unpack the archive, unless another process just did. What came of it stays for the
    next attempt, until all of it is there."""
    archive = root / source.filename
    partial = root / f"{source.filename}.partial"
    try:
        with _alone(root):
            if not _broken_file(source, root):
                return
            if not archive.is_file() or _md5(archive) != source.tgz_md5:
                root.mkdir(exist_ok=True)
                resumed = partial.exists()
                _fetch(source.url, partial)
                if resumed and _md5(partial) != source.tgz_md5:
                    partial.unlink()
                    _fetch(source.url, partial)
                if _md5(partial) != source.tgz_md5:
                    partial.unlink()
                    raise UserError(NOT_PUBLISHED)
                partial.replace(archive)
            try:
                _extract(source, archive, root)
            finally:
                with suppress(OSError):  # what went wrong before says more
                    archive.unlink()
    except (UserError, OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"could not download {source.url}: {reason}. Either set {FOLDER_VARIABLE} to a folder "
            f"that holds {source.filename} or {source.base_folder}/, or run `make demo`, which "
            "downloads nothing"
        ) from None


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, once whoever has it is done; its file lies beside it, and
    goes with it."""
    path = root.with_name(root.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock(path, "name a cache folder on a local disk in XDG_CACHE_HOME")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for another download to {root}", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _fetch(url: str, path: Path) -> None:
    """Download to `path`, each attempt going on from where the last one ended, until TRIES attempts
    in a row bring nothing new."""
    furthest = _size(path)
    vain = 0
    while True:
        error: Exception = UserError(f"it was cut off after {_size(path):,} bytes")
        try:
            if _go_on(url, path):
                return
        except urllib.error.HTTPError as answer:
            if answer.code not in PASSING:
                raise
            if answer.code == NOTHING_LEFT:  # more is here than there: it is no part of the file
                path.unlink(missing_ok=True)
            error = answer
        except (OSError, http.client.HTTPException) as cut:
            if isinstance(cut, urllib.error.URLError) and not path.exists():
                raise  # the server is out of reach
            error = cut
        if _size(path) > furthest:
            furthest = _size(path)
            vain = 0
        else:
            vain += 1
        if vain == TRIES:
            raise error
        time.sleep(PAUSE * 2**vain)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _go_on(url: str, path: Path) -> bool:
    """One attempt; whether everything came. A server that cannot send the rest alone sends all of
    it anew."""
    have = _size(path)
    headers = {"User-Agent": "vit-finetune", **({"Range": f"bytes={have}-"} if have else {})}
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=PATIENCE
    ) as response:
        rest = str(response.headers["Content-Range"]).startswith(f"bytes {have}-")
        start = have if rest else 0
        total = None if response.length is None else start + response.length
        with (
            path.open("ab" if rest else "wb") as file,
            progress(range(0), path.stem, "B", total) as bar,
        ):
            bar.unit_scale = True
            bar.update(start)
            while data := response.read1(2**16):
                file.write(data)
                bar.update(len(data))
            return total is None or file.tell() == total


def _extract(source: Any, archive: Path, target: Path) -> None:
    """Only the published files, each by its name: what else an archive may hold is never written
    anywhere."""
    found = _md5(archive)
    if found != source.tgz_md5:
        raise UserError(
            f"{archive} has md5 {found}, not the published {source.tgz_md5}: it is truncated, "
            "damaged or another file"
        )
    try:
        with tarfile.open(archive) as tar, new_folder(target / source.base_folder) as folder:
            for name, _ in _files(source):
                packed = tar.extractfile(f"{source.base_folder}/{name}")
                if packed is None:
                    raise KeyError(f"{name} is no file in it")
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except (tarfile.TarError, KeyError) as error:
        raise UserError(f"{archive} was not unpacked: {error}") from None


def _files(source: Any) -> list[tuple[str, str]]:
    """Name and published md5 of each original file."""
    meta = source.meta["filename"], source.meta["md5"]
    return [(name, md5) for name, md5 in [*source.train_list, *source.test_list, meta]]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

"""CIFAR-10 and CIFAR-100: checked before anything of them is loaded, and every error says what to
do."""

import hashlib
import http.server
import io
import os
import pickle
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from torchvision.datasets import CIFAR10, CIFAR100

from tests.data.loaded import load
from vit_finetune.core.errors import UserError
from vit_finetune.core.progress import QUIET_VARIABLE
from vit_finetune.data import cifar as cifar_module
from vit_finetune.data.cifar import FOLDER_VARIABLE
from vit_finetune.data.dataset import channel_statistics

BATCHES = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
BATCHES_100 = "cifar-100-python"
ARCHIVE_100 = "cifar-100-python.tar.gz"


def load_cifar(name):
    return load(cifar_module.load_cifar(name), name)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


# Small stand-ins for CIFAR-10: batches of 20 images, an archive of them, and checksums that fit


def publish(folder, batches, archive, contents):
    """Files as the author would publish them: in a folder, and in an archive of it."""
    (folder / batches).mkdir()
    for name, content in contents.items():
        (folder / batches / name).write_bytes(pickle.dumps(content))
    with tarfile.open(folder / archive, "w:gz") as tar:
        tar.add(folder / batches, batches)
    return folder


def random_images(count, seed):
    return np.random.default_rng(seed).integers(256, size=(count, 3072), dtype=np.uint8)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    labels = [*range(10)] * 2
    contents = {
        name: {"data": random_images(20, seed), "labels": labels} for seed, name in enumerate(names)
    }
    contents["batches.meta"] = {"label_names": [f"class {c}" for c in range(10)]}
    return publish(tmp_path_factory.mktemp("originals"), BATCHES, ARCHIVE, contents)


@pytest.fixture
def cifar(originals, tmp_path, monkeypatch):
    """torchvision's CIFAR10 that takes the stand-in for the original."""
    return stand_in(CIFAR10, originals, tmp_path, monkeypatch)


def stand_in(source, originals, tmp_path, monkeypatch):
    """The source with the checksums of these files; caches, scratch files and proxies are those of
    this test alone."""
    batches = originals / source.base_folder
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(
            source, files, [[name, md5(batches / name)] for name, _ in getattr(source, files)]
        )
    monkeypatch.setattr(
        source, "meta", {**source.meta, "md5": md5(batches / source.meta["filename"])}
    )
    monkeypatch.setattr(source, "tgz_md5", md5(originals / source.filename))
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/" + source.filename)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    # it remembers the proxies of its first use
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr(cifar_module, "PAUSE", 0.0)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return source


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty folder that VIT_DATA_DIR names."""
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


def copy(originals, to, *names):
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes((originals / name).read_bytes())


def copy_batches(originals, to, batches=BATCHES):
    copy(originals, to, *(f"{batches}/{path.name}" for path in (originals / batches).iterdir()))


def assert_is_the_stand_in(dataset, originals):
    assert dataset.classes == [f"class {c}" for c in range(10)]
    assert {part: images.shape for part, images in dataset.images.items()} == {
        "train": (100, 32, 32, 3),
        "test": (20, 32, 32, 3),
    }
    raw = pickle.loads((originals / BATCHES / "test_batch").read_bytes())
    for c in range(3):  # planes of red, green, blue in the file
        assert np.array_equal(
            dataset.images["test"][0, ..., c].ravel(), raw["data"][0, c * 1024 : (c + 1) * 1024]
        )
    assert dataset.labels["test"].tolist() == raw["labels"]
    assert dataset.labels["test"].dtype == np.int64
    assert dataset.checksums == {path.name: md5(path) for path in (originals / BATCHES).iterdir()}


def error_of_loading(name="cifar10"):
    with pytest.raises(UserError, match=r".") as caught:
        load_cifar(name)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("named", [".", BATCHES])
def test_the_data_folder_may_hold_the_folder_of_batches_or_be_it(
    cifar, data_folder, originals, monkeypatch, named
):
    copy_batches(originals, data_folder)
    monkeypatch.setenv(FOLDER_VARIABLE, str(data_folder / named))
    assert_is_the_stand_in(load_cifar("cifar10"), originals)


def test_the_data_folder_may_hold_the_archive_and_nothing_is_unpacked_into_it(
    cifar, data_folder, originals, tmp_path
):
    copy(originals, data_folder, ARCHIVE)
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert [path.name for path in data_folder.iterdir()] == [ARCHIVE]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("kind", ["absent", "a file"])
def test_a_data_folder_that_is_no_folder_is_named_with_what_to_do(
    cifar, tmp_path, monkeypatch, kind
):
    path = tmp_path / "given"
    if kind == "a file":
        path.write_text("")
    monkeypatch.setenv(FOLDER_VARIABLE, str(path))
    assert error_of_loading() == (
        f"{FOLDER_VARIABLE} is '{path}', which is not a folder; "
        f"it must hold {BATCHES}/ or {ARCHIVE} "
        "(unset it to download them; `make demo` needs neither)"
    )


def remedy(batches, archive):
    return (
        f"; {FOLDER_VARIABLE} must name a folder with {batches}/ or {archive} "
        "as its author published them (unset it to download them; `make demo` needs neither)"
    )


REMEDY = remedy(BATCHES, ARCHIVE)


def test_an_empty_data_folder_names_the_missing_file_and_nothing_is_downloaded(
    cifar, data_folder, tmp_path
):
    assert error_of_loading() == f"{data_folder / BATCHES / 'data_batch_1'} is missing{REMEDY}"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["missing", "one byte", "cut", "empty"])
def test_a_missing_or_damaged_file_is_named_with_what_to_do(
    cifar, data_folder, originals, name, damage
):
    copy_batches(originals, data_folder)
    path = data_folder / BATCHES / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    good = md5(path)
    if damage == "missing":
        path.unlink()
        assert error_of_loading() == f"{path} is missing{REMEDY}"
        return
    path.write_bytes({"one byte": content, "cut": content[:-1], "empty": b""}[damage])
    problem = f"{path} has md5 {md5(path)}, not the published {good}: it is damaged or another file"
    assert error_of_loading() == problem + REMEDY


class Trap:
    """Its pickle makes a file when it is loaded: proof that it was."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("pattern", ["data_batch_1", "batches.meta", "*"])
def test_a_file_with_another_checksum_is_never_unpickled(
    cifar, data_folder, originals, tmp_path, pattern
):
    copy_batches(originals, data_folder)
    paths = list((data_folder / BATCHES).glob(pattern))
    for path in paths:
        path.write_bytes(pickle.dumps(Trap(tmp_path / "loaded")))
    assert "it is damaged or another file" in error_of_loading()
    assert not (tmp_path / "loaded").exists()
    pickle.loads(paths[0].read_bytes())
    assert (tmp_path / "loaded").exists()  # the trap does work


def malicious_archive(path, outside, originals):
    """The original files, and one more of a name that would put it elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(originals / BATCHES, BATCHES)
        member = tarfile.TarInfo(outside)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))


@pytest.mark.parametrize("kind", ["truncated", "empty", "more files"])
def test_an_archive_with_another_checksum_is_refused_and_not_unpacked(
    cifar, data_folder, originals, tmp_path, kind
):
    path = data_folder / ARCHIVE
    if kind == "more files":
        malicious_archive(path, "../evil", originals)
    else:
        path.write_bytes((originals / ARCHIVE).read_bytes()[: 1000 * (kind == "truncated")])
    assert error_of_loading() == (
        f"{path} has md5 {md5(path)}, not the published {cifar.tgz_md5}: "
        "it is truncated, damaged or another file"
    )
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    "name", ["../evil", "{outside}/evil", f"{BATCHES}/../../evil", f"{BATCHES}/evil"]
)
def test_unpacking_writes_only_the_published_files_whatever_else_the_archive_holds(
    cifar, originals, tmp_path, monkeypatch, name
):
    cache = tmp_path / "cache" / "vit_finetune"
    malicious_archive(cache / ARCHIVE, name.format(outside=tmp_path), originals)
    monkeypatch.setattr(cifar, "tgz_md5", md5(cache / ARCHIVE))
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    written = {path.name: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert written == {path.name: path.read_bytes() for path in (originals / BATCHES).iterdir()}
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_or_folder_in_the_archive_in_place_of_a_file_is_refused(
    cifar, data_folder, tmp_path, monkeypatch, kind
):
    (tmp_path / "secret").write_text("not yours")
    with tarfile.open(data_folder / ARCHIVE, "w:gz") as tar:
        entry = tarfile.TarInfo(f"{BATCHES}/data_batch_1")
        entry.type = kind
        entry.linkname = "../../secret"
        tar.addfile(entry)
    monkeypatch.setattr(cifar, "tgz_md5", md5(data_folder / ARCHIVE))
    assert f"{ARCHIVE} was not unpacked: " in error_of_loading()
    assert list((tmp_path / "scratch").iterdir()) == []


# A small CIFAR-100: 200 and 100 images, with coarse labels that must not be taken


@pytest.fixture(scope="module")
def originals_100(tmp_path_factory):
    contents = {}
    for name, count in (("train", 200), ("test", 100)):
        fine = np.random.default_rng(count).permutation(count) % 100
        labels = {"fine_labels": fine.tolist(), "coarse_labels": (fine // 5).tolist()}
        contents[name] = {"data": random_images(count, seed=count), **labels}
    contents["meta"] = {
        "fine_label_names": [f"fine {c}" for c in range(100)],
        "coarse_label_names": [f"coarse {c}" for c in range(20)],
    }
    folder = tmp_path_factory.mktemp("originals_100")
    return publish(folder, BATCHES_100, ARCHIVE_100, contents)


@pytest.fixture
def cifar_100(originals_100, tmp_path, monkeypatch):
    return stand_in(CIFAR100, originals_100, tmp_path, monkeypatch)


def test_cifar_100_has_its_hundred_fine_labels_and_their_names(
    cifar_100, data_folder, originals_100
):
    copy(originals_100, data_folder, ARCHIVE_100)
    dataset = load_cifar("cifar100")
    assert dataset.classes == [f"fine {c}" for c in range(100)]
    assert list(dataset.images) == list(dataset.labels) == ["train", "test"]
    for part, images in dataset.images.items():
        raw = pickle.loads((originals_100 / BATCHES_100 / part).read_bytes())
        assert (images.dtype, dataset.labels[part].dtype) == (np.uint8, np.int64)
        assert np.array_equal(images, raw["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        assert dataset.labels[part].tolist() == raw["fine_labels"]
    assert dataset.checksums.keys() == {"train", "test", "meta"}


def test_the_files_of_cifar_10_are_not_taken_for_cifar_100(cifar_100, data_folder, originals):
    copy_batches(originals, data_folder)
    missing = f"{data_folder / BATCHES_100 / 'train'} is missing"
    assert error_of_loading("cifar100") == missing + remedy(BATCHES_100, ARCHIVE_100)


# The download


@pytest.fixture
def server(cifar, monkeypatch):
    """A function that serves an answer on 127.0.0.1 as the archive's address, and returns the
    requests so far."""
    started = []

    def serve(answer):
        requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                requests.append(self.path)
                answer(self)

            def log_message(self, *arguments):
                pass

        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(cifar, "url", f"http://127.0.0.1:{started[-1].server_port}/{ARCHIVE}")
        return requests

    yield serve
    for one in started:
        one.shutdown()
        one.server_close()


def send(request, body, *, status=200, length=None, **headers):
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def send_a_cut_chunk(request):
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"1000\r\nonly this")


def test_the_archive_is_downloaded_once_then_unpacked_and_removed(server, originals, tmp_path):
    requests = server(lambda request: send(request, (originals / ARCHIVE).read_bytes()))
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert len(requests) == 1
    assert [path.name for path in (tmp_path / "cache" / "vit_finetune").iterdir()] == [BATCHES]
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert len(requests) == 1


@pytest.mark.parametrize(
    "left", ["half of the archive", "half of the batches", "the whole archive"]
)
def test_loading_succeeds_whatever_a_killed_download_left(server, originals, tmp_path, left):
    requests = server(lambda request: send(request, (originals / ARCHIVE).read_bytes()))
    cache = tmp_path / "cache" / "vit_finetune"
    if left == "half of the batches":
        copy(originals, cache, f"{BATCHES}/data_batch_1")
        (cache / BATCHES / "data_batch_2").write_bytes(b"half")
    else:
        copy(originals, cache, ARCHIVE)
        if left == "half of the archive":
            (cache / ARCHIVE).write_bytes((cache / ARCHIVE).read_bytes()[:1000])
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert bool(requests) == (left != "the whole archive")
    assert [path.name for path in cache.iterdir()] == [BATCHES]


OTHER = "what came is not the published archive (cut off, or a page that a proxy made)"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda request: send(request, b"<html>Please log in</html>"), OTHER),
        (lambda request: send(request, b""), OTHER),
        (lambda request: request.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "SSH-2.0-OpenSSH"),
        (
            lambda request: request.connection.close(),
            "Remote end closed connection without response",
        ),
        (lambda request: send(request, b"no", status=404), "HTTP Error 404: Not Found"),
        (lambda request: send(request, b"no", status=503), "HTTP Error 503: Service Unavailable"),
        (lambda request: send(request, b"", status=302, Location=request.path), "infinite loop"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_no_file(server, cifar, tmp_path, answer, reason):
    server(answer)
    message = error_of_loading()
    assert message.startswith(f"could not download {cifar.url}: ")
    assert reason in message
    way_out = f"Either set {FOLDER_VARIABLE} to a folder that holds {ARCHIVE} or {BATCHES}/, or run"
    assert way_out in message
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            lambda request: send(request, b"\x1f\x8b half", length=1_000_000),
            "it was cut off after 7 bytes",
        ),
        (send_a_cut_chunk, "IncompleteRead("),
    ],
)
def test_a_download_that_is_cut_off_is_one_line_and_what_came_is_no_trouble_for_the_next_one(
    server, originals, tmp_path, answer, reason
):
    server(answer)
    assert reason in error_of_loading()
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [f"{ARCHIVE}.partial"]
    came = left[0].read_bytes()
    asked = serve_from(server, (originals / ARCHIVE).read_bytes())
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert asked == [f"bytes={len(came)}-", None]
    assert [path.name for path in (tmp_path / "cache/vit_finetune").iterdir()] == [BATCHES]


def serve_from(server, body, most=None):
    """Serve a file from the byte that is asked for, at most so many bytes in one answer. Returns
    the ranges that were asked for so far."""
    asked = []

    def answer(request):
        asked.append(request.headers["Range"])
        first = int(asked[-1][len("bytes=") : -1]) if asked[-1] else 0
        if first >= len(body):
            send(request, b"", status=416)
            return
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(body) - first))
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        request.end_headers()
        request.wfile.write(body[first : None if most is None else first + most])

    server(answer)
    return asked


def test_a_server_that_cuts_again_and_again_is_asked_on_as_long_as_something_comes(
    server, originals
):
    body = (originals / ARCHIVE).read_bytes()
    asked = serve_from(server, body, most=len(body) // 12)
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert len(asked) >= 12 > 2 * cifar_module.TRIES


def test_a_killed_download_goes_on_from_where_it_was(server, originals, tmp_path):
    body = (originals / ARCHIVE).read_bytes()
    partial = tmp_path / "cache" / "vit_finetune" / f"{ARCHIVE}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(body[:5000])
    asked = serve_from(server, body)
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert asked == ["bytes=5000-"]


@pytest.mark.parametrize("left", ["all of it", "more than all"])
def test_a_download_that_was_killed_at_its_end_is_done_again(server, originals, tmp_path, left):
    body = (originals / ARCHIVE).read_bytes()
    partial = tmp_path / "cache" / "vit_finetune" / f"{ARCHIVE}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(body if left == "all of it" else body + b"more")
    asked = serve_from(server, body)
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert asked[-1] is None


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_is_asked_again(server, originals, status):
    answers = [status, status, 200]

    def answer(request):
        code = answers.pop(0)
        send(request, (originals / ARCHIVE).read_bytes() if code == 200 else b"", status=code)

    requests = server(answer)
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("dataset", "batches", "archive"),
    [("cifar10", BATCHES, ARCHIVE), ("cifar100", BATCHES_100, ARCHIVE_100)],
)
def test_without_a_network_the_error_names_the_address_the_reason_and_what_to_do(
    tmp_path, monkeypatch, dataset, batches, archive
):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "_opener", None)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert error_of_loading(dataset) == (
        f"could not download https://www.cs.toronto.edu/~kriz/{archive}: "
        "<urlopen error [Errno 111] Connection refused>. "
        f"Either set {FOLDER_VARIABLE} to a folder that holds {archive} or {batches}/, "
        "or run `make demo`, which downloads nothing"
    )
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("place", ["cache", "cache/vit_finetune"])
def test_a_cache_folder_that_cannot_be_made_is_one_line_that_says_what_to_do(
    cifar, tmp_path, place
):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("a file")
    message = error_of_loading()
    assert message.startswith(f"could not download {cifar.url}: ")
    assert f"'{tmp_path / place}" in message
    assert message.endswith("or run `make demo`, which downloads nothing")


def test_two_downloads_at_once_are_one_and_both_have_the_files(server, originals, tmp_path, capfd):
    both = threading.Barrier(2)

    def answer(request):
        time.sleep(0.5)  # for the other to arrive
        send(request, (originals / ARCHIVE).read_bytes())

    def load(_):
        both.wait()
        return load_cifar("cifar10")

    requests = server(answer)
    with ThreadPoolExecutor(2) as pool:
        for dataset in pool.map(load, range(2)):
            assert_is_the_stand_in(dataset, originals)
    assert len(requests) == 1
    assert (
        capfd.readouterr().out
        == f"waiting for another download to {tmp_path / 'cache' / 'vit_finetune'}\n"
    )
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["vit_finetune"]
    assert [path.name for path in (tmp_path / "cache/vit_finetune").iterdir()] == [BATCHES]


def test_a_lock_whose_holder_removes_its_file_is_not_taken_for_the_one_of_the_next_holder(
    server, originals, tmp_path
):
    path = tmp_path / "cache" / "vit_finetune.lock"
    requests = server(lambda request: send(request, (originals / ARCHIVE).read_bytes()))
    first = FileLock(path)
    second = FileLock(path)
    first.acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(load_cifar, "cifar10")
        time.sleep(0.2)
        path.unlink()
        second.acquire(timeout=10)  # of a new file
        first.release()
        time.sleep(0.2)
        assert not requests
        second.release()
        assert_is_the_stand_in(waiting.result(), originals)
    assert not path.exists()


def send_rest(request, body, first=0, *, half):
    """Say that the body comes, from this byte on, and send all or half of what remains."""
    rest = body[first:]
    request.send_response(206 if first else 200)
    request.send_header("Content-Length", str(len(rest)))
    if first:
        request.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
    request.end_headers()
    request.wfile.write(rest[: len(rest) // 2] if half else rest)
    request.wfile.flush()


@pytest.mark.parametrize("end", ["stalls", "is cut"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_ends_early_goes_on_from_where_it_was_or_starts_anew(
    server, originals, monkeypatch, end, ranges
):
    body = (originals / ARCHIVE).read_bytes()
    asked = []
    done = threading.Event()

    def answer(request):
        asked.append(request.headers["Range"])
        first = int(asked[-1][len("bytes=") : -1]) if asked[-1] and ranges else 0
        send_rest(request, body, first, half=len(asked) < 3)
        if end == "stalls" and len(asked) < 3:
            done.wait(20)

    monkeypatch.setattr(cifar_module, "PATIENCE", 0.3)
    server(answer)
    assert_is_the_stand_in(load_cifar("cifar10"), originals)
    done.set()
    half = len(body) // 2
    second = half + (len(body) - half) // 2 if ranges else half
    assert asked == [None, f"bytes={half}-", f"bytes={second}-"]


@pytest.mark.parametrize("sent", [True, False])
def test_a_download_that_stalls_again_and_again_ends_with_an_error(
    server, originals, tmp_path, monkeypatch, sent
):
    done = threading.Event()

    def answer(request):
        if sent:
            send_rest(request, (originals / ARCHIVE).read_bytes(), half=True)
        done.wait(20)

    monkeypatch.setattr(cifar_module, "PATIENCE", 0.2)
    requests = server(answer)
    assert "timed out. Either set" in error_of_loading()
    done.set()
    assert len(requests) == cifar_module.TRIES + sent
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left == [f"{ARCHIVE}.partial"] * sent


@pytest.mark.parametrize("quiet", ["", "1"])
def test_the_progress_of_a_download_is_shown_in_a_terminal_and_nowhere_else(
    server, originals, monkeypatch, capfd, quiet
):
    monkeypatch.setenv(QUIET_VARIABLE, quiet)
    server(lambda request: send(request, (originals / ARCHIVE).read_bytes()))
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    load_cifar("cifar10")
    assert (f"{ARCHIVE}: 100%" in shown.getvalue()) == (not quiet)
    assert capfd.readouterr() == ("", "")


# The original files, where VIT_DATA_DIR names them


@pytest.mark.slow
def test_the_original_cifar_10_has_the_published_counts_classes_and_statistics(real_files):
    real = load_cifar("cifar10")
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert real.classes == names.split()
    assert {part: images.shape for part, images in real.images.items()} == {
        "train": (50_000, 32, 32, 3),
        "test": (10_000, 32, 32, 3),
    }
    for part, each in (("train", 5000), ("test", 1000)):
        assert real.images[part].dtype == np.uint8
        assert np.bincount(real.labels[part]).tolist() == [each] * 10
    assert real.checksums["data_batch_1"] == "c99cafc152244af753f735de768cd75f"
    assert len(real.checksums) == 7
    mean, std = channel_statistics(real.images["train"])
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert std == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)
    assert [real.classes[label] for label in real.labels["train"][:2]] == ["frog", "truck"]
    assert real.images["train"][0, 0, 0].tolist() == [59, 62, 63]


@pytest.mark.slow
def test_the_original_cifar_100_has_the_published_counts_and_classes(real_files):
    if not any(Path(os.environ[FOLDER_VARIABLE]).glob(f"{BATCHES_100}*")):
        pytest.skip(f"needs the original CIFAR-100 files in the folder of {FOLDER_VARIABLE}")
    real = load_cifar("cifar100")
    assert len(real.classes) == 100
    assert (real.classes[0], real.classes[-1]) == ("apple", "worm")
    for part, each in (("train", 500), ("test", 100)):
        assert np.bincount(real.labels[part]).tolist() == [each] * 100

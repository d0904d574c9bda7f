"""The data sources: counted, checked before anything is unpickled, and with a way out in every error."""

import hashlib
import http.server
import io
import os
import pickle
import re
import tarfile
import tempfile
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from vit_finetune import datasets

FOLDER = datasets.FOLDER_VARIABLE
BATCHES, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BATCHES_100, ARCHIVE_100 = "cifar-100-python", "cifar-100-python.tar.gz"


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


# The digits


@pytest.fixture(scope="module")
def digits():
    return datasets.load_dataset("digits")


def test_the_digits_are_rgb_bytes_with_integer_labels(digits):
    assert digits.classes == list("0123456789")
    assert digits.checksums == {}
    for part in ("train", "test"):
        images, labels = digits.images[part], digits.labels[part]
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert images.shape == (len(labels), 8, 8, 3)
        assert (images.min(), images.max()) == (0, 255)
        assert np.array_equal(images[..., 0], images[..., 2])


def test_the_two_parts_of_the_digits_are_disjoint_and_together_all_1797(digits):
    from sklearn.datasets import load_digits

    original = load_digits()
    whole = Counter((image.tobytes(), label) for image, label in zip(original.images, original.target, strict=True))
    parts = Counter()
    for part in ("train", "test"):
        grey = digits.images[part][..., 0] * (16 / 255)  # 17 levels survive as bytes
        assert np.allclose(grey, np.rint(grey), atol=0.04)
        pairs = zip(np.rint(grey), digits.labels[part], strict=True)
        parts += Counter((image.tobytes(), label) for image, label in pairs)
    assert sum(parts.values()) == 1797
    assert parts == whole


def test_both_parts_of_the_digits_hold_the_classes_in_proportion(digits):
    train, test = (np.bincount(digits.labels[part]) for part in ("train", "test"))
    assert set((train - test).tolist()) <= {0, 1}
    assert (len(digits.labels["train"]), len(digits.labels["test"])) == (901, 896)


def test_the_channel_statistics_are_those_of_the_plain_mean():
    images = np.random.default_rng(0).integers(256, size=(7, 5, 4, 3), dtype=np.uint8)
    mean, std = datasets.channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 1, 2)), abs=1e-6)
    assert std == pytest.approx((images / 255).std(axis=(0, 1, 2)), abs=1e-6)


# CIFAR-10 in small: an imitation with batches of 20 images, an archive of them, and checksums that fit


def make_batches(folder):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = rng.integers(256, size=(20, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [*range(10)] * 2}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {c}" for c in range(10)]}))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder as the author would publish it: the batches and the archive of them."""
    folder = tmp_path_factory.mktemp("originals")
    make_batches(folder / BATCHES)
    with tarfile.open(folder / ARCHIVE, "w:gz") as tar:
        tar.add(folder / BATCHES, BATCHES)
    return folder


@pytest.fixture
def cifar(originals, tmp_path, monkeypatch):
    """torchvision's CIFAR10 with the imitation's checksums; caches, scratch files and proxies of this test alone."""
    return imitate(pytest.importorskip("torchvision.datasets").CIFAR10, originals, tmp_path, monkeypatch)


def imitate(source, originals, tmp_path, monkeypatch):
    batches = originals / source.base_folder
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(source, files, [[name, md5(batches / name)] for name, _ in getattr(source, files)])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(batches / source.meta["filename"])})
    monkeypatch.setattr(source, "tgz_md5", md5(originals / source.filename))
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/" + source.filename)
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return source


@pytest.fixture
def given(tmp_path, monkeypatch):
    """An empty folder that VIT_DATA_DIR names."""
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


def copy(originals, to, *names):
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes((originals / name).read_bytes())


def copy_batches(originals, to, batches=BATCHES):
    copy(originals, to, *(f"{batches}/{path.name}" for path in (originals / batches).iterdir()))


def assert_is_the_imitation(dataset, originals):
    assert dataset.classes == [f"class {c}" for c in range(10)]
    assert {part: images.shape for part, images in dataset.images.items()} == {
        "train": (100, 32, 32, 3),
        "test": (20, 32, 32, 3),
    }
    raw = pickle.loads((originals / BATCHES / "test_batch").read_bytes())
    for c in range(3):  # planes of red, green, blue in the file
        assert np.array_equal(dataset.images["test"][0, ..., c].ravel(), raw["data"][0, c * 1024 : (c + 1) * 1024])
    assert dataset.labels["test"].tolist() == raw["labels"]
    assert dataset.labels["test"].dtype == np.int64
    assert dataset.checksums == {path.name: md5(path) for path in (originals / BATCHES).iterdir()}


def error_of_loading(name="cifar10"):
    with pytest.raises(OSError, match=r".") as caught:
        datasets.load_dataset(name)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_given_folder_may_hold_the_batches(cifar, given, originals):
    copy_batches(originals, given)
    assert_is_the_imitation(datasets.load_dataset("cifar10"), originals)


def test_the_given_folder_may_be_the_batches_themselves(cifar, given, originals, monkeypatch):
    copy_batches(originals, given)
    monkeypatch.setenv(FOLDER, str(given / BATCHES))
    assert_is_the_imitation(datasets.load_dataset("cifar10"), originals)


def test_the_given_folder_may_hold_the_archive_and_is_left_as_it_is(cifar, given, originals, tmp_path):
    copy(originals, given, ARCHIVE)
    assert_is_the_imitation(datasets.load_dataset("cifar10"), originals)
    assert [path.name for path in given.iterdir()] == [ARCHIVE]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("kind", ["absent", "a file"])
def test_a_given_folder_that_is_none_is_named_with_the_way_out(cifar, tmp_path, monkeypatch, kind):
    path = tmp_path / "given"
    if kind == "a file":
        path.write_text("")
    monkeypatch.setenv(FOLDER, str(path))
    assert error_of_loading() == (
        f"{FOLDER} is '{path}', which is not a folder; it must hold {BATCHES}/ or {ARCHIVE} "
        "(unset it to download them; `make demo` needs neither)"
    )


def way_out(batches, archive):
    return (
        f"; {FOLDER} must name a folder with {batches}/ or {archive} as its author published them "
        "(unset it to download them; `make demo` needs neither)"
    )


WAY_OUT = way_out(BATCHES, ARCHIVE)


def test_an_empty_given_folder_says_what_is_missing_and_nothing_is_downloaded(cifar, given, tmp_path):
    assert error_of_loading() == f"{given / BATCHES / 'data_batch_1'} is missing{WAY_OUT}"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["missing", "one byte", "cut", "empty"])
def test_a_damaged_batch_is_named_and_not_used(cifar, given, originals, name, damage):
    copy_batches(originals, given)
    path = given / BATCHES / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    good = md5(path)
    if damage == "missing":
        path.unlink()
        assert error_of_loading() == f"{path} is missing{WAY_OUT}"
        return
    path.write_bytes({"one byte": content, "cut": content[:-1], "empty": b""}[damage])
    found = f"{path} has md5 {md5(path)}, not the published {good}: it is damaged or another file"
    assert error_of_loading() == found + WAY_OUT


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("names", [["data_batch_1"], ["batches.meta"], ["all"]])
def test_a_pickle_that_is_not_the_published_one_is_never_loaded(cifar, given, originals, tmp_path, names):
    copy_batches(originals, given)
    paths = list((given / BATCHES).iterdir()) if names == ["all"] else [given / BATCHES / name for name in names]
    for path in paths:
        path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert "it is damaged or another file" in error_of_loading()
    assert not (tmp_path / "sprung").exists()
    pickle.loads(paths[0].read_bytes())
    assert (tmp_path / "sprung").exists()  # the trap does work


def malicious_archive(path, outside, originals):
    """The original files, and a member that would land elsewhere."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(originals / BATCHES, BATCHES)
        member = tarfile.TarInfo(outside)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    return path


BAD_ARCHIVES = {
    "truncated": lambda path, originals: path.write_bytes((originals / ARCHIVE).read_bytes()[:-1000]),
    "empty": lambda path, originals: path.write_bytes(b""),
    "garbage": lambda path, originals: path.write_bytes(b"garbage" * 1000),
    "outside": lambda path, originals: malicious_archive(path, "../evil", originals),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_an_archive_that_is_not_the_published_one_is_refused_by_its_checksum(cifar, given, originals, tmp_path, kind):
    BAD_ARCHIVES[kind](given / ARCHIVE, originals)
    assert error_of_loading() == (
        f"{given / ARCHIVE} has md5 {md5(given / ARCHIVE)}, not the published {cifar.tgz_md5}: "
        "it is truncated, damaged or another file"
    )
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("name", ["../evil", "{outside}/evil", f"{BATCHES}/../../evil", f"{BATCHES}/evil"])
def test_unpacking_writes_the_published_files_alone_even_if_the_checksum_fits(
    cifar, originals, tmp_path, monkeypatch, name
):
    archive = malicious_archive(tmp_path / ARCHIVE, name.format(outside=tmp_path), originals)
    monkeypatch.setattr(cifar, "tgz_md5", md5(archive))
    datasets._extract(cifar, archive, tmp_path / "target")
    written = {path.name: path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file()}
    assert written == {path.name: path.read_bytes() for path in (originals / BATCHES).iterdir()}
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_or_a_folder_in_place_of_a_published_file_is_an_error_and_leads_nowhere(
    cifar, tmp_path, monkeypatch, kind
):
    (tmp_path / "secret").write_text("not yours")
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        entry = tarfile.TarInfo(f"{BATCHES}/data_batch_1")
        entry.type, entry.linkname = kind, "../../secret"
        tar.addfile(entry)
    monkeypatch.setattr(cifar, "tgz_md5", md5(tmp_path / ARCHIVE))
    with pytest.raises(OSError, match=f"{ARCHIVE} was not unpacked: "):
        datasets._extract(cifar, tmp_path / ARCHIVE, tmp_path / "target")
    assert not [path for path in (tmp_path / "target").rglob("*") if path.is_file()]


# CIFAR-100 in small: as above, with 200 and 100 images, and coarse labels that must not be taken


@pytest.fixture(scope="module")
def originals_100(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals_100")
    batches = folder / BATCHES_100
    batches.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 200), ("test", 100)):
        fine = rng.permutation(count) % 100
        data = rng.integers(256, size=(count, 3072), dtype=np.uint8)
        labels = {"fine_labels": fine.tolist(), "coarse_labels": (fine // 5).tolist()}
        (batches / name).write_bytes(pickle.dumps({"data": data, **labels}))
    names = {f"{kind}_label_names": [f"{kind} {c}" for c in range(n)] for kind, n in (("fine", 100), ("coarse", 20))}
    (batches / "meta").write_bytes(pickle.dumps(names))
    with tarfile.open(folder / ARCHIVE_100, "w:gz") as tar:
        tar.add(batches, BATCHES_100)
    return folder


@pytest.fixture
def cifar_100(originals_100, tmp_path, monkeypatch):
    return imitate(pytest.importorskip("torchvision.datasets").CIFAR100, originals_100, tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", ["batches", "archive"])
def test_cifar_100_comes_with_its_hundred_fine_labels_and_their_names(cifar_100, given, originals_100, kind):
    if kind == "batches":
        copy_batches(originals_100, given, BATCHES_100)
    else:
        copy(originals_100, given, ARCHIVE_100)
    dataset = datasets.load_dataset("cifar100")
    assert dataset.classes == [f"fine {c}" for c in range(100)]
    assert list(dataset.images) == list(dataset.labels) == ["train", "test"]
    for part, images in dataset.images.items():
        raw = pickle.loads((originals_100 / BATCHES_100 / part).read_bytes())
        assert (images.dtype, dataset.labels[part].dtype) == (np.uint8, np.int64)
        assert np.array_equal(images, raw["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        assert dataset.labels[part].tolist() == raw["fine_labels"]
    assert dataset.checksums == {path.name: md5(path) for path in (originals_100 / BATCHES_100).iterdir()}


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_damaged_file_of_cifar_100_is_named_and_never_loaded(cifar_100, given, originals_100, tmp_path, name):
    copy_batches(originals_100, given, BATCHES_100)
    path = given / BATCHES_100 / name
    good = md5(path)
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    found = f"{path} has md5 {md5(path)}, not the published {good}: it is damaged or another file"
    assert error_of_loading("cifar100") == found + way_out(BATCHES_100, ARCHIVE_100)
    assert not (tmp_path / "sprung").exists()


def test_the_files_of_the_other_cifar_are_not_taken_for_it(cifar_100, given, originals):
    copy_batches(originals, given)
    missing = f"{given / BATCHES_100 / 'train'} is missing"
    assert error_of_loading("cifar100") == missing + way_out(BATCHES_100, ARCHIVE_100)


# The download


@pytest.fixture
def server(cifar, monkeypatch):
    """A function that serves an answer on 127.0.0.1 as the archive's address, and returns the requests so far."""
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


def test_the_archive_is_downloaded_once_checked_unpacked_and_removed(server, originals, tmp_path):
    requests = server(lambda request: send(request, (originals / ARCHIVE).read_bytes()))
    assert_is_the_imitation(datasets.load_dataset("cifar10"), originals)
    asked = len(requests)
    assert asked > 0
    assert [path.name for path in (tmp_path / "cache" / "vit_finetune").iterdir()] == [BATCHES]
    assert_is_the_imitation(datasets.load_dataset("cifar10"), originals)
    assert len(requests) == asked


@pytest.mark.parametrize("left", ["half of the archive", "half of the batches", "the whole archive"])
def test_what_a_killed_download_left_is_replaced(server, originals, tmp_path, left):
    requests = server(lambda request: send(request, (originals / ARCHIVE).read_bytes()))
    cache = tmp_path / "cache" / "vit_finetune"
    if left == "half of the batches":
        copy(originals, cache, f"{BATCHES}/data_batch_1")
        (cache / BATCHES / "data_batch_2").write_bytes(b"half")
    else:
        copy(originals, cache, ARCHIVE)
        if left == "half of the archive":
            (cache / ARCHIVE).write_bytes((cache / ARCHIVE).read_bytes()[:1000])
    assert_is_the_imitation(datasets.load_dataset("cifar10"), originals)
    assert bool(requests) == (left != "the whole archive")
    assert [path.name for path in cache.iterdir()] == [BATCHES]


OTHER = "what came is not the published archive (cut off, or a page that a proxy made)"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda request: send(request, b"<html>Please log in</html>", **{"Content-Type": "text/html"}), OTHER),
        (lambda request: send(request, b""), OTHER),
        (lambda request: send(request, b"\x1f\x8b half", length=1_000_000), OTHER),
        (send_a_cut_chunk, "IncompleteRead("),
        (lambda request: request.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "SSH-2.0-OpenSSH"),
        (lambda request: request.connection.close(), "Remote end closed connection without response"),
        (lambda request: send(request, b"no", status=404), "HTTP Error 404: Not Found"),
        (lambda request: send(request, b"no", status=503), "HTTP Error 503: Service Unavailable"),
        (lambda request: send(request, b"", status=302, Location=request.path), "infinite loop"),
    ],
)
def test_another_answer_than_the_archive_is_one_line_and_nothing_of_it_is_kept(server, cifar, tmp_path, answer, reason):
    server(answer)
    message = error_of_loading()
    assert message.startswith(f"could not download {cifar.url}: ")
    assert reason in message
    assert f"Either set {FOLDER} to a folder that holds {ARCHIVE} or {BATCHES}/, or run `make demo`" in message
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("dataset", "batches", "archive"), [("cifar10", BATCHES, ARCHIVE), ("cifar100", BATCHES_100, ARCHIVE_100)]
)
def test_without_a_network_the_address_the_reason_and_two_ways_out_are_told(
    cifar, tmp_path, monkeypatch, dataset, batches, archive
):
    monkeypatch.undo()  # the true address again
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "_opener", None)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert error_of_loading(dataset) == (
        f"could not download https://www.cs.toronto.edu/~kriz/{archive}: "
        "<urlopen error [Errno 111] Connection refused>. "
        f"Either set {FOLDER} to a folder that holds {archive} or {batches}/, "
        "or run `make demo`, which downloads nothing"
    )
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_cache_folder_that_cannot_be_made_is_an_expected_error(cifar, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert "Not a directory" in error_of_loading()


# A folder of the user's own images: tiny files, each of a colour that no other has, so that it is known again


def make_tree(folder, counts, start=0):
    """`<folder>/<name>/00.png` and so on for {name: count} -> the path of each colour."""
    colours = {}
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = folder / name / f"{number:02}.png"
            colours.update(paint(path, start + len(colours)))
    return colours


def paint(path, number):
    """One image file of the number-th colour -> {colour: path}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (number % 256, number // 256, 77)
    Image.new("RGB", (8, 8), colour).save(path, "PNG")
    return {colour: path}


def load(folder, **options):
    settings = {"image_size": 8, "fit": "crop", "test_share": 0.25, "broken": "error"}
    return datasets.load_folder(folder, **settings | options)


def found(dataset, colours, folder):
    """Part -> class -> paths below `folder`, in the order of the data set, by their colours."""
    parts = {}
    for part, images in dataset.images.items():
        assert images.dtype == np.uint8
        assert dataset.labels[part].dtype == np.int64
        assert images.shape == (len(dataset.labels[part]), 8, 8, 3)
        assert (images == images[:, :1, :1]).all()
        parts[part] = {name: [] for name in dataset.classes}
        for pixel, label in zip(images[:, 0, 0].tolist(), dataset.labels[part], strict=True):
            parts[part][dataset.classes[label]].append(colours[tuple(pixel)].relative_to(folder).as_posix())
    return parts


def names(*classes, numbers, part=""):
    return {name: [f"{part}{name}/{number:02}.png" for number in numbers] for name in classes}


def test_a_plain_tree_gives_every_image_once_with_its_folder_as_the_class(tmp_path):
    colours = make_tree(tmp_path, {"dog": 9, "cat": 12, "horse": 5})
    dataset = load(str(tmp_path))
    assert dataset.classes == ["cat", "dog", "horse"]
    assert (dataset.checksums, dataset.broken) == ({}, [])
    parts = found(dataset, colours, tmp_path)
    assert list(parts) == ["train", "test"]
    for name, count in {"cat": 12, "dog": 9, "horse": 5}.items():
        train, test = parts["train"][name], parts["test"][name]
        assert sorted(train + test) == names(name, numbers=range(count))[name]
        assert (train, test) == (sorted(train), sorted(test))
    for labels in dataset.labels.values():
        assert labels.tolist() == sorted(labels)


@pytest.mark.parametrize(
    ("share", "expected"),  # images of a class, and how many of them are for testing
    [
        (0.2, {3: 1, 5: 1, 7: 1, 8: 2, 12: 2, 13: 3, 40: 8}),
        (0.5, {4: 2, 10: 5, 30: 15}),
        (0.01, {3: 1, 30: 1}),
        (0.9, {20: 18, 30: 27}),
    ],
)
def test_the_test_share_holds_for_each_class_by_itself_and_is_one_image_at_least(tmp_path, share, expected):
    colours = make_tree(tmp_path, {f"of {count:02}": count for count in expected})
    parts = found(load(tmp_path, test_share=share), colours, tmp_path)
    assert {int(name[3:]): len(paths) for name, paths in parts["test"].items()} == expected
    assert {int(name[3:]): len(paths) for name, paths in parts["train"].items()} == {
        count: count - tests for count, tests in expected.items()
    }


def test_the_same_images_are_drawn_wherever_the_folder_lies_and_in_whatever_order_it_was_filled(tmp_path):
    counts = {"cat": 10, "dog": 7}
    here, there = tmp_path / "here", tmp_path / "far" / "away"
    colours = make_tree(here, counts)
    for colour, path in reversed(colours.items()):
        (there / path.relative_to(here)).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(there / path.relative_to(here))
    parts = found(load(here), colours, here)
    assert found(load(there), colours, here) == parts
    assert found(load(here), colours, here) == parts


def test_a_class_that_comes_or_goes_moves_no_image_of_the_others(tmp_path):
    colours = make_tree(tmp_path, {"cat": 10, "dog": 7})
    before = found(load(tmp_path), colours, tmp_path)
    colours |= make_tree(tmp_path, {"ant": 9, "bee": 4, "zebra": 30}, start=len(colours))
    after = found(load(tmp_path), colours, tmp_path)
    for part in ("train", "test"):
        assert {name: after[part][name] for name in ("cat", "dog")} == before[part]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_an_image_that_is_added_moves_at_most_one_other_between_train_and_test(tmp_path, share):
    colours = make_tree(tmp_path, {"cat": 4, "dog": 4})
    before, moves = found(load(tmp_path, test_share=share), colours, tmp_path), Counter()
    for number in np.random.default_rng(0).permutation(np.arange(4, 34)):
        colours |= paint(tmp_path / "cat" / f"{number:02}.png", len(colours))
        after = found(load(tmp_path, test_share=share), colours, tmp_path)
        to_train = set(before["test"]["cat"]) & set(after["train"]["cat"])
        to_test = set(before["train"]["cat"]) & set(after["test"]["cat"])
        assert len(to_train) + len(to_test) <= 1
        assert [after[part]["dog"] for part in after] == [before[part]["dog"] for part in before]
        moves += Counter(to_train=len(to_train), to_test=len(to_test))
        before = after
    assert min(moves["to_train"], moves["to_test"]) > 0  # so the limit above was reached


def test_images_are_drawn_from_all_over_a_class_not_from_its_start(tmp_path):
    colours = make_tree(tmp_path, {f"class {c:02}": 5 for c in range(40)})
    parts = found(load(tmp_path, test_share=0.2), colours, tmp_path)
    drawn = Counter(path.rpartition("/")[2] for paths in parts["test"].values() for path in paths)
    assert sum(drawn.values()) == 40
    assert min(drawn[f"{number:02}.png"] for number in range(5)) >= 2


def test_a_test_folder_is_the_test_part_and_nothing_else_is_drawn(tmp_path):
    colours = make_tree(tmp_path, {"train/dog": 4, "train/cat": 6, "test/cat": 1, "test/dog": 3})
    assert found(load(tmp_path), colours, tmp_path) == {
        "train": names("cat", numbers=range(6), part="train/") | names("dog", numbers=range(4), part="train/"),
        "test": names("cat", numbers=range(1), part="test/") | names("dog", numbers=range(3), part="test/"),
    }


@pytest.mark.parametrize("spelling", ["val", "valid", "validation"])
def test_a_validation_folder_of_any_spelling_is_a_part_of_its_own_beside_a_test_folder(tmp_path, spelling):
    counts = {"train/cat": 3, "train/dog": 1, f"{spelling}/cat": 2, f"{spelling}/dog": 4, "test/cat": 1, "test/dog": 2}
    colours = make_tree(tmp_path, counts)
    parts = found(load(tmp_path), colours, tmp_path)
    assert list(parts) == ["train", "val", "test"]
    assert {f"{part}/{name}": len(paths) for part in parts for name, paths in parts[part].items()} == {
        key.replace(spelling, "val"): count for key, count in counts.items()
    }
    folders = {part: {path.split("/")[0] for paths in parts[part].values() for path in paths} for part in parts}
    assert folders == {"train": {"train"}, "val": {spelling}, "test": {"test"}}


@pytest.mark.parametrize("spelling", ["val", "valid", "validation"])
def test_without_a_test_folder_the_test_part_is_drawn_from_train_and_validation_stays_whole(tmp_path, spelling):
    colours = make_tree(tmp_path, {"train/cat": 8, "train/dog": 4, f"{spelling}/cat": 5, f"{spelling}/dog": 2})
    parts = found(load(tmp_path), colours, tmp_path)
    assert list(parts) == ["train", "val", "test"]
    assert parts["val"] == (
        names("cat", numbers=range(5), part=f"{spelling}/") | names("dog", numbers=range(2), part=f"{spelling}/")
    )
    for name, count in {"cat": 8, "dog": 4}.items():
        assert len(parts["test"][name]) == count // 4
        both = sorted(parts["train"][name] + parts["test"][name])
        assert both == names(name, numbers=range(count), part="train/")[name]


def test_a_train_folder_alone_is_split_like_a_plain_tree(tmp_path):
    colours = make_tree(tmp_path, {"train/cat": 8, "train/dog": 4})
    parts = found(load(tmp_path), colours, tmp_path)
    assert {part: [len(paths) for paths in parts[part].values()] for part in parts} == {"train": [6, 3], "test": [2, 1]}


def test_a_folder_train_among_other_classes_is_a_class(tmp_path):
    colours = make_tree(tmp_path, {"bus": 4, "train": 4, "tram": 4})
    dataset = load(tmp_path)
    assert dataset.classes == ["bus", "train", "tram"]
    parts = found(dataset, colours, tmp_path)
    assert {len(paths) for paths in parts["train"].values()} == {3}


def test_two_folders_of_validation_images_are_an_error_and_none_is_dropped_in_silence(tmp_path):
    parts = ("train", "val", "valid", "test")
    make_tree(tmp_path, {f"{part}/{name}": 3 for part in parts for name in ("cat", "dog")})
    assert error_of(tmp_path) == (
        f"{tmp_path} has test, train, val, valid: beside training images it may have one folder of validation and one "
        "of test images, and no other"
    )


def test_given_parts_beside_a_class_are_an_error_and_not_three_classes(tmp_path):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 1, "test/dog": 1, "extra": 3})
    assert error_of(tmp_path).startswith(f"{tmp_path} has extra, test, train: beside training images")


def test_parts_are_known_however_they_are_spelt(tmp_path):
    make_tree(tmp_path, {f"{part}/{name}": 2 for part in ("Training", "TEST", "Valid") for name in ("cat", "dog")})
    found = datasets.load_folder(tmp_path, image_size=8, fit="crop", test_share=0.2, broken="error")
    assert {part: len(labels) for part, labels in found.labels.items()} == {"train": 4, "val": 4, "test": 4}
    assert found.classes == ["cat", "dog"]


def test_files_that_are_no_images_by_name_are_told(tmp_path):
    make_tree(tmp_path, {"cat": 3, "dog": 3})
    for name in ("cat/phone.heic", "dog/deep/notes.txt", "dog/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    found = datasets.load_folder(tmp_path, image_size=8, fit="crop", test_share=0.2, broken="error")
    assert found.ignored == ["cat/phone.heic", "dog/deep/notes.txt"]


def test_labels_follow_the_names_of_the_classes_in_the_order_of_their_characters_in_every_part(tmp_path):
    ordered = ["10", "2", "Zebra", "ant", "été"]
    colours = make_tree(tmp_path, {f"test/{name}": 2 for name in ["ant", "été", "2", "Zebra", "10"]})
    colours |= make_tree(tmp_path, {f"train/{name}": 3 for name in reversed(ordered)}, start=len(colours))
    dataset = load(tmp_path)
    assert dataset.classes == ordered
    assert dataset.labels["test"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for part, by_class in found(dataset, colours, tmp_path).items():
        for name, paths in by_class.items():
            assert {path.rpartition("/")[0] for path in paths} == {f"{part}/{name}"}


def test_images_count_however_deep_they_lie_and_in_whatever_case_their_suffix_is(tmp_path):
    colours = make_tree(tmp_path, {"cat": 2, "dog": 4, "cat/2024/may": 2})
    for number, name in enumerate(["cat/a.PNG", "cat/2024/b.Jpeg", "cat/c.JPG", "cat/d e.f.WebP"], start=100):
        colours |= paint(tmp_path / name, number)  # what a file is, its content says
    parts = found(load(tmp_path), colours, tmp_path)
    assert len(parts["test"]["cat"]) == 2
    assert sorted(parts["train"]["cat"] + parts["test"]["cat"]) == [
        "cat/00.png",
        "cat/01.png",
        "cat/2024/b.Jpeg",
        "cat/2024/may/00.png",
        "cat/2024/may/01.png",
        "cat/a.PNG",
        "cat/c.JPG",
        "cat/d e.f.WebP",
    ]


def test_what_is_hidden_or_no_image_or_in_no_class_is_not_looked_at(tmp_path):
    colours = make_tree(tmp_path, {"train/cat": 4, "train/dog": 4})
    before = found(load(tmp_path), colours, tmp_path)
    for name in [
        "train/cat/.hidden.png",
        "train/cat/._00.png",
        "train/cat/.ipynb_checkpoints/00-checkpoint.png",
        "train/cat/deep/.thumbnails/00.png",
        "train/.ipynb_checkpoints/00.png",
        "train/__MACOSX/00.png",
        "__MACOSX/train/cat/00.png",
        ".git/00.png",
        "train/loose.png",
        "loose.png",
    ]:
        paint(tmp_path / name, 999)
    for name in ["labels.csv", "train/cat/notes.txt", "train/cat/Thumbs.db", "train/cat/00.png.xmp", "train/dog/png"]:
        (tmp_path / name).write_text("no image")
    (tmp_path / "train" / "dog" / "folder.png").mkdir()
    assert found(load(tmp_path), colours, tmp_path) == before


def test_every_image_comes_out_in_the_asked_size_and_by_the_asked_fit(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            picture = Image.new("RGB", (32, 16), (200, 10, 10))
            picture.paste((10, 10, 200), (8, 0, 24, 16))  # the middle half
            picture.save(tmp_path / name / f"{number}.png")
    bands = {}
    for fit in ("crop", "pad", "squash"):
        images = load(tmp_path, image_size=16, fit=fit).images["train"]
        assert images.shape == (6, 16, 16, 3)
        bands[fit] = [images[0, 0, 8].tolist(), images[0, 8, 0].tolist(), images[0, 8, 8].tolist()]
    edge, middle = [200, 10, 10], [10, 10, 200]
    assert bands == {
        "crop": [middle, middle, middle],
        "pad": [[127] * 3, edge, middle],
        "squash": [middle, edge, middle],
    }


def test_the_bar_moves_on_only_as_files_are_read(tmp_path, monkeypatch):
    make_tree(tmp_path, {"cat": 10, "dog": 10})
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    read, asked = [], []
    original = datasets.open_image
    monkeypatch.setattr(datasets, "open_image", lambda path: (original(path), read.append(path))[0])

    def bar(paths):
        for path in paths:
            asked.append(len(read))
            yield path

    load(tmp_path, bar=bar)
    assert len(asked) == len(set(read)) == 20
    assert all(done >= number for number, done in enumerate(asked))


# What an image file is read as

RANDOM = np.random.default_rng(0).integers(256, size=(12, 10, 4), dtype=np.uint8)
GREY = RANDOM[..., 0]


def opened(path):
    """The image as an array; what a stream gives is the same."""
    image = datasets.open_image(path)
    assert image.mode == "RGB"
    assert datasets.open_image(io.BytesIO(path.read_bytes())).tobytes() == image.tobytes()
    return np.asarray(image)


def over_white(colour, alpha):
    """(H, W, 3) and (H, W) -> (H, W, 3) as floats."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif"])
def test_plain_colours_come_back_bit_for_bit(tmp_path, suffix):
    colours = RANDOM[..., :3] // 64 * 64  # few enough for a palette
    image = Image.fromarray(colours)
    if suffix == "gif":
        image = image.quantize(256)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(opened(tmp_path / f"a.{suffix}"), colours)


def test_greyscale_becomes_three_equal_channels(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert np.array_equal(opened(tmp_path / "a.png"), np.stack([GREY] * 3, axis=-1))


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(GREY > 99).save(tmp_path / "a.png")
    assert np.array_equal(opened(tmp_path / "a.png"), np.stack([(GREY > 99) * 255] * 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_of_16_bits_the_upper_8_are_taken_not_white(tmp_path, suffix):
    deep = np.random.default_rng(1).integers(65536, size=(12, 10)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(opened(tmp_path / f"a.{suffix}"), np.stack([deep // 256] * 3, axis=-1))


def test_8_bits_in_a_16_bit_file_are_taken_as_they_are(tmp_path):
    Image.fromarray(GREY.astype(np.uint16)).save(tmp_path / "a.png")
    assert np.array_equal(opened(tmp_path / "a.png"), np.stack([GREY] * 3, axis=-1))


def test_32_bit_values_out_of_range_are_black_or_white_and_do_not_wrap_around(tmp_path):
    values = np.array([[-70_000, -1, 0, 256, 65_535, 65_536, 2**31 - 1]], dtype=np.int32)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert opened(tmp_path / "a.tiff")[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]


def test_transparency_lies_over_white(tmp_path):
    rgba = RANDOM.copy()
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    seen = opened(tmp_path / "a.png")
    assert np.allclose(seen, over_white(rgba[..., :3], rgba[..., 3]), atol=1)
    assert (seen[0] == 255).all()
    assert np.array_equal(seen[1], rgba[1, :, :3])


def test_grey_with_transparency_lies_over_white(tmp_path):
    Image.fromarray(RANDOM[..., :2]).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "LA"
    expected = over_white(np.stack([GREY] * 3, axis=-1), RANDOM[..., 1])
    assert np.allclose(opened(tmp_path / "a.png"), expected, atol=1)


@pytest.mark.parametrize("kind", ["one colour", "shares"])
def test_a_palette_with_transparency_lies_over_white(tmp_path, kind):
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=np.uint8)
    numbers = RANDOM[..., 0] % 3
    image = Image.fromarray(numbers)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", transparency=1 if kind == "one colour" else bytes([0, 100, 255]))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    alpha = np.array([255, 0, 255] if kind == "one colour" else [0, 100, 255])
    assert np.allclose(opened(tmp_path / "a.png"), over_white(palette[numbers], alpha[numbers]), atol=1)


def test_one_transparent_colour_without_a_palette_is_white(tmp_path):
    colours = RANDOM[..., :3].copy()
    colours[2:4] = (10, 20, 30)
    Image.fromarray(colours).save(tmp_path / "a.png", transparency=(10, 20, 30))
    expected = colours.copy()
    expected[2:4] = 255
    assert np.array_equal(opened(tmp_path / "a.png"), expected)


def test_a_cmyk_jpeg_has_the_colours_that_its_inks_leave(tmp_path):
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (100, 0, 50, 128)]
    image = Image.new("CMYK", (16 * len(inks), 16))
    for number, ink in enumerate(inks):
        image.paste(ink, (16 * number, 0, 16 * (number + 1), 16))
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    seen = opened(tmp_path / "a.jpg")
    for number, (*cmy, key) in enumerate(inks):
        expected = [(255 - ink) * (255 - key) / 255 for ink in cmy]
        assert seen[8, 16 * number + 8] == pytest.approx(expected, abs=3)


UPRIGHT = np.zeros((32, 48, 3), dtype=np.uint8)  # no mirror image of itself; squares of 16 survive a JPEG
UPRIGHT[:16, :16], UPRIGHT[:16, 16:32], UPRIGHT[16:, 32:] = (250, 20, 20), (20, 250, 20), (90, 90, 250)

STORED = {  # what EXIF 2.3 says of each orientation: where row 0 and column 0 of the file belong in the upright image
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_turned_upright_as_its_exif_says(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    exact = {"jpg": {"quality": 100, "subsampling": 0}, "png": {}, "webp": {"lossless": True}}[suffix]
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **exact)
    seen = opened(tmp_path / f"a.{suffix}")
    assert seen.shape == UPRIGHT.shape
    assert np.allclose(seen, UPRIGHT, atol=8 if suffix == "jpg" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_know_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(opened(tmp_path / "a.png"), UPRIGHT)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    ImageDraw.Draw(frames[0]).point((2, 1), "yellow")
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3
    assert np.array_equal(opened(tmp_path / "a.gif"), np.asarray(frames[0]))


# How an image becomes square


def fitted_by_hand(width, height, size, fit):
    """What `fit_image` should make of a picture that is red by column and green by row, 5 levels each."""
    rows, columns = size
    across, down = width / columns, height / rows  # pixels of the picture to one of the result
    if fit != "squash":
        across = down = min(across, down) if fit == "crop" else max(across, down)
    x = (width - 1) / 2 + (np.arange(columns) - (columns - 1) / 2) * across  # about the middle
    y = (height - 1) / 2 + (np.arange(rows) - (rows - 1) / 2) * down
    outside = ((y < 0) | (y > height - 1))[:, None] | ((x < 0) | (x > width - 1))[None]
    picture = np.stack([*np.meshgrid(5 * x, 5 * y), np.full(size, 60.0)], axis=-1)
    picture[outside] = 127
    return picture


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(8, 8), (8, 16)])
@pytest.mark.parametrize(("width", "height"), [(16, 32), (32, 16), (20, 20), (48, 12)])
def test_a_gradient_lands_where_a_calculation_by_hand_has_it(width, height, size, fit):
    red, green = np.meshgrid(5 * np.arange(width), 5 * np.arange(height))
    picture = np.stack([red, green, np.full_like(red, 60)], axis=-1).astype(np.uint8)
    result = datasets.fit_image(Image.fromarray(picture), size, fit)
    assert result.dtype == np.uint8
    expected = fitted_by_hand(width, height, size, fit)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 2
    padding = (expected == 127).all(axis=-1)
    assert (result[padding] == 127).all()


@pytest.mark.parametrize("turn", [False, True])
def test_without_a_change_of_scale_the_pixels_stay_bit_for_bit(turn):
    wide, tall = RANDOM[:8, :, :3], RANDOM[:8, :8, :3]
    cases = {
        "crop": (wide, wide[:, 1:9]),
        "pad": (RANDOM[:6, :8, :3], np.pad(RANDOM[:6, :8, :3], ((1, 1), (0, 0), (0, 0)), constant_values=127)),
        "squash": (tall, tall),
    }
    for fit, (picture, expected) in cases.items():
        if turn:
            picture, expected = picture.swapaxes(0, 1), expected.swapaxes(0, 1)
        result = datasets.fit_image(Image.fromarray(np.ascontiguousarray(picture)), (8, 8), fit)
        assert np.array_equal(result, expected), fit


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1)])
def test_no_shape_of_an_image_is_an_error(size, fit):
    result = datasets.fit_image(Image.new("RGB", size, "red"), (8, 8), fit)
    assert result.shape == (8, 8, 3)
    if fit != "pad":
        assert (result == (255, 0, 0)).all()


# Files that are no images


def jpeg():
    """The bytes of a JPEG with enough in it to be cut."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def saved(kind, size=(24, 24)):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


def blp():
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "BLP")
    return file.getvalue()


BROKEN_FILES = {
    "half a photograph.jpg": lambda: jpeg()[: len(jpeg()) // 2],
    "all but the end.jpg": lambda: jpeg()[:-200],
    "half a drawing.png": lambda: saved("PNG")[:50],
    "text.jpg": lambda: b"404: Not Found\n",
    "page.webp": lambda: b"<!doctype html><html></html>",
    "empty.png": lambda: b"",
    "signature alone.png": lambda: b"\x89PNG\r\n\x1a\n",
    "of an unknown kind.blp": lambda: blp()[:8] + b"\xff" + blp()[9:],
    "bomb.png": lambda: saved("PNG", size=(100, 100)),
}
if features.check("avif"):
    BROKEN_FILES["half a photograph.avif"] = lambda: saved("AVIF")[:-20]


@pytest.fixture
def few_pixels(monkeypatch):
    """Pillow takes an image of more than 9,216 pixels for a decompression bomb."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 72)


def error_of(folder, **options):
    with pytest.raises(ValueError, match=r".") as caught:
        load(folder, **options)
    assert type(caught.value) is ValueError
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_cannot_be_read_is_named_with_the_reason_and_the_way_out(tmp_path, few_pixels, name):
    make_tree(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "dog" / name).write_bytes(BROKEN_FILES[name]())
    said = f"1 of 9 files in {tmp_path} cannot be read as images: dog/{name} (REASON); "
    pattern = re.escape(said + "remove them, or set data.broken to skip").replace("REASON", ".{10,}")
    assert re.fullmatch(pattern, error_of(tmp_path))


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_cannot_be_read_is_left_out_and_listed_where_that_is_asked_for(tmp_path, few_pixels, name):
    colours = make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    before = found(load(tmp_path), colours, tmp_path)
    (tmp_path / "test" / "cat" / name).write_bytes(BROKEN_FILES[name]())
    dataset = load(tmp_path, broken="skip")
    assert found(dataset, colours, tmp_path) == before
    assert [entry.startswith(f"test/cat/{name} (") for entry in dataset.broken] == [True]


def test_the_bomb_of_these_tests_is_an_image_where_pillow_allows_it(tmp_path):
    (tmp_path / "bomb.png").write_bytes(BROKEN_FILES["bomb.png"]())
    assert (opened(tmp_path / "bomb.png") == (255, 0, 0)).all()


@pytest.mark.parametrize(("count", "more"), [(5, ""), (6, " and 1 more"), (12, " and 7 more")])
def test_of_many_files_that_cannot_be_read_five_are_named_and_all_are_counted_and_listed(tmp_path, count, more):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    for number in range(count):
        (tmp_path / "train" / "dog" / f"broken {number:02}.jpg").write_bytes(b"")
    listed = load(tmp_path, broken="skip").broken
    assert [entry.partition(" (")[0] for entry in listed] == [f"train/dog/broken {n:02}.jpg" for n in range(count)]
    assert error_of(tmp_path) == (
        f"{count} of {10 + count} files in {tmp_path} cannot be read as images: {', '.join(listed[:5])}{more}; "
        "remove them, or set data.broken to skip"
    )


def test_files_that_are_left_out_do_not_count_as_images_of_their_class(tmp_path):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2})
    (tmp_path / "test" / "dog").mkdir()
    (tmp_path / "test" / "dog" / "00.png").write_bytes(b"")
    assert error_of(tmp_path, broken="skip") == few(tmp_path, "dog (train 3, test 0)", "train 2, test 1")


def test_a_part_of_which_nothing_can_be_read_is_one_line(tmp_path):
    make_tree(tmp_path, {"train/cat": 2, "train/dog": 2})
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "00.jpg").write_bytes(b"")
    expected = few(tmp_path, "cat (train 2, test 0), dog (train 2, test 0)", "train 2, test 1")
    assert error_of(tmp_path, broken="skip") == expected


# Folders that are no data set


def few(folder, classes, needed):
    return (
        f"{folder}: classes with too few images: {classes}; each needs at least {needed}; "
        "add images or remove the folder"
    )


def no_classes(folder, how_many):
    return (
        f"{folder} holds {how_many} class, at least two are needed; put images in {folder}/<class>/, or in "
        f"{folder}/train/<class>/ and {folder}/test/<class>/"
    )


@pytest.mark.parametrize("kind", ["missing", "empty", "hidden folders", "loose images", "an empty train folder"])
def test_a_folder_without_classes_says_how_images_are_to_lie(tmp_path, kind):
    folder = tmp_path / "images"
    if kind != "missing":
        folder.mkdir()
    if kind == "hidden folders":
        make_tree(folder, {".cache": 3, "__MACOSX": 3})
    if kind == "loose images":
        make_tree(tmp_path, {"images": 3})
    if kind == "an empty train folder":
        (folder / "train").mkdir()
    assert error_of(folder) == no_classes(folder, "no")


@pytest.mark.parametrize("name", ["cat", "train/cat"])
def test_one_class_is_too_few(tmp_path, name):
    make_tree(tmp_path, {name: 5})
    assert error_of(tmp_path) == no_classes(tmp_path, "one")


@pytest.mark.parametrize(
    ("counts", "share", "classes"),
    [
        ({"cat": 3, "dog": 0}, 0.25, "dog (train 0, test 0)"),
        ({"cat": 3, "dog": 1}, 0.25, "dog (train 0, test 1)"),
        ({"cat": 2, "dog": 1, "ox": 3}, 0.25, "cat (train 1, test 1), dog (train 0, test 1)"),
        ({"train/cat": 2, "train/dog": 9}, 0.25, "cat (train 1, test 1)"),
        ({"cat": 4, "dog": 40}, 0.8, "cat (train 1, test 3)"),
    ],
)
def test_a_class_with_too_few_images_to_draw_from_is_named_with_its_counts(tmp_path, counts, share, classes):
    make_tree(tmp_path, counts)
    assert error_of(tmp_path, test_share=share) == few(tmp_path, classes, "train 2, test 1")


@pytest.mark.parametrize(
    ("counts", "classes", "needed"),
    [
        ({"train/cat": 1, "train/dog": 2, "test/cat": 5, "test/dog": 1}, "cat (train 1, test 5)", "train 2, test 1"),
        ({"train/cat": 2, "train/dog": 2, "test/cat": 5}, "dog (train 2, test 0)", "train 2, test 1"),
        (
            {"train/cat": 2, "train/dog": 2, "test": 0},
            "cat (train 2, test 0), dog (train 2, test 0)",
            "train 2, test 1",
        ),
        (
            {"train/a": 1, "train/b": 0, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1},
            "b (train 0, val 1, test 1)",
            "train 1, val 1, test 1",
        ),
        (
            {"train/a": 1, "train/b": 1, "validation/b": 1, "test/a": 1, "test/b": 1},
            "a (train 1, val 0, test 1)",
            "train 1, val 1, test 1",
        ),
        (
            {"train/a": 2, "train/b": 1, "val/a": 1, "val/b": 1},
            "b (train 0, val 1, test 1)",
            "train 1, val 1, test 1",
        ),
    ],
)
def test_a_class_with_too_few_images_in_a_given_part_is_named_with_its_counts(tmp_path, counts, classes, needed):
    make_tree(tmp_path, counts)
    assert error_of(tmp_path) == few(tmp_path, classes, needed)


@pytest.mark.parametrize(
    "counts",
    [
        {"cat": 3, "dog": 3},
        {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1},
        {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1, "test/cat": 1, "test/dog": 1},
        {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1},
    ],
)
def test_the_fewest_images_that_are_enough_are_no_error(tmp_path, counts):
    colours = make_tree(tmp_path, counts)
    parts = found(load(tmp_path), colours, tmp_path)
    assert sum(len(paths) for by_class in parts.values() for paths in by_class.values()) == len(colours)


def test_of_many_classes_with_too_few_images_five_are_named(tmp_path):
    make_tree(tmp_path, {**{f"c{number}": 1 for number in range(8)}, "dog": 3})
    named = ", ".join(f"c{number} (train 0, test 1)" for number in range(5))
    assert error_of(tmp_path) == few(tmp_path, f"{named} and 3 more", "train 2, test 1")


@pytest.mark.parametrize("part", ["test", "val", "valid", "validation"])
def test_classes_that_train_does_not_have_are_named_with_their_folder(tmp_path, part):
    make_tree(tmp_path, {"train/cat": 3, "train/dog": 3, f"{part}/cat": 1, f"{part}/dgo": 1, f"{part}/ant": 0})
    assert error_of(tmp_path) == f"{tmp_path / part} has classes that {tmp_path}/train has not: ant, dgo"


# The real files


@pytest.fixture(scope="module")
def real():
    if not os.environ.get(FOLDER):
        pytest.skip(f"needs the original CIFAR-10 files: set {FOLDER}")
    return datasets.load_dataset("cifar10")


def test_the_real_files_have_the_published_counts_and_classes(real):
    assert real.classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert {part: images.shape for part, images in real.images.items()} == {
        "train": (50_000, 32, 32, 3),
        "test": (10_000, 32, 32, 3),
    }
    for part, each in (("train", 5000), ("test", 1000)):
        assert real.images[part].dtype == np.uint8
        assert np.bincount(real.labels[part]).tolist() == [each] * 10
    assert real.checksums["data_batch_1"] == "c99cafc152244af753f735de768cd75f"
    assert len(real.checksums) == 7


def test_the_real_files_have_the_published_mean_and_deviation(real):
    mean, std = datasets.channel_statistics(real.images["train"])
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert std == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)


def test_the_first_real_images_are_a_frog_and_a_truck(real):
    assert [real.classes[label] for label in real.labels["train"][:2]] == ["frog", "truck"]
    assert real.images["train"][0, 0, 0].tolist() == [59, 62, 63]


@pytest.fixture(scope="module")
def real_100():
    if not any(Path(os.environ.get(FOLDER) or os.devnull).glob(f"{BATCHES_100}*")):
        pytest.skip(f"needs the original CIFAR-100 files: set {FOLDER}")
    return datasets.load_dataset("cifar100")


def test_the_real_files_of_cifar_100_have_the_published_counts_and_classes(real_100):
    assert len(real_100.classes) == 100
    assert (real_100.classes[0], real_100.classes[-1]) == ("apple", "worm")
    for part, each in (("train", 500), ("test", 100)):
        assert np.bincount(real_100.labels[part]).tolist() == [each] * 100

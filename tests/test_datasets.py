"""The data sources: counted, checked before anything is unpickled, and with a way out in every error."""

import hashlib
import http.server
import io
import os
import pickle
import tarfile
import tempfile
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vit_finetune import datasets

FOLDER = datasets.FOLDER_VARIABLE
BATCHES, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"


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
    source = pytest.importorskip("torchvision.datasets").CIFAR10
    batches = originals / BATCHES
    train = [f"data_batch_{i}" for i in range(1, 6)]
    monkeypatch.setattr(source, "train_list", [[name, md5(batches / name)] for name in train])
    monkeypatch.setattr(source, "test_list", [["test_batch", md5(batches / "test_batch")]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(batches / "batches.meta")})
    monkeypatch.setattr(source, "tgz_md5", md5(originals / ARCHIVE))
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/" + ARCHIVE)
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


def copy_batches(originals, to):
    copy(originals, to, *(f"{BATCHES}/{path.name}" for path in (originals / BATCHES).iterdir()))


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


def error_of_loading():
    with pytest.raises(OSError, match=r".") as caught:
        datasets.load_dataset("cifar10")
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


WAY_OUT = (
    f"; {FOLDER} must name a folder with {BATCHES}/ or {ARCHIVE} as its author published them "
    "(unset it to download them; `make demo` needs neither)"
)


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


def malicious_archive(path, outside):
    """An archive with a whole batch folder and a member that would land outside."""
    with tarfile.open(path, "w:gz") as tar:
        for name in (f"{BATCHES}/data_batch_1", outside):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    return path


BAD_ARCHIVES = {
    "truncated": lambda path, originals: path.write_bytes((originals / ARCHIVE).read_bytes()[:-1000]),
    "empty": lambda path, originals: path.write_bytes(b""),
    "garbage": lambda path, originals: path.write_bytes(b"garbage" * 1000),
    "outside": lambda path, originals: malicious_archive(path, "../evil"),
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


def test_unpacking_stops_at_a_path_outside_even_if_the_checksum_fits(tmp_path):
    archive = malicious_archive(tmp_path / ARCHIVE, "../evil")
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match=rf"{ARCHIVE} was not unpacked: .*'\.\./evil' would be extracted to .*outside"):
        datasets._extract(archive, md5(archive), tmp_path / "target")
    assert not (tmp_path / "evil").exists()


def test_unpacking_keeps_an_absolute_path_inside(tmp_path):
    archive = malicious_archive(tmp_path / ARCHIVE, str(tmp_path / "evil"))
    (tmp_path / "target").mkdir()
    datasets._extract(archive, md5(archive), tmp_path / "target")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_unpacking_stops_at_a_link_that_leads_outside(tmp_path, kind):
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = kind, "../evil"
        tar.addfile(link)
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match="was not unpacked: 'link' would link to"):
        datasets._extract(tmp_path / ARCHIVE, md5(tmp_path / ARCHIVE), tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


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


def test_without_a_network_the_address_the_reason_and_two_ways_out_are_told(cifar, tmp_path, monkeypatch):
    monkeypatch.undo()  # the true address again
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "_opener", None)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert error_of_loading() == (
        "could not download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz: "
        "<urlopen error [Errno 111] Connection refused>. "
        f"Either set {FOLDER} to a folder that holds {ARCHIVE} or {BATCHES}/, "
        "or run `make demo`, which downloads nothing"
    )
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_cache_folder_that_cannot_be_made_is_an_expected_error(cifar, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert "Not a directory" in error_of_loading()


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

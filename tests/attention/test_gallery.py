"""The gallery holds what the model computed on each image, and hands it on unchanged."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.small_vits import build, pictures
from vit_finetune.attention import gallery, kept
from vit_finetune.attention.judge import Judgement
from vit_finetune.attention.maps import METHODS, MapMaker
from vit_finetune.attention.pixels import PixelGrid
from vit_finetune.attention.sample import PredictedImages, Sample
from vit_finetune.attention.walk import Walk
from vit_finetune.verdict import error_chance, in_words

GRID = PixelGrid((8, 16), (64, 128), (64, 64), (4, 4))  # the middle half of a wide image


@pytest.fixture(scope="module")
def maker() -> MapMaker:
    return MapMaker(build(num_classes=3), batch_size=2)


def fill(
    maker: MapMaker, pixels: torch.Tensor, predicted: list[int], classes: int = 3
) -> gallery.Gallery:
    count = len(pixels)
    images, labels = np.zeros((count, 8, 16, 3), np.uint8), np.zeros(count, int)
    files = [f"{number}.jpg" for number in range(count)]
    shown = PredictedImages(images, labels, np.array(predicted), files)
    return gallery.fill_gallery(maker, pixels, np.arange(count) + 7, shown, classes)


@pytest.fixture(scope="module")
def filled(maker) -> gallery.Gallery:
    return fill(maker, pictures(maker.model, 3), [0, 2, 2])


def test_what_the_gallery_holds_of_an_image_does_not_depend_on_the_batch(maker, filled):
    alone = fill(maker, pictures(maker.model, 3)[2:], [2])
    torch.testing.assert_close(filled.attn[2:], alone.attn)
    torch.testing.assert_close(filled.page_attn[2:], alone.page_attn)
    torch.testing.assert_close(filled.heads[2:], alone.heads)
    np.testing.assert_allclose(filled.probabilities[2:], alone.probabilities, atol=1e-6)
    for k in range(3):
        for name in METHODS:
            torch.testing.assert_close(
                filled.class_maps[k][name][2:], alone.class_maps[k][name], rtol=1e-3, atol=1e-6
            )
    for pair, maps in alone.contrasts.items():
        for name, values in maps.items():
            torch.testing.assert_close(
                filled.contrasts[pair][name][2:], values, rtol=1e-3, atol=1e-4
            )
    assert not torch.allclose(filled.class_maps[0]["relevance"], filled.class_maps[1]["relevance"])


def test_the_gallery_holds_probabilities_and_where_each_head_looks_from_cls(maker, filled):
    with torch.no_grad():
        expected = maker.model(pictures(maker.model, 3)).softmax(dim=1)
    np.testing.assert_allclose(filled.probabilities, expected, atol=1e-5)
    torch.testing.assert_close(filled.heads, filled.page_attn[..., 0, 1:].unflatten(-1, (4, 4)))


def test_contrasts_are_of_every_pair_of_classes_and_of_the_maps_that_know_the_class(filled):
    assert [*filled.contrasts] == [(0, 1), (0, 2), (1, 2)]
    for found in filled.contrasts.values():
        assert [*found] == ["gradient rollout", "relevance", "LeGrad"]


def test_of_many_classes_those_that_are_probable_in_an_image_are_contrasted(monkeypatch):
    monkeypatch.setattr(gallery, "CONTRAST_CLASSES", 2)
    maker = MapMaker(build(num_classes=4))
    images = pictures(maker.model, 2)
    with torch.no_grad():
        highest = maker.model(images).softmax(dim=1).amax(dim=0)
    chosen = sorted(highest.argsort(descending=True)[:2].tolist())
    assert gallery.contrasted(maker, images, 4) == chosen
    assert [*fill(maker, images, [0, 1], 4).contrasts] == [tuple(chosen)]


@pytest.mark.parametrize(
    ("matrices", "in_file", "axes"),  # a block has three heads, a value two bytes
    [
        (3 * 3, kept.Kept((0, 2, 3), 4, 3), "images, blocks, heads, "),
        (2, kept.Kept((0, 3), 4, 3, each_head=False), "images, blocks, the mean over heads, "),
    ],
)
def test_a_gallery_above_the_stated_sizes_keeps_some_blocks_or_mean_heads_and_says_which(
    monkeypatch, tmp_path, matrices, in_file, axes
):
    maker = MapMaker(build(depth=4, num_classes=3))
    monkeypatch.setattr(kept, "FILE_BYTES", 2 * matrices * 2 * 17**2)
    monkeypatch.setattr(kept, "PAGE_BYTES", 2 * 2 * 17**2)
    images, whole = pictures(maker.model), {}
    small = fill(maker, images, [0, 1])
    Walk(maker.model, images).each_block(lambda block: whole.update({block.index: block.attn}))
    assert small.in_file == in_file
    assert small.on_page == kept.Kept((0, 3), 4, 3, each_head=False)
    for held, attn in ((small.in_file, small.attn), (small.on_page, small.page_attn)):
        for place, block in enumerate(held.blocks):
            matrix = whole[block] if held.each_head else whole[block].mean(dim=1, keepdim=True)
            torch.testing.assert_close(attn[:, place], matrix.to(attn.dtype))
    gallery.write_tensors(
        tmp_path, small, {"rollout": torch.rand(2, 4, 4)}, np.array([3, 11]), ("CLS",)
    )
    blocks = [*in_file.blocks]
    with safe_open(tmp_path / "gallery.safetensors", "pt") as file:
        assert file.get_tensor("blocks").tolist() == blocks
        text = file.metadata()["attn"]
    assert text.startswith(axes)
    assert text.endswith(f"prefix tokens: CLS; blocks: {' '.join(map(str, blocks))} of 4")
    gallery.write_page(tmp_path / "index.html", small, GRID, ["a", "b", "c"], ("CLS",), JUDGEMENT)
    sentence = "the page holds of 4 blocks only 0, 3 and the mean over each block's 3 heads alone."
    assert sentence in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("depth", "count", "expected"),
    [
        (12, 12, [*range(12)]),
        (12, 20, [*range(12)]),
        (12, 3, [0, 6, 11]),
        (12, 2, [0, 11]),
        (12, 1, [11]),
        (3, 0, [2]),
    ],
)
def test_blocks_are_spread_from_the_first_to_the_last(depth, count, expected):
    assert [*kept.spread(depth, count)] == expected


@pytest.mark.parametrize("tokens", [197, 905, 1370])
@pytest.mark.parametrize("images", [8, 64])
def test_what_is_kept_stays_below_the_stated_bytes_whatever_the_number_of_tokens(images, tokens):
    file = kept.kept_in_file(images, 12, 6, tokens)
    page = kept.kept_on_page(images, 12, 6, tokens)
    values = images * tokens**2
    assert 2 * len(file.blocks) * (6 if file.each_head else 1) * values <= kept.FILE_BYTES
    # at least one block
    size = len(page.blocks) * (6 if page.each_head else 1) * values
    assert size <= kept.PAGE_BYTES or (images, tokens, len(page.blocks)) == (64, 1370, 1)
    assert file.blocks[-1] == page.blocks[-1] == 11


@pytest.mark.parametrize("choose", [kept.kept_in_file, kept.kept_on_page])
def test_of_the_shipped_model_everything_is_kept(choose):
    assert choose(8, 12, 3, 197) == kept.Kept((*range(12),), 12, 3)


def test_records_of_the_page_say_where_the_patches_lie_and_hold_maps_without_class_once(filled):
    record = gallery.page_records(filled, GRID)[1]
    assert record.box == (4.0, 0.0, 12.0, 8.0)
    assert (record.label, record.predicted) == (0, 2)
    assert record.maps["last block"].shape == record.maps["rollout"].shape == (1, 4, 4)
    assert record.maps["LeGrad"].shape == (3, 4, 4)
    for k in range(3):
        np.testing.assert_array_equal(
            record.maps["relevance"][k], filled.class_maps[k]["relevance"][1]
        )
    assert record.file == "1.jpg"
    assert record.content is None
    assert [*record.contrasts] == ["gradient rollout", "relevance", "LeGrad"]
    for place, pair in enumerate(filled.contrasts):
        np.testing.assert_array_equal(
            record.contrasts["LeGrad"][place], filled.contrasts[pair]["LeGrad"][1]
        )
    padded = replace(filled, content=np.array([[0, 0, 8, 16], [2, 0, 6, 16], [0, 0, 8, 16]]))
    # left, top, right, bottom
    assert gallery.page_records(padded, GRID)[1].content == (0, 2, 16, 6)


def test_painted_maps_are_those_of_the_predicted_class_and_leave_out_bars(filled):
    painted = gallery.painted_maps(filled, GRID)
    assert [*painted] == [*METHODS]
    found, expected = painted["relevance"][1], filled.class_maps[2]["relevance"][1].numpy()
    assert found.shape == (64, 128)
    assert np.isnan(found[:, :32]).all()
    np.testing.assert_allclose(found[8::16, 40:96:16], expected, rtol=1e-6)
    content = np.array([[0, 0, 8, 16]] * 3)
    content[1] = (2, 0, 6, 16)
    padded = gallery.painted_maps(replace(filled, content=content), GRID)["relevance"]
    assert np.isnan(padded[1][:16]).all()
    np.testing.assert_array_equal(padded[1][16:48], found[16:48])
    np.testing.assert_array_equal(padded[0], painted["relevance"][0])


def test_class_means_average_the_images_of_a_class_and_leave_the_others_empty():
    maps = torch.arange(12.0).view(3, 2, 2)
    means = gallery.class_means(
        maps, np.array([2, 0, 2]), np.array([2, 0, 1]), ["a", "b", "c", "d"]
    )
    assert [(mean.name, mean.n) for mean in means] == [("a", 1), ("b", 0), ("c", 2), ("d", 0)]
    np.testing.assert_array_equal(means[0].map, maps[1])
    np.testing.assert_array_equal(means[2].map, (maps[0] + maps[2]) / 2)
    assert np.isnan([means[1].map, means[3].map]).all()


def test_right_and_wrong_are_apart_where_both_have_enough_images():
    predicted, labels = np.repeat([0, 1], [45, 39]), np.repeat([0, 1, 1, 0], [20, 25, 20, 19])
    maps = torch.from_numpy((predicted != labels).astype(np.float32))[:, None, None].expand(
        -1, 2, 2
    )
    means = gallery.class_means(maps, predicted, labels, ["cat", "dog"])
    assert [(mean.name, mean.n, mean.map[0, 0]) for mean in means] == [
        ("cat, right", 20, 0),
        ("cat, wrong", 25, 1),
        ("dog", 39, pytest.approx(19 / 39)),
    ]


def test_maps_of_further_images_are_those_of_the_images_that_were_drawn(maker):
    pixels = pictures(maker.model, 12)
    images = (pixels.permute(0, 2, 3, 1) - pixels.min()).mul(9).numpy().astype(np.uint8)
    predicted = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    test = PredictedImages(images, predicted, predicted, [""] * 12)

    def preprocess(some):
        return some.permute(0, 3, 1, 2).float()

    rows = np.array([0, 1, 6, 9])
    all_images, classes = torch.from_numpy(images), torch.from_numpy(predicted)
    sample = Sample(rows, preprocess(all_images[rows]), classes[rows], torch.zeros(4))
    maps = maker.maps(sample.pixels, sample.predicted)["relevance"]
    found, drawn = gallery.relevance_by_class(
        maker, test, preprocess, sample, maps, np.random.default_rng(0)
    )
    assert drawn[:4].tolist() == rows.tolist()
    assert len({*drawn.tolist()}) == len(drawn) == 8  # as many more as the sample has
    expected = maker.maps(preprocess(all_images[drawn]), classes[drawn])["relevance"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_tensors_are_written_with_the_rows_that_they_belong_to(filled, tmp_path):
    maps = {"last block": torch.rand(2, 4, 4), "LeGrad": torch.rand(2, 4, 4)}
    rows = np.array([3, 11])
    gallery.write_tensors(tmp_path, filled, maps, rows, ("CLS",))
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    matrices, found = (load_file(tmp_path / f"{name}.safetensors") for name in ("gallery", "maps"))
    assert torch.equal(matrices["attn"], filled.page_attn.half())
    assert matrices["blocks"].tolist() == [0, 1]
    assert matrices["rows"].tolist() == [7, 8, 9]
    assert found.keys() == {"last_block", "LeGrad", "rows"}
    assert torch.equal(found["last_block"], maps["last block"])
    assert found["rows"].tolist() == [3, 11]
    gallery.write_tensors(tmp_path, filled, maps, rows, ("CLS",))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


ROWS = [
    {
        "map": "rollout",
        "n": 9,
        "minus_centre": -0.0214,
        "minus_centre_low": -0.05,
        "minus_centre_high": 0.01,
        "verdict": "no better",
    },
    {"map": "centre", "n": 9, "verdict": ""},
]
JUDGEMENT = Judgement(
    {"selfcheck_max_rel_err": 1.24e-6}, {"attention_maps": ROWS}, {}, torch.zeros(2, 1, 1)
)


def test_the_facts_of_the_page_are_those_of_the_judgement(filled, tmp_path):
    assert gallery.facts(JUDGEMENT) == [
        ("how sure that is", error_chance(ROWS)),
        ("rollout: score minus that of a centred Gaussian", "-0.021 [-0.050, +0.010]"),
        ("self-check of every block, largest relative error", "1.2e-06"),
    ]
    gallery.write_page(
        tmp_path / "index.html", filled, GRID, ["a", "b", "<c>"], ("CLS",), JUDGEMENT
    )
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "rollout: score minus that of a centred Gaussian" in text
    assert "What the model attends to" in text
    assert f'"summary": {json.dumps(in_words(ROWS))}' in text


def test_the_page_opens_on_the_surest_right_image_and_the_map_that_deserves_most_trust(filled):
    rows = [
        {"map": name, "minus_centre_low": low, "verdict": "better"}
        for name, low in (("rollout", 0.1), ("LeGrad", 0.2))
    ]
    judgement = replace(
        JUDGEMENT, tables={"attention_maps": [*rows, {"map": "centre", "verdict": ""}]}
    )
    shares = np.array([[0.9, 0.1, 0], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]], dtype=np.float32)
    # the first, the surest, is wrong
    shown = replace(filled, probabilities=shares, labels=np.array([1, 2, 2]))
    assert gallery.opening(shown, judgement) == (2, "LeGrad")


def test_distance_rows_are_one_for_each_block_and_head():
    distances = torch.tensor([[[1.0, 2.0]], [[1.5, 2.00049]]])
    assert gallery.distance_rows(distances) == [
        {"block": 0, "head": 0, "pretrained": 1.0, "finetuned": 1.5},
        {"block": 0, "head": 1, "pretrained": 2.0, "finetuned": 2.0},
    ]

"""The gallery holds what the model computed on each image, and hands it on unchanged."""

import html
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.small_vits import build, pictures
from vit_finetune.attention import gallery, kept, page
from vit_finetune.attention.judge import Judgement
from vit_finetune.attention.maps import METHODS, MapMaker
from vit_finetune.attention.pixels import PixelGrid
from vit_finetune.attention.sample import PredictedImages, Sample
from vit_finetune.attention.walk import Walk
from vit_finetune.verdict import bars_in_words, error_chance, in_words

GRID = PixelGrid((8, 16), (64, 128), (64, 64), (4, 4))  # the middle half of a wide image


@pytest.fixture(scope="module")
def maker() -> MapMaker:
    return MapMaker(build(num_classes=3), batch_size=2)


def fill(maker: MapMaker, pixels: torch.Tensor, predicted: list[int]) -> gallery.Gallery:
    count = len(pixels)
    images = np.zeros((count, 8, 16, 3), np.uint8)
    labels = np.zeros(count, int)
    files = [f"{number}.jpg" for number in range(count)]
    chosen = PredictedImages(
        images, labels, np.arange(count), np.array(predicted), np.ones(count), files
    )
    return gallery.fill_gallery(maker, pixels, np.arange(count) + 7, chosen)


@pytest.fixture(scope="module")
def filled(maker) -> gallery.Gallery:
    return fill(maker, pictures(maker.model, 3), [0, 2, 2])


def test_what_the_gallery_holds_of_an_image_is_what_the_model_computes_on_it(maker, filled):
    pixels = pictures(maker.model, 3)
    with torch.no_grad():
        logits = maker.model(pixels)
    for i, shown in enumerate(filled.images):
        image = pixels[i : i + 1]
        np.testing.assert_allclose(shown.probabilities, logits[i].softmax(dim=0), atol=1e-5)
        for k in range(3):
            for name, values in maker.maps(image, torch.tensor([k])).items():
                of_class = gallery.map_of(shown, name, k)
                np.testing.assert_allclose(of_class, values[0], rtol=1e-3, atol=1e-6)
        for place, rival in enumerate(shown.rivals):
            pair = torch.tensor([shown.predicted]), torch.tensor([rival])
            for name, values in maker.maps(image, *pair, methods=[*shown.contrasts]).items():
                np.testing.assert_allclose(
                    shown.contrasts[name][place], values[0], rtol=1e-3, atol=1e-4
                )
        np.testing.assert_allclose(
            shown.heads, shown.page_attn[..., 0, 1:].reshape(2, 3, 4, 4), rtol=1e-5
        )
        assert torch.equal(shown.attn, torch.from_numpy(shown.page_attn).half())
    assert [shown.row for shown in filled.images] == [7, 8, 9]
    assert [shown.file for shown in filled.images] == ["0.jpg", "1.jpg", "2.jpg"]


def test_the_graph_of_an_image_ends_before_the_next_image_begins(maker, other_walks):
    fill(maker, pictures(maker.model, 3), [0, 2, 2])
    assert other_walks == [0] * 3


def test_the_predicted_class_is_compared_with_the_most_probable_others(maker, filled):
    knowing = [name for name, kind in METHODS.items() if kind.asks]
    for shown in filled.images:
        order = np.argsort(-shown.probabilities).tolist()
        assert shown.rivals == [k for k in order if k != shown.predicted]
        assert [*shown.contrasts] == knowing
        assert len(shown.maps["rollout"]) == len(shown.maps["last block"]) == 1
        assert len(shown.maps["LeGrad"]) == 3


def test_of_many_classes_the_most_probable_are_rivals_and_always_the_true_one(monkeypatch):
    monkeypatch.setattr(gallery, "RIVALS", 2)
    logits = torch.tensor([0.0, 5.0, 1.0, 3.0, 2.0])
    assert gallery.rivals_of(logits, 1, 1) == [3, 4]
    assert gallery.rivals_of(logits, 1, 4) == [3, 4]
    assert gallery.rivals_of(logits, 1, 0) == [3, 0]
    assert gallery.rivals_of(logits, 0, 1) == [1, 3]


def test_classes_that_do_not_go_together_take_another_walk_and_the_maps_stay_the_same(
    maker, filled, monkeypatch
):
    monkeypatch.setattr(gallery, "RIVALS", 1)
    monkeypatch.setattr(gallery, "CLASSES_AT_ONCE", 1)
    apart = fill(maker, pictures(maker.model, 3), [0, 2, 2])
    for one, other in zip(apart.images, filled.images, strict=True):
        for name, values in other.maps.items():
            np.testing.assert_allclose(one.maps[name], values, rtol=1e-4, atol=1e-6)


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
    images = pictures(maker.model)
    whole = {}
    small = fill(maker, images, [0, 1])
    walk = Walk(maker.model, images, frozenset())
    walk.each_block(lambda block: whole.update({block.index: block.attn}), [walk.direction(0)])
    assert small.in_file == in_file
    assert small.on_page == kept.Kept((0, 3), 4, 3, each_head=False)
    on_page = torch.stack([torch.from_numpy(shown.page_attn) for shown in small.images])
    for held, attn in ((small.in_file, small.stacked_attn()), (small.on_page, on_page)):
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
    text = page.attention_page(small.images, common_of(small), JUDGEMENT)
    sentence = "the page holds of 4 blocks only 0, 3 and the mean over each block's 3 heads alone."
    assert sentence in html.unescape(text)


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


def test_the_box_of_the_page_is_where_the_patches_lie(filled):
    assert common_of(filled).box == [4.0, 0.0, 12.0, 8.0]


def test_a_painted_map_lies_on_the_crop_and_leaves_out_bars(filled):
    shown = filled.images[1]
    expected = gallery.map_of(shown, "relevance", 2)
    found = gallery.painted(shown, expected, GRID)
    assert found.shape == (64, 128)
    assert np.isnan(found[:, :32]).all()
    np.testing.assert_allclose(found[8::16, 40:96:16], expected, rtol=1e-6)
    padded = gallery.painted(replace(shown, content=(2, 0, 6, 16)), expected, GRID)
    assert np.isnan(padded[:16]).all()
    np.testing.assert_array_equal(padded[16:48], found[16:48])


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
    predicted = np.repeat([0, 1], [45, 39])
    labels = np.repeat([0, 1, 1, 0], [20, 25, 20, 19])
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
    test = PredictedImages(images, predicted, np.arange(12), predicted, np.ones(12), [""] * 12)

    def preprocess(some):
        return some.permute(0, 3, 1, 2).float()

    rows = np.array([0, 1, 6, 9])
    all_images = torch.from_numpy(images)
    classes = torch.from_numpy(predicted)
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
    assert torch.equal(matrices["attn"], filled.stacked_attn())
    assert matrices["blocks"].tolist() == [0, 1]
    assert matrices["rows"].tolist() == [7, 8, 9]
    assert found.keys() == {"last_block", "LeGrad", "rows"}
    assert torch.equal(found["last_block"], maps["last block"])
    assert found["rows"].tolist() == [3, 11]
    gallery.write_tensors(tmp_path, filled, maps, rows, ("CLS",))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


ROWS = [
    {
        "map": name,
        "n": 9,
        "minus_centre": mean,
        "minus_centre_low": mean - 0.03,
        "minus_centre_high": mean + 0.03,
        "verdict": "no better" if abs(mean) < 0.03 else "better",
    }
    for name, mean in (("rollout", 0.2), ("LeGrad", 0.1), ("relevance", 0.0))
] + [{"map": "centre", "n": 9, "verdict": ""}]
JUDGEMENT = Judgement(
    {"selfcheck_max_rel_err": 1.24e-6, "completeness_max_rel_err": 2e-7},
    {"attention_maps": ROWS},
    {},
    torch.zeros(2, 1, 1),
    {"the image": 0.75, "biases": 0.25},
)


def common_of(filled: gallery.Gallery) -> page.Common:
    return page.Common(
        classes=["a", "b", "<c>"],
        prefix=("CLS",),
        methods=page.methods_in_order(ROWS),
        kept=filled.on_page,
        grid=GRID,
    )


def test_the_facts_of_the_page_are_those_of_the_judgement(filled):
    assert page.facts(JUDGEMENT)[-3:] == [
        ("self-check of every block, largest relative error", "1.2e-06"),
        ("where the predicted class's logit comes from", "the image 75 %, biases 25 %"),
        ("sum of these parts against the logit, relative error", "2.0e-07"),
    ]
    assert page.facts(JUDGEMENT)[0] == ("how sure that is", error_chance(ROWS))
    text = page.attention_page(filled.images, common_of(filled), JUDGEMENT)
    assert "LeGrad: score minus that of a centred Gaussian" in text
    assert "+0.100 [+0.070, +0.130]" in text
    assert "What the model attends to" in text
    assert in_words(ROWS) in text


def test_what_bars_do_stands_beside_the_verdict_of_the_page(filled):
    bars = {"bars": {"exchanged": 0}}
    padded = replace(JUDGEMENT, metrics=JUDGEMENT.metrics | bars)
    text = page.attention_page(filled.images, common_of(filled), padded)
    assert f"{in_words(ROWS)} {bars_in_words(bars)}" in text
    assert "bars" not in in_words(ROWS)


def test_the_methods_of_the_page_come_with_their_verdict_in_the_order_of_the_rows(filled):
    methods = common_of(filled).methods
    assert [(one.name, one.verdict) for one in methods] == [
        ("rollout", "better"), ("LeGrad", "better"), ("relevance", "no better"),
    ]  # fmt: skip
    assert methods[1].description == METHODS["LeGrad"].description


def test_the_page_opens_on_the_surest_mistake_and_the_best_map_that_knows_the_class(filled):
    shares = np.array([[0.9, 0.1, 0], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]], dtype=np.float32)
    labels = [0, 1, 0]  # the first, the surest, is right
    shown = [
        replace(one, probabilities=share, label=label)
        for one, share, label in zip(filled.images, shares, labels, strict=True)
    ]
    assert page.opening(shown, JUDGEMENT) == (2, "LeGrad")
    right = [replace(one, label=one.predicted) for one in shown]
    assert page.opening(right, JUDGEMENT) == (1, "LeGrad")


def test_distance_rows_are_one_for_each_block_and_head():
    distances = torch.tensor([[[1.0, 2.0]], [[1.5, 2.00049]]])
    assert gallery.distance_rows(distances) == [
        {"block": 0, "head": 0, "pretrained": 1.0, "finetuned": 1.5},
        {"block": 0, "head": 1, "pretrained": 2.0, "finetuned": 2.0},
    ]

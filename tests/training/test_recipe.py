"""The recipe: its probe, its epochs, the epoch it keeps, and that it goes on where it was
stopped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.training.examples import (
    copy_of_weights,
    make_data,
    plain_settings,
    same_for_both,
    small,
    split_at,
    store,
)
from vit_finetune.core.errors import UserError
from vit_finetune.core.ranks import Ranks
from vit_finetune.model.saved import load_model
from vit_finetune.training import recipe as recipe_module
from vit_finetune.training.loop import learning_rate
from vit_finetune.training.probe import fit_probes
from vit_finetune.training.recipe import History, Recipe, TrainingData, changing_views, image_cost

# Each epoch differs from the next in what is drawn; the rate is so high that the last epoch is not
# the best one.
RANDOM = plain_settings(
    **{
        "epochs": 5,
        "lr": 0.1,
        "token_dropout": 0.25,
        "brightness": 0.2,
        "mixup": 0.4,
        "layer_decay": 0.7,
    },
    # a probe that is easily beaten
    **{"class_weights": "balanced", "head_init": "probe", "probe_c": 1e-9},
)


class Stopped(Exception):  # noqa: N818  # not an error: it stands for the end of the process
    """The process ends here."""


def data_of(model, blocks=1):
    """Two views of 40 training images, and 24 validation images."""
    pixels, labels = make_data()
    val, val_labels = make_data(24, seed=1)
    views = [store(model, some, blocks) for some in (pixels, pixels.flip(-1))]
    return TrainingData(views, labels, store(model, val, blocks), val_labels)


def train(model, settings, *, checkpoint=None, stop_after=None):
    """History and weights at the end, and the epochs that were trained here; `Stopped` after an
    epoch if asked for."""
    epochs = []

    def after_epoch(history):
        epochs.append(history.epochs)
        if epochs[-1] == stop_after:
            raise Stopped

    recipe = Recipe(settings, seed=3)
    history = recipe.train(
        split_at(model, 1), data_of(model), checkpoint=checkpoint, after_epoch=after_epoch
    )
    return history, copy_of_weights(model), epochs


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


# Stopped, and started again


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_training_stopped_after_any_epoch_goes_on_to_the_same_weights_and_history(
    tiny_model_folder, tmp_path, stop_after
):
    """Also after the last epoch, when its checkpoint was written and the process ended before the
    model was."""
    whole, weights, _ = train(load_model(tiny_model_folder, 3), RANDOM)
    # so the weights of the last epoch would be the wrong ones
    assert 0 < whole.best_epoch < whole.epochs == 5
    checkpoint = tmp_path / "c" / "last.pt"
    with pytest.raises(Stopped):
        train(
            load_model(tiny_model_folder, 3), RANDOM, checkpoint=checkpoint, stop_after=stop_after
        )
    resumed, resumed_weights, epochs = train(
        load_model(tiny_model_folder, 3), RANDOM, checkpoint=checkpoint
    )
    assert epochs == list(range(stop_after + 1, 6))
    assert (resumed.rows, resumed.best_epoch) == (whole.rows, whole.best_epoch)
    assert_same_weights(resumed_weights, weights)


def test_a_run_stopped_after_patience_ran_out_trains_no_further_epoch_and_ends_with_the_same_model(
    tiny_model_folder, tmp_path
):
    settings = replace(RANDOM, epochs=50, patience=1)
    whole, weights, epochs = train(load_model(tiny_model_folder, 3), settings)
    assert epochs[-1] == whole.best_epoch + 1 < 50
    checkpoint = tmp_path / "last.pt"
    with pytest.raises(Stopped):
        train(
            load_model(tiny_model_folder, 3), settings, checkpoint=checkpoint, stop_after=epochs[-1]
        )
    resumed, resumed_weights, trained_again = train(
        load_model(tiny_model_folder, 3), settings, checkpoint=checkpoint
    )
    assert trained_again == []
    assert resumed.rows == whole.rows
    assert_same_weights(resumed_weights, weights)


# Which epoch is kept


def test_the_best_epoch_by_validation_accuracy_is_kept(tiny_vit):
    settings = plain_settings(lr=0.3, epochs=6, grad_clip=None)  # wild enough to get worse
    history, weights, _ = train(tiny_vit, settings)
    accuracies = [row["val_accuracy"] for row in history.rows]
    best = max(
        range(len(accuracies)),
        key=lambda epoch: (accuracies[epoch], -history.rows[epoch]["val_loss"]),
    )
    assert history.best_epoch == best
    assert min(accuracies) < max(accuracies)
    assert all(torch.equal(weights[name], value) for name, value in history.best_state.items())
    val, labels = make_data(24, seed=1)
    assert (tiny_vit(val).argmax(1) == labels).double().mean().item() == max(accuracies)


def test_patience_stops_after_so_many_epochs_without_a_better_one(tiny_vit):
    settings = plain_settings(lr=1e-9, epochs=50, patience=2)
    history, _, _ = train(tiny_vit, settings)
    assert history.epochs == history.best_epoch + 2


def test_the_validation_loss_counts_every_image_the_same_even_with_class_weights(tiny_vit):
    _, labels = make_data()
    stored = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    settings = plain_settings(class_weights="balanced", epochs=1)
    history = Recipe(settings, seed=0).train(split_at(tiny_vit, 0), same_for_both(stored, labels))
    with torch.no_grad():
        expected = F.cross_entropy(tiny_vit.head(stored), labels).item()
    assert history.best["val_loss"] == pytest.approx(expected, rel=1e-5)


# What is trained


@pytest.mark.parametrize(
    ("blocks", "parameters"),
    [
        (0, "all"),
        *(
            (blocks, which)
            for blocks in (1, 2)
            for which in ("all", "norms", "biases", ["*.attn.*", "!*.bias"])
        ),
    ],
    ids=str,
)
def test_frozen_parameters_keep_their_bits_and_all_others_move(tiny_vit, blocks, parameters):
    pixels, labels = make_data()
    split_model, stored = split_at(tiny_vit, blocks, parameters), store(tiny_vit, pixels, blocks)
    before = copy_of_weights(tiny_vit)
    settings = plain_settings(epochs=2, weight_decay=0.0)  # what moves, moves by its gradient
    Recipe(replace(settings, layer_decay=0.5), seed=0).train(
        split_model, same_for_both(stored, labels)
    )
    moved = {name for name, p in tiny_vit.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in tiny_vit.named_parameters() if p.requires_grad}


def test_training_starts_from_the_head_that_head_init_names(tiny_model_folder):
    """Seen before any step matters, at a learning rate of next to nothing."""
    heads = {}
    for head_init in ("probe", "zeros"):
        model = load_model(tiny_model_folder, 3)
        split_model, data = split_at(model, 1), data_of(model)
        settings = plain_settings(epochs=1, lr=1e-9, head_init=head_init, probe_c=0.02)
        Recipe(settings, seed=0)._start(split_model, data)
        heads[head_init] = model.head.weight.detach().clone()
    assert heads["zeros"].abs().max() == 0
    features = (
        split_model.predict_features(data.views[0]),
        split_model.predict_features(data.val),
    )
    _, start = fit_probes((features[0], data.labels), (features[1], data.val_labels), 0.02, "none")
    torch.testing.assert_close(heads["probe"], start.weight, rtol=0, atol=1e-6)


def test_epoch_0_is_the_best_probe_and_is_kept_where_training_makes_it_worse(tiny_model_folder):
    model = load_model(tiny_model_folder, 3)
    split_model, data = split_at(model, 1), data_of(model)
    features = (
        split_model.predict_features(data.views[0]),
        split_model.predict_features(data.val),
    )
    best, start = fit_probes(
        (features[0], data.labels), (features[1], data.val_labels), "auto", "none"
    )
    assert best.c != start.c
    before = copy_of_weights(model)
    wrong = replace(data, labels=data.labels.roll(1))  # whatever is learned is wrong
    recipe = Recipe(plain_settings(epochs=2, lr=0.01, head_init="probe", probe_c="auto"), seed=0)
    history = recipe._start(split_model, data)
    trained = recipe.train(split_model, wrong)
    expected = (best.logits(features[1]).argmax(1) == data.val_labels).double().mean().item()
    assert history.rows[0]["val_accuracy"] == expected
    assert history.probe_c == best.c.item()
    assert trained.best_epoch == 0
    assert_same_weights({k: v for k, v in copy_of_weights(model).items() if "head" not in k},
                        {k: v for k, v in before.items() if "head" not in k})  # fmt: skip


def test_of_epochs_with_the_same_accuracy_the_one_with_the_lower_loss_is_kept(tiny_vit):
    history = History()
    for accuracy, loss in ((0.5, 1.0), (0.8, 0.9), (0.8, 0.7), (0.8, 0.7), (0.7, 0.1)):
        history.add({"val_accuracy": accuracy, "val_loss": loss}, tiny_vit)
    assert history.best_epoch == 2
    assert [row["epoch"] for row in history.rows] == [0, 1, 2, 3, 4]


def test_few_images_are_trained_for_as_many_epochs_as_make_min_steps(tiny_vit):
    pixels, labels = make_data(12)  # two steps of eight and four images
    stored, settings = store(tiny_vit, pixels, 1), plain_settings(epochs=2, min_steps=9)
    history = Recipe(settings, seed=0).train(split_at(tiny_vit, 1), same_for_both(stored, labels))
    assert history.epochs == 5
    assert history.rows[-1]["lr"] == pytest.approx(
        learning_rate(9, 10, round(0.25 * 10), settings.lr)
    )


# Token dropout, and what the user is told


@pytest.mark.parametrize("blocks", [1, "all"])
@pytest.mark.parametrize(
    ("name", "kind", "needs_positions"),
    [
        ("vit_small_patch16_dinov3", "Eva", True),
        ("eva_giant_patch14_224", "Eva", True),
        ("beit_base_patch16_224", "Beit", True),
        ("vit_tiny_patch16_224", "VisionTransformer", False),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled", False),
    ],
)
def test_no_token_is_left_out_where_the_attention_needs_positions_and_a_note_says_so(
    name, kind, needs_positions, blocks
):
    size = 28 if "patch14" in name else 32
    model = small(name, img_size=size) if needs_positions else small(name, patch_size=8)
    pixels, labels = make_data(8, size=size)
    start, data = copy_of_weights(model), same_for_both(store(model, pixels, blocks), labels)
    split_model, weights, notes = split_at(model, blocks), {}, {}
    for dropout in (0.0, 0.3):
        model.load_state_dict(start)
        recipe = Recipe(plain_settings(token_dropout=dropout, epochs=1), seed=0)
        notes[dropout] = recipe.without_effect(split_model)
        recipe.train(split_model, data)
        weights[dropout] = copy_of_weights(model)
    assert notes[0.0] == []
    assert any(not torch.equal(weights[0.0][key], start[key]) for key in start)  # it does train
    if needs_positions:
        assert_same_weights(weights[0.3], weights[0.0])
        assert notes[0.3] == [
            f"token_dropout 0.3 has no effect: the attention of a {kind} needs every token's position, "
            "so none is left out"
        ]
    else:
        assert any(not torch.equal(weights[0.3][key], weights[0.0][key]) for key in start)
        assert notes[0.3] == []


@pytest.mark.parametrize("changes", [{"token_dropout": 0.3}, {"brightness": 0.2}])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_pooled_features_have_no_tokens_to_change_and_one_note_says_so(name, changes):
    model = small(name)
    pixels, labels = make_data(8)
    start, data, split_model = (
        copy_of_weights(model),
        same_for_both(store(model, pixels, 0), labels),
        split_at(model, 0),
    )
    weights = []
    for settings in (plain_settings(epochs=1), plain_settings(epochs=1, **changes)):
        model.load_state_dict(start)
        recipe = Recipe(settings, seed=0)
        notes = recipe.without_effect(split_model)
        recipe.train(split_model, data)
        weights.append(copy_of_weights(model))
    assert_same_weights(*weights)
    assert notes == [
        "token_dropout and brightness have no effect on pooled features (freeze.trainable_blocks is 0)"
    ]


@pytest.mark.parametrize(
    ("processes", "cost"),
    [(1, "about 20 s an epoch, 1.3 min in all"), (2, "about 10 s an epoch, 0.7 min in all")],
)
def test_a_note_says_what_changing_the_images_costs_all_processes_together(
    tiny_vit, monkeypatch, processes, cost
):
    measured = []

    def half_a_second(split_model, images, settings):
        measured.append(len(images))
        return 0.5

    monkeypatch.setattr(recipe_module, "image_cost", half_a_second)
    data = TrainingData(
        [torch.zeros(40, 1)],
        torch.zeros(40),
        torch.zeros(0),
        torch.zeros(0),
        np.zeros((40, 2, 2, 3)),
    )
    recipe = Recipe(plain_settings(crop_scale=0.5, shards=4), seed=0, ranks=Ranks(0, processes))
    (note,) = recipe.cost(split_at(tiny_vit, 1), data)
    assert cost in note
    assert measured == [2]  # as many as a shard has: 8 in a batch, 4 shards


@pytest.mark.parametrize(("blocks", "computed"), [(1, ["frozen", "frozen"]), ("all", [])])
def test_what_changing_an_image_costs_is_the_time_of_that_and_of_what_is_frozen(
    tiny_vit, monkeypatch, blocks, computed
):
    moments = iter([0.0, 5.0, 10.0, 12.0])  # a first time does not count
    monkeypatch.setattr(recipe_module.time, "perf_counter", lambda: next(moments))
    ran = []
    split_model = split_at(
        tiny_vit, blocks, preprocess=lambda images: images.permute(0, 3, 1, 2) / 255
    )
    tiny_vit.blocks[0].register_forward_hook(lambda *_: ran.append("frozen"))
    tiny_vit.blocks[2].register_forward_hook(lambda *_: ran.append("trained"))
    images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    assert image_cost(split_model, images, plain_settings(crop_scale=0.4)) == 2.0 / 8
    assert ran == computed


@pytest.mark.parametrize(("views", "mirrored"), [(1, [False]), (2, [False, True])])
def test_changed_images_are_mirrored_too_if_mirrored_activations_are_stored(views, mirrored):
    images, labels = np.zeros((4, 2, 2, 3), np.uint8), torch.zeros(4)
    found = changing_views(
        TrainingData([torch.zeros(4, 1)] * views, labels, torch.zeros(0), torch.zeros(0), images)
    )
    assert [view.mirrored for view in found] == mirrored
    assert all(view.array is images for view in found)


def test_a_number_of_processes_that_does_not_divide_the_shards_is_refused():
    settings = plain_settings(shards=4)
    for processes in (1, 2, 4):
        Recipe(settings, seed=0, ranks=Ranks(0, processes))
    with pytest.raises(
        UserError, match=r"there are 3 processes: their number must divide train\.shards \(4\)"
    ):
        Recipe(settings, seed=0, ranks=Ranks(0, 3))

"""A whole training: its start, its epochs, the epoch that is kept, and an interruption."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from tests.training.examples import (
    copy_of_weights,
    features_of,
    make_data,
    make_trainer,
    plain_settings,
    small,
    split_at,
    store,
)
from tests.training.examples import fit as fit_trainer
from vit_finetune.core.errors import UserError
from vit_finetune.core.ranks import Ranks
from vit_finetune.model.saved import load_model
from vit_finetune.params import Params
from vit_finetune.training.data import TrainingData
from vit_finetune.training.history import LEVEL, History, is_clearly_better
from vit_finetune.training.loss import changes_images
from vit_finetune.training.probe import START, fit_probe
from vit_finetune.training.trainer import Trainer, learning_rate, possible_settings

# Each epoch differs from the next in what is drawn; the rate is so high that the last epoch is not
# the best one.
RANDOM = plain_settings(
    epochs=5,
    lr=0.2,
    token_dropout=0.25,
    brightness=0.2,
    mixup=0.4,
    layer_decay=0.7,
    class_weights="balanced",
    head_init="probe",
    probe_c=1e-9,
)


class Stopped(Exception):  # noqa: N818  # not an error: it stands for the end of the process
    """The process ends here."""


def data_of(model, blocks=1):
    """40 training images and 24 validation images."""
    pixels, labels = make_data()
    val, val_labels = make_data(24, seed=1)
    train = store(model, pixels, blocks)
    groups = np.arange(len(val_labels))
    return TrainingData(
        train, labels, np.arange(len(labels)), store(model, val, blocks), val_labels, groups
    )


def fit(model, settings, *, checkpoint=None, stop_after=None):
    """History and weights at the end, and the epochs that were trained here; `Stopped` after an
    epoch if asked for."""
    epochs = []

    def after_epoch(history):
        epochs.append(history.epochs)
        if epochs[-1] == stop_after:
            raise Stopped

    trainer = Trainer(split_at(model, 1), data_of(model), settings, name="train", seed=3)
    history = trainer.fit(features_of(trainer), checkpoint, after_epoch)
    return history, copy_of_weights(model), epochs


def remove_head(model):
    """As before a first training; any other head is taken for one that was kept."""
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)


def head_of_first_epoch(trainer):
    """The head's weight with which epoch 1 starts."""

    def stop(history):
        raise Stopped

    with pytest.raises(Stopped):
        trainer.fit(features_of(trainer), after_epoch=stop)
    return trainer.split_model.model.head.weight.detach().clone()


def assert_same_weights(weights, expected):
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


# An interruption


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_training_stopped_after_any_epoch_goes_on_to_the_same_weights_and_history(
    tiny_model_folder, tmp_path, stop_after
):
    """Also after the last epoch, when its checkpoint was written and the process ended before the
    model was."""
    whole, weights, _ = fit(load_model(tiny_model_folder, 3), RANDOM)
    checkpoint = tmp_path / "c" / "last.pt"
    model = load_model(tiny_model_folder, 3)
    with pytest.raises(Stopped):
        fit(model, RANDOM, checkpoint=checkpoint, stop_after=stop_after)
    model = load_model(tiny_model_folder, 3)
    resumed, resumed_weights, epochs = fit(model, RANDOM, checkpoint=checkpoint)
    assert epochs == list(range(stop_after + 1, 6))
    assert (resumed.rows, resumed.keeps_start) == (whole.rows, whole.keeps_start)
    assert_same_weights(resumed_weights, weights)


# What is kept


def test_the_model_ends_with_the_weights_of_the_last_epoch(tiny_vit):
    remove_head(tiny_vit)
    weights = {}

    def after_epoch(history):
        weights[history.epochs] = copy_of_weights(tiny_vit)

    trainer = Trainer(split_at(tiny_vit, 1), data_of(tiny_vit), RANDOM, name="train", seed=2)
    history = trainer.fit(features_of(trainer), after_epoch=after_epoch)
    accuracies = [row["val_accuracy"] for row in history.rows]
    assert accuracies[-1] < max(accuracies)  # a choice of the best epoch would take another
    assert history.kept_epoch == 5
    assert_same_weights(copy_of_weights(tiny_vit), weights[5])


@pytest.mark.parametrize(
    ("gained", "lost", "is_better"),
    # exact McNemar, one-sided: .0039, .0156, .0036, .0207
    [(8, 0, True), (6, 0, False), (17, 4, True), (15, 5, False), (0, 9, False)],
)
def test_better_is_clear_where_the_exact_mcnemar_test_says_so(gained, lost, is_better):
    right = torch.tensor([True] * gained + [False] * lost + [True] * 30)
    other = torch.tensor([False] * gained + [True] * lost + [True] * 30)
    p_value = binomtest(gained, gained + lost, alternative="greater").pvalue
    assert (p_value < LEVEL) == is_better
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ones = np.ones(len(right))
        assert is_clearly_better(right, other, ones, np.arange(len(right)), rng) == is_better


def test_equal_predictions_are_not_better():
    right = torch.tensor([True, False, True])
    rng = np.random.default_rng(0)
    assert not is_clearly_better(right, right, np.ones(3), np.arange(3), rng)


@pytest.mark.parametrize(("subjects", "is_better"), [(10, True), (5, False)])
def test_better_is_clear_by_subjects_and_not_by_images(tiny_vit, subjects, is_better):
    """Twenty images on which the start alone is right are many if they show ten subjects."""
    labels = torch.zeros(20, dtype=torch.long)
    groups = np.arange(20) % subjects
    train = torch.zeros(2, 32), torch.tensor([0, 1])
    data = TrainingData(*train, np.arange(len(train[1])), torch.zeros(20, 32), labels, groups)
    trainer = Trainer(split_at(tiny_vit, 0), data, plain_settings(), name="train", seed=0)
    history = History(start_right=torch.ones(20), last_right=torch.zeros(20))
    assert trainer._start_is_clearly_better(history) == is_better


def test_balanced_counts_an_image_by_how_rare_its_class_is(tiny_vit):
    """The start alone is right on ten rare images, the end alone on twelve common ones."""
    start = torch.tensor([False] * 12 + [True] * 78 + [True] * 10)
    last = torch.tensor([True] * 90 + [False] * 10)
    labels = torch.tensor([0] * 90 + [1] * 10)
    found = {}
    for class_weights in ("none", "balanced"):
        settings = plain_settings(class_weights=class_weights)
        train = torch.zeros(2, 32), torch.tensor([0, 1])
        data = TrainingData(
            *train, np.arange(len(train[1])), torch.zeros(100, 32), labels, np.arange(100)
        )
        trainer = Trainer(split_at(tiny_vit, 0), data, settings, name="train", seed=0)
        history = History(start_right=start, last_right=last)
        found[class_weights] = trainer._start_is_clearly_better(history)
    assert found == {"none": False, "balanced": True}


def test_the_validation_loss_counts_every_image_the_same_even_with_class_weights(tiny_vit):
    _, labels = make_data()
    stored = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    settings = plain_settings(class_weights="balanced", epochs=1)
    history = fit_trainer(make_trainer(split_at(tiny_vit, 0), stored, labels, settings))
    with torch.no_grad():
        expected = F.cross_entropy(tiny_vit.head(stored), labels).item()
    assert history.kept["val_loss"] == pytest.approx(expected, rel=1e-5)


# What is trained


@pytest.mark.parametrize(
    ("blocks", "parameters"),
    [
        (blocks, which)
        for blocks in (1, 2)
        for which in ("all", "norms", "biases", ["*.attn.*", "!*.bias"])
    ],
    ids=str,
)
def test_frozen_parameters_keep_their_bits_and_all_others_move(tiny_vit, blocks, parameters):
    pixels, labels = make_data()
    split_model = split_at(tiny_vit, blocks, parameters)
    before = copy_of_weights(tiny_vit)
    # what moves, moves by its gradient
    settings = plain_settings(epochs=2, weight_decay=0.0, layer_decay=0.5)
    fit_trainer(make_trainer(split_model, store(tiny_vit, pixels, blocks), labels, settings))
    moved = {name for name, p in tiny_vit.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in tiny_vit.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("head_init", "c", "start"),
    [("probe", 0.02, 0.02), ("probe", "auto", START), ("zeros", "auto", None)],
)
def test_training_starts_from_the_head_that_head_init_names(tiny_vit, head_init, c, start):
    remove_head(tiny_vit)
    settings = plain_settings(head_init=head_init, probe_c=c)
    trainer = Trainer(split_at(tiny_vit, 1), data_of(tiny_vit), settings, name="train", seed=0)
    features = features_of(trainer)
    head = head_of_first_epoch(trainer)
    if head_init == "zeros":
        assert head.abs().max() == 0
    else:
        probe = fit_probe(features.train, trainer.data.labels, start, "none", seed=0)
        torch.testing.assert_close(head, probe.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("head_init", "is_kept"), [("probe", True), ("zeros", False)])
def test_training_starts_from_a_head_that_the_model_has(tiny_vit, head_init, is_kept):
    kept = tiny_vit.head.weight.detach().clone()
    settings = plain_settings(head_init=head_init, probe_c="auto")
    trainer = Trainer(split_at(tiny_vit, 1), data_of(tiny_vit), settings, name="train", seed=0)
    assert torch.equal(head_of_first_epoch(trainer), kept) == is_kept


def test_the_head_alone_is_the_probe_and_no_epoch_is_run(tiny_vit):
    remove_head(tiny_vit)
    split_model = split_at(tiny_vit, 0)
    settings = Params().train
    settings, warnings = possible_settings(settings, split_model)
    trainer = Trainer(split_model, data_of(tiny_vit, 0), settings, name="train", seed=0)
    features = features_of(trainer)
    history = trainer.fit(features)
    probe = fit_probe(features.train, trainer.data.labels, "auto", "none", seed=0)
    assert (warnings, history.epochs, len(history.rows)) == ([], 0, 1)
    torch.testing.assert_close(tiny_vit.head.weight, probe.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(tiny_vit.head.bias, probe.bias, rtol=0, atol=1e-6)


def test_a_kept_head_that_is_alone_stays_as_it_is(tiny_vit):
    kept = copy_of_weights(tiny_vit)
    split_model = split_at(tiny_vit, 0)
    settings, _ = possible_settings(Params().train, split_model)
    trainer = Trainer(split_model, data_of(tiny_vit, 0), settings, name="train", seed=0)
    trainer.fit(features_of(trainer))
    assert_same_weights(copy_of_weights(tiny_vit), kept)


def test_epoch_0_is_the_probe_and_is_kept_where_training_makes_it_worse(tiny_vit):
    remove_head(tiny_vit)
    before = copy_of_weights(tiny_vit)
    settings = plain_settings(epochs=2, lr=0.01, head_init="probe", probe_c="auto")
    trainer = Trainer(split_at(tiny_vit, 1), data_of(tiny_vit), settings, name="train", seed=0)
    features = features_of(trainer)
    probe = fit_probe(features.train, trainer.data.labels, "auto", "none", seed=0)
    trainer.labels = trainer.labels.roll(1)  # what is learned after epoch 0 is wrong
    history = trainer.fit(features)
    is_right = probe.logits(features.val).argmax(1) == trainer.data.val_labels
    assert history.rows[0]["val_accuracy"] == is_right.double().mean().item()
    assert history.probe_c == pytest.approx(probe.c.item())
    assert history.kept_epoch == 0
    blocks = [name for name in before if "head" not in name]
    after = copy_of_weights(tiny_vit)
    assert_same_weights(
        {name: after[name] for name in blocks}, {name: before[name] for name in blocks}
    )


def test_few_images_are_trained_for_as_many_epochs_as_make_min_steps(tiny_vit):
    pixels, labels = make_data(12)  # two steps of eight and four images
    settings = plain_settings(epochs=2, min_steps=9)
    stored = store(tiny_vit, pixels, 1)
    history = fit_trainer(make_trainer(split_at(tiny_vit, 1), stored, labels, settings))
    assert history.epochs == 5
    expected = learning_rate(9, 10, round(0.25 * 10), settings.lr)
    assert history.rows[-1]["lr"] == pytest.approx(expected)


# What has no effect


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
def test_no_token_is_dropped_where_the_attention_needs_positions_and_a_warning_says_so(
    name, kind, needs_positions, blocks
):
    size = 28 if "patch14" in name else 32
    model = small(name, img_size=size) if needs_positions else small(name, patch_size=8)
    pixels, labels = make_data(8, size=size)
    split_model = split_at(model, blocks)
    stored = store(model, pixels, blocks)
    start = copy_of_weights(model)
    weights = {}
    warnings = {}
    for dropout in (0.0, 0.3):
        model.load_state_dict(start)
        settings = plain_settings(token_dropout=dropout, epochs=1)
        settings, warnings[dropout] = possible_settings(settings, split_model)
        fit_trainer(make_trainer(split_model, stored, labels, settings))
        weights[dropout] = copy_of_weights(model)
    assert warnings[0.0] == []
    assert any(not torch.equal(weights[0.0][key], start[key]) for key in start)  # it does train
    if needs_positions:
        assert_same_weights(weights[0.3], weights[0.0])
        assert warnings[0.3] == [
            f"token_dropout 0.3 has no effect: the attention of a {kind} needs every token's "
            "position"
        ]
    else:
        assert any(not torch.equal(weights[0.3][key], weights[0.0][key]) for key in start)
        assert warnings[0.3] == []


@pytest.mark.parametrize("changes", [{"flip": True}, {"crop_scale": 0.5}, {"randaugment": 5}])
def test_images_are_not_changed_for_a_head_alone_and_a_warning_says_so(tiny_vit, changes):
    settings, warnings = possible_settings(plain_settings(**changes), split_at(tiny_vit, 0))
    assert not changes_images(settings)
    assert warnings == [
        "flip, crop_scale and randaugment have no effect where freeze.trainable_blocks is 0: no "
        "epochs are run for the head alone"
    ]


def test_a_number_of_processes_that_does_not_divide_the_shards_is_refused(tiny_vit):
    settings = plain_settings(shards=4)
    message = r"there are 3 processes: .* must divide train\.shards \(4\)"
    with pytest.raises(UserError, match=message):
        make_trainer(
            split_at(tiny_vit, 0), torch.zeros(4, 32), torch.zeros(4), settings, ranks=Ranks(0, 3)
        )

"""Training from stored activations gives what training the whole network on images gives."""

import copy
import gc
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.examples import (
    PLAIN,
    copy_of_weights,
    make_data,
    make_trainer,
    plain_settings,
    small,
    split_at,
    store,
)
from vit_finetune.activations import files
from vit_finetune.activations.views import ImageView
from vit_finetune.core.errors import UserError
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.build import preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model
from vit_finetune.training import trainer as trainer_module
from vit_finetune.training.augmentation import augment
from vit_finetune.training.loss import balanced_weights, training_loss
from vit_finetune.training.trainer import Trainer, learning_rate, make_optimizer


def losses_of_the_usual_loop(model, pixels, labels, settings, seed):
    """The loop that everyone writes: the whole network on every batch of every epoch."""
    optimizer = make_optimizer(model, settings)
    trainable = [p for p in model.parameters() if p.requires_grad]
    per_epoch = -(-len(labels) // settings.batch_size)
    losses = []
    for epoch in range(1, settings.epochs + 1):
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(labels)))
        for batch in order.split(settings.batch_size):
            for group in optimizer.param_groups:
                steps = settings.epochs * per_epoch
                group["lr"] = learning_rate(
                    len(losses), steps, round(settings.warmup * steps), settings.lr
                )
            loss = F.cross_entropy(
                model(pixels[batch]), labels[batch], label_smoothing=settings.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, settings.grad_clip)
            optimizer.step()
            losses.append(loss.item())
    return losses


def losses_of_trainer(split_model, stored, labels, settings, seed, monkeypatch):
    """The mean loss of each step."""
    losses = []

    def recording(*args):
        loss, right = training_loss(*args)
        losses.append(loss.item() / len(args[2]))
        return loss, right

    monkeypatch.setattr(trainer_module, "training_loss", recording)
    trainer = make_trainer(split_model, stored, labels, settings, seed=seed)
    for epoch in range(1, settings.epochs + 1):
        trainer.run_epoch(epoch)
    return losses


# float16 keeps 11 bits, so losses differ a little more; images, which "all" stores, are always kept
# as they are
STORED = [*((blocks, torch.float32, 1e-5) for blocks in (0, 1, 2, "all")),
          *((blocks, torch.float16, 1e-4) for blocks in (0, 1, 2))]  # fmt: skip


@pytest.mark.parametrize(("blocks", "dtype", "tolerance"), STORED)
def test_losses_from_stored_activations_are_those_of_the_full_network(
    tiny_vit, blocks, dtype, tolerance, monkeypatch
):
    pixels, labels = make_data()
    with torch.no_grad():  # logits as small as training starts with; their error grows with them
        tiny_vit.head.weight.mul_(0.1)
    usual = copy.deepcopy(tiny_vit)
    freeze(usual, blocks)
    expected = losses_of_the_usual_loop(usual, pixels, labels, PLAIN, seed=7)
    stored = store(tiny_vit, pixels, blocks, dtype)
    found = losses_of_trainer(split_at(tiny_vit, blocks), stored, labels, PLAIN, 7, monkeypatch)
    assert len(found) == 20
    assert max(expected) - min(expected) > 0.05  # it does train
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("blocks", [0, 1, 2, "all"])
def test_losses_on_changed_images_are_those_of_the_full_network_on_the_same_changed_images(
    tiny_vit, blocks, monkeypatch
):
    """Crops and RandAugment, anew in every epoch; the frozen blocks run on what comes out."""
    _, labels = make_data()
    tiny_vit.head.weight.data.mul_(0.1)
    images = np.random.default_rng(0).integers(256, size=(40, 32, 32, 3), dtype=np.uint8)
    settings = plain_settings(crop_scale=0.4, randaugment=9, epochs=2)

    def preprocess(images):
        return images.permute(0, 3, 1, 2) / 255

    class ChangedPixels:
        """What the usual loop takes for pixels: it asks for each batch once, in order."""

        step = 0

        def __getitem__(self, rows):
            # seed, epoch, step, shard
            rng = np.random.default_rng([7, self.step // 5 + 1, self.step, 0])
            self.step += 1
            return preprocess(
                augment(torch.from_numpy(images)[rows], 0.4, 9, int(rng.integers(2**63)))
            )

    usual = copy.deepcopy(tiny_vit)
    freeze(usual, blocks)
    unchanged = losses_of_the_usual_loop(
        copy.deepcopy(usual), preprocess(torch.from_numpy(images)), labels, settings, seed=7
    )
    expected = losses_of_the_usual_loop(usual, ChangedPixels(), labels, settings, seed=7)
    split_model = split_at(tiny_vit, blocks, preprocess=preprocess)
    found = losses_of_trainer(split_model, ImageView(images), labels, settings, 7, monkeypatch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert len(found) == 10
    assert np.abs(np.array(unchanged) - expected).max() > 1e-3


def test_flip_mirrors_about_half_of_the_images_before_the_frozen_blocks(tiny_vit):
    images = np.random.default_rng(0).integers(256, size=(40, 32, 32, 3), dtype=np.uint8)
    seen = []

    def preprocess(batch):
        seen.append(batch.clone())
        return batch.permute(0, 3, 1, 2) / 255

    split_model = split_at(tiny_vit, 1, preprocess=preprocess)
    labels = torch.zeros(40, dtype=torch.int64)
    settings = plain_settings(flip=True)
    make_trainer(split_model, ImageView(images), labels, settings, seed=0).run_epoch(1)
    rows = {image.tobytes(): row for row, image in enumerate(images)}
    found = [rows.get(image.numpy().tobytes()) for image in torch.cat(seen)]
    mirrored = [rows.get(image.flip(1).numpy().tobytes()) for image in torch.cat(seen)]
    plain_rows = [row for row in found if row is not None]
    mirrored_rows = [row for row in mirrored if row is not None]
    assert sorted(plain_rows + mirrored_rows) == list(range(40))
    assert 8 < len(mirrored_rows) < 32


def test_each_image_is_seen_once_an_epoch_in_another_order(tiny_vit, monkeypatch):
    seen = []

    def recording(split_model, stored, *_):
        seen.append(stored.clone())
        return split_model.model.head.weight.sum() * 0, torch.tensor(0)

    monkeypatch.setattr(trainer_module, "training_loss", recording)
    plain = torch.arange(40.0).view(-1, 1)
    labels = torch.zeros(40, dtype=torch.int64)
    trainer = make_trainer(split_at(tiny_vit, 0), plain, labels, PLAIN, seed=0)
    for epoch in (1, 2):
        trainer.run_epoch(epoch)
    first = torch.cat(seen[:5]).flatten().tolist()
    second = torch.cat(seen[5:]).flatten().tolist()
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_every_batch_but_the_first_is_announced_before_it_is_taken(tiny_vit, monkeypatch):
    events = []
    monkeypatch.setattr(
        trainer_module, "read_at_random", lambda view: events.append(("random", int(view[0])))
    )
    monkeypatch.setattr(
        trainer_module,
        "announce",
        lambda view, rows: events.extend(("announced", int(view[r])) for r in rows),
    )

    def recording(split_model, stored, *_):
        events.extend(("taken", int(value)) for value in stored)
        return split_model.model.head.weight.sum() * 0, torch.tensor(0)

    monkeypatch.setattr(trainer_module, "training_loss", recording)
    plain = torch.arange(40.0).view(-1, 1)
    settings = PLAIN
    make_trainer(
        split_at(tiny_vit, 0),
        plain,
        torch.zeros(40, dtype=torch.int64),
        settings,
        seed=0,
    ).run_epoch(1)
    assert events[0] == ("random", 0)
    taken = [value for kind, value in events if kind == "taken"]
    assert len(taken) == 40
    for value in taken[8:]:
        assert events.index(("announced", value)) < events.index(("taken", value))
    assert sum(kind == "announced" for kind, _ in events) == 32


def test_a_step_in_shards_is_the_step_of_the_whole_batch(tiny_vit):
    """40 images in batches of 24: the last batch has 16, so some of 24 shards are empty."""
    pixels, labels = make_data()
    stored = store(tiny_vit, pixels, 1)
    start = copy_of_weights(tiny_vit)
    rows = {}
    weights = {}
    for shards in (1, 3, 24):
        tiny_vit.load_state_dict(start)
        settings = plain_settings(batch_size=24, shards=shards, class_weights="balanced")
        rows[shards] = make_trainer(
            split_at(tiny_vit, 1), stored, labels, settings, seed=0
        ).run_epoch(1)
        weights[shards] = copy_of_weights(tiny_vit)
    for shards in (3, 24):
        assert rows[shards] == pytest.approx(rows[1], rel=1e-5)
        for name, value in weights[1].items():
            torch.testing.assert_close(weights[shards][name], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(start[name], value) for name, value in weights[1].items())


def test_a_loss_that_is_not_finite_names_the_step_and_the_likely_cause(tiny_vit):
    pixels, labels = make_data()
    stored = store(tiny_vit, pixels, 1)
    stored[17] = float("nan")
    order = np.random.default_rng([0, 1]).permutation(40)
    step = int(np.flatnonzero(order == 17)[0]) // 8 + 1
    with pytest.raises(
        UserError, match=rf"not finite at step {step} of 20 .*train\.lr 0\.003 is the likely cause"
    ):
        make_trainer(split_at(tiny_vit, 1), stored, labels, PLAIN, seed=0).run_epoch(1)


def test_no_step_leaves_a_tensor_behind_so_memory_does_not_grow_with_the_images(
    tiny_vit, monkeypatch
):
    pixels, labels = make_data()
    alive = []

    def counting(*args):
        gc.collect()  # what only a cycle still holds is no one's
        alive.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
        return training_loss(*args)

    monkeypatch.setattr(trainer_module, "training_loss", counting)
    settings = plain_settings(batch_size=4, shards=2)
    trainer = make_trainer(
        split_at(tiny_vit, 1), store(tiny_vit, pixels, 1), labels, settings, seed=0
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one shard after the other, so that each finds the same tensors
    gc.freeze()  # what is there already is not looked at again, which takes long
    try:
        trainer.run_epoch(1)
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)
    assert len(alive) == 20
    second_step = alive[2:4]  # the first one still makes the optimizer's state
    assert alive[-2:] == second_step


AUGMENTED = {"token_dropout": 0.5, "brightness": 0.1, "mixup": 0.2}


class Operations(TorchDispatchMode):
    """Counts what computes or copies: each is at least one launch on a GPU. Views are none."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = [result.alias_info for result in operation._schema.returns]
        is_view = any(alias and not alias.is_write for alias in results)
        self.count += not is_view and operation is not torch.ops.aten._unsafe_view.default
        return operation(*args, **(kwargs or {}))


def operations_of_a_step(model, shards, monkeypatch):
    """Of one like all others: the first step also makes the optimiser's state."""
    images = np.random.default_rng(0).integers(256, size=(24, 8, 8, 3), dtype=np.uint8)
    view = ImageView(images)
    labels = torch.zeros(24, dtype=torch.int64)
    split_model = split_at(model, "all", preprocess=preprocessing(model, None))
    trainer = make_trainer(
        split_model, view, labels, plain_settings(flip=True, shards=shards, **AUGMENTED)
    )
    before = []
    set_learning_rate = Trainer._set_learning_rate

    def counting(trainer, step):
        before.append(operations.count)
        return set_learning_rate(trainer, step)

    monkeypatch.setattr(Trainer, "_set_learning_rate", counting)
    with Operations() as operations:
        trainer.run_epoch(1)
    assert len(before) == 3
    return before[2] - before[1]


def test_the_operations_of_a_step_are_few_and_a_shard_adds_its_own_passes(tiny_vit, monkeypatch):
    """On a GPU a small model's time is that of the launches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # operations of other threads are not seen
    try:
        whole = operations_of_a_step(tiny_vit, 1, monkeypatch)
        halves = operations_of_a_step(tiny_vit, 2, monkeypatch)
    finally:
        torch.set_num_threads(threads)
    assert whole <= 312
    assert 1.5 * whole < halves < 2 * whole


def test_images_in_memory_train_the_same_weights_as_mapped_ones(tiny_vit, monkeypatch):
    images = np.random.default_rng(0).integers(256, size=(24, 8, 8, 3), dtype=np.uint8)
    view = ImageView(images)
    labels = torch.arange(24) % 3
    start = copy_of_weights(tiny_vit)
    trained = []
    for free in (0, 10**6):
        monkeypatch.setattr(files, "free_memory", lambda device, free=free: free)
        tiny_vit.load_state_dict(start)
        split_model = split_at(tiny_vit, "all", preprocess=preprocessing(tiny_vit, None))
        trainer = make_trainer(split_model, view, labels, plain_settings(flip=True, **AUGMENTED))
        assert isinstance(trainer.view, torch.Tensor) == isinstance(trainer.val, torch.Tensor)
        assert isinstance(trainer.val, torch.Tensor) == (free > 0)
        trainer.run_epoch(1)
        trained.append(copy_of_weights(tiny_vit))
    for name, weight in trained[0].items():
        assert torch.equal(trained[1][name], weight), name
    assert not torch.equal(trained[0]["head.weight"], start["head.weight"])


@pytest.mark.parametrize("blocks", [1, "all"])
def test_no_step_reads_a_number_from_the_device(tiny_vit, blocks, monkeypatch):
    """Reading one waits for a GPU. A tensor on the device `meta` has none: reading it fails."""
    meta = torch.device("meta")
    freeze(tiny_vit, blocks)
    split_model = SplitModel(
        tiny_vit.to(meta), blocks, preprocessing(tiny_vit, None), meta, torch.float32
    )
    shape = (24, 8, 8, 3) if blocks == "all" else (24, 17, 32)
    dtype = torch.uint8 if blocks == "all" else torch.float16
    view = torch.zeros(shape, dtype=dtype, device=meta)
    settings = plain_settings(optimizer="sgd", shards="auto", **AUGMENTED)
    trainer = make_trainer(split_model, view, torch.zeros(24, dtype=torch.int64), settings)
    steps = []
    monkeypatch.setattr(trainer.optimizer, "step", lambda: steps.append("done"))
    with pytest.raises(NotImplementedError, match="meta tensor"):  # the losses of the epoch
        trainer.run_epoch(1)
    assert len(steps) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(tiny_vit):
    """What waits is read once an epoch: an epoch of ten steps waits as often as one of two."""
    device = torch.device("cuda")
    settings = plain_settings(**AUGMENTED)
    freeze(tiny_vit, 2)
    split_model = SplitModel(tiny_vit.to(device), 2, lambda images: images, device, torch.float32)

    def waits(images):
        stored = torch.randn(images, 17, 32, device=device)
        labels = torch.zeros(images, dtype=torch.int64)
        trainer = make_trainer(split_model, stored, labels, settings, seed=0)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            trainer.run_epoch(1)
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in seen)

    waits(16)
    assert waits(80) == waits(16)


# The learning rate, and what decays


def test_the_learning_rate_warms_up_then_follows_a_cosine_to_zero():
    rates = [learning_rate(step, 100, 10, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[9] == rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[99] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_biases_and_norms_do_not_decay(tiny_vit, optimizer):
    freeze(tiny_vit, "all")
    groups = make_optimizer(
        tiny_vit, plain_settings(optimizer=optimizer, layer_decay=0.5)
    ).param_groups
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.05}
        assert group["weight_decay"] in (0.05, 0.0)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in tiny_vit.parameters())


# Of a model with three blocks: how many blocks lie between a parameter and the loss
DISTANCES = {"head.": 0, "norm.": 1, "blocks.2.": 1, "blocks.1.": 2, "blocks.0.": 3, "": 4}


def distance(name):
    return next(steps for prefix, steps in DISTANCES.items() if name.startswith(prefix))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("blocks", [1, 2, "all"])
def test_each_block_learns_at_the_rate_of_the_next_one_times_the_layer_decay(
    tiny_vit, blocks, optimizer
):
    pixels, labels = make_data()
    settings = plain_settings(optimizer=optimizer, epochs=3, layer_decay=0.6)
    stored = store(tiny_vit, pixels, blocks)
    trainer = make_trainer(split_at(tiny_vit, blocks), stored, labels, settings, seed=0)
    row = trainer.run_epoch(2)
    # the last of the second epoch's 5 steps
    assert row["lr"] == learning_rate(9, 15, 4, settings.lr)
    rates = {
        id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]
    }
    trained = {name: p for name, p in tiny_vit.named_parameters() if p.requires_grad}
    assert len(rates) == len(trained)
    for name, parameter in trained.items():
        assert rates[id(parameter)] == pytest.approx(
            row["lr"] * 0.6 ** distance(name), rel=1e-12
        ), name


def with_random_head(folder):
    model = load_model(folder, 3)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return model


def test_one_step_of_plain_descent_is_shorter_by_the_layer_decay(tiny_model_folder):
    settings = plain_settings(
        optimizer="sgd", epochs=1, batch_size=40, warmup=0.0, weight_decay=0.0
    )
    pixels, labels = make_data()
    steps = []
    for decay in (1.0, 0.5):
        model = with_random_head(tiny_model_folder)
        before = copy_of_weights(model)
        decayed_settings = settings.model_copy(update={"layer_decay": decay})
        make_trainer(split_at(model, "all"), pixels, labels, decayed_settings, seed=0).run_epoch(1)
        steps.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    whole, decayed = steps
    for name, step in whole.items():
        assert step.abs().max() > 0
        torch.testing.assert_close(decayed[name], step * 0.5 ** distance(name), rtol=0, atol=2e-7)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_without_layer_decay_training_is_that_of_an_optimiser_with_two_groups(
    tiny_model_folder, optimizer
):
    settings = plain_settings(optimizer=optimizer, grad_clip=None, epochs=2)
    pixels, labels = make_data()
    trained = []
    for plain in (True, False):
        model = with_random_head(tiny_model_folder)
        trainer = make_trainer(
            split_at(model, 2), store(model, pixels, 2), labels, settings, seed=0
        )
        if plain:
            parameters = [p for p in model.parameters() if p.requires_grad]
            groups = [
                {
                    "params": [p for p in parameters if p.ndim > 1],
                    "weight_decay": 0.05,
                    "lr_scale": 1.0,
                },
                {
                    "params": [p for p in parameters if p.ndim <= 1],
                    "weight_decay": 0.0,
                    "lr_scale": 1.0,
                },
            ]
            trainer.optimizer = (
                torch.optim.AdamW(groups, fused=True)
                if optimizer == "adamw"
                else torch.optim.SGD(groups, momentum=0.9)
            )
        before = model.blocks[1].mlp.fc1.weight.detach().clone()
        for epoch in (1, 2):
            trainer.run_epoch(epoch)
        assert not torch.equal(model.blocks[1].mlp.fc1.weight, before)
        trained.append(model.state_dict())
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True}, "rel_pos_bias."),
        ("vit_small_patch16_rope_224", {}, "patch_embed."),
        ("deit_tiny_distilled_patch16_224", {}, "dist_token"),
    ],
)
def test_layer_decay_counts_the_blocks_of_other_families_too(name, options, first):
    model = small(name, **options)
    freeze(model, "all")
    groups = make_optimizer(model, plain_settings(layer_decay=0.5)).param_groups
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.startswith(("head.", "blocks.", first)):
            assert scales[id(parameter)] == 0.5 ** distance(name), name


# Class weights


@pytest.mark.parametrize("counts", [(5, 5, 5), (20, 3, 1), (1, 40), (7, 2, 9, 30)])
def test_balanced_weights_are_scikit_learns(counts):
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    found = balanced_weights(torch.from_numpy(labels), len(counts))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_the_weighted_loss_is_the_one_computed_by_hand(tiny_vit, smoothing, mixup):
    _, labels = make_data(8)
    features = torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([0.25, 1.0, 4.0])
    settings = plain_settings(label_smoothing=smoothing, mixup=mixup)
    split_model = split_at(tiny_vit, 0)
    found, right = training_loss(
        split_model, features, labels, weights, settings, np.random.default_rng(5)
    )
    unweighted, _ = training_loss(
        split_model, features, labels, None, settings, np.random.default_rng(5)
    )

    def by_hand(logits, targets):
        surprise = -logits.log_softmax(1)
        total = 0.0
        for i, k in enumerate(targets.tolist()):
            total += weights[k] * (1 - smoothing) * surprise[i, k]
            total += weights[k] * smoothing * surprise[i].sum() / 3
        return total

    with torch.no_grad():
        if mixup:
            rng = np.random.default_rng(5)
            share = rng.beta(mixup, mixup)
            share = max(share, 1 - share)
            partner = torch.from_numpy(rng.permutation(8))
            logits = tiny_vit.head(share * features + (1 - share) * features[partner])
            expected = share * by_hand(logits, labels) + (1 - share) * by_hand(
                logits, labels[partner]
            )
        else:
            logits = tiny_vit.head(features)
            expected = by_hand(logits, labels)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-6)
    assert abs(found.item() - unweighted.item()) > 0.01
    assert right == (logits.argmax(1) == labels).sum()


def test_the_best_answer_to_an_image_of_a_frequent_class_is_that_class(tiny_vit):
    """With smoothed labels, and 60 images of one class for each of another."""
    labels = torch.tensor([0] * 60 + [1])
    weights = balanced_weights(labels, 3)
    settings = plain_settings(label_smoothing=0.1)
    split_model = split_at(tiny_vit, 0)
    rng = np.random.default_rng(0)
    features = torch.zeros(1, 32)
    label = torch.tensor([0])
    optimizer = torch.optim.LBFGS([tiny_vit.head.bias], max_iter=200)

    def step():
        optimizer.zero_grad()
        loss, _ = training_loss(split_model, features, label, weights, settings, rng)
        loss.backward()
        return loss

    optimizer.step(step)
    probabilities = tiny_vit.head(features).softmax(1).detach()[0]
    expected = torch.tensor([0.9, 0, 0]) + 0.1 / 3
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_every_step_gets_the_class_weights_of_the_whole_training_set(
    tiny_vit, class_weights, monkeypatch
):
    _, labels = make_data()
    labels[labels == 2] = 0
    labels[:3] = 2
    seen = []

    def recording(*args):
        seen.append(args[3])
        return training_loss(*args)

    monkeypatch.setattr(trainer_module, "training_loss", recording)
    stored = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    settings = plain_settings(class_weights=class_weights)
    make_trainer(split_at(tiny_vit, 0), stored, labels, settings, seed=0).run_epoch(1)
    assert len(seen) == 5
    if class_weights == "none":
        assert seen == [None] * 5
    else:
        expected = [40 / 3 / (labels == k).sum().item() for k in range(3)]
        for weights in seen:
            torch.testing.assert_close(weights, torch.tensor(expected))

"""Training from stored activations is training, no more and no less."""

import copy
import gc
import warnings

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from vit_finetune import fit as fit_module
from vit_finetune.backbone import Suffix, load_model, run_prefix
from vit_finetune.fit import (
    balanced_weights,
    drop_tokens,
    fit,
    image_cost,
    learning_rate,
    make_optimizer,
    probe_head,
    shift_brightness,
    take,
    train_epoch,
    training_loss,
)
from vit_finetune.freezing import freeze
from vit_finetune.images import ImageView, augment
from vit_finetune.params.train import Train

PLAIN = Train(
    epochs=4,
    batch_size=8,
    shards=1,
    optimizer="adamw",
    lr=0.003,
    weight_decay=0.05,
    warmup_epochs=1,
    label_smoothing=0.1,
    class_weights="none",
    grad_clip=1.0,
    token_dropout=0.0,
    brightness=0.0,
    crop_scale=1.0,
    randaugment=0,
    mixup=0.0,
    head_init="zeros",
    probe_c=1.0,
    patience=None,
)


def make_data(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    pixels = torch.randn(n, 3, 32, 32, generator=generator) + labels.view(-1, 1, 1, 1)
    return pixels, labels


def make_suffix(model, blocks, parameters="all"):
    freeze(model, blocks, parameters)
    return Suffix(model, blocks, lambda images: images, torch.device("cpu"), torch.float32)


def store(model, pixels, blocks, dtype=torch.float32):
    with torch.no_grad():
        return (pixels if blocks == "all" else run_prefix(model, pixels, blocks)).to(dtype)


def losses_without_cache(model, pixels, labels, settings, seed):
    """The loop that everyone writes: the whole network on every batch of every epoch."""
    optimizer = make_optimizer(model, settings, 1.0)
    trainable = [p for p in model.parameters() if p.requires_grad]
    per_epoch = -(-len(labels) // settings.batch_size)
    losses = []
    for epoch in range(1, settings.epochs + 1):
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(labels)))
        for batch in order.split(settings.batch_size):
            for group in optimizer.param_groups:
                warmup, steps = round(settings.warmup_epochs * per_epoch), settings.epochs * per_epoch
                group["lr"] = learning_rate(len(losses), steps, warmup, settings.lr)
            loss = F.cross_entropy(model(pixels[batch]), labels[batch], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, settings.grad_clip)
            optimizer.step()
            losses.append(loss.item())
    return losses


def losses_from_store(suffix, stored, labels, settings, seed, monkeypatch):
    optimizer, losses = make_optimizer(suffix.model, settings, 1.0), []
    original = fit_module.training_loss

    def recording(*args):
        loss, right = original(*args)
        losses.append(loss.item() / len(args[2]))
        return loss, right

    monkeypatch.setattr(fit_module, "training_loss", recording)
    for epoch in range(1, settings.epochs + 1):
        train_epoch(suffix, optimizer, [stored], labels, None, settings, seed, epoch)
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-4)])
@pytest.mark.parametrize("blocks", [0, 1, 2, "all"])
def test_losses_from_stored_activations_are_those_of_the_full_network(tiny_vit, blocks, dtype, tolerance, monkeypatch):
    if blocks == "all" and dtype == torch.float16:
        pytest.skip("images are stored as they are")
    pixels, labels = make_data()
    with torch.no_grad():  # logits as small as training starts with; their error grows with them
        tiny_vit.head.weight.mul_(0.1)
    naive = copy.deepcopy(tiny_vit)
    freeze(naive, blocks)
    expected = losses_without_cache(naive, pixels, labels, PLAIN, seed=7)
    stored = store(tiny_vit, pixels, blocks, dtype)
    found = losses_from_store(make_suffix(tiny_vit, blocks), stored, labels, PLAIN, 7, monkeypatch)
    assert len(found) == 20
    assert max(expected) - min(expected) > 0.05  # it does train
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("blocks", [0, 1, 2, "all"])
def test_changed_images_go_through_the_whole_network_in_every_epoch(tiny_vit, blocks, monkeypatch):
    """Crops and RandAugment on the images themselves, then the loop that everyone writes on what comes out."""
    _, labels = make_data()
    tiny_vit.head.weight.data.mul_(0.1)
    images = np.random.default_rng(0).integers(256, size=(40, 32, 32, 3), dtype=np.uint8)
    settings = PLAIN.model_copy(update={"crop_scale": 0.4, "randaugment": 9, "epochs": 2})

    def preprocess(images):
        return images.permute(0, 3, 1, 2) / 255

    def changed(seed, epoch, step, rows):
        rng = np.random.default_rng([seed, epoch, step, 0])
        return preprocess(augment(torch.from_numpy(images)[rows], 0.4, 9, int(rng.integers(2**63))))

    class Pixels:
        """What the loop takes for images: it asks for each batch once, in order."""

        step = 0

        def __getitem__(self, rows):
            self.step += 1
            return changed(7, (self.step - 1) // 5 + 1, self.step - 1, rows)

    naive = copy.deepcopy(tiny_vit)
    freeze(naive, blocks)
    expected = losses_without_cache(naive, Pixels(), labels, settings, seed=7)
    freeze(tiny_vit, blocks)
    suffix = Suffix(tiny_vit, blocks, preprocess, torch.device("cpu"), torch.float32)
    found = losses_from_store(suffix, ImageView(images, False), labels, settings, 7, monkeypatch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert len(found) == 10
    unchanged = losses_without_cache(
        copy.deepcopy(naive), preprocess(torch.from_numpy(images)), labels, settings, seed=7
    )
    assert np.abs(np.array(unchanged) - expected).max() > 1e-3


def test_no_step_leaves_a_tensor_behind_so_memory_does_not_grow_with_the_images(tiny_vit, monkeypatch):
    pixels, labels = make_data()
    suffix, alive, original = make_suffix(tiny_vit, 1), [], fit_module.training_loss

    def counting(*args):
        gc.collect()  # what only a cycle still holds is no one's
        alive.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
        return original(*args)

    monkeypatch.setattr(fit_module, "training_loss", counting)
    settings = PLAIN.model_copy(update={"batch_size": 4, "shards": 2})
    optimizer = make_optimizer(tiny_vit, settings, 1.0)
    train_epoch(suffix, optimizer, [store(tiny_vit, pixels, 1)], labels, None, settings, 0, 1)
    assert len(alive) == 20
    second_step = alive[2:4]  # the first one still makes the optimizer's state
    assert alive[-2:] == second_step


@pytest.mark.parametrize(("blocks", "computed"), [(1, ["frozen", "frozen"]), ("all", [])])
def test_what_changing_images_costs_is_the_time_of_that_and_of_what_is_frozen(tiny_vit, monkeypatch, blocks, computed):
    moments = iter([0.0, 5.0, 10.0, 12.0])  # a first time does not count
    monkeypatch.setattr(fit_module.time, "perf_counter", lambda: next(moments))
    settings = PLAIN.model_copy(update={"crop_scale": 0.4})
    ran = []
    suffix = make_suffix(tiny_vit, blocks)
    tiny_vit.blocks[0].register_forward_hook(lambda *_: ran.append("frozen"))
    tiny_vit.blocks[2].register_forward_hook(lambda *_: ran.append("trained"))
    suffix = Suffix(tiny_vit, blocks, lambda images: images.permute(0, 3, 1, 2) / 255, suffix.device, suffix.precision)
    assert image_cost(suffix, torch.zeros(8, 32, 32, 3, dtype=torch.uint8), settings) == 2.0 / 8
    assert ran == computed


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize(
    ("blocks", "parameters"),
    [
        (0, "all"),
        *((blocks, which) for blocks in (1, 2) for which in ("all", "norms", "biases", ["*.attn.*", "!*.bias"])),
    ],
    ids=str,
)
def test_frozen_parameters_keep_their_bits_and_all_others_move(tiny_vit, blocks, parameters, layer_decay):
    pixels, labels = make_data()
    suffix = make_suffix(tiny_vit, blocks, parameters)
    stored = store(tiny_vit, pixels, blocks)
    before = {name: p.detach().clone() for name, p in tiny_vit.named_parameters()}
    settings = PLAIN.model_copy(update={"epochs": 2, "weight_decay": 0.0})  # what moves, moves by its gradient
    list(fit(suffix, [stored], labels, stored, labels, settings, seed=0, layer_decay=layer_decay))
    moved = {name for name, p in tiny_vit.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in tiny_vit.named_parameters() if p.requires_grad}


def run_fit(model, settings, *, stop_after=None, checkpoint=None, seed=3):
    pixels, labels = make_data()
    suffix = make_suffix(model, 1)
    stored, val = store(model, pixels, 1), store(model, *make_data(24, seed=1)[:1], 1)
    mirrored = store(model, pixels.flip(-1), 1)
    state = None
    val_labels = make_data(24, seed=1)[1]
    decay = {"layer_decay": 0.7, "checkpoint": checkpoint}
    for state in fit(suffix, [stored, mirrored], labels, val, val_labels, settings, seed, **decay):
        if len(state.history) == stop_after:
            return None
    return state, {name: p.detach().clone() for name, p in model.named_parameters()}


AUGMENTED = PLAIN.model_copy(
    update={"token_dropout": 0.25, "brightness": 0.2, "mixup": 0.4, "epochs": 5, "class_weights": "balanced"}
)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_training_cut_short_goes_on_to_the_same_weights_and_history(tiny_model_folder, tmp_path, stop_after):
    whole, weights = run_fit(load_model(tiny_model_folder, 3), AUGMENTED)
    checkpoint = tmp_path / "c" / "last.pt"
    run_fit(load_model(tiny_model_folder, 3), AUGMENTED, stop_after=stop_after, checkpoint=checkpoint)
    assert checkpoint.is_file()
    if stop_after == 5:  # all epochs were done: nothing is left to train
        resumed = list(_resumed(load_model(tiny_model_folder, 3), checkpoint))
        assert resumed == []
        return
    resumed, resumed_weights = run_fit(load_model(tiny_model_folder, 3), AUGMENTED, checkpoint=checkpoint)
    assert resumed.history == whole.history
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)


def _resumed(model, checkpoint):
    pixels, labels = make_data()
    suffix = make_suffix(model, 1)
    stored = store(model, pixels, 1)
    return fit(suffix, [stored], labels, stored, labels, AUGMENTED, 3, layer_decay=0.7, checkpoint=checkpoint)


def test_the_best_epoch_by_validation_accuracy_is_kept(tiny_vit):
    settings = PLAIN.model_copy(update={"lr": 0.3, "epochs": 6, "grad_clip": None})  # wild enough to get worse
    state, weights = run_fit(tiny_vit, settings)
    accuracies = [row["val_accuracy"] for row in state.history]
    assert state.best_epoch == accuracies.index(max(accuracies)) + 1
    assert all(torch.equal(weights[name], value) for name, value in state.best_state.items())
    val, labels = make_data(24, seed=1)
    assert (tiny_vit(val).argmax(1) == labels).double().mean().item() == max(accuracies)


def test_patience_stops_after_so_many_epochs_without_a_better_one(tiny_vit):
    settings = PLAIN.model_copy(update={"lr": 1e-9, "epochs": 50, "patience": 2})
    state, _ = run_fit(tiny_vit, settings)
    assert len(state.history) == state.best_epoch + 2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_biases_and_norms_do_not_decay(tiny_vit, optimizer):
    freeze(tiny_vit, "all")
    groups = make_optimizer(tiny_vit, PLAIN.model_copy(update={"optimizer": optimizer}), 0.5).param_groups
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.05}
        assert group["weight_decay"] in (0.05, 0.0)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in tiny_vit.parameters())


# Layer decay

DISTANCES = {
    "head.": 0,
    "norm.": 1,
    "blocks.2.": 1,
    "blocks.1.": 2,
    "blocks.0.": 3,
    "": 4,
}  # from the loss, of 3 blocks


def distance(name):
    return next(steps for prefix, steps in DISTANCES.items() if name.startswith(prefix))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("blocks", [1, 2, "all"])
def test_each_block_learns_at_the_rate_of_the_next_one_times_the_decay(tiny_vit, blocks, optimizer):
    pixels, labels = make_data()
    settings = PLAIN.model_copy(update={"optimizer": optimizer, "epochs": 3})
    suffix = make_suffix(tiny_vit, blocks)
    made = make_optimizer(tiny_vit, settings, 0.6)
    row = train_epoch(suffix, made, [store(tiny_vit, pixels, blocks)], labels, None, settings, 0, 2)
    assert row["lr"] == learning_rate(9, 15, 5, settings.lr)  # the last of the second epoch's 5 steps
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    trained = {name: p for name, p in tiny_vit.named_parameters() if p.requires_grad}
    assert len(rates) == len(trained)
    for name, parameter in trained.items():
        assert rates[id(parameter)] == pytest.approx(row["lr"] * 0.6 ** distance(name), rel=1e-12), name


def test_one_step_of_plain_descent_is_as_much_shorter_as_the_decay_says(tiny_model_folder):
    settings = PLAIN.model_copy(
        update={"optimizer": "sgd", "epochs": 1, "batch_size": 40, "warmup_epochs": 0, "weight_decay": 0.0}
    )
    pixels, labels = make_data()
    steps = []
    for decay in (1.0, 0.5):
        model = load_model(tiny_model_folder, 3)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        made = make_optimizer(model, settings, decay)
        train_epoch(make_suffix(model, "all"), made, [pixels], labels, None, settings, 0, 1)
        steps.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    whole, decayed = steps
    for name, step in whole.items():
        assert step.abs().max() > 0
        torch.testing.assert_close(decayed[name], step * 0.5 ** distance(name), rtol=0, atol=2e-7)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_layer_decay_trains_as_an_optimiser_with_two_plain_groups(tiny_model_folder, optimizer):
    settings = PLAIN.model_copy(update={"optimizer": optimizer, "grad_clip": None, "epochs": 2})
    pixels, labels = make_data()
    trained = []
    for plain in (True, False):
        model = load_model(tiny_model_folder, 3)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
        suffix = make_suffix(model, 2)
        made = make_optimizer(model, settings, 1.0)
        if plain:
            parameters = [p for p in model.parameters() if p.requires_grad]
            groups = [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05, "lr_scale": 1.0},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "lr_scale": 1.0},
            ]
            made = (
                torch.optim.AdamW(groups, fused=True) if optimizer == "adamw" else torch.optim.SGD(groups, momentum=0.9)
            )
        before = model.blocks[1].mlp.fc1.weight.detach().clone()
        for epoch in (1, 2):
            train_epoch(suffix, made, [store(model, pixels, 2)], labels, None, settings, 0, epoch)
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
    groups = make_optimizer(model, PLAIN, 0.5).param_groups
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
def test_the_weighted_loss_is_the_one_by_hand(tiny_vit, smoothing, mixup):
    _, labels = make_data(8)
    features = torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([0.25, 1.0, 4.0])
    settings = PLAIN.model_copy(update={"label_smoothing": smoothing, "mixup": mixup})
    found, right = training_loss(
        make_suffix(tiny_vit, 0), features, labels, weights, settings, np.random.default_rng(5)
    )

    def by_hand(logits, targets):
        surprise, total = -logits.log_softmax(1), 0.0
        for i, k in enumerate(targets.tolist()):
            total += (1 - smoothing) * weights[k] * surprise[i, k]
            total += smoothing * sum(weights[c] * surprise[i, c] for c in range(3)) / 3
        return total

    with torch.no_grad():
        if mixup:
            rng = np.random.default_rng(5)
            share = rng.beta(mixup, mixup)
            share, partner = max(share, 1 - share), torch.from_numpy(rng.permutation(8))
            logits = tiny_vit.head(share * features + (1 - share) * features[partner])
            expected = share * by_hand(logits, labels) + (1 - share) * by_hand(logits, labels[partner])
        else:
            logits = tiny_vit.head(features)
            expected = by_hand(logits, labels)
        unweighted, _ = training_loss(
            make_suffix(tiny_vit, 0), features, labels, None, settings, np.random.default_rng(5)
        )
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-6)
    assert abs(found.item() - unweighted.item()) > 0.01
    assert right == (logits.argmax(1) == labels).sum()


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_every_step_of_training_gets_the_weights_of_the_whole_training_set(tiny_vit, class_weights, monkeypatch):
    _, labels = make_data()
    labels[labels == 2] = 0
    labels[:3] = 2
    settings = PLAIN.model_copy(update={"class_weights": class_weights, "epochs": 1})
    seen, original = [], fit_module.training_loss

    def recording(suffix, stored, some, weights, train, rng):
        seen.append(weights)
        return original(suffix, stored, some, weights, train, rng)

    monkeypatch.setattr(fit_module, "training_loss", recording)
    stored = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    list(fit(make_suffix(tiny_vit, 0), [stored], labels, stored, labels, settings, seed=0))
    assert len(seen) == 5
    if class_weights == "none":
        assert seen == [None] * 5
    else:
        expected = [40 / 3 / (labels == k).sum().item() for k in range(3)]
        for weights in seen:
            torch.testing.assert_close(weights, torch.tensor(expected))


def test_the_validation_loss_counts_every_image_alike(tiny_vit):
    _, labels = make_data()
    stored = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    settings = PLAIN.model_copy(update={"class_weights": "balanced", "epochs": 1})
    (state,) = fit(make_suffix(tiny_vit, 0), [stored], labels, stored, labels, settings, seed=0)
    with torch.no_grad():
        expected = F.cross_entropy(tiny_vit.head(stored), labels).item()
    assert state.history[0]["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_warms_up_then_follows_a_cosine_to_zero():
    rates = [learning_rate(step, 100, 10, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[9] == rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[99] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_token_dropout_keeps_every_prefix_token_and_so_many_different_patches_in_order():
    tokens = torch.arange(2 * 12.0).view(2, 12, 1)
    kept = drop_tokens(tokens, 2, 0.3, np.random.default_rng(0))[..., 0]
    assert kept.shape == (2, 9)
    for image, row in enumerate(kept.tolist()):
        assert row[:2] == tokens[image, :2, 0].tolist()
        assert row == sorted(set(row))
        assert set(row) <= set(tokens[image, :, 0].tolist())
    assert kept[0].tolist() != (kept[1] - 12).tolist()


def test_brightness_shifts_each_channel_of_an_image_as_one_and_never_leaves_its_range():
    tokens = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1, 10, 100])
    shifted = shift_brightness(tokens, 0.25, np.random.default_rng(0))
    low, high = tokens.amin(1, keepdim=True), tokens.amax(1, keepdim=True)
    assert (shifted >= low).all()
    assert (shifted <= high).all()
    free = (shifted > low) & (shifted < high)
    shares = torch.where(free, (shifted - tokens) / (high - low), torch.nan)
    middle = shares.nanmedian(1, keepdim=True).values
    torch.testing.assert_close(shares[free], middle.expand_as(shares)[free], rtol=0, atol=1e-5)
    assert middle.abs().max() <= 0.25
    assert middle.unique().numel() == 12
    assert (middle > 0).any()
    assert (middle < 0).any()
    assert torch.equal(shift_brightness(tokens, 0.0, np.random.default_rng(0)), tokens)


def test_a_step_of_shards_is_the_step_of_the_whole_batch(tiny_vit):
    """Where nothing is drawn at random: 40 images in batches of 24, so that the last one is short."""
    pixels, labels = make_data()
    stored, start = store(tiny_vit, pixels, 1), {k: v.clone() for k, v in tiny_vit.state_dict().items()}
    found = {}
    for shards in (1, 3, 24):
        tiny_vit.load_state_dict(start)
        settings = PLAIN.model_copy(update={"batch_size": 24, "shards": shards})
        made = make_optimizer(tiny_vit, settings, 1.0)
        weights = balanced_weights(labels, 3)
        row = train_epoch(make_suffix(tiny_vit, 1), made, [stored], labels, weights, settings, 0, 1)
        found[shards] = row, {k: v.clone() for k, v in tiny_vit.state_dict().items()}
    for shards in (3, 24):
        for key, value in found[1][0].items():
            assert found[shards][0][key] == pytest.approx(value, rel=1e-5)
        for name, value in found[1][1].items():
            torch.testing.assert_close(found[shards][1][name], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(start[name], value) for name, value in found[1][1].items())


def small(name, **options):
    options = {"img_size": 32, "depth": 3, "embed_dim": 64, "num_heads": 4, "num_classes": 3, **options}
    return timm.create_model(name, **options).eval()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vit_small_patch16_dinov3", "Eva"), ("eva_giant_patch14_224", "Eva"), ("beit_base_patch16_224", "Beit")],
)
def test_tokens_cannot_be_left_out_where_the_attention_knows_positions(name, kind):
    model = small(name, **({"img_size": 28} if "patch14" in name else {}))
    pixels, labels = make_data(8)
    pixels = pixels[:, :, : model.patch_embed.img_size[0], : model.patch_embed.img_size[1]]
    settings = PLAIN.model_copy(update={"token_dropout": 0.3, "epochs": 1})
    message = rf"train\.token_dropout is 0\.3: the attention of {kind} knows where .*set it to 0"
    for blocks in (1, "all"):
        stored = store(model, pixels, blocks)
        with pytest.raises(ValueError, match=message):
            list(fit(make_suffix(model, blocks), [stored], labels, stored, labels, settings, seed=0))
    for blocks, share in ((0, 0.3), (1, 0.0)):  # no tokens are left to leave out; or none is to be
        stored, some = store(model, pixels, blocks), settings.model_copy(update={"token_dropout": share})
        assert len(list(fit(make_suffix(model, blocks), [stored], labels, stored, labels, some, seed=0))) == 1


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_tokens_can_be_left_out_of_a_model_that_has_the_positions_in_its_tokens(name):
    model = small(name, patch_size=8)
    pixels, labels = make_data(8)
    settings = PLAIN.model_copy(update={"token_dropout": 0.3, "epochs": 1})
    stored = store(model, pixels, 1)
    assert len(list(fit(make_suffix(model, 1), [stored], labels, stored, labels, settings, seed=0))) == 1


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_is_the_logistic_regression_it_says_it_is(tiny_model_folder, classes, class_weights):
    from sklearn.linear_model import LogisticRegression

    model, generator = load_model(tiny_model_folder, num_classes=classes), np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), (50, 8, 12)[:classes])
    features = (generator.normal(size=(len(labels), 32)) + 0.3 * labels[:, None]).astype(np.float32)
    probe_head(model, torch.from_numpy(features), labels, c=0.5, class_weights=class_weights)
    predicted = {}
    for weight in (None, "balanced"):
        regression = LogisticRegression(C=0.5, max_iter=1000, class_weight=weight)
        predicted[weight] = regression.fit(features.astype(np.float64), labels).predict_proba(features)
    found = model.head(torch.from_numpy(features)).softmax(1).detach()
    np.testing.assert_allclose(found, predicted[None if class_weights == "none" else "balanced"], atol=1e-5)
    assert np.abs(predicted[None] - predicted["balanced"]).max() > 0.05


def test_a_loss_that_is_not_finite_names_the_step_and_the_likely_cause(tiny_vit):
    pixels, labels = make_data()
    stored = store(tiny_vit, pixels, 1)
    stored[17] = float("nan")
    order = np.random.default_rng([0, 1]).permutation(40)
    step = int(np.flatnonzero(order == 17)[0]) // 8 + 1
    with pytest.raises(ValueError, match=rf"not finite at step {step} of 20 .*train\.lr 0\.003 is the likely cause"):
        list(fit(make_suffix(tiny_vit, 1), [stored], labels, stored, labels, PLAIN, seed=0))


def test_each_image_is_taken_from_its_own_view():
    plain = torch.arange(12.0).view(6, 2)
    view_of, rows = torch.tensor([0, 2, 1, 0, 2, 1]), torch.tensor([5, 1, 0, 4])
    taken = take([plain, plain + 100, plain + 200], view_of, rows)
    assert taken.tolist() == [[110, 111], [202, 203], [0, 1], [208, 209]]
    assert plain.tolist() == torch.arange(12.0).view(6, 2).tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(tiny_vit):
    """What waits is read once an epoch: an epoch of ten steps waits as often as one of two."""
    device = torch.device("cuda")
    settings = PLAIN.model_copy(update={"token_dropout": 0.5, "brightness": 0.1, "mixup": 0.2, "grad_clip": 1.0})
    freeze(tiny_vit, 2)
    suffix = Suffix(tiny_vit.to(device), 2, lambda images: images, device, torch.float32)
    optimizer = make_optimizer(tiny_vit, settings, 1.0)

    def waits(images):
        stored = torch.randn(images, 17, 32, device=device)
        labels = torch.zeros(images, dtype=torch.int64, device=device)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            train_epoch(suffix, optimizer, [stored, stored], labels, None, settings, 0, 1)
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in seen)

    waits(16)
    assert waits(80) == waits(16)


def test_each_image_is_seen_once_an_epoch_in_one_of_its_views(tiny_vit, monkeypatch):
    seen = []
    monkeypatch.setattr(
        fit_module,
        "training_loss",
        lambda suffix, stored, *_: (
            seen.append(stored.clone()),
            (suffix.model.head.weight.sum() * 0, torch.tensor(0)),
        )[1],
    )
    suffix = make_suffix(tiny_vit, 0)
    plain = torch.arange(40.0).view(-1, 1)
    optimizer = make_optimizer(tiny_vit, PLAIN, 1.0)
    for epoch in (1, 2):
        train_epoch(suffix, optimizer, [plain, plain + 100], torch.zeros(40, dtype=torch.int64), None, PLAIN, 0, epoch)
    first, second = torch.cat(seen[:5]).flatten().tolist(), torch.cat(seen[5:]).flatten().tolist()
    assert sorted(value % 100 for value in first) == list(range(40))
    assert 8 < sum(value >= 100 for value in first) < 32
    assert first != second

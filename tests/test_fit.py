"""Training from stored activations is training, no more and no less."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vit_finetune import fit as fit_module
from vit_finetune.backbone import Suffix, run_prefix
from vit_finetune.fit import drop_tokens, fit, learning_rate, make_optimizer, probe_head, train_epoch
from vit_finetune.freezing import count_parameters, freeze
from vit_finetune.params.train import Train

PLAIN = Train(
    epochs=4,
    batch_size=8,
    optimizer="adamw",
    lr=0.003,
    weight_decay=0.05,
    warmup_epochs=1,
    label_smoothing=0.1,
    grad_clip=1.0,
    token_dropout=0.0,
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


def make_suffix(model, blocks):
    freeze(model, blocks)
    return Suffix(model, blocks, lambda images: images, torch.device("cpu"), torch.float32)


def store(model, pixels, blocks, dtype=torch.float32):
    with torch.no_grad():
        return (pixels if blocks == "all" else run_prefix(model, pixels, blocks)).to(dtype)


def losses_without_cache(model, pixels, labels, settings, seed):
    """The loop that everyone writes: the whole network on every batch of every epoch."""
    optimizer = make_optimizer(model, settings)
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
    optimizer, losses = make_optimizer(suffix.model, settings), []
    original = fit_module.training_loss

    def recording(*args):
        loss, right = original(*args)
        losses.append(loss.item())
        return loss, right

    monkeypatch.setattr(fit_module, "training_loss", recording)
    for epoch in range(1, settings.epochs + 1):
        train_epoch(suffix, optimizer, [stored], labels, settings, seed, epoch)
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-4)])
@pytest.mark.parametrize("blocks", [0, 1, 2, "all"])
def test_losses_from_stored_activations_are_those_of_the_full_network(tiny_vit, blocks, dtype, tolerance, monkeypatch):
    if blocks == "all" and dtype == torch.float16:
        pytest.skip("images are stored as they are")
    import copy

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


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_frozen_parameters_keep_their_bits_and_all_others_move(tiny_vit, blocks):
    pixels, labels = make_data()
    suffix = make_suffix(tiny_vit, blocks)
    before = {name: p.detach().clone() for name, p in tiny_vit.named_parameters()}
    list(fit(suffix, [store(tiny_vit, pixels, blocks)], labels, store(tiny_vit, pixels, blocks), labels, PLAIN, seed=0))
    moved = {name for name, p in tiny_vit.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in tiny_vit.named_parameters() if p.requires_grad}


def test_trainable_parameters_of_the_default_model_are_the_published_counts():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    counts = {}
    for blocks in (0, 1, 2, "all"):
        freeze(model, blocks)
        counts[blocks] = count_parameters(model)
    assert counts[0][0] == 1_930
    assert counts[1][0] == 447_178
    assert counts[2][0] == 892_042
    assert {sum(pair) for pair in counts.values()} == {counts["all"][0]}


def test_more_trainable_blocks_than_the_model_has_is_an_error(tiny_vit):
    with pytest.raises(ValueError, match="trainable_blocks is 4: the model has 3 blocks; use 0 to 3 or all"):
        freeze(tiny_vit, 4)


def run_fit(model, settings, *, stop_after=None, checkpoint=None, seed=3):
    pixels, labels = make_data()
    suffix = make_suffix(model, 1)
    stored, val = store(model, pixels, 1), store(model, *make_data(24, seed=1)[:1], 1)
    mirrored = store(model, pixels.flip(-1), 1)
    state = None
    for state in fit(suffix, [stored, mirrored], labels, val, make_data(24, seed=1)[1], settings, seed, checkpoint):
        if len(state.history) == stop_after:
            return None
    return state, {name: p.detach().clone() for name, p in model.named_parameters()}


AUGMENTED = PLAIN.model_copy(update={"token_dropout": 0.25, "mixup": 0.4, "epochs": 5})


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_training_cut_short_goes_on_to_the_same_weights_and_history(tiny_model_folder, tmp_path, stop_after):
    from vit_finetune.backbone import load_model

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
    return fit(suffix, [stored], labels, stored, labels, AUGMENTED, 3, checkpoint)


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
    groups = make_optimizer(tiny_vit, PLAIN.model_copy(update={"optimizer": optimizer})).param_groups
    assert {p.ndim > 1 for p in groups[0]["params"]} == {True}
    assert {p.ndim > 1 for p in groups[1]["params"]} == {False}
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]


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


def test_the_probe_is_the_logistic_regression_it_says_it_is(tiny_vit):
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=60)
    features = (generator.normal(size=(60, 32)) + labels[:, None]).astype(np.float32)
    probe_head(tiny_vit, torch.from_numpy(features), labels, c=0.5)
    expected = LogisticRegression(C=0.5, max_iter=1000).fit(features.astype(np.float64), labels)
    found = tiny_vit.head(torch.from_numpy(features)).softmax(1)
    np.testing.assert_allclose(found.detach(), expected.predict_proba(features), atol=1e-5)


def test_the_probe_of_two_classes_gives_two_rows_with_the_same_probabilities(tiny_model_folder):
    from sklearn.linear_model import LogisticRegression

    from vit_finetune.backbone import load_model

    model, generator = load_model(tiny_model_folder, num_classes=2), np.random.default_rng(0)
    labels = generator.integers(2, size=40)
    features = (generator.normal(size=(40, 32)) + labels[:, None]).astype(np.float32)
    probe_head(model, torch.from_numpy(features), labels, c=1.0)
    expected = LogisticRegression(C=1.0, max_iter=1000).fit(features.astype(np.float64), labels)
    found = model.head(torch.from_numpy(features)).softmax(1)
    np.testing.assert_allclose(found.detach(), expected.predict_proba(features), atol=1e-5)


def test_a_loss_that_is_not_finite_names_the_step_and_the_likely_cause(tiny_vit):
    pixels, labels = make_data()
    stored = store(tiny_vit, pixels, 1)
    stored[17] = float("nan")
    order = np.random.default_rng([0, 1]).permutation(40)
    step = int(np.flatnonzero(order == 17)[0]) // 8 + 1
    with pytest.raises(ValueError, match=rf"not finite at step {step} of 20 .*train\.lr 0\.003 is the likely cause"):
        list(fit(make_suffix(tiny_vit, 1), [stored], labels, stored, labels, PLAIN, seed=0))


def test_each_image_is_seen_once_an_epoch_in_one_of_its_views(tiny_vit, monkeypatch):
    seen = []
    monkeypatch.setattr(
        fit_module,
        "training_loss",
        lambda suffix, stored, labels, *_: (
            seen.append(stored.clone()),
            (suffix.model.head.weight.sum() * 0, torch.tensor(0)),
        )[1],
    )
    suffix = make_suffix(tiny_vit, 0)
    plain = torch.arange(40.0).view(-1, 1)
    optimizer = make_optimizer(tiny_vit, PLAIN)
    for epoch in (1, 2):
        train_epoch(suffix, optimizer, [plain, plain + 100], torch.zeros(40, dtype=torch.int64), PLAIN, 0, epoch)
    first, second = torch.cat(seen[:5]).flatten().tolist(), torch.cat(seen[5:]).flatten().tolist()
    assert sorted(value % 100 for value in first) == list(range(40))
    assert 8 < sum(value >= 100 for value in first) < 32
    assert first != second

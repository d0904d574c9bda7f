"""Which labels are wrong: a classifier of features, and a model of how labels went wrong.

The classifier is a regularised discriminant analysis (Friedman 1989): each class is a Gaussian
whose covariance is a mixture of its own, the one that all classes share, and a multiple of the
identity. The labels are noisy copies of unknown true classes: an image of class j got the label k
with probability T[j, k]. Both are fitted together by expectation maximisation (Lawrence and
Schölkopf 2001). The probability that a label is wrong follows from Bayes' rule, so a threshold on
it means the same for every data set, however many labels are wrong.

N images, D features, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

FOLDS = 5
ROUNDS = 2  # of classifier and noise; a third changes nothing
# Chosen on training images of CIFAR-10 with planted errors: docs/benchmarks.md
OWN = 0.3  # weight of a class's own covariance
SHRINKAGE = 0.8  # weight of the identity
PRIOR_IMAGES = 30.0  # images of each class that count as mislabelled at the rate of all classes
ENOUGH = 0.5  # of the labels: a classifier that names fewer cannot tell which are wrong
ALTERNATIONS = 5  # of temperature and noise
TEMPERATURES = (-4.0, 2.0)  # logarithms of the smallest and largest inverse temperature


@dataclass(frozen=True)
class Gaussians:
    """A Gaussian for each class.

    Attributes:
        means: (K, D).
        factors: lower Cholesky factors of the covariances, K of (D, D).
        log_priors: logarithms of the classes' shares, (K,).
    """

    means: Array
    factors: Sequence[Array]
    log_priors: Array

    @classmethod
    def fit(cls, features: Array, weights: Array) -> "Gaussians":
        """Fit to features (N, D), each of which belongs to each class with a weight (N, K)."""
        size = features.shape[1]
        counts = weights.sum(axis=0) + 1e-9
        means = (weights.T @ features) / counts[:, None]
        second_moment = features.T @ features / len(features)
        shared = second_moment - (means.T * (counts / len(features))) @ means
        factors = []
        for mean, weight in zip(means, weights.T, strict=True):
            belongs = weight > 1e-3
            centred = features[belongs] - mean
            own = (centred.T * weight[belongs]) @ centred / (weight[belongs].sum() + 1e-9)
            mixed = (1 - OWN) * shared + OWN * own
            identity = np.trace(mixed) / size * np.eye(size)
            factors.append(cholesky((1 - SHRINKAGE) * mixed + SHRINKAGE * identity, lower=True))
        return cls(means, factors, np.log(counts / counts.sum()))

    def logits(self, features: Array) -> Array:
        """Log-densities with the priors, up to a constant: (N, D) -> (N, K)."""
        logits = np.empty((len(features), len(self.means)))
        for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            whitened = solve_triangular(factor, (features - mean).T, lower=True)
            log_volume = np.log(np.diag(factor)).sum()
            logits[:, k] = self.log_priors[k] - log_volume - 0.5 * np.square(whitened).sum(axis=0)
        return logits


def unit_features(features: NDArray[np.float32], reference: NDArray[np.float32]) -> Array:
    """Features (N, D) scaled to the variance of a reference (M, D), then all to one length."""
    spread = reference.std(axis=0, dtype=np.float64) + 1e-12
    scaled = (features - reference.mean(axis=0, dtype=np.float64)) / spread
    length = np.linalg.norm(scaled, axis=1, keepdims=True) + 1e-12
    return scaled * (np.sqrt(features.shape[1]) / length)


def fold_numbers(labels: Labels, groups: Labels, seed: int) -> Labels:
    """A number from 0 to FOLDS - 1 for each image (N,): every class spread evenly, images of one
    group (N,) together."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_class = shuffled[np.argsort(labels[first[shuffled]], kind="stable")]
    folds = np.empty(len(first), dtype=np.int64)
    folds[by_class] = np.arange(len(first)) % FOLDS
    return folds[group]


def judge_seen(features: Array, labels: Labels, folds: Labels, classes: int) -> Array:
    """Probability of each true class, given an image and its label: (N, K).

    Each image is judged by a classifier that has not seen it. NaN as of `true_classes`.

    Args:
        features: (N, D), of a model that was not trained with these labels.
        folds: `fold_numbers`. Images of a class that no other fold has keep their label.
    """
    belongs = np.eye(classes)[labels]
    for _ in range(ROUNDS):
        belongs = true_classes(held_out_logits(features, belongs, folds), labels)
        if np.isnan(belongs).any():
            return belongs
    for fold in np.unique(folds):
        unknown = (folds == fold) & ~np.isin(labels, labels[folds != fold])
        belongs[unknown] = np.eye(classes)[labels[unknown]]
    return belongs


def held_out_logits(features: Array, belongs: Array, folds: Labels) -> Array:
    """Logits (N, K) of each image by a classifier that was fitted to the other folds."""
    logits = np.empty_like(belongs)
    for fold in np.unique(folds):
        held_out = folds == fold
        gaussians = Gaussians.fit(features[~held_out], belongs[~held_out])
        logits[held_out] = gaussians.logits(features[held_out])
    return logits


def judge_unseen(features: Array, labels: Labels, seen: Array, belongs: Array) -> Array:
    """The same of test images, by a classifier of images to train on.

    Args:
        features: (N, D), and `labels` (N,), of the test images.
        seen: features (M, D) of the images to train on, by the same model, which may have been
            trained with their labels.
        belongs: what `judge_seen` returned for these, (M, K).
    """
    return true_classes(Gaussians.fit(seen, belongs).logits(features), labels)


def true_classes(logits: Array, labels: Labels) -> Array:
    """Probability of each true class (N, K), from what a classifier says of the images (N, K) and
    the labels (N,) that they have.

    The temperature of the logits and the noise of the labels are those of the largest likelihood of
    the labels. NaN if the classifier names fewer labels than ENOUGH: its own mistakes would look
    like wrong labels.
    """
    classes = logits.shape[1]
    has_label = np.eye(classes)[labels]
    if classes == 1:
        return has_label
    if np.mean(logits.argmax(axis=1) == labels) < ENOUGH:
        return np.full_like(logits, np.nan)
    # as if every mistake of the classifier were a wrong label
    noise = estimate_noise(np.eye(classes)[logits.argmax(axis=1)].T @ has_label)
    for _ in range(ALTERNATIONS):
        probabilities = softmax(best_temperature(logits, labels, noise) * logits, axis=1)
        for _ in range(2 * ALTERNATIONS):
            belongs = posterior(probabilities, labels, noise)
            noise = estimate_noise(belongs.T @ has_label)
    return posterior(probabilities, labels, noise)


def posterior(probabilities: Array, labels: Labels, noise: Array) -> Array:
    """Bayes' rule: probability of each true class given the image (N, K), and its label."""
    joint = probabilities * noise[:, labels].T
    return joint / joint.sum(axis=1, keepdims=True)


def estimate_noise(counts: Array) -> Array:
    """Probability of each label for each true class (K, K), from expected counts (K, K).

    With few images of a class the errors are taken to be as frequent as in all classes, and
    evenly spread.
    """
    classes = len(counts)
    rate = 1 - np.trace(counts) / counts.sum()
    prior = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(prior, 1 - rate)
    images = counts.sum(axis=1, keepdims=True)
    return (counts + PRIOR_IMAGES * prior) / (images + PRIOR_IMAGES)


def best_temperature(logits: Array, labels: Labels, noise: Array) -> float:
    """The factor on the logits with the largest likelihood of the noisy labels."""
    log_noise = np.log(np.maximum(noise, 1e-300))[:, labels].T

    def loss(log_factor: float) -> float:
        log_joint = log_softmax(np.exp(log_factor) * logits, axis=1) + log_noise
        return -float(np.logaddexp.reduce(log_joint, axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x))

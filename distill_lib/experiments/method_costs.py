"""What making a set costs, method by method: images through the network, counted from the settings.

    WORK["DM"](cfg, num_classes, images)   # `images` of the real set; through `cfg.network`, or the ConvNet without one

A backward pass counts as two forward ones, a second derivative as six; stages before the set are apart. A method
without an entry works as all others do: plans say that its time is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..methods import idc


def no_work(cfg: Any, num_classes: int, images: int) -> float:
    """No image goes through a network."""
    return 0.0


def features_work(cfg: Any, num_classes: int, images: int) -> float:
    """Every candidate passes the network once, for its features."""
    return float(min(images, num_classes * (cfg.training.per_class or images)))


def gradients_work(cfg: Any, num_classes: int, images: int) -> float:
    """Gradients of real and synthetic images, and training the network on the set between two updates."""
    updates = cfg.iterations * cfg.outer_loop
    return updates * num_classes * (3 * cfg.batch_real + 9 * cfg.ipc + 3 * cfg.inner_epochs * cfg.ipc)


def distributions_work(cfg: Any, num_classes: int, images: int) -> float:
    """Real images pass the network forwards, synthetic ones forwards and backwards."""
    return cfg.iterations * num_classes * (cfg.batch_real + 3 * cfg.ipc)


def aligned_features_work(cfg: Any, num_classes: int, images: int) -> float:
    """Features of real and synthetic images, and training the network until it answers as the query set wants."""
    updates = cfg.iterations * cfg.max_updates  # at most
    return updates * num_classes * (cfg.batch_real + 3 * cfg.ipc + cfg.max_epochs * (3 * cfg.ipc + cfg.batch_query))


def decoded_gradients_work(cfg: Any, num_classes: int, images: int) -> float:
    """Gradients of real and decoded images, and training the network on real ones after every sweep."""
    decoded = min(cfg.batch_syn, idc.decoded_images(cfg))
    return cfg.iterations * cfg.inner * (num_classes * (3 * cfg.batch_real + 9 * decoded) + 3 * cfg.images_net)


def trajectories_work(cfg: Any, num_classes: int, images: int) -> float:
    """The student's steps, forwards, and backwards through all of them."""
    return 12.0 * cfg.iterations * cfg.syn_steps * (cfg.batch_syn or num_classes * cfg.ipc)


def kernels_work(cfg: Any, num_classes: int, images: int) -> float:
    """Pairs of images in the kernels of all steps.

    A pair of a convolutional kernel takes about as long as 13,000 of a fully connected one.
    """
    n = num_classes * cfg.ipc
    return cfg.iterations * n * (n + cfg.batch_target) * (1 if cfg.kernel.startswith("FC") else 13_000)


def feature_regression_work(cfg: Any, num_classes: int, images: int) -> float:
    """Features of the targets, of the set with their gradients, and a training step of a pool network."""
    n = num_classes * cfg.ipc
    return cfg.iterations * (cfg.batch_target + 3 * n * (1 + cfg.use_flip) + 3 * min(n, cfg.batch_net))


def longer_gan_work(cfg: Any, num_classes: int, images: int) -> float:
    """The steps after stage 1, if any."""
    return cfg.longer.work(cfg.gan, images, matched=False) if cfg.longer else 0.0


def matched_gan_work(cfg: Any, num_classes: int, images: int) -> float:
    """Steps of the generator with networks of the pool."""
    return cfg.matching.work(cfg.gan, images)


def latents_work(cfg: Any, num_classes: int, images: int) -> float:
    """The matching of DC, DM or MTT; the generator and the stochastic module are not counted."""
    if cfg.match == "MTT":
        students = cfg.students
        return 12 * cfg.iterations * students.syn_steps * (students.batch_syn or num_classes * cfg.ipc)
    real, synthetic = (3, 9) if cfg.match == "DC" else (1, 3)
    return cfg.iterations * num_classes * (real * cfg.batch_real + synthetic * cfg.ipc)


def uvit_samples_work(cfg: Any, num_classes: int, images: int) -> float:
    """Steps of the sampler."""
    made = cfg.images or num_classes * (cfg.ipc or 0)
    return cfg.steps * made * (1.0 if cfg.guidance == 1 else 2.0)


def dit_samples_work(cfg: Any, num_classes: int, images: int) -> float:
    """Steps of the sampler."""
    return cfg.sampling.work(num_classes * cfg.ipc)


def scored_samples_work(cfg: Any, num_classes: int, images: int) -> float:
    """Steps of the sampler for the whole pool, and scoring the real set."""
    return cfg.sampling.work(num_classes * cfg.ipc * cfg.pool) + images


def chosen_from_pool_work(cfg: Any, num_classes: int, images: int) -> float:
    """The whole pool, drawn and scored; the scorer is made once for all sets."""
    return num_classes * cfg.ipc * cfg.pool


WORK: dict[str, Callable[[Any, int, int], float]] = {
    "Random": no_work,
    "Herding": features_work,
    "K-Center": features_work,
    "Forgetting": no_work,
    "DC": gradients_work,
    "DSA": gradients_work,
    "DM": distributions_work,
    "CAFE": aligned_features_work,
    "IDC-1": decoded_gradients_work,
    "IDC": decoded_gradients_work,
    "KIP": kernels_work,
    "MTT": trajectories_work,
    "FRePo": feature_regression_work,
    "CGAN": longer_gan_work,
    "DiM": matched_gan_work,
    "SKD (no standardisation)": matched_gan_work,
    "SKD": matched_gan_work,
    "GLaD": latents_work,
    "SLFD": latents_work,
    "U-ViT": uvit_samples_work,
    "DiT": dit_samples_work,
    "Minimax": dit_samples_work,
    "DGS": scored_samples_work,
    "Pool": chosen_from_pool_work,
    "Full data": no_work,
}

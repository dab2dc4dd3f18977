"""What making a set costs, method by method: images through networks and bytes kept alive, counted from the settings.

    COSTS["DM"].work(cfg, num_classes, images)   # images through the network for one set
    COSTS["DM"].memory(cfg, size)                # bytes that a step keeps alive

A backward pass counts as two forward ones, a second derivative as six; stages before the set are apart. A method
without an entry works as all others do: plans say that its time and memory are unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import networks
from ..evaluation.evaluator import tested_at_once
from ..evaluation.protocols import Protocol
from ..generators import prior
from ..methods import (
    cafe,
    cgan,
    dc,
    dgs,
    dim,
    dit,
    dm,
    frepo,
    full_data,
    glad,
    idc,
    kip,
    minimax,
    mtt,
    random_real,
    selection,
    skd,
    slfd,
    uvit,
)
from ..methods.common import matching, ntk
from ..networks import memory
from ..networks.memory import COPIES, Size


@dataclass(frozen=True)
class Cost:
    """How a method's cost follows from its settings.

    Attributes:
        work:   (cfg, classes, images of the real set) -> images through `cfg.network`, or through the ConvNet where it
        has none. memory: (cfg, size) -> bytes that a step keeps alive at its peak, the real set and what a process
        holds besides apart.
    """

    work: Callable[[Any, int, int], float]
    memory: Callable[[Any, Size], float]


# --- selection ---------------------------------------------------------------------------------------------------------
def no_work(cfg: Any, num_classes: int, images: int) -> float:
    """No image goes through a network, stage 1 apart."""
    return 0.0


def random_memory(cfg: random_real.Config, size: Size) -> float:
    """The images taken from the real set."""
    return 2 * size.floats(size.num_classes * cfg.ipc)


def full_data_memory(cfg: full_data.Config, size: Size) -> float:
    """Nothing besides the real set."""
    return 0.0


def features_work(cfg: selection.Config, num_classes: int, images: int) -> float:
    """Every candidate once, for its features."""
    return float(min(images, num_classes * (cfg.training.per_class or images)))


def selection_memory(cfg: selection.Config, size: Size) -> float:
    """A training step of the feature network, or the features of a class."""
    return cfg.training.held(size)


# --- matching ----------------------------------------------------------------------------------------------------------
def dc_work(cfg: dc.Config, num_classes: int, images: int) -> float:
    """Gradients of real and synthetic images, and training the network on the set between two updates."""
    updates = cfg.iterations * cfg.outer_loop
    return updates * num_classes * (3 * cfg.batch_real + 9 * cfg.ipc + 3 * cfg.inner_epochs * cfg.ipc)


def dc_memory(cfg: dc.Config, size: Size) -> float:
    """All real batches, the learned images, and gradients matched or the network trained."""
    images = COPIES * size.floats(size.num_classes * cfg.batch_real) + size.learned(size.num_classes * cfg.ipc)
    training = memory.trained(cfg.network, size, min(cfg.batch_train, size.num_classes * cfg.ipc), states=0)
    return images + max(memory.matched(cfg.network, size, cfg.batch_real, cfg.ipc), training)


def dm_work(cfg: dm.Config, num_classes: int, images: int) -> float:
    """Real images once, synthetic ones there and back."""
    return cfg.iterations * num_classes * (cfg.batch_real + 3 * cfg.ipc)


def dm_memory(cfg: dm.Config, size: Size) -> float:
    """All real batches, the learned images, and the larger of the two passes."""
    real, synthetic = size.num_classes * cfg.batch_real, size.num_classes * cfg.ipc
    joint = joint_pass(cfg.network, size, cfg.batch_real)
    passes = max(memory.passed(cfg.network, size, cfg.batch_real) + joint, memory.pulled(cfg.network, size, synthetic))
    return COPIES * size.floats(real) + size.learned(synthetic) + passes


def joint_pass(network: str, size: Size, per_class: int) -> float:
    """Bytes that `matching.mean_embeddings` keeps alive beyond a pass of one class's images: none without batch norm."""
    if not matching.batch_norms(networks.blank(network, size.shape, size.num_classes)):
        return 0.0
    return memory.passed(network, size, size.num_classes * per_class) - memory.passed(network, size, per_class)


def cafe_work(cfg: cafe.Config, num_classes: int, images: int) -> float:
    """Features of real and synthetic images, and training the network until it answers as the query set wants."""
    updates = cfg.iterations * cfg.max_updates  # at most
    return updates * num_classes * (cfg.batch_real + 3 * cfg.ipc + cfg.max_epochs * (3 * cfg.ipc + cfg.batch_query))


def cafe_memory(cfg: cafe.Config, size: Size) -> float:
    """All real batches and their embeddings, the learned images, and the maps of all of these."""
    network = networks.blank(cfg.network, size.shape, size.num_classes).requires_grad_(False)
    weights = cafe.layer_weights(network, cfg)

    def run(n: int) -> tuple[Tensor, Tensor]:
        return cafe.image_gradient(
            network, torch.zeros(1, 1, *size.shape), torch.zeros(1, n, *size.shape), weights, cfg
        )

    real, synthetic = size.num_classes * cfg.batch_real, size.num_classes * cfg.ipc
    images = COPIES * size.floats(real) + size.learned(synthetic) + 4.0 * real * network.embed_dim
    training = memory.trained(cfg.network, size, min(cfg.batch_train, synthetic), states=0)
    return images + max(size.slack * memory.growth(run).at(synthetic), training)


def idc_work(cfg: idc.Config, num_classes: int, images: int) -> float:
    """Gradients of real and decoded images, and training the network on real ones after every sweep."""
    decoded = min(cfg.batch_syn, idc.decoded_images(cfg))
    return cfg.iterations * cfg.inner * (num_classes * (3 * cfg.batch_real + 9 * decoded) + 3 * cfg.images_net)


def idc_memory(cfg: idc.Config, size: Size) -> float:
    """All real batches, the learned and the decoded images, and gradients matched or the network trained."""
    decoded = min(cfg.batch_syn, idc.decoded_images(cfg))
    images = COPIES * size.floats(size.num_classes * cfg.batch_real) + size.learned(
        size.num_classes * (cfg.ipc + decoded)
    )
    matched = memory.matched(cfg.network, size, cfg.batch_real, decoded)
    return images + memory.weights(cfg.network, size) + max(matched, memory.trained(cfg.network, size, cfg.batch_net))


def mtt_work(cfg: mtt.Config, num_classes: int, images: int) -> float:
    """The student's steps, there and back; the experts apart."""
    return 12.0 * cfg.iterations * cfg.syn_steps * (cfg.batch_syn or num_classes * cfg.ipc)


def mtt_memory(cfg: mtt.Config, size: Size) -> float:
    """The learned images, the weights before every step of the student, and one step computed again."""
    synthetic, network, experts = size.num_classes * cfg.ipc, cfg.experts.network, cfg.experts
    batch, weights = cfg.batch_syn or synthetic, memory.weights(network, size)
    once = memory.trained(network, size, batch, states=0)
    student = (
        (cfg.syn_steps + 8) * weights
        + COPIES * size.floats(batch)
        + max(once, memory.twice(network, size, batch, by_parameter=True))
    )
    expert = (
        (experts.epochs + 2) * weights
        + COPIES * size.floats(experts.batch)
        + memory.trained(network, size, experts.batch, states=0)
    )
    whitening = memory.whitened(size) if experts.zca else 0.0
    return max(size.learned(synthetic) + student, expert, whitening)


# --- kernel regression
# -------------------------------------------------------------------------------------------------
def kip_work(cfg: kip.Config, num_classes: int, images: int) -> float:
    """Pairs of images in the kernels of all steps; one of a convolutional kernel takes about as long as 13,000 of a
    fully connected."""
    n = num_classes * cfg.ipc
    return cfg.iterations * n * (n + cfg.batch_target) * (1 if cfg.kernel.startswith("FC") else 13_000)


def kip_memory(cfg: kip.Config, size: Size) -> float:
    """Both kernel matrices and their derivatives, all images in the kernel's precision, and one tile."""
    n, m, kernel = size.num_classes * cfg.ipc, cfg.batch_target, kip.kernel_of(cfg)
    matrices = 8.0 * (3 * n * n + 3 * n * m)
    images = size.learned(n) + (2 + kernel.dtype.itemsize / 4) * size.floats(m)
    if isinstance(kernel, ntk.ConvolutionalKernel):
        tile = max(kernel.pair_bytes(size.shape), (cfg.tile_mb or (4096 if size.gpu else 256)) * 2**20)
    else:
        tile = min(n * m * kernel.pair_bytes(size.shape), (cfg.tile_mb or (4096 if size.gpu else 256)) * 2**20)
    return max(matrices + images + tile, memory.whitened(size) if cfg.zca else 0.0)


def frepo_work(cfg: frepo.Config, num_classes: int, images: int) -> float:
    """Features of the targets and, there and back, of the set, and a step of a network of the pool."""
    n = num_classes * cfg.ipc
    return cfg.iterations * (cfg.batch_target + 3 * n * (1 + cfg.use_flip) + 3 * min(n, cfg.batch_net))


def frepo_memory(cfg: frepo.Config, size: Size) -> float:
    """The pool with its moments, the learned and the target images, and features, regression or a step of a network."""
    n = size.num_classes * cfg.ipc
    support, dimensions = n * (1 + cfg.use_flip), networks.blank(cfg.network, size.shape, size.num_classes).embed_dim
    pool = 3 * cfg.pool * memory.weights(cfg.network, size)
    targets = COPIES * size.floats(cfg.batch_target) + 4.0 * cfg.batch_target * dimensions
    kernels = 8.0 * (3 * support * (support + cfg.batch_target) + (3 * support + cfg.batch_target) * dimensions)
    features = memory.pulled(cfg.network, size, min(support, frepo.images_at_once(size, 64)))
    step = memory.trained(cfg.network, size, min(n, cfg.batch_net), states=0)
    whitening = memory.whitened(size) if cfg.zca else 0.0
    return max(pool + size.learned(n) + targets + max(kernels, features, step), whitening)


# --- conditional GANs
# --------------------------------------------------------------------------------------------------
def cgan_work(cfg: cgan.Config, num_classes: int, images: int) -> float:
    """The steps after stage 1, if any."""
    return cfg.longer.work(cfg.gan, images, matched=False) if cfg.longer else 0.0


def cgan_memory(cfg: cgan.Config, size: Size) -> float:
    """A step of the GAN."""
    return max(cfg.gan.held(size), cfg.longer.held(cfg.gan, size, matched=False) if cfg.longer else 0.0)


def dim_work(cfg: dim.Config | skd.Config, num_classes: int, images: int) -> float:
    """Steps of the generator with networks of the pool."""
    return cfg.matching.work(cfg.gan, images)


def dim_memory(cfg: dim.Config | skd.Config, size: Size) -> float:
    """A step of the GAN alone, or one with a network of the pool."""
    return max(cfg.gan.held(size), cfg.matching.held(cfg.gan, size))


# --- latents -----------------------------------------------------------------------------------------------------------
def glad_work(cfg: glad.Config, num_classes: int, images: int) -> float:
    """As for DC, DM or MTT; the generator is not counted."""
    if cfg.match == "MTT":
        of = cfg.students
        return 12 * cfg.iterations * of.syn_steps * (of.batch_syn or num_classes * cfg.ipc)
    return slfd_work(cfg, num_classes, images)


def glad_memory(cfg: glad.Config, size: Size) -> float:
    """The latents, the drawn images, what they are matched by, and a piece on its way through the generator."""
    if cfg.match != "MTT":
        return slfd_memory(cfg, size)
    n, of = size.num_classes * cfg.ipc, cfg.students
    latents, trained = cfg.space.held(size, n), prior.held(cfg.space.prior, size)
    batch, weights = of.batch_syn or n, memory.weights(of.experts.network, size)
    step = memory.twice(of.experts.network, size, batch, by_parameter=of.second_order is None)
    students = (max(of.syn_steps, of.experts.epochs) + 8) * weights + step
    return max(latents + students + size.learned(n), trained)


def slfd_work(cfg: slfd.Config | glad.Config, num_classes: int, images: int) -> float:
    """As for DC or DM; generator and stochastic module are not counted."""
    real, synthetic = (3, 9) if cfg.match == "DC" else (1, 3)
    return cfg.iterations * num_classes * (real * cfg.batch_real + synthetic * cfg.ipc)


def slfd_memory(cfg: slfd.Config | glad.Config, size: Size) -> float:
    """The latents, the drawn images, what they are matched by, and a piece on its way through the generator."""
    latents, trained = cfg.space.held(size, size.num_classes * cfg.ipc), prior.held(cfg.space.prior, size)
    joint = joint_pass(cfg.network, size, cfg.batch_real) if cfg.match == "DM" else 0.0
    return max(latents + joint + matched_latents(cfg.match, cfg.network, size, cfg.batch_real, cfg.ipc), trained)


def matched_latents(match: str, network: str, size: Size, real: int, ipc: int) -> float:
    """Bytes of the drawn images and of a step of DC or DM that matches them, with so many real images of every
    class."""
    n = size.num_classes * ipc
    if match == "DC":
        passes = memory.matched(network, size, real, ipc)
    else:
        passes = max(memory.passed(network, size, real), memory.pulled(network, size, n))
    return size.learned(n) + COPIES * size.floats(size.num_classes * real) + passes


# --- diffusion ---------------------------------------------------------------------------------------------------------
def uvit_work(cfg: uvit.Config, num_classes: int, images: int) -> float:
    """Steps of the sampler. What is generated for a time counts nothing: its seconds are known."""
    made = cfg.images or num_classes * (cfg.ipc or 0)
    return cfg.steps * made * (1.0 if cfg.guidance == 1 else 2.0)


def uvit_memory(cfg: uvit.Config, size: Size) -> float:
    """A training step, or the images of a call of the sampler."""
    drawn = cfg.batch if cfg.seconds is not None else min(cfg.batch, cfg.images or size.num_classes * (cfg.ipc or 0))
    return max(cfg.training.held(size), cfg.training.sampling_held(size, drawn * (1 if cfg.guidance == 1 else 2)))


def dit_work(cfg: dit.Config | minimax.Config, num_classes: int, images: int) -> float:
    """Steps of the sampler."""
    return cfg.sampling.work(num_classes * cfg.ipc)


def dit_memory(cfg: dit.Config, size: Size) -> float:
    """A training step, or the images of a call of the sampler."""
    return max(cfg.base.held(size), cfg.sampling.held(cfg.base, size))


def minimax_memory(cfg: minimax.Config, size: Size) -> float:
    """A step of training or tuning, or the images of a call of the sampler."""
    return max(cfg.base.held(size), cfg.tuning.held(cfg.base, size), cfg.sampling.held(cfg.base, size))


def dgs_work(cfg: dgs.Config, num_classes: int, images: int) -> float:
    """Steps of the sampler for the whole pool, and scoring the real set."""
    return cfg.sampling.work(num_classes * cfg.ipc * cfg.pool) + images


def dgs_memory(cfg: dgs.Config, size: Size) -> float:
    """A step of training, tuning or of a trained scorer, or the images of a call of the sampler and the pool."""
    pool = size.num_classes * cfg.ipc * cfg.pool
    drawing = cfg.sampling.held(cfg.base, size) + cfg.base.latent(size)[1] ** 2 * size.shape[0] * pool  # 8-bit pixels
    scorer = cfg.scoring.training.held(size) if cfg.scoring.scorer in ("trained", "held_out") else 0.0
    return max(cfg.base.held(size), cfg.tuning.held(cfg.base, size) if cfg.tuning else 0.0, drawing, scorer)


# --- evaluation --------------------------------------------------------------------------------------------------------
def evaluating(protocol: Protocol, network: str, size: Size, images: int, num_eval: int, drawn: bool = True) -> float:
    """Bytes that evaluating keeps alive: networks in training at once, on a GPU all of them, or their answers to a part
    of the test set.

    Args:
        images: of the set they are trained on.
        drawn:  whether that is another one than the real set, which is there anyway.
    """
    batch, together, states = (
        min(protocol.batch, images),
        num_eval if size.gpu else 1,
        (2 if protocol.optimizer == "adam" else 1) + bool(protocol.ema),
    )
    step = memory.trained(network, size, batch, states) + COPIES * size.floats(batch)
    test = memory.passed(network, size, tested_at_once(size.shape, size.gpu))
    return together * max(step, test) + (2 * size.floats(images) if drawn else 0.0)


COSTS = {
    "Random": Cost(no_work, random_memory),
    "Herding": Cost(features_work, selection_memory),
    "K-Center": Cost(features_work, selection_memory),
    "Forgetting": Cost(no_work, selection_memory),
    "DC": Cost(dc_work, dc_memory),
    "DSA": Cost(dc_work, dc_memory),
    "DM": Cost(dm_work, dm_memory),
    "CAFE": Cost(cafe_work, cafe_memory),
    "IDC-1": Cost(idc_work, idc_memory),
    "IDC": Cost(idc_work, idc_memory),
    "KIP": Cost(kip_work, kip_memory),
    "MTT": Cost(mtt_work, mtt_memory),
    "FRePo": Cost(frepo_work, frepo_memory),
    "CGAN": Cost(cgan_work, cgan_memory),
    "DiM": Cost(dim_work, dim_memory),
    "SKD (no standardisation)": Cost(dim_work, dim_memory),
    "SKD": Cost(dim_work, dim_memory),
    "GLaD": Cost(glad_work, glad_memory),
    "SLFD": Cost(slfd_work, slfd_memory),
    "U-ViT": Cost(uvit_work, uvit_memory),
    "DiT": Cost(dit_work, dit_memory),
    "Minimax": Cost(dit_work, minimax_memory),
    "DGS": Cost(dgs_work, dgs_memory),
    "Full data": Cost(no_work, full_data_memory),
}

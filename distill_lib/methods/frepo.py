"""FRePo: neural feature regression with pooling (Zhou et al., NeurIPS 2022). Book page: book/kernel_regression.md

Only the last layer of a network is trained to its end, by ridge regression in closed form, on the features of its other
layers. The squared error of that on real images (equation 4, `loss_and_gradients`) is differentiated by the synthetic
images, through one pass for their features, and by their labels. A pool of networks, each trained for a while on the
synthetic images and then replaced, supplies features of all ages.

The published code keeps the checkpoint that was best on the test set; here the last set counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from .. import networks
from ..core.batches import Batches
from ..core.device import Pieces, out_of_memory, send
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, lowered, replace, settings
from ..data import ImageSet, Whitening, like, side
from ..networks import fast
from .common import ntk

VERSION = 1
Embed = Callable[[Tensor], Tensor]  # (N, C, H, W) -> features (N, D)


@settings
class Config:
    ipc: Count = 10  # images per class
    iterations: Count = 500_000  # updates of images and labels
    network: str = "FRePoConvBN"  # batch norm helps here; evaluation is without
    lr_img: float = 3e-4  # LAMB: step length over that of all images, or of all labels; falls to a tenth, as a cosine
    lr_net: float = 3e-4  # Adam
    batch_target: Count = 1_024  # real images per update, of all classes
    batch_net: Count = 1_000  # synthetic images per step of a network, at most
    pool: Count = 10  # networks
    max_updates: Count = 100  # a network with more steps than this is replaced
    ridge: float = 1e-6  # share of the kernel's mean diagonal
    learn_labels: bool = True
    use_flip: bool = False  # the synthetic images and their mirror images regress together
    zca: bool = False  # whiten the images, in place of normalising the channels
    init: Literal["real", "noise"] = "real"
    source: str = "published"  # of this setting, or what it was reconstructed from

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds: a network of a quarter of the width."""
        return self._reduced(iterations=30, network="FRePoConvW32BN", batch_target=64, pool=2, max_updates=10)

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: a quarter of width and target batch; few, longer steps."""
        return self._reduced(iterations=300, network="FRePoConvW32BN", batch_target=256, pool=5, max_updates=30)

    def _reduced(self, network: str, **changes: int) -> Config:
        return replace(lowered(self, **changes), network=network, lr_img=0.01, lr_net=1e-3, source="reduced")


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting behind one cell of the papers' tables.

    Source: the published code: mirror images for CIFAR10, ImageNette and ImageWoof, and at one image per class for
    CIFAR100 and TinyImageNet; no whitening for MNIST and FashionMNIST. The whitening by blocks it has for images of
    128 pixels is not offered: `source` says so.
    """
    name, resized = like(dataset).name, side(dataset) != like(dataset).resolution
    known = name in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "TinyImageNet") and not resized
    coloured = known and name not in ("MNIST", "FashionMNIST")
    by_blocks = " by blocks" if name in ("ImageNette", "ImageWoof", "ImageIDC", "ImageNet-100") else ""
    source = "published" if known else f"reconstruction: without whitening{by_blocks}"
    flip = name in ("ImageNette", "ImageWoof") or (coloured and (name == "CIFAR10" or ipc == 1))
    return Config(ipc=ipc, use_flip=flip, zca=coloured, source=source)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into cfg.ipc images per class.

    Returns: K x ipc float32 images, whitened if cfg.zca says so, with labels (N, K) whose arg-max was the class at the
             start, or hard labels if they are not learned.
    Raises:  UserError: a network that cannot take the images.
    Source:  algorithm 1 of the paper; loss, initial labels and the pool's counters as in the published code.
    """
    loop, rng = loop or Loop(), stream(seed, "FRePo")
    if cfg.zca:
        real = real.under(Whitening.fit(real, of="standardised"))
    classes = torch.arange(real.num_classes, device=real.device).repeat_interleave(cfg.ipc)
    images = real.initial_images(cfg.ipc, cfg.init, rng).flatten(0, 1).requires_grad_()  # (n, C, H, W), class by class
    scale = math.sqrt(real.num_classes / 10)
    labels = (ntk.centred_labels(classes, real.num_classes) / scale).float().requires_grad_(cfg.learn_labels)  # (n, K)
    optimizer = LAMB([images, labels] if cfg.learn_labels else [images], lr=cfg.lr_img)
    pool = NetworkPool(cfg, real, rng)
    batches = Batches(len(real), min(cfg.batch_target, len(real)), last="drop")
    at_once = Pieces(images_at_once(real, 128)), Pieces(images_at_once(real, 64))  # of targets and of synthetic images
    live = {"synthetic": images, "labels": labels, "optimizer": optimizer, "order": batches.order, "rng": rng}
    live |= pool.live
    for step in loop.steps("distill", cfg.iterations, live):
        optimizer.param_groups[0]["lr"] = step_size(cfg, step)
        index = batches.index(step, rng)
        targets, classes_seen = real.take(index)[0], real.hard_labels[index.to(real.device)]
        wanted = ntk.centred_labels(classes_seen, real.num_classes)
        number = int(torch.randint(cfg.pool, (), generator=rng))
        embed = pool.embedding(number)
        loss, images.grad, by_labels = loss_and_gradients(embed, images, labels, targets, wanted, cfg, *at_once)
        labels.grad = by_labels if cfg.learn_labels else None
        optimizer.step()
        pool.advance(number, images.detach(), labels.detach(), rng)
        loop.log(loss=loss)
    made = labels.detach() if cfg.learn_labels else classes
    return ImageSet(images.detach().float(), made, real.synthetic_facts(method="FRePo", seed=seed), real.whitening)


def step_size(cfg: Config, step: int) -> float:
    """Step size of images and labels: it falls from lr_img to a tenth of it, as a cosine."""
    return cfg.lr_img * (0.1 + 0.9 * (1 + math.cos(math.pi * step / cfg.iterations)) / 2)


def images_at_once(real: ImageSet, on_cpu: int) -> int:
    """Images per pass through a network: `on_cpu` of 32 x 32 pixels on a CPU, 1024 on a GPU, fewer larger ones."""
    most = 1024 if real.device.type == "cuda" else on_cpu
    return max(1, most * 1024 // max(1024, real.shape[1] * real.shape[2]))


# --- loss -------------------------------------------------------------------------------------------------------------
def loss_and_gradients(
    embed: Embed,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    target_labels: Tensor,
    cfg: Config,
    targets_at_once: Pieces | None = None,
    support_at_once: Pieces | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error of the regression on a target batch less the label margin, and its derivatives.

    Args:
        embed:   features of a network that draws no random numbers.
        images:  (n, C, H, W); labels (n, K).
        targets: (m, C, H, W); target_labels (m, K).
        targets_at_once, support_at_once: images per pass.
    Returns: scalar; its derivatives by synthetic images (n, C, H, W) and labels (n, K).
    Source:  equation 4 of the paper; sum over classes, mean over images, as in the published code.
    """
    seen = with_mirrored(images.detach(), cfg)
    with torch.no_grad():
        parts = (targets_at_once or Pieces(len(targets)))(len(targets), lambda i: embed(targets[i]))
    target_features = torch.cat(parts).double()
    features, pull = features_and_pull(embed, seen, support_at_once or Pieces(len(seen)))
    features, values = features.double().requires_grad_(), labels.detach().double().requires_grad_()
    with torch.enable_grad():
        support_labels = torch.cat([values, values]) if cfg.use_flip else values
        predicted = ntk.regress(features @ features.T, target_features @ features.T, support_labels, cfg.ridge)
        loss = (predicted - target_labels).square().sum(1).mean() / 2
        if cfg.learn_labels:
            loss = loss - margin(values)
        by_features, by_labels = torch.autograd.grad(loss, [features, values])
    by_images = pull(by_features.to(seen.dtype))
    if cfg.use_flip:
        straight, mirrored = by_images.chunk(2)
        by_images = straight + mirrored.flip(-1)
    return loss.detach(), by_images, by_labels.to(labels.dtype)


def with_mirrored(images: Tensor, cfg: Config) -> Tensor:
    """The images (n, C, H, W) that regress: with their mirror images after them if cfg.use_flip says so."""
    return torch.cat([images, images.flip(-1)]) if cfg.use_flip else images


def margin(labels: Tensor) -> Tensor:
    """Mean over labels (n, K) of the gap between largest and second largest value, of which no more than 1/K counts."""
    first, second = labels.topk(2, dim=1).values.unbind(1)
    return (first - second).clamp(max=1 / labels.shape[1]).mean()


def features_and_pull(embed: Embed, images: Tensor, at_once: Pieces) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Features (N, D) without a graph, and the function from a derivative (N, D) by them to that by the images.

    What fits in one piece keeps its graph; what does not is passed through again, piece by piece.
    """

    def part(i: slice, by_features: Tensor) -> Tensor:
        leaf = images[i].detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(embed(leaf), leaf, by_features[i])[0]

    def in_pieces(by_features: Tensor) -> Tensor:
        return torch.cat(at_once(len(images), lambda i: part(i, by_features)))

    if len(images) <= at_once.size:
        leaf = images.detach().requires_grad_()
        try:
            with torch.enable_grad():
                features = embed(leaf)
            return features.detach(), lambda by_features: torch.autograd.grad(features, leaf, by_features)[0]
        except (RuntimeError, MemoryError) as err:
            if not out_of_memory(err) or len(images) == 1:
                raise
            at_once.size = len(images) // 2
    with torch.no_grad():
        features = torch.cat(at_once(len(images), lambda i: embed(images[i])))
    return features, in_pieces


# --- networks ---------------------------------------------------------------------------------------------------------
class NetworkPool:
    """Networks of different ages, each with its Adam and the number of its steps.

    At the start all weights are fresh; only the counters are spread over 0 .. max_updates, so that the networks are
    replaced at different times. Source: published code.

    Attributes:
        live: what steps change, for `Loop.steps`.
    """

    def __init__(self, cfg: Config, real: ImageSet, rng: torch.Generator):
        self.cfg = cfg
        fresh = lambda: networks.fresh(cfg.network, real, rng).to(real.device).requires_grad_(False)
        self.networks = [fresh() for _ in range(cfg.pool)]
        self.optimizers = [torch.optim.Adam(n.parameters(), lr=cfg.lr_net, fused=True) for n in self.networks]
        self.counters = [i * cfg.max_updates // cfg.pool for i in range(cfg.pool)]
        parts = {f"network {i}": network for i, network in enumerate(self.networks)}
        parts |= {f"optimizer {i}": optimizer for i, optimizer in enumerate(self.optimizers)}
        self.live = parts | {"counters": self.counters}

    def embedding(self, number: int) -> Embed:
        """The features of a network, in eval mode: batch norm by its running statistics."""
        network = self.networks[number].eval()
        return lambda x: fast.embed(network, x)

    def advance(self, number: int, images: Tensor, labels: Tensor, rng: torch.Generator) -> None:
        """One step of a network on the synthetic set, or a new network if it had more than `max_updates`."""
        if self.counters[number] > self.cfg.max_updates:
            self.networks[number].redraw(rng)
            self.optimizers[number].state.clear()
            self.counters[number] = 0
            return
        if len(images) > self.cfg.batch_net:
            index = send(torch.randperm(len(images), generator=rng)[: self.cfg.batch_net], images.device)
            images, labels = images[index], labels[index]
        train_step(self.networks[number], self.optimizers[number], images, labels)
        self.counters[number] += 1


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """One step on half the squared error, summed over classes, mean over images; batch norm in train mode.

    Raises: UserError: the images do not fit in memory together, which batch norm needs.
    """
    network.train().requires_grad_(True)
    try:
        loss = (networks.logits(network, images) - labels).square().sum(1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
    except (RuntimeError, MemoryError) as err:
        if not out_of_memory(err):
            raise
        given = f"out of memory with {len(images)} synthetic images in a step of a network"
        raise UserError(f"{given}: choose a smaller batch_net") from err
    optimizer.step()
    network.requires_grad_(False)


class LAMB(torch.optim.Optimizer):
    """Adam's direction u, scaled for each tensor p to its length: p <- p - lr |p| u / |u|; unscaled if one is zero.

    timm.optim.Lamb is the same update, but rounds in another order, and the recorded sets were made with this one.

    Source: You et al., ICLR 2020, without weight decay; constants of optax.
    """

    def __init__(self, params: list[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
                state["step"] += 1
                mean = state["mean"].lerp_(p.grad, 1 - first)
                square = state["square"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
                root = (square / (1 - second ** state["step"])).sqrt() + group["eps"]
                u = mean / (1 - first ** state["step"]) / root
                ratio = p.norm() / u.norm()
                p.sub_(u * torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, 1.0) * group["lr"])


# --- measuring --------------------------------------------------------------------------------------------------------
def measure(synthetic: ImageSet, test: ImageSet, cfg: Config) -> dict[str, list[float]]:
    """Test accuracy of the regression itself, in percent, on features of a network after `max_updates` steps.

    It is another number than the accuracy of networks trained to their end.
    """
    test, rng = test.under(synthetic.whitening), stream(0, "FRePo", "measure")
    pool = NetworkPool(replace(cfg, pool=1), synthetic, rng)
    images, labels = synthetic.all()
    values = ntk.centred_labels(labels, synthetic.num_classes).float() if labels.ndim == 1 else labels
    for _ in range(cfg.max_updates):
        pool.advance(0, images, values, rng)
    embed, at_once, support = pool.embedding(0), Pieces(images_at_once(test, 128)), with_mirrored(images, cfg)
    with torch.no_grad():
        features = torch.cat(at_once(len(support), lambda i: embed(support[i]))).double()
        values = values.repeat(len(support) // len(images), 1)
        weights = features.T @ ntk.solve(features @ features.T, values, cfg.ridge)  # (D, K)
        answers = at_once(len(test), lambda i: (embed(test.normalise(test.images[i])).double() @ weights).argmax(1))
    return {"kernel_accuracy_pct": [100 * (torch.cat(answers) == test.hard_labels).sum().item() / len(test)]}

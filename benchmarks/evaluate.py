"""Evaluation of five networks, against a reader's own loop: one network after another, the network's own layers,
torch's SGD, data already in memory. Same initial networks, order of images and augmentation draws, so the accuracies,
which both sides return, are those of the same trainings but for rounding.

500 test images are used: with 10 epochs, testing then has about the share of the time it has with 1000 epochs and the
whole test set.
"""

from __future__ import annotations

import numpy as np
import suite
import torch
from torch.nn import functional as F

from distill_lib import data, networks
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.data import ImageSet, augment
from distill_lib.evaluation import evaluate
from distill_lib.evaluation.protocols import protocol


def sets(ipc: int, tested: int) -> tuple[ImageSet, ImageSet]:
    """A random real set and some test images, of FashionMNIST or, where it is not at hand, of the small copy in the
    package."""
    try:
        real, test = data.load("FashionMNIST", download=False)
    except UserError:
        real, test = data.load("FashionMNIST-mini")
    index = real.draw_index(ipc, stream(0, "benchmark")).flatten()
    return real.subset(index), test.subset(
        test.draw_index(tested // test.num_classes, stream(1, "benchmark")).flatten()
    )


def points(ours: np.ndarray, plain: np.ndarray) -> float:
    """Largest difference of a network's accuracy, in percentage points."""
    return float(np.abs(ours - plain).max())


@suite.benchmark(
    "evaluate",
    "{networks} ConvNets trained for {epochs} epochs on IPC {ipc} of FashionMNIST (vico_dsa), "
    "tested on {tested} images",
    "network after network, the network's own layers",
    size={"ipc": 10, "epochs": 10, "networks": 5, "tested": 500},
    quick={"ipc": 1, "epochs": 1, "networks": 1, "tested": 10},
    tolerance=1.0,
    distance=points,
    difference_is="points",
    target={"ratio": 2.0},
    growth={"networks": (1, 2, 5, 10), "ipc": (1, 10, 50)},
    small={"epochs": 4},
)
def five(side: str, device: str, ipc: int, epochs: int, networks: int, tested: int) -> suite.Call:
    synthetic, test = sets(ipc, tested)
    name = f"vico_dsa@{epochs}ep"
    if side == "plain":
        return lambda: torch.tensor(plain(synthetic, test, name, networks, device))
    return lambda: torch.tensor(
        evaluate(synthetic, test, name, num_eval=networks, device=device, loop=Loop(bar=False)).test_accuracy_pct
    )


def plain(
    synthetic: ImageSet, test: ImageSet, name: str, num_eval: int, device: str, seed: int = 0, network: str = "ConvNet"
) -> list[float]:
    """The reader's loop; accuracies in percent."""
    p = protocol(name)
    images, labels = (x.to(device) for x in synthetic.all())
    test_images, test_labels = (x.to(device) for x in test.all())
    aug, rates, accuracies = (
        augment.named(p.augmentation),
        p.learning_rates(len(images) // synthetic.num_classes, len(images)),
        [],
    )
    for i in range(num_eval):
        net = networks.fresh(network, synthetic, stream(seed, "evaluate", i, "init")).to(device)
        lr, step = None, 0
        for epoch, rate in enumerate(rates):
            if rate != lr:
                lr = rate
                optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=p.momentum, weight_decay=p.weight_decay)
            for batch in torch.randperm(len(images), generator=stream(seed, "evaluate", i, "order", epoch)).split(
                p.batch
            ):
                x = aug(images[batch], stream(seed, "evaluate", i, "step", step))
                loss = F.cross_entropy(net(x), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
        with torch.no_grad():
            answers = torch.cat([net.eval()(x).argmax(1) for x in test_images.split(256)])
        accuracies.append(100 * (answers == test_labels).double().mean().item())
    return accuracies

"""Shuffled batches draw the numbers of the plain loops that they stand for, and go on from a checkpoint."""

import pytest
import torch
from steps import in_steps

from distill_lib.core.batches import Batches
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream


def epochs_with_the_rest(total, images, batch, steps, rng):
    """The feature network, and experts on part of the set: the last batch of an epoch may be smaller."""
    per_epoch = -(-images // batch)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(total, generator=rng)[:images]
        yield order[step % per_epoch * batch :][:batch]


def epochs_of_whole_batches(total, images, batch, steps, rng):
    """The conditional GAN and its matching, DiT, Minimax and U-ViT: the last, partial batch is left out."""
    for step in range(steps):
        number = step % (images // batch)
        if number == 0:
            order = torch.randperm(total, generator=rng)[:images]
        yield order[number * batch : (number + 1) * batch]


def passes(total, images, batch, steps, rng):
    """FRePo's targets: a new order as soon as what is left does not fill a batch."""
    order, at = torch.empty(total), total
    for _ in range(steps):
        if at + batch > total:
            order, at = torch.randperm(total, generator=rng), 0
        at += batch
        yield order[at - batch : at]


@pytest.mark.parametrize(
    ("plain", "last", "per_epoch"),
    [
        (epochs_with_the_rest, "keep", None),
        (epochs_with_the_rest, "keep", 13),
        (epochs_with_the_rest, "keep", 100),
        (epochs_of_whole_batches, "drop", None),
        (epochs_of_whole_batches, "drop", 13),
        (passes, "drop", None),
    ],
)
@pytest.mark.parametrize("batch", [1, 5, 7, 13])
def test_positions_and_the_stream_are_those_of_the_plain_loop(plain, last, per_epoch, batch):
    """What a step draws besides, such as times and noise, comes from the same stream, so that has to stand where it
    stood."""
    ours, theirs, batches = stream(3), stream(3), Batches(20, batch, last, per_epoch)
    wanted = plain(20, min(per_epoch or 20, 20), batch, 50, theirs)
    for step in range(50):
        assert torch.equal(batches.index(step, ours), next(wanted))
        assert torch.equal(torch.rand(2, generator=ours), torch.rand(2, generator=theirs))


def test_a_batch_larger_than_the_set_is_all_of_it_or_an_error():
    assert Batches(3, 8).index(0, stream(0)).sort().values.tolist() == [0, 1, 2]
    for total, batch, last in ((3, 8, "drop"), (3, 0, "keep"), (0, 1, "keep")):
        with pytest.raises(UserError, match=f"a batch of {batch} images, but an epoch has {total}"):
            Batches(total, batch, last)


def test_an_epoch_goes_on_from_a_checkpoint(tmp_path):
    def run(loop: Loop) -> list[list[int]]:
        rng, batches, seen = stream(0), Batches(10, 3), []
        for step in loop.steps("walk", 12, {"rng": rng, "order": batches.order, "seen": seen}):
            seen.append(batches.index(step, rng).tolist())
        return seen

    whole = run(Loop())
    found, stops = in_steps(run, tmp_path)
    assert found == whole and stops == 11

"""Whitening travels with a set: fitted once, applied to test images alike, kept in the file."""

import pytest
import torch

from distill_lib.core.errors import UserError
from distill_lib.data import ImageSet, Whitening
from distill_lib.evaluation import evaluate


def centred(images):
    x = images.flatten(1).double()
    return x - x.mean(0)


@pytest.mark.parametrize("n", [1297, 40])  # more images than pixels, and fewer: two ways to the same matrix
def test_whitened_variances_are_s_over_s_plus_eps(digits, n):
    real = digits[0].subset(torch.arange(n))
    x = centred(real.pixels())
    s, u = torch.linalg.eigh(x.T @ x / (n - 1))
    whitening = Whitening.fit(real, eps=0.1)
    expected = (u * (s.clamp_min(0) + 0.1).rsqrt()) @ u.T
    torch.testing.assert_close(whitening.matrix.double(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(whitening.mean, real.pixels().flatten(1).mean(0))
    z = centred(real.under(whitening).all()[0])
    found = torch.linalg.eigvalsh(z.T @ z / (n - 1))
    torch.testing.assert_close(found, s / (s + 0.1), rtol=1e-3, atol=1e-4)
    assert found.max() < 1


def test_a_set_under_a_whitening_is_the_same_pixels_in_other_units(digits):
    real, test = digits
    whitening = Whitening.fit(real)
    seen = real.under(whitening)
    index = torch.tensor([3, 1, 4])
    by_hand = (real.images[index].float().flatten(1) / 255 - whitening.mean) @ whitening.matrix
    torch.testing.assert_close(seen.take(index)[0].flatten(1), by_hand)
    assert seen.images is real.images and real.whitening is None and torch.equal(seen.pixels(), real.pixels())
    assert seen.subset(index).whitening.equals(whitening) and seen.to("cpu") is seen
    assert seen.under(whitening) is seen and seen.under(None).whitening is None and not whitening.equals(None)
    made = ImageSet.from_classes(seen.draw_classes(2, torch.Generator().manual_seed(0)), like=seen)
    assert made.whitening.equals(whitening)
    drawn = real.draw_classes(2, torch.Generator().manual_seed(0)).flatten(0, 1)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (real.facts.mean, real.facts.std))
    torch.testing.assert_close(
        made.pixels(), drawn * std + mean, rtol=1e-3, atol=1e-3
    )  # the same images, shown as they were


def test_the_file_holds_the_whitening(digits, tmp_path):
    seen = digits[0].under(Whitening.fit(digits[0]))
    made = ImageSet.from_classes(seen.draw_classes(1, torch.Generator().manual_seed(0)), like=seen, method="any")
    back = ImageSet.load(made.save(tmp_path / "set.safetensors"))
    assert back.whitening.equals(made.whitening) and torch.equal(back.images, made.images) and back.facts == made.facts
    plain = ImageSet.from_classes(digits[0].draw_classes(1, torch.Generator().manual_seed(0)), like=digits[0])
    assert ImageSet.load(plain.save(tmp_path / "plain.safetensors")).whitening is None


def test_evaluation_whitens_the_test_images_as_the_set_is(digits, monkeypatch):
    """A set and a test set that differ by the whitening alone: seen alike, the scores are those of the whitened
    pair."""
    real, test = (s.subset(torch.arange(40)) for s in digits)
    whitening = Whitening.fit(digits[0])
    seen = ImageSet(real.under(whitening).all()[0], real.labels, real.facts, whitening)
    options = {"protocol": "vico_noaug@2ep", "network": "MLP", "num_eval": 1, "device": "cpu"}
    by_library = evaluate(seen, test, **options)
    by_hand = evaluate(real.under(whitening), test.under(whitening), **options)
    assert by_library.metrics["train_loss"] == by_hand.metrics["train_loss"]
    assert by_library.metrics["ece_pct"] == by_hand.metrics["ece_pct"]
    assert by_library.metrics["ece_pct"] != evaluate(real, test, **options).metrics["ece_pct"]


def test_units_that_do_not_fit_are_errors(digits):
    real, test = digits
    whitening = Whitening.fit(real)
    stored = ImageSet(real.all()[0], real.labels, real.facts)
    with pytest.raises(UserError, match="stored as float32 keep the normalisation"):
        stored.under(whitening)
    with pytest.raises(UserError, match="a whitening of 64 numbers does not fit"):
        ImageSet(torch.zeros(1, 1, 4, 4), torch.tensor([0]), real.facts, whitening)
    with pytest.raises(UserError, match="stored as float32"):  # a plain float test set beside a whitened synthetic set
        evaluate(
            real.under(whitening), ImageSet(test.all()[0], test.labels, test.facts), "vico_noaug@1ep", "MLP", num_eval=1
        )

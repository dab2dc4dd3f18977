"""Named data sets: their facts, the sets inside the package, and every set present on this machine against its
documentation."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_lib import data
from distill_lib import data as distill_lib_data
from distill_lib.core import paths, rng
from distill_lib.core.errors import UserError
from distill_lib.data import NORMALISATIONS, make_bundled

BUNDLED = ["FashionMNIST-mini", "BloodCells-mini", "PneumoniaMNIST-mini"]


def per_class(s):
    return torch.bincount(s.labels, minlength=s.num_classes).tolist()


def present(name, **options):
    """The set, or a skip that says why it is not here."""
    try:
        return data.load(name, download=False, **options)
    except UserError as err:
        if "not found" not in str(err):
            raise
        pytest.skip(str(err))


# --- facts -----------------------------------------------------------------------------------------------------------
def test_a_name_leads_to_the_set_whose_settings_hold():
    assert {
        name: data.like(name).name
        for name in ("FashionMNIST-mini", "FashionMNIST", "ImageNette@64px", "ImNet-A", "SVHN", "my own")
    } == {
        "FashionMNIST-mini": "FashionMNIST",
        "FashionMNIST": "FashionMNIST",
        "ImageNette@64px": "ImageNette",
        "ImNet-A": "ImNet-A",
        "SVHN": "SVHN",
        "my own": "my own",
    }
    assert {name for name in data.DATASETS if not data.like(name).mirrors} == {"MNIST", "digits"} and not data.like(
        "SVHN"
    ).mirrors
    subsets = {name for name in data.DATASETS if data.like(name).is_imagenet_subset}
    assert {"ImageNette", "ImNet-A", "SLFD-50", "ImageNet-100"} < subsets and "TinyImageNet" not in subsets
    assert not data.like("Images").is_imagenet_subset  # the user's own folder
    assert {name for name in subsets if data.like(name).union} == {"SLFD-50", "SLFD-94", "SLFD-100"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_facts_carry_pixels_to_units_and_back_bit_for_bit_as_the_set_does(dtype):
    real = data.load("BloodCells-mini")[0].subset(torch.arange(8))
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (real.facts.mean, real.facts.std))
    pixels = real.pixels().to(dtype).requires_grad_()
    units = real.facts.normalise(pixels)
    assert units.dtype == dtype and torch.equal(units, (pixels - mean) / std)
    back = real.facts.pixels(units)
    assert torch.equal(back, (units - -mean / std) / (255 * (1 / (255 * std)))) and torch.allclose(
        back, pixels, atol=1e-6
    )
    assert torch.allclose(torch.autograd.grad(back.sum(), pixels)[0], torch.ones((), dtype=dtype), atol=1e-5)
    if dtype == torch.float32:
        drawn = data.ImageSet(units.detach() * 3, real.labels, real.facts)
        assert torch.equal(drawn.pixels(), real.facts.pixels(drawn.images).clamp(0, 1))
    assert torch.equal(real.signed(torch.tensor([5, 2])), real.subset(torch.tensor([5, 2])).pixels() * 2 - 1)


def test_what_is_learned_starts_from_real_images_or_noise_of_one_stream():
    real = data.load("FashionMNIST-mini")[0]
    assert torch.equal(real.initial_images(3, "real", rng.stream(1)), real.draw_classes(3, rng.stream(1)))
    noise = real.initial_images(3, "noise", rng.stream(1))
    assert torch.equal(noise, torch.randn(10, 3, *real.shape, generator=rng.stream(1)))
    assert torch.equal(
        noise.flatten(0, 1), torch.randn(30, *real.shape, generator=rng.stream(1))
    )  # as kernel methods hold them


def test_medmnist_facts_equal_medmnists_own():
    from medmnist.info import INFO

    flat = {v["python_class"]: v for k, v in INFO.items() if not k.endswith("3d")}
    ours = {n: d for n, d in data.DATASETS.items() if d.family == "medmnist"}
    assert set(ours) == set(flat) and len(ours) == 12
    for name, d in ours.items():
        assert d.counts == flat[name]["n_samples"]
        assert d.channels == flat[name]["n_channels"]
        assert d.licence == flat[name]["license"]
        if name != "ChestMNIST":  # 14 marks joined into two classes
            assert list(d.class_names) == [flat[name]["label"][str(k)] for k in range(len(flat[name]["label"]))]
        for size in d.sizes:
            ((urls, place, md5),) = distill_lib_data.downloads(d, size)
            assert (
                place == f"{name.lower()}{'' if size == 28 else f'_{size}'}.npz" and place in urls[0] and len(md5) == 32
            )


def test_imagenet_subsets_follow_the_papers_order_and_the_sorted_wnids_of_imagenet():
    timm = Path(
        importlib.util.find_spec("timm").origin
    ).parent  # its list of wnids, without the seconds its import takes
    wnids = (timm / "data/_info/imagenet_synsets.txt").read_text().split()
    assert wnids == sorted(wnids) and len(wnids) == 1000
    sets = {n: d for n, d in data.DATASETS.items() if d.family == "imagenet"}
    for d in sets.values():
        assert len(d.class_names) == len(d.wnids) == len(d.imagenet_indices)
        assert [wnids[i] for i in d.imagenet_indices] == list(d.wnids)
        if d.name != "SLFD-100":
            assert len(set(d.wnids)) == len(d.wnids)
        assert d.counts["test"] == 50 * len(d.wnids)
    assert sets["ImageWoof"].imagenet_indices == (193, 182, 258, 162, 155, 167, 159, 273, 207, 229)
    assert sets["ImageNette"].imagenet_indices == (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
    assert sets["ImageIDC"].wnids == sets["ImageNet-100"].wnids[:10]
    ten = [f"ImNet-{s}" for s in "ABCDE"] + ["ImageNette", "ImageWoof", "ImNet-Birds", "ImNet-Fruits", "ImNet-Cats"]
    assert all(len(sets[n].wnids) == 10 for n in ten)
    assert sets["SLFD-50"].wnids == tuple(w for n in ten[:5] for w in sets[n].wnids)
    assert sets["SLFD-100"].wnids == tuple(w for n in ten for w in sets[n].wnids)
    assert sets["SLFD-94"].wnids == tuple(dict.fromkeys(sets["SLFD-100"].wnids)) and len(sets["SLFD-94"].wnids) == 94
    twins = sorted(i for i in set(sets["SLFD-100"].imagenet_indices) if sets["SLFD-100"].imagenet_indices.count(i) == 2)
    assert twins == [9, 96, 100, 145, 258, 291]
    assert "94 %" in " ".join(sets["SLFD-100"].notes)


def test_every_entry_is_complete():
    for d in data.DATASETS.values():
        assert d.licence and d.source and d.channels in (1, 3) and set(d.counts) >= {"train", "test"}
        assert d.normalisation == "measured" or len(NORMALISATIONS[d.normalisation][0]) == d.channels
    assert len(data.DATASETS["CIFAR100"].class_names) == 100 == len(set(data.DATASETS["CIFAR100"].class_names))
    assert list(data.DATASETS["CIFAR100"].class_names) == sorted(data.DATASETS["CIFAR100"].class_names)


def test_facts_table_has_a_row_per_set():
    rows = data.facts_table()
    assert [r["name"] for r in rows] == list(data.DATASETS)
    path = next(r for r in rows if r["name"] == "PathMNIST")
    assert (path["classes"], path["train"], path["val"], path["test"], path["image"]) == (
        9,
        89_996,
        10_004,
        7_180,
        "28x28x3",
    )
    assert path["class_names"][0] == "adipose" and path["sizes"] == (28, 64, 128, 224) and path["mean"] is None
    woof = next(r for r in rows if r["name"] == "ImageWoof")
    assert woof["train"] is None and woof["imagenet_indices"][0] == 193 and woof["std"] == (0.229, 0.224, 0.225)
    assert json.loads(json.dumps(rows))[0]["sha256"] == data.DATASETS["digits"].sha256
    assert all(len("".join(map(str, r.values()))) < 110 for r in data.facts_table(brief=True))


def test_unknown_names_list_what_exists():
    with pytest.raises(
        UserError, match=r"unknown dataset 'cifar10': did you mean CIFAR10\? Choose one of digits, .*\./cifar10"
    ):
        data.load("cifar10")
    with pytest.raises(UserError, match=r"unknown normalisation 'Cifar': .*CIFAR10-FRePo"):
        data.load("digits", normalisation="Cifar")
    with pytest.raises(UserError, match=r"unknown resize rule 'nearest': choose one of bilinear, bicubic, squeeze"):
        data.load("digits", resize="nearest")
    with pytest.raises(UserError, match="resolution 0"):
        data.load("digits", 0)
    with pytest.raises(UserError, match="digits has 1 channels; only your own data are converted"):
        data.load("digits", channels=3)
    with pytest.raises(UserError, match="unknown option 'folders'"):
        data.load_with_validation("digits", folders="x")


# --- inside the package ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, shape, train, test",
    [
        ("FashionMNIST-mini", (1, 28, 28), [200] * 10, [100] * 10),
        ("BloodCells-mini", (3, 32, 32), [150] * 4, [60] * 4),
        ("PneumoniaMNIST-mini", (1, 28, 28), [200] * 2, [100] * 2),
        ("digits", (1, 8, 8), [128, 132, 127, 133, 131, 132, 131, 129, 124, 130], [50] * 10),
    ],
)
def test_sets_inside_the_package(name, shape, train, test):
    real, held = data.load(name)
    assert real.shape == held.shape == shape and real.images.dtype == torch.uint8
    assert per_class(real) == train and per_class(held) == test
    assert (real.facts.split, held.facts.split, real.facts.name) == ("train", "test", name)
    assert {"train": real.sha256(), "test": held.sha256()} == data.DATASETS[name].sha256
    assert sum(train) == data.DATASETS[name].counts["train"] and sum(test) == data.DATASETS[name].counts["test"]


def test_bundled_sets_take_at_most_4_mb_and_carry_their_licence():
    files = list(paths.bundled().iterdir())
    assert sum(f.stat().st_size for f in files) <= 4_000_000
    for name, words in zip(BUNDLED, ("Zalando", "shenggan", "CC BY 4.0"), strict=True):
        text = (paths.bundled() / f"{name}.LICENCE.txt").read_text()
        assert words in text and data.DATASETS[name].licence in text.replace("MIT License", "MIT").replace(
            "The MIT", "MIT"
        )


@pytest.mark.parametrize("name", BUNDLED)
def test_a_damaged_bundled_file_is_one_clear_error(name, tmp_path, monkeypatch):
    shutil.copy(paths.bundled() / f"{name}.npz", tmp_path)
    monkeypatch.setattr(paths, "bundled", lambda: tmp_path)
    data.load(name)
    raw = bytearray((tmp_path / f"{name}.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / f"{name}.npz").write_bytes(raw)
    with pytest.raises(UserError, match=rf"{name}\.npz: damaged: its sha256 is .* install distill_lib again"):
        data.load(name)
    (tmp_path / f"{name}.npz").unlink()
    with pytest.raises(UserError, match=rf"{name}\.npz: cannot be read"):
        data.load(name)


def test_the_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    real, test = data.load("digits")
    d = load_digits()
    for s in (real, test):
        for image, label in zip(s.images[::97], s.labels[::97], strict=True):
            assert int(label) in d.target[(np.round(d.images * 255 / 16) == image[0].numpy()).all((1, 2))]
    ours = torch.cat([real.images, test.images]).flatten(1).float().sum(1).sort().values
    assert torch.equal(ours, torch.from_numpy(np.round(d.images * 255 / 16)).flatten(1).float().sum(1).sort().values)


@pytest.mark.parametrize("name", ["FashionMNIST", "BloodCells", "PneumoniaMNIST"])
def test_the_bundled_cut_is_made_again_from_the_full_set(name):
    resolution, *counts = make_bundled.CUTS[name]
    for full, mini, n in zip(present(name, resolution=resolution), data.load(f"{name}-mini"), counts, strict=True):
        images, labels = make_bundled.cut(full, n)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        assert np.array_equal(images, mini.images.numpy()) and np.array_equal(labels[:, 0], mini.labels.numpy())


def test_make_bundled_writes_what_load_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(make_bundled, "CUTS", {"digits": (8, 5, 3)})
    made = make_bundled.make(tmp_path)
    assert made == {"digits-mini": hashlib.sha256((tmp_path / "digits-mini.npz").read_bytes()).hexdigest()}
    real, test = data.load(tmp_path / "digits-mini.npz")
    assert per_class(real) == [5] * 10 and per_class(test) == [3] * 10


# --- normalisation ---------------------------------------------------------------------------------------------------
def test_measured_mean_and_std_are_those_of_the_training_pixels():
    real, test = data.load("BloodCells-mini", normalisation="measured")
    x = real.images.double() / 255
    assert torch.allclose(torch.tensor(real.facts.mean).double(), x.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(torch.tensor(real.facts.std).double(), x.std((0, 2, 3), correction=0), atol=1e-6)
    assert test.facts.mean == real.facts.mean and real.facts.normalisation == "measured"
    z = real.all()[0]
    assert z.mean().abs() < 1e-4 and (z.std() - 1).abs() < 1e-3


def test_normalisation_is_chosen_by_name():
    real, _ = data.load("BloodCells-mini", normalisation="ImageNet")
    assert real.facts.mean == (0.485, 0.456, 0.406) and real.facts.normalisation == "ImageNet"
    assert data.load("BloodCells-mini", normalisation="half")[0].facts.std == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="normalisation MNIST is for 1 channels; BloodCells-mini has 3"):
        data.load("BloodCells-mini", normalisation="MNIST")


# --- validation ------------------------------------------------------------------------------------------------------
def test_a_held_out_part_is_balanced_seeded_and_disjoint():
    real, _ = data.load("digits")
    rest, val = data.split(real, 7, seed=3)
    assert per_class(val) == [7] * 10 and len(rest) + len(val) == len(real)
    assert val.facts.split == "validation" and "seed 3" in val.facts.notes[-1]
    both = torch.cat([rest.images, val.images]).flatten(1)
    assert torch.equal(both.float().mean(0), real.images.flatten(1).float().mean(0))
    assert torch.equal(data.split(real, 7, seed=3)[1].images, val.images)
    assert not torch.equal(data.split(real, 7, seed=4)[1].images, val.images)
    share = data.split(real, 0.1, seed=0)[1]
    assert per_class(share) == [round(0.1 * n) for n in per_class(real)]


def test_holding_out_too_much_is_refused():
    real, _ = data.load("digits")
    with pytest.raises(UserError, match="cannot hold out 200 images of class 0: it has 128"):
        data.split(real, 200, seed=0)
    with pytest.raises(UserError, match="cannot hold out 0 images"):
        data.split(real, 0, seed=0)
    with pytest.raises(UserError, match="cannot hold out inf images"):
        data.split(real, float("inf"), seed=0)


def test_load_with_validation_holds_out_where_the_source_has_no_validation_part():
    train, val, test = data.load_with_validation("FashionMNIST-mini", per_class=20, seed=1)
    assert per_class(train) == [180] * 10 and per_class(val) == [20] * 10 and len(test) == 1000


# --- resolutions -----------------------------------------------------------------------------------------------------
def test_a_name_may_say_the_resolution():
    said, asked = data.load("BloodCells-mini@16px")[0], data.load("BloodCells-mini", 16)[0]
    assert said.shape == (3, 16, 16) and torch.equal(said.images, asked.images) and said.facts == asked.facts
    nearest = data.load("BloodCells-mini@16px-bicubic")[0]
    assert not torch.equal(nearest.images, said.images)
    for wrong in ("BloodCells-mini@0px", "BloodCells-mini@16px-blurred", "BloodCels@16px"):
        with pytest.raises(UserError):
            data.load(wrong)
    with pytest.raises(UserError, match="one or the other"):
        data.load("BloodCells-mini@16px", 32)


def test_a_bundled_set_at_another_resolution_says_how():
    real, test = data.load("FashionMNIST-mini", 32)
    assert real.shape == test.shape == (1, 32, 32)
    assert any("resized from 28 px to 32 px: shorter side" in n and "bilinear" in n for n in real.facts.notes)
    assert data.load("FashionMNIST-mini", 32, resize="bicubic")[0].sha256() != real.sha256()


# --- sets on this machine, against their documentation ---------------------------------------------------------------
MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize(
    "name, shape, train, test",
    [
        ("MNIST", (1, 28, 28), MNIST_TRAIN, MNIST_TEST),
        ("FashionMNIST", (1, 28, 28), [6000] * 10, [1000] * 10),
        ("CIFAR10", (3, 32, 32), [5000] * 10, [1000] * 10),
        ("CIFAR100", (3, 32, 32), [500] * 100, [100] * 100),
        ("TinyImageNet", (3, 64, 64), [500] * 200, [50] * 200),
        ("PneumoniaMNIST", (1, 28, 28), [1214, 3494], [234, 390]),
    ],
)
def test_a_full_set_equals_its_documentation(name, shape, train, test):
    real, held = present(name)
    assert real.shape == held.shape == shape
    assert per_class(real) == train and per_class(held) == test


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_the_pixels_are_the_official_ones_or_named(name):
    for s in present(name):
        official = s.sha256() == data.DATASETS[name].sha256[s.facts.split]
        assert official or any("not the official" in n for n in s.facts.notes)


def test_mnist_and_fashionmnist_constants_are_those_of_the_pixels():
    for name in ("MNIST", "FashionMNIST"):
        x = present(name)[0].images.double() / 255
        mean, std = NORMALISATIONS[name]
        assert abs(x.mean().item() - mean[0]) < 1e-4 and abs(x.std().item() - std[0]) < 1e-4


def test_the_cifar10_copy_with_re_encoded_images_is_named():
    real, test = present("CIFAR10")
    x = real.images.double() / 255
    assert np.allclose(x.mean((0, 2, 3)), NORMALISATIONS["CIFAR10"][0], atol=2e-4)
    assert np.allclose(x.std((0, 2, 3)), NORMALISATIONS["CIFAR10-FRePo"][1], atol=2e-4)
    notes = " ".join(real.facts.notes)
    if real.sha256() in data.DATASETS["CIFAR10"].copies:
        assert "80 re-encoded training images" in notes and "23 re-encoded test images" in notes
    assert real.facts.class_names == tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


def test_the_re_ordered_pneumonia_copy_is_named_and_its_validation_part_used():
    present("PneumoniaMNIST")
    real, val, test = data.load_with_validation("PneumoniaMNIST", download=False)
    assert per_class(val) == [135, 389] and per_class(real) == [1214, 3494]
    in_order = bool((real.labels[1:] >= real.labels[:-1]).all())
    assert in_order == any("another order" in n for n in real.facts.notes)
    small = data.load("PneumoniaMNIST", 16, download=False)[0]  # named at every resolution
    assert in_order == any("another order" in n for n in small.facts.notes)
    x = real.images.double() / 255
    assert abs(x.mean().item() - 0.5719) < 1e-4 and abs(x.std().item() - 0.1684) < 1e-4


def test_bloodcells_equals_its_documentation():
    real, test = present("BloodCells")
    assert real.shape == (3, 64, 64) and real.facts.class_names == (
        "eosinophil",
        "lymphocyte",
        "monocyte",
        "neutrophil",
    )
    assert per_class(test) == [623, 620, 620, 624]
    assert per_class(real) in ([1000] * 4, [2497, 2483, 2478, 2499])
    notes = " ".join(real.facts.notes)
    assert "350 photographs" in notes
    if len(real) == 4000:
        assert "4,000 train images instead of 9,957" in notes and "every image of this copy is 64 x 64 px" in notes


FASTAI_TEST = {  # of the copies at 128 px, by wnid
    "ImageNette": dict(
        zip(sorted(data.DATASETS["ImageNette"].wnids), [387, 395, 357, 386, 409, 394, 389, 419, 399, 390], strict=True)
    ),
    "ImageWoof": dict(
        zip(sorted(data.DATASETS["ImageWoof"].wnids), [409, 408, 418, 224, 401, 407, 401, 422, 429, 410], strict=True)
    ),
}


@pytest.mark.parametrize("name", FASTAI_TEST)
def test_imagenette_and_imagewoof_are_labelled_in_the_papers_order(name):
    d = data.DATASETS[name]
    try:
        source = distill_lib_data.locate(d, 28, None, False)
    except UserError as err:
        pytest.skip(str(err))
    for split in source.splits:
        part = source.read(split)
        for file, label in zip(part.images[::50], part.labels[::50], strict=True):
            assert file.parent.name == d.wnids[label]
    counts = np.bincount(source.read("val").labels).tolist()
    assert counts in ([50] * 10, [FASTAI_TEST[name][w] for w in d.wnids])


def test_imagewoof_names_how_the_copy_differs():
    real, test = present("ImageWoof")
    d = data.DATASETS["ImageWoof"]
    assert real.shape == test.shape == (3, 128, 128)
    assert real.facts.imagenet_indices == d.imagenet_indices and real.facts.class_names == d.class_names
    notes = " ".join(real.facts.notes)
    assert "which is not that of sorted wnids" in notes
    assert ("fastai's split" in notes) == (per_class(test) != [50] * 10)
    if per_class(real) == [500] * 10:
        assert "500 training images per class" in notes and "every image of this copy is 128 x 128 px" in notes
    part = distill_lib_data.locate(d, 28, None, False).read("train")
    for members in real.class_index:
        first = int(members[0])
        image = distill_lib_data.resize(distill_lib_data.open_image(part.images[first]).convert("RGB"), 128, "bilinear")
        assert np.array_equal(np.asarray(image).transpose(2, 0, 1), real.images[first].numpy())


def test_hold_out_draws_from_its_own_stream():
    before, labels = torch.get_rng_state(), np.repeat(np.arange(3), 10)
    first, again, other = (distill_lib_data.hold_out(labels, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])

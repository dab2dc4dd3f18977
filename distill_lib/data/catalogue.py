"""`DATASETS`: every named data set with its facts. Nothing here reads a file of the set itself."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

# Per channel, of pixels in [0, 1]. Which one a set uses by default stands in its entry; `load(..., normalisation=)`
# takes any.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "MNIST": ((0.1307,), (0.3081,)),
    "FashionMNIST": ((0.2861,), (0.3530,)),
    "SVHN": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    # The std is the mean of the images' own std, not that of the set; DC, DSA, DM, MTT, IDC, DC-BENCH and DD-Ranking
    # use it.
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR10-FRePo": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # the std of all pixels
    "CIFAR100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "GLaD-renders": (
        (0.4377, 0.4438, 0.4728),
        (0.229, 0.224, 0.225),
    ),  # GLaD's code on its rendered images: SVHN's mean by mistake
    "half": ((0.5,), (0.5,)),  # any number of channels; MedMNIST's examples
    "BloodCells": (
        (0.6812, 0.6442, 0.6633),
        (0.2578, 0.2559, 0.2548),
    ),  # measured by this library, 4,000 training images, 64 px
    "PneumoniaMNIST": ((0.5719,), (0.1684,)),  # measured by this library on the 28 px training images
    "digits": ((0.3053,), (0.3762,)),  # measured by this library on all images
}
MEASURED = "measured"  # mean and std of the training images as loaded
DIGITS = ("MNIST", "SVHN", "digits")  # SVHN has no entry: other code's settings and files of sets name it


@dataclass(frozen=True)
class Dataset:
    """The facts of one named set, as documented by its source.

    `counts` holds the images of each split the source has (train, test and perhaps val); 0 where the source does not
    say.
    """

    name: str
    family: str  # which reader: bundled, digits, idx, cifar, medmnist, tiny, imagenet, folder
    class_names: tuple[str, ...]
    channels: int
    resolution: int  # px; the one loaded when none is asked for
    counts: dict[str, int]
    normalisation: str
    licence: str
    source: str
    notes: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()  # px the source distributes, where there are several
    wnids: tuple[str, ...] = ()  # of ImageNet classes, in label order
    imagenet_indices: tuple[int, ...] = ()  # of ImageNet classes, in label order
    frame: str = ""  # px of the source's images, where they are not `resolution` square
    sha256: dict[str, str] = field(
        default_factory=dict
    )  # of each split's official pixels and labels (`ImageSet.sha256`), where known
    copies: dict[str, str] = field(
        default_factory=dict
    )  # sha256 of a known copy that is not the official one -> how it differs
    follows: str = ""  # of a cut: the set whose published settings it takes, see `like`
    union: bool = False  # of several published ImageNet subsets

    @property
    def is_imagenet_subset(self) -> bool:
        return self.family == "imagenet"

    @property
    def mirrors(self) -> bool:
        """Whether a mirrored image still shows its class: a mirrored digit is not a digit."""
        return self.name not in DIGITS

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = tuple(
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm".split()
)
_BLOOD = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)

_FASHION_SOURCE = "Xiao, Rasul, Vollgraf 2017, github.com/zalandoresearch/fashion-mnist"
_BLOOD_SOURCE = "BCCD (S. Cheng and cosmicad); augmented as Blood Cell Images (P. Mooney, Kaggle 2018, dataset2-master)"
_BLOOD_NOTE = (
    "every image is a rotated, shifted or flipped copy of one of about 350 photographs; "
    "the split seems to be by photograph, so independent test photographs are few"
)
_MEDMNIST_SOURCE = "MedMNIST v2, Yang et al., Scientific Data 2023, medmnist.com"

_SETS = [
    Dataset(
        "digits",
        "digits",
        _DIGITS,
        1,
        8,
        {"train": 1297, "test": 500},
        "digits",
        "CC BY 4.0",
        "Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test part), through scikit-learn",
        notes=(
            "grey levels 0..16 spread over 0..255; the source has no split: 50 images per class are held out, seed 0",
        ),
        sha256={
            "train": "730be6bc3713c89ef1141a4682d5f223d06fe8a93604e4858496538cdf50caa6",
            "test": "4f1497fde21989ecd47df3059472f09a3425c30da0109a50fba62df9ce2494e9",
        },
    ),
    Dataset(
        "FashionMNIST-mini",
        "bundled",
        _FASHION,
        1,
        28,
        {"train": 2000, "test": 1000},
        "FashionMNIST",
        "MIT",
        _FASHION_SOURCE,
        notes=("class-balanced cut of FashionMNIST: 200 training and 100 test images per class",),
        follows="FashionMNIST",
        sha256={
            "train": "9e59927024add9494dcab7589e2e978683c91364473da8aa2eb6bbb6182c11f3",
            "test": "ec0fbab435a0ad483bc28718abe82c329a94e5b54d4e12896f6d68af8fad797d",
        },
    ),
    Dataset(
        "BloodCells-mini",
        "bundled",
        _BLOOD,
        3,
        32,
        {"train": 600, "test": 240},
        "BloodCells",
        "MIT",
        _BLOOD_SOURCE,
        notes=(
            "class-balanced cut of BloodCells, resized to 32 px: 150 training and 60 test images per class",
            _BLOOD_NOTE,
        ),
        follows="BloodCells",
        sha256={
            "train": "0747745d8f2d7bd9e6688f60eafe6239b59c3d55263745a72a9b5ad35acdead5",
            "test": "2a3d9e2022405d8e0a54d8ba9a0303051c3d8934fade28caf785ec2e911a5ff7",
        },
    ),
    Dataset(
        "PneumoniaMNIST-mini",
        "bundled",
        ("normal", "pneumonia"),
        1,
        28,
        {"train": 400, "test": 200},
        "PneumoniaMNIST",
        "CC BY 4.0",
        _MEDMNIST_SOURCE + "; chest X-rays of Kermany et al., Cell 2018",
        notes=("class-balanced cut of PneumoniaMNIST: 200 training and 100 test images per class",),
        follows="PneumoniaMNIST",
        sha256={
            "train": "ad23f5acae45ef9faf3259f402f7e05f8b350bc7483b00ca613942c8995f2b98",
            "test": "5f2b886d2869cdc143b7d4c2a05ce3ec3d966f3aa99213954a1f9999a8761bd7",
        },
    ),
    Dataset(
        "MNIST",
        "idx",
        _DIGITS,
        1,
        28,
        {"train": 60_000, "test": 10_000},
        "MNIST",
        "CC BY-SA 3.0",
        "LeCun, Cortes, Burges 1998, yann.lecun.com/exdb/mnist",
        sha256={
            "train": "b15c248db4c9403ee2e5fbb013b7992f8eeb8eed44a3f44581766b93f34c0ec8",
            "test": "53b445ae4a7bf4303c685d8618d4834900c593c9242dc62f31e9f742f65c0cc3",
        },
    ),
    Dataset(
        "FashionMNIST",
        "idx",
        _FASHION,
        1,
        28,
        {"train": 60_000, "test": 10_000},
        "FashionMNIST",
        "MIT",
        _FASHION_SOURCE,
        sha256={
            "train": "85971ade6d8dd2c37b6906157c7e0b214a0aa6271d6261ae791fa3c14d7105ff",
            "test": "f0e98262b2fa3e7159a3038cc7c2774a219f0b9d7ca0348c6bb76a7f72cb743c",
        },
    ),
    Dataset(
        "CIFAR10",
        "cifar",
        _CIFAR10,
        3,
        32,
        {"train": 50_000, "test": 10_000},
        "CIFAR10",
        "none stated; cite Krizhevsky 2009",
        "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, cs.toronto.edu/~kriz/cifar.html",
        copies={
            "fac290be1129a035837f9bf03df197c63779cf700fe19a27edb33fddf9656473": "this copy has 80 re-encoded training images: "
            "their pixels are decoded from JPEG",
            "5c2c2665a484c4627d2551d01d58ee0b757d5327ad5c10f3986ecf7cae072547": "this copy has 23 re-encoded test images: "
            "their pixels are decoded from JPEG",
        },
    ),
    Dataset(
        "CIFAR100",
        "cifar",
        _CIFAR100,
        3,
        32,
        {"train": 50_000, "test": 10_000},
        "CIFAR100",
        "none stated; cite Krizhevsky 2009",
        "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, cs.toronto.edu/~kriz/cifar.html",
    ),
    Dataset(
        "TinyImageNet",
        "tiny",
        tuple(f"class {k}" for k in range(200)),
        3,
        64,
        {"train": 100_000, "test": 10_000},
        "ImageNet",
        "ImageNet's terms: non-commercial research and education",
        "Stanford CS231n 2015, cs231n.stanford.edu/tiny-imagenet-200.zip",
        notes=(
            "the test set is the source's validation part: its own test part has no labels",
            "classes in sorted-wnid order",
        ),
    ),
    Dataset(
        "BloodCells",
        "folder",
        _BLOOD,
        3,
        64,
        {"train": 9957, "test": 2487},
        "BloodCells",
        "MIT",
        _BLOOD_SOURCE,
        notes=(_BLOOD_NOTE,),
        frame="320 x 240",
    ),
]

_MEDMNIST = [  # name, channels, train, val, test, licence, classes in label order; equal to medmnist.INFO (a test compares)
    (
        "PathMNIST",
        3,
        89_996,
        10_004,
        7_180,
        "CC BY 4.0",
        (
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
    ),
    ("ChestMNIST", 1, 78_468, 11_219, 22_433, "CC BY 4.0", ("no finding", "any finding")),
    (
        "DermaMNIST",
        3,
        7_007,
        1_003,
        2_005,
        "CC BY-NC 4.0",
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
    ),
    (
        "OCTMNIST",
        1,
        97_477,
        10_832,
        1_000,
        "CC BY 4.0",
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
    ("PneumoniaMNIST", 1, 4_708, 524, 624, "CC BY 4.0", ("normal", "pneumonia")),
    ("RetinaMNIST", 3, 1_080, 120, 400, "CC BY 4.0", ("0", "1", "2", "3", "4")),
    ("BreastMNIST", 1, 546, 78, 156, "CC BY 4.0", ("malignant", "normal, benign")),
    (
        "BloodMNIST",
        3,
        11_959,
        1_712,
        3_421,
        "CC BY 4.0",
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
    ),
    (
        "TissueMNIST",
        1,
        165_466,
        23_640,
        47_280,
        "CC BY 4.0",
        (
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
    ),
    ("OrganAMNIST", 1, 34_561, 6_491, 17_778, "CC BY 4.0", _ORGANS),
    ("OrganCMNIST", 1, 12_975, 2_392, 8_216, "CC BY 4.0", _ORGANS),
    ("OrganSMNIST", 1, 13_932, 2_452, 8_827, "CC BY 4.0", _ORGANS),
]
_MEDMNIST_NOTES = {
    "ChestMNIST": "the source marks 14 findings, any number per image; distillation needs one class per image, so they are joined: "
    "0 no finding, 1 any finding",
    "RetinaMNIST": "the five ordered grades are used as five classes",
}
_PNEUMONIA = {
    "sha256": {
        "val": "bc8415fa32ab195c773fafcad939c9771f8655b7d927375b55b8e3eb707fef01",
        "test": "10f0fd7a2369352b794701fab1db328881a918bedd4d680090ba0d62796a66db",
    },
    "copies": {
        "9e333d3630b5bffce1e88db844ce635b569a57763f2eef0d3e1805b958e6bd75": "this copy has the official training images in another "
        "order: all 1,214 normal first, then all 3,494 pneumonia"
    },
}
for _name, _channels, _train, _val, _test, _licence, _classes in _MEDMNIST:
    _SETS.append(
        Dataset(
            _name,
            "medmnist",
            _classes,
            _channels,
            28,
            {"train": _train, "val": _val, "test": _test},
            "PneumoniaMNIST" if _name == "PneumoniaMNIST" else MEASURED,
            _licence,
            _MEDMNIST_SOURCE,
            notes=(_MEDMNIST_NOTES[_name],) if _name in _MEDMNIST_NOTES else (),
            sizes=(28, 64, 128, 224),
            **(_PNEUMONIA if _name == "PneumoniaMNIST" else {}),
        )
    )


_ORDER = "labels in the order of the papers' tables, which is not that of sorted wnids"


def _imagenet_sets() -> list[Dataset]:
    """Subsets of ImageNet in the label order of GLaD, IDC and Minimax, which is not the sorted order of a folder
    listing."""
    rows: dict[str, list[dict[str, str]]] = {}
    with open(Path(__file__).parent / "imagenet_subsets.csv", newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            rows.setdefault(row["set"], []).append(row)
    a_to_e = [row for s in "ABCDE" for row in rows[f"ImNet-{s}"]]
    ten = a_to_e + [
        row for s in ("ImageNette", "ImageWoof", "ImNet-Birds", "ImNet-Fruits", "ImNet-Cats") for row in rows[s]
    ]
    rows["SLFD-50"] = a_to_e
    rows["SLFD-94"] = [row for i, row in enumerate(ten) if row["wnid"] not in {r["wnid"] for r in ten[:i]}]
    rows["SLFD-100"] = ten
    twins = (
        "the ten subsets of GLaD and SLFD share six classes (ostrich, toucan, black swan, king penguin, Samoyed, lion)"
    )
    notes = {
        "SLFD-50": ("classes of ImNet-A to ImNet-E, all distinct",),
        "SLFD-94": (f"{twins}: each is kept once, 94 classes",),
        "SLFD-100": (
            f"{twins}: each stands under two labels, so no network can be right on more than 94 % of the test images",
        ),
        "ImageNet-100": ("IDC's list of 100 classes; other lists of this name differ",),
    }
    fastai = {"ImageNette", "ImageWoof"}
    return [
        Dataset(
            name,
            "imagenet",
            tuple(r["name"] for r in members),
            3,
            128,
            {"train": 0, "test": 50 * len(members)},
            "ImageNet",
            "ImageNet's terms: non-commercial research and education",
            "ILSVRC-2012, Deng et al. 2009, Russakovsky et al. 2015"
            + ("; or fastai's imagenette2, imagewoof2" if name in fastai else ""),
            notes=(_ORDER,) * ([r["wnid"] for r in members] != sorted(r["wnid"] for r in members))
            + notes.get(name, ()),
            wnids=tuple(r["wnid"] for r in members),
            imagenet_indices=tuple(int(r["index"]) for r in members),
            frame="of many sizes",
            union=name.startswith("SLFD"),
        )
        for name, members in rows.items()
    ]


def sized(name: str) -> tuple[str, int | None, str | None]:
    """A set's name, and the resolution and the resize rule said with it.

    >>> sized("ImageNette@64px"), sized("PathMNIST@64px-bicubic"), sized("CIFAR10")
    (('ImageNette', 64, None), ('PathMNIST', 64, 'bicubic'), ('CIFAR10', None, None))
    """
    found = re.fullmatch(r"(.+)@(\d+)px(?:-(\w+))?", name)
    return (found[1], int(found[2]), found[3]) if found and found[1] in DATASETS else (name, None, None)


def like(name: str) -> Dataset:
    """The set whose published settings hold for a set of this name: of a cut the full one, whatever the resolution.

    For a name without an entry, such as the user's own folder: a set without facts and of no family.

    >>> like("FashionMNIST-mini").name, like("ImageNette@64px").is_imagenet_subset, like("my own").name
    ('FashionMNIST', True, 'my own')
    """
    base = sized(name)[0]
    found = DATASETS.get(base) or Dataset(base, "", (), 0, 0, {}, MEASURED, "not stated", "")
    return DATASETS[found.follows] if found.follows else found


DATASETS: dict[str, Dataset] = {d.name: d for d in [*_SETS, *_imagenet_sets()]}

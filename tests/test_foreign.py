"""Sets that other code wrote: every common form is read, nothing is guessed or executed, and what was assumed is
stated."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from distill_lib import data
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.data import Facts, ImageSet
from distill_lib.data.distilled import read
from distill_lib.evaluation.files import evaluate_file, rows

K, IPC = 3, 2
SHAPE = (3, 8, 8)
LIKE = ImageSet(
    torch.zeros(K, *SHAPE, dtype=torch.uint8),
    torch.arange(K),
    Facts("toy", ("cat", "dog", "owl"), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
)
PIXELS = torch.rand(K * IPC, *SHAPE, generator=stream(0, "pixels"))
LABELS = torch.arange(K).repeat_interleave(IPC)
NORMALISED = (PIXELS - torch.tensor(LIKE.facts.mean).view(-1, 1, 1)) / torch.tensor(LIKE.facts.std).view(-1, 1, 1)


def vico(images, labels):
    return {"data": [[images, labels], [images + 1, labels]], "accs_all_exps": {"ConvNet": [np.float64(48.9), 1]}}


@pytest.mark.parametrize(
    "content",
    [
        lambda x, y: {"images": x, "labels": y},
        lambda x, y: {"image_syn": x, "label_syn": y, "lr": 0.01},
        lambda x, y: [x, y],
        lambda x, y: (x, y),
        lambda x, y: {"x": x.permute(0, 2, 3, 1), "y": y.int()},
        lambda x, y: {"images": x.unflatten(0, (K, IPC)), "labels": y.view(K, IPC)},
        lambda x, y: {"images": x, "labels": y.float()[:, None]},
        lambda x, y: x,
        lambda x, y: {"images": x},
        vico,
    ],
)
def test_pt_files_of_every_common_form(content, tmp_path):
    torch.save(content(NORMALISED, LABELS), tmp_path / "set.pt")
    read_back = read(tmp_path / "set.pt", LIKE, "normalised")
    assert torch.equal(read_back.images, NORMALISED) and torch.equal(read_back.labels, LABELS)
    assert read_back.facts.mean == LIKE.facts.mean and read_back.facts.split == "synthetic"


def test_pixels_are_normalised_as_the_test_set_and_bytes_stay_bytes(tmp_path):
    np.savez(tmp_path / "set.npz", images=PIXELS.numpy(), labels=LABELS.numpy())
    assert torch.allclose(read(tmp_path / "set.npz", LIKE, "pixels").images, NORMALISED, atol=1e-6)
    as_bytes = (PIXELS * 255).round().to(torch.uint8)
    np.savez(tmp_path / "bytes.npz", x_train=as_bytes.permute(0, 2, 3, 1).numpy(), y_train=LABELS.numpy())
    got = read(tmp_path / "bytes.npz", LIKE)
    assert torch.equal(got.images, as_bytes)
    assert torch.allclose(got.all()[0], NORMALISED, atol=0.02)


def test_labels_beside_the_images_and_none_at_all(tmp_path):
    turned = LABELS.flip(0)
    torch.save(NORMALISED, tmp_path / "images_best.pt")
    torch.save(turned, tmp_path / "labels_best.pt")
    got = read(tmp_path / "images_best.pt", LIKE, "normalised")
    assert torch.equal(got.labels, turned) and "labels from labels_best.pt" in got.facts.notes
    os.remove(tmp_path / "labels_best.pt")
    got = read(tmp_path / "images_best.pt", LIKE, "normalised")
    assert torch.equal(got.labels, LABELS) and any("class after class" in n for n in got.facts.notes)


def test_soft_labels_stay_soft(tmp_path):
    soft = torch.rand(K * IPC, K).softmax(1)
    torch.save([NORMALISED, soft], tmp_path / "set.pt")
    assert torch.equal(read(tmp_path / "set.pt", LIKE, "normalised").labels, soft)


def test_our_own_file_needs_no_words(tmp_path):
    own = ImageSet(NORMALISED, LABELS, LIKE.synthetic_facts(method="DM"))
    own.save(tmp_path / "own.safetensors")
    got = read(tmp_path / "own.safetensors", LIKE)
    assert torch.equal(got.images, NORMALISED) and got.facts.extra == {"method": "DM"}
    from safetensors.torch import save_file

    save_file({"images": NORMALISED, "labels": LABELS}, tmp_path / "other.safetensors")
    assert torch.equal(read(tmp_path / "other.safetensors", LIKE, "normalised").images, NORMALISED)


def test_a_folder_per_class_by_name_or_number(tmp_path):
    pixels = (PIXELS * 255).round().to(torch.uint8)
    for root, names in ((tmp_path / "named", LIKE.facts.class_names), (tmp_path / "numbered", ("0", "1", "2"))):
        for i, image in enumerate(pixels):
            (root / names[LABELS[i]]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / names[LABELS[i]] / f"{i}.png")
        got = read(root, LIKE)
        assert torch.equal(got.images, pixels) and torch.equal(got.labels, LABELS) and not got.facts.notes
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "named" / "owl" / "large.png")
    got = read(tmp_path / "named", LIKE)
    assert len(got) == K * IPC + 1 and "resized from 24x16" in got.facts.notes[0]


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"images": NORMALISED, "extra": Evil()}, "evil.pt")
    np.savez("evil.npz", images=np.array([Evil()], dtype=object))
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pt", "evil.npz", "evil.pth"):
        with pytest.raises(UserError, match="plain"):
            read(name, LIKE, "normalised")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content, values, says",
    [
        ([NORMALISED, LABELS], None, "say --pixels"),
        ([NORMALISED, LABELS], "pixels", "are no pixels"),
        ([PIXELS * 255, LABELS], "pixels", "divide by 255"),
        ([PIXELS * torch.inf, LABELS], "pixels", "NaN or infinite"),
        ([PIXELS, LABELS], "raw", "normalised or pixels"),
        ([(PIXELS * 255).byte(), LABELS], "normalised", "8-bit"),
        ([(PIXELS * 255).int(), LABELS], "pixels", "expected uint8 pixels or floats"),
        ([PIXELS, LABELS + 1], "pixels", "classes 0..2"),
        ([PIXELS, LABELS[:-1]], "pixels", "expected"),
        ([PIXELS, torch.rand(6, 4)], "pixels", "soft labels"),
        ([PIXELS[:, :, :4], LABELS], "pixels", r"\(N, 3, 8, 8\)"),
        ([PIXELS[:, :1], LABELS], "pixels", r"\(N, 3, 8, 8\)"),
        (PIXELS[:5], "pixels", "cannot be the same number"),
        ({"weights": PIXELS}, "pixels", "has weights; expected images under"),
        ("text", "pixels", "holds a str"),
        ([PIXELS] * 3, "pixels", "holds a list"),
    ],
)
def test_a_file_that_does_not_fit_says_what_would(content, values, says, tmp_path):
    torch.save(content, tmp_path / "set.pt")
    with pytest.raises(UserError, match=says):
        read(tmp_path / "set.pt", LIKE, values)


def test_paths_that_cannot_be_sets(tmp_path):
    (tmp_path / "set.txt").write_text("hello")
    (tmp_path / "set.pt").write_bytes(b"not a zip")
    (tmp_path / "set.safetensors").write_bytes(b"not a header")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cat").mkdir()
    for name, says in (
        ("none.pt", "no such file"),
        ("set.txt", "cannot read .txt"),
        ("set.pt", "cannot be read as plain tensors"),
        ("set.safetensors", "not a readable safetensors"),
        ("empty", "no folder for 2 of 3 classes"),
    ):
        with pytest.raises(UserError, match=says):
            read(tmp_path / name, LIKE)
    with pytest.raises(UserError, match="hold pixels"):
        read(tmp_path / "empty", LIKE, "normalised")
    ImageSet(NORMALISED[:, :1], LABELS, Facts("grey", LIKE.facts.class_names, (0.5,), (0.5,))).save(
        tmp_path / "grey.safetensors"
    )
    with pytest.raises(UserError, match="shape"):
        read(tmp_path / "grey.safetensors", LIKE)


def test_a_file_is_judged_beside_its_baseline_and_its_assumptions_travel(tmp_path):
    real, _ = data.load("digits")
    images = real.draw_classes(2, stream(3)).flatten(0, 1)
    torch.save(images, tmp_path / "images.pt")
    results = evaluate_file(
        tmp_path / "images.pt",
        "digits",
        "vico_dsa@2ep",
        ["MLP", "ConvNetD2W16"],
        num_eval=2,
        values="normalised",
        baseline=True,
    )
    assert [r.network for r in results] == ["MLP", "ConvNetD2W16"] * 2
    assert any("class after class" in n for n in results[0].notes) and any(
        "normalised values" in n for n in results[0].notes
    )
    table = rows(results)
    assert [r["set"] for r in table] == ["file", "file", "random real images", "random real images"]
    assert all(r["networks"] == 2 and r["protocol"] == "vico_dsa@2ep" for r in table)
    json.dumps([r.as_dict() for r in results]), json.dumps(table)


def test_protocols_side_by_side_and_the_full_data_ceiling(tmp_path):
    real, _ = data.load("digits")
    soft = torch.full((20, 10), 0.02).scatter_(1, torch.arange(10).repeat_interleave(2)[:, None], 0.82)
    torch.save({"images": real.draw_classes(2, stream(3)).flatten(0, 1), "labels": soft}, tmp_path / "set.pt")
    judges = ["vico_dsa+hard@2ep", "vico_dsa+soft@2ep"]
    results = evaluate_file(
        tmp_path / "set.pt", "digits", judges, ["MLP"], num_eval=1, values="normalised", ceiling_epochs=1
    )
    table = rows(results)
    assert [(r["set"], r["protocol"]) for r in table] == [
        ("file", "vico_dsa+hard@2ep"),
        ("file", "vico_dsa+soft@2ep"),
        ("all real images", "vico_dsa+hard@1ep"),
        ("all real images", "vico_dsa+soft@1ep"),
    ]
    assert results[0].metrics["train_loss"] != results[1].metrics["train_loss"]
    assert results[2].images_seen >= len(real) and table[2]["epochs"] <= 2
    with pytest.raises(UserError, match="ceiling_epochs 0"):
        evaluate_file(tmp_path / "set.pt", "digits", judges, ["MLP"], values="normalised", ceiling_epochs=0)
    with pytest.raises(UserError, match="protocol"):
        evaluate_file(tmp_path / "set.pt", "digits", [], ["MLP"], values="normalised")

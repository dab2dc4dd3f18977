"""Sets that other code wrote: every common form is read, nothing is guessed or executed, and what was assumed is
stated."""

import dataclasses
import json
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from distill_lib import data
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import Facts, ImageSet, arrays, catalogue
from distill_lib.data.distilled import read
from distill_lib.evaluation import evaluate, files
from distill_lib.evaluation.files import evaluate_file, rows
from distill_lib.generators import cgan
from distill_lib.generators.generated import GeneratedSet
from distill_lib.methods import METHODS, idc

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
        # labels under any name
        *(
            lambda x, y, name=name: {"images": x, name: y}
            for name in ("soft_labels", "target", "y_syn", "targets", "class_ids", "syn_label", "hard", "z")
        ),
        lambda x, y: {"syn": {"x": x, "y": y}, "lr": 0.01, "step": torch.tensor(3)},
        lambda x, y: {"images": x, "labels": {"hard": y}},
        lambda x, y: {"images": x, "labels": y.tolist()},
        lambda x, y: {"images": x, "labels": [LIKE.facts.class_names[k].upper() for k in y]},
        lambda x, y: {"images": x, "labels": F.one_hot(y, K)},
        lambda x, y: {"images": x, "labels": y.to(torch.uint16)},
        lambda x, y: {"synthetic": x, "labels": y},
        lambda x, y: [[x, y], [x + 1, y]],
        lambda x, y: [y, x],
        # a tensor for every class
        lambda x, y: list(x.split(IPC)),
        lambda x, y: dict(enumerate(x.split(IPC))),
        lambda x, y: dict(zip(LIKE.facts.class_names, x.split(IPC))),
        lambda x, y: {"images": x.unflatten(0, (K, IPC))},
        lambda x, y: nn.Parameter(x),
    ],
)
def test_pt_files_of_every_common_form(content, tmp_path):
    torch.save(content(NORMALISED, LABELS), tmp_path / "set.pt")
    read_back = read(tmp_path / "set.pt", LIKE, "normalised")
    hard = read_back.hard_labels if read_back.labels.ndim == 2 else read_back.labels
    assert torch.equal(read_back.images, NORMALISED) and torch.equal(hard, LABELS)
    assert read_back.facts.mean == LIKE.facts.mean and read_back.facts.split == "synthetic"


def test_pixels_are_normalised_as_the_test_set_and_bytes_stay_bytes(tmp_path):
    np.savez(tmp_path / "set.npz", images=PIXELS.numpy(), labels=LABELS.numpy())
    assert torch.allclose(read(tmp_path / "set.npz", LIKE, "pixels").images, NORMALISED, atol=1e-6)
    as_bytes = (PIXELS * 255).round().to(torch.uint8)
    np.savez(tmp_path / "bytes.npz", x_train=as_bytes.permute(0, 2, 3, 1).numpy(), y_train=LABELS.numpy())
    got = read(tmp_path / "bytes.npz", LIKE)
    assert torch.equal(got.images, as_bytes)
    assert torch.allclose(got.all()[0], NORMALISED, atol=0.02)


def test_soft_labels_stay_soft(tmp_path):
    soft = torch.rand(K * IPC, K).softmax(1)
    torch.save([NORMALISED, soft], tmp_path / "set.pt")
    assert torch.equal(read(tmp_path / "set.pt", LIKE, "normalised").labels, soft)


def test_our_own_file_needs_no_words(tmp_path):
    own = ImageSet(NORMALISED, LABELS, LIKE.synthetic_facts(method="DM"))
    own.save(tmp_path / "own.safetensors")
    got = read(tmp_path / "own.safetensors", LIKE)
    assert torch.equal(got.images, NORMALISED) and got.facts.extra == {"method": "DM"}
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
        ([NORMALISED, LABELS], None, "may be --normalised: say which"),
        ([PIXELS, LABELS], None, r"may be --pixels \(in \[0, 1\]\): say which"),
        ([NORMALISED, LABELS], "pixels", "are no pixels"),
        ([PIXELS * 255, LABELS], "pixels", r"may be --bytes \(0 to 255\)"),
        ([PIXELS * 2 - 1, LABELS], "pixels", r"may be --signed \(in \[-1, 1\]\) or --normalised"),
        ([PIXELS, LABELS], "normalised", "are no normalised; they may be --pixels"),
        ([PIXELS * 255, LABELS], "normalised", "are no normalised; they may be --bytes"),
        ([PIXELS, LABELS], "signed", "are no signed"),
        ([PIXELS, LABELS], "bytes", "are no bytes"),
        ([PIXELS * 1000 - 500, LABELS], None, "may be none of"),
        ([PIXELS, LABELS], "raw", "unknown values 'raw'.*normalised, pixels, signed, bytes"),
        ([(PIXELS * 255).byte(), LABELS], "normalised", "8-bit"),
        ([(PIXELS > 0.5).byte(), LABELS], None, "from 0 to 1; say --bytes"),
        ({"images": PIXELS, "indices": LABELS + 700}, "pixels", "indices 700..702, but toy has classes"),
        (torch.rand(3, 3, *SHAPE), "pixels", "say --order classes or --order rounds"),
        ({}, "pixels", "holds a dict"),
    ],
)
def test_a_file_that_does_not_fit_says_what_would(content, values, says, tmp_path):
    torch.save(content, tmp_path / "set.pt")
    with pytest.raises(UserError, match=says) as error:
        read(tmp_path / "set.pt", LIKE, values)
    assert "\n" not in str(error.value) and ("set.pt" in str(error.value) or values == "raw")


@pytest.mark.parametrize("values", ["pixels", "signed", "bytes", "normalised"])
def test_every_scale_can_be_said(values, tmp_path):
    stored = {"pixels": PIXELS, "signed": PIXELS * 2 - 1, "bytes": PIXELS * 255, "normalised": NORMALISED}[values]
    torch.save([stored.double(), LABELS], tmp_path / "set.pt")
    got = read(tmp_path / "set.pt", LIKE, values)
    assert torch.allclose(got.images, NORMALISED, atol=1e-5) and values in got.facts.notes[0]


def test_whole_numbers_of_any_type_are_bytes(tmp_path):
    as_bytes = (PIXELS * 255).round().to(torch.uint8)
    np.savez(tmp_path / "set.npz", images=as_bytes.numpy().astype(">i4"), labels=LABELS.numpy())
    assert torch.equal(read(tmp_path / "set.npz", LIKE).images, as_bytes)
    np.save(tmp_path / "alone.npy", as_bytes.numpy())
    np.save(tmp_path / "alone_labels.npy", LABELS.flip(0).numpy())
    got = read(tmp_path / "alone.npy", LIKE)
    assert torch.equal(got.images, as_bytes) and torch.equal(got.labels, LABELS.flip(0))


def test_class_after_class_or_in_rounds(tmp_path):
    torch.save(NORMALISED, tmp_path / "set.pt")
    for order, labels in (("classes", [0, 0, 1, 1, 2, 2]), ("rounds", [0, 1, 2] * 2)):
        assert read(tmp_path / "set.pt", LIKE, "normalised", order=order).labels.tolist() == labels
    torch.save(NORMALISED.unflatten(0, (IPC, K)), tmp_path / "set.pt")  # (ipc, K, C, H, W) tells by itself
    got = read(tmp_path / "set.pt", LIKE, "normalised")
    assert got.labels.tolist() == [0, 1, 2] * 2 and torch.equal(got.images, NORMALISED)
    assert any("in rounds" in n for n in got.facts.notes)
    with pytest.raises(UserError, match="unknown order"):
        read(tmp_path / "set.pt", LIKE, "normalised", order="mixed")


def test_idc_s_parts_are_cut_and_enlarged(tmp_path):
    torch.save([PIXELS, LABELS], tmp_path / "data_best.pt")
    got = read(tmp_path / "data_best.pt", LIKE, "pixels", factor=2)
    assert len(got) == 4 * K * IPC and got.labels.tolist() == LABELS.tolist() * 4
    stored = PIXELS.view(K, IPC, *SHAPE)
    same = idc.decode(stored, 2).unflatten(1, (4, IPC)).transpose(0, 1).flatten(0, 2)
    assert torch.allclose(got.images, LIKE.facts.normalise(same), atol=1e-5)
    with pytest.raises(UserError, match="factor 0: at least 1"):
        read(tmp_path / "data_best.pt", LIKE, "pixels", factor=0)


@pytest.mark.parametrize(
    "images, labels, content",
    [
        ("images_best.pt", "labels_best.pt", lambda y: y),
        ("image_best.pt", "label_best.pt", lambda y: y),
        ("x_syn.pt", "y_syn.pt", lambda y: y),
        ("data.pt", "labels.pt", lambda y: y),
        ("images_best.pt", "labels_best.pt", lambda y: {"labels": y}),
        ("images_best.pt", "labels_best.pt", lambda y: {"whatever": y}),
        ("images_best.pt", "soft_labels_best.pt", lambda y: F.one_hot(y, K).float()),
        ("images_best.pt", "targets_best.npy", lambda y: y),
    ],
)
def test_labels_in_a_file_beside(images, labels, content, tmp_path):
    turned = LABELS.flip(0)
    torch.save(NORMALISED, tmp_path / images)
    torch.save(LABELS, tmp_path / "other_run_labels.pt")  # another set's: its name has words of its own
    if labels.endswith(".npy"):
        np.save(tmp_path / labels, content(turned).numpy())
    else:
        torch.save(content(turned), tmp_path / labels)
    got = read(tmp_path / images, LIKE, "normalised")
    assert torch.equal(got.hard_labels, turned) and f"labels from {labels}" in got.facts.notes


def test_labels_beside_that_cannot_be_used_are_named(tmp_path):
    torch.save(NORMALISED, tmp_path / "images_best.pt")
    for name, content, says in (
        ("labels_best.pt", LABELS[:5], r"labels_best\.pt: beside 6 images it has labels \(5,\)"),
        ("labels_best.pt", {"a": LABELS, "b": LABELS}, "it has a .*, b "),
        ("labels_best.pt", "nothing", "holds no labels"),
        ("labels_best.csv", None, "labels_best.csv: cannot read .csv"),
    ):
        if content is None:
            (tmp_path / name).write_text("0\n1\n")
        else:
            torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=says):
            read(tmp_path / "images_best.pt", LIKE, "normalised")
        os.remove(tmp_path / name)
    for name in ("labels_best.pt", "targets_best.pt"):
        torch.save(LABELS, tmp_path / name)
    with pytest.raises(UserError, match="several files beside it may hold its labels: labels_best.pt, targets_best.pt"):
        read(tmp_path / "images_best.pt", LIKE, "normalised")


def test_a_part_of_a_set_is_said_to_be_one(tmp_path):
    torch.save([NORMALISED[:4], LABELS[:4]], tmp_path / "set.pt")
    got = read(tmp_path / "set.pt", LIKE, "normalised")
    assert "no images of 1 of 3 classes: owl" in got.facts.notes and got.labels.tolist() == [0, 0, 1, 1]
    save_file({"images": NORMALISED, "labels": LABELS}, tmp_path / "set-00001-of-00005.safetensors")
    with pytest.raises(UserError, match="part 1 of 5 by its name; join the parts"):
        read(tmp_path / "set-00001-of-00005.safetensors", LIKE, "normalised")


def test_numbers_of_imagenet_classes_count_in_one_of_two_orders(tmp_path):
    known = catalogue.DATASETS["ImageWoof"]
    like = ImageSet(
        torch.zeros(10, 3, 8, 8, dtype=torch.uint8),
        torch.arange(10),
        dataclasses.replace(LIKE.facts, name="ImageWoof", class_names=known.class_names),
    )
    by_sorted = torch.tensor([known.wnids.index(w) for w in sorted(known.wnids)])
    assert by_sorted.tolist() != list(range(10))
    images = torch.randint(0, 255, (10, 3, 8, 8), dtype=torch.uint8)
    torch.save([images, torch.arange(10)], tmp_path / "hard.pt")
    torch.save([images, torch.eye(10)], tmp_path / "soft.pt")
    for i, image in enumerate(images):
        (tmp_path / "folder" / f"{i}").mkdir(parents=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "folder" / f"{i}" / "0.png")
    for name in ("hard.pt", "soft.pt", "folder"):
        paper = read(tmp_path / name, like)
        assert paper.hard_labels.tolist() == list(range(10)) and any("--numbers sorted" in n for n in paper.facts.notes)
        got = read(tmp_path / name, like, numbers="sorted")
        at = {tuple(x.flatten().tolist()): int(y) for x, y in zip(got.images, got.hard_labels)}
        assert [at[tuple(x.flatten().tolist())] for x in images] == by_sorted.tolist()
        assert not any("--numbers" in n for n in got.facts.notes)


# --- folders ---------------------------------------------------------------------------------------------------------
def folder(root, names, mode="RGB", size=8):
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        image = Image.fromarray(np.full((size, size, 3), i, np.uint8))
        image = Image.fromarray(np.full((size, size), i, np.uint16)) if mode == "I;16" else image.convert(mode)
        if mode == "RGBA":
            image.putalpha(100)
        image.save(root / name / "class000_id000.png")
    return root


@pytest.mark.parametrize(
    "names, note",
    [
        (["new000", "new001", "new002"], ""),
        (["class0", "class1", "class2"], ""),
        (["class_000", "class_001", "class_002"], ""),
        (["c0", "c1", "c2"], ""),
        (["0", "1", "2"], ""),
        (["00", "01", "02"], ""),
        (["label1", "label2", "label3"], "count from 1: label1 is class 0, cat"),
        (["Cat", "DOG", "owl"], ""),
    ],
)
def test_folders_are_named_after_classes_or_their_numbers(names, note, tmp_path):
    got = read(folder(tmp_path / "set", names), LIKE)
    assert got.labels.tolist() == [0, 1, 2] and got.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert note in "".join(got.facts.notes) and bool(got.facts.notes) == bool(note)


def test_a_folder_around_a_file_names_it(tmp_path):
    torch.save([PIXELS, LABELS], tmp_path / "data_best.pt")
    with pytest.raises(UserError, match="or give the file data_best.pt in it"):
        read(tmp_path, LIKE)


# --- what is not the file it should be -------------------------------------------------------------------------------
def test_more_than_the_free_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "set.npz", images=PIXELS.numpy(), labels=LABELS.numpy())
    torch.save([PIXELS, LABELS], tmp_path / "set.pt")
    monkeypatch.setattr(arrays.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    for name in ("set.npz", "set.pt"):
        with pytest.raises(UserError, match="1,000 bytes of memory are free"):
            read(tmp_path / name, LIKE, "pixels")


def test_paths_that_cannot_be_sets(tmp_path):
    (tmp_path / "set.txt").write_text("hello")
    (tmp_path / "set.pt").write_bytes(b"not a zip")
    (tmp_path / "set.safetensors").write_bytes(b"not a header")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cat").mkdir()
    for name, says in (
        ("none.pt", "no such file"),
        ("set.txt", "cannot read .txt; a distilled set is"),
        ("set.pt", "cannot be read as plain tensors"),
        ("set.safetensors", "not a readable safetensors"),
        ("empty", "no folder for 2 of 3 classes"),
    ):
        with pytest.raises(UserError, match=says):
            read(tmp_path / name, LIKE)
    with pytest.raises(UserError, match="hold pixels, not normalised"):
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
        "taken as normalised" in n for n in results[0].notes
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
    with pytest.raises(UserError, match="unknown network"):
        evaluate_file(tmp_path / "set.pt", "digits", judges, [], values="normalised")


FROM_REAL = ["Random", "Herding", "K-Center", "Forgetting", "DC", "DSA", "DM", "CAFE", "KIP", "FRePo"]


@pytest.mark.parametrize("name", [*FROM_REAL, "baseline"])
def test_a_class_with_fewer_images_than_ipc_is_refused_by_whoever_starts_from_real_images(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    whole, _ = data.load("digits")
    few = [i[: 4 if k == 3 else 12] for k, i in enumerate(whole.class_index)]
    real, says = whole.subset(torch.cat(few)), "ipc 10: digits has only 4 images of class '3' to choose from"
    if name == "baseline":
        torch.save(
            [real.draw_classes(10, stream(3)).flatten(0, 1), torch.arange(10).repeat_interleave(10)], tmp_path / "s.pt"
        )
        monkeypatch.setattr(data, "load", lambda *args, **options: (real, real))
        with pytest.raises(UserError, match=says):
            evaluate_file(tmp_path / "s.pt", "digits", "vico_dsa@1ep", ["MLP"], values="normalised", baseline=True)
        return
    config = METHODS[name].paper_config("digits", 10).smoke()
    if name in ("DC", "CAFE"):  # which start from noise by default
        config = replace(config, init="real")
    with pytest.raises(UserError, match=says):
        METHODS[name].distill(real, config, seed=0)


def test_small_whole_numbers_are_asked_about(tmp_path):
    torch.save({"images": (PIXELS > 0.5).long(), "labels": LABELS}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="from 0 to 1; say --bytes, or save floats and say --pixels"):
        read(tmp_path / "a.pt", LIKE)
    assert read(tmp_path / "a.pt", LIKE, values="bytes").images.dtype == torch.uint8


def test_our_own_file_takes_no_reading_of_others(tmp_path):
    ImageSet(NORMALISED, LABELS, LIKE.synthetic_facts()).save(tmp_path / "own.safetensors")
    with pytest.raises(UserError, match="leave values and order out"):
        read(tmp_path / "own.safetensors", LIKE, values="bytes", order="rounds")


def test_a_generator_s_file_is_read(tmp_path):
    real = data.load("digits")[0]
    gan = cgan.redraw(cgan.Generator(cgan.Architecture(real.shape, 10, width=8)), stream(0))
    made = GeneratedSet.made("CGAN", real, gan, 1, seed=0)
    assert torch.equal(read(made.save(tmp_path / "gan.safetensors"), real).images, made.images)


def test_the_baseline_is_in_the_units_of_the_set_and_says_what_the_data_are(tmp_path, monkeypatch):
    real, test = data.load("digits")
    noted = [dataclasses.replace(s.facts, notes=("a note of the data",)) for s in (real, test)]
    sets = [ImageSet(s.images, s.labels, facts) for s, facts in zip((real, test), noted)]
    monkeypatch.setattr(data, "load", lambda *_, **__: sets)
    seen = []
    monkeypatch.setattr(files, "evaluate", lambda s, *a, **k: seen.append((s, k["real"])) or judged(s, *a, **k))
    judged, whitening = evaluate, data.Whitening.fit(real)
    white = real.subset(torch.arange(20)).under(whitening)
    path = ImageSet(white.all()[0], white.labels, real.synthetic_facts(), whitening).save(tmp_path / "w.safetensors")
    found = evaluate_file(path, "digits", "vico_dsa@1ep", ["MLP"], 1, baseline=True, ceiling_epochs=1)
    assert all(s.whitening is not None and s.whitening.equals(whitening) for s, _ in seen)
    assert all("a note of the data" in result.notes for result in found)
    assert len(seen[1][0]) + len(seen[1][1]) == len(real)  # what chooses a learning rate is not trained on

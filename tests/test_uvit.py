"""U-ViT: the public checkpoints' weights to the name, a plain network beside it, training, weights for other classes,
and generation."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from steps import in_steps
from torch.nn import functional as F

from distill_lib.core.errors import TimeUp, UserError
from distill_lib.core.loop import Diverged, Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import ImageSet
from distill_lib.experiments import uvit_commands
from distill_lib.generators import uvit
from distill_lib.generators.transformer import sinusoids
from distill_lib.generators.uvit import ARCHITECTURES, UViT, UViTArchitecture, UViTTraining, sample, training
from distill_lib.methods import uvit as method

pytestmark = pytest.mark.usefixtures("runs")
OF = UViTArchitecture(image_size=8, channels=1, patch=2, width=16, depth=4, heads=2, num_classes=10)
TINY = replace(UViTTraining().smoke(), steps=6, batch=16, warm_up=2, looks=3)


@pytest.fixture
def model():
    return lively(UViT(OF, stream(0, "weights"))).eval()


def lively(model, scale=4.0):
    """Larger weights, so that attention and skips matter in comparisons."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(scale)
    return model


def inputs(of, n=3):
    rng = stream(0, "inputs")
    return (
        torch.randn(n, *of.shape, generator=rng),
        999 * torch.rand(n, generator=rng),
        torch.arange(n) % max(of.num_classes, 1),
    )


# --- network ---
def shapes(of):
    return UViT(of, device="meta").state_dict()


def test_names_and_shapes_are_those_of_the_public_small_checkpoint():
    state = {k: tuple(v.shape) for k, v in shapes(ARCHITECTURES["Small"]).items()}
    block = {
        "norm1.weight": (512,),
        "norm1.bias": (512,),
        "attn.qkv.weight": (1536, 512),
        "attn.proj.weight": (512, 512),
        "attn.proj.bias": (512,),
        "norm2.weight": (512,),
        "norm2.bias": (512,),
        "mlp.fc1.weight": (2048, 512),
        "mlp.fc1.bias": (2048,),
        "mlp.fc2.weight": (512, 2048),
        "mlp.fc2.bias": (512,),
    }
    expected = {
        "pos_embed": (1, 257, 512),
        "patch_embed.proj.weight": (512, 3, 2, 2),
        "patch_embed.proj.bias": (512,),
        "norm.weight": (512,),
        "norm.bias": (512,),
        "decoder_pred.weight": (12, 512),
        "decoder_pred.bias": (12,),
        "final_layer.weight": (3, 3, 3, 3),
        "final_layer.bias": (3,),
    }
    for i in range(6):
        expected |= {f"in_blocks.{i}.{k}": v for k, v in block.items()} | {
            f"out_blocks.{i}.{k}": v for k, v in block.items()
        }
        expected |= {f"out_blocks.{i}.skip_linear.weight": (512, 1024), f"out_blocks.{i}.skip_linear.bias": (512,)}
    expected |= {f"mid_block.{k}": v for k, v in block.items()}
    assert state == expected
    assert shapes(ARCHITECTURES["Mid"])["label_emb.weight"].shape == (1000, 768)


def plain(model, x, t999, y):
    """The network again, one image and one head at a time."""
    of, w, out = model.arch, model.state_dict(), []
    for image, t, label in zip(x, t999, y, strict=True):
        half, side = of.width // 2, of.image_size // of.patch
        angles = t * torch.tensor([10_000 ** (-i / half) for i in range(half)])
        tokens = [torch.cat([angles.cos(), angles.sin()])]
        if of.num_classes:
            tokens.insert(0, w["label_emb.weight"][label])
        for r in range(side):
            for c in range(side):
                patch = image[:, r * of.patch : (r + 1) * of.patch, c * of.patch : (c + 1) * of.patch]
                tokens.append((w["patch_embed.proj.weight"] * patch).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
        h = torch.stack(tokens) + w["pos_embed"][0]

        def block(h, name):
            z = F.layer_norm(h, (of.width,), w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"], 1e-5)
            q, k, v = (z @ w[f"{name}.attn.qkv.weight"].T).chunk(3, 1)
            size, heads = of.width // of.heads, []
            for i in range(of.heads):
                own = slice(i * size, (i + 1) * size)
                heads.append((q[:, own] @ k[:, own].T / size**0.5).softmax(1) @ v[:, own])
            h = h + torch.cat(heads, 1) @ w[f"{name}.attn.proj.weight"].T + w[f"{name}.attn.proj.bias"]
            z = F.layer_norm(h, (of.width,), w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"], 1e-5)
            z = F.gelu(z @ w[f"{name}.mlp.fc1.weight"].T + w[f"{name}.mlp.fc1.bias"])
            return h + z @ w[f"{name}.mlp.fc2.weight"].T + w[f"{name}.mlp.fc2.bias"]

        skips = []
        for i in range(of.depth // 2):
            h = block(h, f"in_blocks.{i}")
            skips.append(h)
        h = block(h, "mid_block")
        for i in range(of.depth // 2):
            joined = torch.cat([h, skips[of.depth // 2 - 1 - i]], 1)
            h = block(
                joined @ w[f"out_blocks.{i}.skip_linear.weight"].T + w[f"out_blocks.{i}.skip_linear.bias"],
                f"out_blocks.{i}",
            )
        h = (
            F.layer_norm(h, (of.width,), w["norm.weight"], w["norm.bias"], 1e-5) @ w["decoder_pred.weight"].T
            + w["decoder_pred.bias"]
        )
        picture = torch.zeros(of.shape)
        for i, row in enumerate(h[of.extras :]):
            r, c = divmod(i, side)
            picture[:, r * of.patch : (r + 1) * of.patch, c * of.patch : (c + 1) * of.patch] = row.view(
                of.patch, of.patch, of.channels
            ).permute(2, 0, 1)
        out.append(F.conv2d(picture[None], w["final_layer.weight"], w["final_layer.bias"], padding=1)[0])
    return torch.stack(out)


@pytest.mark.parametrize("changes", [{}, {"num_classes": 0}, {"channels": 3, "patch": 4}])
def test_the_network_equals_one_written_plainly(changes):
    of = replace(OF, **changes)
    model = lively(UViT(of, stream(0, "weights"))).eval()
    x, t, y = inputs(of)
    with torch.no_grad():
        assert torch.allclose(model(x, t, y if of.num_classes else None), plain(model, x, t, y), atol=2e-5)


def test_labels_and_times_matter_and_images_do_not_see_each_other(model):
    x, t, y = inputs(OF)
    with torch.no_grad():
        out = model(x, t, y)
        assert out.shape == x.shape
        order = torch.tensor([2, 0, 1])
        assert torch.allclose(model(x[order], t[order], y[order]), out[order], atol=1e-5)
        assert not torch.allclose(model(x, t, y.flip(0))[0], out[0], atol=1e-4)
        assert not torch.allclose(model(x, t + 0.5, y), out, atol=1e-4)  # times are not rounded


def test_checkpointing_and_half_precision_change_rounding_only(model):
    x, t, y = inputs(OF)
    model.train()
    gradients = []
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        model.zero_grad()
        uvit.noise_loss(model, x, t / 999, x.flip(0), y).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(x, t, y).float()
    assert torch.allclose(half, model(x, t, y), atol=0.05 * float(half.abs().max()))


def test_weights_come_from_the_given_generator_alone():
    before = torch.random.get_rng_state()
    first, again, other = (UViT(OF, stream(seed, "weights")) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    for k, v in first.state_dict().items():
        assert torch.isfinite(v).all() and torch.equal(v, again.state_dict()[k])
    assert not torch.equal(first.pos_embed, other.pos_embed)
    assert float(first.mid_block.mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not first.mid_block.mlp.fc1.bias.any()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"patch": 3}, "8 pixels in patches of 3"),
        ({"heads": 3}, "width 16 with 3 heads"),
        ({"depth": 3}, "an even number"),
        ({"num_classes": -1}, "0 is unconditional"),
    ],
)
def test_sizes_that_do_not_fit_are_one_clear_error(changes, says):
    with pytest.raises(UserError, match=says):
        UViT(replace(OF, **changes))


# --- weights ---
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_are_read_from_both_kinds_of_file(ending, model, tmp_path):
    file = tmp_path / f"nnet_ema.{ending}"
    if ending == "pth":
        wide = UViT(replace(OF, width=128), stream(0, "weights"))  # two heads of 64 entries, as in the public files
        torch.save(wide.state_dict(), file)
    else:
        wide = model
        uvit.save(model, file)
    back = uvit.load(file)
    assert back.arch == wide.arch
    assert all(torch.equal(v, wide.state_dict()[k]) for k, v in back.state_dict().items())


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.pth", b"PK\x03\x04", "cannot be read as weights"),
        ("a.safetensors", b"\x00" * 12, "cannot be read as weights"),
        ("a.pth", None, "cannot be read"),
    ],
)
def test_a_damaged_or_missing_file_is_one_clear_error(name, content, says, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        uvit.load(tmp_path / name)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"pos_embed": print}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        uvit.load(tmp_path / "evil.pth")


def test_foreign_weights_are_named(model, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not a U-ViT"):
        uvit.load(tmp_path / "other.pth")
    torch.save({"net": model.state_dict()}, tmp_path / "nested.pth")
    with pytest.raises(UserError, match="plain dictionary of tensors"):
        uvit.load(tmp_path / "nested.pth")
    state = {**model.state_dict(), "time_embed.0.weight": torch.zeros(2, 2), "norm.bias": torch.zeros(3)}
    del state["norm.weight"]
    with pytest.raises(
        UserError, match=r'Missing key.*"norm.weight".*Unexpected.*"time_embed.0.weight".*norm.bias: .*\[3\]'
    ):
        uvit.from_state(state, OF)


def test_unconditional_weights_get_a_label_token_in_front():
    old = UViT(replace(OF, num_classes=0), stream(0, "weights")).state_dict()
    new = uvit.surgery(old, 7, stream(1, "surgery"))
    assert new["pos_embed"].shape == (1, 18, 16) and torch.equal(new["pos_embed"][:, 1:], old["pos_embed"])
    assert 0 < float(new["pos_embed"][:, 0].abs().max()) < 0.1 and new["label_emb.weight"].shape == (7, 16)
    assert "label_emb.weight" not in old
    uvit.from_state(new, replace(OF, num_classes=7))


def test_conditional_weights_get_new_labels():
    old = UViT(OF, stream(0, "weights")).state_dict()
    new = uvit.surgery(old, 4, stream(1, "surgery"))
    assert new["label_emb.weight"].shape == (4, 16)
    assert not torch.equal(new["label_emb.weight"][0], old["label_emb.weight"][0])
    assert all(new[k] is old[k] for k in old if k != "label_emb.weight")


def test_training_starts_from_a_file_in_a_folder_of_weights(real, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path))
    cfg = replace(TINY, width=64, heads=1, start="public.pth")
    with pytest.raises(UserError, match=r"U-ViT \(public.pth\) are not here: .*DISTILL_WEIGHTS.*start=None"):
        uvit.initial(real, cfg, 0)
    of = cfg.architecture(real)
    public = UViT(replace(of, num_classes=0), stream(5, "weights"))
    torch.save(public.state_dict(), tmp_path / "public.pth")
    begun = uvit.initial(real, cfg, 0)
    assert torch.equal(begun.mid_block.mlp.fc1.weight, public.mid_block.mlp.fc1.weight) and begun.arch.num_classes == 10
    with pytest.raises(UserError, match="its weights are of .* need"):
        uvit.initial(real, replace(cfg, depth=4), 0)


# --- training ---
def test_the_loss_is_the_noise_left_over_and_time_reaches_the_network_as_999_t():
    x, noise, t = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 2.0), torch.tensor([0.5, 1.0])
    seen = []

    def network(noisy, t999, y):
        seen.append((noisy, t999, y))
        return torch.zeros_like(noisy)

    assert float(uvit.noise_loss(network, x, t, noise, torch.tensor([3, 4]))) == 4
    noisy, t999, y = seen[0]
    assert t999.tolist() == [499.5, 999.0] and y.tolist() == [3, 4]
    assert noisy[0, 0, 0, 0].item() == pytest.approx(0.07906381**0.5 + 2 * (1 - 0.07906381) ** 0.5, rel=1e-5)


def test_a_network_of_v_returns_the_noise_and_learns_v(model):
    other = uvit.from_state(model.state_dict(), replace(OF, output="v"))
    images, t, y = inputs(OF)
    t = t / 999
    noise = images.flip(0).sin()
    alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (training.VP.alpha, training.VP.sigma))
    x = alpha * images + sigma * noise
    with torch.no_grad():
        v = model(x, 999 * t, y)
        assert torch.allclose(other(x, 999 * t, y), sigma * x + alpha * v, atol=1e-5)
        wanted = F.mse_loss(v, alpha * noise - sigma * images)
        assert torch.isclose(uvit.noise_loss(other, images, t, noise, y, "v"), wanted, rtol=1e-4)


def test_what_a_network_returns_is_kept_with_its_weights(tmp_path):
    of = replace(OF, output="v")
    assert uvit.load(uvit.save(UViT(of, stream(0, "weights")), tmp_path / "v.safetensors")).arch == of


def test_an_untrained_network_loses_the_noises_variance(real):
    model = UViT(TINY.architecture(real), stream(0, "weights"))
    images, t, noise, labels = uvit.StepInputs(real, replace(TINY, batch=256)).take(0, stream(0, "batch"))
    with torch.no_grad():
        assert float(uvit.noise_loss(model, images, t, noise, labels)) == pytest.approx(1, abs=0.15)
    assert -1 <= float(images.min()) < -0.9 and 0.9 < float(images.max()) <= 1


def test_training_learns_and_keeps_the_data(real):
    before = real.images.clone()
    made = uvit.fit(real, replace(TINY, steps=60, batch=32, looks=2), 0)
    assert made.looks[-1]["loss"] < 0.8 < made.curve[0][1] and [look["step"] for look in made.looks] == [30, 60]
    assert torch.equal(real.images, before) and not any(p.requires_grad for p in made.model.parameters())


def test_the_average_the_rate_and_an_epoch_are_those_of_a_plain_loop(real):
    cfg = replace(TINY, steps=8, batch=400, warm_up=3, lr_decay=0.5, ema=0.7)  # three steps an epoch
    made = uvit.fit(real, cfg, seed=4)
    rng, model = stream(4, "U-ViT", "batches"), uvit.initial(real, cfg, 4)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, betas=cfg.betas, weight_decay=cfg.weight_decay)
    for step in range(8):
        if step % 3 == 0:
            order = torch.randperm(len(real), generator=rng)
        index = order[step % 3 * 400 : (step % 3 + 1) * 400]
        mirror, t, noise = (
            torch.rand(400, generator=rng) < 0.5,
            torch.rand(400, generator=rng),
            torch.randn(400, 1, 8, 8, generator=rng),
        )
        x = real.images[index].float() / 127.5 - 1
        x = torch.stack([image.flip(2) if m else image for image, m in zip(x, mirror, strict=True)])
        optimizer.param_groups[0]["lr"] = cfg.lr * min(1, (step + 1) / 3) * min(1, (1 - step / 8) / 0.5)
        abar = torch.exp(-0.1 * t - 9.95 * t**2).view(-1, 1, 1, 1)
        loss = F.mse_loss(model(abar.sqrt() * x + (1 - abar).sqrt() * noise, 999 * t, real.labels[index]), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for k, v in model.state_dict().items():
            average[k] = 0.7 * average[k] + 0.3 * v
    assert all(torch.allclose(v, average[k], atol=2e-5) for k, v in made.model.state_dict().items())
    assert made.looks[-1]["step"] == 8


def test_a_resumed_training_equals_an_unbroken_one_bit_for_bit(real, tmp_path):
    whole = uvit.fit(real, TINY, 0)
    resumed, stops = in_steps(lambda loop: uvit.fit(real, TINY, 0, loop), tmp_path)
    assert stops == TINY.steps - 1
    assert all(torch.equal(v, resumed.model.state_dict()[k]) for k, v in whole.model.state_dict().items())
    assert resumed.looks == whole.looks and resumed.curve == whole.curve


def test_a_training_that_diverges_says_so(real):
    with pytest.raises(Diverged, match="loss = nan"):
        uvit.fit(real, replace(TINY, lr=float("inf"), steps=4), 0)


def test_a_training_is_kept_with_its_looks_and_not_repeated(real, monkeypatch):
    first = uvit.trained(real, TINY, 0)
    monkeypatch.setattr(training, "fit", None)
    again = uvit.trained(real, TINY, 0)
    assert first.folder == again.folder and first.steps == [2, 4, 6]
    assert [look["step"] for look in again.health["looks"]] == [2, 4, 6]
    assert all(0 < look["loss"] < 2 for look in again.health["looks"])
    assert torch.equal(again.model().pos_embed, again.model(6).pos_embed) and not torch.equal(
        again.model(2).pos_embed, again.model(6).pos_embed
    )
    with pytest.raises(UserError, match="no weights of step 5; there are 2, 4, 6"):
        again.model(5)
    assert uvit.place(real, TINY, 1).folder != first.folder != uvit.place(real, replace(TINY, lr=1.0), 0).folder


@pytest.mark.parametrize(
    "changes, says", [({"batch": 5000}, "batches of 5000 from 1297 images"), ({"patch": 3}, "8 pixels in patches of 3")]
)
def test_settings_no_network_fits_are_one_clear_error(changes, says, real):
    with pytest.raises(UserError, match=says):
        uvit.trained(real, replace(TINY, **changes))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("begun", [False, True], ids=["from the start", "from a checkpoint"])
def test_two_processes_train_the_same_network_as_one(begun, real, runs, tmp_path, monkeypatch):
    """In the environment that torch's launcher gives its processes, on gloo."""
    cfg = method.paper_config("digits").smoke().training
    if begun:
        with pytest.raises(TimeUp, match="stopped at step 1 of"):
            uvit.trained(real, cfg, 0, Loop(tmp_path / "begun", deadline=time.monotonic()))
    with socket.socket() as s:
        s.bind(("localhost", 0))
        shared = {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(s.getsockname()[1]),
            "WORLD_SIZE": "2",
            "DISTILL_DEVICE": "cpu",
        }
    for name, value in {**shared, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "distill_lib", "uvit", "train", "digits", "--profile", "smoke"]
    second = subprocess.Popen(command, env={**os.environ, "RANK": "1", "LOCAL_RANK": "1"})
    uvit_commands.train("digits", "smoke")  # this process is the first
    assert second.wait() == 0 and not torch.distributed.is_initialized()
    together = uvit.trained(real, cfg)  # found, not trained again
    assert (
        json.loads((together.folder / "settings.json").read_text())["processes"] == 2
        and len(list(runs.glob("generators/uvit-*"))) == 1
    )
    alone = uvit.fit(real, cfg, 0)
    assert all(
        torch.allclose(v, alone.model.state_dict()[k], atol=1e-3) for k, v in together.model().state_dict().items()
    )
    assert [look["loss"] for look in together.health["looks"]] == pytest.approx(
        [look["loss"] for look in alone.looks], rel=1e-3
    )


# --- generation ---
def test_an_image_depends_on_its_number_and_label_alone(model):
    labels = torch.arange(8) % 10
    whole = uvit.generate(model, labels, seed=0, steps=5)
    assert whole.shape == (8, 1, 8, 8) and whole.dtype == torch.uint8
    parts = torch.cat(
        [uvit.generate(model, labels[:3], 0, steps=5), uvit.generate(model, labels[3:], 0, first=3, steps=5, batch=2)]
    )
    assert int((whole.int() - parts.int()).abs().max()) <= 1  # rounding in the network may change with the batch
    assert not torch.equal(whole, uvit.generate(model, labels, seed=1, steps=5))
    assert not torch.equal(whole[0], uvit.generate(model, labels[:1] + 5, 0, steps=5)[0])


@pytest.mark.parametrize("sampler", ["dpm_fast", "dpm++2m", "ddim", "ddpm"])
def test_every_sampler_draws_and_the_seed_decides(sampler, model):
    first, again = (uvit.generate(model, torch.arange(2), 3, steps=4, sampler=sampler) for _ in range(2))
    assert torch.equal(first, again) and len(first) == 2


def test_the_network_is_asked_at_999_t_and_with_its_labels(monkeypatch):
    asked = []

    class Gaussian(UViT):
        def forward(self, x, t999, y=None):
            asked.append((float(t999[0]), y))
            alpha, sigma = (float(f(float(t999[0]) / 999)) for f in (training.VP.alpha, training.VP.sigma))
            return sigma * (x - 0.3 * alpha) / (0.01 * alpha**2 + sigma**2)

    images = uvit.generate(Gaussian(OF, stream(0)), torch.tensor([4, 2]), 0, steps=20, sampler="dpm++2m")
    assert len(asked) == 20 and asked[0][0] == 999 and asked[0][1].tolist() == [4, 2]
    assert float(images.float().mean()) == pytest.approx((0.3 + 1) * 127.5, abs=4) and float(
        images.float().std()
    ) == pytest.approx(12.75, rel=0.25)


def test_levels_are_rounded_as_image_files_are():
    assert uvit.to_uint8(torch.tensor([-2.0, -1.0, -0.997, 0.0, 1.0, 3.0])).tolist() == [0, 0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    "labels, options, says",
    [
        (torch.tensor([10]), {}, r"labels 10..10 for 10 classes"),
        (None, {"count": 3}, "give labels for a conditional network"),
        (torch.tensor([1]), {"sampler": "heun"}, "unknown sampler 'heun'"),
    ],
)
def test_bad_requests_are_one_clear_error(labels, options, says, model):
    with pytest.raises(UserError, match=says):
        uvit.generate(model, labels, 0, **options)


def test_an_unconditional_network_draws_a_count():
    model = UViT(replace(OF, num_classes=0), stream(0, "weights"))
    assert uvit.generate(model, None, 0, count=3, steps=3).shape == (3, 1, 8, 8)


def test_a_number_of_images_is_the_same_whole_or_in_parts(model, real, tmp_path):
    options = {"num_classes": 10, "seed": 0, "steps": 3, "sampler": "dpm++2m", "batch": 10, "images": 25}
    whole = uvit.generate_for(model, None, folder=tmp_path / "whole", **options)
    assert whole.images == 25 and [len(p) for p in whole.pixels()] == [10, 10, 5] and whole.seconds > 0
    for tries in range(5):
        try:
            parts = uvit.generate_for(
                model, None, folder=tmp_path / "parts", loop=Loop(deadline=time.monotonic()), **options
            )
            break
        except TimeUp as stopped:
            assert "are kept" in str(stopped)
    assert tries == 2 and torch.equal(torch.cat(list(whole.pixels())), torch.cat(list(parts.pixels())))
    files = {f.name for f in (tmp_path / "parts").iterdir()}
    assert files == {"batch000000000.safetensors", "batch000000010.safetensors", "batch000000020.safetensors"}
    made = whole.load(real, method="U-ViT")
    assert (
        isinstance(made, ImageSet)
        and made.images.dtype == torch.uint8
        and made.labels.tolist() == [*range(10), *range(10)]
    )
    assert torch.equal(
        made.images, uvit.generate(model, made.labels, 0, steps=3, sampler="dpm++2m", batch=10)
    ) and made.nbytes == 20 * (64 + 8)


def test_a_time_is_kept_to_and_what_was_spent_counts_after_a_stop(model, tmp_path, monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(
        training.time, "perf_counter", lambda: clock.__setitem__("now", clock["now"] + 1.5) or clock["now"]
    )  # 1.5 s a batch
    options = {"num_classes": 10, "seed": 0, "folder": tmp_path, "steps": 1, "sampler": "ddim", "batch": 10}
    with pytest.raises(TimeUp):
        uvit.generate_for(model, 7.0, loop=Loop(deadline=time.monotonic()), **options)
    for seconds in (-3.0, float("nan")):
        with pytest.raises(UserError, match="a number above zero"):
            uvit.generate_for(model, seconds, **options)
    made = uvit.generate_for(model, 7.0, **options)
    assert (
        made.images == 40 and made.seconds == 6.0 and made.images_per_second == pytest.approx(40 / 6)
    )  # a fifth batch would end at 7.5
    assert uvit.generate_for(model, 7.0, **options).images == 40
    with pytest.raises(UserError, match="images of other settings"):
        uvit.generate_for(model, 7.0, **{**options, "steps": 2})


def test_a_damaged_batch_is_one_clear_error(model, tmp_path):
    options = {
        "num_classes": 10,
        "seed": 0,
        "folder": tmp_path,
        "steps": 1,
        "sampler": "ddim",
        "batch": 10,
        "images": 20,
    }
    uvit.generate_for(model, None, **options)
    (tmp_path / "batch000000010.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="batch000000010.safetensors: damaged"):
        uvit.generate_for(model, None, **options)


def test_too_little_time_for_one_image_of_every_class_is_one_clear_error(model, real, tmp_path):
    made = uvit.generate_for(model, 1e-9, 10, 0, tmp_path, steps=1, sampler="ddim", batch=4)
    assert made.images == 4
    with pytest.raises(UserError, match="4 images of 10 classes .* give more seconds"):
        made.load(real)
    with pytest.raises(UserError, match="give one of the two"):
        uvit.generate_for(model, None, 10, 0, tmp_path)


# --- method ---
def test_the_papers_settings():
    cifar, tiny = method.paper_config("CIFAR100"), method.paper_config("TinyImageNet")
    assert (cifar.seconds, cifar.ipc, cifar.steps, cifar.sampler) == (600, None, 50, "dpm_fast")
    t = cifar.training
    assert (t.steps, t.batch, t.lr, t.betas, t.weight_decay, t.ema, t.warm_up) == (
        80_000,
        1024,
        2e-4,
        (0.99, 0.999),
        0.03,
        0.9999,
        2500,
    )
    assert (t.width, t.depth, t.heads, t.patch) == (512, 12, 8, 2)
    t = tiny.training
    assert (t.steps, t.width, t.depth, t.heads, t.patch, t.checkpointing) == (117_000, 768, 16, 12, 4, True)
    assert method.paper_config("FashionMNIST", 10).ipc == 10 and method.paper_config("FashionMNIST", 10).seconds is None
    assert method.paper_config("MNIST").training.flip is False and cifar.training.flip


def test_a_set_says_how_many_images_in_how_many_seconds(real):
    cfg = replace(method.paper_config("digits").smoke(), training=TINY)
    made = method.distill(real, cfg, seed=0)
    assert len(made) == 100 and made.facts.extra["images"] == 100  # a time in smoke is ten of every class
    measured = method.measure(made, real, cfg)
    assert measured["images"] == [100] and measured["images_per_second"][0] == pytest.approx(
        100 / measured["generation_seconds"][0]
    )


def test_how_much_is_generated_is_said_once(real):
    with pytest.raises(UserError, match="give one of the three"):
        method.distill(real, replace(method.paper_config("digits", 1).smoke(), images=20), 0)


def test_training_and_generation_by_command(tmp_path, capsys):
    folder, generate = tmp_path / "samples", uvit_commands.generate
    with pytest.raises(UserError, match="train it: distill uvit train digits --profile smoke"):
        generate(folder, "digits", profile="smoke", images=20)
    uvit_commands.train("digits", "smoke")
    generate(folder, "digits", profile="smoke", images=20)
    generate(folder, "digits", profile="smoke", images=30)  # goes on
    assert "20 images in" in (said := capsys.readouterr().out) and "30 images in" in said
    weights = next(tmp_path.glob("runs/generators/uvit-digits-*/uvit.safetensors"))
    with pytest.raises(UserError, match="images of other settings"):  # another solver
        generate(folder, weights=weights, images=40)
    with pytest.raises(UserError, match="one of the two"):
        generate(folder, images=40)


def test_unconditional_weights_are_not_generated_from_by_class(tmp_path):
    uvit.save(UViT(replace(OF, num_classes=0), stream(0, "weights")), tmp_path / "uncond.safetensors")
    with pytest.raises(UserError, match="unconditional weights"):
        uvit_commands.generate(tmp_path / "out", weights=tmp_path / "uncond.safetensors", images=10)


# --- departures of the small budget ---
def test_sinusoids_tell_every_place_apart_and_near_ones_are_alike():
    places = sinusoids(8, 32)
    alike = places @ places.T / 16
    assert places.shape == (64, 32) and torch.allclose(alike.diagonal(), torch.ones(64), atol=1e-5)
    assert (alike - torch.eye(64)).max() < 0.99  # no two are the same
    assert alike[0, 1] > alike[0, 3] and torch.isclose(alike[0, 1], alike[0, 8])  # along a row as along a column


def test_training_starts_from_sinusoids_where_it_should(real):
    cfg = replace(TINY, positions="sinusoids")
    plain, placed = (uvit.initial(real, c, 0) for c in (TINY, cfg))
    of = plain.arch
    with pytest.raises(UserError, match="width that four divides"):
        uvit.initial(real, replace(cfg, width=6), 0)
    assert torch.equal(placed.pos_embed[0, of.extras :], sinusoids(of.image_size // of.patch, of.width))
    assert torch.equal(placed.pos_embed[0, : of.extras], plain.pos_embed[0, : of.extras]) and torch.equal(
        placed.norm.weight, plain.norm.weight
    )


def test_labels_are_left_out_as_often_as_asked_and_nothing_else_changes(real):
    cfg = replace(TINY, batch=min(256, len(real)), label_drop=0.25)
    plain, dropped = (uvit.StepInputs(real, c).take(0, stream(0, "batch")) for c in (replace(cfg, label_drop=0.0), cfg))
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], dropped[:3]))
    without = dropped[3] == real.num_classes
    assert torch.equal(plain[3][~without], dropped[3][~without]) and 0.1 < without.float().mean() < 0.4
    with pytest.raises(UserError, match="label_drop: Input should be less than 1"):
        replace(cfg, label_drop=1.0)


def test_guidance_goes_on_from_the_noise_without_label_to_that_with_it():
    model = UViT(replace(OF, no_label=True), stream(0, "weights")).eval()
    assert model.label_emb.weight.shape[0] == OF.num_classes + 1 and uvit.parameter_count(model.arch) == sum(
        p.numel() for p in model.parameters()
    )
    x, t, y = inputs(OF)
    with torch.no_grad():
        given, without = model(x, t, y), model(x, t, torch.full_like(y, OF.num_classes))
        for scale in (0.0, 1.0, 3.0):
            assert torch.allclose(
                sample._guided(model, "float32", scale)(x, t, y), without + scale * (given - without), atol=1e-5
            )
    assert torch.equal(uvit.generate(model, y, 0, steps=3), uvit.generate(model, y, 0, steps=3, guidance=1.0))
    assert not torch.equal(uvit.generate(model, y, 0, steps=3), uvit.generate(model, y, 0, steps=3, guidance=3.0))


def test_guidance_needs_a_network_that_can_do_without_labels(model):
    with pytest.raises(UserError, match="needs a network trained with label_drop"):
        uvit.generate(model, torch.arange(2), 0, steps=3, guidance=2.0)
    with pytest.raises(UserError, match="no label to leave out"):
        replace(OF, num_classes=0, no_label=True).check()

"""StyleGAN-XL's generator: the published layers, the literal layers computed faster, weights read without running
anything."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch
from safetensors.torch import load_file, save_file
from stylegan_xl import literal

from distill_lib import data
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.generators import cgan, prior, stylegan_xl, uvit
from distill_lib.generators.prior import Prior
from distill_lib.generators.prior_networks import Denoiser
from distill_lib.generators.stylegan_xl import StyleGANXL, design, published_layers, unpickle

STEM = [f"L{i}_36_1024" for i in range(8)]
TO_32 = [*STEM, "L9_36_1024", *(f"L{i}_52_1024" for i in range(10, 15))]
TO_64 = [*TO_32[:-1], "L14_52_1024", *(f"L{i}_84_1024" for i in range(15, 20))]
TO_128 = [*TO_64, "L20_148_1024", "L21_148_861", "L22_148_724", "L23_148_609"]
NAMES = {
    16: [*STEM, "L8_36_1024", "L9_16_1024", "L10_16_3"],
    32: [*TO_32, "L15_32_1024", "L16_32_3"],
    64: [*TO_64, "L20_64_1024", "L21_64_3"],
    128: [*TO_128, "L24_148_512", "L25_128_512", "L26_128_3"],
    256: [
        *TO_128,
        "L24_148_609",
        "L25_276_512",
        "L26_276_431",
        "L27_276_362",
        "L28_276_304",
        "L29_276_256",
        "L30_256_256",
        "L31_256_3",
    ],
}


def to_tensors(generator):
    """The weights under the official names: what `from_tensors` reads."""
    out = {}
    for name, tensor in generator.state_dict().items():
        parts = name.split(".")
        if parts[0] == "layers":
            parts = ["synthesis", generator.plan[int(parts[1])].name, *(p for p in parts[2:] if p != "resampling")]
        elif parts[0] == "input":
            parts = ["synthesis", *parts]
        out[".".join(parts)] = tensor.detach().cpu().contiguous()
    return out


def narrow(stem_kernel=3, side=32, width=64):
    """The published layers with few channels and random weights, not all equal in magnitude."""
    made = (
        StyleGANXL(*published_layers(side, stem_kernel, channel_base=64 * width, channel_max=width, classes=5))
        .redraw(stream(0))
        .requires_grad_(False)
    )
    for i, layer in enumerate(made.layers):
        layer.magnitude_ema.fill_(1 + 0.1 * i)
        layer.bias.copy_(0.1 * torch.randn(layer.bias.shape, generator=stream(i)))
    return made


def codes(made, count=2):
    w = made.mapping(torch.randn(count, made.z_dim, generator=stream(1)), torch.arange(count))
    return w + 0.1 * torch.randn(w.shape, generator=stream(2))


# --- the layers ---
@pytest.mark.parametrize("side", NAMES)
def test_layers_have_the_published_names_and_sizes(side):
    layers, _ = published_layers(side)
    assert [layer.name for layer in layers] == NAMES[side]
    assert len(layers) + 1 == {16: 12, 32: 17, 64: 22, 128: 27, 256: 32}[side]
    doubled = {layer.name.split("_")[0] for layer in layers if layer.up == 4}
    assert doubled == set(("L10", "L15", "L20", "L25")[: list(NAMES).index(side)])
    for before, layer in zip(layers, layers[1:]):
        assert (layer.in_size, layer.inputs) == (before.size, before.channels)


@pytest.mark.parametrize(
    ("side", "stem", "count"), [(128, 1, 158_741_379), (256, 1, 166_267_046), (256, 3, 233_375_910)]
)
def test_parameter_counts(side, stem, count):
    with torch.device("meta"):
        made = StyleGANXL(*published_layers(side, stem))
    assert sum(p.numel() for p in made.parameters()) == count
    assert sum(p.numel() for p in made.mapping.parameters()) == 669_248


def test_padding_and_filters():
    by_name = {layer.name: layer for layer in published_layers(128, 3)[0]}
    assert by_name["L0_36_1024"].padding == (9, 8) and published_layers(128, 1)[0][0].padding == (11, 10)
    assert (
        by_name["L10_52_1024"].padding == (-6, -9)
        and by_name["L25_128_512"].padding == (-11, -12)
        and by_name["L26_128_3"].padding == (0, 0)
    )
    cutoff, width, rate = by_name["L0_36_1024"].filters[0]
    taps = design(12, cutoff, width, rate)
    half = [0.000792, 0.010018, 0.03895, 0.092413, 0.156526, 0.201302]
    assert taps.tolist() == pytest.approx([*half, *half[::-1]], abs=1e-6) and float(taps.sum()) == pytest.approx(
        1, abs=1e-6
    )
    radial = design(12, cutoff, width, rate, radial=True)
    assert (
        radial.shape == (12, 12)
        and torch.allclose(radial, radial.T)
        and float(radial.sum()) == pytest.approx(1, abs=1e-6)
    )


def test_sides_and_widths_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="48 pixels.*16, 32, 64"):
        published_layers(48)


# --- the literal layer ---
@pytest.mark.parametrize("stem", [1, 3])
def test_every_layer_equals_the_literal_one_and_so_do_its_derivatives(stem):
    made = narrow(stem)
    w = codes(made)
    x = made.input(w[:, 0])
    kinds = {}
    for i, layer in enumerate(made.layers):
        out = layer(x, w[:, 1 + i])
        assert out.shape == (2, layer.layer.channels, layer.layer.size, layer.layer.size)
        torch.testing.assert_close(out, literal(layer, x, w[:, 1 + i]), atol=1e-4, rtol=1e-4)
        kinds[layer.layer.kernel, layer.layer.up, layer.layer.radial] = (layer, x, w[:, 1 + i])
        x = out
    for layer, x, w in kinds.values():  # one of every kind
        sides = []
        for run in (layer, lambda x, w, layer=layer: literal(layer, x, w)):
            leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
            out = run(*leaves)
            sides.append(torch.autograd.grad(out, leaves, torch.randn(out.shape, generator=stream(3))))
        for ours, theirs in zip(*sides):
            assert float((ours - theirs).norm() / theirs.norm()) < 5e-4


def test_an_image_does_not_depend_on_its_batch():
    made = narrow()
    w = codes(made, 3)
    assert float((made(w)[:1] - made(w[:1])).abs().max()) < 1e-5


def test_trained_weights_take_the_plain_convolution_and_get_gradients():
    made = narrow(side=16)
    w = codes(made, 1)
    fixed = made(w)
    made.requires_grad_(True)
    trained = made(w)
    torch.testing.assert_close(fixed, trained, atol=1e-4, rtol=1e-4)
    trained.sum().backward()
    assert all(p.grad is not None for p in made.layers.parameters())
    with torch.no_grad():
        made.layers[3].weight.mul_(-1)
    assert float((made.requires_grad_(False)(w) - fixed).abs().max()) > 1e-3  # no stale forms of the weights


def test_the_first_code_turns_and_shifts_the_features():
    made = narrow(side=16)
    layer = made.input
    layer.affine.weight.zero_()
    layer.affine.bias.copy_(torch.tensor([2.0, 0, 0, 0]))  # no turn, whatever the length
    still = layer(torch.zeros(1, 512))
    layer.affine.bias.copy_(torch.tensor([0.0, 2.0, 0, 0]))  # a quarter turn of the grid
    turned = layer(torch.zeros(1, 512))
    assert torch.allclose(turned, still.rot90(1, (2, 3)), atol=1e-4) or torch.allclose(
        turned, still.rot90(-1, (2, 3)), atol=1e-4
    )
    layer.affine.bias.copy_(torch.tensor([1.0, 0, 1 / 16, 0]))  # one position of a grid of 16 to the unit
    shifted = layer(torch.zeros(1, 512))
    assert torch.allclose(shifted[..., 1:], still[..., :-1], atol=1e-4)


# --- one interface for every prior ---
FAMILIES = {
    "StyleGAN-XL": Prior("StyleGAN-XL", "random", width=8),
    "small": Prior("small", "random", width=32),
    "cGAN": Prior("cGAN", "random", gan=cgan.GAN(width=8)),
    "U-ViT": Prior("U-ViT", "random", width=32),
}


@pytest.fixture(scope="module")
def real():
    return data.load("BloodCells-mini")[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_after_any_layer_give_the_same_image(family, real):
    made = prior.prepare(real, FAMILIES[family])
    z = torch.randn(3, made.z_dim, generator=stream(0))
    w = made.mapping(z, prior.drawn_classes(made, real, FAMILIES[family])[:3])
    assert w.shape == (3, made.num_ws, made.w_dim)
    image = made(w)
    assert image.shape == (3, *real.shape) and 0.001 < float(image.std()) < 3
    for n in range(len(made.layer_names) + 1):
        assert torch.equal(made.from_f(made.to_f(w, n), w, n), image)
    assert torch.equal(prior.prepare(real, FAMILIES[family])(w), image)  # the seed decides the weights


@pytest.mark.parametrize("family", ["StyleGAN-XL", "small", "cGAN"])
def test_codes_before_the_features_have_no_gradient_and_those_after_have_one(family, real):
    made = prior.prepare(real, FAMILIES[family])
    w = made.mapping(torch.randn(2, made.z_dim, generator=stream(0)), torch.arange(2)).clone().requires_grad_()
    for n in (1, 3, len(made.layer_names) - 1):
        f = made.to_f(w.detach(), n)
        image = made.from_f(f, w, n)
        by_w = torch.autograd.grad(image.square().sum(), w)[0] if image.requires_grad else torch.zeros_like(w)
        assert bool((by_w[:, : n + 1] == 0).all()) and bool((by_w[:, n + 1 :].abs().amax((0, 2)) > 0).all())


def test_the_small_generator_has_the_documented_size():
    for side, count, layers in ((32, 2_543_171, 8), (64, 2_579_043, 10), (128, 2_590_067, 12)):
        made = prior.Small((3, side, side), 10)
        assert sum(p.numel() for p in made.parameters()) == count and len(made.layers) == layers
    made = prior.Small((3, 32, 32), 10).redraw(stream(0))
    w = made.mapping(torch.zeros(2, 64), torch.tensor([0, 1]))
    assert made.to_f(w, 3).shape == (2, 256, 8, 8) and made.to_f(w, 5).shape == (2, 128, 16, 16)
    assert prior.Small((1, 28, 28), 10).redraw(stream(0))(w[:, :7]).shape == (2, 1, 28, 28)


def test_the_wrapped_gan_draws_what_the_gan_draws(real):
    made = prior.prepare(real, FAMILIES["cGAN"])
    labels, z = torch.tensor([0, 3]), torch.randn(2, made.z_dim, generator=stream(0))
    torch.testing.assert_close(made(made.mapping(z, labels)), made.generator(z, labels))


def test_one_step_of_the_denoiser_is_the_image(real):
    made = prior.prepare(real, FAMILIES["U-ViT"])
    z, labels = torch.randn(2, made.z_dim, generator=stream(0)), torch.tensor([0, 3])
    noisy = z.view(2, *real.shape)
    noise = made.model(noisy, made.time.expand(2), labels)
    torch.testing.assert_close(made(made.mapping(z, labels)), 2**0.5 * noisy - noise)


def test_one_step_of_a_denoiser_of_v_is_the_image(real):
    made = prior.prepare(real, FAMILIES["U-ViT"])
    model = uvit.UViT(replace(made.model.arch, output="v"), stream(0)).eval()
    model.load_state_dict(made.model.state_dict())
    wrapped = Denoiser(model)
    z, labels = torch.randn(2, wrapped.z_dim, generator=stream(0)), torch.tensor([0, 3])
    noisy = z.view(2, *real.shape)
    noise = model(noisy, wrapped.time.expand(2), labels)  # as the forward pass of any output is read
    torch.testing.assert_close(wrapped(wrapped.mapping(z, labels)), 2**0.5 * noisy - noise)


def test_classes_are_the_sets_own_or_random_distinct_ones(real):
    facts = data.Facts("birds", ("a", "b"), (0.5,) * 3, (0.5,) * 3, imagenet_indices=(84, 130))
    birds = data.ImageSet(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), facts)
    wide = types.SimpleNamespace(num_classes=1000)
    assert prior.drawn_classes(wide, birds, Prior("StyleGAN-XL", "random")).tolist() == [84, 130]
    assert prior.drawn_classes(types.SimpleNamespace(num_classes=4), real, Prior()).tolist() == [0, 1, 2, 3]
    drawn = prior.drawn_classes(wide, real, Prior("StyleGAN-XL", "random")).tolist()
    assert len(set(drawn)) == 4 and drawn != [0, 1, 2, 3]
    with pytest.raises(UserError, match="knows 2 classes"):
        prior.drawn_classes(types.SimpleNamespace(num_classes=2), real, Prior())


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (Prior("StyleGAN-XL", "imagenet"), r"imagenet32.safetensors are not here: .*unpickle"),
        (Prior("StyleGAN-XL", "trained"), "only the cGAN is trained"),
        (Prior("small", "imagenet"), "random is what there is"),
        (Prior("cGAN", "imagenet"), "trained or random"),
        (Prior("U-ViT", "nowhere.pth"), "nowhere.pth are not here"),
    ],
)
def test_weights_that_are_not_there_are_one_clear_error(settings, problem, real, monkeypatch, tmp_path):
    for folder in ("DISTILL_WEIGHTS", "DISTILL_DATA"):
        monkeypatch.setenv(folder, str(tmp_path))
    with pytest.raises(UserError, match=problem):
        prior.prepare(real, settings)


def test_images_of_another_size_are_refused(tmp_path, monkeypatch, real):
    save_file(to_tensors(narrow(side=16, width=4)), tmp_path / "imagenet32.safetensors")
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"draws images of \(3, 16, 16\).*\(3, 32, 32\)"):
        prior.prepare(real, Prior("StyleGAN-XL", "imagenet"))


# --- official weights ---
def kaiser(taps, cutoff, width, rate, radial=False):
    """The official low-pass filters, with scipy: separable ones by `firwin`, radial ones a jinc under the same Kaiser
    window."""
    if not radial:
        return scipy.signal.firwin(taps, cutoff, width=width, fs=rate)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(x[:, None], x[None])
    window = np.kaiser(taps, scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, 2 * width / rate)))
    f = scipy.special.j1(2 * np.pi * cutoff * r) / (np.pi * r) * np.outer(window, window)
    return f / f.sum()


def official(kernel, radial, width=6, side=16, count=10):
    """Tensors of a 16-pixel stem by the official definition, with random weights, and (up, down, padding) of its
    layers.

    The filter before the nonlinearity is always separable. The one after it is 2-D where `radial`, unless the layer is
    critically sampled, as the last two before toRGB are. toRGB has none, and a kernel of 1.
    """
    rng = np.random.default_rng(0)
    share = np.minimum(np.arange(count + 1) / (count - 2), 1)
    cutoff = 2 * (side / 2 / 2) ** share
    stop = 2**2.1 * (side / 2 * 2**0.3 / 2**2.1) ** share
    rate = 2 ** np.ceil(np.log2(np.minimum(2 * stop, side)))
    half = np.maximum(stop, rate / 2) - cutoff
    size = (rate + 20).astype(int)
    size[-2:] = side
    channels = [width] * count + [3]
    tensors = {k: v for k, v in to_tensors(narrow(3, side, width)).items() if not k.startswith("synthesis.L")}
    geometry = []
    for i in range(count + 1):
        before, rgb = max(i - 1, 0), i == count
        inputs, k = channels[before], 1 if rgb else kernel
        made = {
            "affine.weight": rng.normal(size=(inputs, 512)),
            "affine.bias": np.ones(inputs),
            "bias": 0.1 * rng.normal(size=channels[i]),
            "weight": rng.normal(size=(channels[i], inputs, k, k)),
            "magnitude_ema": np.array(1 + 0.1 * i),
        }
        up = down = 1
        padding = (0, 0)
        if not rgb:
            tmp = 2 * max(rate[before], rate[i])
            up, down = int(tmp / rate[before]), int(tmp / rate[i])
            made["up_filter"] = kaiser(6 * up, cutoff[before], 2 * half[before], tmp)
            made["down_filter"] = kaiser(6 * down, cutoff[i], 2 * half[i], tmp, radial and i < count - 2)
            total = (size[i] - 1) * down + 1 - (size[before] + k - 1) * up + 6 * up + 6 * down - 2
            padding = ((total + up) // 2, total - (total + up) // 2)
        geometry.append((f"L{i}_{size[i]}_{channels[i]}", k, up, down, padding))
        tensors |= {
            f"synthesis.{geometry[-1][0]}.{name}": torch.tensor(v, dtype=torch.float32) for name, v in made.items()
        }
    return tensors, geometry


@pytest.mark.parametrize(("kernel", "radial"), [(1, True), (3, False)])  # the published ImageNet stems, and config-t
def test_a_checkpoint_of_the_official_definition_loads_and_draws(kernel, radial):
    tensors, geometry = official(kernel, radial)
    read = stylegan_xl.from_tensors(tensors)
    assert [(la.name, la.kernel, la.up, la.down, la.padding) for la in read.plan] == geometry
    assert all(torch.equal(v, tensors[k]) for k, v in to_tensors(read).items())
    w = codes(read)
    x = read.input(w[:, 0])
    for i, layer in enumerate(read.layers):
        x = literal(layer, x, w[:, 1 + i])
    assert x.shape == (2, 3, 16, 16) and float(x.std()) > 0.01
    torch.testing.assert_close(read(w), 0.25 * x, atol=1e-5, rtol=1e-4)


def test_ten_classes_with_the_features_of_a_thousand():
    """The official file of CIFAR-10; one without classes has no table of them."""
    tensors = official(1, True)[0]
    table, codes_ = tensors["mapping.embed.weight"], tensors["mapping.w_avg"]
    more = torch.cat([table, torch.randn(1000 - len(table), table.shape[1], generator=stream(1))])
    read, plain = stylegan_xl.from_tensors(tensors | {"mapping.embed.weight": more}), stylegan_xl.from_tensors(tensors)
    assert (read.num_classes, len(read.mapping.embed.weight)) == (len(codes_), 1000)
    assert torch.equal(codes(read), codes(plain))
    without = {k: v for k, v in tensors.items() if "embed" not in k} | {"mapping.w_avg": codes_[0]}
    with pytest.raises(UserError, match="without classes"):
        stylegan_xl.from_tensors(without)


def test_random_styles_begin_at_one():
    made = StyleGANXL(*published_layers(32, channel_base=1024, channel_max=16)).redraw(stream(0))
    assert all(bool((layer.affine.bias == 1).all()) and not layer.bias.any() for layer in made.layers)


@pytest.mark.parametrize(("kernel", "radial"), [(1, True), (3, False)])
def test_random_weights_come_with_the_official_filters(kernel, radial):
    wanted = {k: v for k, v in official(kernel, radial)[0].items() if k.endswith("_filter")}
    made = to_tensors(narrow(kernel, 16, 6))
    assert wanted.keys() == {k for k in made if k.endswith("_filter")}
    for name, filter_ in wanted.items():
        torch.testing.assert_close(made[name], filter_, atol=1e-6, rtol=1e-5)


def test_radial_filters_stay_in_the_stem_when_heads_follow():
    """The first head cuts off the stem's critically sampled layers."""
    assert [layer.name for layer in published_layers(32, 1)[0] if layer.radial] == STEM


@pytest.mark.parametrize("stem", [1, 3])
def test_a_checkpoint_is_read_by_its_own_shapes(stem, tmp_path):
    made = narrow(stem, 32, 6)
    tensors = to_tensors(made)
    assert {
        "mapping.fc0.weight",
        "synthesis.input.freqs",
        "synthesis.L0_36_6.affine.bias",
        "synthesis.L16_32_3.magnitude_ema",
    } <= tensors.keys()
    assert "synthesis.L16_32_3.up_filter" not in tensors and tensors["synthesis.L0_36_6.up_filter"].ndim == 1
    assert tensors["synthesis.L0_36_6.down_filter"].ndim == (2 if stem == 1 else 1)
    save_file(tensors, tmp_path / "g.safetensors")
    back = stylegan_xl.read(tmp_path / "g.safetensors")
    w = codes(made)
    torch.testing.assert_close(back(w), made(w), atol=1e-5, rtol=1e-5)
    assert [(a.name, a.kernel, a.up, a.down, a.padding) for a in back.plan] == [
        (a.name, a.kernel, a.up, a.down, a.padding) for a in made.plan
    ]

    del tensors["synthesis.L9_36_6.bias"]
    save_file(tensors, tmp_path / "g.safetensors")
    with pytest.raises(UserError, match="not the tensors of a StyleGAN-XL generator.*layers.8.bias"):
        stylegan_xl.read(tmp_path / "g.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="mapping.w_avg"):
        stylegan_xl.read(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="damaged"):
        stylegan_xl.read(tmp_path / "x.safetensors")


def test_truncation_pulls_all_images_of_a_class_to_its_mean_code():
    made = narrow(side=16, width=4)
    made.mapping.w_avg.copy_(torch.randn(made.mapping.w_avg.shape, generator=stream(5)))
    z = torch.randn(3, 64, generator=stream(0))
    w = made.mapping(z, torch.full((3,), 2), psi=0.0)
    assert torch.allclose(w, made.mapping.w_avg[2].expand_as(w)) and torch.allclose(made(w)[0], made(w)[1], atol=1e-5)


class _Persistent:
    """Pickles as StyleGAN's code does: a call of a function of its package with the module's source and state."""

    def __init__(self, module):
        self.module = module

    def __reduce__(self):
        state = dict(self.module.__dict__)
        state["_modules"] = {k: _Persistent(v) for k, v in self.module._modules.items()}
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('executed')",
            "class_name": "Generator",
            "state": state,
        }
        return sys.modules["foreign_package"].rebuild, (meta,)


def test_a_pickle_gives_its_tensors_and_runs_nothing(tmp_path, monkeypatch):
    package = types.ModuleType("foreign_package")

    def rebuild(meta):
        raise SystemExit("executed")

    rebuild.__module__, rebuild.__qualname__, package.rebuild = "foreign_package", "rebuild", rebuild
    monkeypatch.setitem(sys.modules, "foreign_package", package)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    network[1].running_mean.copy_(torch.tensor([1.0, -2.0]))
    with open(tmp_path / "g.pkl", "wb") as f:
        pickle.dump({"G": None, "G_ema": _Persistent(network)}, f)
    monkeypatch.delitem(sys.modules, "foreign_package")
    found = unpickle.read(tmp_path / "g.pkl")
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[k], v) for k, v in network.state_dict().items())
    written = load_file(unpickle.convert(tmp_path / "g.pkl", tmp_path / "g.safetensors"))
    assert torch.equal(written["0.weight"], network[0].weight)
    with pytest.raises(UserError, match="no entry 'D'; it has G, G_ema"):
        unpickle.read(tmp_path / "g.pkl", "D")


def test_a_pickle_that_would_call_something_gets_a_container(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"G_ema": Evil()}))
    with pytest.raises(UserError, match="holds no tensors"):
        unpickle.read(tmp_path / "evil.pkl")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x04junk")
    with pytest.raises(UserError, match="not a pickle of StyleGAN's code"):
        unpickle.read(tmp_path / "evil.pkl")

"""Augmentations: every operation against a plain slow formulation, its ranges, gradients, and independence of
batching."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from augment import PLAIN, plain, plain_dc  # the official codes' formulations, one image after another
from test_gpu import COLOUR, EVERY
from torch.utils._python_dispatch import TorchDispatchMode

from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.data import augment
from distill_lib.data.augment import Params, strategies

FLOAT_OPS = ["dsa:" + op for op in PLAIN] + ["frepo:" + op for op in strategies._FREPO]


def images(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=stream(seed, "images"), dtype=torch.float64).to(dtype)


def named(name):
    return augment.named(name, like=COLOUR)


def fixed(op, *u, groups=1, images=1):
    """A record that gives DSA's operation `op` exactly the numbers u."""
    aug = augment.dsa(op)
    numbers = torch.full((groups, images, aug.columns), math.nan)
    numbers[..., aug.numbers(op)] = torch.tensor(u)
    return aug, Params(torch.zeros(groups, 1), numbers)


# --- equal to the plain formulation ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "shape",
    [(4, 6, 3, 32, 32), (3, 1, 1, 28, 28), (2, 5, 1, 28, 28), (1, 3, 3, 64, 64), (2, 3, 3, 24, 32), (2, 24, 3, 32, 32)],
)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("op", list(PLAIN))
def test_each_operation_equals_the_plain_one(op, shared, shape):
    aug, x = augment.dsa(op), images(*shape, dtype=torch.float64)
    for seed in range(3):
        params = aug.draw(stream(seed, op), groups=shape[0], images=1 if shared else shape[1])
        expected = plain(aug, x, params)
        torch.testing.assert_close(aug.apply(x, params), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            aug.apply(x.float(), params), expected.float(), rtol=1e-4, atol=1e-4
        )  # white noise: steep


@pytest.mark.parametrize(
    "name", ["dsa", "dsa:color_crop_cutout_scale_rotate", "idc", "idc:color_crop_cutout", "idc:color_crop"]
)
@pytest.mark.parametrize("n", [2, 40])  # a joint batch per operation, or one call per group
def test_mixed_operations_equal_the_plain_loop(name, n):
    aug, x = augment.named(name), images(9, n, 3, 32, 32, dtype=torch.float64)
    for seed in range(3):
        params = aug.draw(stream(seed), groups=9, images=1 if seed else n)
        torch.testing.assert_close(aug.apply(x, params), plain(aug, x, params), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("op", list(PLAIN))
def test_gradients_equal_the_plain_ones(op):
    aug, x, w = (
        augment.dsa(op),
        images(3, 4, 3, 16, 16, dtype=torch.float64).requires_grad_(),
        images(3, 4, 3, 16, 16, seed=1),
    )
    for m in (1, 4):
        params = aug.draw(stream(m), groups=3, images=m)
        ours, theirs = (torch.autograd.grad((y * w).sum(), x)[0] for y in (aug.apply(x, params), plain(aug, x, params)))
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


# --- batching --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("n", [1, 3, 30])
def test_networks_at_once_equal_one_by_one_bit_for_bit(name, n):
    aug, x = named(name), images(5, n, 3, 32, 32)
    for seed in range(3):
        at_once = aug(x, [stream(seed, g) for g in range(5)])
        alone = torch.stack([aug(x[g], stream(seed, g)) for g in range(5)])
        assert torch.equal(at_once, alone)


class Called(TorchDispatchMode):
    """The names of the operations that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", [n for n in EVERY if not n.startswith("dcbench")]
)  # torchvision's, on a network's batch at a time
def test_no_operation_rounds_by_the_size_of_the_batch(name):
    """On some processors a matrix product does, and one that fuses a product with a sum does with some compilers."""
    aug, x = named(name), images(5, 4, 3, 32, 32)
    with Called() as called:
        for seed in range(6):  # every operation has its turn
            aug(x, [stream(seed, g) for g in range(5)])
    assert name == "none" or {"mul", "add", "add_"} & called.names
    products = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "addcmul", "addcdiv", "lerp", "convolution"}
    assert not products & called.names


@pytest.mark.parametrize("name", EVERY)
def test_threads_change_no_bit(name):
    aug, x, before = named(name), images(5, 12, 3, 32, 32), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([aug(x, [stream(seed, g) for g in range(5)]) for seed in range(3)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["dsa", "idc:color_crop_cutout", "frepo", "imagenet"])
def test_one_record_does_the_same_to_batches_of_any_size(name):
    aug, real = augment.named(name), images(6, 20, 3, 32, 32)
    params = aug.draw(stream(1), groups=6)
    whole = aug.apply(real, params)
    assert torch.equal(aug.apply(real.clone(), params), whole)
    assert torch.equal(aug.apply(real[:, :1], params), whole[:, :1])  # one image per class
    assert torch.equal(aug.apply(real[:, :7].requires_grad_(), params), whole[:, :7])
    assert torch.equal(aug.apply(real[:, :1].expand(-1, 4, -1, -1, -1), params), whole[:, :1].expand(-1, 4, -1, -1, -1))


def test_independent_images_of_a_batch_share_the_operation_but_not_its_parameters():
    x = images(1, 3, 32, 32).expand(8, -1, -1, -1)
    for seed in range(20):
        aug, rng = augment.dsa("crop_cutout_scale_rotate_color"), stream(seed)
        params = aug.draw(rng, images=8)
        assert len(aug.operations(params)) == 1
        out = aug.apply(x, params)
        assert len({row.numpy().tobytes() for row in out}) > 4


@pytest.mark.parametrize("name", EVERY)
def test_inputs_and_global_randomness_are_left_alone(name):
    aug, x = named(name), images(4, 3, 32, 32)
    before, state = x.clone(), torch.get_rng_state()
    aug(x, stream(0))
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_type_are_kept_for_a_single_image_too(name, dtype):
    aug = named(name)
    for shape in [(1, 3, 32, 32), (7, 3, 32, 32), (2, 1, 3, 32, 32)]:
        out = aug(images(*shape, dtype=dtype), stream(0))
        assert out.shape == shape and out.dtype == dtype and out.isfinite().all()


@pytest.mark.parametrize("name", ["dsa", "idc", "frepo", "dc", "dc:crop_noise"])
def test_grey_images(name):
    assert augment.named(name)(images(5, 1, 28, 28), stream(0)).shape == (5, 1, 28, 28)


def test_a_generator_repeats_its_draws():
    aug, x, rng = augment.dsa(), images(4, 3, 32, 32), stream(3)
    state = rng.get_state()
    first = aug(x, rng)
    assert not torch.equal(first, aug(x, rng))
    rng.set_state(state)
    assert torch.equal(first, aug(x, rng))


# --- what is drawn ---------------------------------------------------------------------------------------------------
def test_each_of_six_operations_is_drawn_equally_often():
    aug = augment.dsa()
    drawn = [op for (op,) in aug.operations(aug.draw(stream(0), groups=60_000))]
    for op in PLAIN:
        assert drawn.count(op) / 60_000 == pytest.approx(1 / 6, abs=0.005)


def test_idc_always_flips_and_colours_and_draws_one_of_the_rest():
    aug = augment.idc("color_crop_cutout_flip_scale_rotate")
    drawn = aug.operations(aug.draw(stream(0), groups=3000))
    assert {(a, b, d) for a, b, _, d in drawn} == {("flip", "color", "cutout")}
    for op in ("crop", "scale", "rotate"):
        assert [c for _, _, c, _ in drawn].count(op) / 3000 == pytest.approx(1 / 3, abs=0.03)
    assert augment.idc("color_crop").stages == (("color",), ("crop",))  # DiM


def test_none_returns_its_input_and_draws_nothing():
    x, rng = images(2, 3, 8, 8), stream(0)
    state = rng.get_state()
    assert augment.none()(x, rng) is x and augment.dsa("none")(x, rng) is x
    assert torch.equal(rng.get_state(), state)


# --- DSA's ranges ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side,bound", [(28, 4), (32, 4), (64, 8), (128, 16)])
def test_crop_moves_by_at_most_an_eighth(side, bound):
    dot = torch.zeros(1, 1, side, side)
    dot[:, :, side // 2, side // 2] = 1
    dot = dot.expand(1500, -1, -1, -1)
    out = augment.dsa("crop")(dot, stream(0))
    place = out.flatten(1).argmax(1)
    for moved in (place // side - side // 2, place % side - side // 2):
        assert sorted(moved.unique().tolist()) == list(range(-bound, bound + 1))
        chance = 1500 / (2 * bound + 1)
        assert (torch.bincount(moved + bound) - chance).abs().max() < 4.5 * chance**0.5  # equally often
    assert set(out.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("side,hole,erased,smallest", [(32, 16, 0.1865, 8), (28, 14, 0.1858, 7), (128, 64, 0.1901, 32)])
def test_cutout_erases_a_clamped_square(side, hole, erased, smallest):
    keep = augment.dsa("cutout")(torch.ones(1500, 1, side, side), stream(0))
    assert (1 - keep.mean()).item() == pytest.approx(erased, abs=0.004)
    heights = (keep.amin(3) == 0).sum(2).flatten()
    assert heights.min() == smallest and heights.max() == hole
    assert set(keep.unique().tolist()) == {0.0, 1.0}


def test_cutout_offset_ranges_over_the_whole_image_inclusive():
    for u, rows in [(0.0, range(8)), (1.0, range(24, 32)), (0.5, range(8, 24))]:
        aug, params = fixed("cutout", u, 0.5)
        keep = aug.apply(torch.ones(1, 1, 32, 32), params)[0, 0]
        assert (keep.amin(1) == 0).nonzero().flatten().tolist() == list(rows)


def test_scaling_by_one_point_two_leaves_66_percent():
    aug, params = fixed("scale", 1.0, 1.0)
    out = aug.apply(torch.ones(1, 1, 32, 32), params)
    assert (out > 0.5).float().mean().item() == pytest.approx(0.660, abs=0.0005)
    aug, params = fixed("scale", 0.0, 0.0)  # 1 / 1.2 enlarges: nothing of the outside enters
    assert (aug.apply(torch.ones(1, 1, 32, 32), params) > 0.999).all()


@pytest.mark.parametrize("u,degrees", [(0.0, -15), (1.0, 15), (0.5, 0)])
def test_rotation_ends_at_15_degrees(u, degrees):
    aug, params = fixed("rotate", u)
    x = torch.zeros(1, 1, 65, 65)
    x[..., 32, 60] = 1  # 28 pixels right of the centre
    out = aug.apply(F.max_pool2d(x, 3, 1, 1), params)[0, 0]
    ys, xs = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    angle = math.degrees(math.atan2((out * ys).sum(), (out * xs).sum()))
    assert abs(angle) == pytest.approx(abs(degrees), abs=0.3)


def test_colour_ranges():
    x = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    half = 0.5  # u of no saturation and contrast change, and of no brightness change
    for u, expected in [
        ((0.0, half, half), [-0.5, 0.5, 1.5]),
        ((1.0, half, half), [0.5, 1.5, 2.5]),
        ((half, 0.0, half), [1.0, 1.0, 1.0]),  # grey
        ((half, 1.0, half), [-1.0, 1.0, 3.0]),
        ((half, half, 0.0), [0.5, 1.0, 1.5]),
        ((half, half, 1.0), [-0.5, 1.0, 2.5]),
    ]:
        aug, params = fixed("color", *u)
        torch.testing.assert_close(aug.apply(x, params)[0, :, 0, 0], torch.tensor(expected))


def test_saturation_of_a_single_channel_is_the_identity():
    x = images(3, 1, 28, 28)
    aug, params = fixed("color", 0.5, 0.13, 0.5)
    torch.testing.assert_close(aug.apply(x, params), x, rtol=0, atol=1e-6)


def test_half_of_the_images_are_flipped():
    x = images(1, 1, 8, 8).expand(4000, -1, -1, -1)
    out = augment.dsa("flip")(x, stream(0))
    flipped = (out == x.flip(-1)).flatten(1).all(1)
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(out[~flipped], x[~flipped])


# --- gradients -------------------------------------------------------------------------------------------------------
def test_gradient_of_flip_and_cutout_and_crop():
    x, w = images(2, 3, 32, 32).requires_grad_(), images(2, 3, 32, 32, seed=1)

    def gradient(aug, params):
        return torch.autograd.grad((aug.apply(x, params) * w).sum(), x)[0]

    assert torch.equal(gradient(*fixed("flip", 0.2)), w.flip(-1))
    assert torch.equal(gradient(*fixed("flip", 0.7)), w)
    aug, params = fixed("cutout", 0.4, 0.6)
    assert torch.equal(gradient(aug, params), w * aug.apply(torch.ones_like(x), params))
    aug, params = fixed("crop", 0.0, 1.0)  # rows up by -4, columns by 4
    got = gradient(aug, params)
    assert torch.equal(got[..., :28, 4:], w[..., 4:, :28])
    assert not got[..., 28:, :].any() and not got[..., :4].any()  # what left the window


@pytest.mark.parametrize("name", [*FLOAT_OPS, "imagenet"])
@pytest.mark.parametrize("m", [1, 2])
def test_gradcheck(name, m):
    aug, x = augment.named(name), images(2, 2, 3, 6, 6, dtype=torch.float64).requires_grad_()
    params = aug.draw(stream(5), groups=2, images=m)
    assert torch.autograd.gradcheck(lambda x: aug.apply(x, params), x, fast_mode=True)


# --- FRePo -----------------------------------------------------------------------------------------------------------
def frepo_plain(image, op, u):
    """FRePo's operation on one (C, H, W) array by `map_coordinates`, coordinates from the centre, the edge repeated."""
    _, h, w = image.shape
    grid = np.mgrid[0:h, 0:w] - np.array([(h - 1) / 2, (w - 1) / 2]).reshape(2, 1, 1)
    if op == "crop":
        zoom = 0.8 * (1.25 / 0.8) ** u[0]
        move = np.array([(2 * u[1] - 1) * abs(h * zoom - h) / 2, (2 * u[2] - 1) * abs(w * zoom - w) / 2])
        grid = (grid + move.reshape(2, 1, 1)) / zoom
    elif op == "translate":
        grid = grid + np.array([(2 * u[0] - 1) * h / 8, (2 * u[1] - 1) * w / 8]).reshape(2, 1, 1)
    elif op == "rotate":
        a = math.radians((2 * u[0] - 1) * 15)
        grid = np.stack([math.sin(a) * grid[1] + math.cos(a) * grid[0], math.cos(a) * grid[1] - math.sin(a) * grid[0]])
    grid = grid + np.array([(h - 1) / 2, (w - 1) / 2]).reshape(2, 1, 1)
    return np.stack([scipy.ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in image])


@pytest.mark.parametrize("op", ["crop", "translate", "rotate"])
@pytest.mark.parametrize("side", [(28, 28), (20, 32)])
def test_frepo_geometry_repeats_the_edge(op, side):
    aug, x = augment.frepo(op), images(6, 2, *side, dtype=torch.float64)
    params = aug.draw(stream(0), images=6)
    u = params.u[0, :, aug.numbers(op)].double().numpy()
    expected = np.stack([frepo_plain(image, op, v) for image, v in zip(x.numpy(), u, strict=True)])
    np.testing.assert_allclose(aug.apply(x, params).numpy(), expected, atol=2e-6)


def test_frepo_colour_and_cutout_ranges():
    x = images(1, 3, 16, 16).expand(500, -1, -1, -1)
    out = augment.frepo("color")(x, stream(0))
    moved = out.mean((1, 2, 3)) - x.mean((1, 2, 3))
    assert -0.25 <= moved.min() < -0.2 and 0.2 < moved.max() <= 0.25
    grey = (out.mean(1).std((1, 2)) / x.mean(1).std((1, 2))).log()  # contrast alone
    assert -0.2501 <= grey.min() < -0.2 and 0.2 < grey.max() <= 0.2501
    keep = augment.frepo("cutout")(torch.ones(500, 1, 32, 32), stream(0))
    assert (keep.flatten(1).sum(1) == 32 * 32 - 64).all()  # an 8 x 8 hole fully inside
    rows = (keep.amin(3) == 0).float().argmax(2)
    assert rows.min() == 0 and rows.max() == 24


# --- DC --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", ["crop", "scale", "rotate"])
@pytest.mark.parametrize("shape", [(40, 1, 28, 28), (40, 3, 32, 32), (1, 1, 28, 28), (9, 2, 27, 27)])
def test_dc_operations_equal_the_published_ones(op, shape):
    aug, x = augment.dc(op), images(*shape) + 0.3
    params = aug.draw(stream(2, op), images=len(x))
    torch.testing.assert_close(aug.apply(x, params), plain_dc(aug.names, x, params.u[0]), rtol=1e-4, atol=2e-5)


def test_dc_rotation_at_its_ends_and_at_zero():
    x = images(3, 1, 28, 28)
    aug = augment.dc("rotate")
    params = aug.draw(stream(0), images=3)
    params.u[0, :, 5] = torch.tensor([0.0, 0.5, 1.0])  # -45, 0, 44 degrees
    out = aug.apply(x, params)
    torch.testing.assert_close(out[1], x[1], rtol=0, atol=1e-5)
    for i, angle in [(0, -45), (2, 44)]:
        turned = scipy.ndimage.rotate(x[i].numpy(), angle, axes=(-2, -1), cval=x.mean().item())
        r = (turned.shape[-1] - 28) // 2
        torch.testing.assert_close(out[i], torch.from_numpy(turned[:, r : r + 28, r : r + 28]), rtol=1e-4, atol=2e-5)


def test_dc_draws_an_operation_per_image():
    x = images(1, 1, 28, 28).expand(3000, -1, -1, -1)
    out = augment.dc("crop_noise")(x, stream(0))
    noisy = (out - x).abs().flatten(1).amax(1) < 0.01
    assert noisy.float().mean().item() == pytest.approx(0.5 + 0.5 / 64, abs=0.03)  # a crop by nothing looks the same
    difference = (out - x)[noisy & (out != x).flatten(1).all(1)]
    assert difference.std().item() == pytest.approx(0.001, rel=0.02)
    assert (difference.flatten(1)[0] != difference.flatten(1)[1]).any()


# --- ImageNet pipeline -----------------------------------------------------------------------------------------------
def imagenet_plain(image, u, mean, std):
    """The pipeline on one (3, H, W) normalised image, operation after operation on pixels in [0, 1]."""
    from torchvision.transforms.functional import hflip, resized_crop

    _, h, w = image.shape
    pixels = image * std.view(3, 1, 1) + mean.view(3, 1, 1)
    for k in range(10):
        area, aspect = h * w * (0.5 + 0.5 * u[k]), math.exp((2 * u[10 + k] - 1) * math.log(4 / 3))
        crop_w, crop_h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if crop_w <= w and crop_h <= h:
            break
    else:
        crop_w, crop_h = w, h
    top, left = int(u[20] * (h - crop_h + 1)), int(u[21] * (w - crop_w + 1))
    pixels = resized_crop(pixels, top, left, crop_h, crop_w, [h, w])
    pixels = hflip(pixels) if u[22] < 0.5 else pixels
    order = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)][int(u[26] * 6)]
    for op in order:
        k = 0.8 * u[23 + op] - 0.4
        grey = 0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
        target = [torch.zeros_like(grey), grey.mean().expand_as(grey), grey][op]
        pixels = (1 - k) * pixels + k * target
    normal = torch.special.ndtri(torch.tensor(u[27:30]))
    vectors = torch.tensor(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    ).double()
    shift = (vectors * (0.1 * normal) * torch.tensor([0.2175, 0.0188, 0.0045])).sum(1)
    return (pixels + shift.view(3, 1, 1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def test_imagenet_pipeline_equals_operation_after_operation():
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (COLOUR.mean, COLOUR.std))
    aug, x = named("imagenet"), images(40, 3, 48, 48, dtype=torch.float64)
    params = aug.draw(stream(0), images=40)
    expected = torch.stack(
        [imagenet_plain(i, u.double().tolist(), mean, std) for i, u in zip(x, params.u[0], strict=True)]
    )
    torch.testing.assert_close(aug.apply(x, params), expected, rtol=1e-5, atol=1e-5)


def test_resized_crop_shows_between_half_and_all_of_the_image():
    rows, cols = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    x = torch.stack([rows, cols, rows]).expand(400, -1, -1, -1)
    out = augment.ImageNet._resized_crop(x[None], augment.ImageNet().draw(stream(0), images=400).u)[0]
    height, width = (out[:, i].flatten(1).amax(1) - out[:, i].flatten(1).amin(1) + 1 for i in (0, 1))
    area, aspect = height * width / 64**2, width / height
    assert 0.48 <= area.min() < 0.55 and 0.95 < area.max() <= 1.0001
    assert 0.74 <= aspect.min() < 0.78 and 1.28 < aspect.max() <= 1.36
    mirrored = out[:, 1, 0, 0] > out[:, 1, 0, -1]
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)


# --- DC-BENCH --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", augment.DCBENCH_POLICIES)
def test_dcbench_treats_the_batch_as_8_bit_pixels_with_one_draw(policy):
    aug = named(f"dcbench:{policy}")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (COLOUR.mean, COLOUR.std))
    x = images(1, 3, 32, 32).expand(6, -1, -1, -1)
    for seed in range(4):
        out = aug(x, stream(seed))
        assert torch.equal(out, out[:1].expand_as(out))
        hole = out == 0
        pixels = (out * std + mean) * 255
        near = (pixels - pixels.round()).abs() < 1e-3
        assert (near | hole).all() and pixels.min() > -0.01 and pixels.max() < 255.01
        assert policy != "cifar_aug" or 64 <= hole[0, 0].sum() <= 256


# --- CutMix ----------------------------------------------------------------------------------------------------------
def test_cutmix_pastes_a_box_and_mixes_labels_by_its_area():
    values = torch.arange(8.0).view(8, 1, 1, 1).expand(-1, 3, 32, 32)
    labels = torch.arange(8)
    shares = []
    for seed in range(200):
        mixed, soft = augment.CutMix()(values, labels, stream(seed), 10)
        assert soft.shape == (8, 10) and torch.allclose(soft.sum(1), torch.ones(8))
        for i in range(8):
            other = mixed[i, 0] != i
            share = other.float().mean().item()
            partners = mixed[i, 0][other].unique()
            assert len(partners) <= 1 and torch.equal(mixed[i, 0], mixed[i, 2])
            if len(partners):
                assert soft[i, int(partners[0])].item() == pytest.approx(share) and soft[i, i].item() == pytest.approx(
                    1 - share, abs=1e-6
                )
                rows, cols = other.any(1).sum().item(), other.any(0).sum().item()
                assert rows * cols == other.sum()  # a full box
                shares.append(share)
    assert max(shares) > 0.8 and np.mean(shares) == pytest.approx(
        0.33, abs=0.05
    )  # clipping at borders shrinks the mean of 1/2


def test_cutmix_probability_soft_labels_and_networks_at_once():
    x, labels = images(5, 16, 3, 8, 8), torch.rand(5, 16, 4, generator=stream(0)).softmax(-1)
    before = x.clone()
    cutmix = augment.CutMix(0.5)
    on = cutmix.draw(stream(0), groups=4000, images=2).on
    assert on.float().mean().item() == pytest.approx(0.5, abs=0.03)
    for seed in range(6):
        mixed, soft = cutmix(x, labels, [stream(seed, g) for g in range(5)], 4)
        alone = [cutmix(x[g], labels[g], stream(seed, g), 4) for g in range(5)]
        assert all(torch.equal(mixed[g], a) and torch.equal(soft[g], b) for g, (a, b) in enumerate(alone))
        assert torch.allclose(soft.sum(-1), torch.ones(5, 16))
    assert torch.equal(x, before)
    off, same = augment.CutMix(0.0)(x, labels, stream(0), 4)
    assert torch.equal(off, x) and torch.equal(same, labels)
    single, soft = augment.CutMix()(x[0, :1], torch.tensor([2]), stream(0), 4)
    assert torch.equal(single, x[0, :1]) and soft.tolist() == [[0, 0, 1, 0]]


# --- names and bad input ---------------------------------------------------------------------------------------------
def test_names_round_trip():
    for name in [*EVERY, "dsa:flip", "frepo:color_crop"]:
        aug = named(name)
        assert named(aug.name).name == aug.name and repr(aug) == f"augment.named({aug.name!r})"
    assert augment.named("dsa").name == "dsa:color_crop_cutout_flip_scale_rotate"
    assert set(augment.AUGMENTATIONS) == {"none", "dsa", "idc", "frepo", "dc", "imagenet", "dcbench"}
    assert augment.dsa("flip") == augment.dsa("flip") != augment.dsa("crop")


def test_default_strategies():
    full, no_flip = "color_crop_cutout_flip_scale_rotate", "color_crop_cutout_scale_rotate"
    for dataset in ("CIFAR10", "CIFAR100", "FashionMNIST", "FashionMNIST-mini", "TinyImageNet", "ImageWoof", "my own"):
        assert augment.strategy_for(dataset) == full
    for dataset in ("MNIST", "SVHN", "digits", "MNIST@16px"):
        assert augment.strategy_for(dataset) == no_flip


@pytest.mark.parametrize(
    "name,message",
    [
        ("dsa:color_croop", "did you mean crop"),
        ("dsa:", "unknown DSA operation ''"),
        ("dsa:flip_flip", "twice"),
        ("dsa:translate", "color, crop, cutout, flip, scale, rotate"),
        ("frepo:scale", "translate"),
        ("dc:flip", "crop, scale, rotate, noise"),
        ("das", "did you mean dsa"),
        ("imagenet:flip", "nothing after a colon"),
        ("dcbench:trivial", "autoaug, randaug, imagenet_aug, cifar_aug"),
    ],
)
def test_unknown_names_say_what_exists(name, message):
    with pytest.raises(UserError, match=message):
        named(name)


def test_bad_input_is_named():
    aug, x = augment.dsa(), images(4, 3, 8, 8)
    with pytest.raises(UserError, match="normalised float"):
        aug(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), stream(0))
    with pytest.raises(UserError, match="normalised float"):
        aug.apply(x[0], aug.draw(stream(0)))
    with pytest.raises(UserError, match="2 groups of 1 images do not fit 1 groups of 4"):
        aug.apply(x, aug.draw(stream(0), groups=2))
    with pytest.raises(UserError, match="3 generators for 1 groups"):
        aug(x, [stream(i) for i in range(3)])
    with pytest.raises(UserError, match="mean and std"):
        augment.named("dcbench:randaug")
    with pytest.raises(UserError, match="3 channels"):
        augment.named("imagenet")(x[:, :1], stream(0))
    with pytest.raises(UserError, match=r"outside \[0, 1\]"):
        augment.CutMix(1.5)
    with pytest.raises(UserError, match="CutMix drawn for"):
        augment.CutMix().apply(x, torch.zeros(4, dtype=torch.long), augment.CutMix().draw(stream(0), images=3), 2)

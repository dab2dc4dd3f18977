"""Architectures, initial weights, and stacks of networks."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.evaluation import evaluate

RGB32, GREY28 = (3, 32, 32), (1, 28, 28)


def square(side, channels=3):
    return (channels, side, side)


def make(name, shape=RGB32, classes=10, seed=0):
    return networks.fresh(name, (shape, classes), stream(seed, "weights"))


def images(n, shape, seed=0):
    return torch.randn(n, *shape, generator=stream(seed, "images"))


# name, shape, parameters, embedding; 10 classes
CONVNETS = [
    ("ConvNetD1", RGB32, 331_530, 32_768),
    ("ConvNetD2", RGB32, 233_610, 8_192),
    ("ConvNetD3", RGB32, 320_010, 2_048),
    ("ConvNetD4", RGB32, 452_490, 512),
    ("ConvNetD5", RGB32, 596_490, 128),
    ("ConvNetD1", GREY28, 329_226, 32_768),
    ("ConvNetD2", GREY28, 231_306, 8_192),
    ("ConvNetD3", GREY28, 317_706, 2_048),
    ("ConvNetD4", GREY28, 450_186, 512),
    ("ConvNetD3", square(64), 381_450, 8_192),
    ("ConvNetD4", square(64), 467_850, 2_048),
    ("ConvNetD5", square(64), 600_330, 512),
    ("ConvNetD6", square(64), 744_330, 128),
    ("ConvNetD3", square(128), 627_210, 32_768),
    ("ConvNetD4", square(128), 529_290, 8_192),
    ("ConvNetD5", square(128), 615_690, 2_048),
    ("ConvNetD6", square(128), 748_170, 512),
    ("ConvNetD3", square(224), 1_303_050, 100_352),
    ("ConvNetD4", square(224), 698_250, 25_088),
    ("ConvNetD5", square(224), 657_930, 6_272),
    ("ConvNetD6", square(224), 754_570, 1_152),
    ("ConvNetD3", square(256), 1_610_250, 131_072),
    ("ConvNetD4", square(256), 775_050, 32_768),
    ("ConvNetD5", square(256), 677_130, 8_192),
    ("ConvNetD6", square(256), 763_530, 2_048),
    ("ConvNetW32", RGB32, 24_714, 512),
    ("ConvNetW64", RGB32, 86_282, 1_024),
    ("ConvNetW256", RGB32, 1_229_834, 4_096),
    ("ConvNetW1024", RGB32, 19_075_082, 16_384),
    ("ConvNetNN", RGB32, 319_242, 2_048),
    ("ConvNetBN", RGB32, 320_010, 2_048),
    ("ConvNetGN", RGB32, 320_010, 2_048),
    ("ConvNetIN", RGB32, 320_010, 2_048),
    ("ConvNetLN", RGB32, 663_306, 2_048),
]
OTHERS = [
    ("MLP", RGB32, 411_146, 128),
    ("MLP", GREY28, 118_282, 128),
    ("LeNet", RGB32, 62_006, 84),
    ("LeNet", GREY28, 61_706, 84),
    ("AlexNet", RGB32, 1_872_202, 3_072),
    ("AlexNet", GREY28, 1_865_802, 3_072),
    ("AlexNetBN", RGB32, 1_874_122, 3_072),
    ("AlexNetBN", GREY28, 1_867_722, 3_072),
    ("AlexNet", square(128), 2_333_002, 49_152),
    ("AlexNet", square(256), 3_807_562, 196_608),
    ("VGG11", RGB32, 9_231_114, 512),
    ("VGG11", GREY28, 9_229_962, 512),
    ("VGG11BN", RGB32, 9_231_114, 512),
    ("VGG11BN", GREY28, 9_229_962, 512),
    ("GLaD-VGG11", square(128), 9_476_874, 25_088),
    ("GLaD-VGG11", square(256), 9_476_874, 25_088),
    ("ResNet18", RGB32, 11_173_962, 512),
    ("ResNet18", GREY28, 11_172_810, 512),
    ("ResNet18BN", RGB32, 11_173_962, 512),
    ("ResNet18", square(128), 11_173_962, 512),
    ("ResNet18ImageNet", square(224), 11_181_642, 512),
    ("ResNet18_AP", RGB32, 11_250_762, 8_192),
    ("ResNet18_AP", GREY28, 11_213_770, 4_608),
    ("ResNet18BN_AP", RGB32, 11_250_762, 8_192),
    ("ResNet10", RGB32, 4_903_242, 512),
    ("ResNet50", RGB32, 23_520_842, 2_048),
    *(
        (name, shape, n, 512)
        for shape, n in (
            (GREY28, 4_902_090),
            (square(64), 4_903_242),
            (square(128), 4_903_242),
            (square(224), 4_910_922),
        )
        for name in ("IDC-ResNet10", "IDC-ResNetAP10", "IDC-ResNet10BN", "IDC-ResNetAP10BN")
    ),
    *(
        (name, shape, n, 512)
        for shape, n in (
            (GREY28, 11_172_810),
            (square(64), 11_173_962),
            (square(128), 11_173_962),
            (square(224), 11_181_642),
        )
        for name in ("IDC-ResNet18", "IDC-ResNetAP18")
    ),
    *((name, RGB32, 1_228_970, 256) for name in ("IDC-ThinResNet10", "IDC-ThinResNetAP10", "IDC-ThinResNet10BN")),
    *((name, RGB32, 2_797_610, 256) for name in ("IDC-ThinResNet18", "IDC-ThinResNetAP18", "IDC-ThinResNet18BN")),
    *(
        (name, shape, 1_232_810, 256)
        for shape in (square(64), square(224))
        for name in ("IDC-LargeThinResNet10", "IDC-LargeThinResNetAP10", "IDC-LargeThinResNet10BN")
    ),
    ("IDC-LargeThinResNet18", square(64), 2_801_450, 256),
    ("IDC-LargeThinResNetAP18", square(64), 2_801_450, 256),
    ("IDC-LargeResNet10BN", RGB32, 4_910_922, 512),
    ("IDC-LargeResNet18BN", RGB32, 11_181_642, 512),
    ("ViT", square(128), 16_176_650, 512),
    ("ViT", square(256), 16_274_954, 512),
    ("ViTCIFAR", RGB32, 9_523_722, 512),
    ("FRePoConv", RGB32, 1_560_842, 8_192),
    ("FRePoConvBN", RGB32, 1_561_610, 8_192),
    ("FRePoConv", GREY28, 1_558_538, 8_192),
    ("KIPConv", RGB32, 28_507_146, 16_384),
    ("KIPConv3", RGB32, 19_068_938, 16_384),
]


@pytest.mark.parametrize(("name", "shape", "parameters", "embedding"), CONVNETS + OTHERS)
def test_parameters_and_embedding_are_those_of_the_papers(name, shape, parameters, embedding):
    network = networks.blank(name, shape, 10)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.embed_dim == embedding
    assert network.name == networks.canonical(name) == name


def test_a_hundred_classes():
    assert sum(p.numel() for p in networks.blank("ConvNet", RGB32, 100).parameters()) == 504_420


@pytest.mark.parametrize(
    ("side", "depth", "last"),
    [(8, 2, 2), (16, 2, 4), (28, 3, 4), (32, 3, 4), (64, 4, 4), (128, 5, 4), (224, 6, 3), (256, 6, 4)],
)
def test_convnet_depth_follows_the_resolution(side, depth, last):
    network = make("ConvNet", square(side, 1))
    assert len(network.blocks) == depth
    assert network.embed_dim == 128 * last**2


def test_convnet_has_fourteen_parameter_tensors_and_matches_three_convolutions():
    shapes = [tuple(p.shape) for p in make("ConvNet").parameters()]
    assert len(shapes) == 14
    assert sum(torch.Size(s).numel() for s in shapes if len(s) > 2) == 298_368


def test_idc_maps_before_pooling():
    for name, shape, side in [
        ("IDC-ResNet10", square(128), 8),
        ("IDC-ResNetAP10", square(128), 8),
        ("IDC-ResNet10", square(224), 7),
        ("IDC-ResNetAP10", square(224), 7),
        ("IDC-ResNet10", GREY28, 4),
        ("IDC-ResNetAP10", GREY28, 3),
        ("IDC-LargeResNet10", GREY28, 1),
    ]:
        with torch.no_grad():
            assert make(name, shape).body(images(2, shape)).shape[2:] == (side, side), (name, shape)


SMALL = [name for name in networks.NETWORKS if name not in ("ViT", "ConvNetD6", "KIPConv", "KIPConv3", "ConvNetW1024")]


@pytest.mark.parametrize("name", SMALL)
def test_every_network_gives_logits_from_its_embedding(name):
    network = make(name, classes=7).eval()
    x = images(2, RGB32)
    with torch.no_grad():
        embedding, logits = network.embed(x), network(x)
    assert embedding.shape == (2, network.embed_dim) and logits.shape == (2, 7)
    torch.testing.assert_close(logits, F.linear(embedding, network.classifier.weight, network.classifier.bias))
    assert logits.isfinite().all() and not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(
    "name", ["ConvNet", "VGG11", "ResNet18_AP", "IDC-ResNetAP10", "GLaD-VGG11", "ConvNetLN", "ConvNetGN"]
)
def test_no_image_sees_another_without_batch_norm(name):
    network, x = make(name), images(4, RGB32)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        torch.testing.assert_close(network(x[order]), network(x)[order], rtol=1e-4, atol=1e-4)


def test_images_see_each_other_with_batch_norm():
    network, x = make("ConvNetBN"), images(4, RGB32)
    with torch.no_grad():
        assert (network(x)[:2] - network(x[:2])).abs().max() > 1e-2


def test_conv_biases_before_instance_norm_get_no_gradient():
    network = make("ConvNet")
    F.cross_entropy(network(images(8, RGB32)), torch.arange(8)).backward()
    weights = network.blocks[1][0].weight.grad.abs().max()
    for block in network.blocks:
        assert block[0].bias.grad.abs().max() < 1e-5 * weights


def test_group_norm_with_a_group_per_channel_is_affine_instance_norm():
    ours, plain = networks.base.norm("IN", 6), nn.InstanceNorm2d(6, affine=True)
    with torch.no_grad():
        for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
            p.copy_(q.copy_(torch.randn(6, generator=stream(1))))
    x = images(3, (6, 9, 9))
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == 12


def test_convnet_by_hand():
    network, x = make("ConvNetD2W8", GREY28), images(2, GREY28)
    conv, norm = network.blocks[0][0], network.blocks[0][1]
    y = F.conv2d(x, conv.weight, conv.bias, padding=3)
    assert y.shape[2:] == (32, 32)
    mean, var = y.mean((2, 3), keepdim=True), y.var((2, 3), keepdim=True, unbiased=False)
    z = (y - mean) / (var + 1e-5).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    first = F.avg_pool2d(z.clamp(min=0), 2)
    torch.testing.assert_close(network.blocks[0](x), first)
    taps = network.taps(x)
    assert [tuple(t.shape[1:]) for t in taps] == [(8, 32, 32), (8, 16, 16), (8, 8, 8)]
    torch.testing.assert_close(taps[0], z.clamp(min=0))
    torch.testing.assert_close(taps[-1].flatten(1), network.embed(x))


def test_vit_has_layer_norm_only_in_its_cifar_form():
    def norms(network):
        return sum(isinstance(m, nn.LayerNorm) for m in network.modules())

    assert norms(make("ViT", square(32))) == 0 and norms(make("ViTCIFAR")) == 2 * 6 + 1


def test_vit_cuts_patches_by_row_column_channel():
    network = make("ViT", square(32))
    x = torch.arange(2 * 3 * 32 * 32.0).view(2, 3, 32, 32)
    seen = []
    network.tokens.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.eval()(x)
    assert seen[0].shape == (2, 4, 768)
    torch.testing.assert_close(seen[0][1, 3].view(16, 16, 3), x[1, :, 16:, 16:].permute(1, 2, 0))


# --- names -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("ConvNet-6", "ConvNetD6"),
        ("ConvNet3", "ConvNetD3"),
        ("ConvNet-D4-W64-BN", "ConvNetD4W64BN"),
        ("ConvNet-W64-ASwish-MP", "ConvNetW64ASwishMP"),
        ("ResNetAP-10", "IDC-ResNetAP10"),
        ("ResNet18-AP", "ResNet18_AP"),
        ("ConvNetAS", "ConvNetAS"),
        ("ConvNetAP", "ConvNetAP"),
    ],
)
def test_spellings(spelling, canonical):
    assert networks.canonical(spelling) == canonical


def test_options_of_a_composed_name_are_applied():
    network = make("ConvNetD2W16ALGNMP", square(16))
    conv, norm, act, pool = network.blocks[1]
    assert (conv.in_channels, conv.out_channels, norm.num_groups) == (16, 16, 4)
    assert isinstance(act, nn.LeakyReLU) and isinstance(pool, nn.MaxPool2d) and len(network.blocks) == 2


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("ConvNt", RGB32, "did you mean ConvNet"),
        ("ConvNetBND3", RGB32, "in this order"),
        ("ResNet-18", RGB32, "two networks"),
        ("ResNet19", RGB32, "ResNet18"),
        ("tochvision:resnet18", RGB32, "torchvision"),
        ("ConvNetD6", RGB32, "at least 64"),
        ("ConvNetD3", square(4), "at least 8"),
        ("ConvNetW30GN", RGB32, "multiple of 4"),
        ("VGG11", square(64), "GLaD-VGG11"),
        ("VGG11", square(16), "at least 32"),
        ("LeNet", square(8), "at least 16"),
        ("AlexNet", square(4), "at least 8"),
        ("IDC-LargeResNet18", square(4), None),
        ("IDC-ResNetAP10", square(4), "at least 8"),
        ("ViT", square(28), "multiples of 16"),
        ("ResNet18_AP", square(6), "at least 8"),
        ("FRePoConv", square(7), "at least 8"),
        ("KIPConv", square(7), "at least 8"),
    ],
)
def test_what_cannot_work_is_said_with_what_can(name, shape, says):
    if says is None:  # strides leave at least one pixel of any image
        assert make(name, shape)(images(2, shape)).shape == (2, 10)
        return
    with pytest.raises(UserError, match=says):
        make(name, shape)


# --- initial weights -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ConvNet", "ConvNetBN", "IDC-ResNet10", "ViTCIFAR", "FRePoConvBN", "KIPConv3"])
def test_weights_depend_on_the_generator_alone(name):
    before = torch.random.get_rng_state()
    first, rng = make(name), stream(0, "weights")
    other = networks.fresh(name, (RGB32, 10), stream(1))
    redrawn = other.redraw(rng)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (key, p), q in zip(first.state_dict().items(), redrawn.state_dict().values(), strict=True):
        assert torch.equal(p, q), key
    following = networks.fresh(name, (RGB32, 10), rng)
    assert not torch.equal(following.classifier.weight, first.classifier.weight)


def test_default_initialisation_is_pytorchs():
    network = make("ConvNetW256")
    for layer, fan_in in [(network.blocks[0][0], 27), (network.blocks[1][0], 2304), (network.classifier, 4096)]:
        for p in (layer.weight, layer.bias):
            assert p.abs().max() <= fan_in**-0.5
        w = layer.weight.detach().flatten()
        assert w.abs().max() > 0.99 * fan_in**-0.5
        torch.testing.assert_close(
            w.std(), torch.tensor((3 * fan_in) ** -0.5), rtol=0.03, atol=0
        )  # of a uniform distribution
        assert abs(float(w.mean())) < 0.03 * fan_in**-0.5
    assert torch.equal(network.blocks[2][1].weight, torch.ones(256)) and torch.equal(
        network.blocks[2][1].bias, torch.zeros(256)
    )


def test_idc_resnets_start_with_he_weights_and_the_others_do_not():
    for name, std in [("IDC-ResNet10", (2 / (9 * 64)) ** 0.5), ("ResNet10", (3 * 27) ** -0.5)]:
        first = make(name).body[0].weight.detach()
        assert first.shape == (64, 3, 3, 3)
        assert abs(float(first.std()) / std - 1) < 0.06, name
    assert make("IDC-ResNet10").classifier.weight.abs().max() <= 512**-0.5


def test_frepo_and_kip_initialisations():
    frepo, kip = make("FRePoConv"), make("KIPConv3")
    conv = frepo.body[3]
    assert abs(float(conv.weight.detach().std()) * (128 * 9) ** 0.5 - 1) < 0.01  # variance 1/fan_in
    assert conv.weight.abs().max() * (128 * 9) ** 0.5 <= 2 / 0.8796 and not conv.bias.any()  # cut at two deviations
    conv = kip.body[3]
    assert abs(float(conv.weight.detach().std()) * (1024 * 9 / 2) ** 0.5 - 1) < 0.01  # variance 2/fan_in
    assert abs(float(conv.bias.detach().std()) / 0.1 - 1) < 0.1


def test_dropout_draws_from_the_networks_own_seed():
    x = images(2, RGB32)
    before = torch.random.get_rng_state()
    first, again = make("ViTCIFAR"), make("ViTCIFAR")
    passes = [first(x), first(x)]
    assert not torch.equal(*passes)
    assert torch.equal(again(x), passes[0])
    resumed = make("ViTCIFAR", seed=5)
    resumed.load_state_dict(again.state_dict())  # a checkpoint goes on with the second pass
    assert torch.equal(resumed(x), passes[1])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.eval()(x), first(x))


@pytest.mark.parametrize(("name", "shape"), [("ViT", square(32)), ("ViTCIFAR", RGB32)])
def test_transformers_drop_units_and_no_attention(name, shape):
    """The official code drops out of embeddings, projections and MLPs alone."""
    network, x = make(name, shape).train(), images(2, shape)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(network(x), network.eval()(x))


# --- models of other libraries ---------------------------------------------------------------------------------------
def check_foreign(name, shape, dim):
    before = torch.random.get_rng_state()
    network = make(name, shape, classes=7)
    assert network.embed_dim == dim and network.name == name
    x = images(2, shape)
    again = make(name, shape, classes=7)
    assert torch.equal(network(x), again(x))  # train mode: dropout included
    torch.testing.assert_close(network.eval()(x), network.classifier(network.embed(x)))
    redrawn = make(name, shape, classes=7, seed=3).redraw(stream(0, "weights")).eval()
    assert torch.equal(redrawn.embed(x), make(name, shape, classes=7).eval().embed(x))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model", "shape", "dim"), [("resnet18", GREY28, 512), ("mobilenet_v3_small", square(48), 1024)]
)
def test_torchvision_models(model, shape, dim):
    check_foreign(f"torchvision:{model}", shape, dim)


def test_timm_models():
    pytest.importorskip("timm")
    check_foreign("timm:vit_tiny_patch16_224", square(32, 1), 192)


def test_a_network_of_ones_own(digits):
    def build(shape, classes):
        layers = nn.Flatten(), nn.Linear(math.prod(shape), 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, classes)
        return nn.Sequential(*layers)

    name = networks.own("two layers", build)
    check_foreign(name, RGB32, 16)
    found = evaluate(*digits, "vico_dsa@60ep", name, num_eval=2, loop=Loop(bar=False))
    assert found.network == "own:two layers" and min(found.test_accuracy_pct) > 50
    networks.own("no logits", lambda shape, classes: nn.Sequential(nn.Linear(32, classes)))
    with pytest.raises(UserError, match=r"own:no logits cannot take 32x32 images \(it gives .* last layer, not"):
        make("own:no logits")
    networks.own("softmax", lambda *like: nn.Sequential(build(*like), nn.LogSoftmax(1)))
    with pytest.raises(UserError, match=r"last linear layer is followed by others, such as a softmax"):
        make("own:softmax")
    with pytest.raises(UserError, match="needs a name"):
        networks.own(" ", build)


def test_layers_that_learn_their_size_are_drawn_by_the_seed_too():
    def build(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.Linear(16, classes))

    check_foreign(networks.own("lazy", build), RGB32, 16)


@pytest.mark.parametrize(
    ("name", "side", "says"),
    [
        ("own:unheard of", 32, r"networks.own\(name, build\)"),
        ("torchvision:resnt18", 32, "did you mean resnet18"),
        ("torchvision:squeezenet1_0", 64, "linear layer"),
        ("torchvision:densenet121", 8, "cannot take 8x8"),
        ("timm:vit_tny", 32, "unknown timm model"),
    ],
)
def test_wrong_models_are_refused(name, side, says):
    with pytest.raises(UserError, match=says):
        make(name, square(side))


# --- stacks ----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def descend(loss, parameters, lr=0.1):
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.sub_(lr * g)


@pytest.mark.parametrize("name", ["ConvNetD2W32", "ConvNetD2W8BN", "LeNet", "IDC-ThinResNet10"])
def test_a_stack_trains_as_its_networks_do_alone(name):
    alone = [make(name, seed=i) for i in range(3)]
    nets = networks.stack(alone)
    x, y = images(3 * 4, RGB32).view(3, 4, *RGB32), torch.arange(12).view(3, 4) % 10
    for _ in range(2):
        descend(F.cross_entropy(nets(x).flatten(0, 1), y.flatten(), reduction="sum"), list(nets.params.values()))
    for i, network in enumerate(alone):
        for _ in range(2):
            descend(F.cross_entropy(network(x[i]), y[i], reduction="sum"), list(network.parameters()))
        unstacked = nets.network(i)
        for (key, p), q in zip(network.state_dict().items(), unstacked.state_dict().values(), strict=True):
            torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    nets.eval()
    torch.testing.assert_close(nets(x[0])[1], alone[1].eval()(x[0]), rtol=1e-4, atol=1e-4)  # images all networks share


def test_a_stack_copies_its_networks():
    first = make("LeNet")
    before = first.classifier.weight.clone()
    nets = networks.stack([first])
    with torch.no_grad():
        nets.params["classifier.weight"].zero_()
    assert torch.equal(first.classifier.weight, before)


def test_stacks_refuse_what_does_not_fit():
    with pytest.raises(UserError, match="architecture"):
        networks.stack([make("LeNet"), make("MLP")])
    with pytest.raises(UserError, match="at least one"):
        networks.stack([])
    with pytest.raises(UserError, match=r"\(2, B, C, H, W\)"):
        networks.stack([make("LeNet"), make("LeNet")])(images(3, (1, *RGB32)))

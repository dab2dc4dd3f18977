"""DiT and its diffusion: published counts and numbers, equality with diffusers and with plain loops, resume, clear
errors."""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from steps import in_steps
from torch import nn

from distill_lib import data
from distill_lib.core import weights as core_weights
from distill_lib.core.errors import TimeUp, UserError
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.experiments import prerequisites
from distill_lib.generators import dit
from distill_lib.generators.diffusion import discrete
from distill_lib.generators.diffusion.discrete import Schedule
from distill_lib.generators.dit import DiT, DiTArchitecture, autoencoder
from distill_lib.methods import minimax

TINY = DiTArchitecture(side=8, channels=4, patch=2, width=48, depth=2, heads=4, num_classes=7)


def awake(network, seed=0):
    """Random weights everywhere: a new DiT answers zero."""
    g = stream(seed, "awake")
    for p in network.parameters():
        if p.requires_grad:
            p.data = torch.randn(p.shape, generator=g) * 0.2
    return network.eval()


@pytest.fixture(scope="module")
def inputs():
    g = stream(0)
    return torch.randn(3, 4, 8, 8, generator=g), torch.tensor([0, 500, 999]), torch.tensor([0, 6, 7])


# --- the network ---
def test_dit_xl_2_has_the_published_counts():
    with torch.device("meta"):
        plain, scaled = DiT(DiTArchitecture()), DiT(DiTArchitecture(scaled=14))
    count = lambda network, parts=("",): sum(
        p.numel() for k, p in network.named_parameters() if any(x in k for x in parts)
    )
    assert count(plain) == 675_129_632 and count(scaled) == 675_226_400
    assert (
        count(scaled, ("gamma",)) == 14 * 6912
        and count(scaled, ("bias",)) == 489_632
        and count(scaled, ("y_embed",)) == 1_153_152
    )
    assert count(scaled, dit.DIFFFIT) == 1_739_552


def test_state_dict_has_the_official_names():
    official = """
        pos_embed x_embedder.proj.weight t_embedder.mlp.0.weight t_embedder.mlp.2.bias y_embedder.embedding_table.weight
        blocks.1.attn.qkv.weight blocks.1.attn.proj.bias blocks.0.mlp.fc1.weight blocks.0.mlp.fc2.bias
        blocks.0.adaLN_modulation.1.weight final_layer.linear.weight final_layer.adaLN_modulation.1.bias
    """
    names = set(DiT(TINY).state_dict())
    assert set(official.split()) <= names
    assert len(names) == 1 + 2 + 4 + 1 + 2 * 10 + 4


@pytest.mark.parametrize("of", [TINY, replace(TINY, side=4, patch=1, channels=3, depth=1, heads=2)])
def test_a_dit_saved_by_diffusers_gives_diffusers_outputs(of, tmp_path, inputs):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        theirs = diffusers.DiTTransformer2DModel(
            num_attention_heads=of.heads,
            attention_head_dim=of.width // of.heads,
            in_channels=of.channels,
            out_channels=2 * of.channels,
            num_layers=of.depth,
            sample_size=of.side,
            patch_size=of.patch,
            num_embeds_ada_norm=of.num_classes,
        ).eval()
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape) * 0.2)
        for block in theirs.transformer_blocks[1:]:  # every block holds a copy of the same embedders
            block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    theirs.save_pretrained(tmp_path / "pipeline" / "transformer")
    ours = dit.read(tmp_path / "pipeline").eval()
    assert ours.arch == replace(of, numerics="diffusers")
    z, t, labels = inputs[0][:, : of.channels, : of.side, : of.side], *inputs[1:]
    with torch.no_grad():
        wanted = theirs(z, timestep=t, class_labels=labels).sample
        assert torch.allclose(ours(z, t, labels), wanted, atol=2e-5, rtol=1e-4)
        official = dit.read(tmp_path / "pipeline", numerics="official").eval()(z, t, labels)
    assert not torch.allclose(official, wanted, atol=1e-3)  # other frequencies of the timestep: why it is a switch


def test_an_official_state_dict_reads_back_and_scales_of_one_change_nothing(tmp_path, inputs):
    network = awake(DiT(replace(TINY, width=128, heads=2)))
    save_file(network.state_dict(), tmp_path / "dit.safetensors")
    torch.save(network.state_dict(), tmp_path / "dit.pt")
    for file in ("dit.safetensors", "dit.pt"):
        back = dit.read(tmp_path / file).eval()
        assert back.arch == network.arch and torch.equal(back(*inputs), network(*inputs))
    tunable = dit.difffit(network).eval()
    assert torch.equal(tunable(*inputs), network(*inputs)) and tunable.arch.scaled == 1


def as_minimax(network):
    """The weights under the names of Minimax's code, where two modules each call their scales gamma1 and gamma2."""
    theirs = {
        "attn.gamma_qkv": "attn.gamma1",
        "attn.gamma_proj": "attn.gamma2",
        "gamma_attn": "gamma1",
        "gamma_mlp": "gamma2",
    }
    state = {}
    for name, tensor in network.state_dict().items():
        block = ".".join(name.split(".")[:2])
        state[f"{block}.{theirs[name[len(block) + 1 :]]}" if "gamma" in name else name] = tensor.clone()
    return state


def minimax_forward(state, depth, heads, network, z, t, labels):
    """The blocks of Minimax's code in plain operations on its state dict; what lies before and after them is
    `network`'s, and DiT's own."""
    x, c = network.x_embedder(z) + network.pos_embed, network.t_embedder(t) + network.y_embedder(labels)
    for i in range(depth):
        at = lambda name, i=i: state.get(f"blocks.{i}.{name}", torch.ones(()))  # no scale where there is none
        linear = lambda name, x, at=at: x @ at(f"{name}.weight").T + at(f"{name}.bias")
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = linear("adaLN_modulation.1", nn.functional.silu(c))[
            :, None
        ].chunk(6, 2)
        h = nn.functional.layer_norm(x, x.shape[2:], eps=1e-6) * (1 + scale) + shift
        q, k, v = (at("attn.gamma1") * linear("attn.qkv", h)).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        a = ((q @ k.transpose(2, 3)) / q.shape[3] ** 0.5).softmax(3) @ v
        x = x + at("gamma1") * gate * (at("attn.gamma2") * linear("attn.proj", a.transpose(1, 2).flatten(2)))
        h = nn.functional.layer_norm(x, x.shape[2:], eps=1e-6) * (1 + mlp_scale) + mlp_shift
        x = x + at("gamma2") * mlp_gate * linear(
            "mlp.fc2", nn.functional.gelu(linear("mlp.fc1", h), approximate="tanh")
        )
    x = network.final_layer(x, c)
    n, p = network.arch.side // network.arch.patch, network.arch.patch
    return torch.einsum("nhwpqc->nchpwq", x.view(len(x), n, n, p, p, -1)).reshape(len(x), -1, n * p, n * p)


@torch.no_grad()
def test_a_checkpoint_of_minimaxs_code_reads_with_its_scales(tmp_path, inputs):
    network = awake(DiT(replace(TINY, width=128, heads=2, scaled=1)))
    state = as_minimax(network)
    assert {"blocks.0.gamma1", "blocks.0.gamma2", "blocks.0.attn.gamma1", "blocks.0.attn.gamma2"} == {
        k for k in state if "gamma" in k
    }
    wanted = minimax_forward(state, 2, 2, network, *inputs)
    torch.save(state, tmp_path / "tuned.pt")
    raw = {k: torch.zeros_like(v) for k, v in state.items()}
    args = argparse.Namespace(model="DiT-XL/2", ckpt=None, lambda_pos=0.002)
    torch.save(
        {"model": raw, "ema": state, "opt": {"state": {0: torch.ones(1)}}, "args": args}, tmp_path / "0012000.pt"
    )
    for file in ("tuned.pt", "0012000.pt"):  # the averaged weights, which its sampler takes
        back = dit.read(tmp_path / file).eval()
        assert back.arch == network.arch
        assert float((back(*inputs) - wanted).norm() / wanted.norm()) < 1e-5
    plain = {k: v for k, v in state.items() if "gamma" not in k}
    torch.save(plain, tmp_path / "plain.pt")
    assert not torch.allclose(dit.read(tmp_path / "plain.pt").eval()(*inputs), wanted, atol=1e-3)  # the scales count


def test_a_foreign_file_is_one_clear_error(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="damaged.*give the state dict of a DiT"):
        dit.read(tmp_path / "other.safetensors")
    torch.save({"x": nn.Linear(1, 1)}, tmp_path / "pickle.pt")
    with pytest.raises(UserError, match="pickle.pt: cannot be read as weights .*more than tensors"):
        dit.read(tmp_path / "pickle.pt")
    with pytest.raises(UserError, match="damaged.*a DiT as diffusers writes it"):
        dit.read(tmp_path)
    with pytest.raises(UserError, match="patches of 3 do not tile latents of 8"):
        DiT(replace(TINY, patch=3))


def test_a_new_network_answers_zero_and_its_weights_depend_on_the_generator_alone(inputs):
    before = torch.random.get_rng_state()
    first, again = (DiT(TINY).draw_weights(stream(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not first(*inputs).any() and torch.equal(torch.random.get_rng_state(), before)
    assert first.blocks[0].attn.qkv.weight.std() > 0.05 and float(
        first.y_embedder.embedding_table.weight.detach().std()
    ) == pytest.approx(0.02, rel=0.1)


def test_positions_by_hand():
    table = dit.positions(8, 3)  # frequencies 1 and 0.01
    row, column = 2, 1
    wanted = [f(p * w) for p in (column, row) for f in (math.sin, math.cos) for w in (1, 0.01)]
    assert table[row * 3 + column].tolist() == pytest.approx(wanted)


def test_timesteps_are_cosines_first():
    layer = dit.TimestepEmbedder(TINY)
    layer.mlp = nn.Sequential(nn.Linear(256, 256, bias=False))
    layer.mlp[0].weight.data = torch.eye(256)
    x = layer(torch.tensor([3]))[0]
    assert x[0].item() == pytest.approx(math.cos(3)) and x[128].item() == pytest.approx(math.sin(3))
    assert x[64].item() == pytest.approx(math.cos(3 * 0.01), abs=1e-6)


# --- guidance ---
@pytest.mark.parametrize("channels", ["official", "all"])
def test_guidance_of_one_is_conditional_and_of_zero_unconditional(channels, inputs):
    network, (z, t, _) = awake(DiT(TINY)), inputs
    labels, none = torch.tensor([1, 2, 3]), torch.full((3,), 7)
    given, without = network(z, t, labels), network(z, t, none)
    run = lambda scale: dit.guided(network, labels, 7, scale, channels)(z, t)
    close = lambda a, b: torch.allclose(a, b, atol=1e-4, rtol=1e-4)
    assert torch.equal(run(1), given)
    assert close(run(1.0 + 1e-9), given)  # the two-fold pass agrees with the short cut
    c = 3 if channels == "official" else 4
    assert close(run(0)[:, :c], without[:, :c]) and close(run(0)[:, c:], given[:, c:])
    assert close(run(4)[:, :c], without[:, :c] + 4 * (given - without)[:, :c])
    assert (c == 3) == close(run(4)[:, 3], given[:, 3])


# --- schedules ---
def test_the_linear_schedule_and_its_fifty_steps_have_the_published_numbers():
    schedule = Schedule.linear()
    wanted = {100: 0.895142, 250: 0.521423, 500: 0.0777967, 999: 4.03583e-5}
    assert {t: schedule.alpha_bar[t].item() for t in wanted} == pytest.approx(wanted, rel=1e-5)
    fifty = schedule.respaced(50)
    assert fifty.timesteps.flip(0)[:3].tolist() == [999, 979, 958] and fifty.timesteps[:3].tolist() == [0, 20, 41]
    assert fifty.timesteps.tolist() == [round(i * 999 / 49) for i in range(50)]
    assert [fifty.betas[i].item() for i in (0, 1, -1)] == pytest.approx([1e-4, 0.00616519, 0.329809], rel=1e-5)
    assert torch.allclose(fifty.alpha_bar, schedule.alpha_bar[fifty.timesteps])
    assert schedule.respaced(1000).timesteps.tolist() == list(range(1000)) and schedule.respaced(
        1
    ).timesteps.tolist() == [0]
    with pytest.raises(UserError, match="0 denoising steps: give 1 to 1000"):
        schedule.respaced(0)


def test_respaced_steps_are_those_of_the_official_running_sum():
    """guided-diffusion adds up the stride and rounds every sum; at 21 steps the middle one ends up just below 499.5."""
    schedule = Schedule.linear()
    assert schedule.respaced(21).timesteps[10] == 499
    for count in (2, 4, 21, 25, 43, 50, 100, 250, 999):  # 25 and 50: what pools are drawn with
        stride, at, wanted = 999 / (count - 1), 0.0, []
        for _ in range(count):
            wanted.append(round(at))
            at += stride
        assert schedule.respaced(count).timesteps.tolist() == wanted


def test_the_cosine_schedule_follows_its_cosine():
    schedule = Schedule.cosine(100)
    level = lambda t: math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2
    assert schedule.alpha_bar[49].item() == pytest.approx(level(50) / level(0)) and schedule.betas.max() == 0.999
    with pytest.raises(UserError, match="between 0 and 1"):
        Schedule(torch.tensor([0.1, 1.0]))


def test_noising_posterior_and_reverse_by_the_formulas():
    schedule, g = Schedule.linear(10), stream(0)
    z, noise, place = (torch.randn(2, 1, 2, 2, generator=g, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0, 7])
    z_t = schedule.noised(z, t, noise)
    assert torch.allclose(schedule.clean(z_t, t, noise), z)
    mean, log_variance = schedule.reverse(torch.cat([noise, place], 1), z_t, t)
    for i, s in enumerate(t.tolist()):
        beta = torch.linspace(0.01, 0.999, 10, dtype=torch.float64)
        bar = [math.prod(1 - beta[: k + 1]) for k in range(10)]
        before = bar[s - 1] if s else 1.0
        assert torch.allclose(z_t[i], math.sqrt(bar[s]) * z[i] + math.sqrt(1 - bar[s]) * noise[i])
        # the posterior of z_{s-1} by the product of two normal densities: precisions add
        if s:
            precision = 1 / (1 - before) + (1 - beta[s]) / beta[s]
            by_hand = (math.sqrt(before) * z[i] / (1 - before) + math.sqrt(1 - beta[s]) * z_t[i] / beta[s]) / precision
            assert torch.allclose(mean[i], by_hand)
            share = (place[i] + 1) / 2
            assert torch.allclose(log_variance[i], share * beta[s].log() - (1 - share) * precision.log())
        else:
            assert torch.allclose(mean[i], z[i])


def test_the_losses_by_hand():
    schedule, g = Schedule.linear(), stream(1)
    z, noise = (torch.randn(3, 2, 4, 4, generator=g) * s for s in (0.5, 1.0))
    t = torch.tensor([0, 1, 700])
    z_t = schedule.noised(z, t, noise)
    exact = torch.cat([noise, torch.full_like(noise, -1.0)], 1)  # right noise, the posterior's own variance
    error, bound = schedule.losses(exact, z, z_t, t, noise)
    assert torch.allclose(error, torch.zeros(3)) and torch.allclose(bound[1:], torch.zeros(2), atol=1e-5)
    upper = torch.cat([noise, torch.ones_like(noise)], 1)  # beta instead: KL of two zero-mean normals
    ratio = (schedule.posterior_variance / schedule.betas)[1:]
    wanted = [0.5 * (r - 1 - math.log(r)) / math.log(2) for r in ratio[[0, 699]].tolist()]
    assert schedule.losses(upper, z, z_t, t, noise)[1][1:].tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-7)
    off = torch.cat([noise + 0.5, torch.full_like(noise, -1.0)], 1)
    assert schedule.losses(off, z, z_t, t, noise)[0].tolist() == pytest.approx([0.25] * 3)


def test_the_bound_trains_variances_alone():
    schedule, g = Schedule.linear(), stream(1)
    z, noise = (torch.randn(2, 1, 2, 2, generator=g) for _ in range(2))
    t = torch.tensor([0, 300])
    answer = torch.randn(2, 2, 2, 2, generator=g).requires_grad_()
    schedule.losses(answer, z, schedule.noised(z, t, noise), t, noise)[1].sum().backward()
    assert not answer.grad[:, :1].any() and bool(answer.grad[:, 1:].ne(0).all())


def test_the_first_step_s_bound_is_the_probability_of_the_grey_level():
    x = torch.tensor([-1.0, 0.0, 10 / 127.5 - 1, 1.0])
    mean, scale = torch.zeros(4), torch.tensor(0.3)
    found = discrete.discretised_log_likelihood(x, mean, scale.log()).exp()
    cdf = torch.distributions.Normal(mean, scale).cdf
    wanted = [cdf(x + 1 / 255)[0], *(cdf(x + 1 / 255) - cdf(x - 1 / 255))[1:3], 1 - cdf(x - 1 / 255)[3]]
    assert found.tolist() == pytest.approx([float(w) for w in wanted], abs=4e-4)


def test_ancestral_sampling_draws_from_the_data_where_the_network_is_exact():
    """Data N(2, 0.5²): the best noise prediction is known, and so is what sampling must give."""
    schedule, g = Schedule.linear().respaced(250), stream(0)
    full, mean, std = Schedule.linear(), 2.0, 0.5

    def predict(z, t):
        bar = full.alpha_bar[t].float().view(-1, 1, 1, 1)
        noise = (z - bar.sqrt() * mean) * (1 - bar).sqrt() / (bar * std**2 + 1 - bar)
        return torch.cat([noise, torch.ones_like(noise)], 1)

    drawn = discrete.sample(predict, schedule, lambda: torch.randn(4000, 1, 1, 1, generator=g))
    assert drawn.mean().item() == pytest.approx(mean, abs=0.04) and drawn.std().item() == pytest.approx(std, abs=0.03)


# --- autoencoders ---
def test_pixel_space_goes_both_ways():
    pixels = torch.rand(2, 1, 4, 4, generator=stream(0))
    plain = autoencoder.load("identity")
    assert torch.equal(plain.encode(pixels).sample(stream(0)), pixels * 2 - 1)
    assert torch.allclose(plain.decode(pixels * 2 - 1), pixels, atol=1e-6)


def test_an_encoded_distribution_is_drawn_from():
    encoded = autoencoder.Encoded(torch.full((4000,), 3.0), torch.full((4000,), math.log(4.0)))
    drawn = encoded.sample(stream(0))
    assert drawn.mean().item() == pytest.approx(3, abs=0.1) and drawn.std().item() == pytest.approx(2, abs=0.1)
    assert torch.equal(drawn, encoded.sample(stream(0)))


def test_taef2_reconstructs_real_images():
    if core_weights.find("TAEF2 encoder") is None or core_weights.find("TAEF2 decoder") is None:
        pytest.skip("TAEF2's weights are not in a weights folder")
    try:
        test = data.load("ImageNette@64px", download=False)[1]
    except UserError as err:
        pytest.skip(str(err))
    pixels = test.subset(torch.arange(0, 300, 30)).pixels()
    tiny = autoencoder.load("taef2")
    z = tiny.encode(pixels).mean
    decibels = 10 * torch.log10(1 / (tiny.decode(z) - pixels).square().mean((1, 2, 3)))
    assert z.shape == (10, 32, 8, 8) and 0.6 < z.std() < 1.2 and decibels.mean() > 23


def test_diffusers_autoencoder_behind_the_same_interface(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            norm_num_groups=2,
            latent_channels=3,
        ).eval()
    vae.save_pretrained(tmp_path / "dit" / "vae")
    ours, pixels = autoencoder.load(str(tmp_path / "dit")), torch.rand(2, 3, 8, 8, generator=stream(0))
    assert (ours.channels, ours.factor, ours.scale) == (3, 2, 0.18215)
    with torch.no_grad():
        found, wanted = ours.encode(pixels), vae.encode(pixels * 2 - 1).latent_dist
        assert torch.allclose(found.mean, wanted.mean, atol=1e-6) and torch.allclose(
            found.log_variance, wanted.logvar, atol=1e-6
        )
        assert torch.allclose(
            ours.decode(found.mean), (vae.decode(wanted.mean).sample / 2 + 0.5).clamp(0, 1), atol=1e-6
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not an AutoencoderKL"):
        autoencoder.load(str(tmp_path / "empty"))


# --- stages ---
QUICK = replace(dit.Pretraining().smoke(), steps=5, batch=8, width=16, depth=1, patch=2)
DRAW = replace(dit.Sampling().smoke(), steps=2, batch=20)


def test_the_network_fits_the_images_and_an_official_model_its_latents(real):
    free = replace(QUICK, patch=None)
    assert (dit.architecture(real, free).tokens, dit.architecture(real, free).channels) == (64, 1)
    larger = data.ImageSet(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10), replace_facts(real, 3))
    assert dit.architecture(larger, free).patch == 4


def test_an_autoencoder_of_colour_images_refuses_grey_ones(real):
    if prerequisites.weights.find("TAEF2 encoder") is None:
        pytest.skip("TAEF2's weights are not in a weights folder")
    with pytest.raises(UserError, match="takes 3 channels, digits has 1; use identity"):
        dit.base(real, replace(QUICK, autoencoder="taef2"))


def replace_facts(real, channels):
    return dataclasses.replace(real.facts, mean=(0.0,) * channels, std=(1.0,) * channels)


def test_training_lowers_the_loss_and_is_kept(real, runs):
    longer = replace(QUICK, steps=150, batch=32, width=32, depth=2)
    model = dit.base(real, longer)
    folder = dit.trained_file(real, longer).parent
    looks = json.loads((folder / "settings.json").read_text())["looks"]["error"]
    assert looks[0][1] > looks[-1][1] and looks[-1][1] < 0.3
    again = dit.base(real, longer)
    assert all(torch.equal(a, b) for a, b in zip(model.network.parameters(), again.network.parameters(), strict=True))
    assert not model.network.training and model.latent == (1, 8, 8)


def test_stage_1_resumes_bit_for_bit(real, runs, monkeypatch, tmp_path):
    whole = dit.base(real, QUICK).network
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "other"))
    resumed, stops = in_steps(lambda loop: dit.base(real, QUICK, loop).network, tmp_path / "ckpt")
    assert stops == QUICK.steps - 1
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_stopped_pool_leaves_no_file_of_a_larger_one_out(real, runs, tmp_path):
    """Four files, stopped after the first; of five, four are to draw again."""
    dit.base(real, QUICK)
    few = replace(DRAW, batch=10)  # one image of every class in a file
    with pytest.raises(TimeUp, match="stopped at step 1 of 4"):
        minimax.draw_pool(real, QUICK, None, few, 4, seed=0, loop=Loop(tmp_path, deadline=0.0))
    larger = minimax.draw_pool(real, QUICK, None, few, 5, seed=0, loop=Loop(tmp_path))
    assert torch.equal(larger.images, minimax.draw_pool(real, QUICK, None, DRAW, 5, seed=0).images)


def test_a_smaller_pool_is_the_beginning_of_a_larger_one(real, runs, monkeypatch, tmp_path):
    small = minimax.draw_pool(real, QUICK, None, DRAW, 3, seed=0)
    large = minimax.draw_pool(real, QUICK, None, DRAW, 7, seed=0)
    assert len(large) == 70 and large.images.dtype == torch.uint8 and large.facts.split == "pool"
    assert torch.equal(large.images.view(10, 7, 1, 8, 8)[:, :3].flatten(0, 1), small.images)
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "other"))
    assert torch.equal(minimax.draw_pool(real, QUICK, None, DRAW, 7, seed=0).images, large.images)  # in one go
    assert not torch.equal(minimax.draw_pool(real, QUICK, None, DRAW, 3, seed=1).images, small.images)
    made = dit.as_set(small, real, dit.first(small, 2), method="DiT")
    assert made.shape == real.shape and torch.allclose(made.pixels()[:2], small.pixels()[:2], atol=1e-5)


def test_drawn_images_are_of_the_class_asked_for(runs):
    """Dark and bright images as two classes: what is drawn under a label has its brightness."""
    g = stream(0)
    levels = torch.tensor([50, 200]).repeat(32).view(-1, 1, 1, 1) + torch.randint(-20, 20, (64, 1, 8, 8), generator=g)
    two = data.ImageSet(levels.byte(), torch.tensor([0, 1] * 32), data.Facts("two", ("dark", "bright"), (0.5,), (0.5,)))
    of = replace(QUICK, steps=150, batch=32, width=32, patch=4, lr=5e-3, ema=0.95)
    images = minimax.draw_pool(two, of, None, replace(DRAW, steps=20, guidance=2.0), 8, seed=0)
    dark, bright = images.pixels().view(2, 8, -1).mean(2)
    assert dark.median() < 0.4 and bright.median() > 0.6 and (dark < 0.5).sum() >= 6 <= (bright > 0.5).sum()


def test_latents_are_encoded_once_with_both_flips(real, runs, monkeypatch):
    class Half:  # an encoder that halves the side
        name, factor, channels, images, scale = "half", 2, 1, None, None
        calls = 0

        def encode(self, pixels):
            Half.calls += 1
            return autoencoder.Encoded(
                torch.nn.functional.avg_pool2d(pixels, 2), torch.full_like(pixels[..., ::2, ::2], -40.0)
            )

        def to(self, device):
            return self

    monkeypatch.setitem(autoencoder.NAMED, "half", Half)
    colour = data.ImageSet(real.images[:60].repeat(1, 3, 1, 1), real.labels[:60], replace_facts(real, 3))
    Half.channels = 3
    of = replace(QUICK, autoencoder="half", flips=True)
    kept = dit.latents(colour, of)
    calls = Half.calls
    again = dit.latents(colour, of)
    assert Half.calls == calls and set(kept.kept) == {"mean", "log_variance"}
    pooled = torch.nn.functional.avg_pool2d(colour.pixels(), 2)
    drawn = kept.draw(torch.arange(60), stream(0))
    plain, mirrored = [(drawn - p).abs().amax((1, 2, 3)) < 2e-3 for p in (pooled, pooled.flip(3))]
    assert bool((plain | mirrored).all()) and 15 < int(plain.sum()) < 45 + int((plain & mirrored).sum())
    mean, std = again.moments()
    assert torch.allclose(mean, pooled.mean((0, 2, 3)).view(-1, 1, 1), atol=1e-3)
    assert torch.allclose(std, pooled.transpose(0, 1).flatten(1).std(1, correction=0).view(-1, 1, 1), atol=1e-3)


def test_a_batch_larger_than_the_set_is_one_clear_error(real, runs):
    with pytest.raises(UserError, match="a batch of 5000 images, but an epoch has 1297"):
        dit.base(real, replace(QUICK, batch=5000))


# --- published weights ---
def published(folder, real):
    """A tiny model in the layout of DiT-XL/2's folder on the hub, with a two-block autoencoder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=3,
            out_channels=6,
            num_layers=2,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            norm_num_groups=2,
            latent_channels=3,
        )
    network.save_pretrained(folder / "DiT-XL-2-256" / "transformer")
    vae.save_pretrained(folder / "sd-vae-ft-ema")
    vae.save_pretrained(folder / "sd-vae-ft-mse")


def test_published_weights_are_found_by_name_and_conditioned_on_imagenet_s_numbers(tmp_path, runs, monkeypatch):
    published(tmp_path / "weights", None)
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path / "weights"))
    facts = data.Facts("Two", ("Samoyed", "ostrich"), (0.5,) * 3, (0.5,) * 3, imagenet_indices=(258, 9))
    real = data.ImageSet(
        torch.randint(0, 255, (8, 3, 8, 8), dtype=torch.uint8, generator=stream(0)), torch.tensor([0, 1] * 4), facts
    )
    of = replace(dit.Pretraining(), side=8)
    model = dit.base(real, of)
    state = of.file_state()
    assert state["weights_file"]  # what is kept of them is made anew when they are others
    (tmp_path / "weights" / "DiT-XL-2-256" / "more.json").write_text("{}")
    assert of.file_state() != state
    assert (
        model.labels.tolist() == [258, 9]
        and model.network.arch.numerics == "official"
        and model.network.arch.num_classes == 1000
    )
    assert model.space.std.flatten().tolist() == pytest.approx([1 / 0.18215] * 3)
    images = minimax.draw_pool(real, of, None, replace(DRAW, channels="official"), 2, seed=0)
    assert images.shape == (3, 8, 8) and images.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match="makes 3 x 8 x 8 of 16 pixels"):
        dit.base(real, replace(of, side=16))
    other = data.load("digits")[0]
    with pytest.raises(UserError, match="takes 3 channels"):
        dit.base(other, of)


def test_missing_weights_say_what_is_missing_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(
        UserError, match=r"facebook/DiT-XL-2-256 .* is not here: put its folder as DiT-XL-2-256 into .*hf download"
    ):
        core_weights.folder("facebook/DiT-XL-2-256")
    with pytest.raises(UserError) as missing:
        prerequisites.check("dgs/table1_imagewoof", "full")
    lines = str(missing.value).splitlines()
    for name in ("DiT-XL-2-256", "sd-vae-ft-ema", "sd-vae-ft-mse", "resnet50-0676ba61.pth", "imagenet/train/<wnid>"):
        assert sum(name in line for line in lines[1:]) == 1
    assert len(lines) == 6 and all(str(tmp_path) in line or "DISTILL_DATA" in line for line in lines[1:])
    prerequisites.check("dgs/table1_imagewoof", "full", rows=["Random", "DM"])  # rows that need none of it
    prerequisites.check("skd/table1_accuracy", "full")
    snapshot = tmp_path / "hub" / "hub" / "models--facebook--DiT-XL-2-256" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert core_weights.folder("facebook/DiT-XL-2-256") == snapshot


def test_the_command_says_so_in_one_message(tmp_path):
    command = [sys.executable, "-m", "distill_lib", "run", "dgs/table1_imagewoof", "--profile", "full"]
    env = {**os.environ, "DISTILL_DATA": str(tmp_path), "DISTILL_WEIGHTS": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not done.stdout
    assert (
        done.stderr.startswith("error: dgs/table1_imagewoof at full needs what is not here:")
        and "Traceback" not in done.stderr
    )

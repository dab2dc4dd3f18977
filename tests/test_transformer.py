"""The parts that U-ViT and DiT share: equal to timm's layers, whose names of weights they have."""

import math

import pytest
import torch
from timm.layers import Mlp, PatchEmbed
from timm.models.vision_transformer import Attention
from torch import nn

from distill_lib.core.rng import stream
from distill_lib.generators import dit, transformer


def same_weights(ours, theirs):
    """Random weights in both, by name."""
    state = {k: torch.randn(v.shape, generator=stream(0, k)) * 0.3 for k, v in theirs.state_dict().items()}
    for network in (ours, theirs):
        network.load_state_dict(state)
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_timms(bias):
    ours, theirs = same_weights(transformer.Attention(24, 3, bias), Attention(24, 3, qkv_bias=bias))
    x = torch.randn(2, 5, 24, generator=stream(1))
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_mlp_is_timms(approximate):
    theirs = Mlp(8, 32, act_layer=lambda: nn.GELU(approximate=approximate))
    ours, theirs = same_weights(transformer.Mlp(8, 32, approximate), theirs)
    x = torch.randn(2, 5, 8, generator=stream(1))
    assert torch.equal(ours(x), theirs(x))


def test_patches_are_timms_and_go_back_to_their_places():
    ours, theirs = same_weights(transformer.PatchEmbed(3, 12, 2), PatchEmbed(8, 2, 3, 12))
    x = torch.randn(2, 3, 8, 8, generator=stream(1))
    assert torch.equal(ours(x), theirs(x))
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # (B, L, p p C)
    assert torch.equal(transformer.unpatchify(patches, 2), x)


def test_scales_multiply_the_outputs_of_both_layers():
    plain, scaled = transformer.Attention(8, 2), transformer.Attention(8, 2, scaled=True)
    state = {k: torch.randn(v.shape, generator=stream(0, k)) for k, v in scaled.state_dict().items()}
    scaled.load_state_dict(state)
    for part in ("qkv", "proj"):
        gamma = state.pop(f"gamma_{part}")
        state[f"{part}.weight"], state[f"{part}.bias"] = (
            gamma[:, None] * state[f"{part}.weight"],
            gamma * state[f"{part}.bias"],
        )
    plain.load_state_dict(state)
    x = torch.randn(2, 3, 8, generator=stream(1))
    assert torch.allclose(scaled(x), plain(x), atol=1e-4)


def test_places_are_waves_of_row_and_column():
    table, row, column = transformer.sinusoids(3, 8), 2, 1  # frequencies 1 and 0.01
    wanted = [f(p * w) for p in (row, column) for f in (math.sin, math.cos) for w in (1, 0.01)]
    assert table[row * 3 + column].tolist() == pytest.approx(wanted)
    assert torch.equal(dit.positions(8, 3), torch.cat([table[:, 4:], table[:, :4]], 1))  # DiT has the column first

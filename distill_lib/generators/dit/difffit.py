"""DiffFit (Xie et al. 2023), as in Minimax's code: a few parameters are tuned, and scales of attention and MLP."""

from __future__ import annotations

from ...core.settings import replace
from .network import DiT

DIFFFIT = ("bias", "norm", "gamma", "y_embed")  # parts of the names of tuned parameters; no norm here has any


def difffit(network: DiT) -> DiT:
    """A copy with scales of 1 in the first half of its blocks, in which only DiffFit's parameters need gradients.

    Its outputs are those of `network` until it is trained.
    """
    copy = DiT(replace(network.arch, scaled=network.arch.depth // 2)).to(network.pos_embed.device)
    missing, extra = copy.load_state_dict(network.state_dict(), strict=False)
    assert not extra and all("gamma" in name for name in missing)
    for name, p in copy.named_parameters():
        p.requires_grad_(any(part in name for part in DIFFFIT))
    return copy

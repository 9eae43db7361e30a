"""A network that tells what a student draws from data.

D(z, t) is its log-odds of being data. At its optimum log p_data(z) - log p_student(z), of the laws
at those times: what an objective without a second denoiser has for a log-ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, softplus

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.shapes import Scalar, Tokens, Where

#: Of one whose student does not say how large it is.
WIDTH, LAYERS, HEADS = 32, 2, 4


class Discriminator(nn.Module):
    """A small bidirectional transformer with one answer for each sequence.

    Args:
        vocab_size: K.
        width: of its hidden states.
        layers: how many.
        times: numbers in [0, 1] that it is given beside the tokens.
    """

    def __init__(
        self, vocab_size: int, width: int = WIDTH, layers: int = LAYERS, times: int = 1
    ) -> None:
        super().__init__()
        width = -(-width // (2 * HEADS)) * 2 * HEADS
        self.embed = nn.Embedding(vocab_size, width)
        self.time = nn.Sequential(nn.Linear(times, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)  # at first nothing is told apart, and nobody is moved
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Tokens, times: Tensor, attend: Where | None = None) -> Tensor:
        """Log-odds (B,).

        Args:
            z: (B, L).
            times: (B, m).
            attend: (B, L), False at padding.
        """
        here = torch.ones_like(z, dtype=torch.bool) if attend is None else attend
        x = self.embed(z) + self.time(times.float())[:, None]
        x = x + _positions(z.shape[1], x.shape[-1], z.device)
        # A row of padding alone looks at itself: nothing is told of it, and nothing is NaN.
        mask = (here | ~here.any(1, keepdim=True))[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        # Of the mean, and not the mean of answers: one token may settle it.
        total = (self.norm(x) * here[..., None]).sum(1) / here.sum(1).clamp_min(1)[:, None]
        return self.head(total)[:, 0]


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = self.inputs(self.norms[0](x)).unflatten(-1, (3, HEADS, -1))
        query, key, value = (part.transpose(1, 2) for part in heads.unbind(2))
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.output(seen.transpose(1, 2).flatten(-2))
        return x + self.narrow(gelu(self.wide(self.norms[1](x))))


def _positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of the positions, (L, width)."""
    rates = torch.exp(-torch.arange(width // 2, device=device) * (9.2 / max(width // 2 - 1, 1)))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def of_one_time(student: nn.Module, diffusion: Diffusion) -> Discriminator:
    """One that is told t, as wide and as deep as the student says it is."""
    return _like(student, diffusion, 1)


def of_two_times(student: nn.Module, diffusion: Diffusion) -> Discriminator:
    """One that is told t, and from which T the student drew."""
    return _like(student, diffusion, 2)


def _like(student: nn.Module, diffusion: Diffusion, times: int) -> Discriminator:
    config = getattr(student, "config", None)
    width = getattr(config, "hidden_size", None) or WIDTH
    layers = getattr(config, "num_hidden_layers", None) or LAYERS
    return Discriminator(diffusion.vocab_size, width, layers, times)


def discriminator_of(step: TrainingStep, name: str) -> nn.Module:
    """The network "discriminator" of a step.

    Raises:
        ValueError: if there is none, or x_0 are no data that anything could be told from.
    """
    if "discriminator" not in step.peers:
        raise ValueError(
            f"Objective {name!r} needs the network 'discriminator'; this step has: "
            f"{', '.join(sorted(step.peers)) or 'none'}."
        )
    if step.trajectory is not None:
        raise ValueError(
            f"Objective {name!r} tells what the student draws from data, and the sequences of "
            "this step were decoded by a model: give it data."
        )
    return step.peers["discriminator"]


def told_apart(step: TrainingStep, real: Tensor, fake: Tensor) -> Scalar:
    """The discriminator's loss from log-odds of data (B,) and of draws (B, G), and what share of
    both it knows."""
    loss = softplus(-real) + softplus(fake).mean(1)
    known = ((real > 0).double() + (fake < 0).double().mean(1)) / 2
    step.log("told_apart", known.mean())
    return step.row_mean(loss)

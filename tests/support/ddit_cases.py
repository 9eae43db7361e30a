"""Networks that tests share."""

from __future__ import annotations

import torch

from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion

VOCAB, LENGTH = 11, 8


def build(**changes: object) -> DDiTForDiscreteDiffusion:
    """A small model in eval mode, off its start: adaLN-zero would hide what its branches do."""
    attention = changes.pop("attn_implementation", "sdpa")
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "cond_dim": 16,
        "mask_token_id": VOCAB - 1,
    }
    torch.manual_seed(0)
    model = DDiTForDiscreteDiffusion(DDiTConfig(**{**sizes, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.set_attn_implementation(attention)
    return model


def tokens(batch: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


FULL = {"time_conditioning": True, "num_classes": 3, "noise_dim": 2, "token_shape": [2, 4]}


def full_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "input_ids": tokens(),
        "timesteps": torch.tensor([0.2, 0.9]),
        "class_labels": torch.tensor([0, 2]),
        "noise": torch.randn(2, LENGTH, 2, generator=generator),
    }

"""What the pipeline gives back, and tokens on a grid as grey images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from hf_ddistill.processes import Process
from hf_ddistill.shapes import Tokens


@dataclass
class DiscreteDiffusionPipelineOutput(BaseOutput):
    """
    Output of the pipeline.

    Args:
        sequences (`torch.LongTensor` of shape `(batch_size, length)`): the samples; those decoded
            behind prompts are padded on the left, and on the right behind an end.
        texts (`list[str]`, *optional*): decoded, special tokens left out.
        images (`list[PIL.Image.Image]`, *optional*): as grey images.
        num_network_calls (`int`): calls of the model that each sample took, or the slowest one: at
            most the number of steps (twice that with guidance) for a sampler of one call a step,
            and fewer where a step of masked diffusion draws nothing.
        calls (`torch.LongTensor` of shape `(batch_size,)`, *optional*): the same for each sample,
            where they differ: behind prompts, and in speculative decoding.
        tokens_per_call (`torch.FloatTensor` of shape `(batch_size,)`, *optional*): with them.
        num_drafter_calls (`int`, *optional*): calls of the pipeline's drafter, if it has one.
    """

    sequences: torch.LongTensor
    texts: list[str] | None = None
    images: list[Image.Image] | None = None
    num_network_calls: int | None = None
    calls: torch.LongTensor | None = None
    tokens_per_call: torch.FloatTensor | None = None
    num_drafter_calls: int | None = None


def to_images(sequences: Tokens, shape: Sequence[int], process: Process) -> list[Image.Image]:
    """One 8-bit grey image for each row: level / (levels - 1), the n-th data token being level n.

    Args:
        sequences: (B, height * width), row-major.
        shape: (height, width).
        process: says which of its tokens are noise and thus no level.
    """
    grey = grey_levels(process)
    pixels = grey[sequences.cpu()].reshape(-1, *shape).numpy()
    return [Image.fromarray(rows) for rows in pixels]


def grey_levels(process: Process) -> Tensor:
    """The grey of each token, (K,) uint8: level / (levels - 1), the n-th data token being level
    n."""
    is_level = torch.ones(process.vocab_size, dtype=torch.bool)
    is_level[list(process.noise_tokens)] = False
    level = is_level.cumsum(0) - 1
    return (255.0 * level / level[-1].clamp_min(1)).round().to(torch.uint8)

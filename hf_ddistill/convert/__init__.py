"""From other models to ours."""

from hf_ddistill.convert.causal_lm import to_block_diffusion

__all__ = ["to_block_diffusion"]

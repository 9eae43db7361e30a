"""From other models to ours."""

from hf_ddistill.convert.card import conversion_card
from hf_ddistill.convert.causal_lm import to_block_diffusion

__all__ = ["conversion_card", "to_block_diffusion"]

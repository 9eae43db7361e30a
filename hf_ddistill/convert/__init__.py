"""From other models to ours."""

from hf_ddistill.convert.causal_lm import as_causal_teacher, check_same_tokens, to_block_diffusion

__all__ = ["as_causal_teacher", "check_same_tokens", "to_block_diffusion"]

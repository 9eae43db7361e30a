"""Networks of discrete diffusion models, registered with the Auto classes of transformers."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from hf_ddistill.decoding.processing import ProxySteering
from hf_ddistill.models.as_denoiser import (
    as_denoiser,
    denoiser_of,
    diffusion_entry,
    enter_sampler,
    sampler_of,
    unwrapped,
)
from hf_ddistill.models.block_diffusion.configuration_block_diffusion import BlockDiffusionConfig
from hf_ddistill.models.block_diffusion.generation_block_diffusion import (
    BlockDiffusionGenerationConfig,
    BlockDiffusionGenerationOutput,
)
from hf_ddistill.models.block_diffusion.modeling_block_diffusion import BlockDiffusionLM
from hf_ddistill.models.canvas.configuration_canvas import CanvasConfig
from hf_ddistill.models.canvas.modeling_canvas import CanvasLM
from hf_ddistill.models.causal_teacher import as_causal_teacher, check_same_tokens
from hf_ddistill.models.ddit.configuration_ddit import DDiTConfig
from hf_ddistill.models.ddit.configuration_ddit_decoder import DDiTDecoderConfig
from hf_ddistill.models.ddit.modeling_ddit import (
    DDiTForDiscreteDiffusion,
    DDiTModel,
    DDiTPreTrainedModel,
)
from hf_ddistill.models.ddit.modeling_ddit_decoder import DDiTDecoder, DDiTForCausalLM
from hf_ddistill.models.fewer_layers import keep_layers
from hf_ddistill.models.gidd.configuration_gidd import GiddConfig
from hf_ddistill.models.gidd.modeling_gidd import GiddLM
from hf_ddistill.models.loading import (
    check_finite,
    check_name,
    load_checkpoint,
    load_config,
    load_masked_lm,
)
from hf_ddistill.models.mixed_embeddings import mixed_embeddings
from hf_ddistill.models.noised.configuration_noised import NoisedMaskedLMConfig
from hf_ddistill.models.noised.modeling_noised import NoisedMaskedLM
from hf_ddistill.models.parted.configuration_parted import PartedLMConfig
from hf_ddistill.models.parted.modeling_parted import PartedLM
from hf_ddistill.models.positions import sequence_length, window
from hf_ddistill.models.rounded import round_weights, rounding, unrounded
from hf_ddistill.models.same_mask import check_same_mask

AutoConfig.register(DDiTConfig.model_type, DDiTConfig, exist_ok=True)
AutoModel.register(DDiTConfig, DDiTModel, exist_ok=True)
AutoModelForMaskedLM.register(DDiTConfig, DDiTForDiscreteDiffusion, exist_ok=True)
AutoConfig.register(DDiTDecoderConfig.model_type, DDiTDecoderConfig, exist_ok=True)
AutoModel.register(DDiTDecoderConfig, DDiTDecoder, exist_ok=True)
AutoModelForCausalLM.register(DDiTDecoderConfig, DDiTForCausalLM, exist_ok=True)
AutoConfig.register(BlockDiffusionConfig.model_type, BlockDiffusionConfig, exist_ok=True)
AutoModelForMaskedLM.register(BlockDiffusionConfig, BlockDiffusionLM, exist_ok=True)
AutoConfig.register(CanvasConfig.model_type, CanvasConfig, exist_ok=True)
AutoModelForMaskedLM.register(CanvasConfig, CanvasLM, exist_ok=True)
AutoConfig.register(GiddConfig.model_type, GiddConfig, exist_ok=True)
AutoModelForMaskedLM.register(GiddConfig, GiddLM, exist_ok=True)
AutoConfig.register(NoisedMaskedLMConfig.model_type, NoisedMaskedLMConfig, exist_ok=True)
AutoModelForMaskedLM.register(NoisedMaskedLMConfig, NoisedMaskedLM, exist_ok=True)
AutoConfig.register(PartedLMConfig.model_type, PartedLMConfig, exist_ok=True)
AutoModelForMaskedLM.register(PartedLMConfig, PartedLM, exist_ok=True)

__all__ = [
    "BlockDiffusionConfig",
    "BlockDiffusionGenerationConfig",
    "BlockDiffusionGenerationOutput",
    "BlockDiffusionLM",
    "CanvasConfig",
    "CanvasLM",
    "DDiTConfig",
    "DDiTDecoder",
    "DDiTDecoderConfig",
    "DDiTForCausalLM",
    "DDiTForDiscreteDiffusion",
    "DDiTModel",
    "DDiTPreTrainedModel",
    "GiddConfig",
    "GiddLM",
    "NoisedMaskedLM",
    "NoisedMaskedLMConfig",
    "PartedLM",
    "PartedLMConfig",
    "ProxySteering",
    "as_causal_teacher",
    "as_denoiser",
    "check_finite",
    "check_name",
    "check_same_mask",
    "check_same_tokens",
    "denoiser_of",
    "diffusion_entry",
    "enter_sampler",
    "keep_layers",
    "load_checkpoint",
    "load_config",
    "load_masked_lm",
    "mixed_embeddings",
    "round_weights",
    "rounding",
    "sampler_of",
    "sequence_length",
    "unrounded",
    "unwrapped",
    "window",
]

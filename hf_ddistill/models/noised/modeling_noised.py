"""A masked language model of transformers with a noise input."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.models.noised.configuration_noised import NoisedMaskedLMConfig


class NoisedMaskedLM(PreTrainedModel):
    """
    A masked language model whose embeddings get a linear function of noise added, so that the
    tokens of one call can be drawn together: the noise carries the plan that they share.

        h_l = embeddings(x_t)_l + W z_l,   z_l ~ N(0, I) of `noise_dim` numbers

    What is added to is what the first layer reads (or the projection before it), behind the layer
    norm of the embeddings: models that zero the embeddings of masks (ESM) would take it away from
    where it is needed, and those that count pads in their tokens (RoBERTa) read these as ever.

    Args:
        config (`NoisedMaskedLMConfig`): with that of the masked language model.
        lm (`PreTrainedModel`, *optional*): the model, taken over as it is; a new one by the
            configuration if not given.
    """

    config: NoisedMaskedLMConfig
    config_class = NoisedMaskedLMConfig
    base_model_prefix = "lm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: NoisedMaskedLMConfig, lm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.lm = AutoModelForMaskedLM.from_config(config.text_config) if lm is None else lm
        # One object: what is changed in either is saved.
        self.config.text_config = self.lm.config
        self.noise_proj = nn.Linear(config.noise_dim, _width(self.lm), bias=False)
        self.post_init()

    @classmethod
    def of(cls, lm: PreTrainedModel, noise_dim: int) -> NoisedMaskedLM:
        """A model, taken over as it is, with a noise input that adds nothing yet."""
        more = {}
        for name in ("held_tokens", "discrete_diffusion"):
            if hasattr(lm.config, name):
                more[name] = getattr(lm.config, name)
                delattr(lm.config, name)  # it is said once, for both
        text = copy.deepcopy(lm.config)  # which the configuration around it would change
        made = cls(NoisedMaskedLMConfig(text_config=text, noise_dim=noise_dim, **more), lm)
        made.noise_proj.to(lm.device, lm.dtype)
        nn.init.zeros_(made.noise_proj.weight)
        return made

    def get_input_embeddings(self) -> nn.Module:
        """Those of the masked language model."""
        return self.lm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Its head."""
        return self.lm.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): x_t.
            attention_mask (`torch.Tensor` of the same shape, *optional*): 0 at padding.
            noise (`torch.Tensor` of shape `(batch_size, length, noise_dim)`, *optional*): standard
                normal; none adds nothing.
            labels (`torch.LongTensor` of the shape of `input_ids`, *optional*): as of the model.

        Returns:
            What the masked language model returns.

        Raises:
            ValueError: for noise of another shape, and for a model whose embeddings are not what
                its first layer reads.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if noise is None:
            return self.lm(**given, **kwargs)
        expected = (*input_ids.shape, self.config.noise_dim)
        if noise.shape != expected:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)} and must be (B, L, noise_dim) = {expected}."
            )
        added = self.noise_proj(noise.to(self.noise_proj.weight.dtype))

        def add(module: nn.Module, args: Any, output: Any) -> Tensor:  # noqa: ANN401 (torch's own)
            if not isinstance(output, Tensor) or output.shape != added.shape:
                raise ValueError(
                    f"{type(self.lm).__name__} takes no noise: its {type(module).__name__} are not "
                    "what its layers read."
                )
            return output + added.to(output.dtype)

        # Only for this call: the model is its own again behind it.
        hook = _embeddings(self.lm).register_forward_hook(add)
        try:
            return self.lm(**given, **kwargs)
        finally:
            hook.remove()


def _embeddings(lm: PreTrainedModel) -> nn.Module:
    """All of the embeddings, with their norm; those of the tokens where there is no such module."""
    found = getattr(lm.base_model, "embeddings", None)
    return found if isinstance(found, nn.Module) else lm.get_input_embeddings()


def _width(lm: PreTrainedModel) -> int:
    """Numbers of an embedding as they come out of `_embeddings`."""
    norms = [each for each in _embeddings(lm).modules() if isinstance(each, nn.LayerNorm)]
    return norms[-1].normalized_shape[-1] if norms else lm.get_input_embeddings().embedding_dim


def takes_noise(model: nn.Module) -> bool:
    """Whether a model can be given a noise input: masked language models of transformers, whose
    configurations know nothing of discrete diffusion."""
    config = getattr(model, "config", None)
    known = hasattr(type(config), "discrete_diffusion")
    return isinstance(model, PreTrainedModel) and not known


__all__ = ["NoisedMaskedLM", "takes_noise"]

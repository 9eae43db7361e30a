"""A noise input for a model that has none."""

from __future__ import annotations

import copy

from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.models.ddit.modeling_ddit import DDiTForDiscreteDiffusion
from hf_ddistill.models.noised.configuration_noised import NoisedMaskedLMConfig
from hf_ddistill.models.noised.modeling_noised import NoisedMaskedLM, takes_noise

#: What the module is called that reads the noise, in every model.
NOISE_INPUT = "noise_proj"


def with_noise_input(model: PreTrainedModel, noise_dim: int) -> PreTrainedModel:
    """The model, taken over as it is, with a noise input that adds nothing yet: a DDiT has a place
    for it, around a masked language model of transformers comes a `NoisedMaskedLM`.

    Raises:
        ValueError: for a model of another kind.
    """
    if isinstance(model, DDiTForDiscreteDiffusion):
        like = model.model.embed_tokens.weight
        made = {"bias": False, "device": like.device, "dtype": like.dtype}
        projection = nn.utils.skip_init(nn.Linear, noise_dim, model.config.hidden_size, **made)
        nn.init.zeros_(projection.weight)
        model.model.noise_proj, model.config.noise_dim = projection, noise_dim
        return model
    if takes_noise(model):
        return NoisedMaskedLM.of(model, noise_dim)
    raise ValueError(
        f"noise_dim={noise_dim} was asked for, but {type(model).__name__} takes no noise; a DDiT "
        "or a masked language model of transformers can be given a noise input."
    )


def noise_input_of(model: PreTrainedModel) -> nn.Linear:
    """The module that reads the noise, of a model that has one."""
    inner = model.model if isinstance(model, DDiTForDiscreteDiffusion) else model
    return inner.noise_proj


def without_noise_input(model: PreTrainedModel) -> PreTrainedModel:
    """What `with_noise_input` was given, but for the DDiT's own projection."""
    return model.lm if isinstance(model, NoisedMaskedLM) else model


def config_without_noise(config: PreTrainedConfig) -> PreTrainedConfig:
    """That of the model before it had the noise input that a configuration tells of."""
    if isinstance(config, NoisedMaskedLMConfig):
        return config.text_config
    config = copy.deepcopy(config)
    config.noise_dim = 0
    return config

"""Whether a model, or a configuration by which one is loaded, is that of a causal language model.

About twenty types of transformers (BERT, RoBERTa, XLM-R, ELECTRA, ...) can be loaded as a masked
and as a causal language model: the type alone does not say which one a checkpoint is.
"""

from __future__ import annotations

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

_CAUSAL_NAMES = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
_MASKED_NAMES = frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values())


def is_causal(model: object) -> bool:
    """Whether it is a causal language model of transformers.

    Raises:
        ValueError: as of `is_causal_config`.
    """
    if not isinstance(model, PreTrainedModel):
        return False
    if type(model) is not MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model.config), None):
        return False
    return _decided(model.config, {type(model).__name__}, type(model).__name__)


def is_causal_config(config: PreTrainedConfig, name: str) -> bool:
    """Whether the checkpoint of a configuration is that of a causal language model.

    The class that wrote it (`architectures`) decides, and where it says nothing the types that the
    two Auto classes know; of a type that both know the direction of its attention.

    Args:
        config: of the checkpoint.
        name: of the checkpoint, for the error.

    Raises:
        ValueError: if none of these decides, or class and attention contradict each other.
    """
    return _decided(config, set(config.architectures or ()), name)


def _decided(config: PreTrainedConfig, written_by: set[str], name: str) -> bool:
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if not causal or type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        return causal
    # Encoders have a flag for causal attention (`causal` is that of XLM's kin).
    flags = [flag for flag in ("is_decoder", "causal") if hasattr(config, flag)]
    flagged = any(getattr(config, flag) for flag in flags)
    of_encoder = bool(flags) and not getattr(config, "is_encoder_decoder", False)
    says = (bool(written_by & _CAUSAL_NAMES), bool(written_by & _MASKED_NAMES))
    if says == (False, True) or (of_encoder and says != (True, False)):
        return says != (False, True) and flagged
    if says == (True, False) and (flagged or not of_encoder):
        return True
    about = [config.model_type, f"written by {', '.join(sorted(written_by)) or 'nobody known'}"]
    about += [f"{flag}={getattr(config, flag)}" for flag in flags]
    raise ValueError(
        f"{name} ({', '.join(about)}) can be a masked or a causal language model, and its "
        "configuration does not say which; load it with AutoModelForMaskedLM, or with "
        "AutoModelForCausalLM and is_decoder=True, and give the model itself."
    )

"""SDAR: a Qwen3 that attends in blocks. What SGLang and lmdeploy serve."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

from hf_ddistill.convert import configuration_sdar
from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import (
    Reading,
    check_reading,
    dtype_name,
    language_model_of,
    read_language_model,
    special_tokens,
    write_special,
    write_weights,
)
from hf_ddistill.convert.mask_row import with_mask_at
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.models import BlockDiffusionLM
from hf_ddistill.unmasking import Static, Threshold, Unmasking

#: The mask of SDAR's tokenizer, which the engines know by heart.
MASK_TOKEN_ID = 151669
#: What SGLang is told of the decoding.
SETTINGS = "dllm.yaml"
_WRITTEN = (*COMMON, "head_dim", "attention_bias", "attention_dropout", "initializer_range")


@dataclass(frozen=True)
class SDAR(ByType, Converter):
    """SDAR, a Qwen3 that attends in blocks; OPDLM's students and others are saved in its form.

    References:
        SDAR: A Synergistic Diffusion-AutoRegression Paradigm for Scalable Sequence Generation
        (2025), https://arxiv.org/abs/2510.06303
    """

    id: ClassVar[str] = "sdar"
    reads: ClassVar[str] = "model of SDAR"
    gives: ClassVar[str] = "block-diffusion language model"
    types: ClassVar[tuple[str, ...]] = ("sdar",)

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """A Qwen3 in blocks, and the tokenizer with its mask token."""
        fields = Fields(configuration(folder), str(folder))
        reading = Reading(
            "SDAR",
            text_config(Qwen3Config, fields),
            fields.count("mask_token_id", MASK_TOKEN_ID, least=0),
            fields.count("block_size", 4),
            decoding={"unmasking": "threshold"},
        )
        return read_language_model(folder, reading)

    def fitted(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        """With the mask and a head where the engines look for them."""
        return fitted_for_engines(model, tokenizer, "qwen3")

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder that SGLang and lmdeploy load, with a configuration of ours for transformers."""
        lm, config = served(model, "qwen3", _WRITTEN)
        named = {"architectures": ["SDARForCausalLM"], "model_type": "sdar"}
        named |= {"auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"}}
        write_weights(lm, folder, named | config)
        write_beside(model, folder)

    def loaded_by(self, model: PreTrainedModel, folder: str) -> str:
        """SGLang's command; docs/serve.md has lmdeploy's."""
        return command_of(folder)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, with fewer tokens than a real one."""
        lm = small_language_model(Qwen3Config, head_dim=4, rope_theta=1e6)
        text = lm.config
        own = {"model_type": "sdar", "mask_token_id": 11, "block_size": 2}
        write_weights(lm, folder, own | dict(written(text, _WRITTEN)))


def fitted_for_engines(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, text_type: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """With the mask where the engines look for it, in the model and in its tokenizer, and a head of
    its own: SGLang looks for one under its name even where it is tied."""
    lm = language_model_of(model, "SDAR", text_type)
    model, tokenizer = with_mask_at(model, tokenizer, MASK_TOKEN_ID)
    if lm.config.tie_word_embeddings:
        lm.lm_head.weight = torch.nn.Parameter(lm.lm_head.weight.detach().clone())
        lm.config.tie_word_embeddings = model.config.tie_word_embeddings = False
    return model, tokenizer


def served(
    model: PreTrainedModel, text_type: str, names: tuple[str, ...]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The network within a student, and what SDAR's configuration says of it.

    Raises:
        ValueError: for a student that the engines cannot run.
    """
    lm = language_model_of(model, "SDAR", text_type)
    check_reading(model, "SDAR", full=False, shift=False)
    _rule(model)
    text = lm.config
    sliding = set(getattr(text, "layer_types", None) or []) - {"full_attention"}
    if sliding or text.hidden_act != "silu":
        raise ValueError(
            "SDAR's layers are of full attention with silu; the student's have "
            f"{', '.join(sorted(sliding)) or text.hidden_act}."
        )
    return lm, {
        **written(text, names),
        "use_sliding_window": False,
        "sliding_window": None,
        "block_size": model.config.block_size,
        "mask_token_id": model.config.mask_token_id,
        **special_tokens(model),
        "torch_dtype": dtype_name(lm),
    }


def write_beside(model: BlockDiffusionLM, folder: str | Path) -> None:
    """What stands beside weights and configuration."""
    write_special(model, folder)
    shutil.copyfile(configuration_sdar.__file__, Path(folder) / "configuration_sdar.py")
    # SGLang takes the length of blocks and the threshold from a file of its own.
    settings = {"block_size": model.config.block_size, "threshold": _rule(model).threshold}
    text = "".join(f"{name}: {value}\n" for name, value in settings.items())
    (Path(folder) / SETTINGS).write_text(text, encoding="utf-8")


def command_of(folder: str) -> str:
    """SGLang's; docs/serve.md has lmdeploy's."""
    return (
        f"python -m sglang.launch_server --model-path {folder} --trust-remote-code "
        f"--dllm-algorithm LowConfidence --dllm-algorithm-config {folder}/{SETTINGS}"
    )


def _rule(model: BlockDiffusionLM) -> Threshold:
    """The rule by which the engines decide, as the student does: by confidence.

    Raises:
        ValueError: for another order, which no engine has.
    """
    rule = Unmasking.from_config(model.generation_config.unmasking or "threshold")
    if isinstance(rule, Threshold):
        return rule
    if rule == Static():
        return Threshold(1.0)  # one token a call
    raise ValueError(
        f"The engines decide tokens by confidence, and the student by {rule.to_config()}; set "
        "generation_config.unmasking to 'threshold' or 'static' if that is meant."
    )

"""Folders of SDAR's kind, which SGLang and lmdeploy serve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert import configuration_sdar
from hf_ddistill.convert.language_model_folder import LanguageModelFolder
from hf_ddistill.convert.mask_row import with_mask_at
from hf_ddistill.convert.text_config import written
from hf_ddistill.convert.written_language_model import language_model_of
from hf_ddistill.models import BlockDiffusionLM
from hf_ddistill.unmasking import Static, Threshold, Unmasking

#: The mask of SDAR's tokenizer, which the engines know by heart.
MASK_TOKEN_ID = 151669
#: What SGLang is told of the decoding.
SETTINGS = "dllm.yaml"


class ServedFolder(LanguageModelFolder):
    """A folder that the engines load, with a configuration of ours for transformers.

    Attributes:
        written_fields: of the network's configuration, that the folder's has.
        classes: of the network and of its configuration, in the authors' own code and in ours.
    """

    written_fields: ClassVar[tuple[str, ...]]
    classes: ClassVar[tuple[str, str]]

    def fitted(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        """With the mask where the engines look for it, in the model and in its tokenizer, and a
        head of its own: SGLang looks for one under its name even where it is tied."""
        lm = language_model_of(model, "SDAR", self.form.text.model_type)
        model, tokenizer = with_mask_at(model, tokenizer, MASK_TOKEN_ID)
        if lm.config.tie_word_embeddings:
            lm.lm_head.weight = torch.nn.Parameter(lm.lm_head.weight.detach().clone())
            lm.config.tie_word_embeddings = model.config.tie_word_embeddings = False
        return model, tokenizer

    def described(self, model: BlockDiffusionLM) -> dict[str, Any]:
        """With silu, and attention that does not slide.

        Raises:
            ValueError: for a student that the engines cannot run.
        """
        _rule(model)
        text = model.lm.config
        sliding = set(getattr(text, "layer_types", None) or []) - {"full_attention"}
        if sliding or text.hidden_act != "silu":
            raise ValueError(
                "SDAR's layers are of full attention with silu; the student's have "
                f"{', '.join(sorted(sliding)) or text.hidden_act}."
            )
        network, config = self.classes
        return {
            "architectures": [network],
            "model_type": self.id,
            "auto_map": {"AutoConfig": f"configuration_sdar.{config}"},
            **written(text, self.written_fields),
            "use_sliding_window": False,
            "sliding_window": None,
            "block_size": model.config.block_size,
        }

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder that SGLang and lmdeploy load, with what they want beside the weights."""
        super().write(model, folder)
        shutil.copyfile(configuration_sdar.__file__, Path(folder) / "configuration_sdar.py")
        # SGLang takes the length of blocks and the threshold from a file of its own.
        settings = {"block_size": model.config.block_size, "threshold": _rule(model).threshold}
        text = "".join(f"{name}: {value}\n" for name, value in settings.items())
        (Path(folder) / SETTINGS).write_text(text, encoding="utf-8")

    def loaded_by(self, model: PreTrainedModel, folder: str) -> str:
        """SGLang's command; docs/serve.md has lmdeploy's."""
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

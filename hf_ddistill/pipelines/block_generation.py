"""A call of the pipeline that is one of `BlockDiffusionLM.generate`: decoding behind prompts.

B rows, P tokens of the longest prompt, N new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.pipelines.inputs import check_generator, num_rows
from hf_ddistill.pipelines.network import evaluating
from hf_ddistill.pipelines.pipeline_output import DiscreteDiffusionPipelineOutput

#: Arguments with which all positions are sampled at once, by the scheduler.
AT_ONCE = ("infill", "length", "num_inference_steps")


def decodes_blocks(
    model: torch.nn.Module, settings: Mapping[str, Any], others: Mapping[str, Any]
) -> bool:
    """Whether a call is one of `generate`: for a block-diffusion model, unless it asks for samples
    of all positions at once.

    Args:
        model: perhaps wrapped.
        settings: of `generate`, as far as they are given.
        others: arguments that `generate` has not; those not given are None.

    Raises:
        ValueError: for arguments that do not apply to the model, or not together.
    """
    inner, given = unwrapped(model), [name for name, value in others.items() if value is not None]
    name, names = type(inner).__name__, ", ".join(sorted(settings))
    if not isinstance(inner, BlockDiffusionLM):
        if settings:
            raise ValueError(
                f"{names}: not for {name}, which samples all positions at once (length, "
                "num_inference_steps) and does not decode by blocks."
            )
        return False
    at_once = [name for name in given if name in AT_ONCE]
    if at_once and settings:
        raise ValueError(
            f"{names}: for decoding behind a prompt, which {', '.join(at_once)} excludes, for "
            "samples of all positions at once; give one or the other."
        )
    if given and not at_once:
        raise ValueError(f"{', '.join(given)}: not for {name}, which decodes behind a prompt.")
    return not at_once


def decoded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    given: Sequence[Tensor],
    batch_size: int,
    attention_mask: Tensor | None = None,
    **settings: Any,
) -> DiscreteDiffusionPipelineOutput:
    """Decode behind prompts of mixed lengths.

    Args:
        model: a `BlockDiffusionLM`, perhaps wrapped.
        tokenizer: gives the texts; None for none.
        given: the prompts' tokens; one serves all rows.
        batch_size: B, where there is one prompt.
        attention_mask: 0 at the prompts' padding, if they have any.
        **settings: of `generate`.
    """
    if attention_mask is not None:
        real = attention_mask.cpu().bool().reshape(-1, attention_mask.shape[-1])
        given = [ids[here] for ids, here in zip(given, real, strict=True)]
    rows = num_rows(batch_size, len(given), 1)
    check_generator(settings.get("generator"), rows)
    prompts = [given[row % len(given)] for row in range(rows)]
    width = max(len(ids) for ids in prompts)
    input_ids = torch.zeros((rows, width), dtype=torch.int64)
    real = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, ids in enumerate(prompts):
        input_ids[row, width - len(ids) :] = ids
        real[row, width - len(ids) :] = True
    inner = unwrapped(model)
    with evaluating(model):
        out = inner.generate(
            input_ids.to(inner.device),
            real.to(inner.device),
            return_dict_in_generate=True,
            **settings,
        )
    texts = None
    if tokenizer is not None:
        kept = torch.cat([real.to(inner.device), out.rounds[:, width:] >= 0], 1)
        tokens = [ids[here] for ids, here in zip(out.sequences, kept, strict=True)]
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return DiscreteDiffusionPipelineOutput(
        out.sequences, texts, None, int(out.calls.max()), out.calls, out.tokens_per_call
    )

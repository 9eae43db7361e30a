"""A call of the pipeline that is one of `BlockDiffusionLM.generate`: decoding behind prompts.

B rows, P tokens of the longest prompt, N new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from hf_ddistill.decoding.prompts import Decoded
from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.models.block_diffusion.generation_settings import setting_names
from hf_ddistill.pipelines.inputs import num_rows
from hf_ddistill.pipelines.network import evaluating
from hf_ddistill.pipelines.pipeline_output import DiscreteDiffusionPipelineOutput

#: Arguments of `generate` that are no settings, and none of the pipeline's own.
_MORE = ("generation_config", "attention_mask", "streamer", "logits_processor")
_MORE += ("stopping_criteria", "tokenizer")
#: What a callback of block decoding can be given.
TENSORS = ("sequences", "changed", "confidence")
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


def generate_arguments() -> frozenset[str]:
    """What a pipeline passes on to `generate`: every setting, which it acts on or refuses."""
    return setting_names() | set(_MORE)


def decoded(
    pipe: DiffusionPipeline,
    given: Sequence[Tensor],
    batch_size: int,
    text: bool,
    callback: tuple[Callable[..., dict] | None, Sequence[str]] = (None, ()),
    attention_mask: Tensor | None = None,
    **settings: Any,
) -> DiscreteDiffusionPipelineOutput:
    """Decode behind prompts of mixed lengths, on the pipeline's execution device.

    Args:
        pipe: whose `model` is a `BlockDiffusionLM`, perhaps wrapped, with a `tokenizer` for text.
        given: the prompts' tokens; one serves all rows.
        batch_size: B, where there is one prompt.
        text: whether texts are decoded.
        callback: called with `(pipe, call, call, tensors)` behind each network call, the state of
            all rows in whole blocks; and the tensors that it asks for, of `TENSORS`.
        attention_mask: 0 at the prompts' padding, if they have any.
        **settings: of `generate`.

    Raises:
        ValueError: for settings whose result the pipeline's output has no place for.
    """
    for name in ("output_scores", "output_logits", "return_dict_in_generate"):
        if settings.get(name):
            raise ValueError(
                f"{name}={settings[name]}: the pipeline gives sequences and texts; call "
                "pipe.model.generate for more."
            )
    if set(callback[1]) - set(TENSORS):
        raise ValueError(
            f"A callback of block decoding is given {', '.join(TENSORS)}, and asks for "
            f"{list(callback[1])}."
        )
    if attention_mask is not None:
        real = attention_mask.cpu().bool().reshape(-1, attention_mask.shape[-1])
        given = [ids[here] for ids, here in zip(given, real, strict=True)]
    rows = num_rows(batch_size, len(given), 1)
    prompts = [given[row % len(given)] for row in range(rows)]
    width = max(len(ids) for ids in prompts)
    inner = unwrapped(pipe.model)
    settings["pad_token_id"] = pad = _pad_token(pipe, settings.get("pad_token_id"))
    input_ids = torch.full((rows, width), pad, dtype=torch.int64)
    real = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, ids in enumerate(prompts):
        input_ids[row, width - len(ids) :] = ids
        real[row, width - len(ids) :] = True
    pipe._interrupt = False
    device = pipe._execution_device
    with evaluating(pipe.model):
        out = inner.generate(
            input_ids.to(device),
            real.to(device),
            on_call=_on_call(pipe, *callback),
            **{"tokenizer": pipe.tokenizer, **settings, "return_dict_in_generate": True},
        )
    pipe.maybe_free_model_hooks()
    texts = None
    if text:
        kept = out.rounds >= 0
        kept[:, :width] |= real.to(kept.device).repeat_interleave(len(kept) // rows, 0)
        tokens = [ids[here] for ids, here in zip(out.sequences, kept, strict=True)]
        texts = pipe.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return DiscreteDiffusionPipelineOutput(
        out.sequences, texts, None, int(out.calls.max()), out.calls, out.tokens_per_call
    )


def _pad_token(pipe: DiffusionPipeline, asked: int | None) -> int:
    """What stands before a short prompt and behind an end: the model does not look at it, a reader
    does."""
    model = unwrapped(pipe.model)
    owners = (model.generation_config, model.config, pipe.tokenizer)
    named = [asked, *(getattr(owner, "pad_token_id", None) for owner in owners)]
    return model.padding_token(next((token for token in named if token is not None), None))


def _on_call(
    pipe: DiffusionPipeline, callback: Callable[..., dict] | None, names: Sequence[str]
) -> Callable[[int, Decoded], bool]:
    """What is done behind each network call: the callback, and whether it ends the decoding."""
    known: Tensor | None = None

    def on_call(number: int, decoded: Decoded) -> bool:
        nonlocal known
        if callback is not None:
            now = decoded.rounds >= 0
            changed = now if known is None else now & ~known
            known = now
            # The law of the likeliest token is certain: it does not say how sure the model was.
            unsaid = ~changed | (decoded.log_prob == 0)
            sure = decoded.log_prob.double().exp().masked_fill(unsaid, torch.nan)
            tensors = {"sequences": decoded.ids.clone(), "changed": changed, "confidence": sure}
            given = {name: tensors[name] for name in names}
            returned = callback(pipe, number, number, given) or {}
            if returned.get("sequences", given.get("sequences")) is not given.get("sequences"):
                raise ValueError(
                    "A callback of block decoding may look at `sequences` and not replace them."
                )
        return bool(pipe._interrupt)

    return on_call

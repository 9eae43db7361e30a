"""What a call of the pipeline asks for, checked: given tokens, length, labels, number of rows.

Notation: B rows, L positions, K vocabulary size; `config` is that of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models.held import Held
from hf_ddistill.samplers import Canvas
from hf_ddistill.shapes import Generators


def lay_out(
    given: Sequence[Tensor],
    infill: Tensor | None,
    shape: tuple[int, int],
    diffusion: Diffusion,
    held: Held | None = None,
) -> Canvas:
    """Lay one or B beginnings out on (B, L); what follows them is to be generated.

    Args:
        given: int64 tokens, (P,) with P up to L; one serves all rows.
        infill: (P,) or (rows, P); None for the mask tokens among those given.
        shape: (B, L).
        diffusion: whose tokens they are.
        held: tokens around a sample, where the caller has not laid out what is there.

    Raises:
        ValueError: for tokens outside the vocabulary, more of them than L, a fixed token that
            data never hold, an `infill` of another shape, and nothing to generate.
    """
    tokens = torch.zeros(shape, dtype=torch.int64)  # what stands there is generated
    where = torch.ones(shape, dtype=torch.bool)
    for row in range(shape[0]):
        ids = given[row % len(given)]
        if len(ids) > shape[1]:
            raise ValueError(f"A prompt has {len(ids)} tokens, more than length={shape[1]}.")
        diffusion.check_tokens(ids)
        tokens[row, : len(ids)] = ids
        where[row, : len(ids)] = ids == diffusion.process.mask_token_id
    if infill is not None:
        width = len(given[0])
        fitting = {(width,), (1, width), (len(given), width)}
        if infill.dtype != torch.bool or tuple(infill.shape) not in fitting:
            raise ValueError(
                "`infill` must be Boolean and have the shape of `input_ids`, "
                f"{(len(given), width)}; got {infill.dtype}, {tuple(infill.shape)}."
            )
        where[:, :width] = infill
    for token in diffusion.process.noise_tokens:
        if bool(((tokens == token) & ~where).any()):
            raise ValueError(f"Token {token} is noise: no position can be fixed to it.")
    canvas = Canvas(tokens, where)
    canvas = canvas if held is None else held.around(canvas, [len(ids) for ids in given])
    if not bool(canvas.infill.any()):
        raise ValueError("There is nothing to generate: every position is given.")
    return canvas


def label_tensor(
    config: PreTrainedConfig, class_labels: int | Sequence[int] | Tensor | None
) -> Tensor | None:
    """Class labels as int64 (n,).

    Raises:
        ValueError: if the model takes none, or not these.
    """
    if class_labels is None:
        return None
    try:
        labels = torch.as_tensor(class_labels).reshape(-1)
        whole = not len(labels) or not (labels.is_floating_point() or labels.dtype == torch.bool)
    except (TypeError, ValueError, RuntimeError):
        whole = False
    if not whole:
        raise ValueError(f"class_labels must be an integer or some, got {class_labels!r}.")
    labels = labels.long()
    classes = getattr(config, "num_classes", 0)
    if not classes:
        raise ValueError("Got class_labels, but the model has num_classes=0: it takes none.")
    if bool(((labels < -1) | (labels >= classes)).any()):
        raise ValueError(
            f"class_labels must lie in [0, {classes}), or be -1 for none, got {labels.tolist()}."
        )
    return labels


def num_rows(batch_size: int, num_prompts: int, num_labels: int) -> int:
    """B: batch size, prompts and labels broadcast, each being 1 or B.

    Raises:
        ValueError: if two of them differ and neither is 1, or one is below 1.
    """
    counts = {"batch_size": batch_size, "prompts": num_prompts, "class_labels": num_labels}
    if min(counts.values()) < 1 or len(set(counts.values()) - {1}) > 1:
        got = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise ValueError(f"The numbers of samples must each be 1 or agree, got {got}.")
    return max(counts.values())


def check_generator(generator: Generators, rows: int) -> None:
    """Raise if there is a list of generators, but not one for each row."""
    if isinstance(generator, Sequence) and len(generator) != rows:
        raise ValueError(
            f"Got {len(generator)} generators for {rows} samples; give one for each, or one."
        )


def check_guidance(scale: float, labels: Tensor | None) -> None:
    """Raise unless a scale of guidance is one, for the labels given."""
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise ValueError(f"guidance_scale must be a number of at least 1, got {scale!r}.")
    if not scale >= 1:
        raise ValueError(
            f"guidance_scale={scale} must be at least 1, which turns guidance off (as in "
            "diffusers: 1 + w with the weight w of the paper)."
        )
    if scale > 1 and labels is None:
        raise ValueError(f"guidance_scale={scale} needs `class_labels`.")


def check_callback(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise if a callback asks for tensors that there are not."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"`callback_on_step_end_tensor_inputs` must be among {known}, got {unknown}."
        )


def check_adapters(model: nn.Module) -> None:
    """Raise if a model's adapters are learned prompts: a sample has no place for them."""
    kinds = getattr(model, "peft_config", {}).values()
    learned = [str(kind.peft_type) for kind in kinds if getattr(kind, "is_prompt_learning", False)]
    if learned:
        raise ValueError(
            f"Adapters of the kind {', '.join(learned)} put tokens before the input, of which a "
            "sample has none; LoRA and its kin change the model's layers and are accepted."
        )

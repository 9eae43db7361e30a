"""What `hf-ddistill distill` makes of the teachers that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from hf_ddistill.cli.options.distill import DistillOptions
from hf_ddistill.denoisers import Denoiser, Ensemble, Guided, Moving, Proxy, Recursive
from hf_ddistill.models import as_denoiser


def composed(
    models: PreTrainedModel | Sequence[PreTrainedModel], options: DistillOptions, row: Mapping
) -> Any:
    """The teacher: the model as it is, or a denoiser of what was given, frozen.

    Args:
        models: one, or several.
        options: `combine`, `guidance`, `anchor` and `moving_from` say what of.
        row: of the data.

    Raises:
        ValueError: for guidance without a class, or without a null class.
    """
    several = [models] if isinstance(models, PreTrainedModel) else list(models)
    if options.guidance is not None:
        _check_classes(several, options, row)
    if len(several) == 1 and not options.makes_teacher:
        return models
    parts = [as_denoiser(each.eval().requires_grad_(False)) for each in several]
    made: Denoiser = parts[0]
    if len(parts) > 1:
        made = Proxy(*parts) if options.combine == "proxy" else Ensemble(tuple(parts))
    if options.guidance is not None:
        made = Guided(made, options.guidance)
    if options.anchor is not None:
        made = Recursive.of(made, options.anchor)
    if options.moving_from is not None:
        made = Moving(made, options.moving_from)
    return made


def _check_classes(
    models: Sequence[PreTrainedModel], options: DistillOptions, row: Mapping
) -> None:
    for name, model in zip(options.teacher, models, strict=True):
        if not getattr(model.config, "num_classes", 0):
            raise ValueError(
                f"--guidance is between a class and the null class, and {name} has neither "
                "(num_classes=0)."
            )
    if "class_labels" not in row:
        raise ValueError(f"--guidance needs a column class_labels, and {options.data} has none.")

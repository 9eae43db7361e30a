"""The likelihood bound of a model on data that are held out."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import DataLoader

from hf_ddistill.cli.data import check_length, load, without_labels
from hf_ddistill.cli.options.evaluate import EvaluateOptions
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.evaluation import Bound, likelihood_bound
from hf_ddistill.models import BlockDiffusionLM, as_denoiser, unwrapped, window
from hf_ddistill.models.held import Held
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.training.clean_tokens import CleanCollator
from hf_ddistill.training.data import TokenCollator
from hf_ddistill.training.preparation import prepared


def held_out_bound(pipe: DiscreteDiffusionPipeline, options: EvaluateOptions) -> Bound:
    """The bound on -log p(x_0) of the model as it is trained, per token of `options.data`.

    It is of the denoiser, in as many steps as it takes, and not of a few-step sampler's law. Its
    noise is drawn from `options.seed` and the number of each row, the same for all models of one
    vocabulary.
    """
    denoiser = as_denoiser(unwrapped(pipe.model))
    return likelihood_bound(
        denoiser,
        batches_of(pipe, options, denoiser),
        draws=options.draws,
        block_size=block_of(pipe),
        seed=options.seed,
    )


def batches_of(
    pipe: DiscreteDiffusionPipeline, options: EvaluateOptions, denoiser: Denoiser
) -> Iterator[dict[str, Tensor]]:
    """The rows of `options.data` on the model's device, looked at first."""
    model = unwrapped(pipe.model)
    data = load(options.data, options.split, documents=options.documents)
    if not getattr(model.config, "num_classes", 0):
        data = without_labels(data)
    check_length(data, model, options.max_length)
    packing = Held.of(model.config) is None if options.packing is None else options.packing
    length = options.max_length or window(model)
    rows = prepared(data, pipe.tokenizer, length, packing=packing)
    collator = TokenCollator.suited_to(model.config, pipe.tokenizer, block_of(pipe) or 1)
    clean = CleanCollator.of(collator, denoiser.diffusion, model.config, options.max_length)
    clean.first(rows)
    for batch in DataLoader(rows, batch_size=min(options.batch_size, 64), collate_fn=clean):
        yield {name: value.to(model.device) for name, value in batch.items()}


def block_of(pipe: DiscreteDiffusionPipeline) -> int | None:
    """Tokens in a block of the model's attention; None where it is full."""
    model = unwrapped(pipe.model)
    if not isinstance(model, BlockDiffusionLM) or model.is_full(model.config.block_size):
        return None
    return model.config.block_size

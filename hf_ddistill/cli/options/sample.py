"""Options of `hf-ddistill sample`."""

from __future__ import annotations

from dataclasses import dataclass

from hf_ddistill.cli.options.option import option, word
from hf_ddistill.cli.options.shared import BLOCKS, SamplingOptions, WritesOptions
from hf_ddistill.cli.values import (
    CALLS,
    SEED,
    TERMINAL,
    json_file,
    number,
    png_file,
    positive,
    rows_file,
    show_file,
    whole,
)


@dataclass
class SampleOptions(SamplingOptions, WritesOptions):
    """draw samples from a model"""

    model: str = word("folder or Hub id of a model or pipeline")
    steps: int | None = option("network calls (default: the model's own)", kind=CALLS)
    count: int = option("samples", 4, kind=positive)
    prompt: str | None = option("how text begins (default: as the model does)")
    length: int | None = option("tokens (default: the model's window)", kind=positive)
    class_label: int | None = option("of a class, or -1 (default: none)", kind=whole(-1))
    guidance: float | None = option(
        "weight of guidance by the class (default: none)", kind=number(0)
    )
    unmasking: str | None = option(
        "the rule that decides tokens: an id (hf-ddistill list unmasking), or JSON (default: the "
        "model's)",
        family="unmasking",
    )
    drafter: str | None = option(
        "folder or Hub id of a model of the same tokens, such as a few-step student, that drafts "
        "for the sampler speculative (default: the one that was saved, or none)"
    )
    steps_per_block: int | None = option(
        "calls that a static rule plans (default: a token each)", kind=CALLS, group=BLOCKS
    )
    seed: int = option("of the draws, one for each sample", 0, kind=SEED)
    image: str | None = option("write the samples as one PNG", kind=png_file, metavar="FILE")
    show: str | None = option(
        "show every step, which tokens came in it and how sure the model was: here, or in a .gif "
        "or .html",
        kind=show_file,
        metavar="FILE",
        alone=TERMINAL,
    )
    as_data: str | None = option(
        "write the samples as rows of data in a .jsonl, for --data of a training",
        kind=rows_file,
        metavar="FILE",
    )
    json: str | None = option(
        "write tokens (and texts) as rows of JSON", kind=json_file, metavar="FILE"
    )

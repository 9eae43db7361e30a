"""Options of `hf-ddistill evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_ddistill.cli.data_names import check_data_name
from hf_ddistill.cli.options.member_flags import check_member
from hf_ddistill.cli.options.option import flag_name, option, word
from hf_ddistill.cli.options.shared import (
    BLOCKS,
    DATA,
    JsonOptions,
    RandomTokensOptions,
    SamplingOptions,
)
from hf_ddistill.cli.values import CALLS, SEED, positive, setting

#: What says how samples are drawn.
SAMPLING = ("nfe", "length", "prompt", "unmasking", "steps_per_block", "sampler", "temperature")
SCORES = ("likelihood and scores", "of given data, in place of samples")


@dataclass
class EvaluateOptions(SamplingOptions, JsonOptions, RandomTokensOptions):
    """measure quality and diversity against the number of network calls"""

    model: str = word("folder or Hub id of a model or pipeline")
    nfe: Sequence[int] | None = option(
        "network calls per sample (default: 1 2 4 8; a block model's follow from its rule)",
        kind=CALLS,
        many=True,
    )
    samples: int = option("that are judged, a row", 500, kind=positive)
    batch_size: int = option("drawn at once", 250, kind=positive)
    length: int | None = option("tokens (default: the model's window)", kind=positive)
    prompt: str | None = option("how text begins (default: as the model does)")
    judge: str = option(
        "an id (hf-ddistill list judges), JSON with settings, or a causal LM (folder or id)",
        "diversity",
        kind=setting,
    )
    data: str | None = option(
        "held out, for the bound on its nll per token, and for a judge that compares with real "
        f"data: {DATA} (default: no bound)"
    )
    split: str = option("of --data, such as test", "train")
    documents: str | None = option(
        "what a document of text files is (default: a file where there are several, and a line of "
        "a single one)",
        choices=("file", "paragraph", "line"),
    )
    bound: bool = option(
        "only the bound on the nll of --data, with its standard error, in nats and bits per token: "
        "nothing is sampled",
        False,
        group=SCORES,
    )
    draws: int = option("noised states of each row for the bound", 1, kind=positive, group=SCORES)
    orders: int | None = option(
        "log-probabilities of the rows of --data, token by token in so many random orders",
        kind=positive,
        group=SCORES,
    )
    mutations: str | None = option(
        "score each single change of a token of this sequence",
        metavar="SEQUENCE",
        group=SCORES,
    )
    max_length: int | None = option(
        "tokens in a row of its text (default: the model's window)", kind=positive
    )
    packing: bool | None = option(
        "its texts one after another in full rows (default: not of masked LMs of transformers)"
    )
    unmasking: Sequence[str] | None = option(
        "the rules that decide tokens: ids (hf-ddistill list unmasking), or JSON (default: the "
        "model's)",
        family="unmasking",
        many=True,
    )
    steps_per_block: Sequence[int] | None = option(
        "calls that a static rule plans (default: a token each)",
        kind=CALLS,
        many=True,
        group=BLOCKS,
    )
    seed: int = option("of all draws", 0, kind=SEED)

    def check(self) -> None:
        """Raise for an option that would not be acted on."""
        for name in ("max_length", "packing"):
            if getattr(self, name) is not None and self.data is None:
                flag = flag_name(name)
                raise ValueError(f"{flag} is of the text of --data, which is not given.")
        scores = [name for name in ("bound", "orders", "mutations") if getattr(self, name)]
        if len(scores) > 1:
            raise ValueError(f"{', '.join(map(flag_name, scores))}: one of them at a time.")
        for name in SAMPLING if scores else ():
            if getattr(self, name) is not None:
                said = flag_name(scores[0])
                raise ValueError(f"{flag_name(name)} is of samples, and {said} draws none.")
        if self.mutations is not None and self.data is not None:
            raise ValueError("--mutations scores the sequence that it names; --data is not for it.")
        if self.draws > 1 and not self.bound:
            raise ValueError("--draws is of --bound, which is not given.")
        if scores and scores != ["mutations"] and self.data is None:
            raise ValueError(f"{flag_name(scores[0])} is of --data, which is not given.")
        if self.judge.startswith("{"):
            check_member("--judge", "judge", self.judge)
        if self.data is not None:
            check_data_name(self.data, self.split, streaming=False)

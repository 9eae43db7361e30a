"""The figures of the quickstart: quality and diversity of each model at each number of calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_ddistill.cli.evaluate import draw
from hf_ddistill.evaluation import (
    DigitsJudge,
    judge_real,
    judge_samples,
    match_entropy,
    nfe_frontier,
    pairwise_distance,
)
from hf_ddistill.pipelines import DiscreteDiffusionPipeline


class Measure:
    """Measures models one after the other; `rows` and `drawn` are what has been found.

    Args:
        judge: whose features and confidence count.
        real: training tokens (N, 64), which everything is compared with.
        samples: drawn for each row.
        seed: of the draws.
    """

    def __init__(self, judge: DigitsJudge, real: Tensor, samples: int, seed: int) -> None:
        self.judge, self.real, self.samples, self.seed = judge, real, samples, seed
        truth = judge_real(judge, real, generator=torch.Generator().manual_seed(0))
        self.rows: list[dict[str, Any]] = [
            {"model": "real", "nfe": 0, **truth, "pairwise": pairwise_distance(real)}
        ]
        self.drawn: dict[tuple[str, int], Tensor] = {}

    def model(self, name: str, network: PreTrainedModel, nfes: Sequence[int]) -> None:
        """One row for each number of network calls."""
        pipe = _quiet(network)

        def sampler(nfe: int, count: int) -> Tensor:
            self.drawn[name, nfe] = draw(pipe, nfe, count, seed=self.seed + 1, batch_size=250)
            return self.drawn[name, nfe]

        verdict = partial(judge_samples, self.judge, real=self.real)
        for row in nfe_frontier(sampler, nfes, self.samples, verdict):
            row["pairwise"] = pairwise_distance(self.drawn[name, row["nfe"]])
            self.rows.append({"model": name, **row})

    def matched(self, teacher: PreTrainedModel, name: str, nfe: int) -> dict[str, Any]:
        """The teacher at a student's calls, at the temperature that gives it the same diversity."""
        target = pairwise_distance(self.drawn[name, nfe])

        def sample(temperature: float) -> Tensor:
            pipe = _quiet(teacher, temperature=temperature)
            return draw(pipe, nfe, self.samples, seed=self.seed + 1, batch_size=250)

        row = {"model": "teacher", "nfe": nfe, "student": name, "target": target}
        try:
            found = match_entropy(
                sample,
                target,
                low=0.5,
                high=2.0,
                budget=6,
                tolerance=0.02,
                entropy=pairwise_distance,
            )
        except ValueError as error:
            # The student may be more, or less, diverse than any temperature makes its teacher.
            return {**row, "temperature": None, "why": str(error)}
        figures = judge_samples(self.judge, sample(found.temperature), self.real)
        return {**row, "temperature": found.temperature, "pairwise": found.entropy, **figures}


def _quiet(model: PreTrainedModel, **settings: Any) -> DiscreteDiffusionPipeline:
    pipe = DiscreteDiffusionPipeline.from_model(model, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe

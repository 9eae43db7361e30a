"""The figures of the quickstart: quality and diversity of each model at each number of calls."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from hf_ddistill.cli.evaluate import draw
from hf_ddistill.evaluation import DigitsJudge, match_entropy, pairwise_distance
from hf_ddistill.pipelines import DiscreteDiffusionPipeline


class Measure:
    """Measures models one after the other; `rows` and `drawn` are what has been found.

    A row has the mean of each figure over independent draws and, as `FIGURE_spread`, the standard
    deviation between them. The row "real" is what a perfect generator would have with as many
    samples.

    Args:
        judge: whose features and confidence count.
        samples: of each draw.
        draws: of each row.
        seed: of the draws.
    """

    def __init__(self, judge: DigitsJudge, samples: int, draws: int, seed: int) -> None:
        self.judge = judge
        self.samples, self.draws, self.seed = samples, draws, seed
        self.drawn: dict[tuple[str, int], Tensor] = {}
        truth = judge.real(samples)
        self.rows: list[dict[str, Any]] = [{"model": "real", "nfe": 0, **truth}]

    def model(self, name: str, network: PreTrainedModel, nfes: Sequence[int], **more: Any) -> None:
        """One row for each number of network calls; `more` are entries of all of them."""
        pipe = _quiet(network)
        for nfe in nfes:
            found = []
            for number in range(self.draws):
                seed = self.seed + 1 + number
                tokens = draw(pipe, nfe, self.samples, seed=seed, batch_size=250)
                self.drawn.setdefault((name, nfe), tokens)
                found.append(self.judge(tokens))
            means = {key: mean(each[key] for each in found) for key in found[0]}
            spreads = {}
            if self.draws > 1:
                spreads = {f"{key}_spread": stdev(each[key] for each in found) for key in means}
            self.rows.append({"model": name, "nfe": nfe, **means, **spreads, **more})

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
        figures = self.judge(sample(found.temperature))
        return {**row, "temperature": found.temperature, **figures}


def _quiet(model: PreTrainedModel, **settings: Any) -> DiscreteDiffusionPipeline:
    pipe = DiscreteDiffusionPipeline.from_model(model, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe

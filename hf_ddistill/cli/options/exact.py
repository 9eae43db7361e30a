"""Options of `hf-ddistill exact`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_ddistill.cli.options.option import option
from hf_ddistill.cli.options.shared import JsonOptions
from hf_ddistill.cli.values import CALLS, RATE, SEED, number, png_file, positive, whole

#: alpha = 1 - t, as the known tables have it.
SCHEDULE = '{"type": "log_linear", "eps": 1e-9}'
PROBLEMS = ("digits", "trigrams", "levels", "parity")


@dataclass
class ExactOptions(JsonOptions):
    """exact terminal laws on small problems: the scoreboard of objectives"""

    problem: str = option(
        f"{', '.join(PROBLEMS)} (parity:LENGTH for other lengths than 6), or a .json file with "
        "'sequences' and 'law'",
        "digits",
    )
    process: str = option("an id, or JSON", "absorbing", family="process")
    schedule: str = option("an id, or JSON; alpha = 1 - t", SCHEDULE, family="schedule")
    nfe: Sequence[int] | None = option(
        "network calls per sample (default: 1 2 4 8; of blocks 1, 2, 4 ... for each)",
        kind=CALLS,
        many=True,
    )
    block_size: int | None = option(
        "tokens in a block, for objectives of block diffusion (default: no blocks)", kind=positive
    )
    objective: Sequence[str] = option(
        "ids, or JSON with settings; none: no training", (), family="objective", many=True
    )
    sampler: Sequence[str] = option(
        "that the exact teacher is drawn with, each with the steps that --nfe allows",
        ("ancestral",),
        family="sampler",
        many=True,
    )
    limit: bool = option("also look for the limit (cached)", False)
    seeds: Sequence[int] = option("of the trainings", (0,), kind=SEED, many=True)
    calls: int | None = option(
        "passes of a batch through each student in training (default: 12,000)", kind=positive
    )
    minutes: float | None = option("of each training (default: as --calls says)", kind=RATE)
    one_student: bool = option("one for all --nfe, instead of one for each", False)
    rows: int = option("of a batch", 512, kind=whole(2))
    width: int = option("of the networks", 192, kind=positive)
    start_steps: int = option("of all students' start", 1000)
    start_scale: float = option(
        "of its hidden weights at first; with 3 it learns parity", 1.0, kind=RATE
    )
    noise_dim: int | None = option(
        "of students with an auxiliary (default: 4 under masks, else 0)", kind=whole()
    )
    noise_std: float = option("of what the noise adds to the first layer at first", 1.0, kind=RATE)
    learning_rate: float = option("of the students", 1e-3, kind=RATE)
    auxiliary_learning_rate: float = option("of the auxiliary", 2e-3, kind=RATE)
    auxiliary_updates: int = option("for each one of the student", 1, kind=positive)
    auxiliary_warmup: int = option("steps that train it alone", 0)
    ema: float = option("of the students' mean, which is measured", 0.99, kind=number(0, 1, ")"))
    draws: int = option("of the noise input, for the exact law", 2**19, kind=positive)
    plot: str | None = option("write a plot as PNG", kind=png_file, metavar="FILE")

    def check(self) -> None:
        """Raise for a problem that there is not, and for two lengths of a training."""
        if self.calls is not None and self.minutes is not None:
            raise ValueError("Give either a number of calls or minutes, one of the two.")
        if self.block_size is not None:
            given = {"--limit": self.limit, "--noise-dim": self.noise_dim is not None}
            given |= {"--sampler": tuple(self.sampler) != ("ancestral",)}
            given |= {"--process": self.process != "absorbing"}
            given |= {"--schedule": self.schedule != SCHEDULE}
            given |= {"--start-scale": self.start_scale != 1}
            for flag in (flag for flag, is_given in given.items() if is_given):
                raise ValueError(
                    f"{flag}: not with --block-size; blocks are decoded from masks alone."
                )
        if self.problem.endswith(".json"):
            if not Path(self.problem).is_file():
                raise ValueError(f"--problem: there is no file {self.problem}.")
        elif self.problem.split(":")[0] not in PROBLEMS:
            near = difflib.get_close_matches(self.problem, PROBLEMS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"Unknown --problem {self.problem!r}{hint}; there are: {', '.join(PROBLEMS)}, and "
                ".json files."
            )

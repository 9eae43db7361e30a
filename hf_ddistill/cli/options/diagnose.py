"""Options of `hf-ddistill diagnose`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_ddistill.cli.data_names import check_data_name
from hf_ddistill.cli.options.option import flag_name, option, word
from hf_ddistill.cli.options.shared import JsonOptions
from hf_ddistill.cli.values import SEED, device_name, number, png_file, positive, whole

#: Tokens of a model's own samples where its config does not fix the length.
LENGTH = 32
SHARE = number(0, 1, "(")


@dataclass
class DiagnoseOptions(JsonOptions):
    """where conditionals can be recovered from ratios, and where Euler steps break"""

    model: str | None = word("folder or Hub id of a masked LM, ours or any", None)
    process: str | None = option(
        "instead of a model: an id, or JSON (default: a model's)", family="process"
    )
    vocab_size: int | None = option(
        "with --process: K, mask included (default: that of its JSON)", kind=positive
    )
    schedule: str | None = option(
        "with --process: an id or JSON (default: log_linear)", family="schedule"
    )
    mask_token_id: int | None = option(
        "the token that masks (default: the model's or the tokenizer's)", kind=whole(), metavar="ID"
    )
    data: str | None = option(
        "with a model: clean data, as for `teacher` (default: its own samples)"
    )
    split: str = option("of --data", "train")
    streaming: bool = option("read the data as a stream", False)
    length: int | None = option(
        f"tokens in a row (default: the model's, at most {LENGTH})", kind=positive
    )
    sequences: int = option("rows of data or samples", 8, kind=positive)
    times: Sequence[float] = option(
        "in (0, 1]", (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98), kind=SHARE, many=True
    )
    steps: Sequence[float] = option(
        "Euler's h, in (0, 1]", (0.02, 0.1, 0.25, 0.5), kind=SHARE, many=True
    )
    best_times: Sequence[int] = option(
        "with a model: also the times at which N steps lose the least, of 48 (for the sampler "
        "'given_times')",
        (),
        kind=whole(1, 48),
        many=True,
        metavar="N",
    )
    output: str | None = option(
        "with one number of --best-times: a new folder of the model whose sampler has these times",
        metavar="FOLDER",
    )
    positions: int = option("at each time, at most", 256, kind=positive)
    start_steps: int = option(
        "with a model and --data: also train N steps of ECD from its weights and fresh ones",
        0,
        kind=whole(),
        metavar="N",
    )
    device: str | None = option(
        "cpu, cuda:0, ... (default: the accelerator, if there is one)", kind=device_name
    )
    plot: str | None = option("write a plot as PNG", kind=png_file, metavar="FILE")
    seed: int = option("of all draws", 0, kind=SEED)

    def check(self) -> None:
        """Raise unless it is a model or a process, with the options of that."""
        if (self.model is None) == (self.process is None):
            raise ValueError("Give either a model or --process, one of the two.")
        bare, of_model = ("vocab_size", "schedule"), ("data", "length", "device")
        for name in bare if self.process is None else of_model:
            if getattr(self, name) is not None:
                other = "--process; a model has its own" if name in bare else "a model, not "
                other += "" if name in bare else "--process"
                raise ValueError(f"{flag_name(name)} goes with {other}.")
        if self.data is not None:
            check_data_name(self.data, self.split, self.streaming)
        if self.best_times and self.model is None:
            raise ValueError("--best-times goes with a model, whose predictions it compares.")
        if self.output is not None and len(self.best_times) != 1:
            raise ValueError(
                "--output keeps the times of one number of steps: give --best-times N."
            )
        if self.start_steps and self.data is None:
            raise ValueError("--start-steps trains: it needs a model and --data.")
        if self.process is not None and self.vocab_size is None and self.process[0] != "{":
            raise ValueError(f"--process {self.process} needs --vocab-size (K, the mask included).")

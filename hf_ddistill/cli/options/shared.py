"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import ClassVar

from hf_ddistill.cli.data_names import check_data_name, held_out_name
from hf_ddistill.cli.options.option import flag_name, option
from hf_ddistill.cli.values import (
    DTYPES,
    RATE,
    SEED,
    TEMPERATURE,
    device_name,
    json_file,
    number,
    positive,
    reporter,
    whole,
)

#: What names a data set.
DATA = (
    "digits, digits:LEVELS, a .txt, .parquet, .jsonl or .csv file, a folder or glob of text files, "
    "or a data set's Hub id"
)
#: Learning rate schedules that need no settings of their own.
SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
#: Those that need no other package.
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "rmsprop", "adagrad")
BLOCKS = ("block-diffusion models", None)


@dataclass
class RandomTokensOptions:
    """Of a command that opens masked language models of transformers."""

    random_tokens: float | None = option(
        "of a masked LM of transformers: the share of noise that is random tokens, as BERT saw "
        "some, the rest being masks (default: masks alone)",
        kind=number(0, 1, "()"),
        metavar="SHARE",
    )


@dataclass
class WritesOptions:
    """Of a command that writes something."""

    overwrite: bool = option("replace what hf_ddistill wrote there before, and nothing else", False)


@dataclass
class FolderOptions(WritesOptions):
    """Of a command that makes one folder of another; a subclass has it as its second word."""

    output: str | None = option("FOLDER, as a flag (default: FOLDER)")
    folder: ClassVar[str | None]

    @property
    def target(self) -> str:
        """The folder that is written.

        Raises:
            ValueError: if it is not given, or twice.
        """
        given = [place for place in (self.folder, self.output) if place is not None]
        if len(given) != 1:
            said = "is missing" if not given else f"is given twice ({given[0]}, {given[1]})"
            raise ValueError(f"The folder that is to be written {said}: give FOLDER, or --output.")
        return given[0]


@dataclass
class JsonOptions(WritesOptions):
    """Of a command that measures."""

    json: str | None = option("write the figures as rows of JSON", kind=json_file, metavar="FILE")


@dataclass
class SamplingOptions:
    """How a model's samples are drawn, where that is not as it was saved."""

    temperature: float | None = option(
        "of the draws (default: the one that was saved, or 1)", kind=TEMPERATURE
    )
    sampler: str | None = option(
        "what takes the steps: an id (hf-ddistill list samplers), or JSON (default: the one that "
        "was saved)",
        family="sampler",
    )
    max_new_tokens: int | None = option(
        "behind the prompt (default: the model's, or 64)", kind=positive, group=BLOCKS
    )
    device: str | None = option(
        "cpu, cuda:0, ... (default: the accelerator, if there is one)", kind=device_name
    )


@dataclass
class TrainingDataOptions:
    """The data set of a training, and the one that is held out."""

    data: str = option(DATA, MISSING)
    split: str = option("of the data, such as train[1000:]", "train")
    streaming: bool = option("read the data as a stream", False)
    eval_data: str | None = option(
        f"held out: {DATA} (default: --data, where there is an --eval-split; else none)"
    )
    eval_split: str | None = option("of it, such as test or train[:1000] (default: train)")
    held_out: float | None = option(
        "the share of --data, its last part, that is held out where there is no --eval-data "
        "(default: .05 of text for a teacher, else none)",
        kind=number(0, 1, ")"),
        metavar="SHARE",
    )
    documents: str | None = option(
        "what a document of text files is: its end is an end token (default: a file where there "
        "are several, and a line of a single one)",
        choices=("file", "paragraph", "line"),
    )
    mask_token_id: int | None = option(
        "the token that masks (default: the model's or the tokenizer's)", kind=whole(), metavar="ID"
    )
    dtype: str = option("of the weights that are trained", "float32", choices=DTYPES)
    #: The share of text that is held out where nobody says.
    HELD_OUT: ClassVar[float] = 0.0

    def check_data(self, *, eval_steps: int | None, num_eval_samples: int) -> None:
        """Raise for data that there are not, and for an evaluation without such as are held out."""
        check_data_name(self.data, self.split, self.streaming)
        held_out = held_out_name(self.data, self.split, self.eval_data, self.eval_split)
        if held_out is not None:
            if self.held_out:
                raise ValueError("--held-out: --eval-data or --eval-split is held out already.")
            check_data_name(*held_out, self.streaming, "--eval-data")
            return
        if self.held_out and self.streaming:
            raise ValueError("--held-out: a stream has no last part; give --eval-data.")
        may_be_text = self.held_out is None and not self.data.startswith("digits")
        if self.held_out or (self.HELD_OUT and may_be_text and not self.streaming):
            return
        for name, value in (("eval_steps", eval_steps), ("num_eval_samples", num_eval_samples)):
            if value:
                raise ValueError(
                    f"{flag_name(name)} needs data that are held out: --eval-data or --held-out."
                )


@dataclass
class TrainingOptions(WritesOptions):
    """A run of a Trainer: `TrainingArguments` by the names and with the defaults that suit us.

    Attributes that `TrainingArguments` have under another name: `steps` (max_steps), `batch_size`
    (per_device_train_batch_size), `accumulate` (gradient_accumulation_steps), `cpu` (use_cpu).
    """

    steps: int = option("optimizer steps", 1000, kind=positive)
    batch_size: int = option("rows in a batch", 64, kind=positive)
    accumulate: int = option("batches in a step", 1, kind=positive)
    learning_rate: float = option("at its highest", 1e-3, kind=RATE)
    weight_decay: float = option("of the optimizer, where it has one", 0.0, kind=number(0))
    max_grad_norm: float = option("at which gradients are clipped", 1.0, kind=number(0))
    adam_beta1: float = option("of Adam", 0.9, kind=number(0, 1, ")"))
    adam_beta2: float = option("of Adam", 0.999, kind=number(0, 1, ")"))
    optim: str = option("the optimizer", "adamw_torch_fused", choices=OPTIMIZERS)
    lr_scheduler_type: str = option("of the learning rate", "cosine", choices=SCHEDULES)
    warmup_steps: int | None = option(
        "in which the learning rate rises (default: a tenth of --steps, at most 100)"
    )
    logging_steps: int | None = option(
        "a log every so many (default: a fiftieth of them)", kind=positive
    )
    report_to: Sequence[str] = option(
        "where logs go, such as tensorboard, wandb or trackio",
        ("none",),
        kind=reporter,
        many=True,
        metavar="NAME",
    )
    eval_steps: int | None = option(
        "an evaluation every so many (default: a tenth of them)", kind=positive
    )
    bf16: bool = option("mixed precision", False)
    fp16: bool = option("mixed precision of older accelerators", False)
    dataloader_num_workers: int = option("processes that read the data; 0: this one", 0)
    cpu: bool = option("stay on the CPU", False)
    seed: int = option("of all that is drawn", 0, kind=SEED)
    save_steps: int | None = option(
        "checkpoint every so many steps (default: a tenth of all, at most 500)", kind=positive
    )
    save_total_limit: int = option("checkpoints that are kept, the last ones", 2, kind=positive)
    resume: bool = option(
        "go on from the last whole checkpoint in --output, which must be of the same settings and "
        "data (--steps may be more); Ctrl-C and SIGTERM leave one",
        False,
    )

    def check_resume(self) -> None:
        """Raise if an earlier run is both to go on and to be replaced."""
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a run and --overwrite replaces it; give one.")

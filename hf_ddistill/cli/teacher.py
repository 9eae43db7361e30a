"""`hf-ddistill teacher`: train a diffusion model from data."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, set_seed

from hf_ddistill.cli.data import (
    check_length,
    load_parts,
    without_labels,
)
from hf_ddistill.cli.new_network import bound_of, new_network
from hf_ddistill.cli.options.teacher import TeacherOptions
from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.run_folder import check_run_folder, run_folder, save_result, trainer_made
from hf_ddistill.cli.tokens import name_mask
from hf_ddistill.cli.training_arguments import training_arguments
from hf_ddistill.hub import load_model
from hf_ddistill.models import unwrapped
from hf_ddistill.models.made_tokenizers import is_made, made_tokenizer
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDiffusionTrainer


def run(options: TeacherOptions) -> int:
    """Train and save."""
    check_run_folder(options, [name for name in (options.init, options.tokenizer) if name])
    data, held_out = load_parts(options)
    tokenizer = _tokenizer(options, data)
    if options.init is not None and tokenizer is None and has_tokenizer(options.init):
        tokenizer = load_tokenizer(options.init)
    # The weights are drawn before `Trainer` sets it.
    set_seed(options.seed)
    if options.init is None:
        network, diffusion = new_network(options, data, tokenizer)
        objective = "nelbo"
    else:
        network, diffusion = load_model(options.init, dtype=getattr(torch, options.dtype)), None
        name_mask(network, tokenizer, options.mask_token_id)
        objective = bound_of(network)
    if not getattr(unwrapped(network).config, "num_classes", 0):
        data, held_out = without_labels(data), without_labels(held_out)
    for rows in (data, held_out):
        check_length(rows, network, options.max_length)
    with trainer_made(options.output):
        trainer = DiscreteDiffusionTrainer(
            network,
            DiscreteDiffusionConfig(**training_arguments(options, held_out is not None)),
            objective,
            diffusion=diffusion,
            train_dataset=data,
            eval_dataset=held_out,
            processing_class=tokenizer,
        )
    with run_folder(trainer, options.output, options.overwrite):
        train(trainer, options.output if options.resume else None, options.resume, "--resume")
        save_result(trainer, options.output)
    print(f"A teacher of {network.num_parameters():,} parameters is in {options.output}.")
    return 0


def _tokenizer(options: TeacherOptions, data: Any) -> PreTrainedTokenizerBase | None:
    """The one that is named, or made of the texts."""
    name = options.tokenizer
    if name is None or not is_made(name):
        return load_tokenizer(name) if name else None
    if options.init is not None:
        raise ValueError(f"--tokenizer {name}: {options.init} (--init) has its own vocabulary.")
    if name != "bytes" and options.streaming:
        raise ValueError(f"--tokenizer {name} is made of the data, which a stream gives once.")
    if "text" not in next(iter(data)):
        raise ValueError(f"--tokenizer {name} is of text, and {options.data} has no column 'text'.")
    return made_tokenizer(name, lambda: (row["text"] for row in data))

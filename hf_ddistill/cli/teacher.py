"""`hf-ddistill teacher`: train a diffusion model from data."""

from __future__ import annotations

import torch
from transformers import set_seed

from hf_ddistill.cli.data import (
    check_length,
    load_data,
    load_eval_data,
    without_labels,
)
from hf_ddistill.cli.new_network import bound_of, new_network
from hf_ddistill.cli.options.teacher import TeacherOptions
from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.run_folder import check_run_folder, run_folder, save_result
from hf_ddistill.cli.tokens import name_mask
from hf_ddistill.cli.training_arguments import training_arguments
from hf_ddistill.hub import load_model
from hf_ddistill.models import unwrapped
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDiffusionTrainer


def run(options: TeacherOptions) -> int:
    """Train and save."""
    check_run_folder(options, [name for name in (options.init, options.tokenizer) if name])
    data, held_out = load_data(options), load_eval_data(options)
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
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

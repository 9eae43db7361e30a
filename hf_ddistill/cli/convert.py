"""`hf-ddistill convert`: from a causal language model to a block-diffusion one."""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ddistill.cli.common import positive
from hf_ddistill.cli.values import DTYPES
from hf_ddistill.convert import conversion_card, to_block_diffusion
from hf_ddistill.hub import save_folder
from hf_ddistill.models.opening import is_causal_name
from hf_ddistill.outputs import check_folder
from hf_ddistill.training.model_card import is_repo_id

HELP = "make a block-diffusion model of a causal language model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", help="folder or Hub id of a causal language model")
    parser.add_argument("--output", required=True, help="folder of the block-diffusion model")
    parser.add_argument("--block-size", type=positive, default=4, help="tokens in a block")
    parser.add_argument(
        "--shift-logits", action="store_true", help="the output at i - 1 speaks of token i"
    )
    parser.add_argument(
        "--keep-vocabulary",
        action="store_true",
        help="refuse to add a row to the embeddings for the mask token",
    )
    parser.add_argument(
        "--dtype",
        choices=["auto", *DTYPES],
        default="auto",
        help="of the weights; auto: the model's",
    )


def run(args: argparse.Namespace) -> int:
    """Convert and save."""
    check_folder(args.output, overwrite=args.overwrite, sources=[args.model])
    if not is_causal_name(args.model):
        raise ValueError(f"{args.model} is no causal language model, which alone is converted.")
    model, tokenizer = to_block_diffusion(
        AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype),
        AutoTokenizer.from_pretrained(args.model),
        block_size=args.block_size,
        shift_logits=args.shift_logits,
        grow_vocabulary=not args.keep_vocabulary,
    )
    name = Path(args.model).name if Path(args.model).exists() else args.model
    card = conversion_card(
        Path(args.output).resolve().name,
        model,
        tokenizer,
        source=name,
        base_model=args.model if is_repo_id(args.model) else None,
    )
    save_folder(args.output, model, tokenizer, card, args.overwrite)
    config = model.config
    print(
        f"A block-diffusion model of {model.num_parameters():,} parameters is in {args.output}: "
        f"blocks of {config.block_size}, mask token {tokenizer.mask_token!r} "
        f"({config.mask_token_id}). It speaks once it is trained: hf-ddistill distill --teacher "
        f"{args.model} --student {args.output} --objective opdlm ..."
    )
    return 0

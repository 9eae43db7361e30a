"""`hf-ddistill convert`: from a model of another kind to one of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_ddistill.cli.options import add_settings, own_fields, settings
from hf_ddistill.convert import Converter, recognise
from hf_ddistill.hub import save_folder
from hf_ddistill.outputs import check_folder
from hf_ddistill.training.model_card import is_repo_id

HELP = "make a model of ours of a causal language model, or of what else is recognised"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command, the settings of every converter among them."""
    parser.add_argument("model", help="folder or Hub id of the model that is converted")
    parser.add_argument("--output", required=True, help="folder of the new model")
    known: set[str] = set()
    for kind in Converter.registry.values():
        add_settings(parser, kind, without=tuple(known))
        known |= {field.name for field in own_fields(kind)}


def run(args: argparse.Namespace) -> int:
    """Recognise, convert and save."""
    check_folder(args.output, overwrite=args.overwrite, sources=[args.model])
    kind = recognise(args.model)
    _check_settings(args, kind)
    converter = kind(**settings(args, kind))
    print(f"{args.model} is a {kind.reads}: {kind.evidence(args.model)}.")
    model, tokenizer = converter.read(args.model)
    name = Path(args.model).name if Path(args.model).exists() else args.model
    card = converter.card(
        Path(args.output).resolve().name,
        model,
        tokenizer,
        source=name,
        base_model=args.model if is_repo_id(args.model) else None,
    )
    save_folder(args.output, model, tokenizer, card, args.overwrite)
    made = f"A {kind.gives} of {model.num_parameters():,} parameters is in {args.output}"
    more = converter.next_step(model, args.model, args.output)
    print(f"{made}: {more}" if more else f"{made}.")
    return 0


def _check_settings(args: argparse.Namespace, kind: type[Converter]) -> None:
    """Raise for a setting that was given and is another converter's."""
    own = {field.name for field in own_fields(kind)}
    for other in Converter.registry.values():
        for field in own_fields(other):
            if field.name not in own and getattr(args, field.name) != field.default:
                flag = "--" + field.name.replace("_", "-")
                raise ValueError(f"{flag} is of {other.id}, and {args.model} is a {kind.reads}.")

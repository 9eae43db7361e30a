"""`hf-ddistill convert`: from a model of another kind to one of ours."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from hf_ddistill.cli.options.convert import ConvertOptions
from hf_ddistill.cli.options.option import flag_name
from hf_ddistill.convert import Converter, recognise
from hf_ddistill.hub import save_folder
from hf_ddistill.outputs import check_folder
from hf_ddistill.training.model_card import is_repo_id


def run(options: ConvertOptions) -> int:
    """Recognise, convert and save."""
    check_folder(options.output, overwrite=options.overwrite, sources=[options.model])
    kind = recognise(options.model)
    _check_settings(options, kind)
    converter = kind(**options.settings)
    print(f"{options.model} is a {kind.reads}: {kind.evidence(options.model)}.")
    model, tokenizer = converter.read(options.model)
    name = Path(options.model).name if Path(options.model).exists() else options.model
    card = converter.card(
        Path(options.output).resolve().name,
        model,
        tokenizer,
        source=name,
        base_model=options.model if is_repo_id(options.model) else None,
    )
    save_folder(options.output, model, tokenizer, card, options.overwrite)
    made = f"A {kind.gives} of {model.num_parameters():,} parameters is in {options.output}"
    more = converter.next_step(model, options.model, options.output)
    print(f"{made}: {more}" if more else f"{made}.")
    return 0


def _check_settings(options: ConvertOptions, kind: type[Converter]) -> None:
    """Raise for a setting that was given and is another converter's."""
    own = {field.name for field in fields(kind)}
    for other in Converter.registry.values():
        for field in fields(other):
            if field.name not in own and field.name in options.settings:
                flag = flag_name(field.name)
                raise ValueError(f"{flag} is of {other.id}, and {options.model} is a {kind.reads}.")

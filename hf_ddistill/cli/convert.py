"""`hf-ddistill convert`: from a model of another kind to one of ours."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from hf_ddistill.cli.options.convert import ConvertOptions
from hf_ddistill.cli.options.option import flag_name
from hf_ddistill.convert import Converter, located, recognise
from hf_ddistill.hub import save_folder
from hf_ddistill.outputs import check_folder
from hf_ddistill.training.model_card import is_repo_id


def run(options: ConvertOptions) -> int:
    """Recognise, convert and save."""
    target = options.target
    check_folder(target, overwrite=options.overwrite, sources=[options.model])
    place = str(located(options.model, revision=options.revision))
    kind = Converter.named(options.kind) if options.kind else recognise(place)
    _check_settings(options, kind)
    converter = kind(**options.settings)
    why = "as --kind says" if options.kind else kind.evidence(place)
    print(f"{options.model} is a {kind.reads}: {why}.")
    place = str(located(options.model, weights=True, revision=options.revision))
    model, tokenizer = converter.read(place)
    name = Path(options.model).name if Path(options.model).exists() else options.model
    card = converter.card(
        Path(target).resolve().name,
        model,
        tokenizer,
        source=name,
        base_model=options.model if is_repo_id(options.model) else None,
    )
    save_folder(target, model, tokenizer, card, options.overwrite)
    made = f"A {kind.gives} of {model.num_parameters():,} parameters is in {target}"
    more = converter.next_step(model, options.model, target)
    print(f"{made}: {more}" if more else f"{made}.")
    return 0


def _check_settings(options: ConvertOptions, kind: type[Converter]) -> None:
    """Raise for a setting that was given and is another converter's."""
    own = {field.name for field in fields(kind)}
    for name in options.settings:
        if name not in own:
            others = [
                key
                for key, other in Converter.registry.items()
                if name in {field.name for field in fields(other)}
            ]
            said = f"{flag_name(name)} is of {', '.join(sorted(others))}"
            raise ValueError(f"{said}, and {options.model} is a {kind.reads}.")

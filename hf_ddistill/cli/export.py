"""`hf-ddistill export`: from a model of ours to a form that others read."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from hf_ddistill.cli.options.export import ExportOptions
from hf_ddistill.convert import Converter
from hf_ddistill.hub import load_model
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.outputs import check_folder, is_model_file, writing
from hf_ddistill.training.model_card import is_repo_id


def run(options: ExportOptions) -> int:
    """Load, fit, write and say what was written."""
    if options.to is None:
        raise ValueError(
            f"Give the form with --to: one of {', '.join(sorted(Converter.registry))}."
        )
    target = Path(options.target)
    sources = [options.student]
    check_folder(target, overwrite=options.overwrite, sources=sources, makes=_is_written)
    converter = Converter.named(options.to)()
    model = load_model(options.student, revision=options.revision)
    has = has_tokenizer(options.student)
    model, tokenizer = converter.fitted(model, load_tokenizer(options.student) if has else None)
    with writing(target) as draft:
        converter.write(model, draft)
        if tokenizer is not None:
            tokenizer.save_pretrained(draft)
        name = target.resolve().name
        _card(options, converter, name, converter.loaded_by(model, name)).save(draft / "README.md")
    told = "with its tokenizer" if has else "without a tokenizer, which the student has not either"
    print(f"{options.student} is in {target}, in the form of a {converter.reads}, {told}.")
    command = converter.loaded_by(model, str(target))
    if command:
        print(f"Load it: {command}")
    return 0


def _is_written(path: str) -> bool:
    """Whether a path is that of a file that a form may have."""
    return is_model_file(path) or path.endswith((".py", ".yaml", ".ckpt"))


def _card(options: ExportOptions, converter: Converter, name: str, command: str) -> ModelCard:
    """What the folder is, and of what it was made."""
    student = options.student
    of_hub = is_repo_id(student) and not Path(student).exists()
    data = ModelCardData(
        library_name="transformers",
        base_model=student if of_hub else None,
        tags=["discrete-diffusion", "exported"],
        model_name=name,
    )
    source = student if of_hub else Path(student).resolve().name
    text = (
        f"# {name}\n\nThe weights of `{source}`, a model of "
        f"`hf_ddistill`, in the form of a {converter.reads} "
        f"(`hf-ddistill export {source} {name} --to {converter.id}`). How the student was trained "
        "and how it is to be sampled says the card of that model."
    )
    text += f"\n\nTo load it:\n\n```text\n{command}\n```" if command else ""
    return ModelCard(f"---\n{data}\n---\n\n{text}\n")

"""Loading, saving and sharing: model folders, pipeline folders and their cards."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.models import check_name
from hf_ddistill.models.opening import open_model
from hf_ddistill.outputs import Record, check_folder, writing
from hf_ddistill.outputs.record import DRAFT
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.sharing import push as push
from hf_ddistill.training.model_card import CardFacts, with_figures, write_card


def load_model(name: str, **kwargs: Any) -> PreTrainedModel:
    """A model from a folder or the Hub, whole or refused: see `open_model`."""
    return open_model(name, **kwargs)


def load_pipeline(name: str, drafter: str | None = None) -> DiscreteDiffusionPipeline:
    """A pipeline from a pipeline or model folder, or from the Hub, with the scheduler saved there.

    Args:
        name: of the folder or repository.
        drafter: that of another model, which drafts for it; what was saved if not given.

    Raises:
        ValueError: if there is none, in one sentence.
    """
    more = {} if drafter is None else {"drafter": drafter}
    return DiscreteDiffusionPipeline.from_pretrained(name, **more)


def save_pipeline(
    pipe: DiscreteDiffusionPipeline, folder: str | Path, facts: CardFacts, overwrite: bool = False
) -> Path:
    """Save a pipeline with its card; the folder appears whole or not at all.

    Args:
        pipe: model, scheduler and perhaps a tokenizer.
        folder: a new or empty one.
        facts: what the card tells.
        overwrite: whether files of ours that are there may be replaced.

    Raises:
        ValueError: if the folder is not empty, or holds what is not ours, with its names.
    """
    check_folder(folder, overwrite=overwrite)
    with writing(folder) as draft:
        pipe.save_pretrained(draft)
        write_card(draft, facts)
    return Path(folder)


def save_folder(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    card: ModelCard,
    overwrite: bool = False,
) -> Path:
    """Save a model with its tokenizer and card; arguments and errors as `save_pipeline`."""
    check_folder(folder, overwrite=overwrite)
    with writing(folder) as draft:
        model.save_pretrained(draft)
        if tokenizer is not None:
            tokenizer.save_pretrained(draft)
        card.save(draft / "README.md")
    return Path(folder)


def write_figures(folder: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put measured figures, flat rows, in the card of a folder, in the place of those it has.

    Raises:
        ValueError: for a folder without a card of ours, or one that was changed by hand.
    """
    file = Path(folder) / "README.md"
    if not file.is_file():
        raise ValueError(f"{folder} is no folder with a card (README.md), which figures go into.")
    text = with_figures(file.read_text(encoding="utf-8"), rows)
    if file.name not in Record.read(folder).files:
        # As `save_model` of a trainer leaves it, without a record: all but the figures stays.
        draft = file.with_name(f"{DRAFT}{secrets.token_hex(4)}-{file.name}")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, file)
        return
    with writing(folder, keep=lambda path: path != file.name) as draft:
        (draft / file.name).write_text(text, encoding="utf-8")


def read_card(name: str) -> str:
    """The text of the card of a folder or of a model on the Hub."""
    file = Path(name) / "README.md"
    if Path(name).is_dir() and not file.exists():
        raise ValueError(f"The folder {name} has no card (README.md).")
    if file.exists():
        return file.read_text()
    check_name(name, files=("README.md",))
    return str(ModelCard.load(name))

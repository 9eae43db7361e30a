"""Loading, saving and sharing: model folders, pipeline folders and their cards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from hf_ddistill.models import check_name, load_config
from hf_ddistill.models.adapters import bring_base
from hf_ddistill.models.causal_kind import is_causal_config
from hf_ddistill.models.opening import MODEL_FILES, open_model
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.training.model_card import CardFacts, write_card


def load_model(name: str, **kwargs: Any) -> PreTrainedModel:
    """A model from a folder or the Hub, whole or refused: see `open_model`."""
    return open_model(name, **kwargs)


def is_causal_name(name: str) -> bool:
    """Whether a folder or Hub id is that of a causal language model of transformers; adapters are
    opened as what they were trained as here, which is none.

    Raises:
        ValueError: if there is no model, or one of which nothing says what it is.
    """
    check_name(name, files=MODEL_FILES)
    if find_adapter_config_file(name) is not None:
        return False
    return is_causal_config(load_config(name), name)


def load_pipeline(name: str) -> DiscreteDiffusionPipeline:
    """A pipeline from a pipeline or model folder, or from the Hub, with the scheduler saved there.

    Raises:
        ValueError: if there is none, in one sentence.
    """
    return DiscreteDiffusionPipeline.from_pretrained(name)


def save_pipeline(pipe: DiscreteDiffusionPipeline, folder: str | Path, facts: CardFacts) -> Path:
    """Save a pipeline with its card; the folder appears whole or not at all.

    Args:
        pipe: model, scheduler and perhaps a tokenizer.
        folder: replaced if it is there.
        facts: what the card tells.
    """
    with _draft(folder) as draft:
        pipe.save_pretrained(draft)
        write_card(draft, facts)
    return Path(folder)


def save_folder(
    folder: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Path:
    """Save a model with its tokenizer; the folder appears whole or not at all."""
    with _draft(folder) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    return Path(folder)


@contextlib.contextmanager
def _draft(folder: str | Path) -> Iterator[Path]:
    """A folder that takes the place of `folder` once all is written."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output {folder} is a file; give a folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        if folder.exists():
            shutil.rmtree(folder)
        os.chmod(draft, 0o755)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_card(name: str) -> str:
    """The text of the card of a folder or of a model on the Hub."""
    file = Path(name) / "README.md"
    if Path(name).is_dir() and not file.exists():
        raise ValueError(f"The folder {name} has no card (README.md).")
    return file.read_text() if file.exists() else str(ModelCard.load(name))


def push(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Upload a model or pipeline folder with its card, but no pickles; returns its address.

    Raises:
        ValueError: if the folder has no model or no card.
    """
    folder = Path(folder)
    if not folder.is_dir() or not any(any(folder.rglob(file)) for file in MODEL_FILES):
        raise ValueError(f"{folder} holds no model to push.")
    if not (folder / "README.md").exists():
        raise ValueError(f"{folder} has no card (README.md); a model is not pushed without one.")
    bring_base(folder, repo_id)
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        ignore_patterns=["checkpoint-*", "*.bin", "*.pt", "*.pth"],
        commit_message="Upload with hf_ddistill",
    )
    return str(url)

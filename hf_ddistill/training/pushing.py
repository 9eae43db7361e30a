"""`Trainer.push_to_hub`, of what a model is made of and nothing else that is in its folder."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer

from hf_ddistill.outputs.chosen import model_files


def push_to_hub(
    trainer: Trainer,
    commit_message: str | None = "End of training",
    blocking: bool = True,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    **kwargs: Any,
) -> CommitInfo | Any | None:
    """Save model and card and upload them; arguments and result as of `Trainer.push_to_hub`.

    That method uploads the whole output folder: a user's files, logs, settings.
    """
    args = trainer.args
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    token = args.hub_token if token is None else token
    if trainer.hub_model_id is None:
        trainer.init_hf_repo(token=token, private=private)
    trainer.save_model(_internal_call=True)
    if not trainer.is_world_process_zero():
        return None
    given = [kwargs.pop("tags", None) or (), getattr(trainer.model, "model_tags", None) or ()]
    tags = [(group,) if isinstance(group, str) else tuple(group) for group in given]
    name = kwargs.pop("model_name", None) or trainer.hub_model_id.rpartition("/")[2]
    trainer.create_model_card(model_name=name, tags=tuple(dict.fromkeys(sum(tags, ()))), **kwargs)
    trainer._finish_current_push()
    return HfApi().upload_folder(
        repo_id=trainer.hub_model_id,
        folder_path=args.output_dir,
        allow_patterns=[glob.escape(path) for path in model_files(Path(args.output_dir))],
        commit_message=commit_message,
        token=token,
        run_as_future=not blocking,
        revision=args.hub_revision if revision is None else revision,
    )

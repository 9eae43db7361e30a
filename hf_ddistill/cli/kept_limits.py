"""The limit of a problem, looked for once and then kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.constants import HF_HOME
from safetensors.torch import load_file, save_file

from hf_ddistill.laboratory import ExactProblem, Limit, LimitSearch, limit, read_limit

#: States from which on the search is a short one.
MANY_STATES = 5000


def search_for(problem: ExactProblem) -> LimitSearch:
    """How hard to look: the default, or above `MANY_STATES` one restart of 200 steps, which takes
    minutes for each network call (a looser bound)."""
    if len(problem.states) <= MANY_STATES:
        return LimitSearch()
    return LimitSearch(scales=(0.1,), adam_steps=150, lbfgs_steps=50)


def cached_limit(
    problem: ExactProblem,
    nfe: int,
    search: LimitSearch | None = None,
    notify: Callable[[], object] | None = None,
    folder: Path | None = None,
) -> Limit:
    """`limit`, from the cache if it was ever found with these settings.

    Args:
        problem: the data's law, process and schedule.
        nfe: network calls.
        search: how hard to look; `search_for(problem)` where it is not given.
        notify: called at each evaluation.
        folder: of the cache; `$HF_HOME/hf_ddistill/limits` where it is not given.
    """
    search = search_for(problem) if search is None else search
    folder = Path(HF_HOME) / "hf_ddistill" / "limits" if folder is None else folder
    file = folder / f"{_key(problem, nfe, search)}.safetensors"
    if file.is_file():
        return read_limit(problem, nfe, load_file(file)["logits"])
    found = limit(problem, nfe, search, notify)
    folder.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.part")
    save_file({"logits": found.logits}, draft)
    draft.replace(file)
    return found


def _key(problem: ExactProblem, nfe: int, search: LimitSearch) -> str:
    about = {
        "diffusion": problem.diffusion.to_config(),
        "nfe": nfe,
        "search": dataclasses.asdict(search),
        "length": problem.length,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(problem.table.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]

"""Data sets by name: a misspelt one is told at once, where the libraries ask for half a minute."""

from __future__ import annotations

from pathlib import Path

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

_SECONDS = 10.0  # for one question to the Hub


def check_data_set(name: str, option: str) -> None:
    """Raise if a name is neither a folder, nor loaded before, nor a data set on the Hub.

    Args:
        name: a folder or a Hub id.
        option: that gave it.
    """
    loaded = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    if Path(name).exists() or loaded.is_dir():
        return
    if Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ValueError(f"{option} names {name}, which is not there.")
    try:
        HfApi().dataset_info(name, timeout=_SECONDS)
    except HFValidationError as error:
        raise ValueError(f"{option} names {name!r}, neither a folder nor a Hub id.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{option} names {name}: there is no such folder, and no data set of that name on the "
            "Hub that you may read."
        ) from error
    except (HTTPError, OSError) as error:
        raise ValueError(
            f"{option} names {name}: there is no such folder, and the Hub cannot be asked: "
            f"{' '.join(str(error).split())}"
        ) from error

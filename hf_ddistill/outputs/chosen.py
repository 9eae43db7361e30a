"""Which files of a folder are shared with others: those that a model is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hf_ddistill.outputs.names import CARD, is_model_file
from hf_ddistill.outputs.record import Record, relative_files

FIGURES = "metrics.json"
PICTURES = (".png", ".jpg", ".jpeg")
#: What `hf-ddistill export` writes beside the files of a model: code, and settings of engines.
EXPORTED = (".py", ".yaml")


def model_files(folder: Path) -> tuple[str, ...]:
    """Weights, configurations, tokenizer, scheduler and card; `metrics.json`; pictures at the root
    and those that the card shows; the components that `model_index.json` names; code and settings
    of engines that an export wrote, as it wrote them.

    Links that lead out of the folder are not followed.
    """
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    components, shown = _components(folder), _pictures_of(card)
    inside = [path for path in relative_files(folder) if _is_inside(folder, path)]
    more = [path for path in inside if path.endswith(EXPORTED) and "/" not in path]
    record = Record.read(folder) if more else Record(folder)
    exported = {path for path in more if record.owns(path)}
    return tuple(path for path in inside if path in exported or _belongs(path, components, shown))


def _belongs(path: str, components: Sequence[str], shown: Sequence[str]) -> bool:
    if is_model_file(path) or path == FIGURES:
        return True
    pure = PurePosixPath(path)
    if pure.suffix.lower() in PICTURES:
        return len(pure.parts) == 1 or path in shown
    return len(pure.parts) == 2 and pure.parts[0] in components and is_model_file(pure.name)


def _components(folder: Path) -> list[str]:
    """The subfolders of a pipeline's components."""
    index = folder / "model_index.json"
    if not index.is_file():
        return []
    try:
        return [name for name in json.loads(index.read_text()) if not name.startswith("_")]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} cannot be read: {error}") from error


def _pictures_of(card: str) -> list[str]:
    """Relative paths of what a card shows."""
    named = re.findall(r"!\[[^\]]*\]\(\s*([^)\s]+)", card)
    named += re.findall(r"<img[^>]*\ssrc=[\"']([^\"']+)", card)
    return [str(PurePosixPath(path)) for path in named if "://" not in path]


def _is_inside(folder: Path, path: str) -> bool:
    """Whether a file can be read, and lies in the folder once links are followed."""
    place = folder / path
    return place.is_file() and folder.resolve() in place.resolve().parents

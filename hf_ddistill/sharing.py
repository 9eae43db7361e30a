"""What of a folder goes to the Hub: what a model is made of, and nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hf_ddistill.models.adapters import bring_base
from hf_ddistill.outputs import recover
from hf_ddistill.outputs.chosen import model_files
from hf_ddistill.outputs.names import CARD, ENTRIES, is_weights
from hf_ddistill.outputs.record import DRAFT, NAME

#: Left out without a word: the record of the folder.
_UNSAID = (NAME, DRAFT)


@dataclass(frozen=True)
class Shipment:
    """What a push uploads of a folder, and what it leaves there.

    Args:
        folder: that it is taken from.
        files: paths relative to it, with slashes.
        card: the text of README.md as it is uploaded.
        left_out: paths, folders with a slash at the end.
        base: what adapters are added to; None for a whole model.
    """

    folder: Path
    files: tuple[str, ...]
    card: str
    left_out: tuple[str, ...]
    base: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        card = len(self.card.encode())
        return card + sum((self.folder / f).stat().st_size for f in self.files if f != CARD)


def shipment(folder: str | Path, repo_id: str) -> Shipment:
    """What pushing a folder to `repo_id` uploads.

    The folder's `model_files`, the card with the repository's id.

    Raises:
        ValueError: if the folder has no model, no weights or no card, or the name is no id.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name of a repository: {error}") from error
    if folder.is_dir():
        recover(folder)
    if not folder.is_dir() or not any((folder / name).is_file() for name in ENTRIES):
        raise ValueError(f"{folder} holds no model to push: there is no {' or '.join(ENTRIES)}.")
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder} has no card ({CARD}); a model is not pushed without one.")
    card = (folder / CARD).read_text(encoding="utf-8")
    files = model_files(folder)
    if not any(is_weights(path) for path in files):
        raise ValueError(f"{folder} holds no weights to push (*.safetensors).")
    if CARD not in files:
        raise ValueError(f"{folder / CARD} is a link that leads out of the folder.")
    return Shipment(
        folder, files, _with_id(card, folder, repo_id), _left_out(folder, files), _base(folder)
    )


def is_private(repo_id: str) -> bool | None:
    """Whether a repository is private; None where there is none that we may see."""
    try:
        return bool(HfApi().repo_info(repo_id).private)
    except RepositoryNotFoundError:
        return None


@contextlib.contextmanager
def _with_base(folder: str | Path, repo_id: str) -> Iterator[Path]:
    """A folder to push; of adapters a copy, to which the base comes that others would not find."""
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / folder.resolve().name
        copy.mkdir()
        for path in model_files(folder):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, copy / path)
        bring_base(copy, repo_id)
        yield copy


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    tell: Callable[[Shipment], None] | None = None,
) -> str:
    """Upload what a model folder's `shipment` holds; returns the repository's address.

    The card that is uploaded names the repository in its snippets; the one in the folder stays as
    it is.

    Args:
        folder: of a model, a pipeline or adapters, with its card.
        repo_id: "user/name"; made if it is not there.
        private: whether nobody else may see it.
        tell: called with what is going to be uploaded, before it is.

    Raises:
        ValueError: if the folder has no model or no card, or if the repository is there and public
            although `private` was asked for.
    """
    with _with_base(folder, repo_id) as place:
        cargo = shipment(place, repo_id)
        cargo = replace(cargo, left_out=_left_out(Path(folder), cargo.files))
        if tell is not None:
            tell(cargo)
        api = HfApi()
        if private and is_private(repo_id) is False:
            raise ValueError(
                f"{repo_id} is there and is public; `private` (--private) is for new repositories. "
                "Give another name, or change its visibility on the Hub."
            )
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(
            url.repo_id,
            [
                CommitOperationAdd(
                    path, cargo.card.encode() if path == CARD else str(cargo.folder / path)
                )
                for path in cargo.files
            ],
            commit_message="Upload with hf_ddistill",
        )
    return str(url)


def _left_out(folder: Path, files: Sequence[str]) -> tuple[str, ...]:
    """What is not uploaded: files beside those that are, and folders of which nothing is."""
    used = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    names = []
    for parent in sorted(used):
        for child in sorted((folder / parent).iterdir()):
            path = child.relative_to(folder).as_posix()
            if path not in files and path not in used and not child.name.startswith(_UNSAID):
                names.append(f"{path}/" if child.is_dir() else path)
    return tuple(names)


def _base(folder: Path) -> str | None:
    """The base of adapters, of a folder that has no model of its own."""
    file = folder / "adapter_config.json"
    if (folder / "config.json").exists() or not file.exists():
        return None
    try:
        return json.loads(file.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _with_id(card: str, folder: Path, repo_id: str) -> str:
    """The card with the repository's id in the snippets that name the local folder."""
    heading = re.search(r"^# (.+?)\s*$", card, re.MULTILINE)
    names = {folder.name, folder.resolve().name, str(folder), heading[1] if heading else ""}
    local = "|".join(re.escape(name) for name in sorted(names - {"", "."}, key=len, reverse=True))

    called = rf"(from_pretrained\(\s*|model=)([\"'])(?:{local})\2"
    typed = rf"(--(?:model|student|teacher) |hf-ddistill sample )(?:{local})(?=\s|$)"

    def renamed(match: re.Match) -> str:
        text = re.sub(called, rf"\g<1>\g<2>{repo_id}\g<2>", match[0])
        return re.sub(typed, rf"\g<1>{repo_id}", text)

    return re.sub(r"```(?:python|bash)\n.*?```", renamed, card, flags=re.DOTALL)

"""The record of a folder: which files in it hf_ddistill wrote, and what was in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

NAME = ".hf_ddistill.json"
#: What every file and folder that is there for a moment only is called, before its own token.
DRAFT = ".hf_ddistill-"


@dataclass(frozen=True)
class Print:
    """The size in bytes and the SHA-256 of a file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> Self:
        """Read the file."""
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return cls(os.fstat(stream.fileno()).st_size, digest)


@dataclass
class Record:
    """What a folder's record says.

    Args:
        folder: to which all paths are relative.
        files: path, with slashes -> what we wrote there, as parts of a folder that we wrote.
        alone: the same of single files (figures, pictures), which no other writing removes.
        begun: folders whose writing began when they were empty or not there.
        token: of the writing that the record ended.
    """

    folder: Path
    files: dict[str, Print] = field(default_factory=dict)
    alone: dict[str, Print] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    token: str = ""

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The record of a folder, an empty one where there is none.

        Raises:
            ValueError: if there is one that cannot be read.
        """
        folder = Path(folder)
        file = folder / NAME
        if not os.path.lexists(file):
            return cls(folder)
        try:
            told = json.loads(_plain(file).read_text(encoding="utf-8"))
            files, alone = (
                {_inside(path): Print(**value) for path, value in told[key].items()}
                for key in ("files", "alone")
            )
            return cls(folder, files, alone, [_inside(p) for p in told["begun"]], told["token"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{file} is not a record that hf_ddistill wrote ({error}), so that nothing can be "
                "told about the folder; move it away, and all that is there counts as yours."
            ) from error

    def write(self) -> None:
        """Put the record into the folder, in one piece."""
        draft = self.folder / f"{DRAFT}{secrets.token_hex(4)}.json"
        try:
            self.write_to(draft)
            os.replace(draft, self.folder / NAME)
        finally:
            draft.unlink(missing_ok=True)

    def write_to(self, file: Path) -> None:
        """Write the record's text to another file."""
        told: dict[str, Any] = {"written by": "hf_ddistill", "token": self.token}
        told["begun"] = self.begun
        for key in ("files", "alone"):
            listed = getattr(self, key)
            told[key] = {path: vars(listed[path]) for path in sorted(listed)}
        file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def add(self, paths: Iterable[str]) -> None:
        """Enter files as they are now."""
        for path in paths:
            self.files[path] = Print.of(self.folder / path)

    def owns(self, path: str) -> bool:
        """Whether a file is ours: listed, reached through no link, and with the same contents."""
        return path in self.files and self.is_at(path, self.files[path])

    def is_at(self, path: str, print_: Print) -> bool:
        """Whether a regular file with these contents lies there, reached through no link."""
        place = self.folder / path
        if self.link_on_the_way(path) or not place.is_file():
            return False
        return place.stat().st_size == print_.size and Print.of(place) == print_

    def link_on_the_way(self, path: str) -> bool:
        """Whether the file, or a folder between it and ours, is a symbolic link."""
        parts = PurePosixPath(path).parts
        return any(self.folder.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts)))

    def present(self) -> list[str]:
        """Listed paths at which something lies, ours or not."""
        return [path for path in self.files if os.path.lexists(self.folder / path)]


def relative_files(folder: Path, under: str = "") -> list[str]:
    """Paths of all files (and of links, which are not followed) below `folder / under`."""
    found = []
    for root, folders, files in os.walk(folder / under):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        names = [Path(root, name).relative_to(folder).as_posix() for name in [*files, *links]]
        found += names
    return sorted(found)


def remove_empty(folder: Path, paths: Iterable[str]) -> None:
    """Remove the folders that these paths were in, from the innermost out, where they are empty."""
    parents = {parent for path in paths for parent in PurePosixPath(path).parents}
    for parent in sorted(parents - {PurePosixPath(".")}, key=lambda p: len(p.parts), reverse=True):
        place = folder / parent
        if place.is_dir() and not place.is_symlink():
            with contextlib.suppress(OSError):  # it holds something else
                place.rmdir()


def _plain(file: Path) -> Path:
    if file.is_symlink() or not file.is_file():
        raise ValueError("it is no regular file")
    return file


def _inside(path: str) -> str:
    """A path that stays in the folder; a record from elsewhere cannot lead out of it."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0]:
        raise ValueError(f"it names {path!r}")
    return path

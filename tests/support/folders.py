"""Folders for tests: what is in one, and a process that is killed while it writes there."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

from hf_ddistill.outputs import writing

OLD = {"config.json": "old", "model.safetensors": "old", "gone.json": "old", "a/b.txt": "old"}
NEW = {"config.json": "new", "model.safetensors": "new", "a/c.txt": "new"}
MINE = {"notes.txt": "mine", "a/mine.txt": "mine"}


def snapshot(folder):
    """Path -> what lies there: the digest of a file, the target of a link, "" for a folder."""
    seen = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            place = Path(root, name)
            path = place.relative_to(folder).as_posix()
            if place.is_symlink():
                seen[path] = f"-> {os.readlink(place)}"
            elif place.is_dir():
                seen[path] = ""
            else:
                seen[path] = hashlib.sha256(place.read_bytes()).hexdigest()
    return seen


def visible(folder):
    """Path -> text of the files in a folder that are neither its record nor a draft's."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path.read_text() for name, path in named.items() if ".hf_ddistill" not in name}


def killed_at(number, folder, write):
    """Run `write()` in a process that is killed before its `number`-th change to `folder`.

    Returns:
        Whether it was killed; False if it made fewer changes.
    """
    child = os.fork()
    if child == 0:
        _kill_before(number, str(folder))
        try:
            write()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _kill_before(number, folder):
    """Python tells of every change to a file system by an audit event."""
    changes = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
    left = number

    def hook(event, given):
        nonlocal left
        if event == "open":
            changing = isinstance(given[0], str) and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        else:
            changing = event in changes
        if changing and (folder in str(given[0]) or event in ("os.remove", "os.rmdir")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def put(folder, files):
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def write(folder, files):
    with writing(folder) as draft:
        put(draft, files)


def old_and_mine(folder):
    """A folder that we wrote, in which the user has files, too."""
    write(folder, OLD)
    put(folder, MINE)

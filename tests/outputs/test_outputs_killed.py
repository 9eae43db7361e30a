"""SIGKILL before every single change to the file system: the old or the new is there, whole."""

from __future__ import annotations

import pytest
from folders import MINE, NEW, OLD, killed_at, old_and_mine, put, visible, write

from hf_ddistill.outputs import check_folder, recover, set_aside, writing_file


@pytest.mark.parametrize(
    "there", [pytest.param(False, marks=pytest.mark.slow), True], ids=["new", "old"]
)
def test_a_kill_at_any_instant_leaves_the_old_or_the_new(tmp_path, there):
    states, number = [], 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        if there:
            old_and_mine(folder)
        if not killed_at(number, folder, lambda: write(folder, NEW)):  # noqa: B023
            break
        lying = visible(folder) if folder.exists() else {}
        assert not there or {path: lying.get(path) for path in MINE} == MINE
        if "config.json" in lying:  # then it is a model, and one of the two
            assert lying["model.safetensors"] == lying["config.json"]
        recover(folder, wait=True)
        found = visible(folder) if folder.exists() else {}
        old = OLD | MINE if there else {}
        new = NEW | MINE if there else NEW
        assert found in (old, new), f"killed before change {number}: {sorted(found)}"
        states.append(found == new)
        assert not list(folder.glob(".hf_ddistill-*"))
        # Whatever was left does not keep the next writing from its place.
        check_folder(folder, overwrite=there or found == new)
        write(folder, NEW)
        assert visible(folder) == new
    assert number > 20 and states == sorted(states) and len(set(states)) == 2


def test_a_killed_writing_that_another_hand_touched_keeps_both(tmp_path):
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        write(folder, OLD)
        assert killed_at(number, folder, lambda: write(folder, NEW))  # noqa: B023
        if "config.json" not in visible(folder):
            break
    put(folder, {"config.json": "mine"})
    with pytest.raises(ValueError, match="another hand: the earlier files are in .*unplaced"):
        recover(folder, wait=True)
    assert visible(folder)["config.json"] == "mine"
    assert visible(folder)["unplaced/config.json"] == "old"


def test_a_kill_while_files_are_set_aside_loses_none_and_leaves_all_ours(tmp_path):
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        old_and_mine(folder)
        if not killed_at(number, folder, lambda: set_aside(folder, lambda path: True)):  # noqa: B023
            break
        found = {path.removeprefix("replaced/"): text for path, text in visible(folder).items()}
        assert found == OLD | MINE
        check_folder(folder, overwrite=True)
        write(folder, NEW)
        assert visible(folder) == NEW | MINE
    assert number > 4


def test_a_kill_while_a_single_file_is_written_leaves_the_old_or_the_new(tmp_path):
    number, found = 0, []
    while True:
        number += 1
        file = tmp_path / str(number) / "rows.json"
        put_alone(file, "old")
        if not killed_at(number, file.parent, lambda: put_alone(file, "new")):  # noqa: B023
            break
        found.append(file.read_text())
    assert set(found) == {"old", "new"} and found == sorted(found, reverse=True)


def put_alone(file, text):
    with writing_file(file) as draft:
        draft.write_text(text)

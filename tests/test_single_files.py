"""A single file that a command writes: the old or the new, and never one that is not ours."""

from __future__ import annotations

import pytest
from folders import killed_at

from hf_ddistill.outputs import check_file, check_folder, writing_file


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


def test_a_single_file_is_kept_unless_it_is_ours_and_may_go(tmp_path):
    file = tmp_path / "new" / "rows.json"
    with writing_file(check_file("--json", file)) as draft:
        draft.write_text("1")
    with pytest.raises(ValueError, match="--json names .*, which is there"):
        check_file("--json", file)
    with writing_file(check_file("--json", file, overwrite=True)) as draft:
        draft.write_text("2")
    assert visible(tmp_path) == {"new/rows.json": "2"}
    file.write_text("mine")
    with pytest.raises(ValueError, match="changed since; it is kept"):
        check_file("--json", file, overwrite=True)
    with pytest.raises(ValueError, match="it is kept"), writing_file(file) as draft:
        draft.write_text("3")
    assert visible(tmp_path) == {"new/rows.json": "mine"}


def test_a_single_file_is_no_part_of_a_model_folder(tmp_path):
    write(tmp_path, OLD)
    with writing_file(tmp_path / "rows.json") as draft:
        draft.write_text("figures")
    for name in ("config.json", "rows.json"):
        with pytest.raises(ValueError, match="which is there"):
            check_file("--json", tmp_path / name)
    with pytest.raises(ValueError, match="did not write"):
        check_file("--json", tmp_path / "config.json", overwrite=True)
    write(tmp_path, NEW)
    assert visible(tmp_path) == NEW | {"rows.json": "figures"}


def test_places_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere")
    for path, words in (("file", "is a file"), ("loose", "leads nowhere"), ("file/x", "no folder")):
        with pytest.raises(ValueError, match=words):
            check_folder(tmp_path / path)
    for path, words in ((".", "is a folder"), ("loose", "symbolic link"), ("file/x", "no folder")):
        with pytest.raises(ValueError, match=words):
            check_file("--json", tmp_path / path, overwrite=True)

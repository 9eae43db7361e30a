"""The rule of what is written: nothing that is not ours is touched, and no state is half a one."""

from __future__ import annotations

import errno
import os

import pytest
from folders import MINE, NEW, OLD, old_and_mine, put, snapshot, visible, write
from safetensors import SafetensorError

from hf_ddistill.outputs import (
    Record,
    check_file,
    check_folder,
    recover,
    set_aside,
    writing,
    writing_file,
)
from hf_ddistill.outputs.record import NAME


def refused(folder, *words, **options):
    before = snapshot(folder.parent)
    with pytest.raises(ValueError) as caught:
        check_folder(folder, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert snapshot(folder.parent) == before


def test_a_new_folder_and_an_empty_one_are_written(tmp_path):
    for folder in (tmp_path / "a" / "b", tmp_path / "empty"):
        check_folder(folder)
        folder.mkdir(parents=True)
        write(check_folder(folder), NEW)
        assert visible(folder) == NEW


def test_new_files_take_the_place_of_ours_and_the_user_s_stay(tmp_path):
    old_and_mine(tmp_path)
    write(tmp_path, NEW)
    assert visible(tmp_path) == NEW | MINE
    assert set(Record.read(tmp_path).files) == set(NEW)


def test_a_folder_that_is_not_empty_is_refused_with_what_is_in_it(tmp_path):
    put(tmp_path / "out", {f"file{i}": "" for i in range(9)} | {"a/b": ""})
    refused(tmp_path / "out", "is not empty: it holds a, file0, file1", "and 4 more")


def test_a_folder_without_a_record_is_not_overwritten(tmp_path):
    put(tmp_path / "out", OLD)
    refused(tmp_path / "out", "nothing in", "is recorded", overwrite=True)


def test_a_file_that_was_changed_since_is_the_user_s(tmp_path):
    old_and_mine(tmp_path / "out")
    put(tmp_path / "out", {"gone.json": "OLD"})  # of the same size
    refused(tmp_path / "out", "gone.json", "was changed since", overwrite=True)
    before = snapshot(tmp_path / "out")
    with pytest.raises(ValueError, match="what was to be written is in .*unplaced"):
        write(tmp_path / "out", NEW)
    after = snapshot(tmp_path / "out")
    assert {path: after.get(path) for path in before} == before
    assert visible(tmp_path / "out" / "unplaced") == NEW


@pytest.mark.parametrize("name", ["README.md", "config.json", "model-00001-of-00002.safetensors"])
def test_a_stranger_s_file_in_the_way_is_told_before_the_work(tmp_path, name):
    write(tmp_path / "out", {"tokenizer.json": "ours"})
    put(tmp_path / "out", {name: "mine"})
    refused(tmp_path / "out", name, "was not written by hf_ddistill", overwrite=True)


def test_a_link_in_the_place_of_our_file_is_not_followed(tmp_path):
    write(tmp_path / "out", OLD)
    (tmp_path / "elsewhere").write_text("old")
    (tmp_path / "out" / "gone.json").unlink()
    (tmp_path / "out" / "gone.json").symlink_to(tmp_path / "elsewhere")
    refused(tmp_path / "out", "gone.json", overwrite=True)


def test_a_folder_that_became_a_link_is_not_written_through(tmp_path):
    write(tmp_path / "out", {"scheduler/scheduler_config.json": "old"})
    (tmp_path / "out" / "scheduler").rename(tmp_path / "moved")
    (tmp_path / "out" / "scheduler").symlink_to(tmp_path / "moved")
    refused(tmp_path / "out", "scheduler/scheduler_config.json", overwrite=True)
    with pytest.raises(ValueError, match="unplaced"):
        write(tmp_path / "out", {"scheduler/scheduler_config.json": "new"})
    assert visible(tmp_path / "moved") == {"scheduler_config.json": "old"}


def test_source_home_current_folder_and_links_are_never_overwritten(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, OLD)
    write(out / "source", OLD)
    refused(out, "it is the source", overwrite=True, sources=[out])
    refused(out, "it holds the source", overwrite=True, sources=[out / "source"])
    with monkeypatch.context() as patch:
        patch.chdir(out)
        refused(out, "it is the current folder", overwrite=True)
        patch.chdir(out / "source")
        refused(out, "it holds the current folder", overwrite=True)
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(out))
        refused(out, "it is your home", overwrite=True)
    (tmp_path / "link").symlink_to(out)
    refused(tmp_path / "link", "symbolic link", overwrite=True)
    check_folder(out, overwrite=True, sources=["someone/model"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"files": {"../x": {"size": 1, "sha256": "a"}}, "alone": {}, "begun": [], "token": ""}',
        '{"files": {"/etc/x": {"size": 1, "sha256": "a"}}, "alone": {}, "begun": [], "token": ""}',
        '{"files": {}, "alone": {}, "begun": ["a/../.."], "token": ""}',
    ],
)
def test_a_record_that_we_did_not_write_leads_nowhere(tmp_path, text):
    put(tmp_path / "out", {NAME: text, "x": "mine"})
    refused(tmp_path / "out", "is not a record that hf_ddistill wrote", overwrite=True)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), SafetensorError("No space"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("there", [False, True], ids=["new", "old"])
def test_after_a_failure_all_is_as_it_was(tmp_path, error, there):
    folder = tmp_path / "x" / "out"
    if there:
        old_and_mine(folder)
    before = snapshot(tmp_path)
    with pytest.raises((OSError, KeyboardInterrupt)):
        with writing(folder) as draft:
            put(draft, {"config.json": "new"})
            raise error
    assert snapshot(tmp_path) == before


def test_a_failure_while_files_are_moved_brings_the_old_ones_back(tmp_path, monkeypatch):
    old_and_mine(tmp_path)
    before = snapshot(tmp_path)
    rename, count = os.rename, []

    def failing(source, target):
        count.append(target)
        if len(count) == 6:
            raise OSError(errno.EIO, "gone")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="gone"):
            write(tmp_path, NEW)
    assert len(count) > 6 and snapshot(tmp_path) == before


def test_a_writing_under_way_is_not_disturbed(tmp_path):
    with writing(tmp_path / "out") as draft:
        put(draft, NEW)
        with pytest.raises(ValueError, match="Another process is writing into"):
            check_folder(tmp_path / "out")
        recover(tmp_path / "out")
    assert visible(tmp_path / "out") == NEW


def test_what_is_set_aside_is_ours_until_the_next_writing(tmp_path):
    old_and_mine(tmp_path)
    moves = set_aside(tmp_path, lambda path: path.startswith("a/"))
    assert moves == {"a/b.txt": "replaced/a/b.txt"}
    assert visible(tmp_path)["replaced/a/b.txt"] == "old"
    assert visible(tmp_path)["a/mine.txt"] == "mine"
    write(tmp_path, NEW)
    assert visible(tmp_path) == NEW | MINE


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

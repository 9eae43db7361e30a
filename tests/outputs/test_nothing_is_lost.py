"""Random folders, links and arguments against every command that writes: the user's files stay.

What is the user's is known to the test by itself: every file that it did not copy, unchanged, from
what a command had written.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from folders import snapshot
from training_runs import tiny

from hf_ddistill import sharing
from hf_ddistill.cli import main, quickstart
from hf_ddistill.cli.quickstart_folder import begin, finishing

SMALL = ["--hidden-size", "16", "--layers", "1", "--heads", "2"]
RUN = ["--data", "digits", "--steps", "2", "--save-steps", "1", "--batch-size", "4", "--cpu"]
NAMES = (
    *("README.md", "config.json", "model.safetensors", "tokenizer.json", "adapter_config.json"),
    *("metrics.json", "samples.png", "running.json", "run.json", ".env", "notes.txt", "a b.txt"),
    *("setup.json", "rows.json", "plot.png", "rows.json.part", ".gitignore", "training_args.bin"),
)
WORK = ("checkpoint-", "run.json", "running.json", "samples/", "runs/")
FOLDERS = ("teacher", "students", "distillation", "checkpoint-1", "checkpoint-2", "checkpoint-7")
FOLDERS += ("samples", "scheduler", "replaced", "unplaced", "runs", ".hf_ddistill-deadbeef", "lib")


@pytest.fixture(scope="module")
def made(tmp_path_factory, lm):  # noqa: F811
    """Folders that commands wrote, and the models that commands read."""
    folder = tmp_path_factory.mktemp("made")
    tiny().save_pretrained(folder / "network")
    shutil.copytree(lm, folder / "lm")
    teacher = ["teacher", "--output", str(folder / "teacher"), *SMALL, *RUN]
    assert main(["convert", str(folder / "lm"), "--output", str(folder / "converted")]) == 0
    assert main(teacher) == 0
    short_quickstart(folder / "quickstart", quickstart.Setup())
    return folder


def short_quickstart(folder, setup, overwrite=False):
    """All that the quickstart does to its folder, without the training."""
    begin(folder, asdict(setup), overwrite)
    with finishing(folder) as draft:
        (draft / "students" / "ecd").mkdir(parents=True)
        for name in ("metrics.json", "samples.png", "students/ecd/config.json"):
            (draft / name).write_text(name)


class Sandbox:
    """A random tree; `mine` are the paths of files that are the user's.

    Args:
        folder: an empty one.
        made: what may be copied into it.
        rng: decides everything.
    """

    def __init__(self, folder, made, rng):
        self.folder, self.made, self.rng = folder, made, rng
        self.ours = set()
        (folder / "home").mkdir(parents=True)
        self.places = [folder / "home"]
        for _ in range(rng.randint(2, 5)):
            self.places.append(self._new_folder())
        for _ in range(rng.randint(0, 2)):
            self._copy_of_ours()
        for _ in range(rng.randint(4, 16)):
            self._file(rng.choice(self.places) / rng.choice(NAMES))
        for _ in range(rng.randint(0, 4)):
            self._link()

    def _new_folder(self):
        place = self.rng.choice(self.places) / self.rng.choice(FOLDERS)
        if not os.path.lexists(place):
            place.mkdir()
        return place if place.is_dir() and not place.is_symlink() else self.places[0]

    def _copy_of_ours(self):
        kind = self.rng.choice(["converted", "teacher", "quickstart"])
        place = self.rng.choice(self.places) / f"our_{kind}"
        if place.exists():
            return
        shutil.copytree(self.made / kind, place)
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        self.ours |= {path.relative_to(self.folder).as_posix() for path in files}
        self.places += [place, *(path for path in sorted(place.iterdir()) if path.is_dir())]
        if self.rng.random() < 0.4:
            self._file(self.rng.choice(files))

    def _file(self, path):
        if self.rng.random() < 0.1:
            path = path.with_name(".hf_ddistill.json")
        if path.is_dir() or path.is_symlink():
            return
        if path.name == ".hf_ddistill.json" and path.exists():
            return  # a lie about what is ours cannot be told from the truth
        path.write_bytes(self.rng.randbytes(self.rng.randint(0, 40)))
        self.ours.discard(path.relative_to(self.folder).as_posix())

    def _link(self):
        path = self.rng.choice(self.places) / self.rng.choice([*NAMES, *FOLDERS, "link"])
        target = self.rng.choice([*self.places, self.folder / "nowhere", self.made / "network"])
        if not os.path.lexists(path):
            path.symlink_to(target / self.rng.choice(["", "", *NAMES]))

    def target(self):
        """Somewhere to write to: a folder that is there, a new one, a file, a link, the root."""
        place = self.rng.choice(self.places)
        inside = sorted(place.iterdir()) or [place]
        return self.rng.choice([place, place, place / "new", place / "x" / "new", *inside[:6]])


def arguments(rng, box, made):
    """A command line for each command."""
    out, file = str(box.target()), str(box.target())
    copies = [str(place) for place in box.places if place.name.startswith("our_")]
    if rng.random() < 0.4:
        out = rng.choice([str(rng.choice(box.places) / "a" / "new"), *copies])
    elif rng.random() < 0.2:
        out = rng.choice([".", "..", str(box.folder), str(made), str(made / "lm")])
    flags = [flag for flag in ("--overwrite", "--resume") if rng.random() < 0.45]
    over = [flag for flag in flags if flag == "--overwrite"]
    network, json_ = str(made / "network"), ["--json", file]
    picture = file if rng.random() < 0.5 else f"{file}.png"
    sizes = ["--count", "1", "--steps", "1", "--device", "cpu"]
    bare = ["diagnose", "--process", "absorbing", "--vocab-size", "3", "--positions", "4"]
    return [
        ["convert", rng.choice([str(made / "lm"), out]), "--output", out, *over],
        ["teacher", "--output", out, *SMALL, *RUN, *flags],
        ["distill", "--teacher", rng.choice([network, out]), "--output", out, *RUN, *flags],
        ["quickstart", "--output", out, *over],
        ["sample", network, *sizes, *json_, "--image", picture, *over],
        ["evaluate", network, "--nfe", "1", "--samples", "2", "--device", "cpu", *json_, *over],
        ["exact", "--problem", "parity:3", "--nfe", "1", *json_, "--plot", picture, *over],
        [*bare, "--times", "0.5", "--steps", "0.5", *json_, "--plot", f"{file}.png", *over],
        ["list", "processes", *json_, *over],
        ["push", out, "me/model"],
    ]


class NoHub:
    """What is uploaded goes nowhere."""

    def repo_info(self, repo_id):
        raise OSError("no Hub here")


def failing_rename(monkeypatch, number, folder):
    """Let the `number`-th move below a folder fail as on a broken disk."""
    rename, left = os.rename, [number]

    def fails(source, target):
        left[0] -= str(folder) in str(source)
        if left[0] == 0:
            left[0] = -1
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)


def check_one(argv, box, capsys, monkeypatch):
    """Run one command; gives its exit code."""
    before, outside = snapshot(box.folder), snapshot(box.made)
    broken = box.rng.random() < 0.25
    with monkeypatch.context() as patch:
        if broken:
            failing_rename(patch, box.rng.randint(1, 12), box.folder)
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
    said = capsys.readouterr().err
    about = f"{' '.join(argv)} in {Path.cwd()} -> {code}: {said[-500:]}"
    assert code in (0, 2) and "Traceback" not in said, about
    after = snapshot(box.folder)
    assert snapshot(box.made) == outside, about
    records = {path for path in box.ours if path.endswith(".hf_ddistill.json")}
    kept = {path: what for path, what in before.items() if what and path not in records}
    if {"--overwrite", "--resume"} & set(argv) and code == 0:
        kept = {path: what for path, what in kept.items() if path not in box.ours}
    elif argv[0] in ("teacher", "distill", "quickstart"):
        # A training that fails leaves a checkpoint, if it came to one, and earlier work aside.
        ours = {path for path in box.ours if any(name in path for name in WORK)}
        kept = {path: what for path, what in kept.items() if path not in ours}
    lost = {path for path, what in kept.items() if after.get(path) != what}
    contents = set(after.values())
    moved = {path for path in lost if "checkpoint-" in path and kept[path] in contents}
    assert lost == moved, f"{about}\nlost: {lost - moved}"
    box.ours |= after.keys() - before.keys()
    return code


def throw(trees, tmp_path, made, capsys, monkeypatch):
    """Random trees at all commands; gives how many ran and how many worked."""
    monkeypatch.setattr(quickstart, "quickstart", short_quickstart)
    monkeypatch.setattr(sharing, "HfApi", NoHub)
    ran, worked = 0, {}
    for seed in range(trees):
        rng = random.Random(seed)
        box = Sandbox(tmp_path / str(seed), made, rng)
        monkeypatch.setenv("HOME", str(rng.choice(box.places)))
        for argv in arguments(rng, box, made):
            monkeypatch.chdir(rng.choice([place for place in box.places if place.is_dir()]))
            if check_one(argv, box, capsys, monkeypatch) == 0:
                worked[argv[0]] = worked.get(argv[0], 0) + 1
            ran += 1
    return ran, worked


def test_no_command_loses_what_is_not_ours(tmp_path, made, capsys, monkeypatch):
    ran, worked = throw(5, tmp_path, made, capsys, monkeypatch)
    assert ran == 50 and sum(worked.values()) > 5


@pytest.mark.slow
def test_no_command_loses_what_is_not_ours_in_many_trees(tmp_path, made, capsys, monkeypatch):
    ran, worked = throw(60, tmp_path, made, capsys, monkeypatch)
    with capsys.disabled():
        print(f"\n{ran} commands; of these worked: {worked}")
    assert ran == 600 and set(worked) == set("convert teacher distill quickstart".split()) | set(
        "sample evaluate exact diagnose list".split()
    )

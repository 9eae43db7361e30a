"""Wrong inputs of the command line: one sentence that says what and where, before any work."""

from __future__ import annotations

import gc
import json
import math

import pytest
from cli_runs import SHORT, SMALL, ddit, refused, words

from hf_ddistill.cli.common import as_json
from hf_ddistill.cli.data import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ddit(tmp_path_factory.mktemp("model") / "m")


ROW = '{"input_ids": [1, 2, 3]}\n'
BROKEN = {  # a file's name and bytes, and words of the sentence
    "cut": ("a.jsonl", (ROW + '{"input_ids": [1, 2\n' + ROW).encode(), ["no JSON, line 2"]),
    "latin": ("a.jsonl", b'{"text": "one"}\n{"text": "caf\xe9"}\n', ["not UTF-8, line 2", "0xe9"]),
    "list": ("a.jsonl", b"[1, 2]\n", ["'text' must be a string"]),
    "letters": (
        "a.jsonl",
        (ROW + '{"input_ids": "abc"}\n').encode(),
        ["must be a list of integers"],
    ),
    "fractions": ("a.jsonl", b'{"input_ids": [1.5]}\n', ["must be a list of integers"]),
    "nothing": ("a.jsonl", b'{"input_ids": [1]}\n{"input_ids": null}\n', ["missing in 1 rows"]),
    "latin text": (
        "a.txt",
        "one\ntwo\nna\xefve\n".encode("latin-1"),
        ["not UTF-8, line 3", "0xef"],
    ),
    "csv": ("a.csv", b'text\n"one\n', ["a.csv cannot be read"]),
    "parquet": ("a.parquet", b"PAR1 no", ["cannot be read as Parquet"]),
    "numbers": ("a.csv", b"text\n1\n2\n", ["'text' must be a string"]),
    "empty": ("a.jsonl", b"", ["is empty"]),
    "huge": ("a.jsonl", b'{"input_ids": [99999999999]}\n', ["hold token 99,999,999,999"]),
    "label": (
        "a.jsonl",
        b'{"input_ids": [1, 2], "label": "x"}\n',
        ["a label is a class", "got 'x'"],
    ),
    "no column": ("a.csv", b"words\none\n", ["Text needs --tokenizer"]),
}


@pytest.mark.parametrize(("name", "content", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_of_data_is_named_with_its_line(name, content, says, tmp_path, capsys):
    file, out = tmp_path / name, tmp_path / "out"
    file.write_bytes(content)
    more = ["--class-conditional"] if b"label" in content else []
    said = refused(capsys, "teacher", "--data", file, "--output", out, *SMALL, *SHORT, *more)
    assert all(word in said for word in says), said
    assert not out.exists()


def test_a_stream_without_a_row_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match="is empty"):
        load(str(tmp_path / "a.jsonl"), streaming=True)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",  # the first ten megabytes are read at once
            ('{"text": "' + "a" * 9990 + '"}\n') * 1100 + '{"text": "b\n',
            r"a\.jsonl is no JSON, line 1101",
        ),
        ("a.csv", "text\n" + "one\n" * 20_000 + '"two\n', r"a\.csv cannot be read: Error tok"),
    ],
    ids=["jsonl", "csv"],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_stream_that_breaks_late_names_no_file(name, content, said, tmp_path):
    file = tmp_path / name
    file.write_text(content)
    stream = load(str(file), streaming=True)
    with pytest.raises(ValueError, match=said):
        for _ in stream:
            pass
    del stream
    gc.collect()  # `datasets` leaves a file that could not be read to the collector


@pytest.mark.parametrize("content", [b'{"input_ids": [1\n', b'{"text": "\xe9"}\n'])
def test_a_broken_stream_is_named_with_its_line(content, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jsonl is n.*line 1"):
        load(str(file), streaming=True)


WRONG = {  # options of a command, and words of the sentence
    "digits": ("teacher", ["--data", "digits:many"], ["number of levels from 2 to 17"]),
    "levels": ("teacher", ["--data", "digits:40"], ["3 to 17"]),
    "split": ("teacher", ["--data", "digits", "--split", "test"], ["no other split"]),
    "same": (
        "teacher",
        ["--data", "digits", "--eval-data", "digits"],
        ["are those of the training"],
    ),
    "process": ("teacher", ["--process", "[1]"], ["a JSON mapping, got a JSON list"]),
    "no type": ("teacher", ["--process", '{"vocab_size": 3}'], ["needs a 'type'"]),
    "a word": (
        "teacher",
        ["--process", '{"type": "absorbing", "vocab_size": "x"}'],
        ["an integer"],
    ),
    "truth": (
        "teacher",
        ["--process", '{"type": "hybrid", "uniform": true}'],
        ["must be a number"],
    ),
    "field": ("teacher", ["--process", '{"type": "absorbing", "mask": 3}'], ["no setting 'mask'"]),
    "matrix": (
        "teacher",
        ["--process", '{"type": "general", "matrix": [["a", 1], [1, 1]]}'],
        ["--process"],
    ),
    "schedule": ("teacher", ["--schedule", '{"type": "linear", "sigma_max": []}'], ["a number"]),
    "masks": ("teacher", ["--process", "uniform", "--mask-token-id", "1"], ["has no masks"]),
    "mask in the data": (
        "teacher",
        ["--vocab-size", "2"],
        ["The data hold token 1", "noise token"],
    ),
    "window": ("distill", ["--max-length", "9"], ["--max-length=9", "reads at most 8"]),
    "rows": ("distill", [], ["rows of 64 tokens", "reads at most 8"]),
    "report": ("teacher", ["--report-to", "wanbd"], ["knows no 'wanbd'", "wandb"]),
    "rate": ("teacher", ["--learning-rate", "nan"], ["must be above 0, got nan"]),
    "scheduler": ("teacher", ["--lr-scheduler-type", "cosin"], ["invalid choice"]),
    "seed": ("teacher", ["--seed", "-1"], ["at least 0, got -1"]),
    "eval steps": ("teacher", ["--eval-steps", "5"], ["needs data that are held out"]),
    "abbreviation": (
        "teacher",
        ["--learning", "1"],
        ["unrecognized arguments: --learning 1 (did you mean --learning-rate?)"],
    ),
    "a trainer's name": ("distill", ["--max_steps=3"], ["did you mean --steps"]),
    "transposed": ("sample", ["--stpes", "4"], ["did you mean --steps or "]),
    "unknown": ("sample", ["--zzz", "3"], ["--zzz 3 (see hf-ddistill sample --help)"]),
    "rounds": ("distill", ["--steps", "7", "--rounds", "3"], ["take 6 or 9 steps"]),
    "objective": ("distill", ["--objective", '{"type": "ecd", "top_k": "x"}'], ["an integer"]),
    "nested": ("distill", ["--objective", '{"type": "ecd", "divergence": 5}'], ["divergence"]),
    "rule": (
        "distill",
        ["--objective", '{"type": "opdlm", "rollouts": {"unmasking": "thresold"}}'],
        ["did you mean 'threshold'"],
    ),
    "calls": ("distill", ["--student-steps", "1000000000"], ["at most 100,000"]),
    "dtype": ("distill", ["--dtype", "foo"], ["invalid choice: 'foo'"]),
    "teacher dtype": (
        "distill",
        ["--teacher-dtype", "bfloat16"],
        ["of a teacher beside --student"],
    ),
    "device": ("sample", ["--device", "nonsense"], ["knows no device 'nonsense'"]),
    "no device": ("sample", ["--device", "cuda:77"], ["this machine has no device 'cuda:77'"]),
    "meta": ("evaluate", ["--device", "meta"], ["this machine has no device 'meta'"]),
    "blocks": ("sample", ["--steps-per-block", "2"], ["of decoding in blocks"]),
    "temperature": ("sample", ["--temperature", "-1"], ["at least 0, got -1"]),
    "class": ("sample", ["--class-label", "one"], ["must be an integer"]),
    "judge": ("evaluate", ["--judge", "digits"], ["images of 8 x 8"]),
    "nfe": ("evaluate", ["--nfe", "0"], ["at least 1, got 0"]),
    "calls of samples": ("sample", ["--steps", "99999999"], ["at most 100,000"]),
    "length": ("evaluate", ["--length", "9"], ["model's window"]),
    "steps": ("diagnose", ["--steps", "0"], ["in (0, 1], got 0"]),
    "problem": ("exact", ["--problem", "nothing.json"], ["no file"]),
    "seeds": ("exact", ["--seeds", "x"], ["must be an integer, got 'x'"]),
    "minutes": ("exact", ["--minutes", "inf"], ["above 0, got inf"]),
    "setting": ("exact", ["--objective", '{"type": "law_matching", "steps": 1}'], ["a string"]),
}


@pytest.mark.parametrize(("command", "options", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_option_is_one_sentence(command, options, says, model, tmp_path, capsys):
    needed = {"teacher": [*SMALL, *SHORT], "exact": [], "distill": ["--teacher", model, *SHORT]}
    given = [command, *needed.get(command, [model]), *options]
    if command in ("teacher", "distill"):
        given += [] if "--data" in options else ["--data", "digits"]
        given += ["--output", tmp_path / "out"]
    said = refused(capsys, *given)
    assert all(word in said for word in says), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sample", "evaluate", "diagnose", "exact", "list"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(command, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    # There is no such model: whoever says so has begun to work.
    model = [] if command in ("exact", "list") else [tmp_path / "nowhere"]
    for target, says in (
        (tmp_path, "which is a folder"),
        (tmp_path / "file" / "r.json", "is no folder"),
        (tmp_path / ("x" * 300) / "r.json", "cannot write"),
    ):
        said = refused(capsys, command, *model, "--json", target)
        assert "--json" in said and says in said, said
    if command in ("exact", "diagnose"):
        assert "--plot" in refused(capsys, command, *model, "--plot", tmp_path / "file" / "a.png")
        assert "writes a .png" in refused(capsys, command, *model, "--plot", tmp_path / "a.pdf")
    if command == "sample":
        assert "writes a .png" in refused(capsys, command, *model, "--image", tmp_path / "a.jpg")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_tokenizer_that_is_broken_or_missing_is_refused(tmp_path, capsys):
    words().save_pretrained(tmp_path / "tok")
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    (tmp_path / "a.txt").write_text("w1 w2\n")
    (tmp_path / "none").mkdir()
    given = ["teacher", "--data", tmp_path / "a.txt", "--output", tmp_path / "out", *SMALL, *SHORT]
    assert "okenizer" in refused(capsys, *given, "--tokenizer", tmp_path / "tok")
    assert "holds no tokenizer" in refused(capsys, *given, "--tokenizer", tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_json_has_a_row_in_a_line_and_not_a_token():
    payload = {"nfe": 4, "rows": [{"tokens": [1, 2], "text": "a\nb"}, {"tokens": []}], "more": {}}
    written = as_json(payload)
    assert json.loads(written) == payload
    assert len(written.splitlines()) == 8
    assert json.loads(as_json({})) == {}


def test_json_of_a_figure_that_there_is_not_can_be_read_by_all():
    written = as_json({"rows": [{"ppl": float("nan"), "n": [1.0, float("inf")]}], "all": -math.inf})
    assert json.loads(written, parse_constant=pytest.fail) == {
        "rows": [{"ppl": None, "n": [1.0, None]}],
        "all": None,
    }

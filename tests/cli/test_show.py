"""`sample --show`: what is shown of each step is what happened in it."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from cli_runs import ddit, refused, run, words
from PIL import Image
from pipeline_cases import made, piped, seeded

from hf_ddistill.cli.show import gif, page, terminal
from hf_ddistill.cli.show.story import Piece, text_of_tokens, told
from hf_ddistill.models import as_denoiser
from hf_ddistill.pipelines import Moment, Trace
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.schedulers import AncestralScheduler, SamplerScheduler

NAN = math.nan


class Terminal(io.StringIO):
    def isatty(self):
        return True


def moment(tokens, sure):
    sure = torch.tensor([sure])
    return Moment(torch.tensor([tokens]), ~sure.isnan(), sure)


def two_steps(written=lambda token: "abcd"[token], **images):
    """Token 3 is the mask; the first token is given."""
    moments = [
        moment([0, 3, 1], [NAN, NAN, 0.25]),
        moment([0, 2, 1], [NAN, 1.0, NAN]),
    ]
    return told(moments, written, (3,), **images)


def traced(pipe, **call):
    trace = Trace()
    out = pipe(
        callback_on_step_end=trace, callback_on_step_end_tensor_inputs=trace.inputs, **call
    ).sequences
    return trace, out


@pytest.mark.parametrize("process", [Absorbing(6, 2), Uniform(6)])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_confidence_is_what_the_model_said_of_the_tokens_that_came(process, guidance):
    model = made(process, num_classes=2)
    pipe = piped(model, AncestralScheduler)
    label = {"class_labels": 1, "guidance_scale": guidance}
    trace, out = traced(pipe, batch_size=3, num_inference_steps=4, generator=seeded(), **label)
    assert torch.equal(
        out, pipe(batch_size=3, num_inference_steps=4, generator=seeded(), **label).sequences
    )
    denoiser, seen = as_denoiser(model), 0
    labels, none = torch.ones(3, dtype=torch.int64), torch.full((3,), -1)
    for number in range(1, 4):
        x_t, moment = trace.moments[number - 1].sequences, trace.moments[number]
        t = 1 - number / 4
        with torch.no_grad():
            log_p = denoiser(x_t, t, class_labels=labels).log_conditional.double()
            free = denoiser(x_t, t, class_labels=none).log_conditional.double()
        log_p = (guidance * log_p - (guidance - 1) * free).log_softmax(-1)
        p = log_p.exp().gather(-1, moment.sequences[..., None])[..., 0]
        changed = moment.sequences != x_t
        assert torch.equal(moment.changed, changed)
        torch.testing.assert_close(moment.confidence[changed], p[changed], atol=1e-5, rtol=0)
        seen += int(changed.sum())
    assert seen > 5


def test_a_sampler_of_several_calls_is_watched_too():
    rule = {"type": "unmasking", "unmasking": "threshold"}
    pipe = piped(made(), SamplerScheduler, sampler=rule)
    trace, out = traced(pipe, batch_size=3, num_inference_steps=4, generator=seeded())
    came = torch.stack([moment.changed for moment in trace.moments]).sum(0)
    assert torch.equal(came, torch.ones_like(out)), "under masks each token comes once"


def test_held_tokens_never_come():
    trace, _ = traced(piped(made()), input_ids=torch.tensor([1, 2]), generator=seeded())
    assert not any(moment.changed[:, :2].any() for moment in trace.moments)


def test_a_story_tells_when_each_token_came_and_how_sure_the_model_was():
    first, last = two_steps().frames
    assert [(p.text, p.known, p.step, p.sure) for p in first[0]] == [
        ("a", True, 0, None),
        ("·", False, 0, None),
        ("b", True, 1, 0.25),
    ]
    assert [(p.text, p.step, p.sure) for p in last[0]] == [
        ("a", 0, None),
        ("c", 2, 1.0),
        ("b", 1, 0.25),
    ]


def test_without_colours_news_stand_in_brackets():
    out = io.StringIO()
    terminal.show(two_steps(), out)
    assert out.getvalue().splitlines() == [
        "step 1 of 2: 1 tokens, of which the model was 25% sure",
        "  1  a·[b]",
        "step 2 of 2: 1 tokens, of which the model was 100% sure",
        "  1  a[c]b",
    ]


def test_in_a_terminal_news_have_the_colour_of_their_probability():
    out = Terminal()
    terminal.show(two_steps(), out)
    assert "\x1b[1;38;2;0;114;178mc\x1b[0m" in out.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "  1  a·b\n" in plain and "  1  acb\n" in plain


def test_images_are_drawn_two_rows_a_line():
    story = two_steps(greys=[0, 128, 255, 0], shape=(3, 1))
    out = Terminal()
    terminal.show(story, out)
    assert out.getvalue().count("▀") == 2 * 2, "three rows are two lines"
    out = io.StringIO()
    terminal.show(story, out)
    assert out.getvalue().splitlines()[1:4] == ["    ", "  ??", "  =="]


@pytest.mark.parametrize("images", [{}, {"greys": [0, 128, 255, 0], "shape": (1, 3)}])
def test_a_gif_has_a_picture_for_each_step(tmp_path, images):
    gif.save(two_steps(**images), tmp_path / "steps.gif")
    with Image.open(tmp_path / "steps.gif") as picture:
        assert picture.n_frames == 2
        picture.seek(1)
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(10**6)}
    near = min(sum(abs(a - b) for a, b in zip(c, (0, 114, 178), strict=True)) for c in colours)
    assert near < 30, "what came surely is drawn in the colour of that"


def test_a_word_is_cut_where_a_line_of_a_gif_ends():
    piece = Piece("", None, True, 1, None)
    sample = [replace(piece, text=f" {letter * 9}") for letter in "abcdefghijkl"]
    lines = ["".join(each for each, _ in line) for line in gif._lines(sample)]
    assert lines == ["".join(p.text for p in sample[:9]) + " ", "j" * 9 + " kkkkkkkkk lllllllll"]
    (whole, rest) = gif._lines([replace(piece, text="x" * 100)])
    assert (len(whole), len(rest)) == (96, 4), "one word fills a line"


def test_a_page_holds_all_steps_and_no_sample_can_end_its_script(tmp_path):
    page.save(two_steps(lambda token: "</script>"), tmp_path / "steps.html")
    written = (tmp_path / "steps.html").read_text(encoding="utf-8")
    assert written.count("</script>") == 1
    data = json.loads(re.search(r"const story = (.*);\n", written).group(1))
    assert [piece[3:] for piece in data["frames"][1][0]] == [[0, None], [2, 1.0], [1, 0.25]]


def test_a_word_keeps_the_space_before_it():
    tokenizer = words()
    text = text_of_tokens(tokenizer)
    assert text(5) == " w2" and text(tokenizer.pad_token_id) == "¶"


def test_sample_shows_every_step_and_draws_the_same(tmp_path, capsys):
    folder = ddit(tmp_path / "model")
    common = "sample", folder, "--steps", 3, "--count", 2, "--json"
    assert run(*common, tmp_path / "plain.json") == 0
    capsys.readouterr()
    assert run(*common, tmp_path / "shown.json", "--show") == 0
    said = capsys.readouterr().out
    came = [int(number) for number in re.findall(r"step \d of 3: (\d+) tokens", said)]
    assert len(came) == 3 and sum(came) == 2 * 8
    assert (tmp_path / "plain.json").read_text() == (tmp_path / "shown.json").read_text()
    for name in ("steps.gif", "steps.html"):
        assert run(*common, tmp_path / f"{name}.json", "--show", tmp_path / name) == 0
        assert (tmp_path / name).stat().st_size > 500


def test_steps_that_drafts_left_nothing_to_do_are_shown_as_empty_ones(tmp_path, capsys):
    folder, page = ddit(tmp_path / "m"), tmp_path / "a.html"
    run("sample", folder, "--sampler", "speculative", "--steps", 8, "--count", 1, "--show", page)
    steps = int(re.search(r"(\d+) steps are in", capsys.readouterr().out)[1])
    assert 1 <= steps < 8


def test_a_file_of_another_kind_or_of_the_user_s_is_refused_after_work(tmp_path, capsys):
    nowhere = tmp_path / "no_model"
    assert ".gif or an .html" in refused(capsys, "sample", nowhere, "--show", "steps.mp4")
    mine = tmp_path / "mine.gif"
    mine.write_text("mine")
    for more in ([], ["--overwrite"]):
        assert "--show" in refused(capsys, "sample", nowhere, "--show", mine, *more)
    assert mine.read_text() == "mine"

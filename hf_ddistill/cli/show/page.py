"""A story as one HTML file that needs no other."""

from __future__ import annotations

import json
from pathlib import Path

from hf_ddistill.cli.show.story import SURE, UNSURE, Story
from hf_ddistill.outputs import writing_file

_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>hf-ddistill sample</title>
<style>
body { font: 16px/1.6 ui-monospace, monospace; max-width: 70em; margin: 2em auto; color: #222 }
.sample { margin: 1em 0; white-space: pre-wrap }
.image { display: inline-grid; gap: 1px; margin: 0 1em 1em 0 }
.image span { width: 16px; height: 16px; box-sizing: border-box }
.open { color: #aaa }
.image .open { background: #a8acc4 }
.new { outline: 2px solid #222 }
input { width: 20em; vertical-align: middle }
.key { display: inline-block; width: 12em; height: .8em; vertical-align: middle }
</style>
<p><button id="play">play</button> <input id="at" type="range" min="1"> <span id="said"></span></p>
<p>colour: the model's probability of a token when it came, 0 <span class="key" id="key"></span> 1;
outlined: new in this step; hold the pointer over a token for both</p>
<div id="all"></div>
<script>
const story = DATA;
const mix = p => story.unsure.map((a, i) => Math.round(a + p * (story.sure[i] - a)));
const shade = (p, a) => "rgba(" + (p === null ? [110, 110, 110] : mix(p)) + "," + a + ")";
const at = document.getElementById("at"), all = document.getElementById("all");
at.max = at.value = story.frames.length;
document.getElementById("key").style.background =
  "linear-gradient(to right," + shade(0, .45) + "," + shade(1, .45) + ")";
function draw() {
  const step = +at.value;
  document.getElementById("said").textContent = "step " + step + " of " + story.frames.length;
  all.replaceChildren(...story.frames[step - 1].map(sample => {
    const box = document.createElement("div");
    box.className = story.shape ? "image" : "sample";
    if (story.shape) box.style.gridTemplateColumns = "repeat(" + story.shape[1] + ", 16px)";
    box.append(...sample.map(([text, grey, known, came, sure]) => {
      const span = document.createElement("span");
      if (!story.shape) span.textContent = text;
      else if (known) span.style.background = "rgb(" + [grey, grey, grey] + ")";
      span.className = (known ? "" : "open") + (known && came === step ? " new" : "");
      if (known && came && !story.shape) span.style.background = shade(sure, .35);
      if (known && came) {
        span.title = "step " + came + (sure === null ? "" : ", p = " + sure.toFixed(3));
        span.style.outlineColor = shade(sure, 1);
      }
      return span;
    }));
    return box;
  }));
}
at.oninput = draw;
let running = null;
document.getElementById("play").onclick = () => {
  if (running) { clearInterval(running); running = null; return; }
  if (+at.value === story.frames.length) at.value = 0;
  running = setInterval(() => {
    at.value = +at.value + 1; draw();
    if (+at.value === story.frames.length) { clearInterval(running); running = null; }
  }, Math.max(80, Math.min(700, 6000 / story.frames.length)));
};
draw();
</script>
</html>
"""


def save(story: Story, file: Path) -> None:
    """All steps, with a slider.

    Raises:
        ValueError: if there is a file that is not ours.
    """
    frames = [
        [[[p.text, p.grey, p.known, p.step, _rounded(p.sure)] for p in sample] for sample in frame]
        for frame in story.frames
    ]
    data = {"frames": frames, "shape": story.shape, "unsure": UNSURE, "sure": SURE}
    # A "</script>" in a sample would end the script.
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    with writing_file(file) as draft:
        draft.write_text(_PAGE.replace("DATA", written, 1), encoding="utf-8")


def _rounded(sure: float | None) -> float | None:
    return None if sure is None else round(sure, 4)

"""The rows of `scoreboard_molecules.py`: samples, and what they are judged by."""

import json
import time
from pathlib import Path

from scoreboard_molecules_table import OWN

from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.cli.evaluate import draw
from hf_ddistill.evaluation import MoleculeJudge
from hf_ddistill.samplers import UnmaskingSampler
from hf_ddistill.schedulers import AncestralScheduler, SamplerScheduler

EVEN = ("confidence", "random")  # scores of the unmasking rule "static"


class Rows:
    """The rows of the table; one that the file has is not measured again."""

    def __init__(self, args, train, held_out):
        self.args, self.file = args, args.json or args.output / "rows.json"
        self.judge = MoleculeJudge(tuple(train), tuple(held_out), args.group)
        self.rows = json.loads(self.file.read_text())["rows"] if self.file.exists() else []

    def add(self, model, about, sample, more=None):
        """Measure what `sample()` gives, unless there is a row about it."""
        about = {"model": model, "seed": self.args.seed, **about, "samples": self.args.samples}
        if any(about.items() <= row.items() for row in self.rows):
            return
        started = time.process_time()
        figures = self.judge(sample())
        self.rows.append({**about, **(more or {}), **figures})
        brief = {k: round(v, 4) if isinstance(v, float) else v for k, v in self.rows[-1].items()}
        print(json.dumps(brief), f"{time.process_time() - started:.0f} s", flush=True)
        setup = {k: v.name if isinstance(v, Path) else v for k, v in vars(self.args).items()}
        whole = {"rows": self.rows, "setup": setup}
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(whole, indent=1) + "\n")
        part.replace(self.file)


def measure(rows, name, model, vocabulary, more=None):
    """A row for each number of calls, sampler and temperature: of the teacher ancestral steps and
    evenly many tokens a call, any of them or the surest drawn; of a student its own sampler and
    evenly many of any."""
    args = rows.args
    length = args.length  # by even shares no more calls are made than there are pieces
    if name == "teacher":
        ways = [(n, "ancestral", heat) for heat in args.temperatures for n in args.teacher_nfe]
        even = [n for n in args.teacher_nfe if 1 < n <= length]
        ways += [(n, "random", heat) for heat in args.temperatures for n in even]
        ways += [(n, "confidence", 1.0) for n in even]
    else:
        ways = [(n, OWN, 1.0) for n in args.student_nfe]
        ways += [(n, "random", 1.0) for n in args.student_nfe if 1 < n <= length]
    for nfe, sampler, temperature in ways:

        def sample(nfe=nfe, sampler=sampler, temperature=temperature):
            pipe = pipeline(model, sampler, temperature)
            tokens = draw(pipe, nfe, args.samples, seed=args.seed + 1, batch_size=250)
            return [vocabulary.smiles(row) for row in tokens.tolist()]

        about = {"nfe": nfe, "sampler": sampler, "temperature": temperature}
        rows.add(name, about, sample, more)


def pipeline(model, sampler, temperature):
    """A model with the sampler that it has, or another one, that draws in float64."""
    kind, settings = None, {}
    if sampler == "ancestral":
        kind = AncestralScheduler
    elif sampler in EVEN:
        rule = {"type": "static", "score": sampler}
        kind, settings = SamplerScheduler, {"sampler": UnmaskingSampler(rule).to_config()}
    pipe = DiscreteDiffusionPipeline.from_model(model, kind, temperature=temperature, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe

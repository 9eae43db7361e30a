"""From a folder of text to a student, with four commands and no code of one's own.

The text is this repository's documentation. A tokenizer is made of it (byte pairs) and saved with
the teacher, its last part is held out, and the bound on the likelihood of that part is what tells
how good the teacher is. The same lines work in a shell: `hf-ddistill teacher --data FOLDER ...`.

    python examples/08_text_folder.py [OUTPUT] [STEPS]
"""

import json
import math
import sys
import tempfile
from pathlib import Path

from hf_ddistill.cli.main import main

out = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 60
text = str(Path(__file__).parents[1] / "docs" / "**" / "*.md")


def hf_ddistill(line: str, *more: str) -> None:
    """A command as it stands in a shell."""
    words = line.format(out=out, steps=steps, fewer=max(steps // 4, 1)).split()
    print("$ hf-ddistill", *words, *more)
    if main([*words, *more]):
        raise SystemExit(1)


hf_ddistill(
    "teacher --tokenizer bpe:512 --output {out}/teacher --steps {steps} --batch-size 16 "
    "--max-length 64 --hidden-size 128 --layers 3 --heads 4 --learning-rate 2e-3 --cpu --data",
    text,
)
hf_ddistill(
    "distill --teacher {out}/teacher --output {out}/student --student-steps 8 --steps {fewer} "
    "--batch-size 8 --max-length 64 --learning-rate 1e-4 --cpu --data",
    text,
)
hf_ddistill("sample {out}/student --count 2")
hf_ddistill(
    "evaluate {out}/teacher --bound --split train[-10%:] --json {out}/bound.json --data", text
)

bound = json.loads((out / "bound.json").read_text())["rows"][0]
print(f"{bound['bits_per_token']:.2f} +- {bound['standard_error'] / math.log(2):.2f} bits a token")
assert bound["nelbo"] < math.log(512), "it knows less than nothing"

"""`import hf_ddistill`: light, and known to transformers and diffusers all the same."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY

import hf_ddistill
from hf_ddistill.registration import CONFIGURATIONS, TASK, StandIn, _register_configurations

TEACHER = Path(hf_ddistill.__file__).parent / "assets" / "digits_teacher"
HEAVY = ("torch", "numpy", "transformers", "diffusers", "peft", "datasets", "evaluate", "sklearn")
OPEN = f"""
# diffusers takes what a model_index.json names from there alone.
assert "hf_ddistill.schedulers.scheduling_ancestral" in sys.modules
teacher = {str(TEACHER)!r}
assert type(AutoConfig.from_pretrained(teacher)).__name__ == "DDiTConfig"
assert type(AutoModelForMaskedLM.from_pretrained(teacher)).__name__ == "DDiTForDiscreteDiffusion"
assert type(AutoModel.from_pretrained(teacher)).__name__ == "DDiTModel"
generate = pipeline("discrete-diffusion", model=teacher)
assert len(generate(num_inference_steps=1)[0]["generated_token_ids"]) == 64
"""
THEIRS = """
from diffusers import DiffusionPipeline
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, pipeline
"""


def run(code):
    """Run a program of its own; what it printed, or its error."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_brings_no_library():
    heavy = f"print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(f"import sys, hf_ddistill; {heavy}") == "[]"
    # Not where transformers is there before us either: nothing of ours is opened yet.
    code = "import sys; from transformers import AutoConfig; import hf_ddistill; "
    assert run(code + "print('hf_ddistill.models' in sys.modules)") == "False"


@pytest.mark.parametrize("first", ["ours", pytest.param("theirs", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_libraries_do_not_know_our_models_pipelines_and_task(first):
    imports = ["import hf_ddistill, sys\n", THEIRS]
    run("".join(imports if first == "ours" else reversed(imports)) + OPEN)


def test_a_registered_class_is_another_than_the_stand_in_stood_for():
    for model_type, name in CONFIGURATIONS.items():
        real = getattr(hf_ddistill.models, name)
        assert real.model_type == model_type and CONFIG_MAPPING[model_type] is real
        causal = model_type == "ddit_decoder"
        auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
        assert real in auto._model_mapping
    ours = [key for key in CONFIG_MAPPING if CONFIG_MAPPING[key].__module__.startswith("hf_ddist")]
    assert set(ours) == set(CONFIGURATIONS)
    pipeline = hf_ddistill.pipelines.DiscreteDiffusionGenerationPipeline
    assert PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] is pipeline


def test_a_stand_in_does_other_than_the_class():
    stand_in = StandIn("DDiTConfig", "hf_ddistill.models")
    assert stand_in.model_type == "ddit" and stand_in.__name__ == "DDiTConfig"
    assert type(stand_in(vocab_size=5)) is hf_ddistill.DDiTConfig
    again = pickle.loads(pickle.dumps(stand_in))
    assert again.model_type == "ddit" and type(again) is StandIn


def test_a_class_that_is_registered_gives_way_to_a_stand_in():
    auto = sys.modules["transformers.models.auto.configuration_auto"]
    _register_configurations(auto)
    assert CONFIG_MAPPING["ddit"] is hf_ddistill.models.DDiTConfig


def test_a_public_name_is_missing():
    under_type_checking = {
        alias.name
        for node in ast.walk(ast.parse(Path(hf_ddistill.__file__).read_text()))
        if isinstance(node, ast.If)
        for imported in node.body
        for alias in imported.names
    }
    assert sorted(under_type_checking) == sorted(hf_ddistill.__all__)
    assert {*hf_ddistill.__all__, "__version__"} <= set(dir(hf_ddistill))
    everything: dict = {}
    exec("from hf_ddistill import *", everything)
    assert everything["as_denoiser"] is hf_ddistill.models.as_denoiser
    assert everything.keys() >= set(hf_ddistill.__all__)
    assert hf_ddistill.training.DiscreteDistillationConfig is hf_ddistill.DiscreteDistillationConfig
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hf_ddistill.nothing
    assert not hasattr(hf_ddistill, "__path_that_is_not__")


def test_a_name_cannot_be_pickled():
    process = hf_ddistill.Uniform(4)
    assert pickle.loads(pickle.dumps(process)) == process

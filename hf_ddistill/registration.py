"""The models and pipelines, made known to transformers and diffusers before they are imported.

transformers takes a *stand-in* for each class: it imports the class when it is used. diffusers
looks for the classes of a `model_index.json` among the modules that are imported, and imports none
itself: ours come with its pipelines.
"""

from __future__ import annotations

import copyreg
import importlib
from types import ModuleType
from typing import Any

from hf_ddistill.after_import import AfterImport

#: The `model_type` and class of each configuration that `hf_ddistill.models` registers.
CONFIGURATIONS = {"ddit": "DDiTConfig", "block_diffusion": "BlockDiffusionConfig"}
CONFIGURATIONS |= {"ddit_decoder": "DDiTDecoderConfig", "canvas": "CanvasConfig"}
CONFIGURATIONS |= {"gidd_lm": "GiddConfig", "noised_masked_lm": "NoisedMaskedLMConfig"}
CONFIGURATIONS |= {"parted_lm": "PartedLMConfig"}
TASK = "discrete-diffusion"


class StandIn(type):
    """A class without content that does as the class of its name in its module does."""

    def __new__(cls, name: str, module: str) -> StandIn:
        return super().__new__(cls, name, (), {"__module__": module})

    def __init__(cls, name: str, module: str) -> None:
        super().__init__(name, (), {})

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._real(), name)

    def _real(cls) -> type:
        return getattr(importlib.import_module(cls.__module__), cls.__name__)


# As a class it would be pickled by its name, which is the real one's.
copyreg.pickle(StandIn, lambda stand_in: (StandIn, (stand_in.__name__, stand_in.__module__)))


def register_when_asked() -> None:
    """Register with each library as soon as it is there."""
    AfterImport(
        {
            "transformers.models.auto.configuration_auto": _register_configurations,
            "transformers.pipelines": _register_task,
            "diffusers.pipelines.pipeline_utils": _import_components,
        }
    ).install()


def _register_configurations(auto: ModuleType) -> None:
    """A model is asked for by its configuration, whose module registers the models, too."""
    for model_type, name in CONFIGURATIONS.items():
        if model_type not in auto.CONFIG_MAPPING:
            auto.CONFIG_MAPPING.register(model_type, StandIn(name, "hf_ddistill.models"))


def _register_task(pipelines: ModuleType) -> None:
    pipelines.PIPELINE_REGISTRY.supported_tasks.setdefault(
        TASK,
        {
            "impl": "hf_ddistill.pipelines.text_pipeline.DiscreteDiffusionGenerationPipeline",
            "pt": (StandIn("AutoDiffusionModel", "hf_ddistill.models.opening"),),
            "type": "text",
        },
    )


def _import_components(pipeline_utils: ModuleType) -> None:
    importlib.import_module("hf_ddistill.pipelines")

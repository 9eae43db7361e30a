"""From other models to ours.

A converter is a member of the family `Converter`: one file here and one line below.
"""

from hf_ddistill.convert.a2d import A2D
from hf_ddistill.convert.bd3lm import BD3LM
from hf_ddistill.convert.block_diffusion import to_block_diffusion
from hf_ddistill.convert.card import conversion_card
from hf_ddistill.convert.causal_lm import CausalLM
from hf_ddistill.convert.converter import Converter, recognise
from hf_ddistill.convert.diffusion_gemma import DiffusionGemma
from hf_ddistill.convert.dream import Dream
from hf_ddistill.convert.duo import Duo
from hf_ddistill.convert.fast_dllm import FastDLLM
from hf_ddistill.convert.gidd import Gidd
from hf_ddistill.convert.gidd_hybrid import GiddHybrid
from hf_ddistill.convert.illada import ILLaDA
from hf_ddistill.convert.llada import LLaDA
from hf_ddistill.convert.llada2 import LLaDA2
from hf_ddistill.convert.mdlm import MDLM
from hf_ddistill.convert.nemotron import Nemotron
from hf_ddistill.convert.remote_code import RemoteCode
from hf_ddistill.convert.sdar import SDAR
from hf_ddistill.convert.sdar_moe import SDARMoe
from hf_ddistill.convert.sdtt import SDTT
from hf_ddistill.convert.sedd import SEDD
from hf_ddistill.convert.source import located
from hf_ddistill.convert.students import Students

__all__ = [
    "A2D",
    "BD3LM",
    "MDLM",
    "SDAR",
    "SDTT",
    "SEDD",
    "CausalLM",
    "Converter",
    "DiffusionGemma",
    "Dream",
    "Duo",
    "FastDLLM",
    "Gidd",
    "GiddHybrid",
    "ILLaDA",
    "LLaDA",
    "LLaDA2",
    "Nemotron",
    "RemoteCode",
    "SDARMoe",
    "Students",
    "conversion_card",
    "located",
    "recognise",
    "to_block_diffusion",
]

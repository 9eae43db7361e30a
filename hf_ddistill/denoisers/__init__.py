"""Networks that predict x_0, and what is made of them: one file each."""

from hf_ddistill.denoisers.blended import Blended
from hf_ddistill.denoisers.causal import Autoregressive
from hf_ddistill.denoisers.composite import Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.drafted import Drafted
from hf_ddistill.denoisers.ensemble import Ensemble
from hf_ddistill.denoisers.given import Given
from hf_ddistill.denoisers.guided import Guided
from hf_ddistill.denoisers.latent import Latent
from hf_ddistill.denoisers.moving import Moving
from hf_ddistill.denoisers.network import NetworkDenoiser
from hf_ddistill.denoisers.parted import Classes, Intervals, Parted
from hf_ddistill.denoisers.proxy import Proxy
from hf_ddistill.denoisers.recursive import Recursive
from hf_ddistill.denoisers.sharpened import Sharpened

__all__ = [
    "Autoregressive",
    "Blended",
    "Classes",
    "Composite",
    "Denoiser",
    "Drafted",
    "Ensemble",
    "Given",
    "Guided",
    "Intervals",
    "Latent",
    "Moving",
    "NetworkDenoiser",
    "Parted",
    "Proxy",
    "Recursive",
    "Sharpened",
]

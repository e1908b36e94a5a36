"""Published VQGANs of taming-transformers and LlamaGen: frozen tokenizers for the tasks of other systems."""

from muse_jax.system import Stage, System
from muse_jax.systems.taming.convert import convert_llamagen, convert_taming
from muse_jax.tokenizers import TamingVQGAN

SYSTEM = System(
    name="taming",
    tasks={},
    stages={"vqgan": Stage(TamingVQGAN, (), file="vqgan")},
    converters={"taming": convert_taming, "llamagen": convert_llamagen},
)

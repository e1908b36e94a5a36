"""Sampling parameters of Muse's base stage."""

from flax import struct

from muse_jax.sampling.params import MaskedSampling, check_steps, static


@struct.dataclass
class BaseSampling(MaskedSampling):
    """Sampling of base images; see `muse_jax.sampling.masked_decode` and `caption_evidence`.

    num_candidates: images per prompt, of which those with the most evidence for it are kept; at least 1. With
      1, as many are generated as are kept.
    """

    num_candidates: int = static(1)

    def check(self) -> None:
        super().check()
        check_steps("num_candidates", self.num_candidates)

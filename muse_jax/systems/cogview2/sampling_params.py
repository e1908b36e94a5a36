"""Sampling parameters of CogLM."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from flax import struct

from muse_jax.sampling import Sampling
from muse_jax.sampling.params import TokenSampling, check_not_negative, check_steps, static
from muse_jax.tokenizers import Clusters


@struct.dataclass
class CogLMSampling(TokenSampling):
    """Autoregressive generation of images by CogLM.

    Fields are those of `TokenSampling`, and:
    text_weight: bias added to the attention logits of text tokens when a whole image is generated, 0 or
      greater; 1.4 in the published program.
    infill_text_weight: the same bias when a region is inpainted; 1.4 in the published program.
    num_candidates: images generated per prompt, of which the best are kept; at least 1.
    """

    text_weight: float = 1.4
    infill_text_weight: float = 1.4
    num_candidates: int = static(8)

    renamed: ClassVar[Mapping[str, str | None]] = {"candidates": "num_candidates", "keep": None}

    def check(self) -> None:
        super().check()
        for name in ("text_weight", "infill_text_weight"):
            check_not_negative(name, getattr(self, name))
        check_steps("num_candidates", self.num_candidates)


def bind_clusters(params: TokenSampling, clusters: Clusters | None) -> Sampling:
    """The parameters in the form that the sampling loops take.

    Raises:
      ValueError: the parameters use clusters, but there are none.
    """
    number: Any = np.float32  # always one type: a Python int would compile another program
    sampling = Sampling(
        number(params.temperature),
        top_k=int(params.top_k),
        top_p=number(params.top_p) if params.top_p < 1 else None,
        inner_temperature=number(params.inner_temperature),
    )
    if not params.top_clusters:
        return sampling
    if clusters is None:
        raise ValueError(
            f"top_clusters is {params.top_clusters}, but this checkpoint has no clusters of codes: make "
            "them with experiments.cluster_codebook and export it again, or set top_clusters to 0."
        )
    return sampling.replace(  # type: ignore[attr-defined]
        clusters=clusters.of_code,
        num_clusters=len(clusters),
        top_clusters=min(int(params.top_clusters), len(clusters)),
    )

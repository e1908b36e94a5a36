"""Reconstruction quality of an image tokenizer: PSNR, SSIM, LPIPS, and use of its codes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from muse_jax.evaluation.evaluators import Context, Report
from muse_jax.evaluation.image_quality import MIN_SSIM_SIZE, psnr, ssim
from muse_jax.evaluation.loss import Loss
from muse_jax.interop.lpips import load_lpips_alex
from muse_jax.media.image import from_unit_range, to_unit_range
from muse_jax.sharding.partitioning import put_tree, replicated
from muse_jax.tokenizers.lpips import load_lpips, lpips
from muse_jax.tokenizers.quantizer import code_histogram, histogram_statistics

_LPIPS: dict[str, Callable[[], Any]] = {"vgg": load_lpips, "alex": load_lpips_alex}


class Reconstruction(Loss):
    """Means over a split of images and their reconstructions, both as uint8.

    psnr: in dB. ssim: see `image_quality.ssim`. lpips_vgg, lpips_alex: LPIPS v0.1 on the networks that the
    key `lpips` names; () leaves it out.
    code_usage: fraction of codes that occur in the split. code_perplexity: exp of the entropy of their
    frequencies.
    """

    defaults = {**Loss.defaults, "lpips": ("vgg",)}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        if not hasattr(context.task, "reconstruct"):
            raise ValueError(
                f"The evaluator {name!r} measures tokenizers, but the task {context.config.task!r} trains "
                "none: leave it out of config.evaluators."
            )
        if (size := context.config.data.image_size) < MIN_SSIM_SIZE:
            raise ValueError(
                f"The evaluator {name!r} needs images of at least {MIN_SSIM_SIZE} px, but "
                f"config.data.image_size is {size}: leave it out of config.evaluators."
            )
        if set(self.options["lpips"]) - set(_LPIPS):
            raise self.refuse("lpips", f"some of {', '.join(_LPIPS)}")
        self._lpips = {network: _LPIPS[network]() for network in self.options["lpips"]}

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Measures the tokenizer with the weights `params`."""
        sharding = replicated(self.context.mesh)
        self._lpips = put_tree(self._lpips, jax.tree.map(lambda _: sharding, self._lpips))
        return super().__call__(params, {"task": frozen, "lpips": self._lpips})

    def evaluate(self, params: Any, frozen: Any, batch: Mapping[str, Any], keys: jax.Array) -> Any:
        """Scores of each image."""
        task, images = self.context.task, batch["image"]
        reconstruction, quantized = task.reconstruct(params, frozen["task"], to_unit_range(images))
        rebuilt = from_unit_range(reconstruction)
        size, groups = task.vqgan.codebook_size, task.vqgan.groups
        scores = {
            "psnr": psnr(rebuilt, images),
            "ssim": ssim(rebuilt, images),
            "histogram": jax.vmap(lambda ids: code_histogram(ids, size, groups))(quantized.ids),
        }
        pair = to_unit_range(rebuilt), to_unit_range(images)
        scores |= {f"lpips_{name}": lpips(weights, *pair) for name, weights in frozen["lpips"].items()}
        return {name: (score, jnp.ones(len(images))) for name, score in scores.items()}

    def summarize(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Means over images; usage and perplexity over the split."""
        usage, perplexity = histogram_statistics(scores.pop("histogram"))
        return {**scores, "code_usage": usage, "code_perplexity": perplexity}

"""CLIP score of generated images and their captions (Hessel et al., EMNLP 2021)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from muse_jax.data import PLAIN_CAPTIONS, load_source
from muse_jax.evaluation.evaluators import Context, Evaluator, Report
from muse_jax.evaluation.resizing import resize_images
from muse_jax.evaluation.samples import check_generates, generate_images, jit_sample
from muse_jax.interop.clip import load_clip_text, load_clip_tokenizer, load_clip_vision
from muse_jax.nn.clip import normalize_images


class CLIPScore(Evaluator):
    """100 times the cosine of an image's and its caption's embeddings, at least 0; the mean over images.

    Keys:
      weights: folder with a CLIP of Hugging Face: config.json, model.safetensors, tokenizer.json.
      split: captions; "": config.data.eval_split.
      num_samples: images at most. seed: of the samples.
    """

    defaults = {"weights": "", "split": "", "num_samples": 5000, "seed": 0}

    def __init__(self, name: str, options: Mapping[str, Any], context: Context):
        super().__init__(name, options, context)
        check_generates(name, context)
        if not self.options["weights"]:
            raise self.refuse(
                "weights", "the folder of a CLIP, such as openai/clip-vit-large-patch14's files"
            )
        if self.options["num_samples"] < 1:
            raise self.refuse("num_samples", "at least 1")
        folder = self.options["weights"]
        self.split = self.options["split"] or context.config.data.eval_split
        self._tokenize = load_clip_tokenizer(folder)
        self._vision, vision_params = load_clip_vision(folder)
        self._text, text_params = load_clip_text(folder)
        self._clip = {"vision": vision_params, "text": text_params}
        self._cosines = jax.jit(self._cosines_of_batch)
        self._sample = jit_sample(context)

    def _cosines_of_batch(
        self, params: Any, images: UInt8[Array, "b h w 3"], ids: Int[Array, "b n"], end: Int[Array, " b"]
    ) -> Float[Array, " b"]:
        resized = resize_images(images, self._vision.image_size, "clean")
        left: Any = self._vision.apply({"params": params["vision"]}, normalize_images(resized))
        right: Any = self._text.apply({"params": params["text"]}, ids, end)[1]
        unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
        return jnp.sum(unit(left) * unit(right), axis=-1)

    def __call__(self, params: Any, frozen: Any) -> Report:
        """Generates images and scores them."""
        chosen, data = self.options, self.context.config.data
        source, rng = load_source(data.source, self.split, data.data_dir), np.random.default_rng(0)
        self._clip = jax.device_put(self._clip)
        scores: list[float] = []
        for indices, images in generate_images(
            self._sample, self.context, params, frozen, self.split, chosen["num_samples"], chosen["seed"]
        ):
            captions = [PLAIN_CAPTIONS(source[int(index)], rng) for index in indices]
            cosines = self._cosines(self._clip, images, *self._tokenize(captions))
            scores += np.maximum(100 * np.asarray(cosines, np.float64), 0).tolist()
        details = {"split": self.split, "num_samples": len(scores), "weights": chosen["weights"]}
        return Report({"clip_score": float(np.mean(scores))}, details)

"""Frozen networks whose features distances of distributions compare."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from muse_jax.interop.clip import load_clip_vision
from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0
from muse_jax.interop.inception import load_inception
from muse_jax.nn import efficientnet_lite, inception
from muse_jax.nn.clip import CLIPVision, normalize_images

Embed = Callable[[Any, Float[Array, "b h w 3"]], tuple[Array, ...]]


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A feature network.

    Attributes:
      dim: number of features of an image.
      classes: number of its logits.
      size: side of its input in pixels.
      embed: (params, images in [0, 255]) -> (features, logits), and spatial features if `spatial` > 0.
      load: file with the weights ("": its usual location) -> params; raises ValueError if it is missing.
      spatial: number of spatial features of an image, for the sFID.
    """

    dim: int
    classes: int
    size: int
    embed: Embed
    load: Callable[[str], Any]
    spatial: int = 0


# TensorFlow's mixed_6/conv, of which the sFID of Nash et al. (2021) and ADM takes 7 channels at 17x17.
_SPATIAL_LAYER, _SPATIAL_CHANNELS = ("Mixed_6d", "branch1x1"), 7


def _inception(params: Any, images: Float[Array, "b h w 3"]) -> tuple[Array, ...]:
    embedded, kept = inception.InceptionV3().apply(
        {"params": params},
        (images - 128) / 128,
        capture_intermediates=lambda module, _: module.path == _SPATIAL_LAYER,
        mutable="intermediates",
    )
    block, branch = _SPATIAL_LAYER
    (spatial,) = kept["intermediates"][block][branch]["__call__"]
    return *embedded, spatial[..., :_SPATIAL_CHANNELS].reshape(len(images), -1)


def _efficientnet_lite0(params: Any, images: Float[Array, "b h w 3"]) -> tuple[Array, ...]:
    network = efficientnet_lite.EfficientNetLite0()
    return network.apply({"params": params}, images / 127.5 - 1)


# ViT-L/14 at 336 px, by which the CMMD is defined.
_CLIP = CLIPVision(1024, 24, 16, 4096, patch=14, image_size=336, projection=768)


def _clip(params: Any, images: Float[Array, "b h w 3"]) -> tuple[Array, ...]:
    features: Any = _CLIP.apply({"params": params}, normalize_images(images))
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True), jnp.zeros((len(images), 1))


def _load_clip(folder: str) -> Any:
    module, params = load_clip_vision(folder)
    if module != _CLIP:
        raise ValueError(
            f"{folder or 'weights'} holds another CLIP than ViT-L/14 at 336 px, which the CMMD needs: "
            "give the folder of openai/clip-vit-large-patch14-336."
        )
    return params


EMBEDDERS: dict[str, Embedder] = {
    "inception": Embedder(
        inception.FEATURES,
        inception.CLASSES,
        inception.SIZE,
        _inception,
        load_inception,
        spatial=17 * 17 * _SPATIAL_CHANNELS,
    ),
    "clip": Embedder(_CLIP.projection, 1, _CLIP.image_size, _clip, _load_clip),
    "efficientnet_lite0": Embedder(1280, 1000, 224, _efficientnet_lite0, lambda _: load_efficientnet_lite0()),
}


def figure_name(metric: str, network: str, resize: str, blur: int = 0) -> str:
    """Name of a figure, which says all that it may be compared by: "fid_clean", "fd_efficientnet_lite0_tf1".

    The names FID and KID belong to Inception. A figure of blurred images ends in "_blur4", the radius.
    """
    way = f"{resize}_blur{blur}" if blur else resize
    if network == "inception":
        return f"{metric}_{way}"
    return f"{ {'fid': 'fd', 'kid': 'kd', 'mind': 'md'}.get(metric, metric) }_{network}_{way}"


def put_params(params: Any, sharding: Any) -> Any:
    """Weights of a feature network, whole on every device."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__), params
    )

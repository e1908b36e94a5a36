"""What a person may ask of a pipeline, checked before any device work."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np

from muse_jax.decoding.lopar import turns_top_k
from muse_jax.decoding.masked import ORDERS
from muse_jax.text.text_tokenizers import check_texts


@dataclass(frozen=True)
class Settings:
    """How a stage's tokens are drawn: what a config has, and what a call puts in its place."""

    def but(self, **given: Any) -> Self:
        """These settings with those of `given` that are not None in their place."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """From the section of a config; keys that it lacks get their defaults."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"decoding has the unknown key {unknown[0]!r}: it may have {sorted(known)}.")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """What `from_mapping` reads."""
        return asdict(self)


@dataclass(frozen=True)
class Decoding(Settings):
    """How the tokens of a stage are drawn; see `muse_jax.decoding.masked_decode`.

    num_steps: passes of the network, at least 1.
    guidance_scale, temperature, choice_temperature: 0 or greater.
    order: "confidence" or "halton".

    Raises ValueError, one sentence, for a value out of range.
    """

    num_steps: int = 12
    guidance_scale: float = 3.0
    temperature: float = 1.0
    choice_temperature: float = 4.5
    order: str = "confidence"

    def __post_init__(self):
        check_steps("num_steps", self.num_steps)
        for name in ("guidance_scale", "temperature", "choice_temperature"):
            check_not_negative(name, getattr(self, name))
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, given {self.order!r}.")


@dataclass(frozen=True)
class TokenDecoding(Settings):
    """How tokens are drawn from their logits; see `muse_jax.decoding.Sampling`.

    temperature, inner_temperature: 0 or greater; of all codes, and of those inside a cluster.
    top_k, top_clusters: 0 for all; without top_clusters codes are drawn one by one.
    top_p: above 0 and at most 1.

    Raises ValueError, one sentence, for a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    top_clusters: int = 0
    inner_temperature: float = 1.0

    def __post_init__(self):
        for name in ("temperature", "inner_temperature"):
            check_not_negative(name, getattr(self, name))
        for name in ("top_k", "top_clusters"):
            check_whole(name, getattr(self, name), 0)
        check_share(self.top_p, "top_p")


@dataclass(frozen=True)
class CogLMDecoding(TokenDecoding):
    """How CogLM draws images.

    text_weight, infill_text_weight: added to the attention logits of the text, where a whole image is drawn
      and where a region is; 1.4 for both in the published programs.
    candidates, keep: images that are drawn of each prompt, and how many of them, the best, are kept.
    """

    text_weight: float = 1.4
    infill_text_weight: float = 1.4
    candidates: int = 8
    keep: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name in ("text_weight", "infill_text_weight"):
            check_not_negative(name, getattr(self, name))
        for name in ("candidates", "keep"):
            check_steps(name, getattr(self, name))
        if self.keep > self.candidates:
            raise ValueError(
                f"keep is {self.keep}, but only {self.candidates} candidates of each prompt are drawn: ask "
                "for more candidates, or keep fewer."
            )


@dataclass(frozen=True)
class LoparDecoding(Settings):
    """How fine tokens are redrawn in turns; see `muse_jax.decoding.lopar_decode`.

    temperature: 0 or greater.
    top_k: at least 1, of each turn; by default of the six that enlarge three times.
    """

    temperature: float = 1.0
    top_k: tuple[int, ...] = turns_top_k(6)

    def __post_init__(self):
        check_not_negative("temperature", self.temperature)
        for size in self.top_k:
            check_steps("top_k of each turn", size)


def check_steps(name: str, value: Any) -> None:
    """Refuses anything but a whole number of at least 1."""
    check_whole(name, value, 1)


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuses anything but a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, given {value!r}.")


def check_not_negative(name: str, value: Any) -> None:
    """Refuses anything but a finite number of at least 0."""
    if (
        not isinstance(value, int | float | np.integer | np.floating)
        or isinstance(value, bool)
        or not 0 <= value < float("inf")
    ):
        raise ValueError(f"{name} must be a number of 0 or greater, given {value!r}.")


def check_share(share: Any, name: str = "share") -> None:
    """Refuses anything but a number above 0 and at most 1."""
    if (
        not isinstance(share, int | float | np.integer | np.floating)
        or isinstance(share, bool)
        or not 0 < share <= 1
    ):
        raise ValueError(f"{name} must be above 0 and at most 1, given {share!r}.")


def check_seed(seed: Any) -> None:
    """Refuses what `jax.random.key` cannot tell apart."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, given {seed!r}.")


def check_prompts(prompts: Any, name: str = "prompts", count: int | None = None) -> list[str]:
    """The prompts as a list: at least one string, or `count` of them."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence | np.ndarray):
        raise ValueError(f"{name} must be a list of strings, such as ['a red heart'], given {prompts!r}.")
    texts = check_texts(prompts)
    if not texts:
        raise ValueError(f"{name} is an empty list: give at least one string, such as ['a red heart'].")
    if count is not None and len(texts) != count:
        raise ValueError(f"{name} must be {count} strings, one for each picture, given {len(texts)}.")
    return texts


def check_negative_prompt(negative_prompt: Any) -> str:
    """The text to lead away from: the empty one for None."""
    if negative_prompt is not None and not isinstance(negative_prompt, str):
        raise ValueError(f"negative_prompt must be one string or None, given {negative_prompt!r}.")
    return negative_prompt or ""


def check_images(images: Any, size: tuple[int, int] | None) -> np.ndarray:
    """The pictures, uint8 (batch, height, width, 3), of `size` (height, width) where one is given."""
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            "images must be uint8 of shape (batch, height, width, 3), "
            f"given {array.dtype} of shape {array.shape}."
        )
    if size is not None and array.shape[1:3] != size:
        raise ValueError(
            f"images are of {array.shape[1]}x{array.shape[2]} pixels, but this checkpoint draws "
            f"{size[0]}x{size[1]}: resize them."
        )
    return array


def check_mask(mask: Any, images: np.ndarray) -> np.ndarray:
    """The mask as bool (batch, height, width); (height, width) is for all pictures."""
    array = np.asarray(mask)
    whole = images.shape[:3]
    if array.dtype != np.bool_ or array.shape not in (whole, whole[1:]):
        raise ValueError(
            f"mask must be bool of shape {whole} or {whole[1:]}, True where pixels are to be redrawn, "
            f"given {array.dtype} of shape {array.shape}."
        )
    return np.broadcast_to(array, whole)


def check_margins(margins: Any, images: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels to add (top, bottom, left, right), which must fill the pictures up to `size`."""
    if (
        not isinstance(margins, Sequence)
        or len(margins) != 4
        or not all(isinstance(m, int | np.integer) and m >= 0 for m in margins)
    ):
        raise ValueError(
            "margins must be four whole numbers of pixels, (top, bottom, left, right), "
            f"each 0 or greater, given {margins!r}."
        )
    top, bottom, left, right = (int(m) for m in margins)
    height, width = images.shape[1] + top + bottom, images.shape[2] + left + right
    if (height, width) != size:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} pixels with margins {tuple(margins)} make "
            f"{height}x{width}, but this checkpoint draws {size[0]}x{size[1]}: resize or cut the images, "
            "or change the margins."
        )
    return top, bottom, left, right

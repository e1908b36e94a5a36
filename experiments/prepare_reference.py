"""Writes the statistics of real images that FID, KID and similar metrics compare generated images with.

    python -m experiments.prepare_reference --source=tfds:coco_captions --split=val --out=coco_val.npz
    python -m experiments.prepare_reference --source=folder:images --network=efficientnet_lite0 --out=ref.npz

The npz file has mu and sigma, as pytorch-fid reads them, mu_s and sigma_s of Inception's spatial features,
and features; with --images it has some images too, which ADM's evaluator needs. OUT.json describes how it was
made.
Images are embedded at their own size or, with --image_size, like training data: cropped to the central square
and resized.
"""

from absl import flags
from tqdm import tqdm

from experiments import apps
from muse_jax.data import CorruptRecordError, load_source
from muse_jax.media.image import resize

_SOURCE = flags.DEFINE_string("source", "emoji", "Data source, as in config.data.source.")
_SPLIT = flags.DEFINE_string("split", "train", "Split of the source.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of built TFDS data.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 0, "Side in pixels; 0: the stored size.", lower_bound=0)
_NETWORK = flags.DEFINE_enum(
    "network", "inception", ["inception", "efficientnet_lite0", "clip"], "Feature network."
)
_WEIGHTS = flags.DEFINE_string(
    "weights", "", "File with the network's weights; by default its usual location."
)
_RESIZE = flags.DEFINE_enum("resize", "clean", ["tf1", "clean", "none"], "How images are resized.")
_BLUR = flags.DEFINE_integer(
    "blur", 0, "Radius in pixels of the Gaussian filter of FID-k; 0: none.", lower_bound=0
)
_FEATURES = flags.DEFINE_integer(
    "features", 10_000, "Number of stored features, for KID and similar metrics.", lower_bound=1
)
_IMAGES = flags.DEFINE_integer("images", 0, "Number of stored images, arr_0.", lower_bound=0)
_PER = flags.DEFINE_string("per", "", "Field of the records for groups with statistics of their own: style.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Batch size of the network.", lower_bound=1)
_MESH = flags.DEFINE_string("mesh", "", "Devices along each axis, such as data=4; one device by default.")
_OUT = flags.DEFINE_string("out", "", "npz file to write.")


def main() -> None:
    """Embeds the images of a split and writes the statistics."""
    if not _OUT.value:
        raise ValueError("Give --out=FILE.npz, the file to write.")
    from muse_jax.evaluation.real_images import make_reference
    from muse_jax.sharding.partitioning import one_device_mesh

    mesh = apps.parse_mesh(_MESH.value) or one_device_mesh()
    source = load_source(_SOURCE.value, _SPLIT.value, _DATA_DIR.value)
    noted = {"source": _SOURCE.value, "split": _SPLIT.value, "image_size": _IMAGE_SIZE.value}
    reference = make_reference(
        _records(source),
        len(source),
        _NETWORK.value,
        _RESIZE.value,
        mesh,
        blur=_BLUR.value,
        weights=_WEIGHTS.value,
        batch_size=_BATCH.value,
        keep=_FEATURES.value,
        keep_images=_IMAGES.value,
        per=_PER.value,
        provenance=noted,
    )
    reference.save(_OUT.value)
    print(f"Statistics of {reference.provenance['samples']} images are in {_OUT.value}")


def _records(source):
    for index in tqdm(range(len(source)), desc="embed"):
        try:
            record = source[index]
        except CorruptRecordError as error:
            print(f"Skipped: {error}")
            continue
        if _IMAGE_SIZE.value:
            record = {**record, "image": resize(record["image"], _IMAGE_SIZE.value)}
        yield record


if __name__ == "__main__":
    apps.run(main)

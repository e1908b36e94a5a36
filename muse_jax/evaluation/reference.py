"""Statistics of real images that generated ones are compared with.

They are an npz with `mu` and `sigma`, as pytorch-fid writes it, with `mu_s`, `sigma_s` and images `arr_0`, as
ADM's evaluator (guided-diffusion) reads it, and with some `features` of our own. FILE.json beside it says
where they come from: network, resize, blur, source, split, samples. Groups of images, such as those of one
style, have `mu/NAME` and `sigma/NAME`.
"""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

_ARRAYS = ("mu", "sigma", "mu_s", "sigma_s", "features")


@dataclasses.dataclass(frozen=True)
class Reference:
    """Features of real images.

    Attributes:
      mean, covariance: of all samples, float64.
      features: of some of them, for distances that need more than moments; may have no rows.
      provenance: {"network", "resize", "blur", "source", "split", "samples"} and more; of a file by ADM only
        what is known of all such files.
      spatial: mean and covariance of the spatial features, for the sFID; None if unknown.
      images: some of the images, which are written, but not read: an `npz:` data source has them.
      groups: mean and covariance of the images of each group of at least 2, by its name.
    """

    mean: Float[np.ndarray, " dim"]
    covariance: Float[np.ndarray, "dim dim"]
    features: Float[np.ndarray, "n dim"]
    provenance: dict[str, Any]
    spatial: tuple[np.ndarray, np.ndarray] | None = None
    images: UInt8[np.ndarray, "n h w 3"] | None = None
    groups: dict[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes `path`, an npz, and `path`.json."""
        path = Path(path)
        arrays: dict[str, Any] = {"mu": self.mean, "sigma": self.covariance}
        if len(self.features):
            arrays["features"] = np.asarray(self.features, np.float32)
        if self.spatial is not None:
            arrays["mu_s"], arrays["sigma_s"] = self.spatial
        if self.images is not None:
            arrays["arr_0"] = self.images
        for name, (mean, covariance) in self.groups.items():
            arrays[f"mu/{name}"], arrays[f"sigma/{name}"] = mean, covariance
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)
        _sidecar(path).write_text(json.dumps(self.provenance, indent=1) + "\n")


def load_reference(
    path: str | Path, network: str, dim: int, resize: str, source: str, blur: int = 0
) -> Reference:
    """Reads reference statistics and refuses those of another kind than asked for.

    Args:
      path: an npz of `Reference.save`, of pytorch-fid, or of ADM. One of pytorch-fid needs a JSON beside it.
      network: name of the feature network.
      dim: number of its features.
      resize: how images were resized for it.
      source: the data source, not checked where the file does not say.
      blur: radius of the filter before; 0 where the file does not say.

    Raises:
      ValueError: the file is missing, damaged, or of another kind.
    """
    path = Path(path)
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in _ARRAYS if name in stored}
            names = [name.removeprefix("mu/") for name in stored if name.startswith("mu/")]
            groups = {name: (stored[f"mu/{name}"], stored[f"sigma/{name}"]) for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"The reference statistics {path} cannot be read: {error}.") from error
    if "mu" not in arrays or "sigma" not in arrays:
        raise ValueError(f"{path} has no arrays mu and sigma: it holds no reference statistics.")
    spatial = (arrays["mu_s"], arrays["sigma_s"]) if "mu_s" in arrays and "sigma_s" in arrays else None
    reference = Reference(
        arrays["mu"].astype(np.float64),
        arrays["sigma"].astype(np.float64),
        arrays.get("features", np.zeros((0, dim), np.float32)),
        _provenance(path, from_adm=bool(spatial)),
        spatial,
        groups=groups,
    )
    if reference.mean.shape != (dim,) or reference.covariance.shape != (dim, dim):
        raise ValueError(
            f"{path} has statistics of {reference.mean.shape[0]} features, but {network} has {dim}: make "
            "them again with experiments.prepare_reference."
        )
    wanted_provenance = {"network": network, "resize": resize, "blur": blur, "source": source}
    for key, wanted in wanted_provenance.items():
        found = reference.provenance.get(key)
        if found is not None and found != wanted:
            raise ValueError(
                f"{path} was made with {key} {found!r}, but {wanted!r} is evaluated, and such figures must "
                f"not be compared: take other statistics, or set {key} to {found!r}."
            )
    return reference


def _provenance(path: Path, from_adm: bool) -> dict[str, Any]:
    sidecar = _sidecar(path)
    if not sidecar.is_file():
        if from_adm:
            return {"network": "inception", "resize": "tf1", "blur": 0}
        raise ValueError(
            f"Nothing says how {path} was made: write {sidecar.name} beside it, such as "
            '{"network": "inception", "resize": "clean"}.'
        )
    try:
        provenance = json.loads(sidecar.read_text())
        if not isinstance(provenance, dict) or not {"network", "resize"} <= provenance.keys():
            raise ValueError("it must be an object with network and resize")
    except ValueError as error:
        raise ValueError(f"{sidecar} cannot be read: {error}.") from error
    return {"blur": 0, **provenance}


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")

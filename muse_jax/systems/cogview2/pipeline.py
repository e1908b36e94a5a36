"""CogView2 as a person holds it: pictures from prompts, regions filled in, captions, and their fit."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, UInt8

from muse_jax.checkpointing import pretrained as checkpoint
from muse_jax.sampling import Sampling, listening, silent, step_table
from muse_jax.sampling.progress import StepCallback
from muse_jax.sharding.partitioning import to_host
from muse_jax.systems import validation as settings
from muse_jax.systems.base import Pipeline
from muse_jax.systems.cogview2 import programs
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.sampling import check_vocabulary
from muse_jax.systems.cogview2.sequences import Vocabulary
from muse_jax.systems.cogview2.superres import DirectSuperRes, IterativeSuperRes, split_params
from muse_jax.systems.stages import FineStage, Stage, read_stage
from muse_jax.systems.validation import CogLMDecoding, LoparDecoding, TokenDecoding
from muse_jax.text import TextPieces
from muse_jax.tokenizers import VQGAN, Clusters, codebook_rows, load_clusters
from muse_jax.tokenizers.clusters import FILE as CLUSTERS

Images = UInt8[np.ndarray, "batch height width 3"]
TEXT = "text.model"
FINE: dict[str, tuple[type, Any, Any]] = {
    "direct": (DirectSuperRes, TokenDecoding, lambda params: split_params(params)[1]),
    "iterative": (IterativeSuperRes, LoparDecoding, lambda params: params),
}
"""Of the super-resolution stages the network, the settings, and which parameters are its own."""


@dataclass(frozen=True, eq=False)
class CogView2Pipeline(Pipeline):
    """Text to pictures: candidates token by token, the best of them, super-resolution (CogView2, section 3).

    `direct` has the parameters that CogLM lacks (`split_params`), and is joined with the coarse stage's.
    `direct` and `iterative` may be None: then the pictures are coarse, or as they are drawn at once.
    `clusters` may be None where no stage has `top_clusters`. A program is compiled at the first
    call for a number of prompts, candidates and kept ones, and for sizes of filters; prompts of other
    lengths, seeds, temperatures and text weights compile nothing.

    Raises ValueError where the parts do not fit together.
    """

    text_pieces: TextPieces
    coarse: Stage
    clusters: Clusters | None = None
    direct: FineStage | None = None
    iterative: FineStage | None = None

    def __post_init__(self):
        _check_parts(self)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, mesh: Mesh | None = None, dtype: Any = None
    ) -> "CogView2Pipeline":
        """Loads a packaged checkpoint ("emoji-cogview2") or a directory that `save_pretrained` wrote.

        Args:
          mesh: the devices to run on, see `Pipeline`; None for one.
          dtype: of the weights and of the computation; None for float32.

        Raises:
          ValueError: one sentence, for a checkpoint that is missing, damaged, of another system, or whose
            parts do not fit.
        """
        directory, dtype = checkpoint.find_checkpoint(name), dtype or jnp.float32
        config = checkpoint.read_config(directory, "cogview2")
        coarse = read_stage(directory, config, "coarse", CogLM, CogLMDecoding, dtype)
        text_pieces = TextPieces.from_file(directory / TEXT, coarse.network.text_pieces)
        fine = {name: _read_fine(directory, config, name, dtype) for name in FINE if config[name] is not None}
        clusters = None
        if coarse.decoding.top_clusters or (directory / CLUSTERS).is_file():
            # In float32, since rounding moves codes over the borders of clusters.
            vqgan = checkpoint.read_part(directory, config, "coarse", "tokenizer", VQGAN)
            clusters = load_clusters(directory / CLUSTERS, codebook_rows(*vqgan))
        return cls(text_pieces, coarse, clusters, **fine, mesh=mesh)

    def save_pretrained(self, directory: str | Path, dtype: str = "float16") -> dict[str, int]:
        """Writes the checkpoint `directory`, other files in it left alone; returns the files' bytes.

        Args:
          dtype: what weights are stored in: "float16", "bfloat16" or "float32".

        Raises:
          ValueError: one sentence, for a directory that cannot be written to, a run's workdir, or weights
            that do not fit in `dtype`.
        """
        config: dict[str, Any] = {"format": checkpoint.FORMAT, "system": "cogview2"}
        weights = {"vqgan": self.coarse.tokenizer_params}
        for name, files in checkpoint.SYSTEMS["cogview2"].files.items():
            stage: Stage | FineStage | None = getattr(self, name)
            config[name] = stage and stage.to_dict()
            if stage is not None:
                weights[files["network"]] = stage.params
        others = {TEXT: self.text_pieces.serialize()}
        if self.clusters is not None:
            with tempfile.TemporaryDirectory() as folder:
                self.clusters.save(Path(folder) / CLUSTERS)
                others[CLUSTERS] = (Path(folder) / CLUSTERS).read_bytes()
        return checkpoint.write_checkpoint(directory, config, weights, dtype, others)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        height, width = self.coarse.image_size
        factor = self.direct.network.factor if self.direct else 1
        return height * factor, width * factor

    def count_steps(self) -> int:
        """How often `generate` will call `progress`."""
        turns = len(self.iterative.decoding.top_k) if self.iterative else 0
        return int(self.coarse.network.image_tokens) + turns

    def generate(
        self,
        prompts: Sequence[str],
        candidates: int | None = None,
        keep: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        top_clusters: int | None = None,
        text_weight: float | None = None,
        direct_temperature: float | None = None,
        iterative_temperature: float | None = None,
        progress: StepCallback | None = None,
    ) -> UInt8[np.ndarray, "batch keep height width 3"]:
        """The best pictures of each prompt.

        Args:
          prompts: at least one string.
          candidates: pictures that are drawn of each prompt.
          keep: how many of them are kept: those given which the prompt has the lowest perplexity.
          seed: 0 to 2**32 - 1. The pictures of prompt i depend on the prompt, the seed, i and the number of
            candidates, not on the other prompts.
          temperature: 0 draws the most probable token.
          top_k, top_p: keep so many codes, or the fewest of this probability; 0 and 1 for all.
          top_clusters: draw one of so many clusters of codes, then a code of it; 0 draws codes one by one.
          text_weight: added to CogLM's attention logits of the text.
          direct_temperature, iterative_temperature: of the super-resolution stages, as `temperature` is of
            the coarse one.
          progress: called with a `muse_jax.sampling.DecodeStep` after each step; its stage is "coarse" or
            "iterative".
          Arguments left as None use the checkpoint's defaults.

        Returns:
          uint8 (batch, keep, height, width, 3), the best of each prompt first.

        Raises:
          ValueError: one sentence, before any device work, for what is out of range or a prompt that is too
            long.
        """
        decoding = self.coarse.decoding.but(
            candidates=candidates,
            keep=keep,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            top_clusters=top_clusters,
            text_weight=text_weight,
        )
        text = self._encode(settings.check_prompts(prompts))
        drawing = self._drawing(decoding, decoding.text_weight, direct_temperature, iterative_temperature)
        counts = (int(decoding.candidates), int(decoding.keep))
        return self._run(programs.generate, *counts, self.params, text, drawing, seed=seed, progress=progress)

    def infill(
        self,
        images: Images,
        mask: Bool[np.ndarray, "batch height width"] | Bool[np.ndarray, "height width"],
        prompts: Sequence[str],
        seed: int = 0,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        top_clusters: int | None = None,
        text_weight: float | None = None,
        direct_temperature: float | None = None,
        iterative_temperature: float | None = None,
        progress: StepCallback | None = None,
    ) -> Images:
        """Redraws the pixels where `mask` is True after the prompts; every other pixel stays as it is.

        Every token that holds a pixel of the mask is drawn again, given all the others. The pixels outside
        are the given ones, not what the tokenizer would make of them.

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          mask: for each picture, or one for all.
          prompts: one for each picture; the rest is as in `generate`.
        """
        images = settings.check_images(images, self.image_size)
        mask = settings.check_mask(mask, images)
        decoding = self.coarse.decoding.but(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            top_clusters=top_clusters,
            infill_text_weight=text_weight,
        )
        text = self._encode(settings.check_prompts(prompts, count=len(images)))
        weight = decoding.infill_text_weight
        drawing = self._drawing(decoding, weight, direct_temperature, iterative_temperature)
        inputs = (self.params, text, drawing)
        images, mask = self._rows((images, mask))
        return self._run(programs.infill, *inputs, seed=seed, progress=progress, images=images, mask=mask)

    def super_resolve(
        self,
        images: Images,
        prompts: Sequence[str] | None = None,
        seed: int = 0,
        direct_temperature: float | None = None,
        iterative_temperature: float | None = None,
        progress: StepCallback | None = None,
    ) -> Images:
        """Finer pictures of coarse ones.

        Args:
          images: uint8 (batch, height, width, 3) of the coarse stage's size.
          prompts: what each of them shows; None takes what `caption` reads off it. The rest is as in
            `generate`.

        Raises:
          ValueError: also where the checkpoint has no super-resolution stage.
        """
        if self.direct is None:
            raise ValueError("This checkpoint has no super-resolution stage: take one that has.")
        images = settings.check_images(images, self.coarse.image_size)
        settings.check_seed(seed)
        drawing = self._drawing(self.coarse.decoding, 0.0, direct_temperature, iterative_temperature)
        if prompts is None:
            text = programs.Text(*self._rows(self.text_pieces.encode_cut(self.caption(images))))
        else:
            text = self._encode(settings.check_prompts(prompts, count=len(images)))
        inputs = (self.params, text, drawing)
        rows = self._rows(images)
        return self._run(programs.super_resolve, *inputs, seed=seed, progress=progress, images=rows)

    def caption(
        self, images: Images, temperature: float = 0.0, seed: int = 0, progress: StepCallback | None = None
    ) -> list[str]:
        """What CogLM reads off each picture.

        Args:
          images: uint8 (batch, height, width, 3) of the coarse stage's size or a whole multiple.
          temperature: 0 takes the most probable piece each time.
        """
        images = self._check_multiple(images)
        settings.check_not_negative("temperature", temperature)
        sampling = Sampling(np.float32(temperature))  # type: ignore[arg-type]
        pieces, there = self._run(
            programs.caption, self.params, sampling, seed=seed, progress=progress, images=self._rows(images)
        )
        return self.text_pieces.decode(pieces, there)

    def score(self, images: Images, prompts: Sequence[str]) -> Float[np.ndarray, "batch"]:
        """The perplexity of each prompt given its picture: the lower, the better the two fit.

        `generate` keeps its candidates by it.

        Args:
          images: uint8 (batch, height, width, 3) of the coarse stage's size or a whole multiple.
          prompts: one for each picture.
        """
        images = self._check_multiple(images)
        text = self._encode(settings.check_prompts(prompts, count=len(images)))
        with self._context():
            return to_host(programs.score(self._modules, self.params, text, self._rows(images)))

    @cached_property
    def _modules(self) -> programs.Modules:
        fine: dict[str, Any] = {name: stage and stage.network for name, stage in self._fine.items()}
        return programs.Modules(self.coarse.network, self.coarse.tokenizer, **fine)

    @cached_property
    def params(self) -> dict[str, Any]:
        """Every weight, on the mesh."""
        coarse = self.coarse
        return {
            "coarse": self._place(coarse.network, coarse.params),
            "vqgan": self._place(coarse.tokenizer, coarse.tokenizer_params),
            **{
                name: self._place(stage.network, stage.params, FINE[name][2])
                for name, stage in self._fine.items()
                if stage is not None
            },
        }

    def trace_generate(self, batch_size: int) -> jax.stages.Traced:
        """The program that `generate` runs on `batch_size` prompts with the defaults, traced.

        Weights may be shapes, and the devices those of a topology that is only described.
        """
        shape, decoding = (batch_size, self.coarse.network.text_pieces), self.coarse.decoding
        ids, mask = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)
        text: Any = self._rows((ids, mask))
        drawing = self._drawing(decoding, decoding.text_weight)
        counts = (int(decoding.candidates), int(decoding.keep))
        with self._context():
            return programs.generate.trace(
                self._modules,
                *counts,
                self.params,
                programs.Text(*text),
                drawing,
                seed=np.uint32(0),
                progress=jax.eval_shape(silent),
            )

    @property
    def _fine(self) -> dict[str, FineStage | None]:
        return {name: getattr(self, name) for name in FINE}

    def _encode(self, texts: Sequence[str]) -> programs.Text:
        ids, mask = self.text_pieces.encode(texts)
        return programs.Text(*self._rows((ids, mask)))

    def _drawing(
        self,
        decoding: CogLMDecoding,
        text_weight: float,
        direct_temperature: float | None = None,
        iterative_temperature: float | None = None,
    ) -> programs.Drawing:
        number: Any = np.float32  # of one type always: a Python int would compile anew
        direct = _with_temperature("direct", self.direct, direct_temperature)
        iterative = _with_temperature("iterative", self.iterative, iterative_temperature)
        return programs.Drawing(
            coarse=self._sampling(decoding),
            text_weight=number(text_weight),
            direct=self._sampling(direct) if direct else None,
            temperature=number(iterative.temperature) if iterative else None,
            top_k=tuple(iterative.top_k) if iterative else (),
        )

    def _sampling(self, decoding: TokenDecoding) -> Sampling:
        number: Any = np.float32
        sampling = Sampling(
            number(decoding.temperature),
            top_k=int(decoding.top_k),
            top_p=number(decoding.top_p) if decoding.top_p < 1 else None,
            inner_temperature=number(decoding.inner_temperature),
        )
        if not decoding.top_clusters:
            return sampling
        clusters = _check_clusters(self, decoding)
        return sampling.replace(  # type: ignore[attr-defined]
            clusters=clusters.of_code,
            num_clusters=len(clusters),
            top_clusters=min(int(decoding.top_clusters), len(clusters)),
        )

    def _check_multiple(self, images: Any) -> np.ndarray:
        """Pictures of a whole multiple of the coarse size."""
        array = settings.check_images(images, None)
        height, width = self.coarse.image_size
        factor = max(1, array.shape[1] // height)
        return settings.check_images(array, (factor * height, factor * width))

    def _run(self, program: Any, *inputs: Any, seed: int, progress: StepCallback | None, **more: Any) -> Any:
        settings.check_seed(seed)
        with listening(progress) as ticket, self._context():
            return to_host(program(self._modules, *inputs, seed=np.uint32(seed), progress=ticket, **more))


def _read_fine(directory: Path, config: dict[str, Any], name: str, dtype: Any) -> FineStage:
    kind, decoding, stored = FINE[name]
    part = checkpoint.read_part(directory, config, name, "network", kind, dtype, stored)
    return FineStage(*part, decoding.from_mapping(config[name]["decoding"]))


def _with_temperature(name: str, stage: FineStage | None, temperature: float | None) -> Any:
    """The settings of a super-resolution stage, at another temperature if one is given; None without one."""
    if stage is not None:
        return stage.decoding.but(temperature=temperature)
    if temperature is not None:
        raise ValueError(
            f"{name}_temperature is {temperature}, but this checkpoint has no {name} stage: leave it out."
        )
    return None


def _check_clusters(pipe: CogView2Pipeline, decoding: TokenDecoding) -> Clusters:
    if pipe.clusters is None:
        raise ValueError(
            f"top_clusters is {decoding.top_clusters}, but this checkpoint has no clusters of codes: make "
            "them with experiments.cluster_codebook and export it again, or set top_clusters to 0."
        )
    return pipe.clusters


def _check_parts(pipe: CogView2Pipeline) -> None:
    """Refuses parts that do not fit together."""
    network, tokenizer = pipe.coarse.network, pipe.coarse.tokenizer
    vocabulary = Vocabulary(tokenizer.codebook_size, network.vocab_size)
    check_vocabulary(network, vocabulary)
    if len(pipe.text_pieces) > vocabulary.text_pieces:
        raise ValueError(
            f"The text has {len(pipe.text_pieces)} pieces, but CogLM's vocabulary has room for "
            f"{vocabulary.text_pieces}: take the sentencepiece model it was trained with."
        )
    if pipe.text_pieces.max_length != network.text_pieces:
        raise ValueError(
            f"The texts have up to {pipe.text_pieces.max_length} pieces, but CogLM reads "
            f"{network.text_pieces}: give TextPieces that length."
        )
    for stage in (pipe.coarse, pipe.direct):
        if stage is not None and stage.decoding.top_clusters:
            _check_clusters(pipe, stage.decoding)
    if pipe.clusters is not None and len(pipe.clusters.of_code) != tokenizer.codebook_size:
        raise ValueError(
            f"The clusters are of {len(pipe.clusters.of_code)} codes, but the tokenizer has "
            f"{tokenizer.codebook_size}: make them with experiments.cluster_codebook."
        )
    _check_fine(pipe)


def _check_fine(pipe: CogView2Pipeline) -> None:
    """Refuses super-resolution stages that do not go with the coarse one."""
    coarse, direct, iterative = pipe.coarse.network, pipe.direct, pipe.iterative
    for name, stage in (("direct", direct), ("iterative", iterative)):
        if stage is None:
            continue
        given = (stage.network.vocab_size, stage.network.text_pieces)
        if given[0] != coarse.vocab_size or given[1] > coarse.text_pieces:
            raise ValueError(
                f"The {name} network has {given[0]} tokens and reads {given[1]} pieces, but CogLM has "
                f"{coarse.vocab_size} and reads {coarse.text_pieces}: take the one that was made of it."
            )
    if direct is None:
        if iterative is not None:
            raise ValueError("There is an iterative stage without a direct one: give both, or neither.")
        return
    if direct.network.grid != coarse.grid:
        raise ValueError(
            f"The direct network reads a grid {direct.network.grid}, but CogLM draws {coarse.grid}: take the "
            "one that was made of it."
        )
    if iterative is None:
        return
    turns = int(step_table(direct.network.factor).max())
    given = (iterative.network.grid, len(iterative.decoding.top_k))
    if given != (direct.network.fine_grid, turns):
        raise ValueError(
            f"The iterative stage has a grid {given[0]} and {given[1]} turns, but the direct one draws "
            f"{direct.network.fine_grid}, which takes {turns}: take a pair that was trained together."
        )

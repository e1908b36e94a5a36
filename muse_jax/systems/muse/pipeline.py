"""Muse as a person holds it: pictures from prompts, and pictures changed by prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, UInt8

from muse_jax.checkpointing import pretrained as checkpoint
from muse_jax.sampling import DecodeStep, listening, silent
from muse_jax.sharding.partitioning import put_tree, to_host, tree_shardings
from muse_jax.systems import validation as settings
from muse_jax.systems.base import Pipeline
from muse_jax.systems.muse import programs
from muse_jax.systems.muse.masked_transformer import MaskedTransformer
from muse_jax.systems.muse.superres_transformer import SuperResTransformer
from muse_jax.systems.stages import Stage, read_stage
from muse_jax.systems.validation import Decoding
from muse_jax.text import TextEncoder, load_text_encoder

Images = UInt8[np.ndarray, "batch height width 3"]
StepCallback = Callable[[DecodeStep], None]


@dataclass(frozen=True, eq=False)
class MusePipeline(Pipeline):
    """Text to pictures: text states, base tokens, super-resolution tokens, pixels.

    `superres` may be None: then the pictures are the base stage's. A program is compiled at the first call
    for a number of prompts, of steps, or an order; seeds, scales and temperatures compile nothing.

    Raises ValueError where the parts do not fit together.
    """

    text_encoder: TextEncoder
    base: Stage
    superres: Stage | None = None

    def __post_init__(self):
        _check_parts(self)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        text_encoder: str | TextEncoder | None = None,
        mesh: Mesh | None = None,
        dtype: Any = None,
    ) -> "MusePipeline":
        """Loads a packaged checkpoint ("emoji") or a directory that `save_pretrained` wrote.

        Args:
          text_encoder: in place of the one that config.json names: a loaded one, or where T5's files are on
            this machine, "t5:DIR".
          mesh: the devices to run on, see `Pipeline`; None for one.
          dtype: of the weights and of the computation; None for float32.

        Raises:
          ValueError: one sentence, for a checkpoint that is missing, damaged, or whose weights do not fit.
        """
        directory, dtype = checkpoint.find_checkpoint(name), dtype or jnp.float32
        config = checkpoint.read_config(directory, "muse")
        kinds = {"base": MaskedTransformer, "superres": SuperResTransformer}
        stages = {
            stage: read_stage(directory, config, stage, kind, Decoding, dtype)
            for stage, kind in kinds.items()
            if config[stage] is not None
        }
        if not isinstance(text_encoder, TextEncoder):
            stored = config["text_encoder"]
            text_encoder = load_text_encoder(
                text_encoder or stored["name"],
                max_length=stored["max_length"],
                dtype=dtype,
            )
        return cls(text_encoder, stages["base"], stages.get("superres"), mesh=mesh)

    def save_pretrained(self, directory: str | Path, dtype: str = "float16") -> dict[str, int]:
        """Writes the checkpoint `directory`, other files in it left alone; returns the files' bytes.

        The text encoder is named, not written. A crash or a full disk leaves no half checkpoint.

        Args:
          dtype: what weights are stored in: "float16", "bfloat16" or "float32".

        Raises:
          ValueError: one sentence, for a directory that cannot be written to, a run's workdir, or weights
            that do not fit in `dtype`.
        """
        encoder = self.text_encoder
        config: dict[str, Any] = {
            "format": checkpoint.FORMAT,
            "system": "muse",
            "text_encoder": {"name": encoder.name, "max_length": encoder.max_length},
        }
        weights: dict[str, Any] = {}
        for name, files in checkpoint.SYSTEMS["muse"].files.items():
            stage: Stage | None = getattr(self, name)
            config[name] = stage and stage.to_dict()
            if stage is not None:
                weights |= {files["network"]: stage.params, files["tokenizer"]: stage.tokenizer_params}
        return checkpoint.write_checkpoint(directory, config, weights, dtype)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return (self.superres or self.base).image_size

    def count_steps(self, num_steps: int | None = None, superres_steps: int | None = None) -> int:
        """How often `generate` will call `progress`."""
        plan, _ = self._plan(num_steps, superres_steps, None, None, None, None)
        return sum(plan.num_steps)

    def generate(
        self,
        prompts: Sequence[str],
        negative_prompt: str | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        choice_temperature: float | None = None,
        order: str | None = None,
        seed: int = 0,
        superres_steps: int | None = None,
        progress: StepCallback | None = None,
    ) -> Images:
        """One picture a prompt.

        Args:
          prompts: at least one string.
          negative_prompt: what to lead away from, in place of the empty text.
          num_steps, superres_steps: passes of the base and of the super-resolution network.
          guidance_scale: how strongly the prompt is followed, 0 not more than the network does by itself.
          temperature: 0 draws the most probable token.
          choice_temperature: the noise on which tokens are kept first; only the order "confidence" has it.
          order: "confidence" or "halton". This, the scale and the temperatures hold for both stages; None is
            the checkpoint's own value of each stage.
          seed: 0 to 2**32 - 1. Picture i depends on its prompt, the seed and i, not on the other prompts.
          progress: called with a `muse_jax.sampling.DecodeStep` after each step; its stage is "base" or
            "superres".

        Returns:
          uint8 (batch, height, width, 3).

        Raises:
          ValueError: one sentence, before any device work, for what is out of range.
        """
        texts = settings.check_prompts(prompts)
        negatives = [settings.check_negative_prompt(negative_prompt)]
        plan, scales = self._plan(
            num_steps, superres_steps, guidance_scale, temperature, choice_temperature, order
        )
        return self._run(programs.generate, plan, texts, negatives, scales, seed, progress)

    def inpaint(
        self,
        images: Images,
        mask: Bool[np.ndarray, "batch height width"] | Bool[np.ndarray, "height width"],
        prompts: Sequence[str],
        negative_prompt: str | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        choice_temperature: float | None = None,
        order: str | None = None,
        seed: int = 0,
        superres_steps: int | None = None,
        progress: StepCallback | None = None,
    ) -> Images:
        """Redraws the pixels where `mask` is True after the prompts; every other pixel stays as it is.

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          mask: for each picture, or one for all.
          prompts: one for each picture; the rest is as in `generate`.
        """
        images = settings.check_images(images, self.image_size)
        mask = settings.check_mask(mask, images)
        texts = settings.check_prompts(prompts, count=len(images))
        negatives = [settings.check_negative_prompt(negative_prompt)]
        plan, scales = self._plan(
            num_steps, superres_steps, guidance_scale, temperature, choice_temperature, order
        )
        return self._run(
            programs.inpaint, plan, texts, negatives, scales, seed, progress, *self._rows((images, mask))
        )

    def outpaint(
        self, images: Images, margins: tuple[int, int, int, int], prompts: Sequence[str], **options: Any
    ) -> Images:
        """Draws what lies around the pictures: `margins` (top, bottom, left, right), in pixels.

        The pictures with their margins must have `image_size`: to go on to the right of a picture of that
        size, give its right half, `images[:, :, 64:]`, and margins (0, 0, 0, 64). `options` are `inpaint`'s.
        """
        images = settings.check_images(images, None)
        top, bottom, left, right = settings.check_margins(margins, images, self.image_size)
        # The border goes on with the outermost pixels: tokens at the seam see no edge that is not there.
        canvas = np.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="edge")
        mask = np.ones(self.image_size, bool)
        mask[top : top + images.shape[1], left : left + images.shape[2]] = False
        return self.inpaint(canvas, mask, prompts, **options)

    def edit(
        self,
        images: Images,
        prompts: Sequence[str],
        old_prompts: Sequence[str] | None = None,
        num_steps: int = 100,
        share: float = 0.08,
        top_k: int = 3,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        seed: int = 0,
        superres_steps: int | None = None,
        progress: StepCallback | None = None,
    ) -> Images:
        """Leads pictures towards the prompts without a mask (Muse, section 3.4).

        Args:
          images: uint8 (batch, height, width, 3) of `image_size`.
          prompts, old_prompts: what each picture shall show, and what it shows, to lead away from.
          num_steps: how often a random `share`, in (0, 1], of the base tokens is drawn again, from the
            `top_k` most probable codes.
          The rest is as in `generate`.
        """
        images = settings.check_images(images, self.image_size)
        texts = settings.check_prompts(prompts, count=len(images))
        negatives = [""] if old_prompts is None else list(old_prompts)
        if old_prompts is not None:
            negatives = settings.check_prompts(old_prompts, "old_prompts", len(images))
        settings.check_steps("top_k", top_k)
        settings.check_share(share)
        plan, scales = self._plan(num_steps, superres_steps, guidance_scale, temperature, None, None)
        arguments = (self._rows(images), np.float32(share), top_k)
        return self._run(programs.edit, plan, texts, negatives, scales, seed, progress, *arguments)

    @cached_property
    def _modules(self) -> programs.Modules:
        superres = self.superres
        return programs.Modules(
            text=self.text_encoder.module,
            base=self.base.network,
            vqgan=self.base.tokenizer,
            superres=superres.network if superres else None,
            vqgan_superres=superres.tokenizer if superres else None,
        )

    @cached_property
    def params(self) -> dict[str, Any]:
        """Every weight, on the mesh."""
        encoder, base, superres = self.text_encoder, self.base, self.superres
        params = {
            "text": put_tree(encoder.params, tree_shardings(encoder.boxed_shapes(), self._mesh)),
            "base": self._place(base.network, base.params),
            "vqgan": self._place(base.tokenizer, base.tokenizer_params),
        }
        if superres is not None:
            params["superres"] = self._place(superres.network, superres.params)
            params["vqgan_superres"] = self._place(superres.tokenizer, superres.tokenizer_params)
        return params

    def trace_generate(self, batch_size: int) -> jax.stages.Traced:
        """The program that `generate` runs on `batch_size` prompts with the defaults, traced.

        Weights may be shapes, and the devices those of a topology that is only described.
        """
        length = self.text_encoder.max_length

        def texts(rows: int) -> tuple[Any, Any]:
            shape = (rows, length)
            return jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)

        plan, scales = self._plan(None, None, None, None, None, None)
        tokenized = self._rows(programs.Texts(*texts(batch_size), *texts(1)))
        params = self.params
        with self._context():
            return programs.generate.trace(
                self._modules, plan, params, tokenized, scales, np.uint32(0), jax.eval_shape(silent)
            )

    def _plan(
        self, num_steps, superres_steps, guidance_scale, temperature, choice_temperature, order
    ) -> tuple[programs.Plan, tuple[programs.Scales, ...]]:
        """What is compiled for, and what is traced: the defaults with the given values in their place."""
        if superres_steps is not None:
            settings.check_steps("superres_steps", superres_steps)
            if self.superres is None:
                raise ValueError(
                    f"superres_steps is {superres_steps}, but this checkpoint has no super-resolution stage: "
                    "leave it out."
                )
        both = {
            "guidance_scale": guidance_scale,
            "temperature": temperature,
            "choice_temperature": choice_temperature,
            "order": order,
        }
        base = self.base.decoding.but(num_steps=num_steps, **both)
        stages = [base]
        if self.superres is not None:
            stages.append(self.superres.decoding.but(num_steps=superres_steps, **both))
        plan = programs.Plan(
            num_steps=tuple(int(stage.num_steps) for stage in stages),
            order=tuple(stage.order for stage in stages),
        )
        number: Any = np.float32  # of one type always: a Python int would compile anew
        scales = [
            programs.Scales(
                number(stage.guidance_scale), number(stage.temperature), number(stage.choice_temperature)
            )
            for stage in stages
        ]
        return plan, tuple(scales)

    def _run(self, program, plan, texts, negatives, scales, seed, progress, *arguments) -> Images:
        settings.check_seed(seed)
        tokenize: Any = self.text_encoder.tokenize
        tokenized = self._rows(programs.Texts(*tokenize(texts), *tokenize(negatives)))
        with listening(progress) as ticket, self._context():
            images = program(
                self._modules, plan, self.params, tokenized, scales, np.uint32(seed), ticket, *arguments
            )
            return to_host(images)


def _check_parts(pipe: MusePipeline) -> None:
    """Refuses parts that do not fit together."""
    encoder, base, superres = pipe.text_encoder, pipe.base, pipe.superres
    for name, stage in (("base", base), ("superres", superres)):
        if stage is None:
            continue
        network, tokenizer = stage.network, stage.tokenizer
        if network.text_dim != encoder.dim:
            raise ValueError(
                f"The {name} network reads text states of width {network.text_dim}, but the text encoder "
                f"{encoder.name!r} gives {encoder.dim}: take the one it was trained with."
            )
        drawn, decoded = (network.groups, network.vocab_size), (tokenizer.groups, tokenizer.codebook_size)
        if drawn != decoded:
            raise ValueError(
                f"The {name} network draws {_codes(*drawn)}, but its tokenizer has {_codes(*decoded)}: "
                "take the tokenizer it was trained with."
            )
    if superres is None:
        return
    low, small = superres.network, base.network
    read = (low.low_groups, low.low_vocab_size, tuple(low.low_grid))
    made = (small.groups, small.vocab_size, tuple(small.grid))
    if read != made:
        raise ValueError(
            f"The superres network reads {_codes(*read[:2])} on a grid {read[2]}, but the base network draws "
            f"{_codes(*made[:2])} on {made[2]}: take a pair that was trained together."
        )
    if any(large % small for large, small in zip(superres.image_size, base.image_size)):
        raise ValueError(
            f"The superres stage draws {superres.image_size} pixels, no multiple of the base stage's "
            f"{base.image_size}: take the pair that was trained together."
        )


def _codes(groups: int, vocab_size: int) -> str:
    return f"{vocab_size} codes" if groups == 1 else f"{groups} groups of {vocab_size} codes"

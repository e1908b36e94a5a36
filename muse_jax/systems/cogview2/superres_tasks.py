"""Training of CogView2's super-resolution networks from a CogLM (CogView2, section 3.2 and 3.3).

One tokenizer encodes the coarse and the fine image, since one table contains all codes. The coarse image is
the mean of the fine one over squares of `config.data.superres_factor` pixels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import reduce
from jaxtyping import Array, Bool, Int

from muse_jax.checkpointing.source import open_source
from muse_jax.media.image import to_unit_range
from muse_jax.sampling.lopar import step_table, tile_steps
from muse_jax.sampling.params import LoparSampling, TokenSampling
from muse_jax.systems.cogview2.sampling import BoundCogLM
from muse_jax.systems.cogview2.superres import (
    DirectSuperRes,
    IterativeSuperRes,
    direct_from_coglm,
    iterative_from_coglm,
    join_params,
    split_params,
)
from muse_jax.systems.cogview2.superres_sampling import coarse_sequence, refine_tokens, sample_fine_tokens
from muse_jax.systems.cogview2.tasks import CogViewTask, mean_over, sums_over
from muse_jax.systems.token_task import encode
from muse_jax.training.config_checks import check_limits
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums, check_loss_keys

_SAME = ("vocab_size", "image_position", "width", "depth", "heads", "mlp_dim")
"""Fields that a super-resolution network shares with its CogLM."""


class _SuperResTask(CogViewTask):
    """Base of the two tasks: tokens of the coarse and of the fine image."""

    config_defaults: ClassVar[Mapping[str, Any]] = {
        **CogViewTask.config_defaults,
        "data": {**CogViewTask.config_defaults["data"], "superres_factor": 2},
    }

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Checks that the factor is at least 2."""
        check_limits(config, {"data.superres_factor": (2, float("inf"))})

    def params_from(self, source: Any) -> Any | None:
        """Parameters of the same network, or initialized from a CogLM (CogView2, section 3.2 and 3.3)."""
        if source.stages != ("coarse",):
            return super().params_from(source)
        coglm = source.network("coarse")
        return jax.device_get(self.from_coglm(coglm.params, tuple(coglm.module.grid), self.factor))

    def from_coglm(self, params: Any, grid: tuple[int, int], factor: int) -> Any:
        """Initial parameters, made from those of a CogLM with the given grid."""
        raise NotImplementedError

    def __init__(self, config: Any, network: Any):
        check_loss_keys(config, {})
        super().__init__(config, network)
        self.factor = config.data.superres_factor

    def features(self, frozen: Any, image: Array) -> dict[str, Array]:
        fine, params = to_unit_range(image), frozen["tokenizers"]["tokenizer"]
        coarse = reduce(fine, "b (h p) (w q) c -> b h w c", "mean", p=self.factor, q=self.factor)
        return {
            "tokens": encode(self.tokenizer, params, coarse),
            "superres_tokens": encode(self.tokenizer, params, fine),
        }

    def inputs(
        self, frozen: Any, batch: Batch
    ) -> tuple[Int[Array, "b n"], Int[Array, "b f"], Int[Array, "b t"], Bool[Array, "b t"]]:
        """Coarse codes, fine codes, text pieces and their mask."""
        tokens = batch if "tokens" in batch else self.features(frozen, batch["image"])
        return tokens["tokens"], tokens["superres_tokens"], batch["caption_ids"], batch["caption_mask"]


class DirectSuperResTask(_SuperResTask):
    """Training of direct super-resolution: all fine tokens at once, with a frozen CogLM (`config.coglm`)."""

    network: DirectSuperRes
    sampling_params = TokenSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **_SuperResTask.config_defaults,
        "coglm": "",
        "sampling": TokenSampling().to_dict(),
    }

    def from_coglm(self, params: Any, grid: tuple[int, int], factor: int) -> Any:
        return direct_from_coglm(params, grid, factor)

    def __init__(self, config: Any):
        super().__init__(config, DirectSuperRes)
        self.check_grid(config.data.image_size // self.factor)
        if self.network.factor != self.factor:
            raise ValueError(
                f"config.model.factor is {self.network.factor}, but config.data.superres_factor is "
                f"{self.factor}: set them to the same value."
            )

    def frozen(self) -> Any:
        """Weights of the tokenizer, the clusters, and the CogLM, which must have the network's sizes."""
        coglm = open_source(self.config.coglm, "config.coglm").network("coarse")
        for name in (*_SAME, "grid"):
            given, wanted = getattr(coglm.module, name), getattr(self.network, name)
            if given != wanted:
                raise ValueError(
                    f"config.model.{name} is {wanted}, but the CogLM of config.coglm has {given}: set it to "
                    "that."
                )
        return {**super().frozen(), "coglm": coglm.params}

    def frozen_shapes(self) -> Any:
        coglm = jax.eval_shape(lambda: split_params(self._init(jax.random.key(0)))[0])
        return {**super().frozen_shapes(), "coglm": coglm}

    def _init(self, key: Array) -> Any:
        tokens = jnp.zeros((1, self.network.length), jnp.int32)
        return self.network.init(key, tokens, tokens, method="hidden")["params"]

    def init(self, key: Array) -> Any:
        return split_params(self._init(key))[1]

    def losses(self, params: Any, frozen: Any, batch: Batch, key: Array | None) -> Array:
        """Cross-entropy of each fine token; `key` is for dropout, None disables it."""
        coarse, fine, text, text_mask = self.inputs(frozen, batch)
        sequence = coarse_sequence(self.vocabulary, text, text_mask, coarse)
        variables = {"params": join_params(frozen["coglm"], params)}
        hidden = self.network.apply(
            variables,
            sequence.tokens,
            sequence.ranks,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
            method="hidden",
        )
        return self.network.apply(variables, hidden, fine, method="cross_entropy")

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        return jnp.mean(self.losses(params, frozen, batch, key)), {}

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy of the fine tokens."""
        losses = self.losses(params, frozen, batch, None)
        return {"cross_entropy": sums_over(losses, jnp.ones(losses.shape, bool))}

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Reconstructions of images of the batch, followed by images sampled from their coarse tokens."""
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        coarse, fine, text, text_mask = self.inputs(frozen, batch)
        sampled = sample_fine_tokens(
            BoundCogLM(self.network, join_params(frozen["coglm"], params), self.vocabulary),
            text,
            text_mask,
            coarse,
            key,
            sampling=self.code_sampling(frozen),
        )
        return {"samples": self.decode(frozen, jnp.concatenate([fine, sampled]), self.network.fine_grid)}


class IterativeSuperResTask(_SuperResTask):
    """Training of iterative super-resolution: tokens masked in a random LoPAR iteration, given the others."""

    network: IterativeSuperRes
    sampling_params = LoparSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **_SuperResTask.config_defaults,
        "sampling": LoparSampling().to_dict(),
    }

    def from_coglm(self, params: Any, grid: tuple[int, int], factor: int) -> Any:
        return iterative_from_coglm(params, grid, factor)

    def __init__(self, config: Any):
        super().__init__(config, IterativeSuperRes)
        self.check_grid(config.data.image_size)
        self.lopar_steps = tile_steps(step_table(self.factor), self.network.grid)

    def init(self, key: Array) -> Any:
        text = jnp.zeros((1, self.network.text_length), jnp.int32)
        tokens = jnp.zeros((1, self.network.image_tokens), jnp.int32)
        return self.network.init(key, tokens, text, text == 0, method="hidden")["params"]

    def losses(
        self, params: Any, frozen: Any, batch: Batch, iteration: Int[Array, " b"], key: Array | None
    ) -> tuple[Array, Array]:
        """Cross-entropy of each fine token, and which tokens are masked in each sample's iteration."""
        _, fine, text, text_mask = self.inputs(frozen, batch)
        masked = jnp.asarray(self.lopar_steps) >= iteration[:, None]
        variables = {"params": params}
        hidden = self.network.apply(
            variables,
            jnp.where(masked, self.vocabulary.start_of_image, fine),
            self.vocabulary.words(text, text_mask),
            text_mask,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
            method="hidden",
        )
        return self.network.apply(variables, hidden, fine, method="cross_entropy"), masked

    def loss(self, params: Any, frozen: Any, batch: Batch, key: Array, step: Array):
        step_key, dropout_key = jax.random.split(key)
        iteration = jax.random.randint(step_key, (len(batch["caption_ids"]),), 1, self.lopar_steps.max() + 1)
        losses, masked = self.losses(params, frozen, batch, iteration, dropout_key)
        return mean_over(losses, masked), {"weight": jnp.sum(masked)}

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy of the tokens masked in the first iteration and in the last one."""
        scores = {}
        for name, step in (("first_iteration", 1), ("last_iteration", int(self.lopar_steps.max()))):
            iteration = jnp.full(len(batch["caption_ids"]), step)
            losses = self.losses(params, frozen, batch, iteration, None)
            scores[f"cross_entropy_{name}"] = sums_over(*losses)
        return scores

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Reconstructions of images of the batch, followed by the same images after all iterations."""
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        _, fine, text, text_mask = self.inputs(frozen, batch)
        refined = refine_tokens(
            BoundCogLM(self.network, params, self.vocabulary),
            text,
            text_mask,
            fine,
            key,
            steps=self.lopar_steps,
            top_k=tuple(self.config.sampling.top_k) or None,
            temperature=self.config.sampling.temperature,
        )
        return {"samples": self.decode(frozen, jnp.concatenate([fine, refined]), self.network.grid)}

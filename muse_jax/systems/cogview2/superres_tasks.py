"""Training of CogView2's super-resolution networks from a CogLM (CogView2, section 3.2 and 3.3).

One tokenizer serves the coarse and the fine image, as one table has all codes. The coarse image is the
fine one, averaged over squares of `config.data.superres_factor` pixels.
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
from muse_jax.systems.cogview2.superres_sampling import coarse_sequence, draw_fine, redraw_fine
from muse_jax.systems.cogview2.tasks import CogViewTask, mean_over, sums_over
from muse_jax.systems.token_task import encode
from muse_jax.training.config_checks import check_limits
from muse_jax.training.task import PREVIEW_IMAGES, Batch, Sums, check_loss_keys

_SAME = ("vocab_size", "image_position", "width", "depth", "heads", "mlp_dim")
"""Fields of a CogLM that what grows out of it has too."""


class _SuperResTask(CogViewTask):
    """Tokens of the coarse and of the fine image."""

    config_defaults: ClassVar[Mapping[str, Any]] = {
        **CogViewTask.config_defaults,
        "data": {**CogViewTask.config_defaults["data"], "superres_factor": 2},
    }

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Refuses a factor below 2."""
        check_limits(config, {"data.superres_factor": (2, float("inf"))})

    def params_from(self, source: Any) -> Any | None:
        """The source's own such network, or one grown from its CogLM (CogView2, section 3.2 and 3.3)."""
        if source.stages != ("coarse",):
            return super().params_from(source)
        coglm = source.network("coarse")
        return jax.device_get(self.grow(coglm.params, tuple(coglm.module.grid), self.factor))

    def grow(self, params: Any, grid: tuple[int, int], factor: int) -> Any:
        """This network's parameters, made from those of a CogLM with the given grid."""
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
    """Direct super-resolution: all fine tokens at once, with the CogLM of `config.coglm` frozen."""

    network: DirectSuperRes
    sampling_params = TokenSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **_SuperResTask.config_defaults,
        "coglm": "",
        "sampling": TokenSampling().to_dict(),
    }

    def grow(self, params: Any, grid: tuple[int, int], factor: int) -> Any:
        return direct_from_coglm(params, grid, factor)

    def __init__(self, config: Any):
        super().__init__(config, DirectSuperRes)
        self.check_grid(config.data.image_size // self.factor)
        if self.network.factor != self.factor:
            raise ValueError(
                f"config.model.factor is {self.network.factor}, but config.data.superres_factor is "
                f"{self.factor}: set one to the other."
            )

    def frozen(self) -> Any:
        """The tokenizer, the clusters, and the CogLM of `config.coglm`; it must have the network's sizes."""
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
        """Cross-entropy of each fine token; `key` seeds dropout, None switches it off."""
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
        """Reconstructions of the batch's images, followed by images drawn from their coarse tokens."""
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        coarse, fine, text, text_mask = self.inputs(frozen, batch)
        drawn = draw_fine(
            BoundCogLM(self.network, join_params(frozen["coglm"], params), self.vocabulary),
            text,
            text_mask,
            coarse,
            key,
            sampling=self.code_sampling(frozen),
        )
        return {"samples": self.decode(frozen, jnp.concatenate([fine, drawn]), self.network.fine_grid)}


class IterativeSuperResTask(_SuperResTask):
    """Iterative super-resolution: the fine tokens masked in a random step of LoPAR, given the others."""

    network: IterativeSuperRes
    sampling_params = LoparSampling
    config_defaults: ClassVar[Mapping[str, Any]] = {
        **_SuperResTask.config_defaults,
        "sampling": LoparSampling().to_dict(),
    }

    def grow(self, params: Any, grid: tuple[int, int], factor: int) -> Any:
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
        self, params: Any, frozen: Any, batch: Batch, turn: Int[Array, " b"], key: Array | None
    ) -> tuple[Array, Array]:
        """Cross-entropy of each fine token, and the mask of the tokens that each sample's step masks."""
        _, fine, text, text_mask = self.inputs(frozen, batch)
        masked = jnp.asarray(self.lopar_steps) >= turn[:, None]
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
        turn_key, dropout_key = jax.random.split(key)
        turn = jax.random.randint(turn_key, (len(batch["caption_ids"]),), 1, self.lopar_steps.max() + 1)
        losses, masked = self.losses(params, frozen, batch, turn, dropout_key)
        return mean_over(losses, masked), {"weight": jnp.sum(masked)}

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: Array) -> dict[str, Sums]:
        """Cross-entropy of the tokens masked in the first step, and in the last one."""
        scores = {}
        for name, turn in (("first_turn", 1), ("last_turn", int(self.lopar_steps.max()))):
            turns = jnp.full(len(batch["caption_ids"]), turn)
            scores[f"cross_entropy_{name}"] = sums_over(*self.losses(params, frozen, batch, turns, None))
        return scores

    def preview(self, params: Any, frozen: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Reconstructions of the batch's images, followed by the same after all iterations."""
        batch = {name: value[:PREVIEW_IMAGES] for name, value in batch.items()}
        _, fine, text, text_mask = self.inputs(frozen, batch)
        drawn = redraw_fine(
            BoundCogLM(self.network, params, self.vocabulary),
            text,
            text_mask,
            fine,
            key,
            steps=self.lopar_steps,
            top_k=tuple(self.config.sampling.top_k) or None,
            temperature=self.config.sampling.temperature,
        )
        return {"samples": self.decode(frozen, jnp.concatenate([fine, drawn]), self.network.grid)}

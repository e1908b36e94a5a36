"""Checks that the stages of a CogView2 pipeline are compatible."""

from collections.abc import Mapping
from pathlib import Path

from muse_jax.checkpointing.pretrained import is_pretrained
from muse_jax.checkpointing.source import RunSource, Source, open_source
from muse_jax.interop.content_hash import content_hash
from muse_jax.sampling import step_table
from muse_jax.systems.base import LoadedStage
from muse_jax.systems.cogview2.sampling import check_vocabulary
from muse_jax.systems.cogview2.sampling_params import bind_clusters
from muse_jax.systems.cogview2.sequences import Vocabulary
from muse_jax.text import TextPieces
from muse_jax.tokenizers import Clusters

TEXT = "text.model"
"""Name of the sentencepiece model in a pretrained directory."""


def check_trained_together(sources: Mapping[str, Source]) -> None:
    """Checks that super-resolution stages were trained with the tokenizer, text model and CogLM given here.

    Contents are compared rather than paths, so runs may be moved.

    Raises:
      ValueError: they were not; the message names the first difference.
    """
    coarse = sources["coarse"]
    for name, source in sources.items():
        if source is coarse or coarse.abstract:
            continue
        if source.tokenizer().encoder_hash != coarse.tokenizer().encoder_hash:
            raise ValueError(_differs(source, "tokenizer", coarse))
        if source.file(TEXT).read_bytes() != coarse.file(TEXT).read_bytes():
            raise ValueError(_differs(source, "text_pieces", coarse))
        if name == "direct" and isinstance(source, RunSource) and not _has_coglm(source, coarse):
            raise ValueError(_differs(source, "coglm", coarse))


def _has_coglm(direct: RunSource, coarse: Source) -> bool:
    given = direct.config.coglm
    if is_pretrained(given) or Path(given).resolve() == Path(coarse.name).resolve():
        return True
    params = open_source(given, "config.coglm").network("coarse").params
    return content_hash(params) == content_hash(coarse.network("coarse").params)


def _differs(source: Source, key: str, coarse: Source) -> str:
    return (
        f"{source.name} was trained with another {key} than {coarse.name}: give runs that were trained "
        "together."
    )


def check_stages(
    text_pieces: TextPieces,
    clusters: Clusters | None,
    coarse: LoadedStage,
    direct: LoadedStage | None,
    iterative: LoadedStage | None,
) -> None:
    """Checks that the networks fit the text model, the tokenizer, the clusters and each other.

    Raises:
      ValueError: they do not; the message names the first mismatch.
    """
    network, tokenizer = coarse.network, coarse.tokenizer
    vocabulary = Vocabulary(tokenizer.codebook_size, network.vocab_size)
    check_vocabulary(network, vocabulary)
    if len(text_pieces) > vocabulary.text_pieces:
        raise ValueError(
            f"The text model has {len(text_pieces)} pieces, but CogLM's vocabulary has room for "
            f"{vocabulary.text_pieces}: use the sentencepiece model that it was trained with."
        )
    if text_pieces.max_length != network.text_pieces:
        raise ValueError(
            f"The texts have up to {text_pieces.max_length} pieces, but CogLM reads "
            f"{network.text_pieces}: give TextPieces this length."
        )
    for stage in (coarse, direct):
        if stage is not None:
            bind_clusters(stage.sampling, clusters)
    if clusters is not None and len(clusters.of_code) != tokenizer.codebook_size:
        raise ValueError(
            f"The clusters are of {len(clusters.of_code)} codes, but the tokenizer has "
            f"{tokenizer.codebook_size}: make them with experiments.cluster_codebook."
        )
    _check_superres(coarse, direct, iterative)


def _check_superres(coarse: LoadedStage, direct: LoadedStage | None, iterative: LoadedStage | None) -> None:
    network = coarse.network
    for name, stage in (("direct", direct), ("iterative", iterative)):
        if stage is None:
            continue
        given = (stage.network.vocab_size, stage.network.text_pieces)
        if given[0] != network.vocab_size or given[1] > network.text_pieces:
            raise ValueError(
                f"The {name} network has {given[0]} tokens and reads {given[1]} pieces, but CogLM has "
                f"{network.vocab_size} and reads {network.text_pieces}: use one initialized from it."
            )
    if direct is None:
        if iterative is not None:
            raise ValueError("There is an iterative stage without a direct one: give both, or neither.")
        return
    if direct.network.grid != network.grid:
        raise ValueError(
            f"The direct network reads a grid {direct.network.grid}, but CogLM generates {network.grid}: use "
            "a network initialized from this CogLM."
        )
    if iterative is None:
        return
    steps = int(step_table(direct.network.factor).max())
    given = (iterative.network.grid, len(iterative.sampling.top_k) or steps)
    if given != (direct.network.fine_grid, steps):
        raise ValueError(
            f"The iterative stage has a grid {given[0]} and {given[1]} iterations, but the direct one "
            f"generates {direct.network.fine_grid}, which takes {steps}: use a pair trained together."
        )

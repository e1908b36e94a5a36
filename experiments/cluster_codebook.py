"""Clusters the codes of a tokenizer for cluster sampling, and stores the clusters beside it.

python -m experiments.cluster_codebook --tokenizer=runs/vqgan64 --clusters=64
"""

from collections import Counter

from absl import flags

from experiments import apps
from muse_jax.checkpointing.source import open_source
from muse_jax.tokenizers import cluster_codebook, codebook_rows
from muse_jax.tokenizers.clusters import FILE

TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "Workdir of a tokenizer's run, or a checkpoint.", required=True
)
CLUSTERS = flags.DEFINE_integer("clusters", 500, "Number of clusters.", lower_bound=1)


def main() -> None:
    """Clusters the codebook and writes the file."""
    source = open_source(TOKENIZER.value, "--tokenizer")
    tokenizer, file = source.tokenizer(), source.file(FILE)
    clusters = cluster_codebook(codebook_rows(tokenizer.module, tokenizer.params), CLUSTERS.value)
    clusters.save(file)
    sizes = sorted(Counter(clusters.of_code.tolist()).values())
    print(
        f"{len(clusters.of_code)} codes in {len(clusters)} clusters of {sizes[0]} to {sizes[-1]} "
        f"(median {sizes[len(sizes) // 2]}) are in {file}"
    )


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")

"""Sheet of the stages of CogView2: a candidate, the best one, direct and iterative super-resolution.

python -m experiments.stages --prompt="a noto emoji of a cactus" --prompt="..." --out=stages.png
"""

import dataclasses

import numpy as np
from absl import flags

from experiments import apps, image_grid

PROMPT = flags.DEFINE_multi_string("prompt", [], "A prompt; repeat it for more rows.")
MODEL = flags.DEFINE_string("model", "emoji-cogview2", "A packaged checkpoint or a pretrained directory.")
OUT = flags.DEFINE_string("out", None, "Image file to write, such as stages.png.", required=True)
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")


def main() -> None:
    """Generates each prompt once per stage from the same seed, so each stage continues the one before."""
    if not PROMPT.value:
        raise ValueError('Give --prompt="...", once or several times.')
    out = image_grid.check_output(OUT.value)
    from muse_jax import CogView2Pipeline

    pipe = CogView2Pipeline.from_pretrained(MODEL.value)
    if pipe.iterative is None:
        raise ValueError(
            f"The checkpoint {MODEL.value} lacks super-resolution: give one that has all stages."
        )
    count = pipe.coarse.sampling.num_candidates
    coarse = dataclasses.replace(pipe, direct=None, iterative=None)
    ranked = coarse.generate(PROMPT.value, num_samples=count, seed=SEED.value)
    side = pipe.image_size[0] // coarse.image_size[0]
    ranked = ranked.repeat(side, axis=2).repeat(side, axis=3)
    direct = dataclasses.replace(pipe, iterative=None).generate(PROMPT.value, seed=SEED.value)
    refined = pipe.generate(PROMPT.value, seed=SEED.value)
    rows = np.stack([ranked[:, count // 2], ranked[:, 0], direct, refined], axis=1)
    titles = ["coarse", f"best of {count}", "direct", "refined"]
    captions = [
        f"{title}: {prompt}" if title == "coarse" else title for prompt in PROMPT.value for title in titles
    ]
    sheet = image_grid.captioned_grid(rows.reshape(-1, *rows.shape[2:]), captions, columns=len(titles))
    image_grid.save_image(sheet, out)
    print(f"Written to {out}")


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")

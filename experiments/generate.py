"""Draws pictures from prompts.

python -m experiments.generate --prompt="a noto emoji of a red heart" --out=heart.png
python -m experiments.generate --prompt="a noto emoji of a cat face" --prompt="..." --grid=2 --out=grid.png
python -m experiments.generate --demo --out=pictures/demo.png

python -m experiments.generate --prompt="a red heart" --model=DIR --candidates=16 --keep=4 --out=four.png
python -m experiments.generate --demo --model=DIR --mesh=data=2,fsdp=4 --dtype=bfloat16 --out=demo.png

The checkpoint's config says which system it is of; an option that its system lacks is refused. One image is
written alone; several make a grid with captions. With --mesh the weights are laid out over all devices, those
of other hosts included where the command runs on each of them (docs/launch.md); the images are the same.
"""

from absl import flags
from tqdm import tqdm

from experiments import apps, pictures
from experiments.demo import DEMO, LEGEND

PROMPT = flags.DEFINE_multi_string("prompt", [], "What to draw; repeat it for several pictures.")
DEMO_FLAG = flags.DEFINE_bool("demo", False, "Draw the eight prompts that come with the program.")
MODEL = flags.DEFINE_string("model", "icons", "A packaged checkpoint or a directory.")
OUT = flags.DEFINE_string("out", None, "The picture to write, such as heart.png.")
NEGATIVE_PROMPT = flags.DEFINE_string("negative_prompt", None, "What to lead away from.")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps of the base stage.")
SUPERRES_STEPS = flags.DEFINE_integer("superres_steps", None, "Steps of the super-resolution stage.")
GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", None, "How strongly the prompt is followed; 0 or more.")
TEMPERATURE = flags.DEFINE_float("temperature", None, "0 draws the most probable tokens.")
CHOICE_TEMPERATURE = flags.DEFINE_float("choice_temperature", None, "Noise on which tokens are kept first.")
ORDER = flags.DEFINE_string("order", None, "confidence or halton.")
CANDIDATES = flags.DEFINE_integer("candidates", None, "CogView2: pictures drawn of each prompt.")
KEEP = flags.DEFINE_integer("keep", None, "CogView2: how many of them, the best, are kept.")
TOP_K = flags.DEFINE_integer("top_k", None, "CogView2: draw from so many codes; 0: all.")
TOP_P = flags.DEFINE_float("top_p", None, "CogView2: draw from the fewest codes of this probability.")
TOP_CLUSTERS = flags.DEFINE_integer("top_clusters", None, "CogView2: draw from so many clusters; 0: none.")
TEXT_WEIGHT = flags.DEFINE_float("text_weight", None, "CogView2: how much more it looks at the text.")
MESH = flags.DEFINE_string(
    "mesh", "", "Devices along each axis, such as data=2,fsdp=2,tensor=2; one device by default."
)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights and the computation.")
SEED = flags.DEFINE_integer("seed", 0, "Another seed, other pictures.")
GRID = flags.DEFINE_integer("grid", 0, "Columns of the grid; 0: up to four.", lower_bound=0)


OPTIONS = [NEGATIVE_PROMPT, NUM_STEPS, SUPERRES_STEPS, GUIDANCE_SCALE, TEMPERATURE, CHOICE_TEMPERATURE, ORDER]
OPTIONS += [CANDIDATES, KEEP, TOP_K, TOP_P, TOP_CLUSTERS, TEXT_WEIGHT]


def main() -> None:
    """Checks the flags, draws and writes."""
    if DEMO_FLAG.value == bool(PROMPT.value):
        raise ValueError('Give either --prompt="..." (once or several times) or --demo.')
    prompts = [prompt for prompt, _ in DEMO] if DEMO_FLAG.value else list(PROMPT.value)
    out = pictures.check_output(OUT.value)
    import jax
    import jax.numpy as jnp

    from muse_jax.sharding import distributed
    from muse_jax.systems.registry import load_pipeline

    distributed.initialize()
    main_process = jax.process_index() == 0
    if main_process:
        print(f"Loading the checkpoint {MODEL.value} ...", flush=True)
    pipe = load_pipeline(MODEL.value, mesh=apps.parse_mesh(MESH.value), dtype=getattr(jnp, DTYPE.value))
    options = {flag.name: flag.value for flag in OPTIONS if flag.value is not None}
    if unknown := sorted(set(options) - set(apps.taken(options, pipe.generate))):
        raise ValueError(
            f"--{unknown[0]} is given, but the {type(pipe).__name__} of {MODEL.value} has no such option: "
            "leave it out."
        )
    total = pipe.count_steps(**apps.taken(options, pipe.count_steps))
    bar_format = "{desc}{bar} {n}/{total} steps, {elapsed}"
    with tqdm(desc="compiling", total=total, bar_format=bar_format, disable=not main_process) as bar:

        def progress(step) -> None:
            bar.set_description(step.stage, refresh=False)
            bar.update()

        images = pipe.generate(prompts, seed=SEED.value, progress=progress, **options)
    if not main_process:
        return
    captions = [f"{prompt}{' *' * unseen}" for prompt, unseen in DEMO] if DEMO_FLAG.value else prompts
    if images.ndim == 5:  # several pictures of a prompt
        captions = [caption for caption in captions for _ in range(images.shape[1])]
        images = images.reshape(-1, *images.shape[2:])
    if len(images) == 1:
        picture = pictures.Image.fromarray(images[0])
    else:
        picture = pictures.captioned_grid(images, captions, GRID.value, LEGEND if DEMO_FLAG.value else "")
    pictures.save_picture(picture, out)
    print(f"Written to {out}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["out"])
    apps.run(main, stopped="Stopped; nothing was written.")

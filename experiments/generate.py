"""Draws pictures from prompts.

python -m experiments.generate --prompt="a noto emoji of a red heart" --out=heart.png
python -m experiments.generate --prompt="a noto emoji of a cat face" --prompt="..." --grid=2 --out=grid.png
python -m experiments.generate --demo --out=pictures/demo.png

One prompt gives the picture alone; several give a grid with captions.
"""

from absl import flags, logging
from tqdm import tqdm

from experiments import apps, pictures
from experiments.demo import DEMO, LEGEND

PROMPT = flags.DEFINE_multi_string("prompt", [], "What to draw; repeat it for several pictures.")
DEMO_FLAG = flags.DEFINE_bool("demo", False, "Draw the eight prompts that come with the program.")
MODEL = flags.DEFINE_string("model", "emoji", "A packaged checkpoint or a directory.")
OUT = flags.DEFINE_string("out", None, "The picture to write, such as heart.png.")
NEGATIVE_PROMPT = flags.DEFINE_string("negative_prompt", None, "What to lead away from.")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps of the base stage.")
SUPERRES_STEPS = flags.DEFINE_integer("superres_steps", None, "Steps of the super-resolution stage.")
GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", None, "How strongly the prompt is followed; 0 or more.")
TEMPERATURE = flags.DEFINE_float("temperature", None, "0 draws the most probable tokens.")
CHOICE_TEMPERATURE = flags.DEFINE_float("choice_temperature", None, "Noise on which tokens are kept first.")
ORDER = flags.DEFINE_string("order", None, "confidence or halton.")
SEED = flags.DEFINE_integer("seed", 0, "Another seed, other pictures.")
GRID = flags.DEFINE_integer("grid", 0, "Columns of the grid; 0: up to four.", lower_bound=0)


def main() -> None:
    """Checks the flags, draws and writes."""
    if DEMO_FLAG.value == bool(PROMPT.value):
        raise ValueError('Give either --prompt="..." (once or several times) or --demo.')
    prompts = [prompt for prompt, _ in DEMO] if DEMO_FLAG.value else list(PROMPT.value)
    out = pictures.check_output(OUT.value)
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # JAX tells of every device that is not there
    print(f"Loading the checkpoint {MODEL.value} ...", flush=True)
    from muse_jax.pipelines import MusePipeline

    pipe = MusePipeline.from_pretrained(MODEL.value)
    total = pipe.count_steps(NUM_STEPS.value, SUPERRES_STEPS.value)
    with tqdm(desc="compiling", total=total, bar_format="{desc}{bar} {n}/{total} steps, {elapsed}") as bar:

        def progress(step) -> None:
            bar.set_description(step.stage, refresh=False)
            bar.update()

        options = {
            "negative_prompt": NEGATIVE_PROMPT.value,
            "num_steps": NUM_STEPS.value,
            "superres_steps": SUPERRES_STEPS.value,
            "guidance_scale": GUIDANCE_SCALE.value,
            "temperature": TEMPERATURE.value,
            "choice_temperature": CHOICE_TEMPERATURE.value,
            "order": ORDER.value,
        }
        images = pipe.generate(prompts, seed=SEED.value, progress=progress, **options)
    if len(prompts) == 1:
        picture = pictures.Image.fromarray(images[0])
    elif DEMO_FLAG.value:
        marked = [f"{prompt}{' *' * unseen}" for prompt, unseen in DEMO]
        picture = pictures.captioned_grid(images, marked, GRID.value, LEGEND)
    else:
        picture = pictures.captioned_grid(images, prompts, GRID.value)
    pictures.save_picture(picture, out)
    print(f"Written to {out}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["out"])
    apps.run(main, stopped="Stopped; nothing was written.")

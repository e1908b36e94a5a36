r"""Generates images and videos from prompts, and from images and videos.

python -m experiments.generate --prompt="a noto emoji of a red heart" --out=heart.png
python -m experiments.generate --prompt="a noto emoji of a cat face" --prompt="..." --grid=2 --out=grid.png
python -m experiments.generate --demo --out=images/demo.png

python -m experiments.generate --prompt="a red heart" --model=DIR --num_samples=4 --out=four.png \
    --sampling=num_candidates=16,temperature=0.8
python -m experiments.generate --model=motion --prompt="a heart moving left" --out=heart.mp4
python -m experiments.generate --model=motion --task=predict --image=first.png --out=clip.gif
python -m experiments.generate --task=inpaint --image=dog.png --mask=mask.png --prompt="a dog" --out=new.png
python -m experiments.generate --demo --model=DIR --mesh=data=2,fsdp=4 --dtype=bfloat16 --out=demo.png

The system of the checkpoint determines the tasks and the sampling parameters. A single image is written
without a caption; several are written as a grid with captions. If --out ends in .gif or .mp4, video models
generate videos, which are written side by side; .mp4 needs the extra "mp4". With --mesh the weights are
distributed over all devices, including those of other hosts if the command runs on each of them
(docs/launch.md); the images do not change.
"""

from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import apps, image_grid
from experiments.demo import DEMO, LEGEND

PROMPT = flags.DEFINE_multi_string("prompt", [], "A prompt; repeat it for several images.")
DEMO_FLAG = flags.DEFINE_bool("demo", False, "Use the eight prompts of `make demo`.")
MODEL = flags.DEFINE_string("model", "icons", "A packaged checkpoint, a pretrained directory or a run.")
OUT = flags.DEFINE_string("out", None, "File to write, such as heart.png or heart.mp4.", required=True)
TASK = flags.DEFINE_string(
    "task", "", "A method of the pipeline, such as inpaint; by default text to images."
)
IMAGE = flags.DEFINE_multi_string("image", [], "An image or GIF that the task reads; repeat it for several.")
MASK = flags.DEFINE_string("mask", "", "An image that is white where the task redraws.")
NEGATIVE_PROMPT = flags.DEFINE_string("negative_prompt", None, "Text to guide away from.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "Images of each prompt.", lower_bound=1)
SAMPLING = flags.DEFINE_string(
    "sampling",
    "",
    "Sampling parameters such as num_steps=24,guidance_scale=2.5; by default those of the checkpoint.",
)
MESH = flags.DEFINE_string(
    "mesh", "", "Devices along each axis, such as data=2,fsdp=2,tensor=2; one device by default."
)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of weights and computation.")
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
GRID = flags.DEFINE_integer("grid", 0, "Number of columns; 0: up to four.", lower_bound=0)


def main() -> None:
    """Checks the flags, generates and writes."""
    if DEMO_FLAG.value and PROMPT.value or not (TASK.value or DEMO_FLAG.value or PROMPT.value):
        raise ValueError('Give either --prompt="..." (once or several times) or --demo.')
    prompts = [prompt for prompt, _ in DEMO] if DEMO_FLAG.value else list(PROMPT.value)
    out = image_grid.check_output(OUT.value, video=True)
    import jax
    import jax.numpy as jnp

    from experiments.pipeline_tasks import choose_task, task_inputs
    from muse_jax import load_pipeline
    from muse_jax.media.video import Video
    from muse_jax.sharding import distributed

    distributed.initialize()
    main_process = jax.process_index() == 0
    if main_process:
        print(f"Loading the checkpoint {MODEL.value} ...", flush=True)
    pipe = load_pipeline(MODEL.value, mesh=apps.parse_mesh(MESH.value), dtype=getattr(jnp, DTYPE.value))
    task, video = choose_task(pipe, TASK.value, out)
    inputs = task_inputs(pipe, task, prompts, IMAGE.value, MASK.value, video)
    draw = getattr(pipe, task)
    options: dict[str, Any] = {"num_samples": NUM_SAMPLES.value} if NUM_SAMPLES.value is not None else {}
    if NEGATIVE_PROMPT.value is not None:
        if "negative_prompt" not in apps.taken({"negative_prompt": ""}, draw):
            raise ValueError(
                f"--negative_prompt is given, but {task} of the {type(pipe).__name__} of {MODEL.value} does "
                "not use one: leave it out."
            )
        options["negative_prompt"] = NEGATIVE_PROMPT.value
    sampling = apps.parse_options(SAMPLING.value)
    total = pipe.count_steps(**sampling) if task == "generate" else 1
    bar_format = "{desc}{bar} {n}/{total} steps, {elapsed}"
    with tqdm(desc="compiling", total=total, bar_format=bar_format, disable=not main_process) as bar:

        def progress(step) -> None:
            bar.total = max(bar.total, bar.n + step.num_steps - step.step + 1)
            bar.set_description(step.stage, refresh=False)
            bar.update()

        images = draw(**inputs, seed=SEED.value, progress=progress, **options, **sampling)
    if not main_process:
        return
    if video:
        image_grid.save_image(Video(images.reshape(-1, *images.shape[-4:]), pipe.fps), out)
        print(f"Written to {out}")
        return
    captions = [f"{prompt}{' *' * unseen}" for prompt, unseen in DEMO] if DEMO_FLAG.value else prompts
    captions = captions or IMAGE.value
    if NUM_SAMPLES.value is not None:
        captions = [caption for caption in captions for _ in range(NUM_SAMPLES.value)]
        images = images.reshape(-1, *images.shape[2:])
    if len(images) == 1:
        image = image_grid.Image.fromarray(images[0])
    else:
        image = image_grid.captioned_grid(images, captions, GRID.value, LEGEND if DEMO_FLAG.value else "")
    image_grid.save_image(image, out)
    print(f"Written to {out}")


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; nothing was written.")

"""What stands for weights that are not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs.muse import base_3b
from configs.smoke import vqgan
from experiments.planning.programs import planned, trace_embed, trace_generate
from muse_jax import load_pipeline
from muse_jax.checkpointing.source import open_source
from muse_jax.sharding.partitioning import on_mesh, one_device_mesh
from muse_jax.text import load_text_encoder
from muse_jax.training import validate_config
from tests.systems.cogview2.test_tasks import MODEL as COGLM
from tests.systems.conftest import coglm_config, image_folder, save_untrained, tiny_config, tokenizer  # noqa: F401
from tests.systems.muse.test_tasks import base_config


def test_t5_xxl_has_its_published_size_and_names_its_axes():
    encoder = load_text_encoder("shapes:t5-v1_1-xxl", dtype=jnp.bfloat16)
    leaves = jax.tree.leaves(encoder.params)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == jnp.bfloat16 for leaf in leaves)
    layer = 4 * 4096 * 64 * 64 + 3 * 4096 * 10240 + 2 * 4096
    assert sum(leaf.size for leaf in leaves) == 24 * layer + 32128 * 4096 + 32 * 64 + 4096 == 4_762_310_656
    boxed = encoder.boxed_shapes()
    assert boxed["layers"]["mlp"]["wi_0"]["kernel"].names == ("layers", "embed", "mlp")
    assert jax.tree.structure(nn.unbox(boxed)) == jax.tree.structure(encoder.params)


def test_shapes_of_minilm_are_those_of_its_weights():
    described, real = load_text_encoder("shapes:minilm"), load_text_encoder("minilm")
    shapes = [jax.tree.map(np.shape, encoder.params) for encoder in (described, real)]
    assert shapes[0] == shapes[1]
    assert (described.dim, described.max_length) == (real.dim, real.max_length)
    with pytest.raises(ValueError, match="reads no text"):
        described.tokenize(["a red heart"])


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="sizes of the text encoder 'my-t5' are not known"):
        load_text_encoder("shapes:my-t5")


def test_a_tokenizer_that_is_not_trained_is_described_by_the_config_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no runs here
    config = validate_config(base_3b.get_config())
    asked = []

    def find_config(name):
        asked.append(name)
        return vqgan.get_config()

    with planned(config, find_config) as described:
        module = open_source(described.tokenizer).tokenizer().module
    assert asked == ["vqgan_f16_256"] and module.downsampling == 4 and module.codebook_size == 16
    assert described.data.text_encoder == "shapes:t5-v1_1-xxl"
    assert config.tokenizer == "runs/vqgan_f16_256"
    nothing = planned(config, lambda name: None)
    with nothing as described, pytest.raises(ValueError, match="which is not a run or a checkpoint"):
        open_source(described.tokenizer, "config.tokenizer")


def test_a_plan_of_generating_is_of_the_program_that_the_pipeline_runs(
    image_folder,  # noqa: F811
    tokenizer,  # noqa: F811
    tmp_path,
):
    config = base_config(image_folder, tokenizer)
    save_untrained(config, tmp_path / "base")
    mesh = one_device_mesh()
    with planned(validate_config(config), lambda name: None) as described:
        program = trace_generate(described, None, mesh).lower().as_text()
    with on_mesh(mesh):
        run = load_pipeline(tmp_path / "base").trace_generate(config.data.batch_size).lower().as_text()
    assert run == program and len(program) > 10_000


def test_cogview2s_program_is_traced_without_weights_or_pieces(coglm_config):  # noqa: F811
    config = coglm_config.copy_and_resolve_references()
    config.model = COGLM
    config.text_pieces = "nowhere.model"
    config.sampling.top_clusters = 4
    with planned(validate_config(config), lambda name: None) as described:
        traced = trace_generate(described, None, one_device_mesh())
    assert traced.flops > 0 and traced.parameters > 1000
    assert traced.lower().as_text().startswith("module @jit_generate")


def test_embedding_costs_what_inception_is_known_to_cost():
    """5.71 billion multiply-adds an image of 299 px, as torchvision states."""
    config = validate_config(base_3b.get_config())
    traced = trace_embed(config, None, one_device_mesh())
    size, batch = config.data.image_size, config.data.batch_size
    resizing, moments = 3 * 299 * size * (size + 299), 2048**2
    assert traced.flops / batch == pytest.approx(2 * (5.71e9 + resizing + moments), rel=0.01)
    assert traced.frozen == pytest.approx(23.8e6, rel=0.01) and traced.parameters == 0


def test_a_config_that_no_pipeline_starts_from_is_refused(image_folder):  # noqa: F811
    config = validate_config(tiny_config("vqgan", image_folder))
    with pytest.raises(ValueError, match="system is 'vqgan', which has no pipeline"):
        trace_generate(config, None, one_device_mesh())

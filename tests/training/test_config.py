"""Configs: defaults, one-sentence refusals, the copy in the workdir."""

import pytest

from muse_jax.sampling.params import CogLMDecoding, Decoding
from muse_jax.training import check_keys, default_config, validate_config
from muse_jax.training.config import check_same_run, load_config, save_config


def test_missing_keys_get_their_defaults_and_given_ones_stay():
    config = validate_config({"task": "vqgan", "optim": {"lr": 1}, "model": {"multipliers": (1, 2)}})
    assert config.optim.lr == 1 and config.optim.b2 == default_config().optim.b2
    assert config.model.multipliers == (1, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim": {"weigth_decay": 0.1}}, "'optim.weigth_decay': did you mean optim.weight_decay?"),
        ({"totl_steps": 3}, "'totl_steps': did you mean total_steps?"),
        ({"data": {"batchsize": 3}}, "did you mean data.batch_size?"),
        ({"mesh": {"zzz": 3}}, "allowed here are data, fsdp, slices, tensor."),
        ({"optim": 3}, "'optim' is 3, but it must be a section"),
        ({"optim": {"lr": "fast"}}, "'optim.lr' is 'fast' (str), but it must be of type float"),
        ({"total_steps": 1.5}, "'total_steps' is 1.5 (float), but it must be of type int"),
        ({"total_steps": True}, "must be of type int"),
        ({"data": {"data_dir": 4}}, "'data.data_dir' is 4 (int), but it must be of type str"),
        ({"task": "vqgann"}, "did you mean 'vqgan'?"),
        ({"optim": {"name": "sgd"}}, "one of adamw, adam, adafactor"),
        ({"optim": {"ema": 1.5}}, "'optim.ema' is 1.5, but it must be between 0 and 1."),
        ({"keep_checkpoints": 0}, "must be at least 1."),
        (
            {"profile_steps": (15, 10)},
            "the first and the last step to trace, between 1 and total_steps=10000",
        ),
        ({"profile_steps": (10,)}, "'profile_steps' is (10,), but it must be the first and the last"),
        ({"profile_steps": ("a", 2)}, "--config.profile_steps=10,15, for instance."),
        ({"profile_steps": 10}, "'profile_steps' is 10 (int), but it must be of type tuple"),
        ({"optim": {"rollback_after": -1}}, "'optim.rollback_after' is -1, but it must be at least 0."),
        ({"decoding": {"order": "haltn"}}, "order must be one of confidence, halton, given 'haltn'."),
        (
            {"decoding": {"num_steps": 0}},
            "section 'decoding', num_steps must be a whole number of at least 1",
        ),
        ({"task": "coglm", "sampling": {"keep": 9}}, "section 'sampling', keep is 9, but only 8 candidates"),
        ({"data": {"image_size": -5}}, "'data.image_size' is -5, but it must be at least 1."),
        ({"data": {"workers": -1}}, "'data.workers' is -1, but it must be at least 0."),
        ({"data": {"superres_factor": 1}}, "'data.superres_factor' is 1, but it must be at least 2."),
        ({"optim": {"eps": -1.0}}, "'optim.eps' is -1.0, but it must be at least 0."),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError) as error:
        validate_config(given)
    assert message in str(error.value)
    assert "\n" not in str(error.value) and str(error.value)[-1] in ".?"


@pytest.mark.parametrize(
    ("given", "key", "choice"),
    [
        ({"optim": {"name": "adam", "weight_decay": 0.1}}, "optim.weight_decay", "optim.name='adam'"),
        ({"optim": {"name": "adafactor", "b2": 0.1}}, "optim.b2", "optim.name='adafactor'"),
        ({"optim": {"name": "adafactor", "eps": 0.5}}, "optim.eps", "optim.name='adafactor'"),
        ({"optim": {"name": "muon", "eps": 0.5}}, "optim.eps", "optim.name='muon'"),
        ({"task": "vqgan", "data": {"features": "x"}}, "data.features", "task='vqgan'"),
        ({"task": "vqgan", "tokenizer": "x"}, "tokenizer", "task='vqgan'"),
        ({"task": "vqgan", "decoding": {"num_steps": 9}}, "decoding", "task='vqgan'"),
        ({"task": "base", "discriminator": {"filters": 9}}, "discriminator", "task='base'"),
        ({"task": "base", "data": {"superres_factor": 3}}, "data.superres_factor", "task='base'"),
        ({"task": "base", "sampling": {"top_k": 9}}, "sampling.top_k", "task='base'"),
        ({"task": "coglm", "data": {"text_encoder": "t5:x"}}, "data.text_encoder", "task='coglm'"),
        *(
            ({"task": "iterative_superres", "sampling": {key: value}}, f"sampling.{key}", "iterative")
            for key, value in (("top_k", 9), ("top_p", 0.5), ("top_clusters", 9), ("inner_temperature", 0.5))
        ),
        ({"task": "direct_superres", "sampling": {"text_weight": 0.5}}, "sampling.text_weight", "direct"),
    ],
)
def test_a_value_that_nothing_reads_is_refused(given, key, choice):
    with pytest.raises(ValueError, match=f"Config key '{key}' is .* does nothing with .*{choice}"):
        validate_config(given)


def test_options_that_are_read_are_accepted():
    validate_config({"optim": {"name": "adafactor", "b1": 0.5, "weight_decay": 0.1}})
    validate_config({"task": "coglm", "sampling": {"text_weight": 0.5, "candidates": 2, "top_k": 3}})
    validate_config({"task": "iterative_superres", "sampling": {"temperature": 0.5}})
    validate_config({"task": "direct_superres", "sampling": {"top_clusters": 9, "inner_temperature": 0.5}})


def test_the_defaults_of_sampling_are_those_of_its_settings():
    config = default_config()
    assert Decoding(**config.decoding.to_dict()) == Decoding()
    assert CogLMDecoding(**config.sampling.to_dict()) == CogLMDecoding()


def test_a_stored_config_loses_what_its_run_did_not_read(tmp_path):
    """Earlier versions stored other defaults for it, which a later check refuses."""
    stored = {**default_config().to_dict(), "task": "vqgan"}
    stored["sampling"] = {"temperature": 1.0, "top_k": 0, "text_weight": 0.0}
    save_config(tmp_path, stored)
    validate_config(load_config(tmp_path))
    stored |= {"task": "coglm"}
    save_config(tmp_path, stored)
    assert validate_config(load_config(tmp_path)).sampling.text_weight == 0.0


def test_a_checkpoint_s_directory_is_no_workdir(tmp_path):
    (tmp_path / "config.json").write_text('{"format": 1, "system": "muse"}')
    with pytest.raises(ValueError, match="holds a pipeline's checkpoint, not a run: take another directory"):
        check_same_run(tmp_path, validate_config({}))


def test_check_keys_serves_a_tasks_own_section():
    check_keys("model", ["width"], ["width", "depth"])
    with pytest.raises(ValueError, match=r"'model.wdith': did you mean model.width\?"):
        check_keys("model", ["wdith"], ["width", "depth"])


def test_another_model_in_the_same_workdir_is_refused(tmp_path):
    config = validate_config({"task": "vqgan", "model": {"filters": 8, "multipliers": (1, 2)}})
    check_same_run(tmp_path, config)
    save_config(tmp_path, config)
    assert list(load_config(tmp_path).model.multipliers) == [1, 2]
    check_same_run(tmp_path, config)
    check_same_run(tmp_path, validate_config({**config.to_dict(), "total_steps": 3, "log_every": 7}))
    # How the network is computed may change; so may keys that an older version did not write.
    other = {"filters": 8, "multipliers": (1, 2), "dtype": "bfloat16"}
    check_same_run(tmp_path, validate_config({"task": "vqgan", "model": other}))
    older = {key: value for key, value in config.to_dict().items() if key != "superres_tokenizer"}
    save_config(tmp_path, older)
    check_same_run(tmp_path, config)
    with pytest.raises(
        ValueError, match=r"model.filters = 8, but this config has 16: take another --workdir"
    ):
        check_same_run(
            tmp_path, validate_config({"task": "vqgan", "model": {"filters": 16, "multipliers": (1, 2)}})
        )
    with pytest.raises(ValueError, match="optim.name = 'adamw', but this config has 'adam'"):
        check_same_run(tmp_path, validate_config({**config.to_dict(), "optim": {"name": "adam"}}))


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run's workdir"):
        load_config(tmp_path)


def test_a_window_of_steps_survives_the_copy_in_the_workdir(tmp_path):
    config = validate_config({"profile_steps": (2, 3)})
    save_config(tmp_path, config)
    assert tuple(load_config(tmp_path).profile_steps) == (2, 3)

"""Configs: defaults, one-sentence refusals, the copy in the workdir."""

import pytest

from muse_jax.checkpointing.run_config import load_config, save_config, save_tokenizer_hashes
from muse_jax.training import check_keys, default_config, validate_config
from muse_jax.training.config import check_same_run

SYSTEMS = {"vqgan": "vqgan", "vqgann": "vqgan", "coglm": "cogview2"}
SYSTEMS |= dict.fromkeys(("direct_superres", "iterative_superres"), "cogview2")


def validate(given):
    """The complete config of a task, Muse's base by default."""
    given = {"task": "base", **given}
    return validate_config({"system": SYSTEMS.get(given["task"], "muse"), **given})


def test_missing_keys_get_their_defaults_and_given_ones_stay():
    config = validate({"task": "vqgan", "optim": {"lr": 1}, "model": {"multipliers": (1, 2)}})
    assert config.optim.lr == 1 and config.optim.b2 == default_config("vqgan", "vqgan").optim.b2
    assert config.model.multipliers == (1, 2)


@pytest.mark.parametrize(
    "given, message",
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
        ({"sampling": {"order": "haltn"}}, "order must be one of confidence, halton, given 'haltn'."),
        (
            {"sampling": {"num_steps": 0}},
            "section 'sampling', num_steps must be a whole number of at least 1",
        ),
        ({"task": "coglm", "sampling": {"top_k": -1}}, "section 'sampling', top_k must be a whole number"),
        ({"task": "coglm", "sampling": {"order": "x"}}, "sampling has the unknown key 'order'"),
        ({"system": "mose"}, "There is no system 'mose'; did you mean 'muse'?"),
        ({"system": ""}, "The config names no system: set config.system to one of"),
        ({"system": "json.tool"}, "The module json.tool defines no SYSTEM"),
        ({"task": "vqgan", "tokenizer": "x"}, "Unknown config key 'tokenizer'"),
        ({"task": "vqgan", "sampling": {"num_steps": 9}}, "Unknown config key 'sampling'"),
        ({"task": "vqgan", "data": {"features": "x"}}, "Unknown config key 'data.features'"),
        ({"discriminator": {"filters": 9}}, "Unknown config key 'discriminator'"),
        ({"task": "base", "data": {"superres_factor": 3}}, "Unknown config key 'data.superres_factor'"),
        ({"task": "coglm", "data": {"text_encoder": "t5:x"}}, "Unknown config key 'data.text_encoder'"),
        ({"data": {"image_size": -5}}, "'data.image_size' is -5, but it must be at least 1."),
        ({"data": {"workers": -1}}, "'data.workers' is -1, but it must be at least 0."),
        (
            {"task": "superres", "data": {"superres_factor": 1}},
            "'data.superres_factor' is 1, but it must be at least 2.",
        ),
        ({"optim": {"eps": -1.0}}, "'optim.eps' is -1.0, but it must be at least 0."),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError) as error:
        validate(given)
    assert message in str(error.value)
    assert "\n" not in str(error.value) and str(error.value)[-1] in ".?"


@pytest.mark.parametrize(
    "given, key, choice",
    [
        ({"optim": {"name": "adam", "weight_decay": 0.1}}, "optim.weight_decay", "optim.name='adam'"),
        ({"optim": {"name": "adafactor", "b2": 0.1}}, "optim.b2", "optim.name='adafactor'"),
        ({"optim": {"name": "adafactor", "eps": 0.5}}, "optim.eps", "optim.name='adafactor'"),
        ({"optim": {"name": "muon", "eps": 0.5}}, "optim.eps", "optim.name='muon'"),
    ],
)
def test_a_value_that_nothing_reads_is_refused(given, key, choice):
    with pytest.raises(ValueError, match=f"Config key '{key}' is .* does nothing with .*{choice}"):
        validate(given)


def test_options_that_are_read_are_accepted():
    validate({"optim": {"name": "adafactor", "b1": 0.5, "weight_decay": 0.1}})
    validate({"task": "coglm", "sampling": {"text_weight": 0.5, "num_candidates": 2, "top_k": 3}})
    validate({"task": "iterative_superres", "sampling": {"temperature": 0.5}})
    validate({"task": "direct_superres", "sampling": {"top_clusters": 9, "inner_temperature": 0.5}})


def test_a_checkpoint_s_directory_is_no_workdir(tmp_path):
    (tmp_path / "config.json").write_text('{"format": 1, "system": "muse"}')
    with pytest.raises(ValueError, match="is not a run's workdir"):
        load_config(tmp_path)


def test_check_keys_serves_a_tasks_own_section():
    check_keys("model", ["width"], ["width", "depth"])
    with pytest.raises(ValueError, match=r"'model.wdith': did you mean model.width\?"):
        check_keys("model", ["wdith"], ["width", "depth"])


def test_another_model_in_the_same_workdir_is_refused(tmp_path):
    config = validate({"task": "vqgan", "model": {"filters": 8, "multipliers": (1, 2)}})
    check_same_run(tmp_path, config)
    save_config(tmp_path, config)
    assert list(load_config(tmp_path).model.multipliers) == [1, 2]
    check_same_run(tmp_path, config)
    check_same_run(tmp_path, validate_config({**config.to_dict(), "total_steps": 3, "log_every": 7}))
    # How the network is computed may change; so may keys that an older version did not write.
    other = {"filters": 8, "multipliers": (1, 2), "dtype": "bfloat16"}
    check_same_run(tmp_path, validate({"task": "vqgan", "model": other}))
    older = {key: value for key, value in config.to_dict().items() if key != "discriminator"}
    save_config(tmp_path, older)
    check_same_run(tmp_path, config)
    with pytest.raises(ValueError, match=r"model.filters = 8, but this config has 16: use another --workdir"):
        check_same_run(tmp_path, validate({"task": "vqgan", "model": {"filters": 16, "multipliers": (1, 2)}}))
    with pytest.raises(ValueError, match="optim.name = 'adamw', but this config has 'adam'"):
        check_same_run(tmp_path, validate_config({**config.to_dict(), "optim": {"name": "adam"}}))


def test_another_tokenizer_in_the_same_workdir_is_refused(tmp_path):
    config = validate_config({"system": "muse", "task": "base", "tokenizer": "runs/vqgan"})
    save_config(tmp_path, config)
    check_same_run(tmp_path, config, {"tokenizer": "abc"})  # a run of an earlier version has recorded none
    save_tokenizer_hashes(tmp_path, {"tokenizer": "abc"})
    check_same_run(tmp_path, config, {"tokenizer": "abc"})
    with pytest.raises(ValueError, match="config.tokenizer had another content than 'runs/vqgan' has now"):
        check_same_run(tmp_path, config, {"tokenizer": "abd"})


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run's workdir"):
        load_config(tmp_path)


def test_a_window_of_steps_survives_the_copy_in_the_workdir(tmp_path):
    config = validate({"profile_steps": (2, 3)})
    save_config(tmp_path, config)
    assert tuple(load_config(tmp_path).profile_steps) == (2, 3)

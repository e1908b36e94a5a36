"""The files are written here by hand, opcode by opcode where need be: PyTorch is not a test requirement."""

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from muse_jax.interop.torch_pickle import load_torch


class Global:
    """Pickles as a reference to `module.name`, which need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as the call of a `Global`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


class Storage:
    def __init__(self, key, values, kind="FloatStorage"):
        self.key, self.values, self.kind = key, values, kind


class Writer(pickle._Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", Global("torch", obj.kind), obj.key, "cpu", len(obj.values))
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(tuple(obj.args))
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def dump(obj, legacy):
    """`obj` as a pickle of the torch dialect; the legacy form gives each storage a fifth, empty field."""
    stream = io.BytesIO()
    writer = Writer(stream, protocol=2)
    if legacy:
        plain = writer.persistent_id
        writer.persistent_id = lambda o: (*plain(o), None) if isinstance(o, Storage) else None
    writer.dump(obj)
    return stream.getvalue()


def tensor(storage, size, stride, offset=0):
    hooks = Call(Global("collections", "OrderedDict"))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, hooks)


def write_legacy(path, obj, storages):
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)]
    parts += [pickle.dumps({"little_endian": True, "protocol_version": 1001}, 2), dump(obj, legacy=True)]
    parts.append(pickle.dumps([s.key for s in storages], 2))
    for storage in storages:
        parts += [struct.pack("<q", len(storage.values)), storage.values.tobytes()]
    path.write_bytes(b"".join(parts))


def write_zip(path, obj, storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", dump(obj, legacy=False))
        archive.writestr("model/byteorder", "little")
        for storage in storages:
            archive.writestr(f"model/data/{storage.key}", storage.values.tobytes())


@pytest.fixture(params=[write_legacy, write_zip])
def write(request, tmp_path):
    def writer(obj, storages=()):
        path = tmp_path / "model.pth"
        request.param(path, obj, list(storages))
        return path

    return writer


def test_tensors_have_their_strides_offsets_and_types(write):
    floats = Storage("11", np.arange(12, dtype=np.float32))
    ints = Storage("12", np.array([3, -4], np.int64), "LongStorage")
    halves = Storage("13", np.array([1.5, -2], ml_dtypes.bfloat16), "BFloat16Storage")
    obj = {
        "transposed": tensor(floats, (4, 2), (1, 4), offset=4),
        "shared": Call(Global("torch._utils", "_rebuild_parameter"), tensor(floats, (3,), (2,)), True, None),
        "scalar": tensor(ints, (), (), offset=1),
        "half": tensor(halves, (2,), (1,)),
        "empty": tensor(ints, (0, 3), (3, 1)),
        "epoch": 7,
    }
    loaded = load_torch(write(obj, [floats, ints, halves]))
    np.testing.assert_array_equal(loaded["transposed"], floats.values[4:].reshape(2, 4).T)
    np.testing.assert_array_equal(loaded["shared"], [0, 2, 4])
    assert loaded["scalar"] == -4 and loaded["scalar"].dtype == np.int64
    np.testing.assert_array_equal(loaded["half"].astype(np.float32), [1.5, -2])
    assert loaded["empty"].shape == (0, 3) and loaded["epoch"] == 7


@pytest.mark.parametrize(
    "module, name",
    [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch", "load"), ("numpy", "fromfile")],
)
def test_a_program_is_refused_before_it_runs(write, tmp_path, module, name):
    proof = tmp_path / "proof"
    path = write({"weight": Call(Global(module, name), f"touch {proof}")})
    with pytest.raises(ValueError, match=f"refers to {module}.{name}"):
        load_torch(path)
    assert not proof.exists()


def test_the_same_program_runs_under_plain_pickle(tmp_path):
    """The attack works without the restrictions, so that the test above means something."""
    proof = tmp_path / "proof"
    pickle.loads(dump(Call(Global("os", "mkdir"), str(proof)), legacy=False))
    assert proof.exists()


def test_a_program_in_the_legacy_header_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(dump(Call(Global("os", "mkdir"), str(tmp_path / "proof")), legacy=True))
    with pytest.raises(ValueError, match="refers to os.mkdir"):
        load_torch(path)
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize(
    "size, stride, offset",
    [
        ((5,), (1,), 0),
        ((2, 2), (4, 1), 0),
        ((2,), (1,), 3),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((2,), (1, 1), 0),
    ],
)
def test_views_outside_their_storage_are_refused(write, size, stride, offset):
    storage = Storage("1", np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="tensor of"):
        load_torch(write({"w": tensor(storage, size, stride, offset)}, [storage]))


def test_truncated_and_other_files_are_refused(write, tmp_path):
    storage = Storage("1", np.zeros(64, np.float32))
    whole = write({"w": tensor(storage, (64,), (1,))}, [storage]).read_bytes()
    path = tmp_path / "damaged.pth"
    for content in (whole[: len(whole) // 2], whole[:-8], b"", b"an image, perhaps", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged.pth"):
            load_torch(path)


def test_a_storage_larger_than_the_file_is_refused(tmp_path):
    storage = Storage("1", range(2**40))
    path = tmp_path / "model.pth"
    path.write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        + pickle.dumps(1001, 2)
        + pickle.dumps({}, 2)
        + dump(tensor(storage, (1,), (1,)), legacy=True)
    )
    with pytest.raises(ValueError, match="more than the file holds"):
        load_torch(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_files_written_by_torch_are_read(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    state["bf16"] = torch.randn(3, 2).to(torch.bfloat16).T
    torch.save(state, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_torch(tmp_path / "m.pt")
    assert isinstance(loaded, collections.OrderedDict) and list(loaded) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(loaded[name].astype(np.float64), value.double().numpy())


def test_torch_is_never_imported():
    code = (
        "import sys; from muse_jax.interop.efficientnet_lite import load_efficientnet_lite0 as load;"
        "load(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""Holds reshard's torch files against PyTorch itself.

torch_file_check.py written DIR             loads what `torch_sample write DIR` wrote
torch_file_check.py read PROGRAM FILE...    compares `PROGRAM index FILE` with torch.load
"""

import argparse
import inspect
import json
import math
import os
import pickle
import subprocess
import sys
import types
import zipfile

import torch

try:
    from torch.utils.serialization import config as loading
except ImportError:
    loading = None

CLASSIC = "float32 float64 float16 bfloat16 bool uint8 int8 int16 int32 int64 complex64 complex128"
RECENT = ("float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu "
          "uint16 uint32 uint64")
HAS_WEIGHTS_ONLY = "weights_only" in inspect.signature(torch.load).parameters


def raw(tensor):
    """The bytes of a tensor's elements in row-major order."""
    flat = tensor.detach().contiguous().reshape(-1).clone()
    storage = flat.untyped_storage() if hasattr(flat, "untyped_storage") else flat.storage().untyped()
    return bytes(storage.tolist())[:flat.numel() * flat.element_size()]


def expected(index, dtype, size):
    modulus = 2 if dtype == torch.bool else 251
    return bytes((31 * index + 7 * j) % modulus for j in range(size))


def load(path, weights_only=False, pickle_module=pickle):
    if weights_only:
        return torch.load(path, map_location="cpu", weights_only=True)
    keywords = {"weights_only": False} if HAS_WEIGHTS_ONLY else {}
    return torch.load(path, map_location="cpu", pickle_module=pickle_module, **keywords)


def check_crcs(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None, f"{path}: wrong CRC"


def check_state_dict(path, dtypes):
    check_crcs(path)
    names = [f"layers.{name}" for name in dtypes.split()] + ["empty", "scalar"]
    shapes = [(3, 5)] * len(dtypes.split()) + [(0, 4), ()]
    states = [load(path, weights_only=True), load(path)]
    if HAS_WEIGHTS_ONLY and "mmap" in inspect.signature(torch.load).parameters:
        states.append(torch.load(path, mmap=True))
    if loading is not None:
        # torch predicts where its own writer would have put each storage
        loading.load.calculate_storage_offsets = True
        states += [torch.load(path), torch.load(path, mmap=True)]
        loading.load.calculate_storage_offsets = False
    for state in states:
        assert list(state) == names, list(state)
        for index, (name, shape) in enumerate(zip(names, shapes)):
            tensor = state[name]
            dtype = getattr(torch, name.split(".")[1]) if "." in name else torch.float32
            assert tensor.dtype == dtype and tuple(tensor.shape) == shape, name
            assert raw(tensor) == expected(index, dtype, tensor.numel() * tensor.element_size()), name


def check_megatron(path):
    check_crcs(path)
    value = load(path)
    args = value["args"]
    assert isinstance(args, argparse.Namespace)
    assert vars(args) == {"num_layers": 2, "lr": 0.5, "name": "gpt2 µ", "flag": True,
                          "nothing": None, "params_dtype": torch.bfloat16}
    assert value["checkpoint_version"] == 3.0 and isinstance(value["checkpoint_version"], float)
    assert value["iteration"] == 100000
    assert value["numbers"] == [0, 255, 256, 65535, 65536, -1, -2**31, 2**31, 2**64 - 1, -2**128,
                                math.inf, -math.inf]
    assert value["tuples"] == [tuple(range(1, n + 1)) for n in range(5)]
    assert value["set"] == {1, "two"}
    assert value["bytes"] == [b"", b"\x00\xff\x80"]
    assert value["by_number"] == {0: "zero", 1: "one"}
    weight = value["model"]["decoder.weight"]
    assert weight.dtype == torch.bfloat16 and raw(weight) == expected(0, torch.bfloat16, 64)
    assert value["model"]["tied"].data_ptr() == weight.data_ptr()
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals([argparse.Namespace]):
            load(path, weights_only=True)


class Unknown(type):
    """Stands for any class that is not installed, and for its members."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return (cls, name)


def unknown_class(module, name):
    def new(cls, *args, **kwargs):
        made = object.__new__(cls)
        made.args = args
        return made

    return Unknown(name, (), {"__module__": module, "__new__": new, "__init__": lambda *a, **k: None})


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return unknown_class(module, name)


def key_name(key):
    if isinstance(key, tuple):
        return "(" + ",".join(map(key_name, key)) + ")"
    return key if isinstance(key, str) else str(key)


def walk(value, name, found):
    """Tensors below a value by the names that reshard gives them."""
    join = (lambda key: f"{name}.{key}") if name else key_name
    if isinstance(value, torch.Tensor):
        found[name] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            walk(item, join(key_name(key)), found)
    elif isinstance(value, (list, tuple, set)):
        for i, item in enumerate(value):
            walk(item, join(str(i)), found)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        attributes = dict(vars(value))
        walk(attributes.pop("args", ()) if isinstance(type(value), Unknown) else (), name, found)
        walk(attributes, name, found)


def check_read(program, paths):
    unpickler = types.ModuleType("unpickler")
    unpickler.Unpickler = Unpickler
    unpickler.load = lambda file, **keywords: Unpickler(file, **keywords).load()
    lines = subprocess.run([program, "index", *paths], check=True, stdout=subprocess.PIPE)
    tensors = 0
    for path, line in zip(paths, lines.stdout.decode().splitlines()):
        index = json.loads(line)
        found = {}
        walk(load(path, pickle_module=unpickler), "", found)
        assert sorted(found) == sorted(t["name"] for t in index["tensors"]), path
        with open(path, "rb") as file:
            content = file.read()
        for entry in index["tensors"]:
            tensor = found[entry["name"]]
            dtype = getattr(torch, entry["dtype"])
            assert tensor.dtype == dtype and list(tensor.shape) == entry["shape"], entry
            width = tensor.element_size()
            strides = entry["strides"]
            if not strides:
                size = tensor.numel() * width
                assert content[entry["offset"]:entry["offset"] + size] == raw(tensor), entry
                continue
            assert list(tensor.stride()) == strides, entry
            flat = raw(tensor)
            for i, position in enumerate(positions(entry["shape"], strides)):
                begin = entry["offset"] + position * width
                assert content[begin:begin + width] == flat[i * width:(i + 1) * width], entry
        tensors += len(found)
    print(f"{len(paths)} files, {tensors} tensors as torch {torch.__version__} reads them")


def positions(shape, strides):
    """Element positions of a strided tensor in row-major order."""
    result = [0]
    for extent, stride in zip(shape, strides):
        result = [p + i * stride for p in result for i in range(extent)]
    return result


def main():
    if sys.argv[1] == "read":
        return check_read(sys.argv[2], sys.argv[3:])
    folder = sys.argv[2]
    check_state_dict(os.path.join(folder, "classic.pt"), CLASSIC)
    check_megatron(os.path.join(folder, "model_optim_rng.pt"))
    if hasattr(torch, "float8_e8m0fnu"):
        check_state_dict(os.path.join(folder, "recent.pt"), RECENT)
    print(f"written files load in torch {torch.__version__}")


main()

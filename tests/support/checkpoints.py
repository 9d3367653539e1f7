"""Reads what tests compare: torch files with classes this machine does not have, and safetensors folders."""

import json
import pathlib
import pickle

import torch


class Opaque:
    """Stands for any object whose class cannot be imported; keeps its attributes, runs nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        if isinstance(state, dict):
            self.__dict__.update(state)


class _TolerantUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if module.split(".")[0] in ("torch", "collections", "argparse", "numpy", "_codecs", "builtins"):
            return super().find_class(module, name)
        return type(name, (Opaque,), {"__module__": module})


class _Tolerant:
    """What torch.load wants as pickle_module."""

    Unpickler = _TolerantUnpickler
    __name__ = "tolerant"

    @staticmethod
    def load(file, **options):
        return _TolerantUnpickler(file, **options).load()


def read_torch(path):
    """The content of a torch file; objects of unknown classes become Opaque."""
    return torch.load(path, map_location="cpu", pickle_module=_Tolerant, weights_only=False)


def flat_tensors(value, prefix=""):
    """Every tensor below nested dicts, by dotted name."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    if not isinstance(value, dict):
        return {}
    found = {}
    for key, item in value.items():
        found.update(flat_tensors(item, f"{prefix}.{key}" if prefix else str(key)))
    return found


def raw(tensor):
    """(dtype, shape, bytes) of a torch tensor, to compare bit for bit."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), flat.numpy().tobytes()


def iteration_folder(root):
    """The folder that a Megatron tracker file names."""
    root = pathlib.Path(root)
    text = (root / "latest_checkpointed_iteration.txt").read_text().strip()
    return root / ("release" if text == "release" else f"iter_{int(text):07d}")


def megatron_files(root):
    """Rank folder name -> content of its model file, for every rank of a torch-format checkpoint."""
    folders = sorted(iteration_folder(root).glob("mp_rank_*"))
    return {folder.name: read_torch(folder / "model_optim_rng.pt") for folder in folders}


def model_chunks(content):
    """Virtual chunk ('model', 'model0', ...) -> its tensors, of one rank's file."""
    names = [key for key in content if key == "model" or key.startswith("model") and key[5:].isdigit()]
    return {name: flat_tensors(content[name]) for name in names}


def huggingface_tensors(folder):
    """Name -> (dtype, shape, bytes) of every tensor of a safetensors folder, index and files checked against each other."""
    from safetensors import deserialize

    folder = pathlib.Path(folder)
    index = folder / "model.safetensors.index.json"
    expected = json.loads(index.read_text())["weight_map"] if index.exists() else None
    found, place = {}, {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in deserialize(file.read_bytes()):
            assert name not in found, f"{name} is in {place[name]} and in {file.name}"
            found[name] = (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"]))
            place[name] = file.name
    assert expected is None or expected == place, f"{index} does not say where the tensors are"
    return found


def differences(seen, wanted):
    """Lines that say how two mappings of name -> (dtype, shape, bytes) differ; empty when equal."""
    lines = [f"missing: {name}" for name in wanted if name not in seen]
    lines += [f"unexpected: {name}" for name in seen if name not in wanted]
    for name in wanted:
        if name not in seen or seen[name] == wanted[name]:
            continue
        if seen[name][:2] != wanted[name][:2]:
            lines.append(f"{name}: is {seen[name][:2]}, wanted {wanted[name][:2]}")
            continue
        pairs = enumerate(zip(seen[name][2], wanted[name][2]))
        first = next((place for place, (a, b) in pairs if a != b), "length")
        lines.append(f"{name}: differs first at byte {first}")
    return lines

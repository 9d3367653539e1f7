"""Reads and makes torch_dist checkpoints chunk by chunk, with torch's own classes and without its planner or reshard's code."""

import dataclasses
import io
import itertools
import pickle
import struct

import torch
from checkpoints import Opaque, read_torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

LEFT_OUT = ("_extra_state", "optimizer.", "rng_state", "rerun_state_machine_state", "common_state")


class _Unpickler(pickle.Unpickler):
    """Classes of Megatron, which need not be installed, become opaque."""

    def find_class(self, module, name):
        if module.split(".")[0] in ("torch", "collections", "pathlib", "builtins"):
            return super().find_class(module, name)
        return type(name, (Opaque,), {"__module__": module})


def read_metadata(unit):
    """The content of .metadata."""
    with open(unit / ".metadata", "rb") as file:
        return _Unpickler(file).load()


def write_metadata(unit, metadata):
    """Writes .metadata, without what only Megatron reads."""
    plain = Metadata(metadata.state_dict_metadata, None, metadata.storage_data)
    (unit / ".metadata").write_bytes(pickle.dumps(plain))


def item_bytes(unit, info):
    """The bytes of one item."""
    with open(unit / info.relative_path, "rb") as file:
        file.seek(info.offset)
        return file.read(info.length)


def is_weight(name):
    """Whether a key is of the model itself."""
    return not any(part in name for part in LEFT_OUT)


def chunks_of(unit):
    """Key -> [(offsets, tensor)] of the model, and key -> bytes of all byte entries."""
    metadata = read_metadata(unit)
    chunks, blobs = {}, {}
    for index, info in metadata.storage_data.items():
        if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
            blobs[index.fqn] = item_bytes(unit, info)
        elif is_weight(index.fqn):
            tensor = torch.load(io.BytesIO(item_bytes(unit, info)), map_location="cpu", weights_only=True)
            chunks.setdefault(index.fqn, []).append((tuple(index.offset), tensor))
    return chunks, blobs


def tensors_of(unit):
    """Key -> whole tensor of the model."""
    metadata, tensors = read_metadata(unit), {}
    for name, parts in chunks_of(unit)[0].items():
        described = metadata.state_dict_metadata[name]
        whole = torch.empty(described.size, dtype=described.properties.dtype)
        boxes = {(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in described.chunks}
        assert boxes == {(offset, tuple(part.shape)) for offset, part in parts}, f"{name}: items are not its chunks"
        for offset, part in parts:
            whole[tuple(slice(o, o + n) for o, n in zip(offset, part.shape))] = part
        assert sum(part.numel() for _, part in parts) == whole.numel(), f"{name}: chunks do not fill it"
        tensors[name] = whole
    return tensors


def common_of(unit):
    """The common state, wherever this version keeps it."""
    if (unit / "common.pt").exists():
        return read_torch(unit / "common.pt")
    return read_torch(io.BytesIO(chunks_of(unit)[1]["common_state/shard_0_1"]))[0]


def saved(value):
    """The bytes of torch.save."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def grid(shape, steps):
    """Boxes (offsets, sizes) that cut each dimension into pieces of at most so many."""
    cuts = [[(at, min(step, n - at)) for at in range(0, n, step)] for n, step in zip(shape, steps)]
    return [tuple(zip(*box)) if box else ((), ()) for box in itertools.product(*cuts)]


@dataclasses.dataclass
class Writer:
    """Writes a checkpoint of our own making: tensors cut as `boxes(name, shape)` says, over so many files."""

    unit: object
    boxes: object
    files: int = 1

    def write(self, tensors, blobs):
        streams = [io.BytesIO() for _ in range(self.files)]
        described, stored = {}, {}

        def put(index, data):
            stream = streams[len(stored) % self.files]
            name = f"__{len(stored) % self.files}_0.distcp"
            stored[index] = _StorageInfo(name, stream.tell(), len(data))
            stream.write(data)

        for name, tensor in tensors.items():
            boxes = self.boxes(name, tuple(tensor.shape))
            described[name] = TensorStorageMetadata(
                TensorProperties(tensor.dtype), tensor.size(),
                [ChunkStorageMetadata(torch.Size(offset), torch.Size(size)) for offset, size in boxes])
            for offset, size in boxes:
                part = tensor[tuple(slice(o, o + n) for o, n in zip(offset, size))]
                put(MetadataIndex(name, offset), saved(part.contiguous().clone()))
        for name, data in blobs.items():
            described[name] = BytesStorageMetadata()
            put(MetadataIndex(name), data)
        for number, stream in enumerate(streams):
            (self.unit / f"__{number}_0.distcp").write_bytes(stream.getvalue())
        write_metadata(self.unit, Metadata(described, None, stored))


def flip(path, offset, value=0xFF):
    """Changes one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= value
    path.write_bytes(bytes(data))


def central_directory(data):
    """Where the central directory of a zip begins, by its zip64 end record."""
    return struct.unpack("<Q", data[data.rfind(b"PK\x06\x06") + 48 :][:8])[0]

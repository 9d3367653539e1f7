"""Damaged or lying torch_dist checkpoints: the right exit code, a message that names file, tensor, seen and wanted, and nothing left behind.

usage: damaged_dist_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import io
import json
import os
import pathlib
import pickle
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import dist
import torch
from damage import INCOMPLETE, INPUT, USAGE, case, run_cases
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

QKV = "decoder.layers.self_attention.linear_qkv.weight"


def unit_of(folder):
    return folder / "iter_0000003"


def edit(folder, change):
    """Changes .metadata as torch holds it."""
    metadata = dist.read_metadata(unit_of(folder))
    change(metadata)
    dist.write_metadata(unit_of(folder), metadata)


def item_of(metadata, name=QKV, number=0):
    """The place of a tensor's chunk: its index, its item."""
    return sorted(((i, s) for i, s in metadata.storage_data.items() if i.fqn == name), key=lambda p: p[0].offset)[number]


def replace_item(folder, data, name=QKV):
    """Puts other bytes in the place of a chunk's item, in a file of their own."""
    def change(metadata):
        _, info = item_of(metadata, name)
        info.relative_path, info.offset, info.length = "made.distcp", 0, len(data)

    (unit_of(folder) / "made.distcp").write_bytes(data)
    edit(folder, change)


# Files.


@case(INPUT, "__1_0.distcp: missing, as 1 of 4 files", source="dist")
def missing_file(folder):
    (unit_of(folder) / "__1_0.distcp").unlink()


@case(INPUT, "__1_0.distcp: is no file", source="dist")
def folder_for_a_file(folder):
    (unit_of(folder) / "__1_0.distcp").unlink()
    (unit_of(folder) / "__1_0.distcp").mkdir()


@case(INPUT, "__3_0.distcp: ", "200000 bytes, but .metadata has items up to byte 227218", source="dist", ranks=3)
def file_cut_off(folder):
    path = unit_of(folder) / "__3_0.distcp"
    path.write_bytes(path.read_bytes()[:200000])


@case(INPUT, "__0_0.distcp: 0 bytes, but .metadata has items", source="dist")
def empty_file(folder):
    (unit_of(folder) / "__0_0.distcp").write_bytes(b"")


@case(INCOMPLETE, "no .metadata", source="dist")
def metadata_not_there_yet(folder):
    (unit_of(folder) / ".metadata").rename(unit_of(folder) / ".metadata.tmp")


@case(INCOMPLETE, "no .metadata", source="dist", ranks=2)
def metadata_of_the_folder_itself_not_there_yet(folder):
    (unit_of(folder) / ".metadata").unlink()
    return {"source": unit_of(folder)}


@case(INCOMPLETE, "metadata.json", "--from megatron-dist", source="dist")
def config_not_there_yet(folder):
    (unit_of(folder) / "metadata.json").unlink()


@case(0, source="dist", flags=("--to", "hf", "--from", "megatron-dist"))
def config_not_there_but_asked_for(folder):
    (unit_of(folder) / "metadata.json").unlink()


@case(INCOMPLETE, "latest_checkpointed_iteration.txt", source="dist")
def no_tracker(folder):
    (folder / "latest_checkpointed_iteration.txt").unlink()


@case(INCOMPLETE, "finished iteration is 3", "wanted 5", source="dist", flags=("--to", "hf", "--from-iteration", "5"))
def iteration_beyond_the_tracker(folder):
    pass


@case(USAGE, "two formats", source="dist")
def files_of_another_format_beside(folder):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, unit_of(folder) / "model.safetensors")
    (unit_of(folder) / "config.json").write_text('{"model_type": "llama"}')
    return {"source": unit_of(folder)}


@case(INPUT, "sharded_backend", "zarr", source="dist")
def zarr(folder):
    (unit_of(folder) / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))


@case(INPUT, "metadata.json", source="dist")
def config_of_noise(folder):
    (unit_of(folder) / "metadata.json").write_bytes(b"\x80{")


@case(INPUT, "common state: iteration is 3, but its folder is iter_0000004", source="dist")
def folder_of_another_iteration(folder):
    unit_of(folder).rename(folder / "iter_0000004")
    (folder / "latest_checkpointed_iteration.txt").write_text("4")


# .metadata.


@case(INPUT, ".metadata", "does not end within", source="dist")
def metadata_cut_off(folder):
    path = unit_of(folder) / ".metadata"
    path.write_bytes(path.read_bytes()[:-40])


@case(INPUT, ".metadata", source="dist")
def metadata_of_noise(folder):
    (unit_of(folder) / ".metadata").write_bytes(b"no pickle")


class Evil:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place / 'EXECUTED'}",)


@case(INPUT, ".metadata", "wanted the Metadata", source="dist")
def metadata_that_calls_the_shell(folder):
    (unit_of(folder) / ".metadata").write_bytes(pickle.dumps(Evil(folder.parent)))


@case(INPUT, "nested dicts", source="dist")
def checkpoint_of_fsdp(folder):
    metadata = dist.read_metadata(unit_of(folder))
    metadata.planner_data = {name: ("model", name) for name in metadata.state_dict_metadata}
    del metadata.all_local_plans
    (unit_of(folder) / ".metadata").write_bytes(pickle.dumps(metadata))


@case(INPUT, QKV, "no plain name", source="dist")
def file_elsewhere(folder):
    edit(folder, lambda metadata: setattr(item_of(metadata)[1], "relative_path", "../../secret.distcp"))


@case(INPUT, "__0_0.distcp: ", "bytes, but .metadata has items up to byte 100000", source="dist", ranks=2)
def item_beyond_the_file(folder):
    edit(folder, lambda metadata: setattr(item_of(metadata)[1], "offset", 10**9))


@case(INPUT, QKV, "overlap at byte", source="dist")
def items_that_overlap(folder):
    def change(metadata):
        info = item_of(metadata)[1]
        info.length += 1

    edit(folder, change)


@case(INPUT, QKV, "transformed", source="dist")
def compressed_item(folder):
    edit(folder, lambda metadata: setattr(item_of(metadata)[1], "transform_descriptors", ["zstd"]))


@case(INPUT, QKV, "its chunks", "overlap", source="dist")
def chunks_that_overlap(folder):
    def change(metadata):
        chunks = metadata.state_dict_metadata[QKV].chunks
        chunks[1] = ChunkStorageMetadata(chunks[0].offsets, chunks[0].sizes)

    edit(folder, change)


@case(INPUT, QKV, "its chunks hold", "wanted", source="dist")
def chunks_with_a_gap(folder):
    def change(metadata):
        metadata.state_dict_metadata[QKV].chunks.pop()
        last = max((i for i in metadata.storage_data if i.fqn == QKV), key=lambda i: i.offset)
        del metadata.storage_data[last]

    edit(folder, change)


@case(INPUT, QKV, "does not lie in its shape", source="dist")
def chunk_outside(folder):
    def change(metadata):
        chunk = metadata.state_dict_metadata[QKV].chunks[0]
        chunk.offsets = torch.Size([9, 0, 0])

    edit(folder, change)


@case(INPUT, QKV, "has no item", source="dist")
def chunk_without_item(folder):
    def change(metadata):
        del metadata.storage_data[item_of(metadata)[0]]

    edit(folder, change)


@case(INPUT, "decoder.final_layernorm.weight: its item holds", "wanted", source="dist", ranks=2)
def items_in_the_wrong_place(folder):
    """Two chunks of unlike shape have each other's items."""
    def change(metadata):
        norm = item_of(metadata, "decoder.final_layernorm.weight")[1]
        qkv = item_of(metadata)[1]
        norm.__dict__, qkv.__dict__ = qkv.__dict__, norm.__dict__

    edit(folder, change)


@case(INPUT, "missing 1 tensors of the model: decoder.final_layernorm.weight", source="dist")
def tensor_missing(folder):
    def change(metadata):
        name = "decoder.final_layernorm.weight"
        del metadata.storage_data[item_of(metadata, name)[0]], metadata.state_dict_metadata[name]

    edit(folder, change)


@case(INPUT, "1 tensors that the model does not have: decoder.layers.self_attention.extra.weight", source="dist")
def tensor_too_many(folder):
    def change(metadata):
        name = "decoder.layers.self_attention.extra.weight"
        index, info = item_of(metadata)
        metadata.state_dict_metadata[name] = metadata.state_dict_metadata.pop(QKV)
        for old in [i for i in metadata.storage_data if i.fqn == QKV]:
            metadata.storage_data[MetadataIndex(name, old.offset)] = metadata.storage_data.pop(old)

    edit(folder, change)


@case(INPUT, "decoder.final_layernorm.weight", "dtype complex32 is not supported", source="dist")
def dtype_that_nobody_knows(folder):
    def change(metadata):
        metadata.state_dict_metadata["decoder.final_layernorm.weight"].properties.dtype = torch.complex32

    edit(folder, change)


# Items.


@case(INPUT, QKV, "its item holds", "wanted", source="dist")
def item_of_another_shape(folder):
    replace_item(folder, dist.saved(torch.ones(1, 2, 3, dtype=torch.bfloat16)))


@case(INPUT, QKV, "its item holds F32", "wanted", source="dist")
def item_of_another_dtype(folder):
    shape = dist.read_metadata(unit_of(folder)).state_dict_metadata[QKV].chunks[0].sizes
    replace_item(folder, dist.saved(torch.ones(shape, dtype=torch.float32)))


@case(INPUT, QKV, "holds 2 tensors", source="dist")
def item_of_two_tensors(folder):
    replace_item(folder, dist.saved([torch.ones(1), torch.ones(1)]))


@case(INPUT, QKV, "its item is no zip archive", source="dist")
def item_of_an_old_torch(folder):
    stream = io.BytesIO()
    torch.save(torch.ones(1), stream, _use_new_zipfile_serialization=False)
    replace_item(folder, stream.getvalue())


@case(INPUT, QKV, "neither a zip archive", source="dist")
def item_of_noise(folder):
    replace_item(folder, b"noise" * 100)


@case(INPUT, "zip: ", source="dist")
def item_with_a_damaged_header(folder):
    _, info = item_of(dist.read_metadata(unit_of(folder)))
    data = dist.item_bytes(unit_of(folder), info)
    dist.flip(unit_of(folder) / info.relative_path, info.offset + dist.central_directory(data))


@case(INPUT, "made.distcp", source="dist")
def item_that_calls_the_shell(folder):
    replace_item(folder, dist.saved(Evil(folder.parent)))


# Common state.


@case(INPUT, "no args", "--config", source="dist common")
def no_common_state(folder):
    (unit_of(folder) / "common.pt").unlink()


@case(INPUT, "common.pt", source="dist common")
def common_state_cut_off(folder):
    path = unit_of(folder) / "common.pt"
    path.write_bytes(path.read_bytes()[:5000])


@case(INPUT, "layers", source="dist common")
def args_that_lie(folder):
    path = unit_of(folder) / "common.pt"
    content = dist.read_torch(path)
    kept = {"args": content["args"], "iteration": 3}
    for key, value in list(vars(kept["args"]).items()):
        if isinstance(value, dist.Opaque):
            delattr(kept["args"], key)
    kept["args"].num_layers = kept["args"].encoder_num_layers = 5
    torch.save(kept, path)


if __name__ == "__main__":
    sys.exit(run_cases(sys.argv[1:]))

"""Damaged or lying Megatron checkpoints: the right exit code, a message that names file, tensor, seen and wanted, and nothing left behind.

usage: damaged_megatron_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import os
import pathlib
import pickle
import shutil
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import numpy
import torch
from damage import CASES, INCOMPLETE, INPUT, TolerantModule, case, edit_all, edit_rank, rank_file, run_cases, set_args

# Megatron: files.


@case(INPUT, "mp_rank_01_000/model_optim_rng.pt", "missing", "tp 2", source="gqa")
def missing_shard_of_megatron(folder):
    shutil.rmtree(rank_file(folder, "01_000").parent)


@case(INPUT, "mp_rank_01_000", "mp_rank_00_000", "twice", source="gqa")
def one_ranks_file_twice(folder):
    shutil.copy(rank_file(folder, "00_000"), rank_file(folder, "01_000"))


@case(INPUT, "mp_rank_02_000", "tp 2", source="gqa")
def one_file_too_many(folder):
    shutil.copytree(rank_file(folder, "01_000").parent, rank_file(folder, "01_000").parent.with_name("mp_rank_02_000"))


@case(INPUT, "mp_rank_01_001/model_optim_rng.pt", source="gqa", ranks=2)
def zip_truncated(folder):
    path = rank_file(folder, "01_001")
    path.write_bytes(path.read_bytes()[:-200])


@case(INPUT, "mp_rank_01_001/model_optim_rng.pt", source="gqa")
def zip_with_a_foreign_directory(folder):
    path = rank_file(folder, "01_001")
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 42 : at + 46] = b"\xff\xff\xff\x7f"
    path.write_bytes(bytes(data))


@case(INPUT, "mp_rank_00/model_optim_rng.pt", source="gqa1")
def file_of_noise(folder):
    rank_file(folder, "00").write_bytes(numpy.random.default_rng(1).bytes(5000))


@case(INPUT, "mp_rank_00/model_optim_rng.pt", source="gqa1")
def legacy_file_truncated(folder):
    path = rank_file(folder, "00")
    content = torch.load(path, map_location="cpu", pickle_module=TolerantModule, weights_only=False)
    torch.save({"args": {}, "model": content["model"]}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-1000])


def pickle_in_zip(path, data):
    """A torch file whose pickle is `data`."""
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


@case(INPUT, "mp_rank_00/model_optim_rng.pt", source="gqa1")
def pickle_that_calls_the_shell(folder):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {folder.parent / 'EXECUTED'}",)

    pickle_in_zip(rank_file(folder, "00"), pickle.dumps({"args": Evil(), "model": {}}, 2))


@case(INPUT, "mp_rank_00/model_optim_rng.pt", source="gqa1")
def pickle_of_a_billion_laughs(folder):
    data = b"\x80\x02]q\x00" + b"".join(b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 20 + b"eq" + bytes([i + 1]) for i in range(60))
    pickle_in_zip(rank_file(folder, "00"), data + b".")


@case(INPUT, "mp_rank_00/model_optim_rng.pt", source="gqa1")
def pickle_nested_deep(folder):
    pickle_in_zip(rank_file(folder, "00"), b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")


@case(INPUT, "mp_rank_00/model_optim_rng.pt", source="gqa1")
def pickle_of_huge_length(folder):
    pickle_in_zip(rank_file(folder, "00"), b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"abc.")


@case(INPUT, "mp_rank_00/model_optim_rng.pt", "args", source="gqa1")
def no_args(folder):
    edit_all(folder, lambda content: content.pop("args"))


@case(0, source="gqa1")
def keys_that_are_called_as_ours(folder):
    edit_all(folder, lambda content: content.update({"keys": 5, "zzz": 1}))


@case(INPUT, "mp_rank_00_001", "missing 1", "linear_fc1.weight", source="gqa")
def missing_tensor_of_megatron(folder):
    name = "decoder.layers.0.mlp.linear_fc1.weight"
    edit_rank(rank_file(folder, "00_001"), lambda content: content["model"].pop(name))


@case(INPUT, "mp_rank_00_001", "does not have", "decoder.layers.0.extra.weight", source="gqa")
def unknown_tensor_of_megatron(folder):
    edit_rank(rank_file(folder, "00_001"), lambda content: content["model"].update({"decoder.layers.0.extra.weight": torch.ones(2)}))


@case(INPUT, "mp_rank_01_001", "linear_fc2.weight", "wanted [", source="gqa")
def transposed_matrix_of_megatron(folder):
    name = "decoder.layers.0.mlp.linear_fc2.weight"
    edit_rank(rank_file(folder, "01_001"), lambda content: content["model"].update({name: content["model"][name].T.contiguous()}))


@case(INPUT, "layers", "num_layers", "2, 10", source="gqa")
def layer_twice(folder):
    def change(content):
        for name, value in list(content["model"].items()):
            if ".layers.0." in name:
                content["model"][name.replace(".layers.0.", ".layers.9.")] = value

    edit_rank(rank_file(folder, "01_001"), change)


@case(INPUT, "layers", "num_layers", source="gqa")
def layers_missing_against_args(folder):
    for rank in ("00_001", "01_001"):
        edit_rank(rank_file(folder, rank), lambda content: [content["model"].pop(n) for n in list(content["model"]) if ".layers.0." not in n and ".layers." in n])


@case(INPUT, "norm", "mp_rank_01_001", "mp_rank_00_001", "differs", source="gqa", ranks=2)
def unequal_norms_over_tp(folder):
    edit_rank(rank_file(folder, "01_001"), lambda content: content["model"]["decoder.final_layernorm.weight"].add_(1))


@case(INPUT, "embedding.weight", "differs", source="gpt2", ranks=3)
def unequal_tied_copy(folder):
    def change(content):
        name = next(n for n in content["model"] if n.endswith("output_layer.weight"))
        content["model"][name][0, 0] += 1

    edit_rank(rank_file(folder, "00_002"), change)


@case(INPUT, "differs", "mp_rank_00_001", source="moe")
def unequal_dense_weights_over_ep(folder):
    edit_rank(rank_file(folder, "00_001"), lambda content: content["model"]["decoder.layers.0.self_attention.linear_proj.weight"].mul_(2))


# Megatron: arguments that lie.


def lying_args(words, source="gqa", **values):
    name = "args lie: " + ", ".join(f"{k} {v}" for k, v in values.items())
    CASES.append((name, lambda folder: set_args(folder, **values), INPUT, words, source, ("--to", "hf"), 1))


lying_args(("layers", "num_layers"), num_layers=9)
lying_args(("layers",), num_layers=10**12)
lying_args(("wanted [",), hidden_size=64)
lying_args(("wanted [",), ffn_hidden_size=96)
lying_args(("groups 1", "2 ranks"), num_query_groups=1)
lying_args(("wanted [",), kv_channels=6)
lying_args(("missing", "tp 4"), tensor_model_parallel_size=4)
lying_args(("tp 1", "etp 2"), tensor_model_parallel_size=1)
lying_args(("pp 3",), pipeline_model_parallel_size=3)
lying_args(("tp", "wanted 1 to 65536"), tensor_model_parallel_size=10**12)
lying_args(("tp", "0"), tensor_model_parallel_size=0)
lying_args(("pp", "files"), pipeline_model_parallel_size=65536, tensor_model_parallel_size=65536)
lying_args(("vpp",), virtual_pipeline_model_parallel_size=2)
lying_args(("files have 512 rows", "--vocab-size"), padded_vocab_size=512)
lying_args(("no family", "--family"), swiglu=False)
lying_args(("ep",), source="moe", expert_model_parallel_size=1)
lying_args(("experts is 1000000000",), source="moe", num_experts=10**9)


@case(INPUT, "args.hidden_size", "64", "mp_rank_01_000", source="gqa")
def args_that_differ_between_files(folder):
    edit_rank(rank_file(folder, "01_000"), lambda content: setattr(content["args"], "hidden_size", 64))


@case(INPUT, "my_fork_option", "--strict-args", source="gqa1", flags=("--to", "hf", "--strict-args"))
def unknown_argument_with_strict_args(folder):
    set_args(folder, my_fork_option=1)


@case(0, source="gqa1")
def unknown_argument(folder):
    set_args(folder, my_fork_option=1)


# Megatron: the tracker.


@case(INCOMPLETE, "latest_checkpointed_iteration.txt", source="gqa1")
def no_tracker(folder):
    (folder / "latest_checkpointed_iteration.txt").unlink()


@case(0, source="gqa1", flags=("--to", "hf", "--from-iteration", "3"))
def no_tracker_but_the_iteration_named(folder):
    unit = next(folder.glob("iter_*"))
    unit.rename(folder / "iter_0000003")
    (folder / "latest_checkpointed_iteration.txt").unlink()


@case(INPUT, "iter_0000099", source="gqa1")
def tracker_of_a_missing_iteration(folder):
    (folder / "latest_checkpointed_iteration.txt").write_text("99")


@case(INPUT, "latest_checkpointed_iteration.txt", "banana", source="gqa1")
def tracker_of_garbage(folder):
    (folder / "latest_checkpointed_iteration.txt").write_text("banana\n")


@case(INPUT, "latest_checkpointed_iteration.txt", source="gqa1")
def tracker_empty(folder):
    (folder / "latest_checkpointed_iteration.txt").write_text("")


@case(INCOMPLETE, "wanted 5000", source="gqa1", flags=("--to", "hf", "--from-iteration", "5000"))
def iteration_beyond_the_tracker(folder):
    pass


@case(INPUT, "iter_0000001", source="gqa1", flags=("--to", "hf", "--from-iteration", "1"))
def iteration_that_is_gone(folder):
    pass


if __name__ == "__main__":
    sys.exit(run_cases(sys.argv[1:]))

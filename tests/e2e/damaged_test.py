"""Damaged or lying input: the right exit code, a message that names file, tensor, seen and wanted, and nothing left behind.

usage: damaged_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import json
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from programs import Checks

import numpy
import torch
from safetensors.torch import load_file, save_file

USAGE, INPUT, IO, INCOMPLETE = 2, 3, 4, 7
CASES = []


def case(code, *wanted, source="hf", flags=("--to", "hf"), ranks=1):
    """Registers a function that damages the copy of a fixture; its message must hold the wanted words.

    The function may return what differs from (source folder, target, flags, environment)."""

    def register(function):
        CASES.append((function.__name__.replace("_", " "), function, code, wanted, source, flags, ranks))
        return function

    return register


FIXTURES = {
    "hf": "huggingface/llama/hf",
    "mixtral": "huggingface/mixtral/hf",
    "bloom": "huggingface/bloom/hf",
    "neox": "huggingface/gpt_neox/hf",
    "gqa1": "megatron/llama-gqa/torch-tp1-pp1",
    "gqa": "megatron/llama-gqa/torch-tp2-pp2",
    "gpt2": "megatron/gpt2/torch-tp2-pp3",
    "vpp": "megatron/qwen3/torch-tp1-pp2-vpp2",
    "qwen3": "megatron/qwen3/torch-tp2-pp1",
    "moe": "megatron/mixtral-moe/torch-tp1-pp1-ep2",
}


# Damage, by the tools that wrote the files.


def edit_json(path, **changes):
    """Sets keys of a JSON file; None removes one."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content.pop(key, None) if value is None else content.__setitem__(key, value)
    path.write_text(json.dumps(content))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def merge_shards(folder):
    """One file with all tensors, so that a case knows where they are."""
    files = sorted(folder.glob("model-*.safetensors"))
    if files:
        tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
        save_file(tensors, weights(folder), {"format": "pt"})
    for file in [*files, *folder.glob("*.index.json")]:
        file.unlink()


def weights(folder):
    return folder / "model.safetensors"


def edit_header(path, change):
    """Rewrites a safetensors header as raw JSON; the data stays."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    text = change(header)
    text = (text if isinstance(text, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def rank_file(folder, rank):
    return next(folder.glob(f"iter_*/mp_rank_{rank}/model_optim_rng.pt"))


class Anything:
    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


class Tolerant(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return Anything


class TolerantModule:
    Unpickler, __name__ = Tolerant, "tolerant"

    @staticmethod
    def load(file, **options):
        return Tolerant(file, **options).load()


def edit_rank(path, change):
    """Loads one rank's file, keeps what matters, changes it and saves it again."""
    content = torch.load(path, map_location="cpu", pickle_module=TolerantModule, weights_only=False)
    kept = {k: v for k, v in content.items() if k.startswith("model") or k in ("args", "checkpoint_version", "iteration")}
    for name, value in list(vars(kept["args"]).items()):
        if isinstance(value, Anything):
            delattr(kept["args"], name)
    change(kept)
    torch.save(kept, path)


def edit_all(folder, change):
    for path in sorted(folder.glob("iter_*/mp_rank_*/model_optim_rng.pt")):
        edit_rank(path, change)


def set_args(folder, **values):
    edit_all(folder, lambda content: [setattr(content["args"], k, v) for k, v in values.items()])


# Hugging Face: files and headers.


@case(INPUT, "model.safetensors", "header")
def safetensors_truncated_in_header(folder):
    weights(folder).write_bytes(weights(folder).read_bytes()[:100])


@case(INPUT, "model.safetensors")
def safetensors_truncated_in_data(folder):
    weights(folder).write_bytes(weights(folder).read_bytes()[:-10])


@case(INPUT, "model.safetensors")
def safetensors_with_bytes_behind(folder):
    weights(folder).write_bytes(weights(folder).read_bytes() + b"1234")


@case(INPUT, "model.safetensors")
def safetensors_empty(folder):
    weights(folder).write_bytes(b"")


@case(INPUT, "model.safetensors", "header")
def safetensors_header_length_huge(folder):
    data = weights(folder).read_bytes()
    weights(folder).write_bytes(struct.pack("<Q", 1 << 62) + data[8:])


@case(INPUT, "model.safetensors")
def safetensors_header_not_json(folder):
    edit_header(weights(folder), lambda header: "{" + "x" * 30)


@case(INPUT, "model.safetensors")
def safetensors_deep_nesting(folder):
    edit_header(weights(folder), lambda header: '{"a":' * 100_000)


def offsets(header):
    return sorted((v["data_offsets"], k) for k, v in header.items() if k != "__metadata__")


@case(INPUT, "model.safetensors")
def safetensors_overlapping_offsets(folder):
    def change(header):
        (_, first), (_, second) = offsets(header)[:2]
        header[second]["data_offsets"][0] = header[first]["data_offsets"][0]

    edit_header(weights(folder), change)


@case(INPUT, "model.safetensors")
def safetensors_hole_between_tensors(folder):
    edit_header(weights(folder), lambda header: header.pop(offsets(header)[3][1]) and None)


@case(INPUT, "model.safetensors", "data_offsets", "hole or overlap")
def safetensors_offsets_beyond_the_end(folder):
    def change(header):
        header["lm_head.weight"]["data_offsets"] = [1 << 40, (1 << 40) + 10]

    edit_header(weights(folder), change)


@case(INPUT, "model.safetensors", "lm_head.weight")
def safetensors_shape_product_overflows(folder):
    edit_header(weights(folder), lambda header: header["lm_head.weight"].update(shape=[1 << 40, 1 << 40]))


@case(INPUT, "model.safetensors", "lm_head.weight")
def safetensors_duplicate_name(folder):
    def change(header):
        text = json.dumps(header)
        return text[:-1] + ', "lm_head.weight": ' + json.dumps(header["lm_head.weight"]) + "}"

    edit_header(weights(folder), change)


@case(INPUT, "model.safetensors", "lm_head.weight", "Q99")
def safetensors_unknown_dtype(folder):
    edit_header(weights(folder), lambda header: header["lm_head.weight"].update(dtype="Q99"))


@case(INPUT, "model.safetensors", "missing 1", "model.layers.2.mlp.up_proj.weight")
def missing_tensor(folder):
    edit_tensors(weights(folder), lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))


@case(INPUT, "model.safetensors", "model.layers.2.extra.weight", "[3]")
def unknown_tensor(folder):
    edit_tensors(weights(folder), lambda tensors: tensors.update({"model.layers.2.extra.weight": torch.zeros(3)}))


@case(INPUT, "model.safetensors", "model.layers.1.mlp.down_proj.weight", "wanted [")
def transposed_matrix(folder):
    name = "model.layers.1.mlp.down_proj.weight"
    edit_tensors(weights(folder), lambda tensors: tensors.update({name: tensors[name].T.contiguous()}))


@case(INPUT, "model.safetensors", "model.norm.weight", "wanted [")
def wrong_shape(folder):
    edit_tensors(weights(folder), lambda tensors: tensors.update({"model.norm.weight": torch.zeros(7)}))


@case(INPUT, "layers.1.self_attention.linear_qkv.weight", "F32", "BF16", flags=("--to", "megatron", "--tp", "1"))
def parts_of_mixed_dtypes(folder):
    name = "model.layers.1.self_attn.q_proj.weight"
    edit_tensors(weights(folder), lambda tensors: tensors.update({name: tensors[name].float()}))


# Hugging Face: configuration and index.


@case(INPUT, "config.json", "new_attention_trick", "--ignore-config")
def unknown_config_key(folder):
    edit_json(folder / "config.json", new_attention_trick=3)


@case(0, source="hf", flags=("--to", "hf", "--ignore-config", "new_attention_trick"))
def unknown_config_key_ignored(folder):
    edit_json(folder / "config.json", new_attention_trick=3)


@case(INPUT, "config.json", "activation", "nonsense", "silu")
def unsupported_config_value(folder):
    edit_json(folder / "config.json", hidden_act="nonsense")


@case(INPUT, "config.json", "hidden_size")
def config_without_hidden_size(folder):
    edit_json(folder / "config.json", hidden_size=None)


@case(INPUT, "marsupial")
def unknown_model_type(folder):
    edit_json(folder / "config.json", model_type="marsupial")


@case(INPUT, "--config")
def no_config(folder):
    (folder / "config.json").unlink()


@case(INPUT, "config.json")
def config_not_json(folder):
    (folder / "config.json").write_text('{"model_type": ')


@case(INPUT, "config.json")
def config_of_another_type(folder):
    (folder / "config.json").write_text("[1, 2]")


@case(INPUT, "config.json", 'layers is "five"')
def config_layers_as_text(folder):
    edit_json(folder / "config.json", num_hidden_layers="five")


@case(INPUT, "missing", "layers.5.")
def more_layers_in_config(folder):
    edit_json(folder / "config.json", num_hidden_layers=6)


@case(INPUT, "does not have", "layers.4.")
def fewer_layers_in_config(folder):
    edit_json(folder / "config.json", num_hidden_layers=4)


@case(INPUT, "layers")
def absurd_layers_in_config(folder):
    edit_json(folder / "config.json", num_hidden_layers=10**9)


@case(INPUT, "experts", source="mixtral")
def absurd_experts_in_config(folder):
    edit_json(folder / "config.json", num_local_experts=10**9)


@case(INPUT, "wanted [")
def wrong_vocabulary_in_config(folder):
    edit_json(folder / "config.json", vocab_size=300)


@case(INPUT, "head")
def heads_that_do_not_divide(folder):
    edit_json(folder / "config.json", num_attention_heads=5, num_key_value_heads=2)


def sharded(folder):
    """Splits the weights over two files with an index."""
    tensors = load_file(weights(folder))
    weights(folder).unlink()
    names = sorted(tensors)
    parts = [names[::2], names[1::2]]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file, part in zip(files, parts):
        save_file({n: tensors[n] for n in part}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {n: f for f, p in zip(files, parts) for n in p}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index, files


@case(INPUT, "model.safetensors.index.json", "model-00002-of-00002.safetensors", "missing")
def missing_shard_of_huggingface(folder):
    (folder / sharded(folder)[1][1]).unlink()


@case(INPUT, "model.safetensors.index.json", "../elsewhere.safetensors")
def index_that_leaves_the_folder(folder):
    index, _ = sharded(folder)
    index["weight_map"]["lm_head.weight"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case(INPUT, "lm_head.weight", "model-00001-of-00002", "model-00002-of-00002")
def tensor_in_two_files(folder):
    _, files = sharded(folder)
    for file in files:
        edit_tensors(folder / file, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(211, 48).bfloat16()}))


@case(INPUT, "index.json")
def index_not_json(folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text("{")


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
lying_args(("tp 1",), tensor_model_parallel_size=1)
lying_args(("pp 3",), pipeline_model_parallel_size=3)
lying_args(("tp", "wanted 1 to 65536"), tensor_model_parallel_size=10**12)
lying_args(("tp", "0"), tensor_model_parallel_size=0)
lying_args(("pp", "files"), pipeline_model_parallel_size=65536, tensor_model_parallel_size=65536)
lying_args(("vpp",), virtual_pipeline_model_parallel_size=2)
lying_args(("wanted [",), padded_vocab_size=512)
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


# The command line and the target.


def wrong_flags(name, code, words, *flags, source="hf", ranks=1):
    CASES.append((name, lambda folder: None, code, words, source, flags, ranks))


TO_MEGATRON = ("--to", "megatron")
wrong_flags("stage layers of a wrong sum", USAGE, ("--stage-layers", "wanted", "5"), *TO_MEGATRON, "--pp", "2", "--stage-layers", "2,2")
wrong_flags("stage layers of a wrong count", USAGE, ("--stage-layers", "wanted 3 stages"), *TO_MEGATRON, "--pp", "3", "--stage-layers", "2,3")
wrong_flags("stage layers of letters", USAGE, ("--stage-layers", "wanted numbers"), *TO_MEGATRON, "--stage-layers", "2,x")
wrong_flags("stages that are not equal", USAGE, ("5 layers", "--stage-layers"), *TO_MEGATRON, "--pp", "2")
wrong_flags("vpp that does not divide", USAGE, ("--vpp 2",), *TO_MEGATRON, "--vpp", "2")
wrong_flags("tp that does not divide", INPUT, ("groups 2", "4"), *TO_MEGATRON, "--tp", "4")
wrong_flags("tp of 0", USAGE, ("--tp 0", "wanted"), *TO_MEGATRON, "--tp", "0")
wrong_flags("pp of 0", USAGE, ("--pp 0", "wanted"), *TO_MEGATRON, "--pp", "0")
wrong_flags("tp beyond reason", USAGE, ("--tp", "wanted"), *TO_MEGATRON, "--tp", "1000000000000")
wrong_flags("tp that is negative", USAGE, ("--tp",), *TO_MEGATRON, "--tp", "-2")
wrong_flags("ep without experts", USAGE, ("--ep 2", "no experts"), *TO_MEGATRON, "--ep", "2")
wrong_flags("ep that does not divide", INPUT, ("experts 4", "3"), *TO_MEGATRON, "--ep", "3", source="mixtral")
wrong_flags("etp whose files collide", INPUT, ("etp 2", "share one file"), *TO_MEGATRON, "--etp", "2", source="mixtral")
wrong_flags("a dtype of nonsense", USAGE, ("--dtype", "int3", "bf16"), "--to", "hf", "--dtype", "int3")
wrong_flags("memory of nonsense", USAGE, ("much",), "--to", "hf", "--memory", "much")
wrong_flags("an unknown format", USAGE, ("--to", "gguf"), "--to", "gguf")
wrong_flags("an unknown flag", USAGE, ("--frobnicate",), "--to", "hf", "--frobnicate")
wrong_flags("optimizer keep", USAGE, ("--optimizer keep",), "--to", "hf", "--optimizer", "keep")
wrong_flags("vocabulary larger than the rows", USAGE, ("--vocab-size 99999", "rows"), "--to", "hf", "--vocab-size", "99999", source="gqa")
wrong_flags("a family that Megatron cannot hold", INPUT, ("position_embedding_type", "embedding_norm.weight"), *TO_MEGATRON, source="bloom")
wrong_flags("an unknown family", USAGE, ("marsupial",), "--to", "hf", "--family", "marsupial", source="gqa1")
wrong_flags("a format that the source is not", INPUT, ("no checkpoint", "megatron"), "--to", "hf", "--from", "megatron")


@case(INPUT, "does not exist")
def source_that_is_not_there(folder):
    shutil.rmtree(folder)


@case(INPUT, "no checkpoint")
def source_without_weights(folder):
    weights(folder).unlink()


@case(USAGE, "not empty", "--overwrite")
def target_that_exists(folder):
    target = folder.parent / "target"
    target.mkdir()
    (target / "mine.txt").write_text("mine")


@case(0, flags=("--to", "hf", "--overwrite"))
def target_that_is_overwritten(folder):
    target_that_exists(folder)


@case(0)
def target_that_is_empty(folder):
    (folder.parent / "target").mkdir()


@case(USAGE, "lie in one another")
def target_inside_the_source(folder):
    return {"target": folder / "sub"}


@case(USAGE, "lie in one another", flags=("--to", "hf", "--overwrite"))
def source_inside_the_target(folder):
    return {"target": folder.parent}


@case(USAGE, "SLURM_STEP_NUM_TASKS", "--mpi=pmix")
def launcher_that_mpi_does_not_understand(folder):
    return {"environment": {"SLURM_STEP_NUM_TASKS": "4"}}


@case(IO, "ermission denied")
def target_without_permission(folder):
    closed = folder.parent / "closed"
    closed.mkdir(mode=0o555)
    return {"target": closed / "target", "user": 65534}


@case(IO, "ermission denied", "model.safetensors")
def source_without_permission(folder):
    weights(folder).chmod(0)
    return {"user": 65534}


@case(IO, "ermission denied")
def source_folder_without_permission(folder):
    folder.chmod(0)
    return {"user": 65534}


@case(IO, "bytes free, wanted")
def target_without_space(folder):
    small = folder.parent / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode == 0
    return {"target": small / "target", "mount": small} if mounted else {"skip": "mounting a small tmpfs is not permitted"}


class Runner:
    """Runs one damaged case in a folder of its own."""

    def __init__(self, binary, mpiexec, data):
        self.binary, self.mpiexec, self.data = binary, mpiexec, pathlib.Path(data)

    def command(self, place, folder, flags, ranks, changes):
        target = changes.get("target", place / "target")
        launcher = [] if ranks == 1 else [self.mpiexec, "--oversubscribe", "-n", str(ranks)]
        return [*launcher, self.binary, "convert", str(folder), str(target), *flags, "--quiet"]

    def run(self, place, damage, code, wanted, source, flags, ranks):
        folder = place / "source"
        shutil.copytree(self.data / FIXTURES[source], folder)
        merge_shards(folder)
        changes = damage(folder) or {}
        try:
            self.check(place, folder, changes, code, wanted, flags, ranks)
        finally:
            if "mount" in changes:
                subprocess.run(["umount", changes["mount"]], check=True)

    def check(self, place, folder, changes, code, wanted, flags, ranks):
        """Runs the command, unless the case cannot be had here, and holds what it said against the wanted."""
        if "skip" in changes:
            return
        before = self.listing(place)
        user = changes.get("user") if os.getuid() == 0 else None
        for path in [place, *place.rglob("*")] if user else []:
            os.chown(path, user, user)
        done = subprocess.run(self.command(place, folder, flags, ranks, changes), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=120, user=user, cwd="/", env={**os.environ, **changes.get("environment", {})})
        said = done.stderr.strip()
        assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {said[-600:]}"
        missing = [word for word in wanted if word not in said]
        assert not missing, f"message lacks {missing}: {said[-600:]}"
        assert not (place / "EXECUTED").exists(), "the pickle was executed"
        if code == 0:
            assert (place / "target" / "config.json").exists(), "no output"
            return
        assert code == USAGE or ("\n" + said).count("\nreshard: ") == 1, f"not one message: {said[-600:]}"
        left = self.listing(place) - before
        assert not left, f"left behind: {sorted(left)[:5]}"

    @staticmethod
    def listing(place):
        """Files and non-empty folders."""
        return {str(path) for path in place.rglob("*") if path.name != "target"}


def main(arguments):
    binary, mpiexec, data, *words = arguments
    runner, checks = Runner(binary, mpiexec, data), Checks()
    for name, damage, code, wanted, source, flags, ranks in CASES:
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory() as scratch, checks.case(name):
            os.chmod(scratch, 0o755)
            runner.run(pathlib.Path(scratch), damage, code, wanted, source, flags, ranks)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

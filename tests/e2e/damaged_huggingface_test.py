"""Damaged or lying Hugging Face checkpoints: the right exit code, a message that names file, tensor, seen and wanted, and nothing left behind.

usage: damaged_huggingface_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import json
import pathlib
import shutil
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import torch
from damage import INPUT, case, edit_header, edit_json, edit_tensors, run_cases, weights
from safetensors.torch import load_file, save_file

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


@case(INPUT, "in model.safetensors and 2 more are I16, wanted floating point numbers", flags=("--to", "megatron"))
def weights_of_integers(folder):
    names = [f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv"]
    edit_tensors(weights(folder), lambda tensors: tensors.update({name: tensors[name].view(torch.int16) for name in names}))


@case(INPUT, "--dtype casts no numbers of dtype F8_E4M3", flags=("--to", "hf", "--dtype", "bf16"))
def weights_that_no_cast_knows(folder):
    edit_tensors(weights(folder), lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].to(torch.float8_e4m3fn)}))


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


@case(INPUT, "model.safetensors.index.json", "lm_head.weight is in model-0000", "wanted in model-0000")
def index_with_the_wrong_shard(folder):
    index, files = sharded(folder)
    right = index["weight_map"]["lm_head.weight"]
    index["weight_map"]["lm_head.weight"] = next(file for file in files if file != right)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case(0, "warning: ", "leaves out", "lm_head.weight in model-0000")
def index_without_a_tensor(folder):
    index, _ = sharded(folder)
    del index["weight_map"]["lm_head.weight"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case(0, "warning: ", "what no file has", "model.gone.weight in model-00001-of-00002.safetensors")
def index_with_a_tensor_of_no_file(folder):
    index, files = sharded(folder)
    index["weight_map"]["model.gone.weight"] = files[0]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case(0, "warning: ", "ignored model-00003-of-00003.safetensors", "in no weight_map")
def shard_that_no_index_names(folder):
    _, files = sharded(folder)
    shutil.copy(folder / files[0], folder / "model-00003-of-00003.safetensors")


@case(0, "warning: ", "ignored model-00001-of-00002.safetensors and 2 more", "model.safetensors is the model")
def one_file_and_an_index(folder):
    whole = weights(folder).read_bytes()
    sharded(folder)
    weights(folder).write_bytes(whole)


@case(INPUT, "no index model.safetensors.index.json")
def shards_without_an_index(folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").unlink()


def add_bin(folder):
    torch.save(load_file(weights(folder)), folder / "pytorch_model.bin")


@case(0, "warning: ", "ignored its hf-bin files", "--from hf-bin", source="hf")
def two_spellings_of_one_folder(folder):
    add_bin(folder)


@case(0, "dropped: model.layers.{l}.self_attn.rotary_emb.inv_freq: 5 tensors")
def rotary_buffers(folder):
    buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(3) for layer in range(5)}
    edit_tensors(weights(folder), lambda tensors: tensors.update(buffers))


@case(0, "dropped: transformer.h.{l}.attn.bias: 1 tensor,", "dropped: transformer.h.{l}.attn.masked_bias: 2 tensors", source="hf gpt2")
def masks_of_gpt2(folder):
    bare = not any(name.startswith("transformer.") for name in load_file(weights(folder)))
    prefix = "" if bare else "transformer."
    buffers = {f"{prefix}h.0.attn.bias": torch.ones(1), f"{prefix}h.0.attn.masked_bias": torch.ones(1), f"{prefix}h.1.attn.masked_bias": torch.ones(1)}
    edit_tensors(weights(folder), lambda tensors: tensors.update(buffers))


@case(INPUT, "index.json")
def index_not_json(folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text("{")


if __name__ == "__main__":
    sys.exit(run_cases(sys.argv[1:]))

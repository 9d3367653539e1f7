"""Open-sci models: what LAION's training wrote, to the Hugging Face folder that their users load, and back.

Faults of the original converter are named S1 to S16 as in the format's description.

usage: opensci_test.py RESHARD MPIEXEC DATA
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
from programs import Checks, Reshard

# Rows that the fixture's hf/ keeps, with padding, and what its norms ask for.
CASES = {
    "opensci-small": ["--vocab-size", 128],
    "opensci-bias": ["--vocab-size", 224, "--family", "opensci"],
    "opensci-1p": ["--vocab-size", 96, "--family", "opensci", "--dtype", "fp32"],
}
# What the original writes wrong (S12), or only its library writes.
THEIRS = {"_name_or_path", "pretraining_tp", "transformers_version", "layer_norm_eps", "architectures", "bos_token_id", "eos_token_id", "max_position_embeddings"}
OURS = {"auto_map", "partial_rotary_factor"}


def layouts(case):
    return sorted(path for path in case.iterdir() if path.name.startswith("torch"))


def check_folder(reshard, source, case, target):
    """S1 S2 S3: from every layout the fixture's own file, bit for bit, and its config field by field."""
    flags = CASES[case.name]
    if source.name == "torch_dist-tp1-pp2":  # whose 216 rows the fixture's 224 hold
        flags = ["--family", "opensci"]
    reshard.convert(source, target, "--to", "hf", *flags)
    wanted, seen = (json.loads((folder / "config.json").read_text()) for folder in (case / "hf", target))
    differing = {key for key in wanted.keys() | seen.keys() if wanted.get(key) != seen.get(key)}
    if "--vocab-size" in flags:
        assert (target / "model.safetensors").read_bytes() == (case / "hf" / "model.safetensors").read_bytes()
        assert differing <= THEIRS | OURS, differing
    else:
        rows = seen["vocab_size"]
        assert rows == 211, rows
        true, ours = (files.huggingface_tensors(folder) for folder in (case / "hf", target))
        for name, (dtype, shape, data) in ours.items():
            assert true[name][0] == dtype and true[name][2][: len(data)] == data, name
        assert true.keys() == ours.keys()
    assert seen["architectures"] == ["OpensciForCausalLM"] and seen["rope_scaling"] is not True
    reshard.run("verify", target)


def check_back(reshard, case, scratch):
    """S14: and back, into both formats of Megatron, at other degrees."""
    for to, tp in (("megatron", 2), ("megatron-dist", 2)):
        there, again = scratch / to, scratch / f"{to}-hf"
        reshard.convert(case / "hf", there, "--to", to, "--tp", tp, "--pp", 1)
        reshard.convert(there, again, "--to", "hf", "--family", "opensci")
        assert files.huggingface_tensors(again) == files.huggingface_tensors(case / "hf"), to


def check_zero_bias(reshard, case, scratch):
    """A zero o_proj.bias, there for the config's one flag alone, keeps no container from going back; one that is a weight does."""
    ways = {"hf": [], "hf-bin": [], "hdf5": [], "packed": ["--hdf5-filter", "fletcher32"], "roles": ["--hdf5-names", "canonical"]}
    for name, flags in ways.items():
        to = name if name.startswith("h") else "hdf5"
        reshard.convert(layouts(case)[0], scratch / name, "--to", to, "--family", "opensci", *flags)
        reshard.convert(scratch / name, scratch / f"{name}-back", "--to", "megatron", "--tp", 2)
        reshard.run("compare", scratch / f"{name}-back", layouts(case)[0])
    weights = scratch / "hf" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    place = json.loads(content[8:begin])["model.layers.3.self_attn.o_proj.bias"]["data_offsets"]
    content[begin + place[1] - 1] = 0x80  # -0.0
    weights.write_bytes(content)
    done = refused(reshard, scratch / "hf", scratch / "other", to="megatron")
    assert "output_bias = true" in done.stderr and "add_bias_linear" in done.stderr, done.stderr


def make_template(folder, without=None):
    """Model code, configuration code and tokenizer of the user's own."""
    folder.mkdir()
    classes = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    contents = {
        "config.json": {"model_type": "opensci", "hidden_size": 4096, "auto_map": classes | {"AutoModel": "someone/else--modeling.Model"}},
        "tokenizer_config.json": {"bos_token": "<|start|>", "eos_token": {"content": "<|end|>", "special": True}, "pad_token": None},
        "special_tokens_map.json": {"pad_token": "<|pad|>", "eos_token": "<|other|>"},
        "tokenizer.json": {
            "added_tokens": [{"id": 5, "content": "<|start|>"}, {"id": 9, "content": "<|end|>"}],
            "model": {"type": "BPE", "vocab": {"<|other|>": 1, "<|pad|>": 77, "model": 3}, "merges": [["a", "b"]] * 5},
        },
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    for name in ("configuration_own.py", "modeling_own.py", "notes.txt"):
        if name != without:
            (folder / name).write_text(f"# {name}\n")
    return folder


def check_template(reshard, case, scratch):
    """S8 S12: the user's files travel, family and auto_map are theirs, special tokens the tokenizer's, sizes the checkpoint's."""
    template, target = make_template(scratch / "template"), scratch / "hf"
    reshard.convert(layouts(case)[0], target, "--to", "hf", "--hf-template", template, ranks=2)
    config = json.loads((target / "config.json").read_text())
    assert config["model_type"] == "opensci" and config["hidden_size"] == 32
    assert config["auto_map"] == json.loads((template / "config.json").read_text())["auto_map"]
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [5, 9, 77]
    for path in template.iterdir():
        if path.name == "notes.txt":
            assert not (target / path.name).exists()
        elif path.name != "config.json":
            assert (target / path.name).read_bytes() == path.read_bytes(), path.name
    for name, wanted in (("modeling_own.py", 3), ("none", 2)):
        folder = scratch / name
        if wanted == 3:
            make_template(folder, without=name)
        done = refused(reshard, layouts(case)[0], scratch / "refused", "--hf-template", folder)
        assert done.returncode == wanted and name in done.stderr and "--hf-template" in done.stderr, done.stderr


def refused(reshard, source, target, *flags, to="hf"):
    """A conversion that must fail and leave nothing under the target's name."""
    command = [reshard.binary, "convert", str(source), str(target), "--to", to, *map(str, flags)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert done.returncode in (2, 3), f"exit {done.returncode}: {done.stderr}"
    assert not target.exists()
    return done


def check_refusals(reshard, data, scratch):
    """S6 S10 S12: what the target cannot hold is refused with the flag that helps, and nothing lies there."""
    for source in layouts(data / "opensci-1p"):
        done = refused(reshard, source, scratch / "hf")
        assert "--dtype fp32" in done.stderr and "zero-centred" in done.stderr, done.stderr
    case = data / "opensci-small"
    rank = scratch / "halved"
    shutil.copytree(layouts(data / "opensci-bias")[0], rank)
    next(rank.rglob("mp_rank_01/*.pt")).unlink()  # S3: one of two tensor parallel ranks
    assert "mp_rank_01" in refused(reshard, rank, scratch / "hf").stderr
    config = scratch / "config.json"
    told = json.loads((case / "hf" / "config.json").read_text())
    config.write_text(json.dumps(told | {"vocab_size": 101, "intermediate_size": 64}))  # S2: sizes of another model
    done = refused(reshard, layouts(case)[0], scratch / "hf", "--config", config)
    assert "ffn" in done.stderr or "intermediate_size" in done.stderr, done.stderr


def main(arguments):
    binary, mpiexec, data, *words = arguments
    reshard, checks, data = Reshard(binary, mpiexec), Checks(), pathlib.Path(data, "opensci")
    work = [(f"{case} {source.name}", check_folder, (source, data / case)) for case in CASES for source in layouts(data / case)]
    work += [(f"{case} back", check_back, (data / case,)) for case in CASES]
    work += [("zero bias", check_zero_bias, (data / "opensci-bias",))]
    work += [("template", check_template, (data / "opensci-bias",)), ("refusals", check_refusals, (data,))]
    for name, check, inputs in work:
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory() as scratch, checks.case(name):
            folder = pathlib.Path(scratch)
            check(reshard, *inputs, folder / "hf" if check is check_folder else folder)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

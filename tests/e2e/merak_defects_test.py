"""What Merak's own tools get wrong, by the numbers of the list of their defects in the format's description.

B1 and B20 are in merak_test.py, over all degrees and partitions.

usage: merak_defects_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import itertools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
import torch
from merak_trees import TRACED, TRACKER, Bench, make_gpt2, model_of, ranks_of, refused, same, tree, unit_of
from programs import Checks, Reshard
from safetensors import safe_open

TO = ["--to", "merak", "--merak-era", "1"]
CASES = []


def defect(function):
    """Registers a check, which is given a Bench with a model; its docstring is the case's name."""
    CASES.append(function)
    return function


@defect
def scrambled(bench):
    """B2 B3 tp 4 -> hf: order of c_attn, names and orientation"""
    assert bench.hf(bench.convert(bench.model, *TO, "--tp", 4, "--pp", 2)) == bench.wanted


@defect
def whole_names(bench):
    """B4 tp 1 has plain names in Conv1D orientation"""
    names = ranks_of(bench.convert(bench.model, *TO))["."]
    assert not any("_linear" in name for name in names)
    assert names["module.2.transformer.h.0.mlp.c_fc.weight"][1] == (16, 64)


@defect
def untied_head(bench):
    """B5 an untied head stays its own"""
    untied = bench.scratch / "untied"
    make_gpt2(untied, tied=False)
    for era in (1, 2):
        assert bench.hf(bench.convert(untied, "--to", "merak", "--merak-era", era, "--tp", 2, "--pp", 2)) == files.huggingface_tensors(untied)


@defect
def tied_head(bench):
    """B5 a tied head that differs is refused"""
    target = bench.convert(bench.model, *TO)
    path = target / "iter_0000000_all_dp" / "model_optim.pt"
    content = torch.load(path)
    content["model"]["module.7.lm_head.weight"][3, 3] += 1
    torch.save(content, path)
    refused(bench.reshard, "convert", target, bench.place(), "--to", "hf", says=["lm_head.weight"])


@defect
def release(bench):
    """B6 --for-release"""
    source = bench.convert(bench.model, *TO, "--tp", 2, "--iteration", 30)
    assert (source / TRACKER).read_text() == "30" and unit_of(source).name == "iter_0000030"
    content = files.read_torch(unit_of(source) / "mp_rank_00" / "partial_model_optim.pt")
    assert content["iteration"] == 30 and content["checkpoint_version"] == 3.0
    target = bench.convert(source, *TO, "--tp", 2, "--for-release")
    assert (target / TRACKER).read_text() == "release" and unit_of(target).name == "release"
    assert "iteration" not in files.read_torch(unit_of(target) / "mp_rank_00" / "partial_model_optim.pt")


@defect
def megatron_ranks(bench):
    """B7 ranks of a Megatron target hold their own slices"""
    source = bench.convert(bench.model, *TO, "--tp", 4)
    assert bench.hf(bench.convert(source, "--to", "megatron", "--tp", 2, "--pp", 5)) == bench.wanted


@defect
def what_is_read(bench):
    """B8 weights are read once by all ranks together, files and entries of the optimizer not at all"""
    source = bench.place("large")
    sizes = ["--family", "gpt2", "--layers", 4, "--hidden", 128, "--heads", 4, "--vocab", 1000, "--dtype", "fp32"]
    bench.reshard.run("sample", source, *sizes, *TO, "--tp", 2, "--pp", 2, "--merak-buffers", "none")
    payload = 0
    for path in source.rglob("partial_model_optim.pt"):
        content = torch.load(path)
        mine = sum(tensor.numel() * tensor.element_size() for tensor in content["model"].values())
        payload += mine
        content["optimizer"] = {"state": {0: {"exp_avg": torch.ones(mine), "exp_avg_sq": torch.ones(mine)}}}
        torch.save(content, path, _use_new_zipfile_serialization=False)
        assert path.stat().st_size > 8 * mine
    for path in (bench.scratch, source, *source.rglob("*")):
        os.chmod(path, 0o755)
    for k, r, s in itertools.product(range(2), range(2), range(2)):
        with open(source / "release" / f"zero_dp_rank_{k}_mp_rank_{r}_pp_rank_{s}_opt_states.pt", "wb") as file:
            file.truncate(1 << 40)
            os.fchmod(file.fileno(), 0)
    for ranks in (1, 3):
        target = bench.place()
        target.mkdir(mode=0o777)
        os.chmod(target, 0o777)
        report = json.loads(as_nobody(bench, ranks, "convert", source, target / "merak", *TO, "--tp", 4, "--json", "--quiet"))
        assert payload <= report["read"]["sum"] <= 1.02 * payload, f"{report['read']} for tensors of {payload} bytes"
        assert len(report["read"]["by_rank"]) == ranks and max(report["read"]["by_rank"]) < (1.02 if ranks == 1 else 0.6) * payload
        assert "8 ZeRO files of the optimizer" in report["dropped"], report["dropped"]


def as_nobody(bench, ranks, *arguments):
    """Runs reshard as a user who may not read files of mode 0, which root may."""
    launcher = [] if ranks == 1 else [bench.reshard.mpiexec, "--oversubscribe", "-n", str(ranks)]
    command = [*launcher, bench.reshard.binary, *map(str, arguments)]
    user = {"user": 65534, "cwd": "/", "env": os.environ | {"OMPI_MCA_orte_tmpdir_base": tempfile.gettempdir()}} if os.getuid() == 0 else {}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, **user)
    assert done.returncode == 0, f"exit {done.returncode}: {(done.stderr + done.stdout)[-1500:]}"
    return done.stdout


@defect
def tight(bench):
    """B9 files hold no more than their slices"""
    target = bench.convert(bench.model, *TO, "--tp", 4, "--pp", 2)
    for path in target.rglob("*.pt"):
        payload = sum(tensor.numel() * tensor.element_size() for tensor in model_of(path).values())
        held = sum(tensor.untyped_storage().nbytes() for tensor in model_of(path).values())
        assert held == payload, f"{path}: storages of {held} bytes for tensors of {payload}"


@defect
def other_files(bench):
    """B10 other files beside are named, not read"""
    source = bench.convert(bench.model, *TO, "--tp", 2, "--pp", 2)
    (source / "release" / "notes.json").write_text("{}")
    (source / "release" / "aaa").mkdir()
    (source / "release" / "mp_rank_00_pp_rank_000" / "lora_partial_model_optim.pt").write_bytes(b"")
    for k, r, s in itertools.product(range(3), range(2), range(2)):
        (source / "release" / f"zero_dp_rank_{k}_mp_rank_{r}_pp_rank_{s}_opt_states.pt").write_bytes(b"")
    assert bench.hf(source) == bench.wanted
    report = json.loads(bench.reshard.run("inspect", source, "--json"))
    assert report["parallelism"]["dp"] == 3 and "12 ZeRO files of the optimizer" in report["dropped"], report["dropped"]


@defect
def rank_numbers(bench):
    """B10 ranks are numbers"""
    source = bench.convert(bench.model, *TO, "--pp", 2)
    (source / "release" / "mp_rank_00_pp_rank_001").rename(source / "release" / "mp_rank_0_pp_rank_1")
    assert bench.hf(source) == bench.wanted


@defect
def heads(bench):
    """B11 heads that do not divide are refused"""
    refused(bench.reshard, "convert", bench.model, bench.place(), *TO, "--tp", 8, says=["groups 4", "8 ranks"])


@defect
def shapes(bench):
    """B11 B12 only GPT-2's own shapes are parallel; others stay whole"""
    wide = bench.scratch / "wide"
    make_gpt2(wide, inner=40)
    target = bench.convert(wide, *TO, "--tp", 2)
    names = ranks_of(target)["mp_rank_00"]
    assert names["module.2.transformer.h.0.mlp.c_fc.weight"][1] == (16, 40)
    assert bench.hf(target) == files.huggingface_tensors(wide)
    square = bench.scratch / "square"
    make_gpt2(square, inner=48)
    refused(bench.reshard, "convert", square, bench.place(), *TO, "--tp", 2, says=["inner size of 48"])


@defect
def unknown_tensor(bench):
    """B12 a tensor that no family has is refused"""
    target = bench.convert(bench.model, *TO)
    path = target / "iter_0000000_all_dp" / "model_optim.pt"
    content = torch.load(path)
    content["model"]["module.7.score.weight"] = torch.zeros(2, 16)
    torch.save(content, path)
    refused(bench.reshard, "convert", target, bench.place(), "--to", "hf", says=["score.weight"])


@defect
def tied_keys(bench):
    """B13 tied_modules and constants of the trace"""
    target = bench.convert(bench.model, *TO, "--tp", 2, "--pp", 2, *TRACED, "--vocab-parallel", "no")
    names = ranks_of(target)["mp_rank_01_pp_rank_001"]
    assert "module.tied_modules.torch_Size([50, 16]).weight" == next(iter(names))
    assert bench.hf(target) == bench.wanted


class Runs:
    """Runs a command when it is unpickled by Python."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


NOWHERE = ("Merak", "Merak.merak_args.args")


def arguments_of_merak():
    """Arguments of a training run, of a class that nobody can import afterwards."""
    module = types.ModuleType("Merak.merak_args.args")
    module.MerakArguments = type("MerakArguments", (), {"__module__": module.__name__})
    sys.modules.update({name: module for name in NOWHERE})
    arguments = module.MerakArguments()
    arguments.__dict__.update(parallel_vocab=True, tp=2, pp=1, train_schedule=module.MerakArguments)
    return arguments


@defect
def data_only(bench):
    """B14 classes that cannot be imported and commands in a pickle are data: nothing runs"""
    mark = bench.place("executed")
    for zipped, evil_args in itertools.product((True, False), (False, True)):
        source = bench.convert(bench.model, *TO, "--tp", 2)
        for path in source.rglob("*.pt"):
            content = torch.load(path)
            content["args"] = Runs(mark) if evil_args else arguments_of_merak()
            content["lr_scheduler"] = {"lr_lambdas": [Runs(mark), None]}
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
        for name in NOWHERE:
            sys.modules.pop(name, None)
        for ranks in (1, 3):
            same(files.huggingface_tensors(bench.convert(source, "--to", "hf", ranks=ranks)), bench.wanted, "hf")
        bench.reshard.run("inspect", source, "--json")
        assert "posix.system" in bench.reshard.run("inspect", path) and not mark.exists()
    content["model"]["module.1.transformer.wpe.weight"] = Runs(mark)
    torch.save(content, path)
    refused(bench.reshard, "convert", source, bench.place(), "--to", "hf", says=["wpe.weight"])
    assert not mark.exists(), "the pickle was executed"
    subprocess.run([sys.executable, "-c", f"import torch; torch.load({str(path)!r}, weights_only=False)"], stderr=subprocess.DEVNULL)
    assert mark.exists(), "Python would not have run it either"


@defect
def dtypes(bench):
    """B15 dtype is kept or asked for, shards and safetensors"""
    source = bench.convert(bench.model, *TO, "--tp", 2, "--dtype", "fp16")
    shards = bench.convert(source, "--to", "hf", "--max-shard-size", "20KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    assert {value[0] for value in files.huggingface_tensors(shards).values()} == {"F16"}
    assert {name: value.half() for name, value in bench.tensors.items()}.keys() == files.huggingface_tensors(shards).keys()


@defect
def travel(bench):
    """B16 B23 config.json and tokenizer travel, and no flag is needed to go on"""
    rich = bench.scratch / "rich"
    shutil.copytree(bench.model, rich)
    (rich / "tokenizer.json").write_text('{"version": "1.0"}')
    one = bench.convert(rich, *TO, "--tp", 2, "--pp", 2)
    two = bench.convert(one, "--to", "merak", "--tp", 4, "--merak-era", "2")
    back = bench.convert(two, "--to", "hf")
    assert (back / "tokenizer.json").read_text() == '{"version": "1.0"}'
    assert json.loads((back / "config.json").read_text()) == json.loads((rich / "config.json").read_text())
    assert files.huggingface_tensors(back) == bench.wanted


@defect
def tracker_last(bench):
    """B17 a conversion that dies leaves the tracker and what it names"""
    root = bench.convert(bench.model, *TO, "--tp", 2, "--pp", 2, "--iteration", 10)
    before = tree(root)
    command = [bench.reshard.binary, "convert", bench.model, root, *TO, "--tp", "2", "--iteration", "30"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode != 0
    hidden = lambda name: any(part.startswith(".") for part in pathlib.Path(name).parts)
    assert {name: data for name, data in tree(root).items() if not hidden(name)} == before
    assert bench.hf(root) == bench.wanted
    bench.reshard.run(*command[1:])
    assert (root / TRACKER).read_text() == "30" and bench.hf(root) == bench.wanted
    assert {name: data for name, data in tree(root).items() if name in before and name != TRACKER} == {name: data for name, data in before.items() if name != TRACKER}


@defect
def failed(bench):
    """B18 a failed conversion leaves nothing and tells"""
    target = bench.place()
    refused(bench.reshard, "convert", bench.model, target, *TO, "--tp", 3, says=["3 ranks"])
    assert not target.exists()


@defect
def many_layers(bench):
    """B19 more than 100 layers"""
    deep = bench.scratch / "deep"
    make_gpt2(deep, layers=103, hidden=8, heads=2, positions=4, vocab=8)
    assert bench.hf(bench.convert(deep, *TO, "--tp", 2, "--pp", 5)) == files.huggingface_tensors(deep)


@defect
def position_kinds(bench):
    """B21 Megatron-DeepSpeed models with rotary and ALiBi positions"""
    llama, bloom = (bench.data / "deepspeed" / name for name in ("megds-llama", "megds-bloom"))
    for flags in (["--tp", 2, "--pp", 2], ["--pp", 3]):
        merak = bench.convert(llama / "tp2-pp2-dp2", "--to", "merak", *flags)
        direct = bench.convert(llama / "hf", "--to", "merak", *flags, "--vocab-multiple", 224 if flags[0] == "--pp" else 112)
        assert not any("position" in name or "wpe" in name for rank in ranks_of(merak).values() for name in rank)
        same(bench.hf(merak), files.huggingface_tensors(llama / "hf"), "hf")
        seen, wanted = ranks_of(merak), ranks_of(direct)
        assert seen.keys() == wanted.keys() and all(list(seen[rank]) == list(wanted[rank]) for rank in wanted)
    same(bench.hf(bloom / "tp2-pp2-dp2"), files.huggingface_tensors(bloom / "hf"), "hf")
    refused(bench.reshard, "convert", bloom / "tp2-pp2-dp2", bench.place(), "--to", "merak", says=["bloom"])


@defect
def standard_folder(bench):
    """B22 Merak v2 -> a standard Hugging Face folder, at tp 1 pp 1 too, with a head that ranks have parts of"""
    for flags in (["--tp", 2, "--pp", 2, "--vocab-parallel", "yes", "--merak-tied-keys", "yes"], ["--merak-tied-keys", "yes"], ["--tp", 4, "--pp", 3]):
        merak = bench.convert(bench.model, "--to", "merak", "--merak-era", 2, *flags)
        folder = bench.convert(merak, "--to", "hf", "--max-shard-size", "30KB")
        assert files.huggingface_tensors(folder) == bench.wanted
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.numel() * 4 for tensor in bench.tensors.values())
        shards = sorted(path.name for path in folder.glob("*.safetensors"))
        assert shards == [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        assert set(index["weight_map"].values()) == set(shards) and index["weight_map"].keys() == bench.tensors.keys()
        for shard in shards:
            with safe_open(folder / shard, "pt") as file:
                assert file.metadata() == {"format": "pt"}
                assert all(torch.equal(file.get_tensor(name), bench.tensors[name]) for name in file.keys())


@defect
def all_dp(bench):
    """B24 names of a whole model's folder, both eras"""
    for era, folder in (("1", "iter_0000000_all_dp"), ("1-flat", "iter_0000000_all_dp"), ("2", "release")):
        target = bench.convert(bench.model, "--to", "merak", "--merak-era", era)
        assert (target / folder / "model_optim.pt").exists() and (target / TRACKER).read_text() == "release"
        assert bench.hf(target) == bench.wanted


def main(arguments):
    binary, mpiexec, data, *words = arguments
    checks = Checks()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Reshard(binary, mpiexec), checks, data, scratch)
        bench.model = bench.scratch / "model"
        bench.tensors = make_gpt2(bench.model, vocab=50, seed=2)
        bench.wanted = files.huggingface_tensors(bench.model)
        for function in CASES:
            if words and not any(word in function.__doc__ for word in words):
                continue
            with checks.case(function.__doc__):
                function(bench)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

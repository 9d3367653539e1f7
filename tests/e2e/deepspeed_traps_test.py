"""What is easily got wrong in DeepSpeed's folders, by the numbers of the list of traps in the format's description.

Traps of the optimizer's states (8, 14, 16, 20, 26) have no test: these are counted and left out.

usage: deepspeed_traps_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import itertools
import json
import pathlib
import pickletools
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
import deepspeed_trees
import torch
from deepspeed_trees import check_same, edit, layer_files, model_states, optimizer, rename, unit_of
from programs import Checks, Reshard

BLOOM, GPT2, LLAMA = "megds-bloom/tp2-pp2-dp2", "megds-gpt2/tp2-pp2-dp2", "megds-llama/tp2-pp2-dp2"
ZERO = "zero-llama/zero1-dp2"
MEGDS = ("--to", "megatron-deepspeed")
CASES = []


def trap(function):
    """Registers a check, which is given a Bench; its docstring is the case's name."""
    CASES.append(function)
    return function


class Bench:
    """Copies of fixtures, and what reshard makes of them."""

    def __init__(self, reshard, data, scratch):
        self.reshard, self.data, self.scratch = reshard, data, pathlib.Path(scratch)
        self.numbers = itertools.count()

    def place(self):
        return self.scratch / str(next(self.numbers))

    def copy(self, source, *changes):
        root = self.place()
        shutil.copytree(self.data / source, root)
        for change in changes:
            change(unit_of(root))
        return root

    def convert(self, source, *flags, ranks=1):
        target = self.place()
        self.reshard.convert(source, target, *flags, ranks=ranks)
        return target

    def inspect(self, root, *flags):
        return json.loads(self.reshard.run("inspect", root, "--json", *flags))

    def same_as_hf(self, root, source, *flags):
        check_same(self.convert(root, "--to", "hf", *flags), (self.data / source).parent / "hf")

    def refused(self, root, *says, code=3, flags=("--to", "hf")):
        """A failure with each of the words in its text, and nothing under the target's name."""
        target = self.place()
        command = [self.reshard.binary, "convert", str(root), str(target), *map(str, flags)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f"exit {done.returncode}: {done.stderr[-500:]}"
        missing = [word for word in says if word not in done.stderr]
        assert not missing, f"message lacks {missing}: {done.stderr[-1000:]}"
        assert not target.exists(), "a target is there"


@trap
def data_ranks(bench):
    """trap 1 zero_pp_rank_ is the data-parallel rank, whatever the prefix"""
    for prefix, end in (("", "_optim_states.pt"), ("bf16_", "_optim_states.pt"), ("fp16_", "_optim_states.pt"), ("", "optim_states.pt")):
        name = prefix + "zero_pp_rank_{0}_mp_rank_{1:02d}" + end
        grid = itertools.product(range(3), range(4))
        root = bench.copy(LLAMA, edit(lambda content: content.update(dp_world_size=3)), optimizer(grid, name))
        report = bench.inspect(root)
        assert [report["parallelism"][key] for key in ("tp", "pp", "dp")] == [2, 2, 3], f"{name}: {report['parallelism']}"
        assert any("12 files of 3 data-parallel ranks" in line for line in report["dropped"]), report["dropped"]


@trap
def large_numbers(bench):
    """trap 2 23 more than 100 layers, mp ranks and 10 data ranks are numbers"""
    sizes = ["--family", "gpt2", "--layers", 103, "--hidden", 8, "--heads", 2, "--vocab", 16, "--positions", 4]
    hf, deep = bench.place(), bench.place()
    bench.reshard.run("sample", hf, *sizes, "--to", "hf")
    bench.reshard.run("sample", deep, *sizes, *MEGDS, "--lineage", "bigscience", "--pp", 103)
    assert (unit_of(deep) / "layer_105-model_00-model_states.pt").exists() and len(model_states(deep)) == 103
    check_same(bench.convert(deep, "--to", "hf"), hf)
    assert bench.inspect(deep)["parallelism"]["pp"] == 103
    wide = bench.copy(LLAMA, edit(lambda content: content.update(dp_world_size=12)), optimizer(itertools.product(range(12), range(4))))
    assert bench.inspect(wide)["parallelism"]["dp"] == 12


@trap
def short_numbers(bench):
    """trap 23 numbers of one digit"""
    root = bench.copy(LLAMA, rename("*", lambda name: re.sub(r"_0(\d)", r"_\1", name)))
    assert (unit_of(root) / "layer_3-model_1-model_states.pt").exists()
    bench.same_as_hf(root, LLAMA)


@trap
def first_numbers(bench):
    """trap 3 the lineages' numbers of layers, and either is read by what files hold"""
    for lineage, first, norm in (("bigscience", 3, 9), ("deepspeed", 2, 7)):
        root = bench.convert(bench.data / "megds-gpt2" / "hf", *MEGDS, "--lineage", lineage, "--pp", 2)
        numbers = [int(re.match(r"layer_(\d+)", name)[1]) for name in layer_files(root)]
        assert numbers == [1, *range(first, first + 5), norm], numbers
        bench.same_as_hf(root, GPT2)
        rename("layer_*", lambda name: re.sub(r"\d+", lambda number: f"{int(number[0]) + 1:02d}", name, count=1))(unit_of(root))
        assert not (unit_of(root) / "layer_01-model_00-model_states.pt").exists()
        bench.same_as_hf(root, GPT2)


@trap
def last_file(bench):
    """trap 4 the last file of a llama tree is the head"""
    for root in (bench.data / LLAMA, bench.convert(bench.data / "megds-llama" / "hf", *MEGDS, "--tp", 2)):
        names = {name: list(tensors) for name, tensors in layer_files(root).items()}
        assert names["layer_06-model_00-model_states.pt"] == ["weight"] and names["layer_07-model_01-model_states.pt"] == ["lm_head.weight"]
        tensors = files.huggingface_tensors(bench.convert(root, "--to", "hf"))
        assert tensors["lm_head.weight"] != tensors["model.embed_tokens.weight"]
        bench.same_as_hf(root, LLAMA)


@trap
def qkv_layouts(bench):
    """trap 5 rows of query_key_value: grouped and blocked are told apart by word, never guessed"""
    model = bench.data / "megds-gpt2-blocked" / "hf"
    rows = {}
    for layout in ("grouped", "blocked"):
        root = bench.convert(model, *MEGDS, "--tp", 2, "--mds-qkv-layout", layout)
        rows[layout] = layer_files(root)["layer_02-model_01-model_states.pt"]["self_attention.query_key_value.weight"]
        check_same(bench.convert(root, "--to", "hf"), model)  # reshard's own files tell
        for path in unit_of(root).glob("mp_rank_*"):
            content = torch.load(path, weights_only=False)
            assert content.pop("reshard_qkv_layout") == layout
            torch.save(content, path)
        check_same(bench.convert(root, "--to", "hf", "--mds-qkv-layout", layout), model)
    heads, size = 2, rows["grouped"].shape[0] // 6  # of a tp rank; of a head
    grouped = rows["grouped"].reshape(heads, 3, size, -1)
    assert torch.equal(grouped.transpose(0, 1).reshape(rows["blocked"].shape), rows["blocked"])
    assert not torch.equal(rows["grouped"], rows["blocked"])


@trap
def half_order(bench):
    """trap 5 BigScience's gated halves: no family has them, and they are refused"""

    def gate(content):
        content["args"].glu_activation, content["args"].bias_gelu_fusion = "swiglu", False

    root = bench.copy(GPT2, edit(gate))
    bench.refused(root, "no family computes the function that args describe")
    bench.refused(root, "gated", flags=("--to", "hf", "--family", "gpt2"))


@trap
def embedding_norm(bench):
    """trap 7 replicated tensors of the embedding are not put together"""
    tensors = files.huggingface_tensors(bench.convert(bench.data / BLOOM, "--to", "hf"))
    hidden = tensors["transformer.word_embeddings.weight"][1][1]
    assert tensors["transformer.word_embeddings_layernorm.weight"][1] == (hidden,)
    bench.same_as_hf(bench.data / BLOOM, BLOOM)
    types = edit(lambda content: content.update({"tokentype_embeddings.weight": torch.zeros(2, hidden)}), "layer_01*")
    bench.refused(bench.copy(BLOOM, types), "tokentype_embeddings.weight", "layer_01-model_00")


@trap
def vocabulary(bench):
    """trap 9 padding of the vocabulary follows tp, and so do the sizes in args and beside"""
    for source, info, name in ((GPT2, "checkpoint_info", "bigscience"), (LLAMA, "universal_checkpoint_info", "deepspeed")):
        true = layer_files(bench.data / source)["layer_01-model_00-model_states.pt"]["word_embeddings.weight"]
        for tp, multiple in ((1, 8), (2, 8), (1, 128), (2, 64)):
            root = bench.convert(bench.data / source, *MEGDS, "--tp", tp, "--vocab-multiple", multiple)
            padded = -(-211 // (multiple * tp)) * multiple * tp
            for content in model_states(root):
                assert content["args"].padded_vocab_size == padded and content["args"].make_vocab_size_divisible_by == multiple
                assert content[info]["padded_vocab_size"] == padded and content[info]["original_vocab_size"] == 211, content[info]
            shards = layer_files(root)
            shards = [shards[f"layer_01-model_{rank:02d}-model_states.pt"]["word_embeddings.weight"] for rank in range(tp)]
            assert {len(shard) for shard in shards} == {padded // tp}
            assert torch.equal(torch.cat(shards)[: len(true)], true)
            assert not torch.cat(shards)[224:].any(), "rows that the source lacks are not zero"
            bench.same_as_hf(root, source)


@trap
def what_is_always_needed(bench):
    """trap 10 11 latest without a newline, dp_world_size in every file; a tree without latest"""
    root = bench.convert(bench.data / LLAMA, *MEGDS, "--tp", 2, "--pp", 4)
    assert (root / "latest").read_bytes() == b"global_step3"
    assert [content["dp_world_size"] for content in model_states(root)] == 8 * [1]
    assert not list(unit_of(root).glob("*zero*")), "files of an optimizer"
    (root / "latest").unlink()
    bench.refused(root, "no checkpoint")
    bench.same_as_hf(root / "global_step3", LLAMA)


@trap
def views(bench):
    """trap 12 tensors that are views of one storage; what is written has storages of its own"""

    def flatten(content):
        at, flat = 5, torch.full((5 + sum(2 * tensor.numel() for tensor in content.values()),), 7, dtype=torch.bfloat16)
        for name, tensor in content.items():
            shape = tensor.T.shape if tensor.dim() == 2 else tensor.shape
            view = flat[at : at + tensor.numel()].view(shape)
            content[name] = view.T if tensor.dim() == 2 else view
            content[name].copy_(tensor)
            at += 2 * tensor.numel()

    root = bench.copy(LLAMA, edit(flatten, "layer_*"))
    sample = layer_files(root)["layer_02-model_01-model_states.pt"]["mlp.dense_4h_to_h.weight"]
    assert not sample.is_contiguous() and sample.storage_offset() > 0
    for ranks in (1, 3):
        check_same(bench.convert(root, "--to", "hf", ranks=ranks), bench.data / "megds-llama" / "hf")
    for name, tensors in layer_files(bench.convert(root, *MEGDS, "--tp", 2)).items():
        for tensor in tensors.values():
            assert tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == tensor.numel() * 2, name


@trap
def zero_1(bench):
    """trap 15 frozen and shared parameters of ZeRO 1 lie in module alone"""
    config = bench.data / "zero-llama" / "hf" / "config.json"

    def freeze(content):
        group = content["param_shapes"][0]
        frozen = next(name for name in group if name.endswith("mlp.up_proj.weight"))
        content["frozen_param_shapes"], content["frozen_param_fragments"] = {frozen: group.pop(frozen)}, None

    bench.same_as_hf(bench.copy(ZERO, edit(freeze)), ZERO, "--config", config)
    tied = bench.place().with_suffix(".json")
    tied.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    wanted = files.huggingface_tensors(config.parent)
    wanted.pop("lm_head.weight")

    def tie(content):
        content["module"]["lm_head.weight"] = content["module"]["model.embed_tokens.weight"]
        content["shared_params"] = {"lm_head.weight": "model.embed_tokens.weight"}

    for change in (tie, lambda content: content["module"].pop("lm_head.weight")):
        root = bench.copy(ZERO, edit(change))
        assert files.huggingface_tensors(bench.convert(root, "--to", "hf", "--config", tied)) == wanted
    bench.refused(bench.copy(ZERO), "lm_head.weight", flags=("--to", "hf", "--config", tied))


class Encoded:
    """Pickled as some Pythons pickle a member of an enum: 3.11.2 by getattr, later ones by the value."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@trap
def enums(bench):
    """trap 17 enums in both encodings are read, and no class of DeepSpeed is written"""
    positions = deepspeed_trees.POSITIONS
    for member in (Encoded(positions, positions.absolute.value), Encoded(getattr, positions, "absolute")):
        root = bench.copy(GPT2, edit(lambda content: setattr(content["args"], "position_embedding_type", member)))
        pickle = zipfile.ZipFile(next(unit_of(root).glob("mp_rank_00*"))).read("mp_rank_00_model_states/data.pkl")
        assert (b"getattr" in pickle) == (member.reduced[0] is getattr)
        bench.same_as_hf(root, GPT2)
    for source in (GPT2, LLAMA):
        for path in unit_of(bench.convert(bench.data / source, *MEGDS, "--tp", 2)).glob("*.pt"):
            archive = zipfile.ZipFile(path)
            data = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
            named = {argument for code, argument, _ in pickletools.genops(data) if code.name == "GLOBAL"}
            modules = {word.split(" ")[0].split(".")[0] for word in named}
            assert modules <= {"collections", "torch", "argparse", "megatron", "__builtin__"}, f"{path.name}: {named}"


@trap
def world_size(bench):
    """trap 18 mp_world_size is pp times tp"""
    root = bench.convert(bench.data / LLAMA, *MEGDS, "--tp", 2, "--pp", 4)
    assert [content["mp_world_size"] for content in model_states(root)] == 8 * [8]
    only_tp = bench.copy(LLAMA, edit(lambda content: content.update(mp_world_size=2)))
    assert any("mp_world_size is 2" in line for line in bench.inspect(only_tp)["warnings"])
    bench.same_as_hf(only_tp, LLAMA)
    bench.refused(bench.copy(LLAMA, edit(lambda content: content.update(mp_world_size=8))), "mp_world_size is 8", "4 mp_rank files")


@trap
def patterns(bench):
    """trap 19 patterns of the universal conversion name what they mean and nothing else"""
    shapes = {}
    for tp in (1, 2):
        root = bench.convert(bench.data / LLAMA, *MEGDS, "--tp", tp)
        for file, tensors in layer_files(root).items():
            number = int(re.match(r"layer_(\d+)-model_00", file)[1]) if "model_00" in file else None
            shapes.update({(tp, f"{number}.{name}"): tuple(tensor.shape) for name, tensor in tensors.items() if number is not None})
    info = model_states(root)[0]["universal_checkpoint_info"]
    names = {name for tp, name in shapes}
    matched = lambda key: {name for name in names if any(re.match(pattern, name) for pattern in info[key])}
    whole = {name for name in names if shapes[1, name] == shapes[2, name]}
    by_row = {name for name in names if len(shapes[1, name]) == 2 and shapes[1, name][1] != shapes[2, name][1]}
    assert whole and by_row
    assert matched("tp_replicated_parameter_patterns") == whole
    assert matched("parameter_with_row_parallelism_patterns") == by_row
    assert matched("vocabulary_parameter_patterns") == {"1.word_embeddings.weight", "7.lm_head.weight"}
    assert matched("parameter_with_2_sub_params_cat_dim_0") == {f"{number}.mlp.dense_h_to_4h.weight" for number in range(2, 6)}


@trap
def experts(bench):
    """trap 21 files of experts are no layers"""
    for name in ("layer_0_expert_0_mp_rank_00_model_states.pt", "expert_3_mp_rank_01_model_states.pt"):
        bench.refused(bench.copy(LLAMA, lambda unit: torch.save({}, unit / name)), name, "experts of DeepSpeed are not read")


@trap
def partial_trees(bench):
    """trap 24 the files of one node of a run"""
    for gone in ("layer_*model_01*", "layer_0[45]*", "mp_rank_0[23]*", "*model_01*", "mp_rank_01*"):
        bench.refused(bench.copy(LLAMA, lambda unit: [path.unlink() for path in unit.glob(gone)]))
    half = [(0, 0), (0, 1)]
    bench.refused(bench.copy(LLAMA, optimizer(half)), "2 optimizer files", "times 4 mp_rank files")


@trap
def foreign_names(bench):
    """trap 25 keys of other pipelines fail by their name"""

    def neox(content):
        for name in [name for name in content if name.startswith("self_attention.")]:
            content[name.removeprefix("self_")] = content.pop(name)

    bench.refused(bench.copy(LLAMA, edit(neox, "layer_03*")), "layer_03", "attention.query_key_value.weight")
    bench.refused(bench.copy(LLAMA, edit(lambda content: content.update(scale=torch.ones(1)), "layer_03*")), "layer_03", "scale")
    head = edit(lambda content: content.update({"final_linear.weight": content.pop("lm_head.weight")}), "layer_07*")
    bench.refused(bench.copy(LLAMA, head), "layer_07", "final_linear.weight")


@trap
def left_files(bench):
    """trap 27 29 no file of the optimizer and no foreign mp_rank stays in a tag that is replaced"""
    target = bench.copy(LLAMA, optimizer(itertools.product(range(2), range(4))), edit(lambda content: content.update(mp_world_size=4)))
    bench.reshard.run("convert", bench.data / LLAMA, target, *MEGDS, "--tp", 2, "--overwrite", "--quiet")
    assert sorted(path.name for path in unit_of(target).glob("*_states.pt") if "layer" not in path.name) == ["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"]
    bench.same_as_hf(target, LLAMA)
    fifth = lambda unit: shutil.copy(unit / "mp_rank_00_model_states.pt", unit / "mp_rank_04_model_states.pt")
    bench.refused(bench.copy(LLAMA, fifth), "mp_rank_04")


@trap
def sequence_ranks(bench):
    """trap 28 dp_world_size counts the ranks of a sequence, too"""

    def ulysses(content):
        content["args"].ds_sequence_parallel_size, content["dp_world_size"] = 2, 6

    root = bench.copy(LLAMA, edit(ulysses), optimizer(itertools.product(range(6), range(4))))
    report = bench.inspect(root)
    assert (report["parallelism"]["dp"], report["parallelism"]["cp"]) == (3, 2), report["parallelism"]
    bench.same_as_hf(root, LLAMA)
    odd = bench.copy(LLAMA, edit(lambda content: setattr(content["args"], "ds_sequence_parallel_size", 3)))
    bench.refused(odd, "2 data-parallel ranks are not divided by 3")


def main(arguments):
    binary, mpiexec, data, *words = arguments
    checks = Checks()
    for function in CASES:
        name = function.__doc__
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory() as scratch, checks.case(name):
            function(Bench(Reshard(binary, mpiexec), pathlib.Path(data, "deepspeed"), scratch))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

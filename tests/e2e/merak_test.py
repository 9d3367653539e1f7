"""Merak checkpoints of both eras, of training runs and of Merak's own tools, read and written bit for bit.

usage: merak_test.py RESHARD MPIEXEC DATA [CASE...]
"""

import itertools
import json
import pathlib
import re
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
import torch
from merak_trees import TRACED, TRACKER, Bench, check_expected, make_gpt2, model_of, ranks_of, refused, same, same_ranks, tree, unit_of
from programs import Checks, Reshard

# What gives a framework's or tool's own layout again.
WRITTEN = {
    "gpt2/era1-tp1-pp1": ["--merak-era", "1", *TRACED],
    "gpt2/era1-tp1-pp4-uniform_floor": ["--merak-era", "1", "--partition-method", "uniform_floor", *TRACED],
    "gpt2/era1-tp2-pp1": ["--merak-era", "1", "--vocab-parallel", "no", *TRACED],
    "gpt2/era1-tp2-pp2": ["--merak-era", "1", *TRACED],
    "gpt2/era1-tp2-pp3-custom": ["--merak-era", "1", "--vocab-parallel", "no", "--custom-partition", "0,3,7,9", "--merak-buffers", "traced"],
    "gpt2-fp16/era1-tp2-pp2": ["--merak-era", "1", *TRACED],
    "gpt2-fp16/era2-tp2-pp3-layer_split": ["--merak-era", "2", "--merak-tied-keys", "yes"],
    "gpt2-tools/tool-transformers_to_merak-tp1-pp1": ["--merak-era", "1"],
    "gpt2-tools/tool-transformers_to_merak-tp1-pp2": ["--merak-era", "1"],
    "gpt2-tools/tool-transformers_to_merak-tp2-pp2": ["--merak-era", "1"],
    "gpt2-tools/tool-merak-tp1-pp2": ["--merak-era", "1", "--partition-method", "uniform"],
    "gpt2-tools/tool-merak-tp2-pp2": ["--merak-era", "1", "--partition-method", "uniform"],
    "gpt2-zero/era1-tp2-pp1-dp2": ["--merak-era", "1", *TRACED],
    "gpt2-zero/era1-tp2-pp1-dp2-nozero": ["--merak-era", "1", *TRACED],
    "llama/era2-tp1-pp3": ["--merak-era", "2", "--dtype", "fp32"],
}


def degrees(folder):
    """tp and pp in a layout folder's name."""
    return {key: int(value) for key, value in re.findall(r"(tp|pp)(\d+)", folder.name)}


def hf_folder(case):
    """The truth of a case; the tools were run on the weights of case gpt2."""
    return case / "hf" if (case / "hf").exists() else case.parent / "gpt2" / "hf"


def layouts(data, names):
    """Layout folders of all cases that hold model files."""
    for case in sorted(path for path in pathlib.Path(data, "merak").iterdir() if path.is_dir()):
        if names and case.name not in names:
            continue
        for folder in sorted(case.iterdir()):
            if folder.is_dir() and any(folder.rglob("*model_optim.pt")):
                yield case, folder


def check_reading(bench, case, folder):
    """A folder -> hf equals the case's hf/, from each path by which it may be named."""
    config = ["--config", hf_folder(case) / "config.json"]
    wanted = files.huggingface_tensors(hf_folder(case))
    dtype = ["--dtype", "bf16"] if case.name == "llama" and "bf16" not in folder.name else []
    unit = unit_of(folder)
    paths = {folder if (folder / TRACKER).exists() else unit.parent, folder, unit}
    if (unit / "model_optim.pt").exists():
        paths.add(unit / "model_optim.pt")
    for path in sorted(paths):
        with bench.checks.case(f"{case.name}/{folder.name}: {path.name} -> hf"):
            same(bench.hf(path, *config, *dtype), wanted, "hf")
    with bench.checks.case(f"{case.name}/{folder.name}: inspect"):
        report = json.loads(bench.reshard.run("inspect", folder, *config, "--json"))
        assert report["format"] == "merak" and not report["problems"], report["problems"]
        for key, value in degrees(folder).items():
            assert report["parallelism"][key] == value, report["parallelism"]
        assert report["family"] == json.loads((hf_folder(case) / "config.json").read_text())["model_type"]


def check_writing(bench, case, folder):
    """hf -> the folder's layout equals its files: names, order, shapes, dtypes, bytes."""
    key = f"{case.name}/{folder.name}"
    if key not in WRITTEN:
        return
    with bench.checks.case(f"{key}: hf -> the same files"):
        flags = [word for name, value in degrees(folder).items() for word in (f"--{name}", value)]
        iteration = re.search(r"iter_0*([1-9]\d*)", unit_of(folder).name)
        flags += ["--iteration", iteration[1]] if iteration else []
        target = bench.convert(hf_folder(case), "--to", "merak", *flags, *WRITTEN[key], ranks=2)
        # Era 2 makes its masks and rotary frequencies itself.
        buffers = (".attn.bias", ".rotary_emb.inv_freq") if "era2" in folder.name else ()
        same_ranks(ranks_of(target), ranks_of(folder), without=buffers)
        assert unit_of(target).name == unit_of(folder).name
        if (unit_of(folder).parent / TRACKER).exists():
            assert (target / TRACKER).read_bytes() == (unit_of(folder).parent / TRACKER).read_bytes()


def check_again(bench, case, folder):
    """A run's folder -> its own layout: the files of the run again, with the keys that its strict loader wants."""
    key = f"{case.name}/{folder.name}"
    if key not in WRITTEN:
        return
    with bench.checks.case(f"{key}: its own files again"):
        flags = [word for name, value in degrees(folder).items() for word in (f"--{name}", value)]
        method = [word for flag in ("--partition-method", "--custom-partition") if flag in WRITTEN[key]
                  for word in (flag, WRITTEN[key][WRITTEN[key].index(flag) + 1])]
        tied = ["--merak-tied-keys", "yes"] if "era2" in key and case.name != "llama" else []
        target = bench.convert(folder, "--to", "merak", "--config", hf_folder(case) / "config.json", *flags, *method, *tied)
        buffers = (".attn.bias", ".rotary_emb.inv_freq") if "era2" in key else ()
        same_ranks(ranks_of(target), ranks_of(folder), without=buffers)


def check_degrees(bench):
    """B1: any degrees to any, byte for byte what the direct way from hf gives; and back to hf."""
    source = bench.scratch / "model"
    tensors = make_gpt2(source)
    wanted = files.huggingface_tensors(source)
    grids = list(itertools.product((1, 2, 4), (1, 2, 4)))
    direct = {}
    for era in ("1", "2"):
        modules = 8 if era == "1" else 7
        for tp, pp in grids:
            with bench.checks.case(f"era {era}: hf -> tp{tp} pp{pp} by the formulas"):
                bounds = {2: [0, 4, modules], 4: [0, 2, 4, 6, modules], 1: [0, modules]}[pp]
                flags = ["--to", "merak", "--merak-era", era, "--tp", tp, "--pp", pp, "--vocab-parallel", "yes" if era == "1" else "no", "--custom-partition", ",".join(map(str, bounds))]
                direct[era, tp, pp] = bench.convert(source, *flags), flags
                check_expected(direct[era, tp, pp][0], tensors, 5, tp, bounds, int(era), era == "1" and tp > 1)
                same(bench.hf(direct[era, tp, pp][0]), wanted, "hf")
    for a, b in itertools.product(grids, grids):
        with bench.checks.case(f"B1 tp{a[0]} pp{a[1]} -> tp{b[0]} pp{b[1]}"):
            eras = ("1", "2") if (a[0] + b[1]) % 2 else ("1", "1")
            tree_a, tree_b = direct[eras[0], *a], direct[eras[1], *b]
            ranks = (1, 3, 4)[(a[0] * 3 + b[1]) % 3] if a[1] * b[0] in (2, 8) else 1
            assert tree(bench.convert(tree_a[0], *tree_b[1], ranks=ranks)) == tree(tree_b[0]), "differs from the direct way"
    with bench.checks.case("the same bytes on 1, 3 and 4 ranks"):
        trees = [tree(bench.convert(direct["1", 4, 4][0], *direct["2", 2, 2][1], ranks=ranks)) for ranks in (1, 3, 4)]
        assert trees[0] == trees[1] == trees[2]
    for flags in (["--tp", 2, "--pp", 1], ["--tp", 4, "--pp", 5]):
        with bench.checks.case(f"merak -> megatron {flags} -> merak"):
            megatron = bench.convert(direct["1", 2, 4][0], "--to", "megatron", *flags)
            assert tree(bench.convert(megatron, *direct["1", 2, 4][1])) == tree(direct["1", 2, 4][0])
    with bench.checks.case("stages without blocks -> megatron"):
        stages = bench.convert(source, "--to", "merak", "--merak-era", "1", "--pp", 4, "--custom-partition", "0,2,4,6,8")
        refused(bench.reshard, "convert", stages, bench.place(), "--to", "megatron", "--pp", 4, says=["--stage-layers"])
        megatron = bench.convert(stages, "--to", "megatron", "--pp", 4, "--stage-layers", "2,1,1,1")
        same(bench.hf(megatron), wanted, "hf")
    with bench.checks.case("merak -> hf-bin -> merak"):
        binary = bench.convert(direct["2", 4, 2][0], "--to", "hf-bin")
        assert tree(bench.convert(binary, *direct["2", 4, 2][1])) == tree(direct["2", 4, 2][0])


def check_partition(bench):
    """B20: borders of stages are Merak's formulas, or checked."""
    twelve = bench.scratch / "twelve"
    tensors = make_gpt2(twelve, layers=12)
    methods = {("1", "uniform"): [0, 4, 8, 12, 15], ("1", "uniform_floor"): [0, 3, 6, 9, 15], ("1", "custom"): [0, 3, 7, 11, 15], ("1", ""): [0, 4, 8, 12, 15]}
    methods |= {("2", "uniform_floor"): [0, 3, 7, 11, 14], ("2", "custom"): [0, 1, 7, 11, 14]}
    for (era, method), bounds in methods.items():
        with bench.checks.case(f"B20 era {era} {method or 'default'}: {bounds}"):
            flags = ["--partition-method", method] if method else []
            flags += ["--custom-partition", ",".join(map(str, bounds))] if method == "custom" else []
            target = bench.convert(twelve, "--to", "merak", "--merak-era", era, "--tp", 4, "--pp", 4, *flags)
            check_expected(target, tensors, 12, 4, bounds, int(era), era == "1")
            stored = json.loads((target / "release" / "reshard.json").read_text())
            assert stored["partition"] == bounds and ",".join(map(str, bounds)) in stored["flags"], stored
    with bench.checks.case("B20 the run's flags are printed"):
        text = bench.report(twelve, "--to", "merak", "--merak-era", "2", "--pp", 2, "--custom-partition", "0,7,14")
        assert "--split_method layer_split --partition_method custom --custom_partition 0,7,14" in text, text
    bad = {
        "0,3,7,11": ("numbers that rise from 0 to 15", "15 modules"), "0,3,7,11,14": ("0 to 15", "2..13: block 0..11"), "0,7,3,11,15": ("no stage empty",),
        "0,3,3,11,15": ("no stage empty",), "1,3,7,11,15": ("rise from 0",), "0,3,x": ("wanted numbers",),
    }
    for text, says in bad.items():
        with bench.checks.case(f"B20 --custom-partition {text} is refused"):
            refused(bench.reshard, "convert", twelve, bench.place(), "--to", "merak", "--merak-era", 1, "--pp", 4, "--custom-partition", text, says=says)
    wrong = {"era 2 uniform": (["--merak-era", 2, "--pp", 4, "--partition-method", "uniform"], ["uniform_floor"])}
    wrong["custom without borders"] = (["--pp", 4, "--partition-method", "custom"], ["needs --custom-partition"])
    wrong["borders with another method"] = (["--pp", 2, "--partition-method", "uniform", "--custom-partition", "0,7,14"], ["custom only"])
    wrong["more stages than modules"] = (["--pp", 15], ["15 stages", "14 modules"])
    wrong["--stage-layers"] = (["--pp", 2, "--stage-layers", "6,6"], ["--custom-partition"])
    wrong["--vpp"] = (["--pp", 2, "--vpp", 2], ["only: megatron"])
    for name, (flags, says) in wrong.items():
        with bench.checks.case(f"B20 {name} is refused"):
            refused(bench.reshard, "convert", twelve, bench.place(), "--to", "merak", *flags, says=says)
    with bench.checks.case("B20 an empty stage of uniform is refused"):
        small = bench.scratch / "small"
        make_gpt2(small, layers=5)
        refused(bench.reshard, "convert", small, bench.place(), "--to", "merak", "--merak-era", 1, "--pp", 5, says=["8 modules", "empty"])


def check_details(bench):
    """What else a run finds in the files or is told."""
    reshard, checks = bench.reshard, bench.checks
    model = bench.scratch / "details"
    tensors = make_gpt2(model, vocab=50, seed=2)
    wanted = files.huggingface_tensors(model)
    to = ["--to", "merak", "--merak-era", "1"]
    with checks.case("a sample has the masks, too"):
        sample = bench.place()
        reshard.run("sample", sample, "--family", "gpt2", *to, "--tp", 2)
        content = model_of(sample / "release" / "mp_rank_01" / "partial_model_optim.pt")
        masks = [tensor for name, tensor in content.items() if name.endswith(".attn.bias")]
        assert masks and all(torch.equal(mask[0, 0], torch.ones_like(mask[0, 0]).tril()) for mask in masks)
        layer = [tensor for name, tensor in content.items() if name.endswith("transformer.h.0.mlp.c_fc.col_linear.weight")]
        assert [tensor.shape for tensor in layer] == [(4 * 48 // 2, 48)], "no parallel layer of 4 times the hidden size"
        assert bench.hf(sample)
    with checks.case("era 1-flat has no wrapper and is found again"):
        source = bench.convert(model, "--to", "merak", "--merak-era", "1-flat", "--tp", 2)
        content = files.read_torch(source / "release" / "mp_rank_00" / "partial_model_optim.pt")
        assert all(name.startswith("module.") for name in content)
        text = bench.report(source, "--to", "merak")
        assert "era 1-flat taken, the source's" in text, text
    with checks.case("vocabulary that does not divide: the last row repeats"):
        target = bench.convert(model, *to, "--tp", 4)
        check_expected(target, tensors, 5, 4, [0, 8], 1, True)
        assert "vocab_size 512" in bench.report(model, *to, "--tp", 4)
        config = json.loads((model / "config.json").read_text())
        (bench.scratch / "small.json").write_text(json.dumps({**config, "vocab_size": 7}))
        assert "vocabulary of 7 taken, config.json's; of 512 rows" in bench.report(target, "--to", "hf", "--config", bench.scratch / "small.json")
        whole = ranks_of(bench.convert(model, *to, "--tp", 4, "--vocab-parallel", "no"))
        assert whole["mp_rank_03"]["module.0.transformer.wte.weight"][1] == (50, 16)
    with checks.case("half blocks of few layers: the run's modules"):
        few = bench.scratch / "few"
        make_gpt2(few, layers=3)
        text = bench.report(few, *to, "--pp", 2)
        assert "block 2 (MLP)" in text and "of 9 (" in text, text
    with checks.case("names of overlapped blocks and of sequence parallelism"):
        target = bench.convert(model, *to, "--tp", 2)
        for path in target.rglob("*.pt"):
            content = torch.load(path)
            renamed = {}
            for name, tensor in content["model"].items():
                for ours, theirs in ((".ln_1.", ".input_layernorm."), (".attn.", ".self_attention."), (".ln_2.", ".post_attention_layernorm."), (".wte.", ".wte.emb.")):
                    name = name.replace(ours, theirs)
                renamed[name] = tensor
            content["model"] = renamed
            torch.save(content, path, _use_new_zipfile_serialization=False)
        assert bench.hf(target) == wanted
    with checks.case("era 1 has GPT-2 only"):
        llama = bench.data / "merak" / "llama" / "hf"
        refused(reshard, "convert", llama, bench.place(), *to, says=["era 1", "--merak-era 2"])
    with checks.case("parts of other degrees are refused"):
        refused(reshard, "convert", model, bench.place(), *to, "--ep", 2, says=["only: megatron"])


def loaded(wanted, found):
    """What Merak v2's loader takes of a file for each key of a run: the first key that fits by one of its rules."""

    def fits(mine, theirs):
        a, b = mine.split("."), theirs.split(".")
        count = 2 if min(len(a), len(b)) <= 3 else 4
        return mine == theirs or (set(re.findall(r"\d+", mine)) == set(re.findall(r"\d+", theirs)) and a[-count:] == b[-count:])

    bare = {name: re.sub(r"^(module\.)?[^.]*\.", "", name) for name in [*wanted, *found]}
    return {name: next((key for key in found if fits(bare[name], bare[key])), None) for name in wanted}


def check_loaders(bench):
    """The fuzzy rules of the loaders of v1.1.1 and v2 find each weight of a real run in what is written for them."""
    for layout, flags in (("era2-tp1-pp1", ["--merak-era", "2"]), ("era1-tp1-pp1", ["--merak-era", "1-flat"]), ("era1-tp2-pp1", ["--merak-era", "1-flat", "--tp", 2, "--vocab-parallel", "no"])):
        folder = bench.data / "merak" / "gpt2" / layout
        if not folder.exists():
            continue
        with bench.checks.case(f"loader: {layout}"):
            written = ranks_of(bench.convert(folder.parent / "hf", "--to", "merak", *flags))
            for rank, tensors in ranks_of(folder).items():
                for name, key in loaded(tensors, written[rank]).items():
                    if "tied_modules" in name or "_tensor_constant" in name:
                        continue  # shared with wte.weight; made by the run
                    assert key and written[rank][key] == tensors[name], f"{rank}: {name} gets {key}"


def check_families(bench):
    """The llama-like families of era 2, and through Megatron."""
    for case in ("llama", "llama-attn-bias", "qwen2", "qwen3", "mistral", "gpt2"):
        source = bench.data / "huggingface" / case / "hf"
        if not source.exists():
            continue
        wanted = files.huggingface_tensors(source)
        for flags in (["--tp", 2, "--pp", 2], ["--tp", 1, "--pp", 5], ["--tp", 2, "--pp", 3, "--vocab-parallel", "yes"]):
            with bench.checks.case(f"{case} -> merak {' '.join(map(str, flags))} -> hf"):
                target = bench.convert(source, "--to", "merak", *flags, ranks=3)
                same(bench.hf(target), wanted, "hf")
                once = bench.convert(target, "--to", "merak", "--tp", 1)
                assert tree(bench.convert(once, "--to", "merak", *flags)) == tree(target)
        with bench.checks.case(f"{case}: megatron -> merak -> megatron"):
            layout = ["--to", "megatron", "--tp", 2, "--pp", 2, "--stage-layers", "2,3"]
            megatron = bench.convert(source, *layout)
            merak = bench.convert(megatron, "--to", "merak", "--tp", 2, "--pp", 2)
            back = bench.convert(merak, *layout, "--vocab-fill", "zero")
            seen, expected = (files.megatron_files(folder) for folder in (back, megatron))
            for rank in expected:
                pair = [{name: files.raw(t) for name, t in files.flat_tensors(content["model"]).items()} for content in (seen[rank], expected[rank])]
                same(pair[0], pair[1], rank)
    for case in ("phi3", "gpt_neox", "bloom", "mixtral"):
        source = bench.data / "huggingface" / case / "hf"
        if source.exists():
            with bench.checks.case(f"{case} is refused"):
                refused(bench.reshard, "convert", source, bench.place(), "--to", "merak", says=["Merak's parallel layers are known for"])


def check_paths(bench):
    """Each path by which a checkpoint may be named."""
    model = bench.scratch / "paths"
    make_gpt2(model, seed=3)
    wanted = files.huggingface_tensors(model)
    write = lambda *flags: bench.convert(model, "--to", "merak", "--merak-era", "1", *flags)
    with bench.checks.case("an output folder with a folder for each day"):
        out = bench.place("run")
        for day, iteration in (("2023-01-30", 100), ("2023-01-31", 9)):
            shutil.copytree(write("--tp", 2, "--iteration", iteration), out / f"{day}_ckpt")
        report = json.loads(bench.reshard.run("inspect", out, "--json"))
        assert report["unit"].endswith("2023-01-30_ckpt/iter_0000100"), report["unit"]
        report = json.loads(bench.reshard.run("inspect", out, "--from-iteration", 9, "--json"))
        assert report["unit"].endswith("2023-01-31_ckpt/iter_0000009"), report["unit"]
    with bench.checks.case("best_ckpt"):
        best = bench.place("best_ckpt")
        shutil.copytree(unit_of(write("--tp", 2)), best / "best_model")
        (best / "best_model_loss.txt").write_text("2.5")
        assert bench.hf(best) == wanted and bench.hf(best / "best_model") == wanted
    with bench.checks.case("without a tracker the run is not finished"):
        target = write("--tp", 2, "--iteration", 7)
        (target / TRACKER).unlink()
        try:
            bench.reshard.run("convert", target, bench.place(), "--to", "hf")
        except AssertionError as error:
            assert str(error).startswith("exit 7") and TRACKER in str(error), error
        assert bench.hf(target / "iter_0000007") == wanted and bench.hf(target, "--from-iteration", 7) == wanted
    with bench.checks.case("one rank's file is no checkpoint"):
        target = write("--tp", 2)
        refused(bench.reshard, "convert", target / "release" / "mp_rank_00" / "partial_model_optim.pt", bench.place(), "--to", "hf", says=["one rank's part"])
    with bench.checks.case("without config.json: inspected, not converted"):
        target = write("--tp", 2, "--pp", 2)
        shutil.rmtree(target / "release" / "hf_config")
        report = json.loads(bench.reshard.run("inspect", target, "--json"))
        assert report["family"] == "gpt2" and report["parallelism"]["tp"] == 2 and "--config" in report["problems"][0], report["problems"]
        refused(bench.reshard, "convert", target, bench.place(), "--to", "hf", says=["--config", "gpt2"])


def check_damaged(bench):
    """Input that cannot be right is refused by name."""
    model, other = bench.scratch / "damaged", bench.scratch / "damaged-other"
    make_gpt2(model, seed=4)
    make_gpt2(other, seed=5, vocab=52)
    flags = ["--to", "merak", "--merak-era", "1", "--tp", 2, "--pp", 2]
    trees = [bench.convert(folder, *flags) for folder in (model, other)]

    def damaged(name, damage, *says, ranks=1):
        with bench.checks.case(f"damaged: {name}{f' on {ranks} ranks' if ranks > 1 else ''}"):
            source, target = bench.place("damaged"), bench.place()
            shutil.copytree(trees[0], source)
            damage(source / "release")
            refused(bench.reshard, "convert", source, target, "--to", "hf", says=says, ranks=ranks)
            assert not target.exists(), "a target is there"

    file = "partial_model_optim.pt"
    ranks = [f"mp_rank_{r:02d}_pp_rank_{s:03d}" for r, s in itertools.product(range(2), range(2))]
    replace = lambda unit, a, b, tree=None: shutil.copy((tree / "release" if tree else unit) / a / file, unit / b / file)
    zero = lambda unit, grid, name="zero_dp_rank_{}_mp_rank_{}_pp_rank_{}": [(unit / f"{name.format(*rank)}_opt_states.pt").write_bytes(b"") for rank in grid]
    grid = list(itertools.product(range(2), repeat=3))
    for count in (1, 3):
        damaged("a missing stage file", lambda unit: (unit / ranks[1] / file).unlink(), "3 model files", "tp rank 0, stage 1", ranks=count)
    damaged("a missing rank folder", lambda unit: shutil.rmtree(unit / ranks[3]), "tp rank 1, stage 1")
    damaged("degrees that do not multiply", lambda unit: (unit / ranks[3]).rename(unit / "mp_rank_04_pp_rank_001"), "tp 5 x pp 2")
    damaged("a tp rank's file twice", lambda unit: replace(unit, ranks[0], ranks[2]), "twice")
    damaged("a stage's file twice", lambda unit: replace(unit, ranks[0], ranks[1]), "stages are not those of one run")
    damaged("the whole stage twice", lambda unit: [replace(unit, a, b) for a, b in ((ranks[0], ranks[1]), (ranks[2], ranks[3]))], "stages are not those of one run")
    for count in (1, 3):
        damaged("a tp rank of another model", lambda unit: replace(unit, ranks[2], ranks[2], trees[1]), ranks[2], ranks[0], "16 of 16 elements differ", ranks=count)
    damaged("a stage of another model", lambda unit: [replace(unit, each, each, trees[1]) for each in (ranks[1], ranks[3])], "lm_head.weight", "416 of 416 elements differ")
    damaged("two folders in one", lambda unit: shutil.copytree(unit / ranks[0], unit / "mp_rank_00"), "tp rank 0, stage 0")
    damaged("a whole model beside", lambda unit: shutil.copy(unit / ranks[0] / file, unit / "model_optim.pt"), "tp rank 0, stage 0")
    damaged("one rank by two names", lambda unit: shutil.copytree(unit / ranks[0], unit / "mp_rank_0_pp_rank_0"), "both of tp rank 0, stage 0")
    damaged("stages exchanged", lambda unit: [(unit / ranks[i]).rename(unit / f"{ranks[i]}x") for i in range(4)]
            + [(unit / f"{ranks[i]}x").rename(unit / ranks[i ^ 1]) for i in range(4)], "stages are not those of one run")
    damaged("ZeRO files of other degrees", lambda unit: zero(unit, [(0, rank, 0) for rank in range(4)]), "4 ZeRO files")
    damaged("ZeRO files of another number of stages", lambda unit: zero(unit, [(0, tp, pp) for tp in range(2) for pp in range(3)]), "6 ZeRO files", "pp 3")
    damaged("ZeRO files with a gap", lambda unit: zero(unit, grid[:-1]), "7 ZeRO files", "dp 2 x tp 2 x pp 2")
    damaged("ZeRO files of two runs", lambda unit: [zero(unit, grid), zero(unit, grid[:1], "zero_dp_rank_{:05d}_mp_rank_{:02d}_pp_rank_{:03d}")], "zero_dp_rank_00000_mp_rank_00_pp_rank_000", "two runs")
    damaged("a file cut short", lambda unit: (unit / ranks[0] / file).write_bytes((unit / ranks[0] / file).read_bytes()[:3000]), ranks[0])

    def edit(change):
        def damage(unit):
            content = torch.load(unit / ranks[0] / file)
            change(content)
            torch.save(content, unit / ranks[0] / file)
        return damage

    damaged("a tensor missing on one rank", edit(lambda c: c["model"].pop("module.2.transformer.h.0.ln_1.weight")), ranks[0], "ln_1.weight")
    damaged("a tensor of another shape", edit(lambda c: c["model"].update({"module.1.transformer.wpe.weight": torch.zeros(3, 16)})), "[3, 16]")
    damaged("names of the other era", edit(lambda c: c.update(model={k.removeprefix("module."): v for k, v in c["model"].items()})), "module.")
    damaged("another iteration", edit(lambda c: c.update(iteration=5)), "iteration is")
    damaged("norms that drift", edit(lambda c: c["model"]["module.2.transformer.h.0.ln_1.weight"].add_(1e-6)), "ln_1.weight")
    damaged("another config", lambda unit: (unit / "hf_config" / "config.json").write_text((unit / "hf_config" / "config.json").read_text().replace('"n_layer": 5', '"n_layer": 6')), "h.5")
    exchanged = next((p for p in [bench.data / "merak" / "gpt2" / "era1-tp2-pp2"] if p.exists()), None)
    if exchanged:
        with bench.checks.case("damaged: tp ranks of a run exchanged"):
            source = bench.place("exchanged")
            shutil.copytree(exchanged, source)
            unit = unit_of(source)
            for i in range(4):
                (unit / ranks[i]).rename(unit / f"{ranks[i]}x")
            for i in range(4):
                (unit / f"{ranks[i]}x").rename(unit / ranks[i ^ 2])
            config = ["--config", exchanged.parent / "hf" / "config.json"]
            refused(bench.reshard, "convert", source, bench.place(), "--to", "hf", *config, says=["written by rank 1"])


def main(arguments):
    binary, mpiexec, data, *names = arguments
    checks = Checks()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Reshard(binary, mpiexec), checks, data, scratch)
        for case, folder in layouts(data, names):
            check_reading(bench, case, folder)
            check_writing(bench, case, folder)
            check_again(bench, case, folder)
        for check in (check_degrees, check_families, check_loaders, check_partition, check_details, check_paths, check_damaged):
            if not names or check.__name__.removeprefix("check_") in names:
                check(bench)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Megatron-DeepSpeed and DeepSpeed checkpoints, both ways, against what the frameworks wrote themselves.

usage: deepspeed_test.py RESHARD MPIEXEC DATA [CASE...]
"""

import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

for folder in ("support", "interop"):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / folder))
import checkpoints as files
import torch
from deepspeed_trees import check_same, edit, layer_files, optimizer, rename, unit_of
from programs import Checks, Reshard
from safetensors.torch import load_file
from transformers_logits import check_logits

PIPELINE = ("megds-bloom", "megds-gpt2", "megds-gpt2-blocked", "megds-llama")
VOCABULARY = 211
# What no file tells: the QKV layout, and the lineage where the source is a Hugging Face folder.
FLAGS = {"megds-gpt2": ["--lineage", "bigscience"], "megds-gpt2-blocked": ["--mds-qkv-layout", "blocked"]}
QKV = {"megds-gpt2-blocked": ["--mds-qkv-layout", "blocked"]}
STAGES = {"megds-bloom": [3, 2], "megds-gpt2": [3, 2], "megds-gpt2-blocked": [2, 2], "megds-llama": [2, 2]}


def degrees(folder):
    """tp, pp and dp in the name of a folder of tests/data/deepspeed."""
    return {name: int(value) for name, value in re.findall(r"(tp|pp|dp)(\d+)", folder.name)}


def without_padding(name, file, tensor):
    """A vocabulary tensor without the rows beyond the vocabulary."""
    if name not in ("word_embeddings.weight", "lm_head.weight"):
        return tensor
    first = int(re.search(r"model_(\d+)", file)[1]) * tensor.shape[0]
    return tensor[: max(0, VOCABULARY - first)]


def check_layers(seen, wanted):
    """Files, names in their order, shapes, dtypes and bytes are the framework's; padding rows apart."""
    seen, wanted = layer_files(seen), layer_files(wanted)
    assert seen.keys() == wanted.keys(), f"files differ: {sorted(seen.keys() ^ wanted.keys())}"
    for file in wanted:
        assert type(seen[file]) is type(wanted[file]), f"{file}: a {type(seen[file]).__name__}"
        assert list(seen[file]) == list(wanted[file]), f"{file}: names are {list(seen[file])}"
        for name, tensor in wanted[file].items():
            mine = seen[file][name]
            assert mine.shape == tensor.shape, f"{file}: {name} is {tuple(mine.shape)}, wanted {tuple(tensor.shape)}"
            pair = [files.raw(without_padding(name, file, each)) for each in (mine, tensor)]
            assert pair[0] == pair[1], f"{file}: {name} differs"


def check_model_files(seen, wanted, tp, pp):
    """mp_rank files have every key of the framework's own but random states, and the target's degrees."""
    names = {path.name for path in unit_of(wanted).glob("mp_rank_*")}
    assert {path.name for path in unit_of(seen).glob("mp_rank_*")} == names, "mp_rank files differ"
    for name in names:
        mine, theirs = (files.read_torch(unit_of(root) / name) for root in (seen, wanted))
        missing = {key for key in theirs.keys() - mine.keys() if "rng" not in key}
        assert not missing, f"{name}: no {missing}"
        assert mine["module"] is None and mine["optimizer"] is None and mine["mp_world_size"] == tp * pp
        assert mine["checkpoint_parallel_dimensions"] == {"pp_degree": pp, "tp_degree": tp}
        assert mine["dp_world_size"] == 1 and mine["checkpoint_version"] == 3.0
        sizes = (mine["args"].tensor_model_parallel_size, mine["args"].pipeline_model_parallel_size)
        assert sizes == (tp, pp), f"{name}: args say {sizes}"
        for key in ("iteration", "global_steps", "checkpoint_info"):
            assert mine.get(key) == theirs.get(key), f"{name}: {key} is {mine.get(key)}, wanted {theirs.get(key)}"
        info, own = (each.get("universal_checkpoint_info") for each in (mine, theirs))
        order = lambda value: sorted(value) if isinstance(value, list) else value
        plain = lambda table: table and {key: order(value) for key, value in table.items()}
        assert plain(info) == plain(own), f"{name}: universal_checkpoint_info is {info}, wanted {own}"
        assert isinstance(mine["lr_scheduler"], dict) and mine["lr_scheduler"].keys() == theirs["lr_scheduler"].keys()


def check_read(case, reshard, checks, scratch):
    """Each layout, by its parent or its step, is inspected right and gives the fixture's hf/."""
    for layout in sorted(case.glob("tp*")):
        unit = unit_of(layout)
        with checks.case(f"{case.name}: inspect {layout.name}"):
            report = json.loads(reshard.run("inspect", layout, "--json", *QKV.get(case.name, [])))
            assert report["format"] == "megatron-deepspeed" and report["family"] == case.name.split("-")[1]
            for name, degree in degrees(layout).items():
                assert report["parallelism"][name] == degree, f"{name} is {report['parallelism'][name]}"
            stages = [stage["layers"] for stage in report["parallelism"]["stages"]]
            assert degrees(layout)["pp"] == 1 or stages == STAGES[case.name], f"stages are {stages}"
            assert report["vocabulary"] == {"true": VOCABULARY, "padded": 224 if degrees(layout)["tp"] == 2 else 216}
            assert not report["problems"], report["problems"]
        for number, source in enumerate((layout, unit)):
            with checks.case(f"{case.name}: {source.relative_to(case)} -> hf"):
                target = pathlib.Path(scratch, case.name, f"{layout.name}-hf-{number}")
                reshard.convert(source, target, "--to", "hf", *QKV.get(case.name, []), ranks=3 if number else 1)
                check_same(target, case / "hf")
    with checks.case(f"{case.name}: Transformers loads it with equal logits") as check:
        check.note(check_logits(target, load_file(case / "logits.safetensors")))


def check_write(case, reshard, checks, scratch):
    """From each layout and hf/ to each layout, against the framework's own files."""
    layouts = sorted(case.glob("tp*"))
    for source, layout in itertools.product([*layouts, case / "hf"], layouts):
        with checks.case(f"{case.name}: {source.name} -> {layout.name}"):
            target = pathlib.Path(scratch, case.name, f"{source.name}-to-{layout.name}")
            tp, pp = degrees(layout)["tp"], degrees(layout)["pp"]
            flags = ["--to", "megatron-deepspeed", "--tp", tp, "--pp", pp, *FLAGS.get(case.name, [])]
            if source.name == "hf":
                step = re.search(r"\d+", unit_of(layout).name)[0]
                flags += ["--iteration", step, "--vocab-multiple", "8"]
            reshard.convert(source, target, *flags, ranks=2)
            assert unit_of(target).name == unit_of(layout).name, f"`latest` names {unit_of(target).name}"
            check_layers(target, layout)
            check_model_files(target, layout, tp, pp)
            again = target.with_name(target.name + "-hf")
            reshard.convert(target, again, "--to", "hf")  # its own files tell their QKV layout
            check_same(again, case / "hf")


def check_spellings(data, reshard, checks, scratch):
    """What other versions write for the same model: other numbers, names, containers and rows of query_key_value."""

    def read(name, case, source, change, *flags):
        with checks.case(f"{case}: {name}"):
            root = pathlib.Path(scratch, "spellings", name.replace(" ", "-"))
            shutil.copytree(data / case / source, root)
            change(unit_of(root))
            reshard.convert(root, root.with_name(root.name + "-hf"), "--to", "hf", *flags)
            check_same(root.with_name(root.name + "-hf"), data / case / "hf")

    def split_qkv(content):
        for kind in ("weight", "bias"):
            name = f"self_attention.query_key_value.{kind}"
            if name in content:
                rows = content.pop(name)
                groups = rows.reshape(-1, 5, 8, *rows.shape[1:])  # 3 query heads, key and value of 8 rows each
                content[f"self_attention.query.{kind}"] = groups[:, :3].reshape(-1, *rows.shape[1:]).clone()
                content[f"self_attention.key_value.{kind}"] = groups[:, 3:].reshape(-1, *rows.shape[1:]).clone()

    def old_rows(content):
        for name in [name for name in content if "query_key_value" in name]:
            rows = content[name].reshape(-1, 3, 8, *content[name].shape[1:])  # heads, {q, k, v}, dim
            content[name] = rows.transpose(0, 1).reshape(content[name].shape).contiguous()

    def version_0(unit):
        edit(old_rows, "layer_*")(unit)
        edit(lambda content: content.pop("checkpoint_version"))(unit)

    number = lambda name: int(re.search(r"layer_(\d+)", name)[1])
    shift = lambda name: re.sub(r"layer_\d+", f"layer_{number(name) + 95:02d}", name)
    llama = "megds-llama", "tp2-pp2-dp2"
    read("trap 2 3 23 three digits and another first number", *llama, rename("layer_*", shift))
    read("an underscore before model_states", *llama, rename("layer_*", lambda name: name.replace("-model_states", "_model_states")))
    read("no tensor axis", "megds-llama", "tp1-pp1-dp1", rename("layer_*", lambda name: name.replace("-model_00", "")))
    read("legacy streams", *llama, edit(lambda content: None, "layer_*", _use_new_zipfile_serialization=False))
    read("trap 5 query and key_value apart", *llama, edit(split_qkv, "layer_0[2-5]*"))
    read("trap 5 checkpoint_version absent", "megds-gpt2", "tp2-pp2-dp2", version_0)
    read("trap 7 buffers of rotary positions", *llama, edit(lambda c: c.update({"self_attention.rotary_emb.inv_freq": torch.ones(4)}), "layer_0[2-5]*"))
    read("trap 10 without latest, by --from-iteration", *llama, lambda unit: None, "--from-iteration", "3")


def check_other_layouts(data, reshard, checks, scratch):
    """Degrees and forms that no fixture has, there and back."""
    routes = {
        "trap 22 stages that do not divide the layers": ("megds-bloom/hf", ["--tp", "3", "--pp", "4"]),
        "without pipeline files": ("megds-llama/hf", ["--no-pipeline-files", "--tp", "2"]),
        "without pipeline files, blocked": ("megds-gpt2/hf", ["--no-pipeline-files", "--tp", "4", "--mds-qkv-layout", "blocked"]),
        "to the later lineage": ("megds-gpt2/tp2-pp2-dp2", ["--lineage", "deepspeed", "--tp", "4"]),
        "release": ("megds-llama/tp2-pp2-dp2", ["--for-release", "--pp", "4"]),
    }
    for name, (source, flags) in routes.items():
        with checks.case(f"{name}: {source}"):
            target = pathlib.Path(scratch, "routes", name.replace(" ", "-"))
            reshard.convert(data / source, target, "--to", "megatron-deepspeed", *flags)
            reshard.convert(target, target.with_name(target.name + "-hf"), "--to", "hf")
            check_same(target.with_name(target.name + "-hf"), (data / source).parent / "hf")
    for name, layout, step in (("megds-gpt2", "tp2-pp2-dp2", 97500), ("megds-gpt2-blocked", "tp2-pp2-dp1", 3), ("megds-llama", "tp1-pp1-dp1", 3)):
        with checks.case(f"{name}: {layout} -> megatron -> {layout}"):
            there, back = (pathlib.Path(scratch, "routes", f"{name}-{word}") for word in ("there", "back"))
            flags = ["--tp", degrees(data / name / layout)["tp"], "--pp", degrees(data / name / layout)["pp"]]
            reshard.convert(data / name / layout, there, "--to", "megatron", "--tp", "2", *QKV.get(name, []))
            reshard.convert(there, back, "--to", "megatron-deepspeed", "--vocab-size", VOCABULARY, *flags, *FLAGS.get(name, []), ranks=3)
            check_layers(back, data / name / layout)
            assert unit_of(back).name == f"global_step{step}"
    with checks.case("a vocabulary of 250,880 rows"):
        large, again = (pathlib.Path(scratch, "routes", word) for word in ("large", "large-hf"))
        sizes = ["--family", "bloom", "--layers", "2", "--hidden", "8", "--heads", "2", "--vocab", "250680"]
        reshard.run("sample", large, "--to", "megatron-deepspeed", *sizes, "--tp", "2", "--pp", "2")
        reshard.convert(large, again, "--to", "hf", ranks=3)
        reshard.run("compare", large, again)
    with checks.case("without pipeline files: the module's dicts"):
        unit = unit_of(pathlib.Path(scratch, "routes", "without-pipeline-files"))
        assert not list(unit.glob("layer_*")), "layer files are there"
        content = files.read_torch(unit / "mp_rank_01_model_states.pt")
        model = content["module"]["language_model"]
        assert content["args"].no_pipeline_parallel is True
        assert set(model) == {"embedding", "encoder", "output_layer"} and set(model["output_layer"]) == {"weight"}
        assert set(model["embedding"]["word_embeddings"]) == {"weight"}
        assert {"layers.0.input_layernorm.weight", "final_layernorm.weight"} <= set(model["encoder"])
    with checks.case("release: counters are 0"):
        content = files.read_torch(unit_of(pathlib.Path(scratch, "routes", "release")) / "mp_rank_00_model_states.pt")
        assert content["iteration"] == 0 and content["global_steps"] == 0 and content["tokens"] == 0
        assert content["args"].consumed_train_samples == 0


def check_average(data, reshard, checks, scratch):
    """Norms and biases that drifted apart over 3 tensor parallel ranks, at several rank counts."""
    drifted, root = {}, pathlib.Path(scratch, "drift", "tp3")
    reshard.convert(data / "megds-bloom" / "hf", root, "--to", "megatron-deepspeed", "--tp", "3", "--pp", "2", "--dtype", "bf16")
    for first in sorted(unit_of(root).glob("layer_*-model_00-model_states.pt")):
        paths = [first.with_name(first.name.replace("model_00", f"model_0{rank}")) for rank in range(3)]
        contents = [files.read_torch(path) for path in paths]
        for name, tensor in contents[0].items():
            if not any(word in name for word in ("norm", "dense.bias", "4h_to_h.bias")) and name not in ("weight", "bias"):
                continue
            for rank, content in enumerate(contents):
                random = torch.Generator().manual_seed(rank)
                content[name] = (tensor.float() + 0.01 * torch.randn(tensor.shape, generator=random)).bfloat16()
            copies = [content[name].float() for content in contents]
            drifted[first.name, name] = (((copies[0] + copies[1]) + copies[2]) / 3).bfloat16()
        for path, content in zip(paths, contents):
            torch.save(content, path)
    flags = ["--to", "megatron-deepspeed", "--replicas", "average"]
    for ranks in (1, 3, 4):
        with checks.case(f"trap 6 --replicas average on {ranks} ranks"):
            target = root.with_name(f"tp1-on-{ranks}")
            report = json.loads(reshard.convert(root, target, *flags, "--pp", "2", "--json", ranks=ranks))
            assert any(f"{len(drifted)} of {len(drifted)} tensors" in note for note in report["notes"]), report["notes"]
            seen = layer_files(target)
            for (file, name), mean in drifted.items():
                assert torch.equal(seen[file][name], mean), f"{file}: {name}"
    with checks.case("--replicas average of equal replicas keeps their bits"):
        even = root.with_name("even")
        reshard.convert(data / "megds-bloom" / "tp2-pp2-dp2", even, "--to", "hf", "--replicas", "average")
        check_same(even, data / "megds-bloom" / "hf")
    with checks.case("--replicas average from Hugging Face is refused"):
        command = [reshard.binary, "convert", data / "megds-bloom" / "hf", root.with_name("none"), *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and "only megatron-deepspeed lets replicas drift" in done.stderr, done.stderr


def check_huggingface(data, reshard, checks, scratch):
    """A Transformers model under ZeRO 1 and 2; ZeRO 3 is refused."""
    config = ["--config", data / "zero-llama" / "hf" / "config.json"]
    for stage in ("zero1-dp2", "zero2-dp2"):
        with checks.case(f"zero-llama: {stage}"):
            source, target = data / "zero-llama" / stage, pathlib.Path(scratch, stage)
            report = json.loads(reshard.run("inspect", source, "--json", *config))
            assert report["format"] == "deepspeed" and report["parallelism"]["dp"] == 2, report["parallelism"]
            assert ("optimizer of ZeRO: 2 files" in str(report["dropped"])) == (stage == "zero1-dp2")
            reshard.convert(source, target, "--to", "hf", *config)
            check_same(target, data / "zero-llama" / "hf")


def check_trainer(data, reshard, checks, scratch):
    """A Trainer's folder: config.json above the tag is found; a whole model there is taken first, for ZeRO 3 too."""
    for stage, case in (("zero1-dp2", "zero-llama"), ("zero3-dp2", "zero-llama-stage3")):
        root = pathlib.Path(scratch, f"checkpoint-{stage}")
        shutil.copytree(data / case / stage, root)
        shutil.copy(data / case / "hf" / "config.json", root)
        steps = [("deepspeed", None), ("hf", "model.safetensors")] if stage == "zero1-dp2" else [("hf", "model.safetensors")]
        for number, (wanted, file) in enumerate(steps):
            with checks.case(f"Trainer's {stage} {'with' if file else 'without'} a whole model"):
                if file:
                    shutil.copy(data / case / "hf" / file, root)
                assert json.loads(reshard.run("inspect", root, "--json"))["format"] == wanted
                reshard.convert(root, f"{root}-{number}", "--to", "hf")
                check_same(f"{root}-{number}", data / case / "hf")
    with checks.case("Trainer's zero1-dp2 by --from deepspeed"):
        source = pathlib.Path(scratch, "checkpoint-zero1-dp2")
        assert json.loads(reshard.run("inspect", source, "--from", "deepspeed", "--json"))["format"] == "deepspeed"


def check_damaged_zero(refused, data, remove, copy, cut):
    """A Transformers model under ZeRO, damaged; `refused` and the damages are those of check_refusals."""
    zero = "zero-llama/zero1-dp2"
    flags = ("--to", "hf", "--config", data / "zero-llama" / "hf" / "config.json")
    model, first = "mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    layer = data / "megds-llama/tp1-pp1-dp1/global_step3/layer_03-model_00-model_states.pt"
    refused("ZeRO: its model file twice", zero, copy(model, "mp_rank_01_model_states.pt"), "2 mp_rank files", flags=flags)
    refused("ZeRO: its model file is missing", zero, remove(model), "no mp_rank_XX_model_states.pt", flags=flags)
    refused("ZeRO: its model file cut short", zero, cut(model), f"{model}: zip: no end record; the file is cut off or no zip archive\n", flags=flags)
    refused("ZeRO: an optimizer file is missing", zero, remove(first), "1 optimizer files", "2 data-parallel ranks", flags=flags)
    refused("ZeRO: an optimizer file more", zero, copy(first, first.replace("rank_0_", "rank_2_")), "dp_world_size is 2", flags=flags)
    refused("ZeRO: an optimizer file of another mp rank", zero, copy(first, first.replace("rank_00", "rank_01")), "no mp_rank_01", flags=flags)
    refused("ZeRO: a layer file of another run", zero, lambda unit: shutil.copy(layer, unit), "layer files lie beside it", flags=flags)
    for name, change, text in (
        ("is missing", lambda content: content["module"].pop("model.norm.weight"), "missing 1 tensors"),
        ("has another shape", lambda content: content["module"].update({"model.norm.weight": torch.zeros(3)}), "shape [3], wanted [27]"),
        ("is empty, as under ZeRO 3", lambda content: content["module"].update({"model.norm.weight": torch.zeros(0)}), "shape [0], wanted [27]"),
    ):
        refused(f"ZeRO: a tensor {name}", zero, edit(change), "model.norm.weight", text, flags=flags)


def check_refusals(data, reshard, checks, scratch):
    """Damaged folders are refused, with the file and the reason in the text."""
    numbers = itertools.count()

    def refused(name, source, damage, *wanted, code=3, flags=("--to", "hf"), ranks=1):
        with checks.case(f"refused: {name}{f' on {ranks} ranks' if ranks > 1 else ''}"):
            root = pathlib.Path(scratch, f"damaged-{next(numbers)}")
            shutil.copytree(data / source, root)
            damage(unit_of(root))
            launcher = [] if ranks == 1 else [reshard.mpiexec, "--oversubscribe", "-n", str(ranks)]
            command = [*launcher, reshard.binary, "convert", str(root), f"{root}-out", *map(str, flags)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
            assert done.returncode == code, f"exit {done.returncode}: {done.stderr[-500:]}"
            assert done.stderr.count("reshard: ") == 1, f"not one message: {done.stderr[-1000:]}"
            for text in wanted:
                assert text in done.stderr, f"'{text}' is not in: {done.stderr[-1000:]}"
            assert not pathlib.Path(f"{root}-out").exists(), "a target is there"

    def remove(pattern):
        return lambda unit: [path.unlink() for path in sorted(unit.glob(pattern))]

    def copy(old, new):
        return lambda unit: shutil.copy(unit / old, unit / new)

    def foreign(pattern, folder):
        return lambda unit: [shutil.copy(path, unit) for path in unit_of(data / folder).glob(pattern)]

    def cut(pattern):
        return lambda unit: [path.write_bytes(path.read_bytes()[:3000]) for path in unit.glob(pattern)]

    def swap(a, b):
        def change(unit):
            (unit / a).rename(unit / "third")
            (unit / b).rename(unit / a)
            (unit / "third").rename(unit / b)

        return change

    def change_norm(unit):
        path = unit / "layer_03-model_01-model_states.pt"
        content = torch.load(path)
        content["input_layernorm.weight"][3] += 1
        torch.save(content, path)

    llama = "megds-llama/tp2-pp2-dp2"
    for ranks in (1, 3):
        refused("trap 24 a layer file is missing", llama, remove("layer_03-model_01*"), "layer_03-model_01-model_states.pt: missing", ranks=ranks)
    refused("a layer is missing", llama, remove("layer_03-*"), "layer_03-model_00-model_states.pt: missing")
    refused("the last layer is missing", llama, remove("layer_05-*"), "hold a layer, wanted 4")
    refused("the head is missing", llama, remove("layer_07-*"), "hold the head, wanted 1")
    refused("no mp_rank file", llama, remove("mp_rank_*"), "no mp_rank_XX_model_states.pt")
    refused("trap 24 an mp_rank file is missing", llama, remove("mp_rank_01*"), "mp_rank_01_model_states.pt: missing")
    refused("the last mp_rank file is missing", llama, remove("mp_rank_03*"), "make no whole stages")
    refused("one tp rank is missing", llama, remove("layer_*model_01*"), "args: tp is 2", "names of the files say 1")
    refused("an mp_rank file twice", llama, copy("mp_rank_00_model_states.pt", "mp_rank_02_model_states.pt"), "written by rank 0", "twice")
    refused("a layer's file of another tp rank", llama, copy("layer_03-model_00-model_states.pt", "layer_03-model_01-model_states.pt"), "layer_03-model_01", "twice")
    refused("a layer's file for another layer", llama, copy("layer_03-model_00-model_states.pt", "layer_04-model_00-model_states.pt"), "layer_04-model_00", "twice")
    refused("layer files of two tp ranks swapped", llama, swap("layer_03-model_00-model_states.pt", "layer_03-model_01-model_states.pt"), "layer_03-model_01-model_states.pt: saved as layer_03-model_00-model_states", "files were swapped")
    refused("layer files of two layers swapped", llama, swap("layer_03-model_00-model_states.pt", "layer_04-model_00-model_states.pt"), "saved as layer_04-model_00-model_states", "files were swapped")
    refused("a layer file under two names", llama, copy("layer_03-model_00-model_states.pt", "layer_3-model_00_model_states.pt"), "two names")
    refused("layer files of another run", llama, foreign("layer_03*", "megds-bloom/tp2-pp2-dp2"), "layer_03-model_00")
    refused("trap 29 mp_rank files of another run", llama, foreign("mp_rank_01*", "megds-gpt2-blocked/tp2-pp2-dp1"), "mp_rank_01_model_states.pt: args.")
    refused("an mp_rank file of another step", llama, edit(lambda content: content.update(iteration=7, global_steps=7), "mp_rank_03*"), "mp_rank_03_model_states.pt: iteration is 7, but 3")
    refused("two folders in one", llama, foreign("*", "megds-llama/tp1-pp1-dp1"), "args.world_size is 8, but 1", "mp_world_size")
    refused("layers of two folders in one", llama, foreign("layer*", "megds-llama/tp1-pp1-dp1"), "shape [216, 48], wanted [112, 48]")
    refused("a placeholder of another storage engine", llama, lambda unit: torch.save("", unit / "layer_03-model_00-model_states.pt"), "layer_03-model_00", "placeholder")
    refused("a layer file cut short", llama, cut("layer_03-model_00*"), "layer_03-model_00-model_states.pt", "cut off")
    refused("stray file of tp 1", "megds-llama/tp1-pp1-dp1", copy("layer_03-model_00-model_states.pt", "layer_03-model_01-model_states.pt"), "missing")
    refused("optimizer files with a gap", llama, optimizer([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]), "are not those of 2 data-parallel ranks")
    refused("optimizer files of more ranks", llama, optimizer(itertools.product(range(3), range(4))), "dp_world_size is 2", "3 data-parallel ranks")
    refused("optimizer files of fewer ranks", llama, optimizer(itertools.product(range(2), range(2))), "4 optimizer files", "times 4 mp_rank files")
    refused("optimizer files of more mp ranks", llama, optimizer(itertools.product(range(2), range(8))), "bf16_zero_pp_rank_1_mp_rank_07_optim_states.pt: no mp_rank_07")
    both = lambda unit: [optimizer([(0, 0)])(unit), optimizer([(0, 0)], "zero_pp_rank_{0}_mp_rank_{1:02d}_optim_states.pt")(unit)]
    refused("optimizer files of two runs", llama, both, "the same rank's file under two names")
    check_damaged_zero(refused, data, remove, copy, cut)
    refused("trap 6 replicas differ", llama, change_norm, "input_layernorm.weight", "layer_03-model_01", "layer_03-model_00", "1 of 48 elements differ, by at most 1.00781")
    refused("a universal checkpoint", llama, lambda unit: (unit / "zero").mkdir(), "a universal checkpoint")
    refused("a vocabulary that is no number", llama, edit(lambda content: content["universal_checkpoint_info"].update(original_vocab_size="x")), "original_vocab_size")
    refused("layers far apart", llama, copy("layer_02-model_00-model_states.pt", "layer_999999999-model_00-model_states.pt"), "layer_999999999-model_00-model_states.pt: a number that no rank")
    refused("an mp_rank file without args", llama, edit(lambda content: content.pop("args"), "mp_rank_02*"), "mp_rank_02_model_states.pt: no args")
    refused("the layout of query_key_value, told twice", llama, edit(lambda content: content.update(reshard_qkv_layout="grouped")), "the files say", code=2, flags=("--to", "hf", "--mds-qkv-layout", "blocked"))
    refused("trap 13 ZeRO 3", "zero-llama-stage3/zero3-dp2", lambda unit: None, "ZeRO 3 keeps the weights")
    refused("trap 25 a layer that is none", llama, edit(lambda content: content.update({"odd": torch.zeros(2)}), "layer_06*"), "neither embedding, layer, norm nor head")
    refused("the tag's folder is gone", llama, remove("*"), "holds no file of DeepSpeed")
    refused("blocked QKV with groups", llama, lambda unit: None, "blocked", code=2, flags=("--to", "hf", "--mds-qkv-layout", "blocked"))
    to = ("--to", "megatron-deepspeed")
    refused("rope in the BigScience lineage", llama, lambda unit: None, "attention_bias = false", "no place for head.weight", flags=(*to, "--lineage", "bigscience"))
    refused("ALiBi in the later lineage", "megds-bloom/tp1-pp1-dp1", lambda unit: None, "position", flags=(*to, "--lineage", "deepspeed"))
    refused("stages by hand", llama, lambda unit: None, "--stage-layers", code=2, flags=(*to, "--stage-layers", "1,3"))
    refused("heads that tp does not divide", llama, lambda unit: None, "does not divide", flags=(*to, "--tp", "4"))
    refused("more stages than layers", llama, lambda unit: None, "--pp 5", code=2, flags=(*to, "--pp", "5"))
    refused("no pipeline files with stages", llama, lambda unit: None, "--no-pipeline-files", code=2, flags=(*to, "--no-pipeline-files", "--pp", "2"))
    refused("a lineage for another target", llama, lambda unit: None, "--lineage", code=2, flags=("--to", "megatron", "--lineage", "deepspeed"))
    refused("to deepspeed", llama, lambda unit: None, "--to hf", code=2, flags=("--to", "deepspeed"))


def main(arguments):
    binary, mpiexec, data, *names = arguments
    reshard, checks, data = Reshard(binary, mpiexec), Checks(), pathlib.Path(data, "deepspeed")
    with tempfile.TemporaryDirectory() as scratch:
        for name in PIPELINE:
            if not names or name in names:
                check_read(data / name, reshard, checks, scratch)
                check_write(data / name, reshard, checks, scratch)
        if not names or "others" in names:
            check_spellings(data, reshard, checks, scratch)
            check_other_layouts(data, reshard, checks, scratch)
            check_huggingface(data, reshard, checks, scratch)
            check_trainer(data, reshard, checks, scratch)
        if not names or "average" in names:
            check_average(data, reshard, checks, scratch)
        if not names or "refusals" in names:
            check_refusals(data, reshard, checks, scratch)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

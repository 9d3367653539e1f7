"""torch_dist checkpoints: every one that Megatron wrote, and those of every era made from them, give the framework's own numbers.

usage: megatron_dist_test.py RESHARD MPIEXEC DATA [CASE...]
"""

import hashlib
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
import dist
import torch
from cases import degrees, layout_flags
from fixtures_test import TIED, check_inspect, check_megatron, check_same, padding_of, raw_chunks
from programs import Checks, Reshard

EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"


def dist_cases(data, names=()):
    """Folders with torch_dist-* layouts; all, or those named."""
    folders = sorted(pathlib.Path(data, "megatron").iterdir())
    return [path for path in folders if list(path.glob("torch_dist-*")) and (not names or path.name in names)]


def vocabulary_of(case):
    """Rows of the embedding in the case's hf/."""
    tensors = files.huggingface_tensors(case / "hf")
    return next(s[0] for n, (_, s, _) in tensors.items() if n.endswith(("embed_tokens.weight", "wte.weight")))


def check_huggingface(target, case):
    """The file is the case's own, byte for byte."""
    seen, wanted = (sorted(folder.glob("*.safetensors")) for folder in (target, case / "hf"))
    assert [path.name for path in seen] == [path.name for path in wanted], seen
    for ours, theirs in zip(seen, wanted):
        assert ours.read_bytes() == theirs.read_bytes(), f"{ours.name} differs"


def rows_beyond(tensors, vocabulary, case):
    """('embedding' or 'head') -> padding rows of the checkpoint's vocabulary, as fixtures_test wants them."""
    rows = {name: [files.raw(row)[2] for row in tensors[key][vocabulary:]]
            for name, key in (("embedding", EMBEDDING), ("head", HEAD)) if key in tensors}  # fmt: skip
    return {"head": rows["embedding"], **rows} if case in TIED else rows


def check_reading(case, reshard, checks, scratch):
    """A case's layouts to hf and to the framework's files in its older format."""
    vocabulary = vocabulary_of(case)
    layouts = {folder: raw_chunks(folder) for folder in sorted(case.glob("torch-*"))}
    for source in sorted(case.glob("torch_dist-*")):
        unit = files.iteration_folder(source)
        with checks.case(f"{case.name}: inspect {source.name}"):
            check_inspect(reshard, source, {"format": "megatron-dist", **degrees(source)})
            report = json.loads(reshard.run("inspect", source, "--json"))
            held = {file["file"] for file in report["files"]} | {file["file"] for file in report["maps"]["optimizer"]["files"]}
            there = {path.name for path in unit.glob("*.distcp")}
            assert held == there, f"files {sorted(held)}, there are {sorted(there)}"
            assert len(report["maps"]["stages"]) == degrees(source)["pp"], report["maps"]["stages"]
            keys = dist.read_metadata(unit).state_dict_metadata
            optimizer = sum(key.startswith("optimizer.") for key in keys)
            said = [line for line in report["dropped"] if line.startswith("optimizer.*: ")]
            assert [f"optimizer.*: {optimizer} entries" in line for line in said] == [True] * bool(optimizer), report["dropped"]
        with checks.case(f"{case.name}: {source.name} -> hf"):
            target = pathlib.Path(scratch, case.name, f"{source.name}-hf")
            reshard.convert(source, target, "--to", "hf", "--vocab-size", vocabulary, ranks=3)
            check_huggingface(target, case)
        with checks.case(f"{case.name}: compare {source.name} with others"):
            for other in layouts:
                reshard.run("compare", source, other, ranks=2)
        padding = rows_beyond(dist.tensors_of(unit), vocabulary, case.name)
        for layout, wanted in layouts.items():
            with checks.case(f"{case.name}: {source.name} -> {layout.name}"):
                target = pathlib.Path(scratch, case.name, f"{source.name}-{layout.name}")
                reshard.convert(source, target, "--to", "megatron", *layout_flags(layout), "--vocab-size", vocabulary)
                check_megatron(raw_chunks(target), wanted, padding, case.name, vocabulary)


# Eras, made from a checkpoint that Megatron wrote.


def single_layers(tensors):
    """Layers one by one: decoder.layers.{l}. in the names, no first dimension for them."""
    made = {}
    for name, tensor in tensors.items():
        if name.startswith("decoder.layers."):
            made.update({name.replace("layers.", f"layers.{i}.", 1): layer for i, layer in enumerate(tensor)})
        else:
            made[name] = tensor
    return made


def singletons(tensors):
    """What content_metadata's singleton_local_shards gives: gate and up, and experts, in tensors of their own."""
    made = {}
    for name, tensor in single_layers(tensors).items():
        experts = enumerate(tensor) if ".experts.experts." in name else [(None, tensor)]
        for expert, part in experts:
            key = name if expert is None else name.replace("experts.experts.", f"experts.experts.{expert}.")
            if name.endswith("linear_fc1.weight"):
                made[key + "_w"], made[key + "_v"] = part.chunk(2)
            else:
                made[key] = part
    return made


def prefixed(tensors):
    return {"module." + name: tensor for name, tensor in tensors.items()}


def moe_by_transformer_engine(tensors):
    """Transformer Engine's spelling of the norm before experts."""
    return {name.replace("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"): t for name, t in tensors.items()}


def unchanged(tensors):
    return tensors


def odd_boxes(name, shape):
    """Boxes that fit no head, group, gate or rank."""
    return dist.grid(shape, [max(1, n * 2 // 5) for n in shape])


def whole_boxes(name, shape):
    return dist.grid(shape, [max(1, n) for n in shape])


ERAS = {
    "single layers": ("llama-gqa", single_layers, whole_boxes),
    "singletons": ("llama-gqa", singletons, odd_boxes),
    "singletons of experts": ("mixtral-moe", singletons, whole_boxes),
    "prefixed": ("qwen3", prefixed, odd_boxes),
    "odd boxes": ("mixtral-moe", unchanged, odd_boxes),
    "single layers in odd boxes": ("gpt2", single_layers, odd_boxes),
    "pre_mlp_layernorm": ("mixtral-moe", moe_by_transformer_engine, whole_boxes),
}


def remade(source, target, change, boxes, common=None):
    """A copy of a checkpoint with other keys and chunks; without `common`, its common state goes into the other place."""
    old, unit = files.iteration_folder(source), pathlib.Path(target, "iter_0000003")
    unit.mkdir(parents=True)
    shutil.copy(old / "metadata.json", unit)
    shutil.copy(source / "latest_checkpointed_iteration.txt", target)
    blobs = {}
    content = dist.common_of(old) if common is None else common
    if (old / "common.pt").exists() and common is None:
        blobs["common_state/shard_0_1"] = dist.saved([content])
    else:
        torch.save(content, unit / "common.pt")
    dist.Writer(unit, boxes, files=3).write(change(dist.tensors_of(old)), blobs)
    return unit


def check_era(data, era, reshard, scratch):
    name, change, boxes = ERAS[era]
    case = pathlib.Path(data, "megatron", name)
    source = sorted(case.glob("torch_dist-*"))[0]
    folder = pathlib.Path(scratch, era)
    common = dist.common_of(files.iteration_folder(source))
    for key, value in list(vars(common["args"]).items()):  # classes that only Megatron has
        if isinstance(value, files.Opaque):
            delattr(common["args"], key)
    common = {key: value for key, value in common.items() if key in ("args", "iteration", "checkpoint_version")}
    remade(source, folder / "made", change, boxes, common)
    reshard.convert(folder / "made", folder / "hf", "--to", "hf", ranks=2)
    check_huggingface(folder / "hf", case)


def check_without_args(data, reshard, scratch):
    """As NeMo writes: no args, keys with "module."; --config tells the model."""
    case = pathlib.Path(data, "megatron", "llama-gqa")
    folder = pathlib.Path(scratch, "without args")
    remade(sorted(case.glob("torch_dist-*"))[0], folder / "made", prefixed, whole_boxes, {"iteration": 3})
    reshard.convert(folder / "made", folder / "hf", "--to", "hf", "--config", case / "hf" / "config.json")
    check_huggingface(folder / "hf", case)
    reshard.convert(folder / "made", folder / "megatron", "--to", "megatron", "--config", case / "hf" / "config.json")
    assert files.iteration_folder(folder / "megatron").name == "iter_0000003"


def check_places(data, reshard, scratch):
    """The root, the folder of an iteration, --from-iteration and a release are found; other formats beside do not mislead."""
    case = pathlib.Path(data, "megatron", "llama-gqa")
    root = pathlib.Path(scratch, "places")
    shutil.copytree(sorted(case.glob("torch_dist-*"))[0], root)
    said = json.loads(reshard.run("inspect", root / "iter_0000003", "--json"))
    assert said["format"] == "megatron-dist" and said["training"]["iteration"] == 3, said["training"]
    shutil.copytree(root / "iter_0000003", root / "iter_0000007")
    (root / "latest_checkpointed_iteration.txt").write_text("7")
    assert json.loads(reshard.run("inspect", root, "--from-iteration", "3", "--json"))["unit"].endswith("iter_0000003")
    (root / "iter_0000003").rename(root / "release")
    (root / "latest_checkpointed_iteration.txt").write_text("release\n")
    assert json.loads(reshard.run("inspect", root, "--json"))["unit"].endswith("release")


def boxes_of(unit):
    """(key, offsets, sizes) of every chunk of the model."""
    described = dist.read_metadata(unit).state_dict_metadata
    return {(key, tuple(chunk.offsets), tuple(chunk.sizes))
            for key, value in described.items() if dist.is_weight(key) and hasattr(value, "chunks") for chunk in value.chunks}  # fmt: skip


def states_of(unit):
    """Keys of the layers' extra states."""
    return {key for key in dist.read_metadata(unit).state_dict_metadata if "_extra_state" in key}


def check_dist(seen, wanted, padding, vocabulary):
    """Every tensor is the framework's; padding rows are the source's, zero beyond those."""
    assert seen.keys() == wanted.keys(), f"keys differ: {sorted(seen.keys() ^ wanted.keys())}"
    for name, tensor in wanted.items():
        if name not in (EMBEDDING, HEAD):
            assert files.raw(seen[name]) == files.raw(tensor), f"{name} differs"
            continue
        rows = [files.raw(row)[2] for row in seen[name]]
        assert rows[:vocabulary] == [files.raw(row)[2] for row in tensor[:vocabulary]], f"{name} differs"
        held = padding.get("embedding" if name == EMBEDDING else "head", [])[: len(rows) - vocabulary]
        zeros = [bytes(len(rows[0]))] * (len(rows) - vocabulary - len(held))
        assert rows[vocabulary:] == held + zeros, f"{name}: padding rows are not the source's"


def dist_flags(folder):
    """The convert flags that give the layout of a torch_dist folder of the fixtures."""
    flags = ["--to", "megatron-dist", "--transformer-impl", "local"]
    for name, degree in degrees(folder).items():
        flags += [f"--{name}", degree] if degree > 1 else []
    return flags


def check_writing(case, reshard, checks, scratch):
    """Every source of a case to its torch_dist layouts, cut as Megatron cuts them, and back to the older format."""
    vocabulary = vocabulary_of(case)
    older = sorted(case.glob("torch-*"))
    layouts = {folder: dist.tensors_of(files.iteration_folder(folder)) for folder in sorted(case.glob("torch_dist-*"))}
    for number, source in enumerate([*older, *layouts, case / "hf"]):
        if source in layouts:
            padding = rows_beyond(layouts[source], vocabulary, case.name)
        else:
            padding = padding_of(raw_chunks(source), vocabulary, case.name in TIED) if source in older else {}
        for layout, wanted in layouts.items():
            with checks.case(f"{case.name}: {source.name} -> {layout.name}"):
                target = pathlib.Path(scratch, case.name, f"{source.name}-to-{layout.name}")
                flags = [] if source.name == "hf" else ["--vocab-size", vocabulary]
                reshard.convert(source, target, *dist_flags(layout), *flags, ranks=1 + number % 4)
                made, own = files.iteration_folder(target), files.iteration_folder(layout)
                check_dist(dist.tensors_of(made), wanted, padding, vocabulary)
                if source in older:
                    continue
                if len(dist.tensors_of(made)[EMBEDDING]) == len(wanted[EMBEDDING]):
                    assert boxes_of(made) == boxes_of(own), sorted(boxes_of(made) ^ boxes_of(own))[:5]
                missing = states_of(own) - states_of(made)
                assert not missing, f"no entries {sorted(missing)[:5]}"
        if source not in older:
            continue
        with checks.case(f"{case.name}: {source.name} -> megatron-dist -> {source.name}"):
            between, target = pathlib.Path(scratch, case.name, f"{source.name}-between"), pathlib.Path(scratch, case.name, f"{source.name}-again")
            known = ["--vocab-size", vocabulary]
            reshard.convert(source, between, "--to", "megatron-dist", "--tp", "1", "--pp", "2", "--dist-files", "3", *stages_of(case), *known, ranks=2)
            reshard.convert(between, target, "--to", "megatron", *layout_flags(source), *known, ranks=3)
            check_megatron(raw_chunks(target), raw_chunks(source), padding, case.name, vocabulary)


def stages_of(case):
    """Two stages that are not even where the layers allow it."""
    return {"gpt2": ["--stage-layers", "4,2"], "qwen3": ["--stage-layers", "1,3"]}.get(case.name, [])


def tree_digest(target):
    """A hash of every file below a folder and its name."""
    digest = hashlib.sha256()
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(target)).encode() + path.read_bytes())
    return digest.hexdigest()


def check_same_bytes(data, reshard, scratch):
    """The bytes written do not depend on the number of ranks."""
    case = pathlib.Path(data, "megatron", "mixtral-moe")
    flags = ["--to", "megatron-dist", "--tp", "2", "--pp", "2", "--ep", "2", "--etp", "2", "--dist-files", "2"]
    for source in (case / "torch_dist-tp1-pp2-ep2", case / "torch-tp1-pp1-ep2"):
        digests = set()
        for ranks in (1, 2, 3, 4, 7):
            target = pathlib.Path(scratch, f"{source.name}-{ranks}")
            reshard.convert(source, target, *flags, ranks=ranks)
            digests.add(tree_digest(target))
        assert len(digests) == 1, f"{len(digests)} different results"
    back = {tree_digest_of(reshard, case / "torch_dist-tp1-pp2-ep2", pathlib.Path(scratch, f"back-{ranks}"), ranks) for ranks in (1, 3, 7)}
    assert len(back) == 1, f"{len(back)} different results"


def tree_digest_of(reshard, source, target, ranks):
    reshard.convert(source, target, "--to", "megatron", "--tp", "2", "--ep", "2", ranks=ranks)
    return tree_digest(target)


def check_files(data, reshard, scratch):
    """--dist-files spreads the chunks of each rank evenly over so many files, and .metadata names all of them."""
    case = pathlib.Path(data, "megatron", "mixtral-moe")
    for count in (1, 3):
        target = pathlib.Path(scratch, f"files-{count}")
        reshard.convert(case / "hf", target, "--to", "megatron-dist", "--tp", "2", "--pp", "2", "--dist-files", count, "--iteration", "12")
        unit = files.iteration_folder(target)
        assert unit.name == "iter_0000012", unit
        sizes = {path.name: path.stat().st_size for path in unit.glob("*.distcp")}
        assert set(sizes) == {f"__{rank}_{w}.distcp" for rank in range(4) for w in range(count)}, sorted(sizes)
        for rank in range(4):
            own = [size for name, size in sizes.items() if name.startswith(f"__{rank}_")]
            assert max(own) < 1.3 * min(own), sizes
        metadata = dist.read_metadata(unit)
        assert {info.relative_path for info in metadata.storage_data.values()} == set(sizes)
        config = json.loads((unit / "metadata.json").read_text())
        assert config == {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1}


def check_common_state(data, reshard, scratch):
    """Iteration, counters and arguments travel; a release has none of the counters."""
    source = pathlib.Path(data, "megatron", "llama-core012", "torch_dist-dopt-tp2-pp1-dp2")
    target = pathlib.Path(scratch, "common")
    reshard.convert(source, target, "--to", "megatron-dist")
    theirs, ours = (dist.common_of(files.iteration_folder(root)) for root in (source, target))
    assert (ours["iteration"], ours["checkpoint_version"]) == (3, 3.0)
    assert ours["num_floating_point_operations_so_far"] == theirs["num_floating_point_operations_so_far"] == 123456789
    reshard.convert(source, target.with_name("torch"), "--to", "megatron", "--tp", 2)
    for content in files.megatron_files(target.with_name("torch")).values():
        assert content["num_floating_point_operations_so_far"] == 123456789
    args = vars(ours["args"])
    for name in ("consumed_train_samples", "consumed_valid_samples", "seq_length", "hidden_dropout", "num_layers"):
        assert args[name] == getattr(theirs["args"], name), name
    assert args["consumed_train_samples"] > 0 and args["tensor_model_parallel_size"] == 1
    assert args["ckpt_format"] == "torch_dist" and args["no_save_optim"] is args["no_save_rng"] is True
    reshard.convert(target, pathlib.Path(scratch, "older"), "--to", "megatron")
    older = files.read_torch(files.iteration_folder(pathlib.Path(scratch, "older")) / "mp_rank_00/model_optim_rng.pt")
    assert older["args"].ckpt_format == "torch" and older["args"].consumed_train_samples == args["consumed_train_samples"]
    release = pathlib.Path(scratch, "release")
    reshard.convert(source, release, "--to", "megatron-dist", "--for-release")
    unit = files.iteration_folder(release)
    common = dist.common_of(unit)
    assert unit.name == "release" and common["iteration"] == 0 and common["args"].consumed_train_samples == 0
    assert "num_floating_point_operations_so_far" not in common


def check_kept_files(data, reshard, scratch):
    """config.json and tokenizer files of a Hugging Face source come back."""
    source = pathlib.Path(data, "huggingface", "qwen2", "hf")
    place = pathlib.Path(scratch, "kept")
    reshard.convert(source, place / "dist", "--to", "megatron-dist", "--tp", "2")
    reshard.convert(place / "dist", place / "hf", "--to", "hf")
    check_same(files.huggingface_tensors(place / "hf"), files.huggingface_tensors(source), "hf")
    assert json.loads((place / "hf" / "config.json").read_text()) == json.loads((source / "config.json").read_text())


def check_samples(data, reshard, scratch):
    """Families that no file of Megatron's shows, and layers that are not alike and so not stacked."""
    for family in ("gpt_oss", "deepseek_v3"):
        made = {name: pathlib.Path(scratch, f"{family}-{name}") for name in ("megatron", "megatron-dist")}
        for name, target in made.items():
            reshard.run("sample", target, "--family", family, "--to", name, "--layers", "3", "--quiet")
        reshard.run("compare", *made.values(), ranks=2)
        single = any(re.match(r"decoder\.layers\.\d", key) for key in dist.tensors_of(files.iteration_folder(made["megatron-dist"])))
        assert single == (family == "deepseek_v3"), family  # whose first layers are dense


def check_opensci(data, reshard, scratch):
    """Files of the Open-Sci fork, with common.pt, two files a rank and states of Transformer Engine: its tensors are those of its older format."""
    case = pathlib.Path(data, "opensci", "opensci-bias")
    reshard.run("compare", case / "torch_dist-tp1-pp2", case / "torch-tp2-pp1", ranks=2)
    target = pathlib.Path(scratch, "opensci")
    reshard.convert(case / "torch-tp2-pp1", target, "--to", "megatron-dist", "--pp", "2", ranks=2)
    made, own = files.iteration_folder(target), files.iteration_folder(case / "torch_dist-tp1-pp2")
    seen, wanted = dist.tensors_of(made), dist.tensors_of(own)
    assert seen.keys() == wanted.keys(), sorted(seen.keys() ^ wanted.keys())
    for name in wanted:
        rows = min(len(seen[name]), len(wanted[name]))  # of vocabulary: as many as either format pads to
        assert files.raw(seen[name][:rows]) == files.raw(wanted[name][:rows]), f"{name} differs"
    assert not states_of(own) - states_of(made), sorted(states_of(own) - states_of(made))[:5]


def check_proof(data, reshard, scratch):
    """Manifest, verify, compare by digests, plan, and what is converted already."""
    case = pathlib.Path(data, "megatron", "qwen3")
    source, target = case / "torch_dist-tp2-pp2", pathlib.Path(scratch, "proof")
    flags = ["--to", "megatron-dist", "--tp", "1", "--pp", "4", "--dist-files", "2"]
    planned = json.loads(reshard.run("plan", source, target, *flags, "--ranks", "2", "--json"))
    report = json.loads(reshard.run("convert", source, target, *flags, "--json", ranks=2))
    assert report["target_bytes"] == planned["written"]["sum"], (report["target_bytes"], planned["written"])
    for ranks in (1, 3):
        proven = json.loads(reshard.run("verify", target, "--json", ranks=ranks))
        assert proven["proven"] and not proven["findings"] and proven["bytes_read"] == proven["bytes"], proven
    for other in (source, target, case / "hf", *case.glob("torch-*")):
        compared = json.loads(reshard.run("compare", other, "--manifest", target, "--json", ranks=2))
        assert compared["equal"] and compared["tensors"] > 20, compared
    assert json.loads(reshard.run("convert", source, target, *flags, "--json"))["already"]
    unit = files.iteration_folder(target)
    entries = json.loads((unit / "manifest.json").read_text())["files"]
    number = next(i for i, entry in enumerate(entries) if entry.get("path") == "__2_0.distcp")
    tensor = entries[number + 1]  # tensors stand behind their file
    dist.flip(unit / "__2_0.distcp", tensor["offset"] + 1, 8)
    done = subprocess.run([reshard.binary, "verify", str(target)], capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 5 and "__2_0.distcp" in said and tensor["name"] in said, said


def check_resume(data, reshard, scratch):
    """A conversion that a signal stops goes on with other ranks, and writes the bytes of one that never stopped; inspect reads headers."""
    root = pathlib.Path(scratch, "resume")
    reshard.run("sample", root / "source", "--family", "llama", "--parameters", "6e7", "--to", "megatron-dist", "--tp", "2", "--pp", "2")
    # A shell counts as its own what its children have read.
    script = f'"{reshard.binary}" inspect "{root / "source"}" > /dev/null && cat /proc/$$/io'
    counted = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    read, size = int(counted.split()[1]), sum(path.stat().st_size for path in (root / "source").rglob("*"))
    assert read < 0.03 * size, f"inspect reads {read} of {size} bytes"
    flags = ["--to", "megatron-dist", "--tp", "4", "--dist-files", "2", "--memory", "4MiB", "--journal-interval", "1MiB"]
    reshard.convert(root / "source", root / "wanted", *flags, ranks=2)
    command = [reshard.binary, "convert", str(root / "source"), str(root / "target"), *flags, "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and not list(root.glob("target/.release.reshard-*/journal/0-*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, f"exit {process.returncode}: {said.decode()}"
    report = json.loads(reshard.run("convert", root / "source", root / "target", *flags, "--resume", "--json", ranks=3))
    assert 0 < report["resumed"] < report["target_bytes"], report["resumed"]
    assert tree_digest(root / "target") == tree_digest(root / "wanted"), "other bytes"


def check_options(data, reshard, scratch):
    """Options without effect are refused."""
    source = pathlib.Path(data, "megatron", "llama-gqa", "hf")
    for flags in (["--to", "hf", "--dist-files", "2"], ["--to", "megatron", "--dist-files", "2"],
                  ["--to", "megatron-dist", "--megatron-names", "legacy"], ["--to", "megatron-dist", "--max-shard-size", "1GB"],
                  ["--to", "megatron-dist", "--dist-files", "0"], ["--to", "megatron-dist", "--pp", "9"]):  # fmt: skip
        command = [reshard.binary, "convert", str(source), str(pathlib.Path(scratch, "refused")), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, f"{flags}: exit {done.returncode}: {done.stderr}"


def main(arguments):
    binary, mpiexec, data, *names = arguments
    reshard, checks = Reshard(binary, mpiexec), Checks()
    with tempfile.TemporaryDirectory() as scratch:
        for case in dist_cases(data, names):
            check_reading(case, reshard, checks, scratch)
            check_writing(case, reshard, checks, scratch)
        for era, (name, _, _) in ERAS.items():
            if not names or name in names:
                with checks.case(f"era: {era}"):
                    check_era(data, era, reshard, scratch)
        for check in (check_without_args, check_places, check_same_bytes, check_files, check_common_state, check_kept_files,
                      check_samples, check_opensci,
                      check_proof, check_resume, check_options):  # fmt: skip
            with checks.case(check.__name__.removeprefix("check_").replace("_", " ")):
                check(data, reshard, scratch)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

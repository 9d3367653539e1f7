"""inspect, compare and plan on the cases in tests/data.

usage: commands_test.py RESHARD MPIEXEC DATA [CASE...]
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import safetensors.torch
import torch
from cases import STAGE_LAYERS, degrees, huggingface_cases, layout_flags, megatron_cases
from programs import Checks, Reshard

COMMANDS = ("convert", "inspect", "compare", "plan")


def fails(reshard, code, *arguments):
    """Runs a command that must end with this exit code; what it wrote to stdout and stderr."""
    done = subprocess.run([reshard.binary, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
    return done.stdout, done.stderr


def read_json(reshard, *arguments, ranks=1):
    return json.loads(reshard.run(*arguments, "--json", ranks=ranks))


def check_help(reshard, checks):
    for command in COMMANDS:
        with checks.case(f"{command} --help"):
            text = reshard.run(command, "--help")
            assert text.count(f"reshard {command} ") >= 2, "two examples are wanted"
            assert max(map(len, text.splitlines())) <= 200, "a line is too long"
            assert "Output" in text, "options are grouped"
            if command in ("convert", "plan"):
                for flag in ("--tp", "--pp", "--vpp", "--ep", "--etp", "--stage-layers", "--dtype", "--vocab-fill", "--max-shard-size"):
                    assert "default" in text.split(f"\n  {flag} ")[1].split("\n  --")[0], f"{flag}: no default told"


def check_inspect_huggingface(case, reshard):
    tensors = {}
    for file in (case / "hf").glob("*.safetensors"):
        tensors.update(safetensors.torch.load_file(file))
    config = json.loads((case / "hf" / "config.json").read_text())
    report = read_json(reshard, "inspect", case / "hf")
    assert (report["format"], report["family"]) == ("hf", config["model_type"]), report["family"]
    assert report["parallelism"]["tp"] == report["parallelism"]["pp"] == 1
    assert report["vocabulary"]["true"] == config["vocab_size"]
    assert not report["problems"], report["problems"]
    seen = {item["name"]: item["shape"] for item in report["tensors"]}
    assert seen == {name: list(tensor.shape) for name, tensor in tensors.items()}, "stored tensors differ"
    assert report["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    text = reshard.run("inspect", case / "hf", ranks=3)
    assert "{0.." in text and f"family       {config['model_type']}" in text, text


def check_inspect_megatron(layout, reshard):
    report = read_json(reshard, "inspect", layout, ranks=2)
    wanted = degrees(layout)
    seen = {name: report["parallelism"][name] for name in wanted}
    assert report["format"] == "megatron" and seen == wanted, (report["format"], seen)
    if stages := STAGE_LAYERS.get(f"{layout.parent.name}/{layout.name}"):
        assert ",".join(str(stage["layers"]) for stage in report["parallelism"]["stages"]) == stages
    assert report["training"]["iteration"] > 0, report["training"]
    assert not report["problems"], report["problems"]
    reference = read_json(reshard, "inspect", layout.parent / "hf")
    assert report["parameters"] == reference["parameters"]
    assert report["vocabulary"]["true"] == reference["vocabulary"]["true"]
    assert report["vocabulary"]["padded"] >= report["vocabulary"]["true"]


def check_statistics(case, reshard):
    tensors = safetensors.torch.load_file(case / "hf" / "model.safetensors")
    for ranks in (1, 3):
        report = read_json(reshard, "inspect", case / "hf", "--stats", ranks=ranks)
        stored = {role: item["name"] for item in report["tensors"] for role in item["roles"][:1] if len(item["roles"]) == 1}
        for item in report["roles"]:
            name = stored.get(item["role"])
            if name is None or [n for n in report["tensors"] if n["roles"] == [item["role"]]][1:]:
                continue
            tensor, values = tensors[name].double(), item["values"]
            assert values["min"] == tensor.min() and values["max"] == tensor.max(), item
            assert abs(values["mean"] - tensor.mean()) < 1e-6 and values["nan"] == values["inf"] == 0, item


def check_placements(case, reshard):
    """The bytes at the places that --tensor names are the tensor's."""
    layout = case / "torch-tp2-pp2"
    role = "layers.0.attention.k.weight"
    whole = {}
    for root in (layout, case / "hf"):
        unit = pathlib.Path(read_json(reshard, "inspect", root)["unit"])
        places = read_json(reshard, "inspect", root, "--tensor", role)
        total = [max(p["offset"][d] + p["extent"][d] for p in places) for d in range(len(places[0]["offset"]))]
        whole[root] = torch.zeros(total, dtype=torch.int16)
        for place in places:
            data = torch.frombuffer(bytearray((unit / place["file"]).read_bytes()[place["byte"] & 1 :]), dtype=torch.uint8)
            shorts = data[: len(data) // 2 * 2].view(torch.int16)
            box = torch.as_strided(shorts, place["extent"], place["strides"], place["byte"] // 2)
            index = tuple(slice(o, o + e) for o, e in zip(place["offset"], place["extent"]))
            whole[root][index] = box
    assert torch.equal(whole[layout], whole[case / "hf"]), "the places of the two formats hold different numbers"
    fails(reshard, 2, "inspect", layout, "--tensor", "no.such.tensor")


def check_tensor_names(case, reshard):
    """The end of a stored name is enough; a name that is none brings near ones."""
    layout, end = case / "torch-tp2-pp2", "decoder.layers.0.self_attention.linear_qkv.weight"
    assert read_json(reshard, "inspect", layout, "--tensor", end) == read_json(reshard, "inspect", layout, "--tensor", f"model.{end}")
    _, said = fails(reshard, 2, "inspect", layout, "--tensor", end.replace("qkv", "qvk"))
    assert f"near it are model.{end}" in said, said
    _, said = fails(reshard, 2, "inspect", case / "hf", "--tensor", "q_proj.weight")
    assert "names end so" in said and "model.layers.0.self_attn.q_proj.weight" in said, said


def check_output_errors(case, reshard, scratch):
    """What stdout does not take is an error, also with --json."""
    commands = (["inspect", case / "hf"], ["compare", case / "hf", case / "hf"], ["plan", case / "hf", f"{scratch}/unwritten", "--to", "hf"], ["--help"], ["convert", "--help"])
    for command in commands:
        for flags in ([], ["--json"]) if "--help" not in command else ([],):
            with open("/dev/full", "w") as full:
                done = subprocess.run([reshard.binary, *map(str, command), *flags], stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
            assert done.returncode == 4 and "standard output: No space left" in done.stderr, (command, done.returncode, done.stderr)


def check_json_failures(case, reshard, scratch):
    """With --json a failure of any kind is one object on stdout."""
    target = f"{scratch}/unwritten"
    for code, word, command in ((2, "nonsense", ["convert", case / "hf", target, "--to", "nonsense"]), (2, "--tp", ["convert", case / "hf", target, "--to", "megatron", "--tp", "0"]),
                                (2, "--memory", ["plan", case / "hf", target, "--to", "hf", "--memory", "1K"]), (3, "does not exist", ["inspect", f"{scratch}/nothing"])):
        out, said = fails(reshard, code, *command, "--json")
        failure = json.loads(out)
        assert failure["code"] == code and word in failure["message"] and not said.strip(), (failure, said)


def check_bin_shards(case, reshard, scratch):
    """pytorch_model.bin in files of a largest size: torch loads them by their index, and reshard reads them back."""
    folder = pathlib.Path(scratch, "bins")
    reshard.convert(case / "hf", folder, "--to", "hf-bin", "--max-shard-size", "10KB", ranks=2)
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"pytorch_model-00001-of-{len(files):05}.bin", files
    assert sorted(file.name for file in folder.glob("*.bin")) == files, "files that the index does not name"
    loaded = {file: torch.load(folder / file, weights_only=True) for file in files}
    tensors = safetensors.torch.load_file(case / "hf" / "model.safetensors")
    assert index["weight_map"].keys() == tensors.keys()
    for name, file in index["weight_map"].items():
        assert torch.equal(loaded[file][name], tensors[name]), name
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert read_json(reshard, "compare", case / "hf", folder)["equal"]


def check_companions(case, reshard, scratch):
    """The files of --tokenizer go to a Megatron target's hf_config, and back from there."""
    tokenizer = pathlib.Path(scratch, "tokenizer")
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text('{"mine": 1}')
    reshard.convert(case / "hf", f"{scratch}/with", "--to", "megatron", "--tokenizer", tokenizer)
    kept, = pathlib.Path(scratch, "with").glob("*/hf_config/tokenizer.json")
    assert kept.read_text() == '{"mine": 1}'


def check_notes(case, reshard):
    """What a plain conversion takes for granted is a note, no warning."""
    report = read_json(reshard, "inspect", case / "torch-tp2-pp2")
    assert any("family llama taken" in note for note in report["notes"]) and not report["warnings"], report["warnings"]
    assert "note: family llama taken" in reshard.run("inspect", case / "torch-tp2-pp2")


def check_single_files(case, reshard, scratch):
    folder = pathlib.Path(scratch, "single")
    folder.mkdir()
    torch.save({"a": {"b": torch.zeros(2, 3)}, "step": 7, "shape": torch.Size([1])}, folder / "other.pt")
    shutil.copy(case / "hf" / "model.safetensors", folder / "lone.safetensors")
    text = reshard.run("inspect", folder / "other.pt", ranks=2)
    assert "a.b  F32 [2, 3]" in text and "step = 7" in text and "no checkpoint" in text, text
    report = read_json(reshard, "inspect", folder)
    assert report["format"] is None and len(report["files"]) == 2, report
    fails(reshard, 3, "inspect", folder / "nothing")


def check_damage(case, reshard, scratch):
    """One flipped bit and two swapped rows are named with tensor, index and values."""
    tensors = safetensors.torch.load_file(case / "hf" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"

    def damaged(change):
        folder = pathlib.Path(scratch, "damaged")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(case / "hf", folder)
        copy = {key: tensor.clone() for key, tensor in tensors.items()}
        change(copy[name])
        safetensors.torch.save_file(copy, folder / "model.safetensors", {"format": "pt"})
        return folder

    def flip(tensor):
        tensor.view(torch.int16)[3, 5] ^= 1

    def swap(tensor):
        tensor[[2, 7]] = tensor[[7, 2]]

    for ranks in (1, 3):
        done = subprocess.run(
            [*([reshard.mpiexec, "--oversubscribe", "-n", "3"] if ranks > 1 else []), reshard.binary, "compare", case / "torch-tp2-pp2", damaged(flip), "--json"],
            capture_output=True, text=True, timeout=300)
        assert done.returncode == 5, done.stderr
        difference, = json.loads(done.stdout[: done.stdout.rindex("\n}") + 2])["differences"]
        assert (difference["role"], difference["first"], difference["differing"]) == ("layers.1.mlp.down.weight", [3, 5], 1), difference
        assert float(difference["a"]) == tensors[name][3, 5], difference
    out, _ = fails(reshard, 5, "compare", case / "hf", damaged(swap))
    assert "layers.1.mlp.down.weight" in out and "first at [2, " in out, out
    reshard.run("compare", case / "hf", damaged(flip), "--tolerance", "1")


def check_dtypes(case, reshard, scratch):
    wide = pathlib.Path(scratch, "fp32")
    reshard.convert(case / "hf", wide, "--to", "hf", "--dtype", "fp32")
    out, _ = fails(reshard, 5, "compare", case / "hf", wide)
    assert "BF16 in A, F32 in B" in out and "differs:" not in out, out
    reshard.run("compare", case / "hf", wide, "--tolerance", "0")


def check_plan(source, flags, reshard, scratch, ranks):
    """What plan says is what convert then reports, and plan leaves nothing behind."""
    target = pathlib.Path(scratch, "planned", f"{source.parent.name}-{source.name}-{ranks}")
    target.parent.mkdir(exist_ok=True)
    planned = read_json(reshard, "plan", source, target, *flags, "--ranks", ranks, "--memory", "64MiB")
    assert not target.exists(), "plan made its target"
    seen = json.loads(reshard.convert(source, target, *flags, "--memory", "64MiB", "--json", ranks=ranks))
    assert planned["parameters"] == read_json(reshard, "inspect", source)["parameters"]
    for key in ("unit", "from", "to", "family", "rounds", "tile_bytes", "tensors", "target_bytes", "ranks"):
        assert planned[key] == seen[key], f"{key}: planned {planned[key]}, convert says {seen[key]}"
    for key in ("sent", "written"):
        assert planned[key]["by_rank"] == seen[key]["by_rank"], f"{key}: {planned[key]['by_rank']}, {seen[key]['by_rank']}"
    for guess, truth in zip(planned["read"]["by_rank"], seen["read"]["by_rank"]):
        assert guess <= truth <= 1.02 * guess + 65536, f"read: planned {guess}, convert says {truth}"
    assert read_json(reshard, "plan", source, target, *flags)["already"] and not planned["already"]
    tight = read_json(reshard, "plan", source, target, *flags, "--overwrite", "--memory", "4KB")
    assert tight["memory"] > 4000 and any("more than their bound of 4000" in note for note in tight["notes"]), tight
    assert planned["memory"] == 64 << 20 and not any("their bound" in note for note in planned["notes"]), planned
    _, said = fails(reshard, 2, "plan", source, target, *flags, "--dtype", "fp16")
    assert "--overwrite" in said, said


def check_size_limit(source, reshard, scratch):
    """A limit of file sizes is an error of the write; nothing is left, nor the folders above."""
    target = pathlib.Path(scratch, "new", "folders", "target")
    command = ["bash", "-c", 'ulimit -f 20; exec "$@"', "-", reshard.binary, "convert", source, target, "--to", "hf"]
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4 and "File too large" in done.stderr, f"exit {done.returncode}: {done.stderr}"
    assert not pathlib.Path(scratch, "new").exists()


def main(arguments):
    binary, mpiexec, data, *names = arguments
    reshard, checks = Reshard(binary, mpiexec), Checks()
    llama = pathlib.Path(data, "megatron", "llama-gqa")
    with tempfile.TemporaryDirectory() as scratch:
        check_help(reshard, checks)
        with checks.case("a limit of file sizes"):
            check_size_limit(llama / "torch-tp2-pp2", reshard, scratch)
        for case in huggingface_cases(data, names):
            with checks.case(f"{case.name}: inspect"):
                check_inspect_huggingface(case, reshard)
        for case in megatron_cases(data, names):
            layouts = sorted(case.glob("torch-*"))
            for layout in layouts:
                with checks.case(f"{case.name}: inspect {layout.name}"):
                    check_inspect_megatron(layout, reshard)
            for other in [*layouts[1:], case / "hf"]:
                with checks.case(f"{case.name}: compare {layouts[0].name} with {other.name}"):
                    assert read_json(reshard, "compare", layouts[0], other, ranks=2)["equal"]
            with checks.case(f"{case.name}: plan {layouts[-1].name}"):
                check_plan(layouts[-1], ["--to", "hf"], reshard, scratch, 3)
                check_plan(case / "hf", ["--to", "megatron", *layout_flags(layouts[-1])], reshard, scratch, 2)
        for check in (check_statistics, check_placements, check_tensor_names, check_notes):
            with checks.case(check.__name__):
                check(llama, reshard)
        for check in (check_single_files, check_damage, check_dtypes, check_output_errors, check_json_failures, check_bin_shards, check_companions):
            with checks.case(check.__name__):
                check(llama, reshard, scratch)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Manifests: what they say, what verify finds without the source, and when a conversion is done already.

usage: verify_test.py RESHARD MPIEXEC DATA
"""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import safetensors.torch
from programs import Checks, Reshard

USAGE, INPUT, DIFFERENT = 2, 3, 5


class Bench:
    """Runs reshard where exit codes are wanted."""

    def __init__(self, reshard, scratch):
        self.reshard, self.scratch = reshard, scratch

    def code(self, *arguments, ranks=1):
        """(exit code, what was said)"""
        launcher = [] if ranks == 1 else [self.reshard.mpiexec, "--oversubscribe", "-n", str(ranks)]
        command = [*launcher, self.reshard.binary, *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def json(self, *arguments, code=0, ranks=1):
        got, said = self.code(*arguments, "--json", ranks=ranks)
        assert got == code, f"exit {got}, wanted {code}: {said}"
        return json.loads(said[said.index("{") : said.rindex("}") + 1])


def flip(path, at):
    """Flips a bit; the old bytes."""
    old = path.read_bytes()
    new = bytearray(old)
    new[at] ^= 4
    path.write_bytes(new)
    return old


def check_manifest(bench, checks, source, target):
    with checks.case("the manifest, by its own rules"):
        text = (target / "manifest.json").read_text()
        manifest = json.loads(text)
        body = text[: text.rindex('"crc32": ')]
        assert manifest["crc32"] == f"{zlib.crc32(body.encode()):08x}", manifest["crc32"]
        assert manifest["facts"]["source"]["path"] == str(source.resolve()) and manifest["facts"]["reshard"] in subprocess.run([bench.reshard.binary, "--version"], capture_output=True, text=True).stdout
        sizes = {entry["path"]: entry["bytes"] for entry in manifest["facts"]["source"]["files"]}
        assert sizes == {str(path.relative_to(source)): path.stat().st_size for path in source.rglob("*.pt")}, sizes
        for word in (platform.node(), str(target), time.strftime("%Y-%m"), str(os.getpid())):
            assert not word or word not in text, f"{word} is in the manifest"
    with checks.case("where tensors lie, by safetensors"):
        file = target / "model.safetensors"
        header, *tensors = [entry for entry in manifest["files"] if entry.get("path") == file.name or "name" in entry]
        assert header["tensors"] == len(tensors) and header["bytes"] == file.stat().st_size
        content, raw = safetensors.torch.load_file(file), file.read_bytes()
        assert {entry["name"] for entry in tensors} == set(content)
        others, end = b"", 0
        for entry in tensors:
            tensor = content[entry["name"]]
            size = tensor.numel() * tensor.element_size()
            assert entry["shape"] == list(tensor.shape) and raw[entry["offset"] : entry["offset"] + size] == tensor.view(-1).view(__import__("torch").uint8).numpy().tobytes()
            others, end = others + raw[end : entry["offset"]], entry["offset"] + size
        assert header["others"] == f"{zlib.crc32(others + raw[end:]):08x}"
    with checks.case("the model's tensors are all there, by their roles"):
        roles = {entry["role"] for entry in manifest["tensors"]}
        assert roles == {entry["role"] for entry in bench.json("inspect", source)["roles"] if ".padding." not in entry["role"]} | {role for role in roles if ".padding." in role}
        assert all(len(entry["digest"]) == 32 for entry in manifest["tensors"])


def check_verify(bench, checks, target):
    for ranks in (1, 3):
        with checks.case(f"verify on {ranks} ranks"):
            report = bench.json("verify", target, ranks=ranks)
            assert report["proven"] and not report["findings"] and report["bytes_read"] == report["bytes"], report
            assert report["bytes"] == sum(path.stat().st_size for path in target.iterdir() if path.name != "manifest.json")
    with checks.case("a part of it"):
        report = bench.json("verify", target, "--sample", 20, "--seed", 5)
        share = report["bytes_read"] / report["bytes"]
        assert 0.2 <= share < 0.6 and report == bench.json("verify", target, "--sample", 20, "--seed", 5, ranks=2), report
        assert bench.json("verify", target, "--sample", 0)["tensors_read"] == 0
        code, said = bench.code("verify", target, "--sample", 20)
        assert code == 0 and "probability" in said and "every byte" not in said, said
    file = target / "model.safetensors"
    entries = json.loads((target / "manifest.json").read_text())["files"]
    tensor = next(entry for entry in entries if "mlp" in entry.get("name", ""))
    for name, path, at, wanted in (
        ("a tensor", file, tensor["offset"] + 3, (tensor["name"], tensor["roles"][0])),
        ("a header", file, 20, ("header",)),
        ("config.json", target / "config.json", 5, ("config.json: its bytes",)),
    ):
        with checks.case(f"a flipped bit in {name}"):
            old = flip(path, at)
            report = bench.json("verify", target, code=DIFFERENT, ranks=2)
            assert len(report["findings"]) == 1 and all(word in report["findings"][0] for word in (path.name, *wanted)), report
            path.write_bytes(old)
    with checks.case("a flipped bit in the manifest"):
        old = flip(target / "manifest.json", 40)
        code, said = bench.code("verify", target)
        assert code == INPUT and "manifest.json" in said, said
        (target / "manifest.json").write_bytes(old)
    with checks.case("files too many, too few, too short"):
        (target / "model-00002.safetensors").write_bytes(b"")
        (target / "notes.txt").write_text("mine")
        report = bench.json("verify", target, code=DIFFERENT)
        assert report["findings"] == ["model-00002.safetensors: is no file of the conversion"] and "notes.txt" in report["notes"][0], report
        (target / "model-00002.safetensors").unlink()
        assert "notes.txt" in bench.json("verify", target)["notes"][0]
        (target / "notes.txt").unlink()
        config = (target / "config.json").read_bytes()
        (target / "config.json").unlink()
        assert "config.json: is missing" in bench.json("verify", target, code=DIFFERENT)["findings"]
        (target / "config.json").write_bytes(config[:-1])
        assert "wanted" in bench.json("verify", target, code=DIFFERENT)["findings"][0]
        (target / "config.json").write_bytes(config)
        assert bench.json("verify", target)["proven"]
    with checks.case("beside them: what a loader may take, of any format, is found; the rest is told"):
        for name in ("pytorch_model.bin", "model.safetensors.index.json", "adapter_config.json", "model.h5", ".metadata", "common.pt"):
            (target / name).write_bytes(b"{}")
            assert bench.json("verify", target, code=DIFFERENT)["findings"] == [f"{name}: is no file of the conversion"], name
            (target / name).unlink()
        (target / "tokenizer.json").write_text("{}")
        code, said = bench.code("verify", target)
        assert code == 0 and "tokenizer.json is no file of" in said and "every byte of these files" in said, said
        (target / "tokenizer.json").unlink()
    with checks.case("links and folders in the way"):
        (target / "itself").symlink_to("itself")
        assert "itself is no file of" in bench.json("verify", target)["notes"][0]
        (target / "itself").unlink()
        (target / "more").symlink_to(bench.scratch)
        assert bench.json("verify", target, code=DIFFERENT)["findings"] == ["more: is a link to a folder, no part of the conversion"]
        (target / "more").unlink()
        (target / "config.json").rename(bench.scratch / "config")
        for way in (lambda path: path.symlink_to(path.name), lambda path: path.mkdir(), lambda path: os.mkfifo(path)):
            way(target / "config.json")
            assert "config.json: is no file" in bench.json("verify", target, code=DIFFERENT)["findings"]
            (target / "config.json").rmdir() if (target / "config.json").is_dir() else (target / "config.json").unlink()
        (bench.scratch / "config").rename(target / "config.json")
    with checks.case("a folder of another name is not proven for the one above"):
        above = bench.scratch / "above"
        shutil.copytree(target, above / "old")
        code, said = bench.code("verify", above)
        assert code == INPUT and "no manifest.json" in said, said
    with checks.case("without a manifest, and without digests"):
        other = bench.scratch / "unproven"
        bench.reshard.convert(target, other, "--to", "hf", "--no-verify")
        code, said = bench.code("verify", other)
        assert code == INPUT and "--no-verify" in said, said
        (other / "manifest.json").unlink()
        code, said = bench.code("verify", other)
        assert code == INPUT and "manifest.json" in said, said


def check_roots(bench, checks, source):
    """The folder above an iteration will do."""
    root = bench.scratch / "megatron"
    with checks.case("the folder above"):
        bench.reshard.convert(source, root, "--to", "megatron", "--tp", 2, "--iteration", 7)
        assert bench.json("verify", root)["unit"] == str(root / "iter_0000007")
        tracker = root / "latest_checkpointed_iteration.txt"
        for text in ("8\n", "release", "", "7" * 40):
            tracker.write_text(text)
            report = bench.json("verify", root, code=DIFFERENT)
            assert len(report["findings"]) == 1 and "latest_checkpointed_iteration.txt: names" in report["findings"][0], report
            assert bench.json("verify", root / "iter_0000007")["proven"]
        tracker.write_text("7")
    with checks.case("a tracker of another iteration that is there is told"):
        (root / "iter_0000009").mkdir()
        tracker.write_text("9")
        assert "names '9'" in bench.json("verify", root)["notes"][0]
        (root / "iter_0000009").rmdir()
        tracker.write_text("7")
    with checks.case("DeepSpeed's folder of a step by Megatron's tracker"):
        steps = bench.scratch / "steps"
        bench.reshard.convert(pathlib.Path(__file__).parents[1] / "data" / "huggingface" / "gpt2" / "hf", steps, "--to", "megatron-deepspeed")
        (steps / "latest_checkpointed_iteration.txt").write_text("0")
        assert bench.json("verify", steps)["proven"]
    with checks.case("a release beside a run's iterations leaves the tracker"):
        notes = bench.json("convert", source, root, "--to", "megatron", "--for-release")["notes"]
        assert any("names iteration 7 and was left so" in note for note in notes) and tracker.read_text() == "7", notes
        shutil.rmtree(root / "release")
    with checks.case("each format's tracker leads to what it wrote"):
        model = pathlib.Path(__file__).parents[1] / "data" / "huggingface"
        for case, *flags in (("llama", "megatron", "--for-release"), ("llama", "megatron-dist"), ("gpt2", "megatron-deepspeed"), ("gpt2", "merak"), ("gpt2", "merak", "--merak-era", "1", "--iteration", 5), ("gpt2", "merak", "--merak-era", "1", "--tp", 2)):
            place = bench.scratch / "-".join(map(str, (case, *flags)))
            bench.reshard.convert(model / case / "hf", place, "--to", *flags)
            assert bench.json("verify", place)["proven"]
    with checks.case("two of them: name one"):
        bench.reshard.convert(source, root, "--to", "megatron", "--iteration", 8)
        code, said = bench.code("verify", root)
        assert code == USAGE and "iter_0000007" in said and "iter_0000008" in said, said


def check_compare(bench, checks, source, target):
    """Any layout of the same numbers has the digests of the manifest."""
    with checks.case("another layout by digests"):
        for path in (source, target, bench.scratch / "megatron" / "iter_0000007"):
            report = bench.json("compare", path, "--manifest", target, ranks=2)
            assert report["equal"] and report["tensors"] > 10 and report["as_source"] == 0, report
    half = bench.scratch / "half"
    with checks.case("a cast is proven by digests before and after"):
        bench.reshard.convert(source, half, "--to", "hf", "--dtype", "fp16")
        roles = json.loads((half / "manifest.json").read_text())["tensors"]
        assert {(role["dtype"], role["source_dtype"]) for role in roles} == {("F16", "BF16")}, roles[0]
        assert bench.json("compare", half, "--manifest", half)["as_source"] == 0
        report = bench.json("compare", source, "--manifest", half)
        assert report["equal"] and report["as_source"] == report["tensors"], report
        whole = {role["role"]: role["digest"] for role in json.loads((target / "manifest.json").read_text())["tensors"]}
        assert all(role["source_digest"] == whole[role["role"]] for role in roles)
    with checks.case("one changed number is named"):
        other = shutil.copytree(target, bench.scratch / "changed")
        entries = json.loads((other / "manifest.json").read_text())["files"]
        tensor = next(entry for entry in entries if entry.get("name", "").endswith("k_proj.weight"))
        flip(other / "model.safetensors", tensor["offset"] + 6)
        report = bench.json("compare", other, "--manifest", target, code=DIFFERENT)
        assert len(report["findings"]) == 1 and tensor["roles"][0] in report["findings"][0], report
    with checks.case("other hyperparameters are named"):
        config = json.loads((other / "config.json").read_text())
        shutil.copy(target / "model.safetensors", other)
        (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.25}))
        report = bench.json("compare", other, "--manifest", target, code=DIFFERENT, ranks=2)
        assert len(report["findings"]) == 1 and "hyperparameter norm_epsilon: 0.25, wanted" in report["findings"][0], report
    with checks.case("a copy that another rank loads is held against its original"):
        wide = bench.scratch / "wide"
        bench.reshard.convert(source, wide, "--to", "megatron", "--tp", 2)
        report = bench.json("compare", wide, "--manifest", target)
        assert report["equal"] and report["replicas"] > 0, report
        entries = json.loads(next(wide.glob("*/manifest.json")).read_text())["files"]
        second = next(i for i, entry in enumerate(entries) if "mp_rank_01" in entry.get("path", ""))
        norm = next(entry for entry in entries[second + 1 :] if "layernorm" in entry["name"] or "layer_norm" in entry["name"])
        flip(next(wide.glob("*/mp_rank_01/model_optim_rng.pt")), norm["offset"])
        report = bench.json("compare", wide, "--manifest", target, code=DIFFERENT, ranks=2)
        assert len(report["findings"]) == 1 and "mp_rank_01" in report["findings"][0] and norm["name"] in report["findings"][0], report
    with checks.case("rows beyond the vocabulary that the manifest knows are padding"):
        padded = bench.scratch / "padded"
        bench.reshard.convert(pathlib.Path(__file__).parents[1] / "data" / "deepspeed" / "megds-llama" / "tp2-pp2-dp2", padded, "--to", "megatron", "--tp", 2)
        report = bench.json("compare", padded, "--manifest", padded)
        assert report["equal"] and report["tensors"] > 10, report
    with checks.case("rows beyond it are none where the checkpoint tells its own"):
        fewer = bench.scratch / "fewer"
        bench.reshard.convert(padded, fewer, "--to", "hf", "--vocab-size", 150)
        report = bench.json("compare", padded, "--manifest", fewer)
        assert report["equal"] and len(report["padding"]) == 2 and "rows beyond" in report["padding"][0], report
        whole = bench.scratch / "whole"
        bench.reshard.convert(padded, whole, "--to", "hf")
        findings = bench.json("compare", whole, "--manifest", fewer, code=DIFFERENT)["findings"]
        assert len(findings) == 2 and all("shape [" in line and "wanted [150, " in line for line in findings), findings
    with checks.case("another dtype is no proof"):
        report = bench.json("compare", half, "--manifest", target, code=DIFFERENT)
        assert report["tensors"] == 0 and "dtype F16, wanted BF16" in report["findings"][0], report


def check_already(bench, checks, source):
    target, command = bench.scratch / "again", ["convert", source, bench.scratch / "again", "--to", "hf"]
    bench.reshard.run(*command)
    before = {path.name: path.stat() for path in target.iterdir()}
    with checks.case("already converted"):
        for flags in ((), ("--resume",)):
            report = bench.json(*command, *flags, ranks=2)
            assert report["already"] and report["written"]["sum"] == 0, report
            assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == {name: stat.st_mtime_ns for name, stat in before.items()}
        code, said = bench.code("plan", source, target, "--to", "hf")
        assert code == 0, said
        assert not bench.json(*command, "--overwrite")["already"]
    with checks.case("already converted, but the source may be another"):
        assert not bench.json(*command)["warnings"]
        file = next(source.rglob("*.pt"))
        shutil.copy2(file, source / "copy")
        (source / "copy").rename(file)
        report = bench.json(*command, ranks=2)
        assert report["already"] and "files were put there" in report["warnings"][0] and "--manifest" in report["warnings"][0], report
        bench.json(*command, "--overwrite")
        assert not bench.json(*command)["warnings"]
    with checks.case("another model of the same sizes, older and moved to the place of the first"):
        other = shutil.copytree(source, bench.scratch / "other")
        for path in other.rglob("*.pt"):
            flip(path, path.stat().st_size // 2)
            os.utime(path, (1e9, 1e9))
        made = bench.scratch / "moved"
        bench.json("convert", source, made, "--to", "hf")
        source.rename(bench.scratch / "first")
        other.rename(source)
        code, said = bench.code("convert", source, made, "--to", "hf")
        assert code == USAGE and "the source or a file of it have changed since" in said, said
        shutil.rmtree(source)
        (bench.scratch / "first").rename(source)
        assert bench.json("convert", source, made, "--to", "hf")["already"]
    cases = {
        "other options": lambda: ["--dtype", "fp32"],
        "a source written since": lambda: os.utime(next(source.rglob("*.pt"))) or [],
        "a file that is gone": lambda: bench.json(*command, "--overwrite") and (target / "config.json").unlink() or [],
    }
    for name, change in cases.items():
        with checks.case(f"not already converted: {name}"):
            code, said = bench.code(*command, *change())
            assert code == USAGE and "the source or a file of it have changed since; --overwrite" in said, said


def main(binary, mpiexec, data):
    checks = Checks()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Reshard(binary, mpiexec), pathlib.Path(scratch))
        source, target = bench.scratch / "source", bench.scratch / "target"
        shutil.copytree(pathlib.Path(data, "megatron", "llama-gqa", "torch-tp2-pp2"), source)
        for path in source.rglob("*"):  # a clone's files may be younger than the test's
            os.utime(path, (1e9, 1e9))
        bench.reshard.convert(source, target, "--to", "hf")
        unit = next(source.glob("iter_*"))
        check_manifest(bench, checks, unit, target)
        check_verify(bench, checks, target)
        check_roots(bench, checks, source)
        check_compare(bench, checks, source, target)
        check_already(bench, checks, source)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

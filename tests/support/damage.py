"""Cases that must fail, or not, with the right exit code and words, each on its own copy of a fixture; tools to damage one."""

import json
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import tempfile

import torch
from programs import Checks
from safetensors.torch import load_file, save_file

USAGE, INPUT, IO, INCOMPLETE = 2, 3, 4, 7
CASES = []


def case(code, *wanted, source="hf", flags=("--to", "hf"), ranks=1):
    """Registers a function that damages the copy of a fixture; what the conversion says must hold the wanted words.

    The function may return what is different: source, target, flags, user, environment, mount; or skip, and why."""

    def register(function):
        CASES.append((function.__name__.replace("_", " "), function, code, wanted, source, flags, ranks))
        return function

    return register


FIXTURES = {
    "hf": "huggingface/llama/hf",
    "mixtral": "huggingface/mixtral/hf",
    "bloom": "huggingface/bloom/hf",
    "hf gpt2": "huggingface/gpt2/hf",
    "neox": "huggingface/gpt_neox/hf",
    "gqa1": "megatron/llama-gqa/torch-tp1-pp1",
    "gqa": "megatron/llama-gqa/torch-tp2-pp2",
    "gpt2": "megatron/gpt2/torch-tp2-pp3",
    "legacy": "megatron/gpt2-legacy/torch-tp1-pp1",
    "vpp": "megatron/qwen3/torch-tp1-pp2-vpp2",
    "qwen3": "megatron/qwen3/torch-tp2-pp1",
    "moe": "megatron/mixtral-moe/torch-tp1-pp1-ep2",
    "dist": "megatron/llama-gqa/torch_dist-tp2-pp2",
    "dist common": "megatron/llama-core012/torch_dist-dopt-tp2-pp1-dp2",
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


class Runner:
    """Runs one damaged case in a folder of its own."""

    def __init__(self, binary, mpiexec, data):
        self.binary, self.mpiexec, self.data = binary, mpiexec, pathlib.Path(data)

    def command(self, place, folder, flags, ranks, changes):
        target = changes.get("target", place / "target")
        launcher = [] if ranks == 1 else [self.mpiexec, "--oversubscribe", "-n", str(ranks)]
        source = changes.get("source", folder)
        return [*launcher, self.binary, "convert", str(source), str(target), *flags, "--quiet"]

    def run(self, place, damage, code, wanted, source, flags, ranks):
        folder = place / "source"
        shutil.copytree(self.data / FIXTURES[source], folder)
        merge_shards(folder)
        changes = damage(folder) or {}
        try:
            self.check(place, folder, changes, code, wanted, changes.get("flags", flags), ranks)
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
        said = (done.stderr if code else done.stdout).strip()
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


def run_cases(arguments):
    """Runs what was registered: RESHARD MPIEXEC DATA [WORD...], only cases whose name holds a word."""
    binary, mpiexec, data, *words = arguments
    runner, checks = Runner(binary, mpiexec, data), Checks()
    for name, damage, code, wanted, source, flags, ranks in CASES:
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory() as scratch, checks.case(name):
            os.chmod(scratch, 0o755)
            runner.run(pathlib.Path(scratch), damage, code, wanted, source, flags, ranks)
    return checks.finish()

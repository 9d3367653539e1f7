"""Every torch file that reshard writes is loaded by the newest torch (data only) and by Debian's, with the same content.

usage: torch_load.py RESHARD MPIEXEC DATA [CASE...]
       torch_load.py --digest FILE...        prints what the calling interpreter's torch loads
"""

import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import torch
from checkpoints import flat_tensors, raw

DEBIAN_PYTHON = "/usr/bin/python3"


def load(path):
    """torch.load as a careful user calls it: data only where this torch can."""
    if not hasattr(torch.serialization, "safe_globals"):
        return torch.load(path, map_location="cpu")
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def digest(path):
    """One line for a file: how many tensors and plain arguments it holds, and a hash of all of them."""
    content = load(path)
    lines = []
    for name, tensor in sorted(flat_tensors(content).items()):
        dtype, shape, data = raw(tensor)
        lines.append(f"{name} {dtype} {shape} {hashlib.sha256(data).hexdigest()}")
    arguments = sorted(vars(content["args"]).items()) if "args" in content else []
    lines += [f"{name}={value!r}" for name, value in arguments]
    summary = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{len(lines) - len(arguments)} tensors, {len(arguments)} arguments, {summary[:16]}"


def debian_has_torch():
    """Whether the system's own Python has torch (Debian: python3-torch)."""
    return subprocess.run([DEBIAN_PYTHON, "-c", "import torch"], capture_output=True).returncode == 0


def torch_files(folder):
    """Every torch file below folder; there must be one."""
    files = sorted(str(path) for path in pathlib.Path(folder).rglob("*") if path.suffix in (".pt", ".bin"))
    assert files, f"no torch file in {folder}"
    return files


def check_with_debian(digests):
    """Debian's torch loads the same content from every file (path -> digest)."""
    command = [DEBIAN_PYTHON, "-W", "ignore", __file__, "--digest", *digests]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"Debian's torch: {done.stderr[-1500:]}"
    for (path, wanted), seen in zip(digests.items(), done.stdout.splitlines(), strict=True):
        assert seen == wanted, f"{path}: Debian's torch: {seen}, torch {torch.__version__}: {wanted}"


def main(arguments):
    if arguments[0] == "--digest":
        print(*[digest(path) for path in arguments[1:]], sep="\n")
        return 0
    from cases import TO_MEGATRON, huggingface_cases, layout_flags, megatron_cases
    from programs import Checks, Reshard

    binary, mpiexec, data, *names = arguments
    reshard, checks, digests = Reshard(binary, mpiexec), Checks(), {}
    jobs = []
    for case in huggingface_cases(data, names):
        jobs.append((f"{case.name} as hf-bin", case / "hf", ["--to", "hf-bin"]))
        for implementation in ("local", "transformer_engine") if case.name in TO_MEGATRON else ():
            flags = ["--to", "megatron", *TO_MEGATRON[case.name], "--transformer-impl", implementation]
            jobs.append((f"{case.name} as megatron {implementation}", case / "hf", flags))
    for case in megatron_cases(data, names):
        for source in sorted(case.glob("torch-*")):
            flags = ["--to", "megatron", *layout_flags(source)]
            jobs.append((f"{case.name} as {source.name}", source, flags))
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, source, flags) in enumerate(jobs):
            with checks.case(name) as case:
                target = pathlib.Path(scratch, str(number))
                reshard.convert(source, target, *flags)
                loaded = {path: digest(path) for path in torch_files(target)}
                assert not any(line.startswith("0 tensors") for line in loaded.values()), f"no tensors: {loaded}"
                digests.update(loaded)
                case.note(f"{len(loaded)} files")
        if not debian_has_torch():
            print("Debian's torch is not installed, left out")
        else:
            with checks.case(f"Debian's torch loads the same from {len(digests)} files"):
                check_with_debian(digests)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

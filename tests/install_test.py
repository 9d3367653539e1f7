"""The installed program starts without libtorch; its cast module loads libtorch_cpu and libc10 from one
folder, the one it was built with; without the module nothing that needs a cast is begun.

With two libtorches on one machine, libtorch_cpu of one with libc10 of the other aborts at start.

usage: install_test.py CMAKE BUILD PREFIX LIBTORCH_FOLDER CHECKPOINT
"""

import pathlib
import re
import shutil
import subprocess
import sys


def output_of(*command):
    """What a command prints; it must succeed."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def loaded_by(file):
    """The shared libraries that a program or library loads: file by name."""
    return dict(re.findall(r"^\s*(\S+) => (\S+)", output_of("ldd", file), re.MULTILINE))


def faults_of_libraries(binary, module, folder):
    """What is loaded from elsewhere than it should be."""
    for name in loaded_by(binary):
        if "torch" in name or "c10" in name:
            yield f"{binary} loads {name} at start"
    wanted, loaded = pathlib.Path(folder).resolve(), loaded_by(module)
    for stem in ("libtorch_cpu.so", "libc10.so"):
        places = [pathlib.Path(path) for name, path in loaded.items() if name.startswith(stem)]
        print(f"{stem}: {', '.join(map(str, places)) or 'not loaded'}")
        if [path.parent.resolve() for path in places] != [wanted]:
            yield f"{stem} comes from {[str(path) for path in places]}, wanted one in {wanted}"
    paths = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", output_of("readelf", "-d", module))
    print(f"run path: {paths}")
    first = paths[0].split(":")[0] if paths else None
    if first is None or pathlib.Path(first).resolve() != wanted:
        yield f"the run path begins with {first}, wanted {wanted}"


def faults_of_cast(binary, module, checkpoint, target):
    """A cast works with the module, and is refused before anything is written without it."""
    command = [binary, "convert", checkpoint, target, "--to", "hf", "--dtype", "fp16", "--quiet"]
    output_of(*command)
    if not (target / "model.safetensors").is_file():
        yield f"{target} has no model.safetensors"
    shutil.rmtree(target)
    module.unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr.strip().splitlines()[-1])
    if done.returncode != 4 or "libtorch" not in done.stderr:
        yield f"without the module: exit {done.returncode}, {done.stderr}"
    if list(target.parent.glob(f"*{target.name}*")):
        yield "without the module something was written"


def faults_of_links(folder, checkpoint):
    """The older scripts' names choose the command: each link tells of the checkpoint, or what its script lacks."""
    for name, words, wanted in (
        ("inspect_checkpoint", [checkpoint], "parallelism"),
        ("inspect_deepspeed_checkpoint", ["--folder", checkpoint], "parallelism"),
        ("convert_merak_gpt2_checkpoint", ["--load_path", checkpoint], "--convert_type"),
        ("deepspeed_to_transformers", ["--input_folder", checkpoint], "DST is required"),
        ("deepspeed_to_megatron", ["--input_folder", checkpoint], "DST is required"),
        ("convert_megatron_to_hf", ["--train_logs_dir_or_path", "none"], "--save-checkpoints-dir"),
        ("converter", ["--train_logs_dir_or_path", "none"], "--save-checkpoints-dir"),
    ):
        done = subprocess.run([folder / name, *words], capture_output=True, text=True)
        if wanted not in done.stdout + done.stderr:
            yield f"{name}: exit {done.returncode}, lacks {wanted}: {done.stderr}"


def faults_of_scripts(folder):
    """What Slurm's users need is there, and the epilogue finds the installed program by itself."""
    for name in ("convert.sbatch.in", "convert.sbatch", "array.sbatch", "epilogue.sh", "reshard.def", "README.md"):
        if not (folder / name).is_file():
            yield f"{folder / name}: not installed"
    done = subprocess.run([folder / "epilogue.sh", "--exit-status", "4", "none"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "1"})
    if done.returncode != 4 or "--save-checkpoints-dir" not in done.stderr:
        yield f"epilogue.sh: exit {done.returncode}, {done.stderr}"


def main(cmake, build, prefix, folder, checkpoint):
    prefix = pathlib.Path(prefix)
    shutil.rmtree(prefix, ignore_errors=True)
    output_of(cmake, "--install", build, "--prefix", prefix)
    binary = prefix / "bin" / "reshard"
    (module,) = prefix.rglob("libreshard_aten.so")
    faults = [*faults_of_libraries(binary, module, folder)]
    faults += faults_of_links(prefix / "libexec" / "reshard", checkpoint)
    faults += faults_of_scripts(prefix / "share" / "reshard" / "slurm")
    faults += faults_of_cast(binary, module, checkpoint, prefix / "converted")
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

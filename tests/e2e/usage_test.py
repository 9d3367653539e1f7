"""Wrong use: options that contradict the source or have no effect, targets that cannot be written, paths that are something else.

usage: usage_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from damage import CASES, FIXTURES, INPUT, IO, USAGE, case, rank_file, run_cases, weights
DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
HUGGINGFACE = DATA / FIXTURES["hf"]

# The command line and the target.


def wrong_flags(name, code, words, *flags, source="hf", ranks=1):
    CASES.append((name, lambda folder: None, code, words, source, flags, ranks))


TO_MEGATRON = ("--to", "megatron")
wrong_flags("stage layers of a wrong sum", USAGE, ("--stage-layers", "wanted", "5"), *TO_MEGATRON, "--pp", "2", "--stage-layers", "2,2")
wrong_flags("stage layers of a wrong count", USAGE, ("--stage-layers", "wanted 3 stages"), *TO_MEGATRON, "--pp", "3", "--stage-layers", "2,3")
wrong_flags("stage layers of letters", USAGE, ("--stage-layers", "wanted numbers"), *TO_MEGATRON, "--stage-layers", "2,x")
wrong_flags("stages that are not equal", USAGE, ("5 layers", "--stage-layers"), *TO_MEGATRON, "--pp", "2")
wrong_flags("vpp that does not divide", USAGE, ("--vpp 2",), *TO_MEGATRON, "--pp", "5", "--vpp", "2")
wrong_flags("vpp without stages", USAGE, ("--vpp 5", "--pp 2 or more"), *TO_MEGATRON, "--vpp", "5")
wrong_flags("etp without experts", USAGE, ("--etp 2", "no experts"), "--to", "megatron-dist", "--etp", "2")
wrong_flags("tp that does not divide", INPUT, ("groups 2", "4"), *TO_MEGATRON, "--tp", "4")
wrong_flags("tp of 0", USAGE, ("--tp", "0: wanted 1 to 65536"), *TO_MEGATRON, "--tp", "0")
wrong_flags("pp of 0", USAGE, ("--pp", "0: wanted 1 to 65536"), *TO_MEGATRON, "--pp", "0")
wrong_flags("tp beyond reason", USAGE, ("--tp", "wanted"), *TO_MEGATRON, "--tp", "1000000000000")
wrong_flags("tp that is negative", USAGE, ("--tp",), *TO_MEGATRON, "--tp", "-2")
wrong_flags("ep without experts", USAGE, ("--ep 2", "no experts"), *TO_MEGATRON, "--ep", "2")
wrong_flags("ep that does not divide", INPUT, ("experts 4", "3"), *TO_MEGATRON, "--ep", "3", source="mixtral")
wrong_flags("etp whose files collide", INPUT, ("etp 2", "share one file"), *TO_MEGATRON, "--etp", "2", source="mixtral")
wrong_flags("a dtype of nonsense", USAGE, ("--dtype", "int3", "bf16"), "--to", "hf", "--dtype", "int3")
wrong_flags("a value that is empty", USAGE, ("the word behind --hf-template is empty",), "--to", "hf", "--hf-template", "")
wrong_flags("memory of nonsense", USAGE, ("much",), "--to", "hf", "--memory", "much")
wrong_flags("an unknown format", USAGE, ("--to", "gguf"), "--to", "gguf")
wrong_flags("an unknown flag", USAGE, ("--frobnicate",), "--to", "hf", "--frobnicate")
wrong_flags("optimizer keep", USAGE, ("--optimizer keep",), "--to", "hf", "--optimizer", "keep")
wrong_flags("vocabulary larger than the rows", USAGE, ("--vocab-size 99999", "rows"), "--to", "hf", "--vocab-size", "99999", source="gqa")
wrong_flags("a family that Megatron cannot hold", INPUT, ("position_embedding_type", "embedding_norm.weight"), *TO_MEGATRON, source="bloom")
wrong_flags("an unknown family", USAGE, ("marsupial",), "--to", "hf", "--family", "marsupial", source="gqa1")
wrong_flags("a format that the source is not", INPUT, ("no checkpoint", "megatron"), "--to", "hf", "--from", "megatron")


TO_HF = ("--to", "hf")
wrong_flags("tp of minus 1", USAGE, ("--tp", "-1: wanted 1 to 65536"), *TO_MEGATRON, "--tp", "-1")
wrong_flags("an iteration of minus 1", USAGE, ("--iteration", "-1: wanted"), *TO_MEGATRON, "--iteration", "-1")
for layout in ("--tp", "--pp", "--vpp", "--ep", "--etp", "--stage-layers", "--vocab-multiple", "--iteration"):
    wrong_flags(f"{layout} for a target without layout", USAGE, (f"{layout}: --to hf",), *TO_HF, layout, "2")
wrong_flags("filling for a target without padding", USAGE, ("--vocab-fill: --to hf-bin",), "--to", "hf-bin", "--vocab-fill", "last")
wrong_flags("shard size for a target without shards", USAGE, ("--max-shard-size: --to megatron",), *TO_MEGATRON, "--max-shard-size", "1GB")
wrong_flags("a shard size of nonsense", USAGE, ("--max-shard-size", "GiB"), *TO_HF, "--max-shard-size", "1Q")
wrong_flags("memory of a unit that is none", USAGE, ("--memory", '"1K"', "KB, MB", "KiB, MiB"), *TO_HF, "--memory", "1K")
wrong_flags("a vocabulary that config.json tells", USAGE, ("--vocab-size 50", "vocab_size is 211"), *TO_HF, "--vocab-size", "50")
wrong_flags("the vocabulary of config.json", 0, (), *TO_HF, "--vocab-size", "211")
wrong_flags("an iteration of a folder without", USAGE, ("--from-iteration 3",), *TO_HF, "--from-iteration", "3")
wrong_flags("strict args of a folder without", USAGE, ("--strict-args",), *TO_HF, "--strict-args")
wrong_flags("a config key that is not there", USAGE, ("--ignore-config nonsense", "no such key"), *TO_HF, "--ignore-config", "nonsense")
wrong_flags("a config that is not there", USAGE, ("--ignore-config nonsense", "no config.json"), *TO_HF, "--ignore-config", "nonsense", source="gqa1")
wrong_flags("a tokenizer that is not there", USAGE, ("--tokenizer /nonexistent", "no such folder"), *TO_HF, "--tokenizer", "/nonexistent")
wrong_flags("a tokenizer folder without files", USAGE, ("--tokenizer /proc/self/fdinfo", "no tokenizer files"), *TO_HF, "--tokenizer", "/proc/self/fdinfo")


@case(INPUT, "does not exist")
def source_that_is_not_there(folder):
    shutil.rmtree(folder)


@case(INPUT, "no checkpoint")
def source_without_weights(folder):
    weights(folder).unlink()


@case(USAGE, "not empty", "--overwrite")
def target_that_exists(folder):
    target = folder.parent / "target"
    target.mkdir()
    (target / "mine.txt").write_text("mine")


@case(0, flags=("--to", "hf", "--overwrite"))
def target_that_is_overwritten(folder):
    target_that_exists(folder)


@case(USAGE, "holds the folder iter_0000003", flags=("--to", "hf", "--overwrite"))
def target_that_is_the_root_of_a_run(folder):
    shutil.copytree(DATA / FIXTURES["gqa1"], folder.parent / "target")


@case(USAGE, "holds the folder photographs", flags=("--to", "hdf5", "--overwrite"))
def target_that_is_a_home(folder):
    (folder.parent / "target" / "photographs").mkdir(parents=True)
    (folder.parent / "target" / "itself").symlink_to("itself")


@case(USAGE, "holds the folder checkpoint-500", flags=("--to", "hf", "--overwrite"))
def target_that_is_the_output_of_a_training(folder):
    shutil.copytree(folder, folder.parent / "target")
    (folder.parent / "target" / "checkpoint-500").mkdir()


@case(USAGE, "lies in", "by a link", "model.safetensors", flags=("--to", "hf-bin", "--overwrite"))
def source_that_links_into_the_target(folder):
    shutil.copytree(folder, folder.parent / "target")
    weights(folder).unlink()
    weights(folder).symlink_to(folder.parent / "target" / weights(folder).name)


@case(0)
def target_that_is_empty(folder):
    (folder.parent / "target").mkdir()


@case(USAGE, "is a file", flags=("--to", "hf", "--overwrite"))
def target_that_is_a_file(folder):
    (folder.parent / "target").write_text("mine")


@case(USAGE, "holds a checkpoint of its own", flags=("--to", "megatron", "--overwrite"))
def target_in_a_folder_of_another_format(folder):
    shutil.copytree(folder, folder.parent / "target")


@case(USAGE, "two formats, megatron and hf", "--from", source="gqa1")
def source_of_two_formats(folder):
    shutil.copytree(HUGGINGFACE, folder, dirs_exist_ok=True)


@case(USAGE, "--from-iteration 7", "one iteration already", source="gqa1", flags=("--to", "hf", "--from-iteration", "7"))
def iteration_of_one_iteration(folder):
    return {"source": rank_file(folder, "00").parents[1]}


# Paths that are something else: what they are and what to do.


@case(INPUT, "the folder of one rank", "pass the folder above", source="gqa1")
def source_that_is_one_rank(folder):
    return {"source": rank_file(folder, "00").parent}


@case(INPUT, "is a Hub cache", "pass ", "snapshots/abc")
def source_that_is_a_hub_cache(folder):
    hub = folder.parent / "models--x--y"
    (hub / "blobs").mkdir(parents=True)
    (hub / "snapshots").mkdir()
    folder.rename(hub / "snapshots" / "abc")
    return {"source": hub}


@case(INPUT, "model.safetensors: header of", "this is a pointer of Git LFS, git lfs pull")
def weights_that_git_lfs_left_out(folder):
    weights(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n")


@case(INPUT, "model.safetensors is a link that leads nowhere")
def weights_of_a_pruned_cache(folder):
    weights(folder).unlink()
    weights(folder).symlink_to("../blobs/abc")


def foreign(words, *files):
    """A folder that holds nothing but these files."""

    def damage(folder):
        shutil.rmtree(folder)
        for name in files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\x89HDF\r\n\x1a\n")

    CASES.append((f"a folder with {files[0]}", damage, INPUT, words, "hf", TO_HF, 1))


foreign(("release is a torch_dist checkpoint", "pass it"), "release/__0_0.distcp", "release/.metadata")
foreign(("one level down", "source/weights"), "weights/__0_0.distcp", "weights/.metadata")
foreign(("DeepSpeed (ZeRO)", "none of the model"), "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt")
foreign(("universal checkpoint",), "global_step3_universal/zero/a/fp32.pt", "global_step3_universal/mp_rank_00_model_states.pt")
foreign(("weights.h5", "H5Fopen"), "weights.h5")


@case(USAGE, "lie in one another")
def target_inside_the_source(folder):
    return {"target": folder / "sub"}


@case(USAGE, "lie in one another", flags=("--to", "hf", "--overwrite"))
def source_inside_the_target(folder):
    return {"target": folder.parent}


@case(USAGE, "SLURM_STEP_NUM_TASKS", "--mpi=pmix")
def launcher_that_mpi_does_not_understand(folder):
    return {"environment": {"SLURM_STEP_NUM_TASKS": "4"}}


@case(IO, "ermission denied")
def target_without_permission(folder):
    closed = folder.parent / "closed"
    closed.mkdir(mode=0o555)
    return {"target": closed / "target", "user": 65534}


@case(IO, "ermission denied", "model.safetensors")
def source_without_permission(folder):
    weights(folder).chmod(0)
    return {"user": 65534}


@case(IO, "ermission denied")
def source_folder_without_permission(folder):
    folder.chmod(0)
    return {"user": 65534}


@case(IO, "bytes free, wanted")
def target_without_space(folder):
    small = folder.parent / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode == 0
    return {"target": small / "target", "mount": small} if mounted else {"skip": "mounting a small tmpfs is not permitted"}


@case(USAGE, "--mds-qkv-layout", "only: megatron-deepspeed", source="gqa", flags=("--to", "hf", "--mds-qkv-layout", "blocked"))
def a_layout_of_another_framework(folder):
    pass


@case(USAGE, "--lineage", "megatron-deepspeed", source="gqa", flags=("--to", "hf", "--lineage", "bigscience"))
def a_lineage_of_another_framework(folder):
    pass


if __name__ == "__main__":
    sys.exit(run_cases(sys.argv[1:]))

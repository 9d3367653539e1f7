"""Megatron files that are whole but do not belong where they lie, or contradict each other or the config given with them.

usage: misplaced_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from damage import INPUT, case, edit_all, edit_rank, rank_file, run_cases, set_args


def exchange(a, b):
    """Two files take each other's name."""
    other = a.with_name("other")
    a.rename(other)
    b.rename(a)
    other.rename(b)


@case(INPUT, "mp_rank_01_000", "written by rank 0 of 4, which is tp 0", "its name says tp 1", source="gqa")
def tensor_parallel_ranks_exchanged(folder):
    exchange(rank_file(folder, "00_000"), rank_file(folder, "01_000"))


@case(INPUT, "mp_rank_00_001", "which is tp 1, pp 1", source="gqa")
def ranks_of_the_last_stage_exchanged(folder):
    exchange(rank_file(folder, "00_001"), rank_file(folder, "01_001"))


@case(INPUT, "mp_rank_00_001", "which is tp 0, pp 0, ep 0", "its name says tp 0, pp 0, ep 1", source="moe")
def expert_parallel_ranks_exchanged(folder):
    exchange(rank_file(folder, "00_000"), rank_file(folder, "00_001"))


@case(INPUT, "mp_rank_01/", "which is tp 0", source="qwen3")
def the_only_two_ranks_exchanged(folder):
    exchange(rank_file(folder, "00"), rank_file(folder, "01"))


def say_rank_0(content):
    content["args"].rank = 0


@case(0, "which rank wrote them", source="gqa")
def files_of_a_tool_that_runs_as_rank_0(folder):
    edit_all(folder, say_rank_0)


@case(INPUT, "mp_rank_01/", "has the bytes of mp_rank_00/", "twice", source="qwen3")
def the_same_file_for_both_ranks_of_such_a_tool(folder):
    edit_all(folder, say_rank_0)
    shutil.copy(rank_file(folder, "00"), rank_file(folder, "01"))


@case(INPUT, "mp_rank_01_001", "iteration is 9, but 3 in mp_rank_00_000", source="gqa")
def a_file_of_another_iteration(folder):
    edit_rank(rank_file(folder, "01_001"), lambda content: content.update(iteration=9))


@case(INPUT, "iteration is 9, but its folder is iter_0000003", source="gqa")
def all_files_of_another_iteration(folder):
    edit_all(folder, lambda content: content.update(iteration=9))


@case(INPUT, "checkpoint_version is null, wanted 0 to 3", source="legacy")
def a_version_that_is_none(folder):
    edit_all(folder, lambda content: content.update(checkpoint_version=None))


@case(INPUT, "args.vocab_size 50", "multiple of 16", "112 rows", "--vocab-size", source="gqa")
def args_that_tell_fewer_words_than_were_padded(folder):
    set_args(folder, vocab_size=50)


@case(0, "--vocab-size 50 leaves out 51 rows", source="gqa", flags=("--to", "hf", "--vocab-size", "50"))
def fewer_words_by_the_users_wish(folder):
    pass


def config_flag(folder, **changes):
    """The case's own config.json, changed, beside the checkpoint."""
    import json

    data = pathlib.Path(sys.argv[3])
    config = json.loads((data / "megatron/llama-gqa/hf/config.json").read_text())
    config.update(changes)
    path = folder.parent / "config.json"
    path.write_text(json.dumps(config))
    return {"flags": ("--to", "hf", "--config", path)}


@case(0, "verified", source="gqa")
def the_right_config_beside(folder):
    return config_flag(folder)


@case(INPUT, "config.json", "vocab_size 60", "args 101", "--vocab-size", source="gqa")
def a_config_with_another_vocabulary(folder):
    return config_flag(folder, vocab_size=60)


@case(INPUT, "config.json", "another function", "norm_epsilon 1.0", source="gqa")
def a_config_with_another_norm(folder):
    return config_flag(folder, rms_norm_eps=1.0)


@case(INPUT, "config.json", "another function", "layers 2 (args 4)", source="gqa")
def a_config_of_another_model(folder):
    return config_flag(folder, num_hidden_layers=2)


if __name__ == "__main__":
    sys.exit(run_cases(sys.argv[1:]))

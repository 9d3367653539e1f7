"""What a run needs to load a Megatron checkpoint that reshard wrote: its args, and the flags that the notes name.

usage: megatron_write_test.py RESHARD MPIEXEC DATA [CASE...]
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from cases import layout_flags, megatron_cases
from checkpoints import megatron_files
from damage import set_args
from programs import Checks, Reshard


class Writer:
    """Converts one source to Megatron again and again."""

    def __init__(self, reshard, scratch, source):
        self.reshard, self.scratch, self.source = reshard, scratch, source

    def target(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.scratch), "target")

    def write(self, *flags):
        """The args of every file, and the notes."""
        target = self.target()
        report = json.loads(self.reshard.run("convert", self.source, target, "--to", "megatron", *flags, "--quiet", "--json"))
        return {name: vars(content["args"]) for name, content in megatron_files(target).items()}, report["notes"]

    def refused(self, *flags):
        command = [self.reshard.binary, "convert", str(self.source), str(self.target()), "--to", "megatron", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode in (2, 3), f"exit {done.returncode}: {done.stderr}"
        return done.stderr


def check_stages(writer):
    """Stages that are not even are told to the run, in the form that Megatron takes."""
    args, (note,) = writer.write("--tp", "2", "--pp", "2", "--stage-layers", "1,3")
    first = args["mp_rank_00_000"]
    assert (first["decoder_first_pipeline_num_layers"], first["decoder_last_pipeline_num_layers"]) == (1, 3)
    for flag in ("--tensor-model-parallel-size 2", "--pipeline-model-parallel-size 2",
                 "--decoder-first-pipeline-num-layers 1", "--decoder-last-pipeline-num-layers 3"):
        assert f" {flag} " in note + " ", note
    for stages, layout in {"4,0": "Etttt|L", "0,4": "E|ttttL", "2,0,2": "Ett||ttL", "1,2,0,1": "Et|tt||tL"}.items():
        count = str(stages.count(",") + 1)
        args, (note,) = writer.write("--pp", count, "--stage-layers", stages)
        first = args["mp_rank_00_000"]
        assert first["pipeline_model_parallel_layout"] == layout, (stages, first["pipeline_model_parallel_layout"])
        assert first["decoder_first_pipeline_num_layers"] is first["decoder_last_pipeline_num_layers"] is None
        assert f"--pipeline-model-parallel-layout '{layout}'" in note, note
    args, (note,) = writer.write("--pp", "2", "--vpp", "2", "--vocab-multiple", "16")
    assert "--num-virtual-stages-per-pipeline-rank 2" in note and "--make-vocab-size-divisible-by 16" in note, note
    args, notes = writer.write("--transformer-impl", "transformer_engine", "--vocab-multiple", "128")
    assert not any("-parallel-" in note or "divisible" in note for note in notes), notes
    assert "one size" in writer.refused("--megatron-names", "legacy", "--pp", "2", "--stage-layers", "1,3")


def check_vocabulary(writer):
    """Args mean the rows that are written, whatever the source's args said."""
    args, _ = writer.write("--vocab-size", "50")
    first = args["mp_rank_00"]
    assert (first["tokenizer_type"], first["vocab_size"], first["padded_vocab_size"]) == ("NullTokenizer", 49, 56), first["vocab_size"]
    args, _ = writer.write()
    assert args["mp_rank_00"]["vocab_size"] == 100, args["mp_rank_00"]["vocab_size"]


def check_ranks(case, reshard, scratch):
    """Every file says which rank wrote it, as the framework's own files do."""
    for layout in sorted(case.glob("torch-*")):
        own = {name: vars(content["args"]) for name, content in megatron_files(layout).items()}
        seen, _ = Writer(reshard, scratch, case / "hf").write(*layout_flags(layout))
        assert seen.keys() == own.keys()
        for name, args in own.items():
            if args["data_parallel_size"] == 1 or args["expert_model_parallel_size"] > 1:
                assert seen[name]["world_size"] == args["world_size"], (layout.name, name)
            assert seen[name]["rank"] == args["rank"], (layout.name, name, seen[name]["rank"], args["rank"])


def check_linear_scaling(source, reshard, scratch):
    folder = pathlib.Path(scratch, "linear")
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    for factor, flag in ((2.0, "2"), (2.5, None)):
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
        config.pop("rope_parameters", None)
        (folder / "config.json").write_text(json.dumps(config))
        writer = Writer(reshard, scratch, folder)
        if flag is None:
            assert "cannot hold hyperparameter rope_factor = 2.5" in writer.refused()
            continue
        args, notes = writer.write()
        value = args["mp_rank_00"]["rotary_seq_len_interpolation_factor"]
        assert value == 2 and isinstance(value, int), value
        assert any(note.split().count("--rotary-seq-len-interpolation-factor") and note.endswith(f" {flag}") or
                   f"--rotary-seq-len-interpolation-factor {flag} " in note for note in notes), notes


def check_samples(reshard, scratch):
    """Families known from Megatron's code alone can be made; fields without a flag have their own note."""
    for family in ("gpt_oss", "deepseek_v3"):
        target = pathlib.Path(scratch, f"sample-{family}")
        report = json.loads(reshard.run("sample", target, "--family", family, "--to", "megatron", "--json"))
        flags = [note for note in report["notes"] if "the run needs" in note]
        assert len(flags) == 1 and "=" not in flags[0], report["notes"]
        if family == "gpt_oss":
            assert any("yarn_beta_fast=32.0" in note for note in report["notes"]), report["notes"]


def check_dropout(case, reshard, scratch):
    """config.json from args says the dropout that args say, which Transformers would set otherwise."""
    target = pathlib.Path(scratch, "dropout")
    reshard.convert(sorted(case.glob("torch-*"))[0], target, "--to", "hf")
    config = json.loads((target / "config.json").read_text())
    for key in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        assert config[key] == 0.0, (key, config)


class Evil:
    """Whoever loads it runs a command."""

    def __reduce__(self):
        return os.system, ("false",)


def check_runnable(source, reshard, scratch):
    """What would be run by who loads a checkpoint does not go on to the next one; enumerations do."""
    place = pathlib.Path(scratch, "runnable")
    shutil.copytree(source, place)
    plain = {"exit_signal": signal.SIGTERM, "save": pathlib.Path("/a"), "blend": {1, 2}}
    set_args(place, data_path=[Evil()], my_option={"a": Evil()}, **plain)
    for target in ("megatron", "megatron-dist"):
        made = pathlib.Path(scratch, f"from-runnable-{target}")
        report = json.loads(reshard.run("convert", place, made, "--to", target, "--quiet", "--json"))
        told = [line for line in report["dropped"] if "in which is posix.system" in line]
        assert [line.split(",")[0] for line in told] == ["args.data_path", "args.my_option"], report["dropped"]
        for path in made.rglob("*"):
            assert not path.is_file() or b"posix" not in path.read_bytes() or path.name == "manifest.json", path
        assert not any("AttnBackend" in line for line in report["dropped"]), report["dropped"]


def main(arguments):
    binary, mpiexec, data, *names = arguments
    reshard, checks = Reshard(binary, mpiexec), Checks()
    data = pathlib.Path(data)
    with tempfile.TemporaryDirectory() as scratch:
        with checks.case("stages"):
            check_stages(Writer(reshard, scratch, data / "megatron" / "llama-gqa" / "hf"))
        with checks.case("vocabulary of args"):
            check_vocabulary(Writer(reshard, scratch, data / "megatron" / "llama-gqa" / "torch-tp2-pp2"))
        for case in megatron_cases(data, names):
            with checks.case(f"{case.name}: ranks"):
                check_ranks(case, reshard, scratch)
        with checks.case("linear rotary scaling"):
            check_linear_scaling(data / "megatron" / "llama-gqa" / "hf", reshard, scratch)
        with checks.case("samples"):
            check_samples(reshard, scratch)
        with checks.case("what a loader would run"):
            check_runnable(data / "megatron" / "llama-gqa" / "torch-tp1-pp1", reshard, scratch)
        with checks.case("dropout"):
            check_dropout(data / "megatron" / "gpt2", reshard, scratch)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

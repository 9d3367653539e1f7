"""The documented flows of the older converter scripts by their own command lines, each on the previous one's output,
against what the tables' Python reference makes of the same model.

usage: old_flows_test.py RESHARD MPIEXEC DATA
"""

import enum
import json
import pathlib
import subprocess
import sys
import tempfile
import types

SUPPORT = pathlib.Path(__file__).resolve().parents[1] / "support"
sys.path[:0] = [str(SUPPORT), str(SUPPORT / "oracle")]
import canonical
import checkpoints as files
import torch
from dialects import Dialect
from programs import Checks, Reshard
from safetensors.torch import save_file

TRACKER = "latest_checkpointed_iteration.txt"
LAYERS, HEADS, HIDDEN, VOCAB, POSITIONS = 12, 12, 48, 112, 32
CONFIG = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": LAYERS, "n_head": HEADS, "n_embd": HIDDEN, "n_positions": POSITIONS,
    "vocab_size": VOCAB, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "torch_dtype": "float32", "tie_word_embeddings": True, "n_inner": None,
}  # fmt: skip


def make_model(folder):
    """A Hugging Face folder; each element's bits are its number, so that a misplaced one shows where it came from."""
    shapes = {"transformer.wte.weight": (VOCAB, HIDDEN), "transformer.wpe.weight": (POSITIONS, HIDDEN)}
    for i in range(LAYERS):
        block = f"transformer.h.{i}."
        for layer, (rows, columns) in {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}.items():
            shapes[f"{block}{layer}.weight"] = (rows * HIDDEN, columns * HIDDEN)
            shapes[f"{block}{layer}.bias"] = (columns * HIDDEN,)
        for norm in ("ln_1", "ln_2"):
            shapes[f"{block}{norm}.weight"] = shapes[f"{block}{norm}.bias"] = (HIDDEN,)
    shapes["transformer.ln_f.weight"] = shapes["transformer.ln_f.bias"] = (HIDDEN,)
    tensors, first = {}, 0x3F000000
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        tensors[name] = torch.arange(first, first + count, dtype=torch.int32).view(torch.float32).reshape(shape).clone()
        first += count
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return tensors


def expected_merak(model, tp, bounds):
    """File of an era 1 release -> name -> (dtype, shape, bytes), by the tables' reference, and the masks that Merak's loader wants."""
    family, record, roles = canonical.canonical_of(model)
    dialect = Dialect("merak", family, record, roles, tp=tp, pp=len(bounds) - 1, era=1, modules="blocks", linear_by="shape", parallel_vocab=True, tie_modules=False)
    dialect.names["padded_vocab"] = VOCAB
    wanted = {(t, s): {} for t in range(tp) for s in range(len(bounds) - 1)}
    for row, index in dialect.applying():
        module = dialect.place(row, index)
        stage = next(s for s in range(len(bounds) - 1) if bounds[s] <= module < bounds[s + 1])
        for t in range(tp):
            name = row["name"].format(S=module, hf=row["hf"].format(**index))
            wanted[t, stage][name] = dialect.tensor(row, index, tp=(t, tp))
            if ".ln_1.weight" in name:
                attention = name.replace("ln_1.weight", "attn.")
                wanted[t, stage][attention + "bias"] = torch.ones(POSITIONS, POSITIONS).tril().view(1, 1, POSITIONS, POSITIONS).to(torch.uint8)
                wanted[t, stage][attention + "masked_bias"] = torch.tensor(-1e4)
    return {f"mp_rank_{t:02d}_pp_rank_{s:03d}": {name: files.raw(tensor) for name, tensor in tensors.items()} for (t, s), tensors in wanted.items()}


def check_merak(root, model, tp, bounds):
    """A tree has the tracker, the release and in each rank's file exactly what the reference says."""
    assert (root / TRACKER).read_text() == "release"
    seen = {}
    for path in (root / "release").glob("mp_rank_*/partial_model_optim.pt"):
        seen[path.parent.name] = {name: files.raw(tensor) for name, tensor in torch.load(path)["model"].items()}
    wanted = expected_merak(model, tp, bounds)
    assert seen.keys() == wanted.keys(), f"files {sorted(seen)}, wanted {sorted(wanted)}"
    for rank in wanted:
        lines = files.differences(seen[rank], wanted[rank])
        assert not lines, f"{rank}: {len(lines)} differences: " + "; ".join(lines[:5])


def check_transformers(folder, tensors):
    """One pytorch_model.bin and config.json, and the model is the one we began with."""
    assert {path.name for path in folder.iterdir()} == {"pytorch_model.bin", "config.json"}
    seen = {name: files.raw(tensor) for name, tensor in torch.load(folder / "pytorch_model.bin").items()}
    lines = files.differences(seen, {name: files.raw(tensor) for name, tensor in tensors.items()})
    assert not lines, "; ".join(lines[:5])
    config = json.loads((folder / "config.json").read_text())
    record = canonical.read_record(canonical.load_family("gpt2"), {key: value for key, value in config.items() if key != "torch_dtype"})
    assert record == canonical.read_record(canonical.load_family("gpt2"), {key: value for key, value in CONFIG.items() if key != "torch_dtype"})


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class Scripts:
    """The older scripts' names as links to the program, in a folder of their own, run in `cwd` on so many ranks."""

    def __init__(self, binary, cwd, mpiexec="", ranks=1):
        self.folder, self.cwd = cwd / "libexec", cwd
        self.launcher = [] if ranks == 1 else [mpiexec, "--oversubscribe", "-n", str(ranks)]
        self.folder.mkdir(parents=True)
        for name in ("deepspeed_to_transformers", "deepspeed_to_megatron", "convert_merak_gpt2_checkpoint", "inspect_checkpoint", "inspect_deepspeed_checkpoint"):
            (self.folder / name).symlink_to(pathlib.Path(binary).resolve())

    def run(self, line, code=0):
        """Runs a command line as users know it; returns what it said."""
        name, *words = line.split()
        done = subprocess.run([*self.launcher, self.folder / name, *words], cwd=self.cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {line}\n{(done.stderr + done.stdout)[-1500:]}"
        return done.stdout + done.stderr


def check_literal_flows(checks, scripts, place, tensors):
    """The README's own commands, in its order."""
    step = "global_step97500"
    with checks.case("(1) DeepSpeed -> Merak tp2 pp4"):
        said = scripts.run(f"deepspeed_to_transformers --merak_tp 2 --merak_pp 4 --input_folder ds/{step} --output_folder ds_to_merak")
        check_merak(place / "ds_to_merak", place / "model", 2, [0, 4, 8, 12, 15])
        assert "writes Merak" in said and "--custom_partition 0,4,8,12,15" in said, said
    with checks.case("(2) Merak -> Merak tp4 pp4"):
        scripts.run("convert_merak_gpt2_checkpoint --merak_tp 4 --merak_pp 4 --load_path ds_to_merak/release --save_path merak_to_merak --convert_type merak")
        check_merak(place / "merak_to_merak", place / "model", 4, [0, 4, 8, 12, 15])
    custom = "convert_merak_gpt2_checkpoint --merak_tp 4 --merak_pp 4 --load_path ds_to_merak/release --save_path {} --partition_method custom --custom_partition 0,3,7,11,15 --convert_type merak"
    with checks.case("(2.1) Merak -> Merak, stages by hand"):
        before = tree(place / "merak_to_merak")
        assert "--overwrite" in scripts.run(custom.format("merak_to_merak"), code=2)
        assert tree(place / "merak_to_merak") == before
        scripts.run(custom.format("merak_to_merak_custom"))
        check_merak(place / "merak_to_merak_custom", place / "model", 4, [0, 3, 7, 11, 15])
    for source in ("merak_to_merak_custom", "merak_to_merak"):
        with checks.case(f"(3) {source} -> Transformers"):
            said = scripts.run(f"convert_merak_gpt2_checkpoint --load_path {source}/release --save_path {source}_hf --convert_type transformers")
            check_transformers(place / f"{source}_hf", tensors)
            assert "dtypes are kept" in said, said
    with checks.case("(4) Transformers -> Merak tp4 pp4"):
        scripts.run("convert_merak_gpt2_checkpoint --merak_tp 4 --merak_pp 4 --load_path merak_to_merak_hf/pytorch_model.bin --json_path merak_to_merak_hf/config.json"
                    " --save_path transformers_to_merak --convert_type transformers_to_merak")  # fmt: skip
        assert tree(place / "transformers_to_merak") == tree(place / "merak_to_merak")


def check_ranks(checks, scripts, place, tensors):
    """The same commands on 4 ranks write the same."""
    for name in ("ds", "model"):
        (scripts.cwd / name).symlink_to(place / name)
    check_literal_flows(checks, scripts, scripts.cwd, tensors)
    for name in ("ds_to_merak", "merak_to_merak", "merak_to_merak_custom", "merak_to_merak_hf", "merak_to_merak_custom_hf", "transformers_to_merak"):
        with checks.case(f"{name} is the same on 4 ranks"):
            assert tree(scripts.cwd / name) == tree(place / name)


def check_paths(checks, scripts, place):
    """Files without a folder in their name, as beside one's feet."""
    wanted = tree(place / "merak_to_merak")
    for name in ("pytorch_model.bin", "config.json"):
        (scripts.cwd / name).symlink_to(place / "merak_to_merak_hf" / name)
    with checks.case("(4) pytorch_model.bin in the working folder"):
        scripts.run("convert_merak_gpt2_checkpoint --merak_tp 4 --merak_pp 4 --load_path pytorch_model.bin --json_path config.json --save_path here --convert_type transformers_to_merak")
        assert tree(scripts.cwd / "here") == wanted
    with checks.case("(3) model_optim.pt in the working folder"):
        scripts.run("convert_merak_gpt2_checkpoint --load_path pytorch_model.bin --save_path one --convert_type merak")
        for name in ("model_optim.pt", "hf_config"):
            (scripts.cwd / name).symlink_to(scripts.cwd / "one" / "iter_0000000_all_dp" / name)
        scripts.run("convert_merak_gpt2_checkpoint --load_path model_optim.pt --save_path back --convert_type transformers")
        assert tree(scripts.cwd / "back") == tree(place / "merak_to_merak_hf")


# Wrong input, the exit code, and what the one message must hold.
MERAK = "convert_merak_gpt2_checkpoint --load_path ds_to_merak/release --save_path wrong --convert_type merak"
STEP = "ds/global_step97500"
WRONG = {
    f"{MERAK} --merak_tp 5": (3, ["groups 12 (heads", "5 ranks"]),
    f"{MERAK} --merak_tp 5 --merak_pp 4": (3, ["{l}.attn.c_attn", "groups 12 (heads", "5 ranks"]),
    f"{MERAK} --merak_pp 16": (2, ["16 stages", "15 modules"]),
    f"{MERAK} --merak_tp 0": (2, ["0: wanted 1 to 65536"]),
    f"{MERAK} --merak_tp two": (2, ["two: wanted 1 to 65536"]),
    f"{MERAK} --merak_pp 4 --partition_method custom": (2, ["needs --custom-partition", "15 modules"]),
    f"{MERAK} --merak_pp 4 --custom_partition 0,3,7,11,14": (2, ["rise from 0 to 15"]),
    f"{MERAK} --merak_pp 4 --custom_partition 0,3,7,15": (2, ["wanted 5 numbers"]),
    f"{MERAK} --merak_pp 4 --partition_method uniform --custom_partition 0,3,7,11,15": (2, ["custom only"]),
    "convert_merak_gpt2_checkpoint --load_path nowhere --save_path wrong --convert_type merak": (3, ["nowhere: does not exist"]),
    "convert_merak_gpt2_checkpoint --load_path ds_to_merak/release --save_path wrong": (2, ["--convert_type is required: merak, transformers"]),
    "convert_merak_gpt2_checkpoint --load_path ds_to_merak/release --save_path wrong --convert_type megatron": (2, ["--convert_type megatron: wanted merak"]),
    "convert_merak_gpt2_checkpoint --load_path ds_to_merak/release --convert_type merak": (2, ["DST is required"]),
    "convert_merak_gpt2_checkpoint --save_path wrong --convert_type=merak": (2, ["--load_path", "is required"]),
    "convert_merak_gpt2_checkpoint --load_path ds_to_merak/release/mp_rank_00_pp_rank_000/partial_model_optim.pt --save_path wrong --convert_type merak": (3, ["one rank's part", "ds_to_merak/release"]),
    "convert_merak_gpt2_checkpoint --load_path merak_to_merak_hf/pytorch_model.bin --json_path nope.json --save_path wrong --convert_type transformers_to_merak": (3, ["nope.json: does not exist"]),
    f"deepspeed_to_transformers --input_folder {STEP} --output_folder {STEP}": (2, ["lie in one another"]),
    f"deepspeed_to_transformers --input_folder {STEP}/mp_rank_00_model_states.pt --output_folder wrong": (3, ["one file of a DeepSpeed checkpoint", STEP]),
    "deepspeed_to_transformers --output_folder wrong": (2, ["--input_folder", "is required"]),
    "deepspeed_to_transformers --input_folder": (2, ["--input_folder: wanted a value"]),
    f"deepspeed_to_megatron --input_folder {STEP} --output_folder wrong --target_tp 5": (3, ["groups 12 (heads", "5 ranks"]),
    f"deepspeed_to_megatron --input_folder {STEP} --output_folder wrong --target_pp 5": (2, ["12 layers", "--stage-layers"]),
    f"deepspeed_to_megatron --input_folder {STEP}1 --output_folder wrong": (3, [f"{STEP}1: does not exist"]),
    "inspect_deepspeed_checkpoint --folder nowhere": (3, ["nowhere: does not exist"]),
}


def check_wrong_input(checks, scripts, many, place):
    """One message with the reason, and nothing under the target's name; on 4 ranks, too."""
    for number, (line, (code, words)) in enumerate(WRONG.items()):
        with checks.case(f"wrong: {line}"):
            before = {path.name for path in place.iterdir()}
            said = (many if number % 6 == 0 else scripts).run(line, code)
            missing = [word for word in words if word not in said]
            assert not missing, f"message lacks {missing}: {said}"
            told = [text for text in said.splitlines() if text.startswith("reshard: ") and not text.startswith("reshard: note: ")]
            assert len(told) == 1 and "problems:" not in said, f"not one message: {said}"
            assert {path.name for path in place.iterdir()} == before
    with checks.case("(7) --help names the scripts' options"):
        said = scripts.run("deepspeed_to_transformers --help")
        assert "--input_folder" in said and "--merak_tp" in said, said


def check_other_sources(checks, scripts, place, tensors):
    """(4), (6): whatever the source is, it is found out."""
    wanted = tree(place / "merak_to_merak")
    scripts.run("convert_merak_gpt2_checkpoint --load_path model --save_path shards --convert_type transformers --max-shard-size 300KB")
    for source in ("model", "shards", "model/model.safetensors", "mega/iter_0097500"):
        with checks.case(f"(4) (6) {source} -> Merak"):
            scripts.run(f"convert_merak_gpt2_checkpoint --merak_tp 4 --merak_pp 4 --load_path {source} --save_path from_{source.replace('/', '_')} --convert_type merak")
            seen = tree(place / f"from_{source.replace('/', '_')}")
            assert {name for name in wanted if wanted[name] != seen.get(name)} == set(), "differs from flow 2"
    for source in ("mega", "ds/global_step97500", "ds"):
        with checks.case(f"(6) {source} -> Transformers"):
            target = f"bin_{source.replace('/', '_')}"
            scripts.run(f"convert_merak_gpt2_checkpoint --load_path {source} --save_path {target} --convert_type transformers --for_release")
            check_transformers(place / target, tensors)
    with checks.case("deepspeed_to_transformers ignores --target_tp and says so"):
        said = scripts.run("deepspeed_to_transformers --input_folder ds/global_step97500 --output_folder ignored --merak_tp 2 --merak_pp 4 --target_tp 2 --target_pp 3")
        assert "--target_tp 2 is ignored" in said and "--target_pp 3 is ignored" in said, said
        assert tree(place / "ignored") == tree(place / "ds_to_merak")


def check_megatron(checks, scripts, place, tensors):
    """(5) DeepSpeed -> Megatron, its degrees, its release."""
    for flags, unit, iteration in (("", "iter_0097500", 97500), (" --for_release", "release", 0)):
        with checks.case(f"(5) DeepSpeed -> Megatron tp4 pp3{flags}"):
            root = place / ("mega" if not flags else "mega_release")
            said = scripts.run(f"deepspeed_to_megatron --input_folder ds/global_step97500 --output_folder {root.name} --target_tp 4 --target_pp 3{flags}")
            assert (root / TRACKER).read_text() == ("release" if flags else "97500")
            ranks = files.megatron_files(root)
            assert root / unit == files.iteration_folder(root)
            assert ranks.keys() == {f"mp_rank_{t:02d}_{s:03d}" for t in range(4) for s in range(3)}
            for content in ranks.values():
                assert content["iteration"] == iteration and content["checkpoint_version"] == 3.0
                assert content["args"].tensor_model_parallel_size == 4 and content["args"].pipeline_model_parallel_size == 3
                assert content["args"].consumed_train_samples == (0 if flags else 1234)
                assert content["args"].consumed_valid_samples == (0 if flags else 56)
                assert "encoder" in content["model"]["language_model"] and not {"optimizer", "opt_param_scheduler", "rng_state"} & content.keys()
            if flags:
                assert "iteration 97500 -> 0, consumed_train_samples 1234 -> 0, consumed_valid_samples 56 -> 0" in said, said
            piece = ranks["mp_rank_02_001"]["model"]["language_model"]["encoder"]["layers.1.mlp.dense_h_to_4h.weight"]
            assert torch.equal(piece, tensors["transformer.h.5.mlp.c_fc.weight"].T.chunk(4)[2])


def check_inspectors(checks, scripts):
    """(7) files leaf by leaf, folders as models."""
    for path, words in {
        "ds/global_step97500/layer_03-model_01-model_states.pt": ["input_layernorm.weight", "[48]"],
        "ds_to_merak/release/mp_rank_01_pp_rank_002/partial_model_optim.pt": ["model.module.8.transformer.h.6.attn.c_attn.col_linear.weight", "[72, 48]"],
        "mega/iter_0097500/mp_rank_00_000/model_optim_rng.pt": ["language_model", "args"],
    }.items():
        with checks.case(f"(7) inspect_checkpoint {path}"):
            said = scripts.run(f"inspect_checkpoint {path}")
            missing = [word for word in words if word not in said]
            assert not missing, f"lacks {missing}: {said[:600]}"
    with checks.case("(7) inspect_deepspeed_checkpoint"):
        said = scripts.run("inspect_deepspeed_checkpoint --folder ds/global_step97500 --target_tp 1")
        assert "tp 2, pp 2" in said and "--target_tp 1 is ignored" in said, said
    with checks.case("(7) inspect_checkpoint of folders"):
        assert "tp 2, pp 4" in scripts.run("inspect_checkpoint ds_to_merak")
        assert "hf-bin" in scripts.run("inspect_checkpoint merak_to_merak_hf")


def count_samples(step):
    """A run that has gone on: counters in the arguments of its files."""
    enums = types.ModuleType("megatron.enums")
    enums.PositionEmbeddingType = enum.Enum("PositionEmbeddingType", "rotary absolute alibi", module="megatron.enums")
    sys.modules.update({"megatron": types.ModuleType("megatron"), "megatron.enums": enums})
    for path in step.glob("mp_rank_*_model_states.pt"):
        content = torch.load(path, weights_only=False)
        content["args"].consumed_train_samples, content["args"].consumed_valid_samples = 1234, 56
        torch.save(content, path)


def main(binary, mpiexec, data, *names):
    checks, reshard = Checks(), Reshard(binary, mpiexec)
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        tensors = make_model(place / "model")
        reshard.convert(place / "model", place / "ds", "--to", "megatron-deepspeed", "--lineage", "bigscience", "--tp", 2, "--pp", 2, "--iteration", 97500, "--vocab-multiple", 8)
        count_samples(place / "ds" / "global_step97500")
        scripts = Scripts(binary, place)
        check_literal_flows(checks, scripts, place, tensors)
        check_megatron(checks, scripts, place, tensors)
        check_other_sources(checks, scripts, place, tensors)
        check_inspectors(checks, scripts)
        four = Scripts(binary, place / "four", mpiexec, ranks=4)
        check_ranks(checks, four, place, tensors)
        check_paths(checks, four, place)
        many = Scripts(binary, place / "many", mpiexec, ranks=4)
        many.cwd = place
        check_wrong_input(checks, scripts, many, place)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""DeepSpeed's own engine loads a pipeline checkpoint that reshard wrote, into a PipelineModule on CPU.

usage: deepspeed_load.py RESHARD MPIEXEC DATA [CASE...]

Needs deepspeed; says "skipped: " without it. The module has the layers and parameter names of Megatron-DeepSpeed's GPTModelPipe,
no arithmetic: the engine looks up files by layer number and tp rank, and loads each strictly.
"""

import enum
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

# Case, source, flags, tp, pp, numbers of the pipeline's layers that have parameters.
ROUTES = {
    "megds-llama": ("tp2-pp2-dp2", [], 1, 2, [1, 2, 3, 4, 5, 6, 7]),
    "megds-gpt2": ("hf", ["--lineage", "bigscience"], 2, 1, [1, 3, 4, 5, 6, 7, 9]),
    "megds-gpt2-blocked": ("hf", ["--mds-qkv-layout", "blocked"], 2, 2, [1, 2, 3, 4, 5, 6]),
    "megds-bloom": ("hf", [], 2, 2, [1, 3, 4, 5, 6, 7, 9]),
}


def load(root, tp, pp, numbers):
    """One process of the run: builds its stage with random parameters, loads, compares with the files."""
    import torch

    # BigScience's args hold a member of this enum.
    package = types.ModuleType("megatron.enums")
    package.PositionEmbeddingType = enum.Enum("PositionEmbeddingType", "rotary absolute alibi", module="megatron.enums")
    sys.modules.update({"megatron": types.ModuleType("megatron"), "megatron.enums": package})
    import deepspeed
    from deepspeed.pipe import LayerSpec, PipelineModule
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    deepspeed.init_distributed("gloo")
    rank = torch.distributed.get_rank()
    unit = root / (root / "latest").read_text()
    shard = rank % tp

    class Layer(torch.nn.Module):
        """A module with the parameters of one file, all zero."""

        def __init__(self, number):
            super().__init__()
            for name, tensor in torch.load(unit / f"layer_{number:02d}-model_{shard:02d}-model_states.pt").items():
                *path, leaf = name.split(".")
                place = self
                for step in path:
                    if not hasattr(place, step):
                        place.add_module(step, torch.nn.Module())
                    place = getattr(place, step)
                place.register_parameter(leaf, torch.nn.Parameter(torch.zeros_like(tensor)))

        def forward(self, value):
            return value

    specs = [LayerSpec(Layer, n) if n in numbers else (lambda value: value) for n in range(max(numbers) + 2)]
    topology = PipeModelDataParallelTopology(num_pp=pp, num_mp=tp, num_dp=1)
    model = PipelineModule(specs, topology=topology, loss_fn=lambda out, label: out.sum(), partition_method="uniform")
    config = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    engine, *_ = deepspeed.initialize(model=model, model_parameters=list(model.parameters()), config=config)
    path, client = engine.load_checkpoint(str(root), load_optimizer_states=False)
    assert path, "the engine found nothing"
    assert client["args"].tensor_model_parallel_size == tp and client["checkpoint_version"] == 3.0, "args are not the target's"
    assert engine.global_steps == client["iteration"], f"the engine is at step {engine.global_steps}"
    loaded = 0
    for number in range(model._local_start, model._local_stop):
        if number not in numbers:
            continue
        wanted = torch.load(unit / f"layer_{number:02d}-model_{shard:02d}-model_states.pt")
        seen = model.forward_funcs[number - model._local_start].state_dict()
        assert seen.keys() == wanted.keys(), f"layer {number}: {seen.keys() ^ wanted.keys()}"
        for name, tensor in wanted.items():
            assert torch.equal(seen[name], tensor), f"layer {number}: {name} differs"
            loaded += 1
    assert loaded, "this stage has no tensors"
    print(f"rank {rank}: {loaded} tensors")


def run(target, tp, pp, numbers):
    """Starts the run's processes and returns what they said; raises when one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(tp * pp):
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": tp * pp, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{k: str(v) for k, v in here.items()}, "DS_ACCELERATOR": "cpu", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        command = [sys.executable, "-W", "ignore", __file__, "--load", str(target), str(tp), str(pp), *map(str, numbers)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [process.communicate(timeout=300)[0] for process in processes]
    for process, text in zip(processes, said):
        assert process.returncode == 0, text.strip()[-1500:]
    return sum(int(text.rsplit(": ", 1)[1].split()[0]) for text in said)


def main(arguments):
    from programs import Checks, Reshard

    binary, mpiexec, data, *names = arguments
    reshard, checks = Reshard(binary, mpiexec), Checks()
    with tempfile.TemporaryDirectory() as scratch:
        for name, (source, flags, tp, pp, numbers) in ROUTES.items():
            if names and name not in names:
                continue
            with checks.case(f"{name}: {source} -> tp {tp}, pp {pp} -> DeepSpeed") as case:
                target = pathlib.Path(scratch, name)
                layout = ["--tp", tp, "--pp", pp, "--vocab-multiple", "8"]
                reshard.convert(pathlib.Path(data, "deepspeed", name, source), target, "--to", "megatron-deepspeed", *layout, *flags)
                case.note(f"{run(target, tp, pp, numbers)} tensors equal")
    return checks.finish()


if __name__ == "__main__":
    if importlib.util.find_spec("deepspeed") is None:
        print("skipped: no deepspeed")
        sys.exit(0)
    if sys.argv[1] == "--load":
        load(pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:5]), [int(n) for n in sys.argv[5:]])
    else:
        sys.exit(main(sys.argv[1:]))

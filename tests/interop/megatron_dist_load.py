"""Megatron-Core's own dist_checkpointing (CPU, gloo, 1 and 2 processes) and torch's own DCP reader load what reshard writes as megatron-dist.

usage: megatron_dist_load.py RESHARD MPIEXEC DATA [CASE...]
       megatron_dist_load.py --worker RANK WORLD STORE JOBS    one process of a group that runs a list of jobs
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
import torch
from megatron_core_load import build_model, logits_of, stub_cuda
from programs import Checks, Reshard
from safetensors.torch import load_file

# How each case is written; stages of the target, when not even.
WRITTEN = {
    "gpt2": ["--tp", "2", "--pp", "3", "--dist-files", "3"],
    "llama-core012": ["--tp", "1", "--pp", "4"],
    "llama-dopt": ["--tp", "2", "--pp", "1", "--dist-files", "2"],
    "llama-gqa": ["--tp", "2", "--pp", "2"],
    "mixtral-moe": ["--tp", "2", "--pp", "2", "--ep", "2", "--etp", "2", "--dist-files", "2"],
    "qwen3": ["--tp", "2", "--pp", "4", "--dist-files", "2"],
}
# How Megatron-Core loads each: (tp, pp, ep), the processes their product.
LOADED = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
TOLERANCE = 2e-5


def start_group(rank, world, store):
    """Megatron-Core without a GPU: what asks for one gets the CPU."""
    stub_cuda()
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()
    torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(store, world), rank=rank, world_size=world)


def load_into_model(unit, tp, pp, ep):
    """The GPTModel of this process, filled by dist_checkpointing.load; every key is wanted and there."""
    from megatron.core import dist_checkpointing, parallel_state

    args = dist_checkpointing.load_common_state_dict(str(unit))["args"]
    assert args.ckpt_format == "torch_dist" and args.no_save_optim and args.no_save_rng, vars(args)
    args.tensor_model_parallel_size, args.pipeline_model_parallel_size = tp, pp
    args.expert_model_parallel_size, args.expert_tensor_parallel_size = ep, tp
    for name in ("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers",
                 "pipeline_model_parallel_layout", "virtual_pipeline_model_parallel_size"):  # fmt: skip
        setattr(args, name, None)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    model = build_model(args, pre_process=stage == 0, post_process=stage == pp - 1)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    wanted = {"model": model.sharded_state_dict()}
    strict = dist_checkpointing.validation.StrictHandling.RAISE_ALL
    loaded = dist_checkpointing.load(wanted, str(unit), strict=strict)
    model.load_state_dict(loaded["model"], strict=True)
    return args, model


def check_weights(model, file):
    """The model's tensors are those of reshard's file in the older format for the same rank."""
    (wanted,) = files.model_chunks(files.read_torch(file)).values()
    seen = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    if "output_layer.weight" in wanted and "output_layer.weight" not in seen:  # tied, held under another name
        seen["output_layer.weight"] = model.shared_embedding_or_output_weight()
    assert seen.keys() == wanted.keys(), sorted(seen.keys() ^ wanted.keys())
    for name, tensor in wanted.items():
        assert seen[name].equal(tensor.float()), f"{name} differs"
    return len(seen)


def run_job(job, rank):
    """One checkpoint into one model; returns what to say of it."""
    from megatron.core import parallel_state
    from megatron.core.transformer.moe import moe_utils

    tp, pp, ep = job["tp"], job["pp"], job["ep"]
    parallel_state.initialize_model_parallel(tp, pp, expert_model_parallel_size=ep, expert_tensor_parallel_size=tp)
    moe_utils.te_general_gemm = None  # without Transformer Engine, 0.16 tests this name before it exists
    try:
        args, model = load_into_model(pathlib.Path(job["unit"]), tp, pp, ep)
        name = f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02}"
        name += f"_{parallel_state.get_pipeline_model_parallel_rank():03}" if pp > 1 else ""
        name += f"_{parallel_state.get_expert_model_parallel_rank():03}" if ep > 1 else ""
        said = f"{check_weights(model, pathlib.Path(job['torch'], name, 'model_optim_rng.pt'))} tensors"
        if tp * pp * ep == 1:
            said += f", {check_logits(args, model, job['logits'])}"
        return said
    finally:
        parallel_state.destroy_model_parallel()


def check_logits(args, model, path):
    expected = load_file(path)
    logits = logits_of({"args": args, "model": model.state_dict()}, expected["tokens"])
    wanted = expected["logits"]
    error = ((logits[..., : wanted.shape[-1]] - wanted).abs().max() / wanted.abs().max()).item()
    assert error < TOLERANCE, f"logits differ: relative error {error:.1e}"
    return f"logits agree ({error:.0e})"


def worker(rank, world, store, jobs):
    """Runs the jobs of a group and prints a line for each: true or false, and what to say."""
    start_group(rank, world, store)
    for job in json.loads(pathlib.Path(jobs).read_text()):
        try:
            print(json.dumps([True, run_job(job, rank)]), flush=True)
        except Exception as error:  # told by the parent, as a failed case
            print(json.dumps([False, f"{type(error).__name__}: {str(error)[:1500]}"]), flush=True)
    torch.distributed.destroy_process_group()
    return 0


def run_group(world, jobs, scratch):
    """Runs jobs on so many processes; for each job the results of all."""
    place = pathlib.Path(tempfile.mkdtemp(dir=scratch))
    (place / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-W", "ignore", __file__, "--worker"]
    group = [
        subprocess.Popen([*command, str(rank), str(world), str(place / "store"), str(place / "jobs.json")],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]  # fmt: skip
    results = []
    for process in group:
        out, err = process.communicate(timeout=900)
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
        lines += [[False, f"ended early: {err[-1500:]}"]] * (len(jobs) - len(lines))
        results.append(lines)
    return list(zip(*results))


def check_torch_reader(unit, source):
    """torch.distributed.checkpoint reads every tensor; those of the source checkpoint of the same names have the same bytes."""
    import dist
    from torch.distributed import checkpoint

    metadata = checkpoint.FileSystemReader(unit).read_metadata()
    described = {k: v for k, v in metadata.state_dict_metadata.items() if hasattr(v, "size")}
    tensors = {name: torch.empty(v.size, dtype=v.properties.dtype) for name, v in described.items()}
    checkpoint.load(tensors, storage_reader=checkpoint.FileSystemReader(unit), no_dist=True)
    wanted = dist.tensors_of(source)
    assert tensors.keys() == wanted.keys(), sorted(tensors.keys() ^ wanted.keys())
    for name, tensor in wanted.items():
        seen = tensors[name][: len(tensor)] if "embeddings" in name or name == "output_layer.weight" else tensors[name]
        rows = tensor[: len(seen)]
        assert files.raw(seen) == files.raw(rows), f"{name} differs"
        beyond = tensors[name][len(tensor) :]
        assert not beyond.any(), f"{name}: rows beyond the source's are not zero"
    return len(wanted)


def main(arguments):
    if arguments[0] == "--worker":
        return worker(int(arguments[1]), int(arguments[2]), *arguments[3:])
    binary, mpiexec, data, *names = arguments
    reshard, checks = Reshard(binary, mpiexec), Checks()
    cases = [pathlib.Path(data, "megatron", name) for name in WRITTEN if not names or name in names]
    with tempfile.TemporaryDirectory() as scratch:
        jobs = {degrees: [] for degrees in LOADED}
        for case in cases:
            source = sorted(case.glob("torch_dist-*"))[0]
            target = pathlib.Path(scratch, case.name)
            flags = ["--transformer-impl", "local", *WRITTEN[case.name]]
            reshard.convert(source, target / "dist", "--to", "megatron-dist", *flags, ranks=2)
            unit = files.iteration_folder(target / "dist")
            with checks.case(f"{case.name}: torch's own reader") as check:
                check.note(f"{check_torch_reader(unit, files.iteration_folder(source))} tensors")
            args = files.read_torch(unit / "common.pt")["args"]
            for tp, pp, ep in LOADED:
                if ep > 1 and not args.num_experts:
                    continue
                flags = ["--transformer-impl", "local", "--tp", tp, "--pp", pp, "--ep", ep]
                rows = str(args.padded_vocab_size // tp)
                older = target / f"torch-{tp}-{pp}-{ep}"
                reshard.convert(target / "dist", older, "--to", "megatron", *flags, "--vocab-multiple", rows)
                jobs[tp, pp, ep].append({"name": case.name, "unit": str(unit), "tp": tp, "pp": pp, "ep": ep,
                                     "torch": str(files.iteration_folder(older)), "logits": str(case / "logits.safetensors")})  # fmt: skip
        for (tp, pp, ep), list_of_jobs in jobs.items():
            for job, results in zip(list_of_jobs, run_group(tp * pp * ep, list_of_jobs, scratch)):
                with checks.case(f"{job['name']}: Megatron-Core at tp {tp}, pp {pp}, ep {ep}") as check:
                    failed = [said for passed, said in results if not passed]
                    assert not failed, failed[0]
                    check.note("; ".join(said for _, said in results))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

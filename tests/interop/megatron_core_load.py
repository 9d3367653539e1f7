"""Megatron-Core's own GPTModel (local spec, CPU) loads reshard's `model` dict strictly and gives the source's logits.

usage: megatron_core_load.py RESHARD MPIEXEC DATA [CASE...]
"""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import torch
from checkpoints import flat_tensors, iteration_folder, read_torch
from programs import Checks, Reshard
from safetensors.torch import load_file

# The relative error of fp32 forward passes whose sums run in another order.
TOLERANCE = 2e-5


def stub_cuda():
    """Megatron-Core asks for the current device in constructors; here every answer is the CPU."""
    torch.cuda.current_device = lambda: torch.device("cpu")


def start_megatron():
    """One gloo process that is the whole of every parallel group."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
    from megatron.core.transformer.moe import moe_utils

    parallel_state.initialize_model_parallel()
    moe_utils.te_general_gemm = None  # without Transformer Engine, 0.16 tests this name before it exists
    CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()


def transformer_config(args):
    """What core_transformer_config_from_args of Megatron-LM makes of the args, for an fp32 forward pass."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    simple = (int, float, str, bool, list)
    given = {k: v for k, v in vars(args).items() if k in fields and isinstance(v, simple)}
    experts = getattr(args, "num_experts", None)
    given.update(
        layernorm_epsilon=getattr(args, "layernorm_epsilon", None) or getattr(args, "norm_epsilon", None) or 1e-5,
        gated_linear_unit=bool(getattr(args, "swiglu", False)),
        activation_func=torch.nn.functional.silu if getattr(args, "swiglu", False) else torch.nn.functional.gelu,
        num_moe_experts=experts,
        moe_ffn_hidden_size=getattr(args, "moe_ffn_hidden_size", None) if experts else None,
        num_query_groups=args.num_query_groups if args.group_query_attention else None,
        add_qkv_bias=bool(getattr(args, "add_qkv_bias", False)),
        params_dtype=torch.float32, pipeline_dtype=torch.float32, bf16=False, fp16=False, use_cpu_initialization=True,
        persist_layer_norm=False, bias_dropout_fusion=False, bias_activation_fusion=False, masked_softmax_fusion=False,
        apply_rope_fusion=False, gradient_accumulation_fusion=False, attention_dropout=0.0, hidden_dropout=0.0,
        moe_token_dispatcher_type="allgather", moe_permute_fusion=False, moe_router_fusion=False,
    )  # fmt: skip
    for name in ("cuda_graph_impl", "cuda_graph_scope", "fp8", "fp4", "attention_backend"):
        given.pop(name, None)
    return TransformerConfig(**given)


def build_model(args, **parts):
    """The GPTModel that args describe, in fp32 on the CPU; `parts` says which ends a pipeline stage has."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

    config = transformer_config(args)
    spec = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization=config.normalization)
    return GPTModel(
        config, spec, vocab_size=args.padded_vocab_size, max_sequence_length=args.max_position_embeddings,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_percent=args.rotary_percent, rotary_base=args.rotary_base, **parts,
    ).eval()  # fmt: skip


def logits_of(content, tokens):
    """Loads `model` strictly and runs it; keys that hold no parameter (`_extra_state`) are Megatron's to miss."""
    model = build_model(content["args"])
    parameters = {name for name in model.state_dict() if not name.endswith("_extra_state")}
    weights = flat_tensors(content["model"])
    absent, unknown = parameters - weights.keys(), weights.keys() - parameters
    assert not absent and not unknown, f"keys absent: {sorted(absent)}, unknown: {sorted(unknown)}"
    model.load_state_dict(content["model"], strict=True)
    for name, tensor in model.state_dict().items():
        if name in parameters:
            assert torch.equal(tensor, weights[name].to(tensor.dtype)), f"{name} was not loaded as it is"
    length = tokens.shape[1]
    positions = torch.arange(length).unsqueeze(0).expand_as(tokens)
    mask = torch.triu(torch.ones(1, 1, length, length, dtype=torch.bool), diagonal=1)
    with torch.no_grad():
        return model(tokens, positions, mask)


def check_logits(content, expected):
    """Raises unless the model gives the fixture's logits for its tokens."""
    logits, wanted = logits_of(content, expected["tokens"])[..., : expected["logits"].shape[-1]], expected["logits"]
    error = ((logits - wanted).abs().max() / wanted.abs().max()).item()
    assert error < TOLERANCE, f"logits differ: relative error {error:.1e}, wanted below {TOLERANCE:.0e}"
    return f"logits agree ({error:.0e})"


def main(arguments):
    binary, mpiexec, data, *names = arguments
    reshard, checks = Reshard(binary, mpiexec), Checks()
    stub_cuda()
    start_megatron()
    cases = [case for case in sorted(pathlib.Path(data, "megatron").iterdir()) if not names or case.name in names]
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            expected = load_file(case / "logits.safetensors")
            for source in [*sorted(case.glob("torch-*")), case / "hf"]:
                with checks.case(f"{case.name}/{source.name}") as check:
                    target = pathlib.Path(scratch, case.name, source.name)
                    flags = ["--to", "megatron", "--tp", "1", "--pp", "1", "--transformer-impl", "local"]
                    reshard.convert(source, target, *flags)
                    (file,) = iteration_folder(target).glob("mp_rank_*/model_optim_rng.pt")
                    check.note(check_logits(read_torch(file), expected))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

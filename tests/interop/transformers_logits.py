"""Transformers loads what reshard wrote and gives the source's logits.

usage: transformers_logits.py RESHARD MPIEXEC DATA [CASE...]
"""

import os
import pathlib
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import torch
from cases import TO_MEGATRON, huggingface_cases, megatron_cases
from programs import Checks, Reshard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

# The relative error of fp32 forward passes whose sums run in another order.
TOLERANCE = 2e-5


def check_logits(folder, expected):
    """Raises unless every tensor is found and the model gives the fixture's logits for its tokens."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, output_loading_info=True
    )
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(fault), f"{fault}: {info[fault]}"
    with torch.no_grad():
        logits = model.eval()(expected["tokens"]).logits
    wanted = expected["logits"]
    assert logits.shape == wanted.shape, f"logits are {tuple(logits.shape)}, wanted {tuple(wanted.shape)}"
    error = ((logits - wanted).abs().max() / wanted.abs().max()).item()
    assert error < TOLERANCE, f"logits differ: relative error {error:.1e}, wanted below {TOLERANCE:.0e}"
    return f"logits agree ({error:.0e})"


def main(arguments):
    binary, mpiexec, data, *names = arguments
    reshard, checks = Reshard(binary, mpiexec), Checks()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:

        def check(name, source, logits, *routes):
            """Converts along each route (a list of flag lists, one a step) and looks at what comes out."""
            for route in routes:
                with checks.case(f"{name} -> {' -> '.join(step[1] for step in route)}") as case:
                    place = source
                    for number, step in enumerate(route):
                        target = pathlib.Path(scratch, name, f"{len(checks.passed)}-{len(checks.failed)}-{number}")
                        reshard.convert(place, target, *step)
                        place = target
                    case.note(check_logits(place, load_file(logits)))

        for case in huggingface_cases(data, names):
            routes = [[["--to", "hf", "--max-shard-size", "100KB"]], [["--to", "hf-bin"]]]
            if flags := TO_MEGATRON.get(case.name):
                routes.append([["--to", "megatron", *flags], ["--to", "hf"]])
            check(case.name, case / "hf", case / "logits.safetensors", *routes)
        for case in megatron_cases(data, names):
            for source in sorted(case.glob("torch-*")):
                check(f"{case.name}/{source.name}", source, case / "logits.safetensors", [["--to", "hf"]])
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

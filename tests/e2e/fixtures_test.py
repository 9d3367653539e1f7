"""reshard's output equals what the frameworks wrote themselves, bit for bit, for every case in tests/data.

usage: fixtures_test.py RESHARD MPIEXEC DATA [CASE...]
"""

import itertools
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
from cases import TO_MEGATRON, degrees, huggingface_cases, layout_flags, megatron_cases
from programs import Checks, Reshard

VOCABULARY = ("word_embeddings.weight", "output_layer.weight", "word_embeddings_for_head.weight")
# Cases whose output layer is the embedding, in the dialect's own words.
TIED = ("gpt2", "gpt2-legacy", "qwen3")


def is_vocabulary(name):
    return name.endswith(VOCABULARY)


def check_same(seen, wanted, what):
    """Raises with the first differences when two mappings of name -> (dtype, shape, bytes) differ."""
    lines = files.differences(seen, wanted)
    assert not lines, f"{what}: {len(lines)} differences: " + "; ".join(lines[:5])


def raw_chunks(root):
    """(rank folder, chunk) -> name -> (dtype, shape, bytes) of a Megatron folder."""
    return {
        (folder, chunk): {name: files.raw(tensor) for name, tensor in tensors.items()}
        for folder, content in files.megatron_files(root).items()
        for chunk, tensors in files.model_chunks(content).items()
    }


def vocabulary_rows(chunks):
    """(rank folder beyond tp, chunk, name) -> the rows of a vocabulary tensor over all tp ranks, each as bytes."""
    rows = {}
    for (folder, chunk), tensors in sorted(chunks.items()):
        for name, (dtype, shape, data) in tensors.items():
            if is_vocabulary(name):
                place = (folder.split("_")[3:].__str__(), chunk, name)
                size = len(data) // shape[0]
                rows.setdefault(place, []).extend(data[start : start + size] for start in range(0, len(data), size))
    return rows


def padding_of(chunks, vocabulary, tied):
    """('embedding' or 'head') -> the padding rows that a source holds."""
    found = {}
    for (_, _, name), rows in vocabulary_rows(chunks).items():
        found["embedding" if "embedding" in name or tied else "head"] = rows[vocabulary:]
    return found


def check_megatron(seen, wanted, padding, case, vocabulary):
    """Everything but padding rows equals the framework's files; padding rows are the source's, zero beyond those.

    A source without padding (Hugging Face) does not say to which multiple the framework padded, so that sizes may differ."""
    assert seen.keys() == wanted.keys(), f"files and chunks are {sorted(seen)}, wanted {sorted(wanted)}"
    for place in wanted:
        names = list(wanted[place]), list(seen[place])
        assert set(names[0]) == set(names[1]), f"{place}: names differ: {sorted(set(names[0]) ^ set(names[1]))}"
        strip = lambda tensors: {k: v for k, v in tensors.items() if not is_vocabulary(k)}
        check_same(strip(seen[place]), strip(wanted[place]), place)
    got, rows = vocabulary_rows(seen), vocabulary_rows(wanted)
    for place in rows:
        name = place[2]
        assert got[place][:vocabulary] == rows[place][:vocabulary], f"{place}: rows of the vocabulary differ"
        held = padding.get("embedding" if "embedding" in name or case in TIED else "head", [])
        if padding:
            assert len(got[place]) == len(rows[place]), f"{place}: {len(got[place])} rows, wanted {len(rows[place])}"
        zero = bytes(len(rows[place][0]))
        for index, (row, source) in enumerate(itertools.zip_longest(got[place][vocabulary:], held)):
            wanted_row = zero if source is None else source
            assert row is None or row == wanted_row, f"{place}: padding row {vocabulary + index} is not the source's"


def check_inspect(reshard, folder, expected):
    """`inspect --json` finds the format and the degrees."""
    report = json.loads(reshard.run("inspect", folder, "--json"))
    for key, value in expected.items():
        seen = report.get(key, report.get("parallelism", {}).get(key))
        assert seen == value, f"inspect says {key} = {seen}, wanted {value}"


def check_huggingface_case(case, reshard, checks, scratch):
    """hf -> hf, hf-bin and (where Megatron holds the family) megatron, and each back to hf."""
    wanted = files.huggingface_tensors(case / "hf")
    with checks.case(f"{case.name}: inspect"):
        check_inspect(reshard, case / "hf", {"format": "hf"})
    routes = [[["--to", "hf"]], [["--to", "hf", "--max-shard-size", "50KB"]], [["--to", "hf-bin"], ["--to", "hf"]]]
    if case.name in TO_MEGATRON:
        routes.append([["--to", "megatron", *TO_MEGATRON[case.name]], ["--to", "hf"]])
    for number, route in enumerate(routes):
        with checks.case(f"{case.name}: hf -> {' -> '.join(' '.join(step[1:]) for step in route)}"):
            place = case / "hf"
            for step, flags in enumerate(route):
                target = pathlib.Path(scratch, case.name, f"{number}-{step}")
                reshard.convert(place, target, *flags, ranks=3 if number == 1 else 1)
                place = target
            check_same(files.huggingface_tensors(place), wanted, "hf")
            configs = [json.loads((folder / "config.json").read_text()) for folder in (place, case / "hf")]
            assert configs[0] == configs[1], "config.json differs from the source's"


def check_megatron_case(case, reshard, checks, scratch):
    """Every layout of the case and its hf/ to every other, against the framework's own files."""
    vocabulary = next(s[0] for n, (_, s, _) in files.huggingface_tensors(case / "hf").items() if n.endswith(("embed_tokens.weight", "wte.weight")))
    layouts = {folder: raw_chunks(folder) for folder in sorted(case.glob("torch-*"))}
    padding = {folder: padding_of(chunks, vocabulary, case.name in TIED) for folder, chunks in layouts.items()}
    wanted_hf = files.huggingface_tensors(case / "hf")
    for source in [*layouts, case / "hf"]:
        if source in layouts:
            with checks.case(f"{case.name}: inspect {source.name}"):
                check_inspect(reshard, source, {"format": "megatron", **degrees(source)})
            with checks.case(f"{case.name}: {source.name} -> hf"):
                target = pathlib.Path(scratch, case.name, f"{source.name}-hf")
                reshard.convert(source, target, "--to", "hf", ranks=4)
                check_same(files.huggingface_tensors(target), wanted_hf, "hf")
            with checks.case(f"{case.name}: compare {source.name} with hf"):
                reshard.run("compare", source, case / "hf")
        for number, (layout, wanted) in enumerate(layouts.items()):
            with checks.case(f"{case.name}: {source.name} -> {layout.name}"):
                target = pathlib.Path(scratch, case.name, f"{source.name}-{layout.name}")
                reshard.convert(source, target, "--to", "megatron", *layout_flags(layout), ranks=2 if number else 1)
                check_megatron(raw_chunks(target), wanted, padding.get(source, {}), case.name, vocabulary)


def main(arguments):
    binary, mpiexec, data, *names = arguments
    reshard, checks = Reshard(binary, mpiexec), Checks()
    with tempfile.TemporaryDirectory() as scratch:
        for case in huggingface_cases(data, names):
            check_huggingface_case(case, reshard, checks, scratch)
        for case in megatron_cases(data, names):
            check_megatron_case(case, reshard, checks, scratch)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

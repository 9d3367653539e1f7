"""`reshard submit` without Slurm: what it finds, which scripts it makes, what it refuses. Jobs themselves: tests/slurm.

usage: submit_test.py RESHARD MPIEXEC DATA
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from programs import Checks

TRACKER = "latest_checkpointed_iteration.txt"


class Submit:
    """The program with a search path that has no Slurm, in a folder of its own."""

    def __init__(self, binary, data, folder):
        self.binary, self.folder = pathlib.Path(binary).resolve(), pathlib.Path(folder).resolve()
        self.source = pathlib.Path(data).resolve() / "megatron" / "llama-gqa" / "torch-tp2-pp2"
        self.logs = pathlib.Path(data).resolve() / "logs"
        (self.folder / "bin").mkdir()
        for tool in ("bash", "sh", "cat"):
            (self.folder / "bin" / tool).symlink_to(f"/bin/{tool}")
        home = self.folder / "home"
        home.mkdir()
        self.environment = {**os.environ, "PATH": str(self.folder / "bin"), "HOME": str(home)}
        self.environment.pop("RESHARD_PROFILE", None)

    def program(self, name, script):
        """A program of the search path."""
        path = self.folder / "bin" / name
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    def run(self, *words, code=0, program=None, **environment):
        """What a command printed; stderr, too, when it is to fail."""
        done = subprocess.run([str(program or self.binary), *map(str, words)], env={**self.environment, **environment}, cwd=self.folder,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {words}\n{said}"
        return said if code else done.stdout

    def report(self, *words, **options):
        """`submit --dry-run --json`, which writes nothing."""
        before = sorted(self.folder.rglob("*"))
        report = json.loads(self.run("submit", *words, "--dry-run", "--no-check", "--json", **options))
        assert sorted(self.folder.rglob("*")) == before
        return report

    def script(self, *words, **options):
        """The one script that would be submitted, which bash can read."""
        (job,) = self.report(*words, **options)["jobs"]
        subprocess.run(["bash", "-n", "-c", job["script"]], check=True)
        return job["script"]

    def checkpoint(self, *more):
        """Words that name a run that can be converted."""
        return ["--checkpoint", self.source, "--save-checkpoints-dir", self.folder / "out", "--convert-logs-dir", self.folder / "logs", *more]


def array_of(script, name):
    """Words of a bash array in a script."""
    line = re.search(rf"^{name}=\(.*?\)$", script, re.MULTILINE | re.DOTALL).group()
    shown = f'{line}\nfor word in "${{{name}[@]}}"; do printf "%s\\0" "$word"; done'
    return subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def tasks_of(script):
    """What list_tasks prints: (unit, iteration, words of reshard)."""
    body = re.search(r"^list_tasks\(\) \{.*?^\}", script, re.MULTILINE | re.DOTALL).group()
    done = subprocess.run(["bash", "-c", f"{body}\nlist_tasks"], capture_output=True, text=True, check=True)
    words, tasks = done.stdout.split("\0")[:-1], []
    while words:
        count = int(words[0])
        tasks.append((words[1], words[2], words[3 : 3 + count]))
        words = words[3 + count :]
    return tasks


def finds_runs(submit):
    """The list over real logs: runs by folder, iterations that logs tell of, what the disk says."""
    report = json.loads(submit.run("submit", "--train-logs", submit.logs, "--list", "--json"))
    runs = {run["folder"]: run for run in report["runs"]}
    assert set(runs) == {"/scratch/run1/checkpoints", "/scratch/run1/ckpt", "/scratch/run2/checkpoints", "/scratch/run3/checkpoints",
                         "/scratch/run6/output/2025-04-02_ckpt"}  # fmt: skip
    assert [one["iteration"] for one in runs["/scratch/run1/checkpoints"]["iterations"]] == [2, 3]
    assert [one["iteration"] for one in runs["/scratch/run6/output/2025-04-02_ckpt"]["iterations"]] == [50, 100, 150]
    assert not runs["/scratch/run1/ckpt"]["iterations"]
    assert (runs["/scratch/run2/checkpoints"]["tp"], runs["/scratch/run2/checkpoints"]["pp"]) == (2, 1)
    for run in runs.values():
        assert all(one["logged"] and not one["on_disk"] and not one["complete"] for one in run["iterations"]), run
    joined = f"{submit.logs / 'fresh.out'}::{submit.logs / 'requeued.out'}"
    two = json.loads(submit.run("submit", "--train-logs", joined, "--list", "--json"))
    assert [run["folder"] for run in two["runs"]] == ["/scratch/run3/checkpoints", "/scratch/run1/checkpoints"]
    text = submit.run("submit", "--train-logs", submit.logs / "fresh.out", "--list")
    assert "tp 2, pp 1" in text and "not on disk" in text, text


def finds_iterations(submit):
    """Complete, in flight, missing, link: what is chosen of a run's folder."""
    root = submit.folder / "run"
    for number in (1, 2, 3):
        submit.run("convert", submit.source, root, "--to", "megatron", "--iteration", number, "--quiet")
    (root / TRACKER).write_text("2")  # 3 is being written
    (root / "iter_0000001").rename(submit.folder / "elsewhere")
    (root / "iter_0000001").symlink_to(submit.folder / "elsewhere")
    words = ["--checkpoint", root, "--save-checkpoints-dir", submit.folder / "out", "--convert-logs-dir", submit.folder / "logs"]
    listed = json.loads(submit.run("submit", *words, "--list", "--json"))["runs"][0]["iterations"]
    assert [(one["iteration"], one["complete"]) for one in listed] == [(1, True), (2, True), (3, False)], listed
    for wish, wanted in (([], [2]), (["--iteration", "all"], [1, 2]), (["--iters", "0000001"], [1]), (["--iterations", "1:3:1"], [1, 2])):
        report = submit.report(*words, *wish)
        assert [task["iteration"] for task in report["tasks"]] == wanted, (wish, report["tasks"])
        assert [task["target"] for task in report["tasks"]] == [f"{submit.folder}/out/run/iter_{n:07}" for n in wanted]
    for wish in ("3", "9", "2,3"):
        said = submit.run("submit", *words, "--iteration", wish, "--dry-run", "--no-check", code=7)
        assert f"run at {wish[-1]}" in said, said
    # Iterations that are named by their folders are one run, also for a job that waits for another.
    named = [word for n in (1, 2) for word in ("--checkpoint", root / f"iter_{n:07}")]
    for more, wanted in (([], [1, 2]), (["--checkpoint", root], [1, 2]), (["--checkpoint", root, "--iteration", "2"], [1, 2])):
        report = submit.report(*named, *more, *words[2:])
        assert len(report["jobs"]) == 1 and [task["iteration"] for task in report["tasks"]] == wanted, report
    script = submit.script(*named[:2], *words[2:], "--after", "5")
    line = re.search(r"^  reshard_alone (submit --tasks .*)$", script, re.MULTILINE)[1]
    listed = subprocess.run(f"{submit.binary} {line}", shell=True, capture_output=True, text=True, check=True).stdout.split("\0")
    assert listed[1:3] == [f"{submit.folder}/out/run/iter_0000001", "1"], listed
    one = submit.report("--checkpoint", root / "iter_0000001", *words[2:])
    assert [task["target"] for task in one["tasks"]] == [f"{submit.folder}/out/run/iter_0000001"], one
    (root / TRACKER).unlink()
    said = submit.run("submit", *words, "--dry-run", "--no-check", code=7)
    assert "no checkpoint that is complete" in said, said


def follows_a_real_log(submit):
    """The log of an open-sci run leads to its distributed checkpoint, whose numbers are those of the files that the framework wrote otherwise."""
    fixture = submit.logs.parent / "opensci" / "opensci-bias"
    words = ["--train-logs", submit.logs / "opensci-bias.out", "--map", f"/scratch/run2/checkpoints={fixture}/torch_dist-tp1-pp2",
             "--save-checkpoints-dir", submit.folder / "out", "--convert-logs-dir", submit.folder / "logs", "--run-name", "bias"]  # fmt: skip
    listed = json.loads(submit.run("submit", *words, "--list", "--json"))["runs"]
    assert [(one["iteration"], one["logged"], one["complete"]) for one in listed[0]["iterations"]] == [(3, True, True)], listed
    ((unit, iteration, task),) = tasks_of(submit.script(*words))
    assert (unit, iteration) == (f"{submit.folder}/out/bias/iter_0000003", "3"), unit
    submit.run(*task, "--quiet")
    submit.run("verify", unit)
    submit.run("compare", unit, fixture / "torch-tp2-pp1")


def holds_logs_against_checkpoints(submit):
    """A log whose arguments are not those that the checkpoint was saved with is of another run, or the folder is."""
    log, real = submit.folder / "other.out", (submit.logs / "opensci-bias.out").read_text()
    folder = submit.logs.parent / "opensci" / "opensci-bias" / "torch_dist-tp1-pp2"
    words = ["--train-logs", log, "--map", f"/scratch/run2/checkpoints={folder}", "--save-checkpoints-dir", submit.folder / "out",
             "--convert-logs-dir", submit.folder / "logs", "--dry-run", "--no-check"]  # fmt: skip
    for argument, seen, told in (("num_layers", "4", "6"), ("norm_epsilon", "1e-06", "1e-05"), ("qk_layernorm", "False", "True"), ("normalization", "RMSNorm", "LayerNorm")):  # fmt: skip
        text, count = re.subn(rf"(  {argument} \.+) {seen}$", rf"\1 {told}", real, flags=re.MULTILINE)
        assert count > 0, argument
        log.write_text(text)
        said = submit.run("submit", *words, code=3)
        assert f"{argument} " in said and f"(log: {told})" in said and "other.out" in said, said
    log.write_text(real)
    submit.run("submit", *words)


def passes_options(submit):
    """Options of convert reach the job's words unchanged, whatever is in them, and the targets follow the format."""
    odd = submit.folder / "it's a $HOME\n\"save\""
    words = ["--checkpoint", submit.source, "--save-checkpoints-dir", odd, "--convert-logs-dir", submit.folder / "logs", "--run-name", "r"]
    script = submit.script(*words, "--dtype", "fp32", "--memory", "1GiB", "--family", "llama", "--vocab-size", "97", "--no-verify")
    ((unit, iteration, task),) = tasks_of(script)
    assert unit == f"{odd}/r/iter_0000003" and iteration == "3", unit
    assert task[:3] == ["convert", str(submit.source), unit], task
    flags = dict(zip(task[3:], task[4:]))
    for flag, value in (("--to", "hf"), ("--dtype", "fp32"), ("--memory", "1GiB"), ("--family", "llama"), ("--vocab-size", "97"), ("--from-iteration", "3")):
        assert flags[flag] == value, (flag, task)
    assert "--no-verify" in task
    script = submit.script(*submit.checkpoint("--to", "megatron", "--tp", "2"))
    ((unit, _, task),) = tasks_of(script)
    run = f"{submit.folder}/out/{submit.source.name}"
    assert unit == f"{run}/iter_0000003" and task[2] == run, task
    # What a job does is what was planned: the words convert, as they are.
    submit.run(*task, "--quiet")
    submit.run("verify", unit)


def makes_containers(submit):
    """What stands before the program on a node."""
    image = submit.folder / "reshard.sif"
    image.write_text("")
    script = submit.script(*submit.checkpoint("--container", f"apptainer:{image}", "--mount", "/data:/mnt", "--pre-run", "module load a && b"))
    launcher = array_of(script, "launcher")
    assert launcher[:3] == ["apptainer", "exec", "--bind"] and launcher[4:7] == ["--pwd", str(submit.folder), str(image)], launcher
    assert launcher[7:] == ["bash", "-c", "{ module load a && b\n} && exec \"$@\"", "bash"], launcher
    binds = launcher[3].split(",")
    assert f"{submit.source}:{submit.source}" in binds and f"{submit.folder}:{submit.folder}" in binds and "/data:/mnt" in binds, binds
    assert array_of(script, "container") == [] and "\nreshard=reshard\n" in script
    assert not re.search(r"--nv|gres|gpu", script), re.findall(r".*(?:--nv|gres|gpu).*", script)
    script = submit.script(*submit.checkpoint("--container", "pyxis:user@host#image:1", "--reshard", "/opt/bin/reshard"))
    container = array_of(script, "container")
    assert container[0] == "--container-image=user@host#image:1" and container[1].startswith("--container-mounts="), container
    assert array_of(script, "launcher") == [] and "\nreshard=/opt/bin/reshard\n" in script
    script = submit.script(*submit.checkpoint())
    assert array_of(script, "launcher") == [] and array_of(script, "container") == [] and f"\nreshard={submit.binary}\n" in script
    said = submit.run("submit", *submit.checkpoint("--container", "docker:x", "--dry-run"), code=2)
    assert "apptainer:IMAGE" in said, said


def follows_flags(submit):
    """Slurm's options, also of a profile; those that are not given are left to the site."""
    script = submit.script(*submit.checkpoint())
    assert not re.search(r"#SBATCH --(account|partition|qos|mem|constraint|gres|mail)", script), script
    given = ["--account", "a1", "--partition", "p", "--qos", "q", "--time", "1:00:00", "--nodes", "3", "--ranks-per-node", "5", "--mem", "0",
             "--constraint", "[a|b]", "--mail", "me@example.org", "--sbatch=--exclusive", "--sbatch=--reservation=r", "--requeue-limit", "2"]  # fmt: skip
    script = submit.script(*submit.checkpoint(*given))
    for line in ("account=a1", "partition=p", "qos=q", "time=1:00:00", "nodes=3", "ntasks-per-node=5", "mem=0", "constraint=[a|b]", "mail-user=me@example.org",
                 "exclusive", "reservation=r", "requeue", "signal=B:USR1@120"):  # fmt: skip
        assert f"\n#SBATCH --{line}\n" in script, line
    assert "\nrequeue_limit=2\n" in script
    profile = submit.folder / "profile.json"
    profile.write_text(json.dumps({"account": "site", "ranks-per-node": 7, "sbatch": ["--exclusive"], "dtype": "fp16", "no-verify": True}))
    for environment, more in (({"RESHARD_PROFILE": str(profile)}, []), ({}, ["--profile", profile])):
        script = submit.script(*submit.checkpoint("--account", "mine", *more), **environment)
        assert "--account=mine" in script and "--ntasks-per-node=7" in script and "--exclusive" in script
        assert "--dtype fp16" in script and "--no-verify" in script
    home = submit.folder / "home" / ".config" / "reshard"
    home.mkdir(parents=True)
    (home / "profile.json").write_text('{"qos": "of-home"}')
    assert "--qos=of-home" in submit.script(*submit.checkpoint())
    assert "--qos" not in submit.script(*submit.checkpoint("--profile", "none"))
    for text, part in (('{"acount": "x"}', "acount"), ('{"nodes": "many"}', "nodes"), ("[]", "object"), ("{", "profile.json"), ('{"time": 1.5}', "time")):
        profile.write_text(text)
        said = submit.run("submit", *submit.checkpoint("--dry-run", "--profile", profile), code=2)
        assert part in said and str(profile) in said, said
    script = submit.script(*submit.checkpoint("--after", "4711", "--iteration", "all"))
    assert "#SBATCH --dependency=afterany:4711\n" in script and "--array" not in script
    assert re.search(r"reshard_alone submit --tasks .*--iteration all", script), script


def refuses(submit):
    """One list of all problems, and what to do without Slurm."""
    words = submit.checkpoint("--mount", "/no/such", "--container", f"apptainer:{submit.folder}/none.sif", "--tp", "3", "--to", "megatron")
    said = submit.run("submit", *words, code=2)
    for part in ("--mount /no/such", "none.sif: no such file", "sbatch: not in the search path", "does not divide by 3 ranks"):
        assert part in said, f"lacks {part}: {said}"
    assert not (submit.folder / "out").exists() or not list((submit.folder / "out").glob("jobs*"))
    submit.program("apptainer", 'echo "FATAL: \\"reshard\\": executable file not found" >&2; exit 255')
    image = submit.folder / "training.sif"
    image.write_text("")
    said = submit.run("submit", *submit.checkpoint("--container", f"apptainer:{image}"), code=2)
    assert "a training image has no reshard" in said and "executable file not found" in said, said
    for words, part in ((["--list"], "--train-logs"), (["--checkpoint", submit.source], "--save-checkpoints-dir"), (["--status"], "--save-checkpoints-dir"),
                        (submit.checkpoint("--map", "x"), "--map"), (submit.checkpoint("--iteration", "x"), "--iteration"),
                        (submit.checkpoint("--account", "a b"), "--account"), (submit.checkpoint("--run-name", "../up"), "--run-name"), (["--train-logs", "none.out", "--list"], "none.out")):  # fmt: skip
        said = submit.run("submit", *words, *(["--dry-run", "--no-check"] if "--list" not in words else []), code=2)
        assert part in said, f"lacks {part}: {said}"
    assert "--pre-run" in submit.run("submit", *submit.checkpoint("--pre-run", "echo 'open"), code=2)
    loop = submit.folder / "logs-with-loop" / "loop.out"
    loop.parent.mkdir()
    loop.symlink_to(loop)
    (loop.parent / "run.out").write_text((submit.logs / "fresh.out").read_text())
    assert "/scratch/run3/checkpoints" in submit.run("submit", "--train-logs", loop.parent, "--list")
    for words in (["--train-logs", loop, "--list"], ["--checkpoint", loop, "--list"], submit.checkpoint("--profile", loop)):
        said = submit.run("submit", *words, code=3)
        assert "loop.out" in said and "symbolic links" in said, said


def ends_training(submit):
    """epilogue.sh, with programs that stand for Slurm's: it ends with the status of the training, and runs nothing but what it made."""
    epilogue = pathlib.Path(__file__).resolve().parents[2] / "slurm" / "epilogue.sh"
    for tool in ("env", "mktemp", "rm", "head", "sed", "dirname", "basename", "date", "mkdir", "wc", "tail"):
        (submit.folder / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
    submit.program("squeue", "exit 1")
    submit.program("srun", 'export ASAN_OPTIONS=detect_leaks=0; echo "$@" >>srun.txt; while [ "$1" != "$RESHARD" ] && [ $# -gt 0 ]; do shift; done; exec "$@"'.replace("$RESHARD", str(submit.binary)))
    root, logs, out = submit.folder / "trained", submit.folder / "not" / "there" / "yet", submit.folder / "converted"
    for number in (1, 2):
        submit.run("convert", submit.source, root, "--to", "megatron", "--iteration", number, "--quiet")
    words = ["--save-checkpoints-dir", out, "--convert-logs-dir", logs, "--iteration", "all"]
    # The epilogue leaves the environment behind, and MPI leaks.
    submit.program("without-leaks", f'export ASAN_OPTIONS=detect_leaks=0; exec {submit.binary} "$@"')
    job = {"RESHARD": str(submit.folder / "bin" / "without-leaks"), "SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "3"}

    def run(*more, wanted=5, **environment):
        command = ["bash", str(epilogue), "--exit-status", "5", *map(str, more)]
        done = subprocess.run(command, env={**submit.environment, **environment}, cwd=submit.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == wanted, done
        return done.stdout + done.stderr

    assert "no SLURM_JOB_ID" in run(root, *words, RESHARD=str(submit.binary))
    odd = submit.folder / "a; touch INJECTED;"
    for wrong in (["--list"], ["--status"], ["--json"], ["--help"], ["--checkpoint", submit.source]):
        said = run(odd if wrong == ["--list"] else root, *words, *wrong, **job)
        assert "wanted one checkpoint folder" in said or "ended with exit status" in said, (wrong, said)
        assert not (submit.folder / "INJECTED").exists() and not out.exists(), wrong
    profile = submit.folder / "profile.json"
    profile.write_text(json.dumps({"ranks-per-node": 8}))
    said = run(root, *words, RESHARD_PROFILE=str(profile), **job)
    assert "2 converted, worst exit status 0" in said, said
    assert "--ntasks-per-node=3" in (submit.folder / "srun.txt").read_text()  # as many as the node has cores
    assert len((out / "index.jsonl").read_text().splitlines()) == 2
    for number in (1, 2):
        submit.run("verify", out / "trained" / f"iter_{number:07}")
    assert "nothing to be done" in run(root, *words, **job)
    words[1] = submit.folder / "converted-again"
    said = run(root, *words, "--sbatch=--ntasks-per-node=2", **job)  # behind the one of the plan
    assert "2 converted, worst exit status 0" in said, said
    assert (submit.folder / "srun.txt").read_text().splitlines()[-1].count("--ntasks-per-node=2 --nodes=1") == 1


def takes_older_lines(submit):
    """The older script's command line, under both of its names."""
    image, clone = submit.folder / "image.sif", submit.folder / "Open-Sci-hf"
    image.write_text("")
    sample = clone / "sample"  # what the project's repository has there
    sample.mkdir(parents=True)
    classes = {"AutoConfig": "configuration_opensci.OpensciConfig", "AutoModelForCausalLM": "modeling_opensci.OpensciForCausalLM"}
    (sample / "config.json").write_text(json.dumps({"model_type": "opensci", "auto_map": classes}))
    for name in ("configuration_opensci.py", "modeling_opensci.py"):
        (sample / name).write_text(f"# {name}\n")
    (sample / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}))
    checkpoint = submit.logs.parent / "opensci" / "opensci-bias" / "torch_dist-tp1-pp2"
    log = submit.folder / "logs-of-runs" / "my.run.out"
    log.parent.mkdir()
    log.write_text((submit.logs / "opensci-bias.out").read_text().replace("/scratch/run2/checkpoints", str(checkpoint)))
    nine = ["--account", "a", "--partition", "p", "--convert_logs_dir", "cl", "--container_image", image, "--opensci_megatron_path", "x", "--megatron_path", "y",
            "--open_sci_hf_path", clone, "--train_logs_dir_or_path", log.parent, "--save_checkpoints_dir", "sc"]  # fmt: skip
    model, hf = f"{submit.folder}/sc/torch/my.run/torch/iter_0000003", submit.folder / "sc/hf/my.run"
    for name in ("convert_megatron_to_hf", "converter"):
        link = submit.folder / name
        link.symlink_to(submit.binary)
        done = subprocess.run([link, *map(str, nine), "--dry-run", "--no-check", "--json"], env=submit.environment, cwd=submit.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "--megatron_path: no longer needed" in done.stderr and "--opensci_megatron_path: no longer needed" in done.stderr
        (job,) = json.loads(done.stdout)["jobs"]
        tasks = {unit: words for unit, _, words in tasks_of(job["script"])}
        assert set(tasks) == {model, str(hf)}, tasks
        for unit, words in tasks.items():
            assert words[words.index("--to") + 1] == ("hf" if unit == str(hf) else "megatron"), words
        assert "#SBATCH --account=a\n" in job["script"] and array_of(job["script"], "launcher")[0] == "apptainer"
        assert f"{clone}:" in array_of(job["script"], "launcher")[3] or f"{submit.folder}:" in array_of(job["script"], "launcher")[3]
    for words in tasks.values():
        submit.run(*words, "--quiet")
    assert (submit.folder / "sc/torch/my.run/torch" / TRACKER).read_text().strip() == "3"
    for name in ("modeling_opensci.py", "configuration_opensci.py", "tokenizer.json"):
        assert (hf / name).read_bytes() == (sample / name).read_bytes()
    assert json.loads((hf / "config.json").read_text())["model_type"] == "opensci"
    submit.run("verify", hf)
    submit.run("compare", model, checkpoint)  # hf has zero biases besides, as its class wants them


def writes_records(submit):
    """The last act of a conversion: a line in the index, once; and its report, also of a failure."""
    index, report = submit.folder / "index.jsonl", submit.folder / "report.json"
    words = ["convert", submit.source, submit.folder / "indexed", "--to", "hf", "--index", index, "--report", report, "--quiet"]
    for _ in range(2):  # the second is converted already
        submit.run(*words)
    (line,) = [json.loads(text) for text in index.read_text().splitlines()]
    assert line["target"] == str(submit.folder / "indexed") and line["source"] == str(submit.source) and line["iteration"] is None, line
    assert json.loads(report.read_text())["already"] is True
    submit.run(*words[:2], submit.folder / "other", "--to", "megatron", "--tp", "2", *words[5:])
    digests = [json.loads(text)["digest"] for text in index.read_text().splitlines()]
    assert len(digests) == 2 and all(len(digest) == 32 for digest in digests), digests
    submit.run("convert", submit.folder / "none", *words[2:], code=3)
    assert json.loads(report.read_text())["code"] == 3 and len(index.read_text().splitlines()) == 2


def is_quick(submit):
    """1,000 logs of 50 MB in total within seconds."""
    folder = submit.folder / "many"
    folder.mkdir()
    real = (submit.logs / "fresh.out").read_text()
    for number in range(1000):
        (folder / f"{number}.out").write_text(real.replace("/scratch/run3/checkpoints", f"/scratch/{number}"))
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size > 50_000_000
    begin = time.monotonic()
    report = json.loads(submit.run("submit", "--train-logs", folder, "--list", "--json"))
    assert len(report["runs"]) == 1000
    print(f"      1,000 logs, {size / 1e6:.0f} MB: {time.monotonic() - begin:.2f} s")


def main(binary, _mpiexec, data):
    checks = Checks()
    for case in (finds_runs, finds_iterations, follows_a_real_log, holds_logs_against_checkpoints, passes_options, makes_containers, follows_flags, refuses, ends_training, takes_older_lines, writes_records, is_quick):
        with tempfile.TemporaryDirectory() as folder, checks.case(case.__name__):
            case(Submit(binary, data, folder))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Jobs on a real Slurm of two nodes: what `reshard submit` and the scripts in slurm/ make, end to end.

usage: slurm_test.py RESHARD REPOSITORY DATA [CASE]...
"""

import json
import pathlib
import re
import shutil
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
import cluster
from programs import Checks

# Many records in the journal of a conversion that takes seconds.
SLOW = ["--journal-interval", "1MiB", "--memory", "24MiB", "--io-threads", "1"]


class Jobs:
    """Checkpoints, targets and the cluster of one test run."""

    def __init__(self, slurm, reshard, repository, data, folder):
        self.slurm, self.reshard, self.folder = slurm, str(reshard), pathlib.Path(folder)
        self.scripts = pathlib.Path(repository) / "slurm"
        self.source = pathlib.Path(data) / "megatron" / "llama-gqa" / "torch-tp2-pp2"
        self.training_log = pathlib.Path(data) / "logs" / "fresh.out"
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.environment = {"RESHARD": self.reshard, "RESHARD_PROFILE": str(self.folder / "profile.json"), "PYTHONDONTWRITEBYTECODE": "1"}
        (self.folder / "profile.json").write_text(json.dumps({"convert-logs-dir": str(self.logs), "time": "5"}))

    def iterations(self, name, numbers):
        """A run's folder with one small checkpoint under several numbers."""
        root = self.folder / name
        for number in numbers:
            self.run(self.reshard, "convert", self.source, root, "--to", "megatron", "--tp", "2", "--pp", "2", "--iteration", number, "--quiet")
        return root

    def run(self, *words, code=0, **options):
        """A command that must end with the code; what it printed."""
        done = self.slurm.run(*words, env=self.environment, **options)
        said = done.stdout + done.stderr
        assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {' '.join(map(str, words))}\n{said}"
        return said if code else done.stdout

    def submit(self, *words, code=0):
        """`reshard submit`: its report, or what it said when it refused."""
        said = self.run(self.reshard, "submit", *words, *([] if code else ["--json"]), code=code)
        return said if code else json.loads(said)

    def ended(self, job, seconds=120):
        """Waits for the end of a job, all of an array; its state. The epilogue of a job may take a moment."""
        running = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")
        states = []

        def is_over():
            done = self.slurm.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T")
            states[:] = done.stdout.split()
            return not any(state in running for state in states)

        self.slurm.wait(is_over, f"job {job}", seconds)
        return states

    def log(self, name):
        """The log whose name begins so."""
        (path,) = self.logs.glob(f"{name}*.out")
        return path.read_text()

    def print_last_logs(self):
        """What the last three jobs said, for whoever looks for the cause of a failure."""
        for path in sorted(self.logs.glob("*.out"), key=lambda path: path.stat().st_mtime)[-3:]:
            print(f"-- {path.name}\n{path.read_text(errors='replace')[-1500:]}", flush=True)

    def status(self, save):
        """State by target's name."""
        report = json.loads(self.run(self.reshard, "submit", "--status", "--save-checkpoints-dir", save, "--json"))
        return {one["target"]: one for one in report}

    def verified(self, folder):
        """The folder holds what it should."""
        self.run(self.reshard, "verify", folder)
        self.run(self.reshard, "compare", self.source, folder)


def index_of(save):
    """Lines of index.jsonl."""
    return [json.loads(line) for line in (save / "index.jsonl").read_text().splitlines()]


def contents(folder):
    """Bytes of each file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def launches(jobs):
    """Two nodes of two ranks write what one process writes; without an interface nothing is begun."""
    for words, target in (([], "one"), (["srun", "--mpi=pmix", "-N2", "--ntasks-per-node=2"], "four")):
        jobs.run(*words, jobs.reshard, "convert", jobs.source, jobs.folder / target, "--to", "hf", "--quiet")
    assert contents(jobs.folder / "one") == contents(jobs.folder / "four")
    target = jobs.folder / "none"
    said = jobs.run("srun", "--mpi=none", "-n4", jobs.reshard, "convert", jobs.source, target, "--to", "hf", code=2)
    assert said.count("--mpi=pmix") == 1, said
    assert not list(jobs.folder.glob("*none*")), list(jobs.folder.glob("*none*"))


def from_log(jobs):
    """A log leads to the checkpoint, whose degrees and sizes must be those that the log tells."""
    root, save = jobs.iterations("moved/checkpoints", [3]), jobs.folder / "from log"
    log = jobs.folder / "train.out"
    log.write_text(jobs.training_log.read_text())
    words = ["--train-logs", log, "--map", f"/scratch/run3={root.parent}", "--save-checkpoints-dir", save]
    said = jobs.submit(*words, code=3)
    assert "pipeline_model_parallel_size 2 (log: 1)" in said and "num_layers 4 (log: 3)" in said and str(log) in said, said
    told, text = json.loads(jobs.run(jobs.reshard, "inspect", root, "--json"))["arguments"], log.read_text()
    for name, value in {**told, "pipeline_model_parallel_size": 2}.items():
        text = re.sub(rf"(  {name} \.+) .*$", lambda found: f"{found[1]} {value}", text, flags=re.MULTILINE)
    log.write_text(text)
    report = jobs.submit(*words, "--nodes", "2", "--ranks-per-node", "2", "--then", "echo then ran")
    (job,) = report["jobs"]
    target = save / "checkpoints" / "iter_0000003"
    assert [one["target"] for one in report["tasks"]] == [str(target)], report
    jobs.ended(job["job"])
    jobs.verified(target)
    assert jobs.status(save)[str(target)]["state"] == "done"
    (line,) = index_of(save)
    assert line["target"] == str(target) and line["source"] == str(root) and line["iteration"] == 3 and len(line["digest"]) == 32, line
    assert line["bytes"] == sum(path.stat().st_size for path in target.iterdir() if path.name != "manifest.json"), line
    (report_file,) = jobs.logs.glob(f"{job['name']}-*.3.run0.json")
    assert json.loads(report_file.read_text())["ranks"] == 4
    # The same again: nothing to do, no job.
    again = jobs.submit(*words)
    assert not again["jobs"] and [one["state"] for one in again["tasks"]] == ["converted"], again
    jobs.slurm.wait(lambda: any("then ran" in path.read_text() for path in jobs.logs.glob("*-then-*.out")), "--then")


def array(jobs):
    """Three iterations become one array into one root, of a format with a tracker."""
    root, save = jobs.iterations("three", [1, 2, 3]), jobs.folder / "array"
    report = jobs.submit("--checkpoint", root, "--iteration", "all", "--save-checkpoints-dir", save, "--array-limit", "2",
                         "--to", "megatron", "--tp", "2", "--ranks-per-node", "2")  # fmt: skip
    (job,) = report["jobs"]
    assert "#SBATCH --array=0-2%2" in job["script"]
    jobs.ended(job["job"])
    out = save / "three"
    assert {path.name for path in out.iterdir()} == {"iter_0000001", "iter_0000002", "iter_0000003", "latest_checkpointed_iteration.txt"}
    assert (out / "latest_checkpointed_iteration.txt").read_text().strip() == "3"
    for number in (1, 2, 3):
        jobs.verified(out / f"iter_{number:07}")
        assert jobs.log(f"{job['name']}-{job['job']}_{number - 1}")
    assert sorted(line["iteration"] for line in index_of(save)) == [1, 2, 3]
    assert len({line["digest"] for line in index_of(save)}) == 1  # copies of one checkpoint
    assert {one["state"] for one in jobs.status(save).values()} == {"done"}


def twice(jobs):
    """A target that is queued or running gets no second job, a failed one does."""
    root, save = jobs.iterations("twice", [1, 2]), jobs.folder / "twice-out"
    words = ["--checkpoint", root, "--save-checkpoints-dir", save]
    first = jobs.submit(*words, "--iteration", "1", "--sbatch=--hold")
    target = str(save / "twice" / "iter_0000001")
    queued = jobs.submit(*words, "--iteration", "all", "--pre-run", "sleep 4")  # another iteration goes its way
    states = {one["target"]: one["state"] for one in queued["tasks"]}
    assert states == {target: "pending", str(save / "twice" / "iter_0000002"): "submitted"}, states
    assert jobs.status(save)[target]["state"] == "queued"
    jobs.slurm.wait(lambda: jobs.slurm.state(queued["jobs"][0]["job"]) == "RUNNING", "a running job")
    running = jobs.submit(*words, "--iteration", "2")
    assert not running["jobs"] and running["tasks"][0]["state"] == "running", running
    jobs.run("scontrol", "release", first["jobs"][0]["job"])
    jobs.ended(first["jobs"][0]["job"])
    jobs.ended(queued["jobs"][0]["job"])
    done = jobs.submit(*words, "--iteration", "1:2")
    assert not done["jobs"] and {one["state"] for one in done["tasks"]} == {"converted"}, done
    other = ["--checkpoint", root, "--save-checkpoints-dir", jobs.folder / "failed-out"]
    failed = jobs.submit(*other, "--pre-run", "false")
    jobs.ended(failed["jobs"][0]["job"])
    (status,) = jobs.status(jobs.folder / "failed-out").values()
    assert status["state"] == "failed" and "exit code 1" in status["reason"], status
    again = jobs.submit(*other)
    assert again["tasks"][0]["state"] == "submitted", again
    jobs.ended(again["jobs"][0]["job"])
    (status,) = jobs.status(jobs.folder / "failed-out").values()
    assert status["state"] == "done" and status["job"] == again["jobs"][0]["job"], status


def requeued(jobs):
    """A job whose time is nearly over stops, is queued again, and goes on: the same bytes as in one go."""
    source, save = jobs.folder / "big", jobs.folder / "requeued"
    jobs.run(jobs.reshard, "sample", source, "--family", "llama", "--to", "megatron", "--tp", "2", "--parameters", "1.2e8", "--dtype", "bf16", "--iteration", "7")
    report = jobs.submit("--checkpoint", source, "--save-checkpoints-dir", save, "--ranks-per-node", "2", *SLOW)
    job, name = report["jobs"][0]["job"], report["jobs"][0]["name"]
    target = save / "big" / "iter_0000007"
    journal = lambda: sum(path.stat().st_size for path in target.parent.glob(f".{target.name}.reshard-*/journal/*-*-*"))
    jobs.slurm.wait(lambda: journal() > 0, "the first record of the journal")
    jobs.run("scancel", "--batch", "--signal=USR1", job)
    first = jobs.logs / f"{name}-{job}.0.7.run0.json"
    jobs.slurm.wait(first.exists, "the first run's report")
    assert json.loads(first.read_text())["code"] == 75, first.read_text()
    jobs.slurm.wait(lambda: jobs.slurm.state(job) == "PENDING", "the job to be queued again")
    assert not target.exists()
    assert jobs.status(save)[str(target)]["state"] == "queued"
    # The first run's step has to be gone from the node: two minutes later it would be.
    jobs.slurm.wait(lambda: not list(jobs.slurm.folder.glob(f"spool-*/stepd.slurm.pmix.{job}.*")), "the end of the first step")
    jobs.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    second = jobs.logs / f"{name}-{job}.0.7.run1.json"
    jobs.slurm.wait(second.exists, "the second run's report")
    jobs.ended(job)
    told = json.loads(second.read_text())
    assert 0 < told["resumed"] < told["target_bytes"], told
    assert told["written"]["sum"] + told["resumed"] == told["target_bytes"], told
    jobs.run(jobs.reshard, "convert", source, jobs.folder / "in one go", "--to", "hf", "--from-iteration", "7", "--quiet")
    assert contents(target) == contents(jobs.folder / "in one go")
    assert "requeued, run 1" in jobs.log(name)
    shutil.rmtree(jobs.folder / "in one go")
    # Without any progress it is not queued again.
    save = jobs.folder / "stuck"
    report = jobs.submit("--checkpoint", source, "--save-checkpoints-dir", save, "--pre-run", "trap 'exit 75' USR1; sleep 60 & wait; true")
    job, name = report["jobs"][0]["job"], report["jobs"][0]["name"]
    jobs.slurm.wait(lambda: jobs.slurm.state(job) == "RUNNING" and "about" in "".join(p.read_text() for p in jobs.logs.glob(f"{name}*.out")), "the job")
    time.sleep(1)  # until srun has started its task
    jobs.run("scancel", "--batch", "--signal=USR1", job)
    jobs.ended(job)
    assert "not requeued: this run got nothing done" in jobs.log(name), jobs.log(name)


TRAINING = """#!/bin/bash
#SBATCH --job-name=training
#SBATCH --output={logs}/%x-%j.out
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --time={minutes}
# What a training run may have set, and reshard must not hear of.
export MASTER_ADDR=$HOSTNAME OMPI_MCA_btl=no-such-transport PMIX_MCA_gds=no-such-store LD_PRELOAD=
epilogue() {{
  {epilogue} --exit-status "$1" {checkpoint} --save-checkpoints-dir {save} --ranks-per-node 2 "${{@:2}}" --profile {profile}
}}
trap 'epilogue 0 || echo "the exit status was changed"' USR1
srun {training} &
while wait $!; status=$?; kill -0 $! 2>/dev/null; do :; done
epilogue $status --iteration all
"""


def training_job(jobs, save, **values):
    """Submits a training job that only sleeps or fails; its id."""
    values = {"checkpoint": jobs.folder / "trained", "logs": jobs.logs, "profile": jobs.folder / "profile.json",
              "epilogue": f"RESHARD={jobs.reshard} {jobs.scripts}/epilogue.sh", **values}  # fmt: skip
    script = jobs.folder / f"training-{save.name}.sh"
    script.write_text(TRAINING.format(save=save, **values))
    return int(jobs.run("sbatch", "--parsable", script))


def begin_killed(jobs):
    """A training job that Slurm will end by its time limit; before that its script hears USR1."""
    jobs.iterations("trained", [1, 2])
    job = training_job(jobs, jobs.folder / "behind", training="sleep 600", minutes=1)
    jobs.slurm.wait(lambda: jobs.slurm.state(job) == "RUNNING", "training")
    time.sleep(0.5)  # until its script has set the trap
    jobs.run("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1 would
    return job


def epilogue(jobs, killed):
    """Training that ends by itself is followed by the conversion on its own nodes, with the status of the training."""
    save = jobs.folder / "inline"
    job = training_job(jobs, save, training="sh -c 'exit 3'", minutes=10)
    states = jobs.ended(job)
    log = (jobs.logs / f"training-{job}.out").read_text()
    assert "converts here" in log, log
    for number in (1, 2):
        jobs.verified(save / "trained" / f"iter_{number:07}")
    assert len(index_of(save)) == 2
    assert states == ["FAILED"] and "ExitCode=3:0" in jobs.run("scontrol", "show", "job", job), (states, log)
    (report, _) = sorted(jobs.logs.glob(f"*-{job}.*.run0.json"))
    assert json.loads(report.read_text())["ranks"] == 4
    # And the one that had no time left: a job behind it.
    log = (jobs.logs / f"training-{killed}.out").read_text()
    assert "a job behind this one converts" in log and "was changed" not in log, log
    states = jobs.ended(killed, seconds=120)
    assert states == ["TIMEOUT"], states
    target = jobs.folder / "behind" / "trained" / "iter_0000002"
    jobs.slurm.wait(target.exists, "the conversion behind the training job")
    jobs.verified(target)


def refusals(jobs):
    """All that would end a job is told at once, and nothing is queued."""
    root, save = jobs.iterations("refused", [1, 2]), jobs.folder / "refused-out"
    (root / "iter_0000002" / "mp_rank_01_001" / "model_optim_rng.pt").unlink()
    queued = lambda: set(jobs.run("squeue", "--noheader", "--states=all", "--format=%i").split())
    before = queued()
    said = jobs.submit("--checkpoint", root, "--iteration", "1,2,9", "--save-checkpoints-dir", save, "--nodes", "7", "--mount", "/no/such", code=2)
    for part in ("refused at 2:", "refused at 9:", "--mount /no/such", "--nodes", "sbatch --test-only"):
        assert part in said, f"lacks {part}: {said}"
    assert queued() <= before and not save.exists()
    jobs.submit("--checkpoint", root, "--iteration", "9", "--save-checkpoints-dir", save, code=7)


def plain_scripts(jobs):
    """The scripts that need no generator."""
    root, out = jobs.iterations("plain", [1, 2]), jobs.folder / "plain-out"
    listed = jobs.folder / "iterations.txt"
    listed.write_text("iter_0000001\niter_0000002\n")
    one = int(jobs.run("sbatch", "--parsable", "--ntasks-per-node=2", f"--output={jobs.logs}/%x-%j.out", jobs.scripts / "convert.sbatch", root / "iter_0000001", out / "one"))
    many = int(jobs.run("sbatch", "--parsable", "--ntasks-per-node=2", "--array=1-2", f"--output={jobs.logs}/%x-%A_%a.out",
                        jobs.scripts / "array.sbatch", listed, root, out))  # fmt: skip
    jobs.ended(one)
    jobs.ended(many)
    for name in ("one", "iter_0000001", "iter_0000002"):
        jobs.verified(out / name)


def main(reshard, repository, data, *chosen):
    why = cluster.missing()
    if why:
        print(f"skipped: {why}")
        return 0
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        slurm = cluster.Cluster(pathlib.Path(folder) / "cluster")
        try:
            jobs = Jobs(slurm, pathlib.Path(reshard).resolve(), repository, data, folder)
            killed = None
            for case in (launches, refusals, from_log, array, twice, requeued, plain_scripts, epilogue):
                if chosen and case.__name__ not in chosen:
                    continue
                if killed is None and (not chosen or "epilogue" in chosen):
                    killed = begin_killed(jobs)  # its minute passes meanwhile
                failures = len(checks.failed)
                with checks.case(case.__name__):
                    case(jobs, killed) if case is epilogue else case(jobs)
                if len(checks.failed) > failures:
                    jobs.print_last_logs()
        finally:
            slurm.close()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

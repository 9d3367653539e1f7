#!/bin/bash
# The last lines of a training job: converts the checkpoints that it has saved, on the nodes that it still holds, or
# in a job of its own behind it when too little time is left.
#
#   epilogue.sh [--exit-status N] CHECKPOINT --save-checkpoints-dir DIR --convert-logs-dir DIR [OPTION]...
#
# CHECKPOINT is the folder that training saves to; every option of `reshard submit` that says what is converted, and
# how, may follow. It ends with N, or 0, whatever becomes of the conversion, so that the training job's exit status
# stays that of the training:
#
#   srun ... train ...; status=$?
#   epilogue.sh --exit-status $status "$save" --save-checkpoints-dir out --convert-logs-dir logs --iteration all
#
# RESHARD names the program (default: the one it was installed with, else that of the search path).
set -u

# Of the environment only this reaches reshard: what training has set for its own MPI, GPUs and Python does not.
kept=(HOME USER LOGNAME SHELL PATH LD_LIBRARY_PATH TMPDIR LANG LC_ALL SLURM_CONF SLURM_CLUSTER_NAME SLURM_JOB_ID
  SLURM_JOB_NODELIST SLURM_JOB_NUM_NODES RESHARD_PROFILE APPTAINER_CACHEDIR SINGULARITY_CACHEDIR)

say() { printf 'epilogue: %s\n' "$*"; }

# clean COMMAND...: runs it with the kept variables alone.
clean() {
  local name variables=()
  for name in "${kept[@]}"; do
    if [ -n "${!name+set}" ]; then variables+=("$name=${!name}"); fi
  done
  env -i "${variables[@]}" "$@" </dev/null
}

# seconds_left: of this job; a lot where nobody says when it ends.
seconds_left() {
  local end
  end=$(squeue --noheader --job="$SLURM_JOB_ID" --format=%e 2>/dev/null)
  end=$(date -d "${end:-unknown}" +%s 2>/dev/null) || end=
  if [ -n "$end" ]; then echo $((end - $(date +%s))); else echo 100000000; fi
}

# told NAME SCRIPT: what a script's lines NAME=... say.
told() { sed -n "s/^$1=//p" "$2"; }

# convert CHECKPOINT OPTION...: here, or in a job behind this one.
convert() {
  local reshard=${RESHARD:-} here script=$1 estimate left ranks cores
  shift
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  if [ -z "$reshard" ] && [ -x "$here/../../../bin/reshard" ]; then reshard=$here/../../../bin/reshard; fi
  reshard=${reshard:-reshard}
  if [ -z "${SLURM_JOB_ID:-}" ]; then
    say "no SLURM_JOB_ID: this is for the end of a training job, in its batch script"
    return 2
  fi
  clean "$reshard" submit --dry-run --quiet --no-check --requeue-limit 0 --checkpoint "$@" >"$script" || return
  if [ ! -s "$script" ]; then
    say "nothing to be done"
    return
  fi
  estimate=$(told estimate "$script")
  if [ "$(head -n 1 "$script")" != "#!/bin/bash" ] || [[ ! $estimate =~ ^[0-9]+$ ]]; then
    say "wanted one checkpoint folder and options of a conversion alone: $*"
    return 2
  fi
  left=$(seconds_left)
  # Twice the estimate, as a job of its own would get, and time to end before Slurm ends the job.
  if [ "$left" -lt $((2 * estimate + 60)) ]; then
    say "$left s are left, about $estimate s are needed: a job behind this one converts"
    clean "$reshard" submit --after "$SLURM_JOB_ID" --checkpoint "$@"
    return
  fi
  say "$left s are left, about $estimate s are needed: converts here"
  ranks=$(told '#SBATCH --ntasks-per-node' "$script" | tail -n 1)  # --sbatch stands last, and counts
  cores=${SLURM_CPUS_ON_NODE:-1}
  if [ "$ranks" -gt "$cores" ]; then ranks=$cores; fi
  clean RESHARD_SRUN="--overlap --gres=none --ntasks-per-node=$ranks --nodes=${SLURM_JOB_NUM_NODES:-1}" bash "$script"
}

exit_status=0
if [ "${1:-}" = --exit-status ] && [[ ${2:-} =~ ^[0-9]+$ ]]; then
  exit_status=$2
  shift 2
fi
if script=$(mktemp); then
  trap 'rm -f "$script"' EXIT
  convert "$script" "$@" || say "the conversion ended with exit status $?; training's is $exit_status"
fi
exit "$exit_status"

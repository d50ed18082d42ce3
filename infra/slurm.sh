#!/usr/bin/env bash
# sbatch infra/slurm.sh CONFIG [key.path=value ...]
# A Ray cluster on the nodes of one allocation, and one run on it. Submitted again it goes on: the root stays.
#SBATCH --job-name=sslscale
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:TERM@90 # before the time limit: the run saves its state, and the job is queued again
#SBATCH --output=%x-%j.log
set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: sbatch infra/slurm.sh CONFIG [key.path=value ...]" >&2
  exit 2
fi
root=${SSLSCALE_ROOT:-$PWD/runs} # on a file system that all nodes share
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
export SRUN_CPUS_PER_TASK=$cpus # since Slurm 22.05 srun gives a step one core unless it is told

# Ray's ports run whatever they are sent; without a token anyone on the network could use them
mkdir -p "$root"
token=$(mktemp "$root/.ray-token-XXXXXX")
trap 'rm -f "$token"' EXIT
chmod 600 "$token"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 10000))
on_head=(srun --overlap --nodes=1 --ntasks=1 "--nodelist=$head")

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --port="$port" --dashboard-host=127.0.0.1 \
  --num-cpus="$cpus" --num-gpus="$gpus" --disable-usage-stats &
export RAY_ADDRESS=$head:$port # by name: the nodes find it, on its own it may stand for 127.0.1.1
if [ "${#nodes[@]}" -gt 1 ]; then
  until "${on_head[@]}" ray health-check --address="$RAY_ADDRESS" 2> /dev/null; do
    kill -0 $! # the head's step is still there
    sleep 2
  done
  others=$((${#nodes[@]} - 1))
  srun --nodes="$others" --ntasks="$others" --exclude="$head" \
    ray start --block --address="$RAY_ADDRESS" --num-cpus="$cpus" --num-gpus="$gpus" &
fi

# a training that starts before all are there would begin with fewer workers, or fail
"${on_head[@]}" python - "${#nodes[@]}" << 'EOF'
import sys, time, ray
deadline = time.monotonic() + 300
while True:
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
        break
    except (ConnectionError, RuntimeError):
        if time.monotonic() > deadline:
            raise
        time.sleep(2)
while (alive := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit(f"only {alive} of {sys.argv[1]} nodes came within 300 s: see their output above")
    time.sleep(1)
EOF

"${on_head[@]}" sslscale run "$@" --root "$root" &
run=$!
trap 'kill -TERM "$run"' TERM
code=0
wait "$run" || code=$?
if kill -0 "$run" 2> /dev/null; then # `wait` ended by the signal, the run goes on to save
  code=0
  wait "$run" || code=$?
fi
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

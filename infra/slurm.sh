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
#SBATCH --output=%x-%j.log
set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: sbatch infra/slurm.sh CONFIG [key.path=value ...]" >&2
  exit 2
fi
root=${SSLSCALE_ROOT:-$PWD/runs} # on a file system that all nodes share
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}

# Ray's ports run whatever they are sent; without a token anyone on the network could use them
mkdir -p "$root"
token=$(mktemp "$root/.ray-token-XXXXXX")
trap 'rm -f "$token"' EXIT
chmod 600 "$token"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 \
  --num-cpus="$cpus" --num-gpus="$gpus" --disable-usage-stats &
sleep 20
if [ "${#nodes[@]}" -gt 1 ]; then
  srun --nodes=$((${#nodes[@]} - 1)) --ntasks-per-node=1 --exclude="$head" \
    ray start --block --address="$address:$port" --num-cpus="$cpus" --num-gpus="$gpus" &
fi
sleep 20

RAY_ADDRESS=$address:$port srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  sslscale run "$@" --root "$root"

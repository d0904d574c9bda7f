#!/usr/bin/env bash
# One experiment as one job of a cluster: a clone of its own, a cache that all share, the result pushed back.
#
#   tools/job.sh REPOSITORY CACHE NAME [-S section.key=value]...
#
# REPOSITORY is what git clones and may be pushed to, CACHE a folder that every machine sees. JOB_FOLDER names the project's
# folder in the repository, if it is not the root. Under Slurm:
#
#   sbatch --gpus=1 --cpus-per-task=8 tools/job.sh /shared/vit.git /shared/cache job1 -S train.lr=0.0003
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
repository=$1 cache=$(realpath -m "$2") name=$3
shift 3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet "$repository" "$work/clone"
cd "$work/clone/${JOB_FOLDER:-.}"
if [ ! -f dvc.yaml ]; then
  echo "job: ${JOB_FOLDER:-the root} of $repository has no dvc.yaml; name the project's folder there in JOB_FOLDER" >&2
  exit 1
fi
dvc cache dir --local "$cache"
dvc exp run --name "$name" "$@"
dvc exp push --no-cache origin "$name"

#!/bin/sh
# deploy.sh [process|docker [FILE]]: makes a work pool with its queues on the server at PREFECT_API_URL, and then every
# deployment that FILE (by default prefect.yaml) names. Runs get the variables of this shell that FILE names. The script
# may be run again.
set -eu
: "${PREFECT_API_URL:?is not set}" "${RETRAIN_STORE:?is not set}" "${MLFLOW_TRACKING_URI:?is not set}"
export RETRAIN_POOL="${1:-process}"
file="${2:-$(dirname "$0")/prefect.yaml}"
prefect --no-prompt work-pool create "$RETRAIN_POOL" --type "$RETRAIN_POOL" --overwrite
prefect work-pool set-concurrency-limit "$RETRAIN_POOL" "${RUNS_AT_ONCE:-2}"  # one night, and one backfill with its dates
for queue in nightly:1 backfill:2; do
    name="${queue%:*}"
    prefect work-queue inspect "$name" --pool "$RETRAIN_POOL" >/dev/null 2>&1 ||
        prefect work-queue create "$name" --pool "$RETRAIN_POOL" --priority "${queue#*:}"
done
prefect --no-prompt deploy --all --prefect-file "$file"

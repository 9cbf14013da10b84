#!/bin/sh
# Starts the sandbox container. Its server listens on a Unix socket in the directory given, which the stage mounts.
#   images/sandbox/run.sh SOCKET_DIR [IMAGE] [MEMORY_MB] [PROGRAMS]
# Namespaces are refused in a container, so its own bounds stand in: no network, read-only root, no capabilities,
# memory and process limits, and one size-limited tmpfs for each program that runs at the same time.
set -eu
directory=$1
image=${2:-tirflow-sandbox}
memory_mb=${3:-4096}
programs=${4:-4}
set -- --network none --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 512 --init
set -- "$@" --user "$(id -u):$(id -g)"
set -- "$@" --memory "${memory_mb}m" --memory-swap "${memory_mb}m" --volume "$directory:/run/sandbox"
scratch=""
number=0
while [ "$number" -lt "$programs" ]; do
    set -- "$@" --tmpfs "/scratch/$number:size=16m,nr_inodes=1k,mode=0700,uid=$(id -u),gid=$(id -g),noexec,nosuid,nodev"
    scratch="$scratch${scratch:+,}\"/scratch/$number\""
    number=$((number + 1))
done
settings="{\"workers\": $((programs / 2)), \"slots\": 2, \"isolation\": \"landlock\", \"scratch_dirs\": [$scratch]}"
exec docker run --rm "$@" "$image" --socket /run/sandbox/socket --settings "${SETTINGS:-$settings}"

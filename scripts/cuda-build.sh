#!/usr/bin/env bash
# Builds and links the server with the feature `cuda` by a real nvcc, without GPU or driver, and starts it: it must say what
# is wrong. What was seen goes to docs/logs/cuda-build.txt (or $1). Takes some 17 CPU minutes from an empty target folder.
#
# CARGO_TARGET_DIR  where it is built (target/cuda-build)
set -euo pipefail
cd "$(dirname "$0")/.."
log=${1:-docs/logs/cuda-build.txt}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/cuda-build} CARGO_TERM_COLOR=never
toolkit=$(scripts/cuda-toolkit.sh)
eval "$toolkit"
program=$CARGO_TARGET_DIR/debug/evotoken

shown() {
    echo "\$ $*"
    "$@" 2>&1 || echo "(exit status $?)"
}

{
    echo "The server built with --features cuda and started without a GPU, $(date -u +%Y-%m-%d)"
    echo
    shown nvcc --version | tail -n 2
    echo "CUDA_COMPUTE_CAP=$CUDA_COMPUTE_CAP"
    echo "\$ cargo build --locked --features cuda --bin evotoken"
    cargo build --locked --features cuda --bin evotoken 2>&1 | tail -n 4
    echo "\$ readelf -d evotoken | grep NEEDED"
    readelf -d "$program" | grep NEEDED | sed 's/^ *[^ ]* *//'
    echo
    echo "Without CUDA's libraries:"
    shown env -u LD_LIBRARY_PATH "$program" --version
    echo
    echo "With stubs in their place, which answer like a machine without a driver:"
    export LD_LIBRARY_PATH=$CUDA_HOME/lib:$CUDA_HOME/lib/stubs
    shown "$program" --version
    for device in cuda:0 cuda:0,cuda:1; do
        shown timeout 60 "$program" --port 0 --device "$device"
    done
    echo "\$ evotoken --port 0 --device auto, ended after ten seconds"
    timeout 10 "$program" --port 0 --device auto 2>&1 | head -n 4 || true
} 2>&1 | sed "s#$program#evotoken#g; s#$CUDA_HOME#\$CUDA_HOME#g; s#$PWD#.#g" | tee "$log"
grep -q 'Finished' "$log"

#!/usr/bin/env bash
# What a GPU does with this code, as a report to paste: golden cases (f32 and bf16), answers alone and in company, steps
# beside the floor of bytes and operations.
#
#   scripts/gpu-check.sh cuda:0 [FLAGS of benches/device.rs, such as --model DIR --weights bf16 --read 3350 --flops 989]
#   FEATURES=flash-attn scripts/gpu-check.sh cuda:0      # with flash-attn: hours of compiling
#   scripts/gpu-check.sh cpu        # the same operations on the CPU, by a debug build: tries this script, not a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-cuda:0}
shift || true
# Cargo's own words are of no use in a report.
export CARGO_TERM_COLOR=never CARGO_TERM_QUIET=true
build=(--locked --profile dev)
case $device in
cuda*) build=(--locked --profile release --features "${FEATURES:-cuda}") ;;
esac

echo "## gpu-check of $device, $(git rev-parse --short=12 HEAD 2>/dev/null || echo 'no commit'), $(date -u +%Y-%m-%d)"
echo
if [ "$device" = cpu ]; then
    echo "On the CPU: this says nothing about a GPU."
else
    nvidia-smi --query-gpu=index,name,driver_version,memory.total,memory.free,compute_cap --format=csv
    nvcc --version | tail -n 2
fi
echo
echo "### Golden cases through the device's tick"
echo
echo '```text'
GOLDEN_DEVICE=$device cargo test "${build[@]}" --test golden -- --nocapture --test-threads 1 2>&1 |
    grep -E '^(test result|test .*FAILED|.*panicked|error|[^ ]+ +[0-9]+ of [0-9]+ cases|.*(Padded|Varlen):)' || failed=1
echo '```'
for weights in f32 bf16; do
    echo
    echo "### Steps and answers of the bundled model, $weights"
    echo
    cargo bench "${build[@]}" --bench device -- --device "$device" --weights "$weights" || failed=1
done
if [ $# -gt 0 ]; then
    echo
    echo "### Steps and answers with $*"
    echo
    cargo bench "${build[@]}" --bench device -- --device "$device" "$@" || failed=1
fi
echo
if [ "${failed:-0}" = 0 ]; then echo "All as claimed."; else
    echo "FAILED: see above."
    exit 1
fi

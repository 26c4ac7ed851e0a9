#!/usr/bin/env bash
# `cargo check` (or $CARGO_SUB, such as clippy) with the feature `cuda` on a machine without any CUDA toolkit; nothing is
# fetched. A stand-in for nvcc answers the build scripts and makes empty kernels.
#
#   CARGO_SUB=clippy scripts/cuda-typecheck.sh --all-targets --locked -- -D warnings
#
# What is built so can be checked but never run, so it has a target folder of its own.
set -euo pipefail
target=${CARGO_TARGET_DIR:-target}/cuda-typecheck
mkdir -p "$target/bin"
target=$(cd "$target" && pwd)
cat > "$target/bin/nvcc.new" <<'NVCC'
#!/usr/bin/env bash
case " $* " in
*" --version "*)
    printf 'nvcc: stand-in\n\n\nCuda compilation tools, release 13.0, V13.0.0\n'
    exit
    ;;
*" --list-gpu-"*)
    printf 'sm_80\nsm_90\n'
    exit
    ;;
esac
previous='' folder='' ptx=''
for argument; do
    case $previous in
    -o) : > "$argument" ;;
    --output-directory) folder=$argument ;;
    esac
    case $argument in
    --ptx) ptx=1 ;;
    *.cu)
        name=${argument##*/}
        if [ -n "$ptx" ]; then : > "$folder/${name%.cu}.ptx"; fi
        ;;
    esac
    previous=$argument
done
NVCC
# Build scripts run again when their compiler is newer.
if ! cmp -s "$target/bin/nvcc.new" "$target/bin/nvcc"; then
    mv "$target/bin/nvcc.new" "$target/bin/nvcc"
else
    rm "$target/bin/nvcc.new"
fi
chmod +x "$target/bin/nvcc"
exec env -u CUDA_HOME -u CUDA_PATH -u NVCC PATH="$target/bin:$PATH" CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" \
    CARGO_TARGET_DIR="$target" cargo "${CARGO_SUB:-check}" --features cuda "$@"

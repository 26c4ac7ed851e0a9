#!/usr/bin/env bash
# `cargo check` (or $CARGO_SUB, such as clippy) with the features `cuda` and `flash-attn` on a machine without any CUDA toolkit;
# nothing but crates is fetched. A stand-in for nvcc answers the build scripts and makes empty kernels, an empty folder stands
# in for CUTLASS.
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
# What cudaforge takes for the checkout of CUTLASS that candle-flash-attn names.
commit=$(cargo metadata --format-version 1 --locked --features flash-attn | python3 -c '
import json, pathlib, re, sys
paths = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "candle-flash-attn"]
build = pathlib.Path(paths[0]).parent / "build.rs"
print(re.search(r"CUTLASS_COMMIT: &str = \"([0-9a-f]{40})\"", build.read_text())[1])')
cutlass=$target/cudaforge/git/checkouts/cutlass-${commit:0:16}
if [ ! -d "$cutlass/include" ]; then
    git init -q "$cutlass"
    echo "$commit" > "$cutlass/.git/HEAD"
    mkdir "$cutlass/include"
fi
exec env -u CUDA_HOME -u CUDA_PATH -u NVCC PATH="$target/bin:$PATH" CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" \
    CUDAFORGE_HOME="$target/cudaforge" CARGO_TARGET_DIR="$target" cargo "${CARGO_SUB:-check}" --features flash-attn "$@"

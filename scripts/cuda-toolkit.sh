#!/usr/bin/env bash
# A CUDA 13.0 toolkit that is enough to build and link the feature `cuda` on a machine without GPU, driver or NVIDIA's
# packages: the compiler and its headers are PyPI wheels (104 MB), the libraries that are only linked against are stubs.
# Does nothing when all is there.
#
#   eval "$(scripts/cuda-toolkit.sh)"        # prints exports; what it does goes to standard error
#   cargo build --release --features cuda
#
# CUDA_TOOLKIT_DIR  where it goes (~/.cache/cuda-13.0)
# CUDA_COMPUTE_CAP  80 Ampere, 89 Ada, 90 Hopper, 100 or 120 Blackwell (90); a build is for this one
# CUDA_REAL_LIBS=1  the real cuBLAS, cuRAND and NVRTC (570 MB more) instead of stubs
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${CUDA_TOOLKIT_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/cuda-13.0}
# 13.0 and not newer: candle's kernels are PTX, which the GPU's driver compiles, and a driver takes none that is newer than
# itself (the 580 series stands at CUDA 13.0). cudarc 0.19.10 knows toolkits up to 13.4.
wheels=(
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
)
# cudarc's module, the library's name, its version.
stubs=(driver:cuda:1 cublas:cublas:13 cublaslt:cublasLt:13 curand:curand:10 nvrtc:nvrtc:13)
if [ "${CUDA_REAL_LIBS:-0}" = 1 ]; then
    wheels+=(nvidia-cublas==13.1.2.11 nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88)
fi
home=$folder/nvidia/cu13

if [ "$(cat "$folder/.wheels" 2>/dev/null)" != "${wheels[*]}" ]; then
    echo "fetching the CUDA 13.0 compiler from PyPI into $folder" >&2
    rm -rf "$folder" "$folder.part"
    mkdir -p "$(dirname "$folder")"
    python3 -m pip install -q --no-deps --no-compile --only-binary=:all: --disable-pip-version-check \
        --root-user-action=ignore --target "$folder.part" "${wheels[@]}" >&2
    mv "$folder.part" "$folder"
    # nvcc looks for lib64, and linkers for names without a version.
    ln -s lib "$home/lib64"
    for library in "$home"/lib/*.so.*; do
        name=${library##*/}
        case $name in
        *alt* | *builtins*) ;;
        *) ln -sf "$name" "${library%%.so.*}.so" ;;
        esac
    done
    echo "${wheels[*]}" > "$folder/.wheels"
fi

# A stub has every function that cudarc declares. It returns 34: CUDA_ERROR_STUB_LIBRARY.
cudarc=$(cargo metadata --format-version 1 --locked --features cuda | python3 -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "cudarc":
        print(os.path.dirname(package["manifest_path"]))')
[ -n "$cudarc" ] || {
    echo "cudarc is not among the dependencies" >&2
    exit 1
}
if [ "$(cat "$home/lib/stubs/.from" 2>/dev/null)" != "$cudarc" ]; then
    mkdir -p "$home/lib/stubs"
    for stub in "${stubs[@]}"; do
        IFS=: read -r module name version <<< "$stub"
        grep -A1 'extern "C" {' "$cudarc/src/$module/sys/mod.rs" | grep -oE 'fn [A-Za-z0-9_]+' | sort -u |
            awk '{ print "int " $2 "(void) { return 34; }" }' |
            cc -x c - -shared -fPIC -Wl,-soname,"lib$name.so.$version" -o "$home/lib/stubs/lib$name.so.$version"
        ln -sf "lib$name.so.$version" "$home/lib/stubs/lib$name.so"
    done
    echo "$cudarc" > "$home/lib/stubs/.from"
fi

"$home/bin/nvcc" --version > /dev/null
cat << EXPORTS
export CUDA_HOME='$home' CUDA_PATH='$home' CUDA_COMPUTE_CAP='${CUDA_COMPUTE_CAP:-90}'
export PATH='$home/bin':"\$PATH"
EXPORTS

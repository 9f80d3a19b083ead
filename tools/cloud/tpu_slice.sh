#!/bin/bash
# A training on a slice of Cloud TPU: rented, set up, run on all its hosts, given back.
#     export TPU_NAME=histojax TPU_TYPE=v5p-8 TPU_ZONE=us-east5-a
#     tools/cloud/tpu_slice.sh create
#     tools/cloud/tpu_slice.sh install                 this checkout, in an environment of its own
#     tools/cloud/tpu_slice.sh run histojax train --config configs/tcga_vits14.py --workdir /runs/tcga ...
#     tools/cloud/tpu_slice.sh delete
# Slices of several hosts (v5p-16 and larger) need one work folder that all hosts see: mount it (Filestore) by
#     tools/cloud/tpu_slice.sh run sudo mount -t nfs SERVER:/runs /runs
# The same `run histojax train ...` goes on after a preemption. Set SPOT=1 to rent what may be taken away.
set -euo pipefail
: "${TPU_NAME:?the name of the slice}" "${TPU_ZONE:?its zone}"
on_all() { gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$TPU_ZONE" --worker=all --command="$1"; }
case "${1:-}" in
create)
    : "${TPU_TYPE:?v5p-8, v5litepod-8, v6e-8 ...}"
    case "$TPU_TYPE" in # images by generation
    v5p-*) version=v2-alpha-tpuv5 ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) echo "TPU_TYPE=$TPU_TYPE: expected v5p-N, v5litepod-N or v6e-N" >&2 && exit 2 ;;
    esac
    gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" --zone="$TPU_ZONE" \
        --accelerator-type="$TPU_TYPE" --runtime-version="$version" ${SPOT:+--spot}
    echo "gcloud compute tpus queued-resources describe $TPU_NAME --zone=$TPU_ZONE says when it is ACTIVE"
    ;;
install)
    archive=$(mktemp --suffix=.tar.gz)
    git archive --format=tar.gz -o "$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:histojax.tar.gz" --zone="$TPU_ZONE" --worker=all
    rm "$archive"
    on_all 'mkdir -p histojax && tar xzf histojax.tar.gz -C histojax && (command -v ~/.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh) && ~/.local/bin/uv venv --clear --python 3.12 venv && ~/.local/bin/uv pip install --python venv "./histojax[tpu]"'
    ;;
run)
    shift
    on_all "cd histojax && PATH=\$HOME/venv/bin:\$PATH $(printf '%q ' "$@")"
    ;;
delete) gcloud compute tpus queued-resources delete "$TPU_NAME" --zone="$TPU_ZONE" --force ;;
*) sed -n '2,10p' "$0" >&2 && exit 2 ;;
esac

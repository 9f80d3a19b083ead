#!/usr/bin/env bash
# All benchmarks, and the page tools/BENCHMARKS.md of what they print. About 25 minutes on two quiet cores.
#
#   pip install '.[bench]' && tools/bench_all.sh            ours and PyTorch's, in turns
#   tools/bench_all.sh --quick                              tiny cases, a few minutes: do the tools work?
#   tools/bench_all.sh --out PAGE.md --lines LINES.jsonl    write them elsewhere (lines: default, a temporary file)
#   PLANS=plans.jsonl tools/bench_all.sh                    with lines of tools/bench_plans.py
#   PYTHON=.venv/bin/python tools/bench_all.sh              another interpreter
#
# Without PyTorch the peers that need it are left out. Nothing else should run: PyTorch's threads wait actively, and on
# a busy machine their CPU seconds count the waiting. Exit code 1 if a benchmark failed; the page names it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python} quick="" out=tools/BENCHMARKS.md lines=""
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=--quick; shift ;;
    --out) out=${2:?--out needs a file}; shift 2 ;;
    --lines) lines=${2:?--lines needs a file}; shift 2 ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
[ -n "$lines" ] || lines=$scratch/lines.jsonl
: > "$lines" || exit 2
export JAX_PLATFORMS=cpu HISTOJAX_CACHE=$scratch/cache  # compiled programs of this run alone
unset JAX_COMPILATION_CACHE_DIR
peer=--peer
if ! "$python" -c 'import torch, torchvision, timm' 2> /dev/null; then
  echo "bench_all: PyTorch, torchvision or timm is not installed: ours alone, where they are the peer" >&2
  peer=""
fi
failures=0

run() {  # run NAME WORD...: tools/bench_NAME.py, its lines kept, its failure noted
  local began=$SECONDS code name=$1
  shift
  echo "== bench_$name $*" >&2
  "$python" "tools/bench_$name.py" "$@" 2> "$scratch/said" | tee -a "$lines"
  code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ]; then
    failures=$((failures + 1))
    tail -n 3 "$scratch/said" >&2
    printf '{"bench": "%s", "case": "bench_%s %s", "failed": %d}\n' "$name" "$name" "$*" "$code" >> "$lines"
  fi
  echo "   $((SECONDS - began)) s" >&2
}

run common
if [ -n "$quick" ]; then
  run crops --batch 2 --rounds 2 $peer
  run step --batch 2 --size vit_tiny --prototypes 4096 --local-crops 2 --steps 1 --rounds 1 $peer
  run extract vits14 --rounds 1 --batch 4 --batches 1 $peer
  run tiles --peer --rounds 1 --tiles 50
  run store --tiles 400
  run probes --peer --rows 3000 --features 64 --queries 300
  run mil --bags 2 --shortest 100 --longest 500 $peer
  run data --tiles 8 --rounds 1 --rounds-of-workers 1 --batches 4 --workers 0 1 $peer
  run start --case help features --rounds 1 $peer
  run growth --quick --steps 1 --series prototypes
else
  run crops $peer
  run crops --px 224 $peer
  run step --steps 3 $peer ${peer:+--autocast}
  run step --steps 3 --local-crops 2 --rounds 1 $peer
  run step --steps 3 --batch 4 --rounds 1 $peer
  run step --steps 2 --batch 2 --size vit_base --rounds 1 $peer
  run extract --rounds 2 $peer
  run tiles --peer
  run store
  run store --index 200000 --slides 200
  run probes --peer --features 384
  run mil $peer
  run data $peer
  run start --rounds 1 $peer
  run growth
fi
"$python" tools/bench_page.py "$lines" ${PLANS:+"$PLANS"} --out "$out" $quick || exit 2
echo "bench_all: $out, $((SECONDS / 60)) min" >&2
[ "$failures" -eq 0 ]

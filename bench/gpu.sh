#!/usr/bin/env bash
# What to do with a GPU that is there for some minutes: one command each, without network.
#
#   bash bench/gpu.sh PLAN [key=value ...]    # overrides of src.train and src.evaluate
#
#   check     the quick tests, equal scores on CPU and GPU, precisions, compiled steps, NCCL
#   speed     training, selection and benchmark, over plain loops
#   resnet18, vgg11, wrn28_10    the paper's recipe with a selection in each epoch, every detector
#
# Variables: IMAGES, the folder of cifar10.tar.xz and ood32.tar.xz, which hold images as
# data=cifar10_folder wants them (default: images); OUT, the folder of the results, at most 8 files
# of 15 MiB (default: logs/gpu); LIMIT, seconds after which a plan must have ended (default: 560);
# SMALL, overrides that make a plan short enough for a CPU.
set -uo pipefail
cd "$(dirname "$0")/.."
plan=${1:?expected a plan: check, speed, resnet18, vgg11 or wrn28_10}
shift
overrides=("$@")
OUT=${OUT:-logs/gpu}
IMAGES=${IMAGES:-images}
LIMIT=${LIMIT:-560}
PYTHON=${PYTHON:-python3}
runs=$(mktemp -d)
export PYTHONUNBUFFERED=1 WANDB_MODE=offline
mkdir -p "$OUT"

left() { echo $((LIMIT - SECONDS)); }

# Runs a command for at most so many seconds, and says how long it took.
step() {
  local most=$1 start=$SECONDS code
  shift
  [ "$most" -lt "$(left)" ] || most=$(left)
  [ "$most" -gt 5 ] || { echo "== no time left for: $*"; return 1; }
  echo "== $*"
  timeout --signal=INT --kill-after=10 "$most" "$@"
  code=$?
  echo "== exit $code after $((SECONDS - start)) s, at $SECONDS s"
  return $code
}

unpack() {
  for name in cifar10 ood32; do
    [ -d "data/$name" ] || $PYTHON -c "
import tarfile
tarfile.open('$IMAGES/$name.tar.xz').extractall('data/$name', filter='data')" || exit 1
  done
  ls data/*
}

train="$PYTHON -m src.train data=cifar10_folder data_dir=data logger=csv"
evaluate="$PYTHON -m src.evaluate data_dir=data logger=csv"
fast="trainer.precision=bf16-mixed channels_last=true"

check() {
  step 150 $PYTHON -m pytest -q -p no:cacheprovider -n 8 --dist worksteal -m "not slow and not ddp" \
    --continue-on-collection-errors --tb=short > "$OUT/tests.log" 2>&1
  tail -n 40 "$OUT/tests.log"
  unpack > /dev/null
  few="data.train.sample=12000 data.test.sample=1000 data.ood.svhn.sample=500 data.ood.textures.sample=500
    data.ood.tiny_imagenet.sample=500 data.ood.scenes_resize.sample=500 data.ood.scenes_crop.sample=500"
  weights="checkpoint=weights/wrn16_4_cifar10_short.pt data=cifar10_folder detectors=all channels_last=false"
  [ -f weights/wrn16_4_cifar10_short.pt ] && {
    step 100 $evaluate $weights $few trainer=default hydra.run.dir="$runs/gpu" "${overrides[@]}" | tail -n 3
    step 100 $evaluate $weights $few trainer=cpu hydra.run.dir="$runs/cpu" "${overrides[@]}" | tail -n 3
    step 20 $PYTHON -m bench.equal "$runs/cpu" "$runs/gpu"
  }
  short="experiment=resnet18_cifar10 benchmark=false trainer.max_epochs=2 $few"
  step 60 $train $short $fast compiled=true hydra.run.dir="$runs/compiled" "${overrides[@]}"
  step 60 $train $short trainer=ddp trainer.devices=1 hydra.run.dir="$runs/nccl" "${overrides[@]}"
  step 60 $train $short trainer.deterministic=true hydra.run.dir="$runs/fixed" "${overrides[@]}"
}

speed() {
  for options in "" "--precision bf16-mixed --channels-last" "--precision bf16-mixed --channels-last --compiled"; do
    step 60 $PYTHON -m bench.training --images "${COUNT:-45056}" --repeats 3 $options
  done
  step 60 $PYTHON -m bench.block_selection --images "${COUNT:-50000}" --batch 1000
  step 60 $PYTHON -m bench.benchmark --images "${COUNT:-50000}" --batch 1000
}

recipe() {
  unpack
  run="$runs/$1"
  step $((LIMIT - 30)) $train experiment="$1_cifar10" $fast detectors=quick hydra.run.dir="$run" \
    "${overrides[@]}"
  $PYTHON -m src.release "$run" --output "$runs/release" && {
    split -b 15M -d "$runs/release/$1_cifar10.pt" "$OUT/$1_cifar10.pt."
    cp "$runs/release/$1_cifar10.md" "$OUT"
  }
  keep "$1" "$run"
  step 600 $evaluate checkpoint="$run/checkpoints/last.ckpt" detectors=all hydra.run.dir="$runs/$1_all"
  keep "$1_all" "$runs/$1_all"
}

# Keeps all of a run but its checkpoints and what an interrupted benchmark needs.
keep() {
  [ -d "$2" ] && tar -C "$2" --exclude=./checkpoints --exclude=./benchmark -cJf "$OUT/$1.tar.xz" .
}

{
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  $PYTHON -c "import sys, torch; print(sys.version, torch.__version__, torch.cuda.is_available())"
  case $plan in
    check | speed) $plan ;;
    resnet18 | vgg11 | wrn28_10) recipe "$plan" ;;
    *) echo "expected check, speed, resnet18, vgg11 or wrn28_10, got $plan" && exit 2 ;;
  esac
  echo "== $plan ended at $SECONDS s"
} 2>&1 | tee "$OUT/$plan.log"
rm -rf "$runs"

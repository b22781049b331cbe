#!/usr/bin/env bash
# What to do with a GPU that is there for some minutes: one command each, without network.
#
#   bash bench/gpu.sh PLAN [key=value ...]    # overrides of src.train and src.evaluate
#
#   check     the quick tests, equal scores on CPU and GPU, precisions, compiled steps, NCCL
#   speed     training, selection and benchmark, over plain loops, and each part over its floor
#   resnet18, vgg11, wrn28_10    the paper's recipe with a selection in each epoch, every detector
#
# Variables: IMAGES, the folder of cifar10.tar.xz and ood32.tar.xz, which hold images as
# data=cifar10_folder wants them (default: images); OUT, the folder of the results, at most 8 files
# of 15 MiB, larger ones in parts (default: logs/gpu); LIMIT, seconds after which a plan must have
# ended (default: 560).
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
    $PYTHON -c "
import tarfile
tarfile.open('$IMAGES/$name.tar.xz').extractall('$runs/data/$name', filter='data')" || return 1
  done
}

cache="data.cache_dir=$runs/cache"
train="$PYTHON -m src.train data=cifar10_folder data_dir=$runs/data $cache logger=csv"
evaluate="$PYTHON -m src.evaluate data=cifar10_folder data_dir=$runs/data $cache logger=csv"
few="data.train.sample=3000 data.validation_size=1000 data.test.sample=500 data.ood.svhn.sample=100
  data.ood.textures.sample=100 data.ood.tiny_imagenet.sample=100 data.ood.scenes_resize.sample=100
  data.ood.scenes_crop.sample=100"
fast="trainer.precision=bf16-mixed channels_last=true"

check() {
  step 120 $PYTHON -m pytest -q -p no:cacheprovider -n 8 --dist worksteal -m "not slow and not ddp" \
    --continue-on-collection-errors --tb=short > "$OUT/tests.log" 2>&1
  tail -n 10 "$OUT/tests.log"
  equal
  local short="experiment=resnet18_cifar10 benchmark=false trainer.max_epochs=2 $few"
  step 60 $train $short $fast compiled=true hydra.run.dir="$runs/compiled" "${overrides[@]}"
  step 60 $train $short trainer=ddp trainer.devices=1 hydra.run.dir="$runs/nccl" "${overrides[@]}"
  step 60 $train $short trainer.deterministic=true hydra.run.dir="$runs/fixed" "${overrides[@]}"
}

# The scores of every detector, on the CPU and on the GPU.
equal() {
  local weights="checkpoint=weights/wrn16_4_cifar10_short.pt detectors=all"
  step 90 $evaluate $weights $few trainer=default hydra.run.dir="$runs/gpu" | tail -n 1
  step 240 $evaluate $weights $few trainer=cpu hydra.run.dir="$runs/cpu" | tail -n 1
  step 20 $PYTHON -m bench.equal "$runs/cpu" "$runs/gpu"
}

speed() {
  for options in "" "--precision bf16-mixed --channels-last" "--precision bf16-mixed --channels-last --compiled"; do
    step 60 $PYTHON -m bench.training --images "${COUNT:-45056}" --repeats 3 $options
  done
  step 60 $PYTHON -m bench.block_selection --images "${COUNT:-50000}" --batch 1000
  step 60 $PYTHON -m bench.benchmark --images "${COUNT:-50000}" --batch 1000
  step 180 $PYTHON -m bench.limits --images "${COUNT:-10000}" --limit 120 --output "$OUT/limits.json"
}

recipe() {
  local run="$runs/$1"
  step $((LIMIT - 60)) $train experiment="$1_cifar10" $fast compiled=true detectors=quick \
    hydra.run.dir="$run" "${overrides[@]}"
  $PYTHON -m src.release "$run" --output "$runs/release" && {
    split -b 15M -d "$runs/release/$1_cifar10.pt" "$OUT/$1_cifar10.pt."
    cp "$runs/release/$1_cifar10.md" "$OUT"
  }
  keep "$1" "$run" --exclude=./benchmark
  step $(($(left) - 20)) $evaluate checkpoint="$runs/release/$1_cifar10.pt" detectors=all \
    hydra.run.dir="$runs/all" "${overrides[@]}"
  keep "$1_all" "$runs/all"  # with what an interrupted benchmark needs to go on elsewhere
}

# Keeps a run without its checkpoints.
keep() {
  local name=$1 run=$2
  shift 2
  [ -d "$run" ] && tar -C "$run" --exclude=./checkpoints "$@" -cJ . |
    split -b 15M -d - "$OUT/$name.tar.xz."
}

{
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  $PYTHON -c "import sys, torch; print(sys.version, torch.__version__, torch.cuda.is_available())"
  case $plan in
    check | speed) unpack && $plan ;;
    resnet18 | vgg11 | wrn28_10) unpack && recipe "$plan" ;;
    *) echo "expected check, speed, resnet18, vgg11 or wrn28_10, got $plan" && exit 2 ;;
  esac
  echo "== $plan ended at $SECONDS s"
} 2>&1 | tee "$OUT/$plan.log"
rm -rf "$runs"

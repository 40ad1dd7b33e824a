#!/usr/bin/env bash
# Several clips from one file of jobs, as a script would make them: check, render, render what is missing, look at the end.
#
#   scripts/batch_example.sh [FOLDER] [OPTION...]     such as out/example --model ltx-2.3-distilled --seeds 1-4
set -euo pipefail
folder=${1:-out/batch-example}
options=("${@:2}")
mkdir -p "$folder"

cat >"$folder/scenes.yaml" <<'JOBS'
defaults:
  preset: smoke # the built-in model, for a few seconds; leave it out with a real one
jobs:
  lamp: a lamp blinks on the left, a low hum
  ball:
    prompt: a red ball rolls over wooden boards
    video_st: 2.5
JOBS

batch() {
    ltx2 batch "$folder/scenes.yaml" -o "$folder/clips/" --seed 1 "${options[@]}" "$@"
}

batch --plan >"$folder/plan.txt" # exit 2, with every mistake in the file, before anything is rendered
status=0
batch --quiet >"$folder/made.txt" || status=$?
case $status in
0) echo "all clips are made" ;;
9) echo "some clips failed; the same command renders what is missing" && exit 9 ;;
130 | 143) echo "stopped; the same command goes on" && exit "$status" ;;
*) exit "$status" ;;
esac

while IFS= read -r clip; do
    echo "$(wc -c <"$clip") bytes: ${clip##*/}"
done <"$folder/made.txt"

#!/usr/bin/env bash
# Trains on the new events of a log every night, and serves the model unless it is worse than the served one.
#
#     examples/nightly_job.sh 'logs/*.csv' work exports/shop my-config.json
#
#     1  the log: a path, or a glob in quotes; it holds all events, old and new
#     2  a directory for this job: work/nights/DATE has the records and the model of a night, and work/latest is a link to
#        the night whose model is served
#     3  the directory that TF Serving reads
#     4  the configuration: a JSON file, or the name of a recipe
#     5  optional: one step only: records, training, evaluation, publication, scores or promotion
#
# Environment: NIGHT (the date of today), DAYS of events before the last night that a night trains on again (14),
# TIME_LIMIT_MINUTES of training (60), MAX_REGRESSION (0.02), KEEP_NIGHTS on disk (7), POLL_SECONDS of the server (1),
# RECOMMENDATIONS (a directory: every user's recommendations are written to RECOMMENDATIONS/DATE), LIMITS (a file for
# --limits of recommend.py).
#
# The first night trains on the whole log. Each later night starts from the model that is served, and trains only on the
# windows that have an event since DAYS before that model's night. Each user's last two events are held out for
# evaluation, so they are trained on only after newer ones have come: DAYS should be as long as that takes.
#
# With RECOMMENDATIONS, a model is first published as the canary. It recommends to all users, and is served only if the
# numbers of that, also beside those of the last night, are within LIMITS; otherwise it is withdrawn. The first model is
# served at once, and has no limits. Without RECOMMENDATIONS, every model is served at once.
#
# The job and each step are safe to run twice, also after a kill. A second run of the same night resumes where the first
# one stopped, and does nothing once the model is served. A second run at the same time is refused. After a failure, the
# served version stays. The exit code is that of the command that failed: 2 is for a refusal, which another run repeats.
set -euo pipefail

steps=(records training evaluation publication scores promotion)
if [ $# -eq 5 ] && [[ " ${steps[*]} " == *" $5 "* ]]; then
  steps=("$5")
elif [ $# -ne 4 ]; then
  echo "usage: nightly_job.sh LOG WORK_DIR EXPORT_DIR CONFIG [STEP], where STEP is one of: ${steps[*]}" >&2
  exit 2
fi
log=$1 work=$2 export_dir=$3 config=$4
night=${NIGHT:-$(date +%F)}
here=$work/nights/$night
if [[ ! $night =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]]; then
  echo "NIGHT must be a date, such as 2026-11-29. Received: $night" >&2
  exit 2
fi

# In a checkout the commands are scripts; `pip install .` gives console commands.
if command -v bert4rec-train > /dev/null; then
  make_tfrecords=(bert4rec-make-tfrecords) train=(bert4rec-train) evaluate=(bert4rec-evaluate) export=(bert4rec-export)
  recommend=(bert4rec-recommend)
else
  python=${PYTHON:-python} checkout=$(cd "$(dirname "$0")/.." && pwd)
  make_tfrecords=("$python" "$checkout/pipelines/make_tfrecords.py") train=("$python" "$checkout/train.py")
  evaluate=("$python" "$checkout/evaluate.py") export=("$python" "$checkout/export.py")
  recommend=("$python" "$checkout/recommend.py")
fi
at_server=(--export_dir="$export_dir" --poll_seconds="${POLL_SECONDS:-1}")

say() { echo "nightly_job $night: $*"; }
stop() { # CODE MESSAGE
  say "${@:2}" >&2
  exit "$1"
}

# The version that has a label in models.config; empty if there is none.
version_of() {
  [ ! -e "$export_dir/models.config" ] || sed -n "s/.*key: \"$1\" value: \([0-9]*\).*/\1/p" "$export_dir/models.config"
}

# Files and links are replaced by renaming, so that they are always whole.
write() { # FILE TEXT
  echo "$2" > "$1.tmp"
  mv "$1.tmp" "$1"
}
point_latest_to() {
  ln -sfn "nights/$1" "$work/.latest"
  mv -T "$work/.latest" "$work/latest"
}

# After a rollback, the next night starts from the model that is served again.
follow_rollback() {
  local served old
  served=$(version_of stable)
  if [ ! -e "$work/latest" ] || [ "$(cat "$work/latest/version" || true)" = "$served" ]; then return; fi
  for old in "$work"/nights/*; do
    if [ -e "$old/version" ] && [ "$(cat "$old/version")" = "$served" ]; then
      point_latest_to "$(basename "$old")"
      say "version $served is served, so the night starts from the model of $(basename "$old")"
      return
    fi
  done
  rm "$work/latest"
  say "version ${served:-none} is served, which no night here published, so the night trains on the whole log"
}

# A finished directory of the same log and configuration is left as it is.
records() {
  local since=()
  if [ -e "$work/latest" ]; then
    since=(--train_since="$(date -d "$(basename "$(readlink "$work/latest")") - ${DAYS:-14} days" +%F)")
  fi
  "${make_tfrecords[@]}" --input="$log" --config="$config" --output_dir="$here/data" ${since[@]+"${since[@]}"} ||
    stop $? "the records were not built; the served version stays. If the log or the served version changed since the" \
      "last run of this night, remove $here and run the job again. If the log is younger than DAYS, set DAYS lower"
}

# A run that was stopped is resumed.
training() {
  local warm_start=()
  [ ! -e "$work/latest" ] || warm_start=(--warm_start_from="$work/latest/model")
  "${train[@]}" --data_dir="$here/data" --model_dir="$here/model" --config="$config" \
    --time_limit_minutes="${TIME_LIMIT_MINUTES:-60}" ${warm_start[@]+"${warm_start[@]}"} ||
    stop $? "the training did not finish; the served version stays. Run the job again to resume. If the configuration of" \
      "the model changed, remove the link $work/latest: the next run then trains on the whole log"
}

# For the record. The model is compared with the served one below, so a failure here stops nothing.
evaluation() {
  "${evaluate[@]}" --model_dir="$here/model" --data_dir="$here/data" --output="$here/metrics.json" \
    --report="$here/report.html" ||
    say "the evaluation failed; the job continues without $here/metrics.json" >&2
}

# Refuses a model that ranks the validation users significantly worse than the served one.
publication() {
  local label=stable keep=(--keep_versions=3)
  [ ! -e "$here/published" ] || return 0
  if [ -n "${RECOMMENDATIONS:-}" ]; then
    rm -rf "${RECOMMENDATIONS:?}/$night" # of a canary of this night that was withdrawn
    if [ -n "$(version_of stable)" ]; then label=canary keep=(); fi
  fi
  "${export[@]}" --model_dir="$here/model" "${at_server[@]}" --data_dir="$here/data" --label="$label" \
    --max_regression="${MAX_REGRESSION:-0.02}" ${keep[@]+"${keep[@]}"} ||
    stop $? "the model was not published; the served version stays, and the next night starts from its model"
  write "$here/published" "$(version_of "$label")"
}

# The canary must be that of this night: by now, it may be that of another one.
check_canary() {
  local number=
  [ -e "$here/published" ] || stop 2 "there is no published version; run the step publication first"
  [ "$(cat "$here/published")" != "$(version_of stable)" ] || return 0
  [ ! -e "$export_dir/.canary" ] || read -r number _ < "$export_dir/.canary"
  [ "$(cat "$here/published")" != "$number" ] || return 0
  rm "$here/published"
  stop 1 "version $number took the place of this night's canary; run the job again to publish it again"
}

# Recommendations for every user by the new version, compared with the last finished night.
scores() {
  local previous version compared=() code=0
  check_canary
  if [ -z "${RECOMMENDATIONS:-}" ] || [ -e "$RECOMMENDATIONS/$night/_SUCCESS" ]; then return; fi
  mkdir -p "$RECOMMENDATIONS"
  previous=$(find "$RECOMMENDATIONS" -mindepth 2 -maxdepth 2 -name _SUCCESS -not -path "*/$night/*" | sort | tail -n 1)
  if [ -n "$previous" ]; then compared=(--previous="$(dirname "$previous")" ${LIMITS:+--limits="$LIMITS"}); fi
  version=$(cat "$here/published")
  "${recommend[@]}" --export_dir="$export_dir/$version" --input="$log" --output="$RECOMMENDATIONS/$night" \
    ${compared[@]+"${compared[@]}"} || code=$?
  [ "$code" -ne 0 ] || return 0
  if [ "$version" = "$(version_of stable)" ]; then
    stop "$code" "the model is served, but the recommendations are not finished. Run the job again, or withdraw the" \
      "model with export.py rollback"
  elif [ "$code" -gt 128 ]; then
    stop "$code" "the recommendations were interrupted; the served version stays. Run the job again to resume"
  fi
  "${export[@]}" withdraw "${at_server[@]}"
  rm "$here/published"
  stop "$code" "the canary was withdrawn, because its recommendations are not finished or not within the limits; the" \
    "served version stays, and the next night starts from its model"
}

promotion() {
  check_canary
  if [ "$(cat "$here/published")" != "$(version_of stable)" ]; then
    "${export[@]}" promote "${at_server[@]}" --keep_versions=3 ||
      stop $? "the canary was not promoted; the served version stays. Run the job again. If the canary was withdrawn," \
        "remove $here/published before"
  fi
  write "$here/version" "$(version_of stable)"
  point_latest_to "$night"
  # Old nights are removed, except this one.
  find "$work/nights" -mindepth 1 -maxdepth 1 -type d | sort | head -n "-${KEEP_NIGHTS:-7}" | while read -r old; do
    [ "$old" = "$here" ] || rm -rf "$old"
  done
  say "version $(cat "$here/version") is served"
}

mkdir -p "$here"
exec 9> "$work/.lock"
# The processes of a killed run may take a moment to end.
flock --timeout 2 9 || stop 1 "another run is at work in $work; nothing was done"
if [ -e "$here/version" ]; then
  [ "$(cat "$here/version")" != "$(version_of stable)" ] || point_latest_to "$night"
  say "served already, as version $(cat "$here/version"); nothing to do"
  exit 0
fi
follow_rollback
for step in "${steps[@]}"; do "$step"; done

#!/usr/bin/env bash
# Trains on the new events of a log every night, and publishes the model unless it is worse than the served one.
#
#     examples/nightly_job.sh 'logs/*.csv' work exports/shop my-config.json
#
#     1  the log: a path, or a glob in quotes; it holds all events, old and new
#     2  a directory for this job: work/nights/DATE has the records and the model of a night, and work/latest is a link to
#        the last night whose model was published
#     3  the directory that TF Serving reads
#     4  the configuration: a JSON file, or the name of a recipe
#
# Environment: NIGHT (the date of today), DAYS of events that a night trains on (14), TIME_LIMIT_MINUTES of training (60),
# MAX_REGRESSION (0.02), KEEP_NIGHTS on disk (7), RECOMMENDATIONS (a directory: every user's recommendations are written to
# RECOMMENDATIONS/DATE), LIMITS (a file for --limits of recommend.py).
#
# The first night trains on the whole log. Each later night starts from the last published model, and trains only on the
# windows that have an event of the last DAYS. DAYS should reach back further than the last run: each user's last two
# events are held out for evaluation, so they are trained on only after newer ones have come.
#
# The job is safe to run twice. A second run of the same night resumes where the first one stopped, and does nothing once
# the night is published. A second run at the same time is refused. After a failure, the served version stays.
set -euo pipefail

if [ $# -ne 4 ]; then
  echo "usage: nightly_job.sh LOG WORK_DIR EXPORT_DIR CONFIG" >&2
  exit 2
fi
log=$1 work=$2 export_dir=$3 config=$4
night=${NIGHT:-$(date +%F)}
here=$work/nights/$night

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

say() { echo "nightly_job $night: $*"; }
stop() { say "$*" >&2; exit 1; }

# Recommendations for every user, by the version that is served now, compared with the last finished night.
recommend_to_all() {
  [ -n "${RECOMMENDATIONS:-}" ] || return 0
  local previous
  mkdir -p "$RECOMMENDATIONS"
  previous=$(find "$RECOMMENDATIONS" -mindepth 2 -maxdepth 2 -name _SUCCESS -not -path "*/$night/*" | sort | tail -n 1)
  "${recommend[@]}" --export_dir="$export_dir" --input="$log" --output="$RECOMMENDATIONS/$night" \
    ${previous:+--previous="$(dirname "$previous")"} ${LIMITS:+--limits="$LIMITS"} ||
    stop "the model is published, but the recommendations are not finished. Run the job again, or withdraw the model with" \
      "export.py rollback"
}

mkdir -p "$here"
exec 9> "$work/.lock"
flock --nonblock 9 || stop "another run is at work in $work; nothing was done"
if [ "$(readlink "$work/latest" || true)" = "nights/$night" ]; then
  recommend_to_all
  say "published already; nothing to do"
  exit 0
fi

since=() warm_start=()
if [ -e "$work/latest" ]; then
  since=(--train_since="$(date -d "$night - ${DAYS:-14} days" +%F)")
  warm_start=(--warm_start_from="$work/latest/model")
fi

# 1. Records. A finished directory of the same log and configuration is left as it is.
"${make_tfrecords[@]}" --input="$log" --config="$config" --output_dir="$here/data" ${since[@]+"${since[@]}"} ||
  stop "the records were not built; the served version stays. If the log changed since the last run of this night," \
    "remove $here and run the job again. If the log is younger than DAYS, set DAYS lower"

# 2. Training. A run that was stopped is resumed.
"${train[@]}" --data_dir="$here/data" --model_dir="$here/model" --config="$config" \
  --time_limit_minutes="${TIME_LIMIT_MINUTES:-60}" ${warm_start[@]+"${warm_start[@]}"} ||
  stop "the training did not finish; the served version stays. Run the job again to resume. If the configuration of the" \
    "model changed, remove the link $work/latest: the next run then trains on the whole log"

# 3. Evaluation, for the record. The model is compared with the served one below, so a failure here stops nothing.
"${evaluate[@]}" --model_dir="$here/model" --data_dir="$here/data" --output="$here/metrics.json" \
  --report="$here/report.html" ||
  say "the evaluation failed; the job continues without $here/metrics.json" >&2

# 4. Export, unless the model ranks the validation users significantly worse than the served one.
"${export[@]}" --model_dir="$here/model" --export_dir="$export_dir" --data_dir="$here/data" \
  --max_regression="${MAX_REGRESSION:-0.02}" --keep_versions=3 ||
  stop "the model was not published; the served version stays, and the next night starts from the model of the last one"

# 5. The next night starts from this model. A link is replaced by renaming, so that it always leads to a whole model.
ln -sfn "nights/$night" "$work/.latest"
mv -T "$work/.latest" "$work/latest"

# 6. Recommendations for every user.
recommend_to_all

# 7. Old nights are removed, except the one that `latest` leads to.
find "$work/nights" -mindepth 1 -maxdepth 1 -type d | sort | head -n "-${KEEP_NIGHTS:-7}" | while read -r old; do
  [ "$old" = "$here" ] || rm -rf "$old"
done
say "published"

#!/bin/sh
# Hands today's file to the workers, waits, and keeps the report. Run it as often as you like: the reference makes the
# same day's file one batch. docs/schedules.md says what the exit codes mean.
#
#     nightly.sh FOLDER [DAY]
#
# FOLDER has closed-DAY.csv, and closed-DAY.count with its number of customers, written by whoever made the file.
# Where people have tokens: NIGHTLY_AS is the job's name, and EXPUNGE_TOKEN its token.
set -eu
cd "$1"
name="closed-${2:-$(date +%F)}"

exec 9> nightly.lock
flock -n 9 || exit 0 # the one before is still waiting
if [ ! -e "$name.csv" ] || [ ! -e "$name.count" ]; then
    echo "nightly: $name.csv or $name.count is not there" >&2
    exit 2
fi

batch=$(expunge submit "$name.csv" --reference "$name" --confirm "$(cat "$name.count")" ${NIGHTLY_AS:+--as "$NIGHTLY_AS"})
code=0
expunge watch "$batch" --json ${NIGHTLY_AS:+--as "$NIGHTLY_AS"} > "$name.json" || code=$?
case $code in
    0 | 3) expunge report "$batch" --join "$name.csv" --out "$name.report.csv" ${NIGHTLY_AS:+--as "$NIGHTLY_AS"} ;;
esac
exit "$code"

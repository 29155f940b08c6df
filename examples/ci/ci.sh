#!/bin/sh
# CI on nothing but a file tree: for each new commit of BRANCH, oldest first, runs COMMAND in a
# checkout and commits what came of it, with ci.log and ci.verdict, as the branch ci/COMMIT.
# A commit that has a result is not built again.  Kill and restart this at any point.
#
#   dataflow mount state.git /mnt &
#   LIMIT=600 examples/ci/ci.sh /mnt main make test      # LIMIT is seconds a build
#   tail -f /mnt/branch/ci/COMMIT/transactions/build/rw/ci.log
set -u
[ $# -ge 3 ] || { echo "usage: ci.sh MOUNT BRANCH COMMAND..." >&2; exit 2; }
db=$1/branch branch=$2
shift 2

head_of() { cat "$db/$1/head" 2>/dev/null; }
seen() { echo "$1" >"$db/ci/seen/fast-forward"; } 2>/dev/null # not of commits that came by a merge

build() {
    [ -z "$(head_of "ci/$1")" ] || return 0
    commit=$1 t=$db/ci/$1/transactions/build
    shift
    [ ! -d "$t" ] || echo close >"$t/ctl" # of a run that was killed
    mkdir -p "$t" && echo "$commit" >"$t/merge" || return
    (cd "$t/rw" && exec timeout -k 5 "${LIMIT:-600}" "$@") >"$t/rw/ci.log" 2>&1 </dev/null
    case $? in 0) verdict=PASSED ;; 124 | 137) verdict=TIMEOUT ;; *) verdict=FAILED ;; esac
    echo $verdict | tee "$t/rw/ci.verdict" >"$t/msg"
    echo commit >"$t/ctl" && echo "$commit $verdict"
}

mkdir -p "$db/$branch" "$db/ci/seen"
from=$(head_of ci/seen)
[ -n "$from" ] || from=$(head_of "$branch") # the first time CI begins at the present head
[ -z "$from" ] || { seen "$from"; build "$from" "$@"; } || exit 1
while read -r kind _ commit; do # every commit a line, in order, none missing; waits for more
    [ "$kind" = commit ] || continue
    build "$commit" "$@" || exit 1
    seen "$commit"
done <"$db/$branch/log/${from:-all}"
echo "ci: $db is gone" >&2 # mount it and start again: nothing is lost
exit 1

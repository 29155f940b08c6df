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
snapshots=$1/snapshots db=$1/branch branch=$2
shift 2

head_of() { cat "$db/$1/head" 2>/dev/null; }

# Prints the commits of the branch's own line without a result, from where CI began, oldest first.
todo() {
    commit=$1 list=
    while [ -n "$commit" ] && [ -z "$(head_of "ci/$commit")" ]; do
        list="$commit $list"
        [ "$commit" != "$start" ] || break
        commit=$(head -n 1 "$snapshots/$commit/parents")
    done
    echo "$list"
}

build() {
    commit=$1 t=$db/ci/$1/transactions/build
    shift
    [ ! -d "$t" ] || echo close >"$t/ctl" # of a run that was killed
    mkdir -p "$t" && echo "$commit" >"$t/merge" || return
    (cd "$t/rw" && exec timeout -k 5 "${LIMIT:-600}" "$@") >"$t/rw/ci.log" 2>&1 </dev/null
    case $? in 0) verdict=PASSED ;; 124 | 137) verdict=TIMEOUT ;; *) verdict=FAILED ;; esac
    echo $verdict | tee "$t/rw/ci.verdict" >"$t/msg"
    echo commit >"$t/ctl" && echo "$commit $verdict"
}

mkdir -p "$db/$branch" "$db/ci/start"
while read -r head; do # blocks until the branch moves; what lies between is found by its parents
    [ -n "$head" ] || continue
    [ -n "$(head_of ci/start)" ] || echo "$head" >"$db/ci/start/fast-forward"
    start=$(head_of ci/start)
    for commit in $(todo "$head"); do build "$commit" "$@"; done
done <"$db/$branch/head.live"
echo "ci: $db is gone" >&2 # mount it and start again: nothing is lost
exit 1

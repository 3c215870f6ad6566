#!/usr/bin/env bash
# Shows that the tests find faults. Applies each patch of proof/mutants/ to a copy of the tree and runs
# the tests that the patch names. They must fail. A patch starts with:
#
#   # why: what the patch breaks
#   # test: arguments for `cargo test` (several such lines are allowed; every run must fail)
#
# Arguments are the names of patches without their suffix; then only these run.
#
# A patch that does not apply or compile is a failure, and so is a directory without patches. `make test`
# shows that the same tests pass without a patch.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
limit=${KEYWARD_MUTANT_TIMEOUT:-900}

shopt -s nullglob
patches=(proof/mutants/*.patch)
if (($# > 0)); then
    patches=("${@/%/.patch}")
    patches=("${patches[@]/#/proof/mutants/}")
fi
if ((${#patches[@]} == 0)); then
    echo "error: proof/mutants has no patches" >&2
    exit 1
fi

# All mutants share one target directory, so that the dependencies are built once.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/mutants}
export CARGO_INCREMENTAL=1
export KEYWARD_TEST_PYTHON=${KEYWARD_TEST_PYTHON:-$root/target/venv/bin/python}
# git must not find a repository above the copy, because it would then skip the whole patch.
export GIT_CEILING_DIRECTORIES=$CARGO_TARGET_DIR
tree=$CARGO_TARGET_DIR/tree
logs=$(mktemp -d)
trap 'rm -rf "$tree" "$logs"' EXIT

# One copy serves all patches. A patch and its removal give the changed files new modification times, so
# cargo builds again what depends on them, and nothing else. At the start all files get new ones: cargo
# must not reuse the build of a patch that an earlier run has left behind.
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard \
    | while IFS= read -r -d '' file; do [[ ! -e $file ]] || printf '%s\0' "$file"; done \
    | tar --create --null --files-from=- \
    | tar --extract --touch --directory="$tree"

# judge PATCH LOG: prints the result: "caught" if every named test run failed, with the number of seeds if
# the simulation found it.
judge() {
    local patch=$root/$1 log=$2 tests line arguments status seeds=
    mapfile -t tests < <(sed -n '/^\(diff \|--- \)/q; s/^# test: *//p' "$patch")
    ((${#tests[@]} > 0)) || { echo "names no test"; return; }
    cd "$tree"
    for line in "${tests[@]}"; do
        read -ra arguments <<<"$line"
        cargo test --locked --no-run "${arguments[@]}" >>"$log" 2>&1 </dev/null \
            || { echo "does not compile"; return; }
        status=0
        timeout "$limit" cargo test --locked "${arguments[@]}" >"$log.run" 2>&1 </dev/null \
            || status=$?
        cat "$log.run" >>"$log"
        if ! grep -q '^running [1-9]' "$log.run"; then
            echo "ran no test"
            return
        elif ((status == 0)); then
            echo "survived"
            return
        elif ((status == 124)); then
            echo "timed out"
            return
        elif ! grep -q '^test result: FAILED' "$log.run"; then
            echo "no test failed"
            return
        fi
        # The simulation says how many seeds it needed.
        seeds=$(sed -n 's/^\([0-9]* seeds\) in .*/\1/p' "$log.run" | tail -n 1 | grep . || echo "$seeds")
    done
    echo "caught${seeds:+, $seeds}"
}

# levels PATCH: prints which tests the patch names: simulation, unit, contract, api, e2e.
levels() {
    sed -n '/^\(diff \|--- \)/q; s/^# test: *//p' "$1" \
        | sed 's/^--test \([a-z]*\).*/\1/; t; s/.*/unit/' | awk '!seen[$0]++' | paste -sd,
}

failed=0
rows=()
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    log=$logs/$name.log
    began=$SECONDS
    if (cd "$tree" && git apply "$root/$patch") >"$log" 2>&1; then
        verdict=$(judge "$patch" "$log")
        (cd "$tree" && git apply --reverse "$root/$patch")
    else
        verdict="does not apply"
    fi
    if [[ $verdict != caught* ]]; then
        failed=$((failed + 1))
        tail -n 40 "$log" >&2
    fi
    why=$(sed -n '/^\(diff \|--- \)/q; s/^# why: *//p' "$patch")
    row=$(printf '%-32s %-16s %-18s %4d s  %s' \
        "$name" "$(levels "$patch")" "$verdict" $((SECONDS - began)) "${why%%$'\n'*}")
    echo "$row" >&2
    rows+=("$row")
done

printf '%-32s %-16s %-18s %6s  %s\n' mutant 'found by' result time why
printf '%s\n' "${rows[@]}"
echo "$((${#patches[@]} - failed)) caught, $failed not caught, $SECONDS s"
((failed == 0))

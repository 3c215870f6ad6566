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

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# All mutants share one target directory, so that the dependencies are built once.
export CARGO_TARGET_DIR=$root/target/mutants
export KEYWARD_TEST_PYTHON=${KEYWARD_TEST_PYTHON:-$root/target/venv/bin/python}
# git must not find a repository above the copy, because it would then skip the whole patch.
export GIT_CEILING_DIRECTORIES=$work

# Copies the tree. The copied files get new modification times; otherwise cargo would reuse the build of
# the previous mutant.
copy_tree() {
    rm -rf "$work/tree"
    mkdir "$work/tree"
    git ls-files -z --cached --others --exclude-standard \
        | while IFS= read -r -d '' file; do [[ ! -e $file ]] || printf '%s\0' "$file"; done \
        | tar --create --null --files-from=- \
        | tar --extract --touch --directory="$work/tree"
}

# judge PATCH LOG: prints the result: "caught" if every named test run failed, with the number of seeds if
# the simulation found it.
judge() {
    local patch=$root/$1 log=$2 tests line arguments status
    mapfile -t tests < <(sed -n '/^\(diff \|--- \)/q; s/^# test: *//p' "$patch")
    ((${#tests[@]} > 0)) || { echo "names no test"; return; }
    cd "$work/tree"
    git apply "$patch" >>"$log" 2>&1 || { echo "does not apply"; return; }
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
    done
    # The simulation says how many seeds it needed.
    sed -n 's/^\([0-9]* seeds\) in .*/caught (\1)/p' "$log.run" | tail -n 1 | grep . || echo "caught"
}

failed=0
rows=()
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    log=$work/$name.log
    echo "mutant $name" >&2
    copy_tree
    verdict=$(judge "$patch" "$log")
    if [[ $verdict != caught* ]]; then
        failed=$((failed + 1))
        [[ ! -e $log ]] || tail -n 40 "$log" >&2
    fi
    why=$(sed -n '/^\(diff \|--- \)/q; s/^# why: *//p' "$patch")
    rows+=("$(printf '%-32s %-16s %s' "$name" "$verdict" "${why%%$'\n'*}")")
done

printf '%-32s %-16s %s\n' mutant result why
printf '%s\n' "${rows[@]}"
echo "$((${#patches[@]} - failed)) caught, $failed not caught"
((failed == 0))

#!/bin/sh
# Sends a job to jobproxy with curl, and prints its result: curl_client.sh URL JOB
set -u
url=$1
job=$2
# Seconds: the proxy's --wait, and all attempts together.
wait=30
patience=300

key=$(uuidgen 2>/dev/null || cat /proc/sys/kernel/random/uuid)
origin=$(printf '%s\n' "$url" | sed 's#^\([a-z]*://[^/]*\).*#\1#')
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

# Prints a header of the last response.
header() {
    tr -d '\r' <"$folder/head" | grep -i "^$1:" | tail -n 1 | sed 's/^[^:]*: *//'
}

# Prints a member of the last problem. Quotes inside a text have a backslash, so none is mistaken.
member() {
    sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$folder/body"
}

no_result() {
    { printf 'no result: ' && cat "$folder/problem"; } >&2
    exit 1
}

printf '{"detail": "There was no response.", "started": "unknown"}\n' >"$folder/problem"
# The path to ask for the result, once the job may run.
place=
end=$(($(date +%s) + patience))
while [ "$(date +%s)" -lt "$end" ]; do
    : >"$folder/head"
    set -- --silent --max-time $((wait + 5)) --dump-header "$folder/head" --output "$folder/body"
    if [ -z "$place" ]; then
        status=$(curl "$@" --write-out '%{http_code}' --header 'Content-Type: application/json' \
            --header "Idempotency-Key: $key" --data-binary "$job" "$url")
    else
        status=$(curl "$@" --write-out '%{http_code}' --header "Prefer: wait=$wait" "$origin$place")
    fi
    got=$?
    if [ "$got" = 0 ] && [ "$status" = 200 ]; then
        cat "$folder/body"
        exit
    fi
    if [ "$got" = 0 ] && [ "$status" = 202 ]; then
        place=$(header Location)
        continue
    fi
    if [ "$got" != 0 ] || [ "$(header Content-Type)" != application/problem+json ]; then
        # The job may run or not. With the same key it is not started again.
        sleep 1
        continue
    fi
    cp "$folder/body" "$folder/problem"
    pause=$(header Retry-After)
    case $(member started),$status in
    no,*)
        [ -n "$pause" ] || no_result
        place=
        ;;
    *,404 | *,409)
        no_result
        ;;
    *)
        instance=$(member instance)
        [ -n "$instance$pause" ] || no_result
        place=${instance:-$place}
        ;;
    esac
    [ "${pause:-0}" -lt "$patience" ] || no_result
    sleep "${pause:-0}"
done
no_result

#!/usr/bin/env bash
# curl against a running server with the bundled model: what goes over the wire, byte by byte.
#
#     tests/clients/curl.sh http://127.0.0.1:8000
set -euo pipefail
url=${1%/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
question='Numbers: [30, 100, 93]\nTarget: 23'
answer='(93+30)-100'

fail() {
    echo "FAILED $*"
    cat "$work/head" "$work/body" 2>/dev/null || true
    exit 1
}

# ask PATH [curl's options...]: the reply's head and body go to files, its status to $status.
ask() {
    local path=$1
    shift
    status=$(curl -sS -m 60 -D "$work/head" -o "$work/body" -w '%{http_code}' "$@" "$url$path") ||
        fail "curl ended with $? for $path"
}

# post PATH JSON [curl's options...]
post() {
    local path=$1 body=$2
    shift 2
    ask "$path" -H 'Content-Type: application/json' -d "$body" "$@"
}

# The status is $1, and the body matches the extended regular expression $2.
expect() {
    [ "$status" = "$1" ] || fail "status $status instead of $1"
    grep -qE -- "$2" "$work/body" || fail "no $2 in the body"
}

header() {
    grep -qiE "^$1"$'\r$' "$work/head" || fail "no header $1"
}

curl --version | head -1 | cut -d' ' -f1-2

ask /health && expect 200 '^\{"status":"ok"\}$'
ask /ready && expect 200 '^\{"status":"ready"\}$'
echo "ok health and readiness"

post /v1/completions "{\"prompt\": \"$question\"}"
expect 200 '"object":"text_completion"'
expect 200 "\"text\":\"${answer//[()+]/.}\""
expect 200 '"finish_reason":"stop","logprobs":null'
header 'content-type: application/json'
header 'x-request-id: .+'
echo "ok whole completion"

post /v1/chat/completions "{\"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}"
expect 200 "\"message\":\{\"role\":\"assistant\",\"content\":\"${answer//[()+]/.}\",\"refusal\":null\}"
echo "ok whole chat"

post /v1/completions "{\"prompt\": \"$question\", \"stream\": true, \"stream_options\": {\"include_usage\": true}}" -N
expect 200 '"choices":\[\],"usage":\{"prompt_tokens":[0-9]+,"completion_tokens":[0-9]+,"total_tokens":[0-9]+\}'
header 'content-type: text/event-stream'
header 'cache-control: no-cache'
header 'x-accel-buffering: no'
[ "$(grep -vcE '^(data: .+)?$' "$work/body")" = 0 ] || fail "a line that is no event"
[ "$(grep -v '^$' "$work/body" | tail -1)" = 'data: [DONE]' ] || fail "the stream does not end with [DONE]"
text=$(sed -nE 's/.*"text":"([^"]*)".*/\1/p' "$work/body" | tr -d '\n')
[ "$text" = "$answer" ] || fail "streamed $text"
echo "ok completion as server-sent events"

post /v1/chat/completions "{\"messages\": [{\"role\": \"user\", \"content\": \"$question\"}], \"stream\": true}" -N
expect 200 '"delta":\{"role":"assistant","content":""\}'
text=$(sed -nE 's/.*"delta":\{"content":"([^"]*)".*/\1/p' "$work/body" | tr -d '\n')
[ "$text" = "$answer" ] || fail "streamed $text"
echo "ok chat as server-sent events"

post /v1/completions '{"prompt": "a"' && expect 400 '"message":"the body is not valid JSON: .*"type":"invalid_request_error"'
post /v1/completions '{"prompt": "a", "n": "x"}' && expect 400 '"param":"n","code":null'
post /v1/completions '{"prompt": "a", "n": 0}' && expect 400 '"param":"n","code":"invalid_value"'
post /v1/chat/completions '{"messages": [{"role": "tool", "content": "a"}]}' && expect 400 '"code":"unsupported_parameter"'
post /v1/completions '{"prompt": "a", "max_tokens": 100000}' && expect 400 '"code":"context_length_exceeded"'
post /v1/completions '{"prompt": "a", "model": "other"}' && expect 404 '"code":"model_not_found"'
ask /v1/nothing && expect 404 '"type":"invalid_request_error"'
ask /v1/completions && expect 405 '"error"' && header 'allow: POST'
ask /v1/completions -d '{"prompt": "a"}' && expect 415 'application/json'
head -c 5000000 /dev/zero | tr '\0' ' ' >"$work/large"
post /v1/completions "@$work/large" && expect 413 '"error"'
post /v1/completions "@$work/large" -H 'Expect: 100-continue' && expect 413 '"error"'
echo "ok errors"

ask /v1/models -I && expect 200 ''
header 'content-length: [1-9][0-9]*'
! grep -q '{' "$work/body" || fail "HEAD has a body"
ask /v1/models -X OPTIONS && expect 405 '"error"' && header 'allow: GET,HEAD'
echo "ok HEAD and OPTIONS"

ask /v1/models && expect 200 '"id":"countdown","object":"model"'
ask /v1/models/countdown && expect 200 '"max_model_len":512'
post /tokenize "{\"prompt\": \"$question\"}" && expect 200 '"count":[1-9]'
ids=$(sed -E 's/.*"tokens":(\[[0-9,]*\]).*/\1/' "$work/body")
post /detokenize "{\"tokens\": $ids}" && expect 200 'Numbers: \[30, 100, 93\]\\nTarget: 23'
post /v1/completions "{\"prompt\": $ids}" --http1.0 && expect 200 "\"text\":\"${answer//[()+]/.}\""
echo "ok models, tokens, HTTP 1.0"

ask /metrics && expect 200 '^evotoken_sequences_finished_total\{outcome="stop"\} [1-9]'
header 'content-type: text/plain; version=0.0.4; charset=utf-8'
ask /openapi.yaml && expect 200 '^openapi: 3.1.0'
ask /docs/ && expect 200 '<html'
echo "ok metrics and documentation"

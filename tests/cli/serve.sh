#!/usr/bin/env bash
# minke serve on a small random model: every endpoint, streams, errors, keys, CORS, a drain.
set -u
. tests/cli/check.sh
. tests/cli/small_model.sh
folder=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill -9 $server 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder" || exit 1
small_model && start_server --log requests
check "a server on a port of its own choice says where it is" $?

post() {   # path, body
    curl -s --max-time 60 -H 'Content-Type: application/json' "$url$1" -d "$2"
}
status() {   # path, body, status: the answer has this status and is an error in OpenAI's form
    local code
    code=$(curl -s --max-time 60 -o error -w '%{http_code}' "$url$1" ${2:+-d "$2"})
    [ "$code" = "$3" ] && grep -q '^{"error":{"message":"..*","type":"[a-z_]*","param":.*,"code":.*}}$' error
}
has() {   # file, texts...: all of them are there
    local file=$1 piece
    shift
    for piece in "$@"; do
        grep -qF -- "$piece" "$file" || { printf '  %s lacks: %s\n' "$file" "$piece"; head -c 600 "$file"; echo; return 1; }
    done
}

# ---- What there is ----
curl -s "$url/health" > a && has a '{"status":"ok"}'
check "/health" $?
curl -s "$url/v1/models" > a && has a '"id":"model"' '"object":"list"' '"max_model_len":2048'
check "/v1/models" $?
curl -s "$url/v1/models/model" > a && has a '"id":"model"' && status /v1/models/other '' 404
check "/v1/models/NAME" $?
post /tokenize '{"prompt":"The quick brown"}' > a && has a '"count":' '"tokens":[0,' '"max_model_len":2048'
check "/tokenize puts BOS in front" $?
post /tokenize '{"prompt":"The quick brown","add_special_tokens":false,"return_token_strs":true}' > a
ids=$(sed -n 's/.*"tokens":\(\[[0-9,]*\]\).*/\1/p' a)
[ -n "$ids" ] && ! grep -q '"tokens":\[0,' a && has a '"token_strs":["T"' &&
    [ "$(printf 'The quick brown\n' | "$MINKE" tokenize model | tr -d ' ')" = "$ids" ]
check "/tokenize without BOS gives what minke tokenize gives" $?
post /detokenize "{\"tokens\":$ids}" > a && has a '"prompt":"The quick brown"'
check "/detokenize" $?
post /tokenize '{"messages":[{"role":"user","content":"hi"}]}' > a && has a '"tokens":[0,'
check "/tokenize of a conversation" $?
curl -s "$url/tokenizer_info" > a && has a '"eos_token":"<｜end▁of▁sentence｜>"' '"bos_token":"<｜begin▁of▁sentence｜>"' '"chat_template":'
check "/tokenizer_info" $?
curl -s -D head "$url/" > a && has head '200 OK' 'text/html' 'Content-Security-Policy' && has a '<html'
check "the page" $?
etag=$(sed -n 's/^ETag: \(.*\)\r$/\1/p' head)
[ "$(curl -s -o /dev/null -w '%{http_code}' -H "If-None-Match: $etag" "$url/")" = 304 ]
check "the page is not sent again" $?

# ---- Completions ----
post /v1/completions '{"prompt":"The quick","max_tokens":8,"temperature":0}' > one
has one '"object":"text_completion"' '"finish_reason":"length"' '"completion_tokens":8' '"prompt_tokens":4' '"cached_tokens":'
check "a completion" $?
text=$(sed -n 's/.*"text":\("[^"]*"\),"logprobs".*/\1/p' one)
post /v1/completions '{"prompt":[0,54,259,311],"max_tokens":8,"temperature":0}' > a
post /tokenize '{"prompt":"The quick"}' > ids
prompt_ids=$(sed -n 's/.*"tokens":\(\[[0-9,]*\]\).*/\1/p' ids)
post /v1/completions "{\"prompt\":$prompt_ids,\"max_tokens\":8,\"temperature\":0}" > a && has a "\"text\":$text"
check "the same from ids, without a second BOS" $?
post /v1/completions '{"prompt":["The quick","Line 3"],"n":2,"max_tokens":3}' > a && has a '"index":0' '"index":3' && ! grep -q '"index":4' a
check "several prompts, several answers" $?
post /v1/completions '{"prompt":"The quick brown fox","max_tokens":1,"logprobs":1,"echo":true,"seed":1234,"temperature":0}' > a
has a '"text":"The quick brown fox' '"token_logprobs":[null,-' '"top_logprobs":[null,{' '"text_offset":[0,0,1,' '"tokens":["<｜begin▁of▁sentence｜>","T"'
check "echo with the prompt's log-probabilities" $?
values() { sed -n 's/.*"token_logprobs":\[null,\([^]]*\)\].*/\1/p' "$1" | tr ',' '\n'; }
post /v1/completions '{"prompt":"The quick brown fox","max_tokens":0,"logprobs":0,"echo":true}' > b
[ "$(values b | wc -l)" -eq $(($(values a | wc -l) - 1)) ] && [ "$(values a | head -n -1)" = "$(values b)" ]
check "a prompt that is only scored" $?
post /v1/completions '{"prompt":"The quick","max_tokens":30,"temperature":1,"seed":7}' > a
post /v1/completions '{"prompt":"The quick","max_tokens":30,"temperature":1,"seed":7}' > b
post /v1/completions '{"prompt":"The quick","max_tokens":30,"temperature":1,"seed":8}' > c
answer() { sed -n 's/.*"choices":\(.*\),"usage".*/\1/p' "$1"; }
[ "$(answer a)" = "$(answer b)" ] && [ "$(answer a)" != "$(answer c)" ]
check "a seed decides" $?
post /v1/completions '{"prompt":"The quick","max_tokens":30,"temperature":1,"top_p":0,"seed":7}' > a
post /v1/completions '{"prompt":"The quick","max_tokens":30,"temperature":0}' > b
[ "$(answer a)" = "$(answer b)" ]
check "top_p 0 takes the likeliest token" $?
post /v1/completions '{"prompt":"x","max_tokens":4,"temperature":0,"logit_bias":{"80":100}}' > a && has a '"text":"nnnn"'
check "logit_bias" $?
post /v1/completions '{"prompt":"x","max_tokens":9,"temperature":0,"logit_bias":{"80":100},"stop":["z","nnn"],"logprobs":0}' > a
has a '"text":""' '"finish_reason":"stop"' '"completion_tokens":3' '"tokens":[]'
check "a stop string over three tokens" $?
post /v1/completions '{"prompt":"x","max_tokens":2,"temperature":0,"logit_bias":{"80":100},"stop":"nnn"}' > a
has a '"text":"nn"' '"finish_reason":"length"'
check "the beginning of a stop string is given back at the end" $?
post /v1/completions '{"prompt":"x","max_tokens":9,"logit_bias":{"1":100}}' > a && has a '"text":""' '"finish_reason":"stop"'
check "an end token ends, and is not shown" $?
post /v1/completions '{"prompt":"x","max_tokens":3,"logit_bias":{"1":100},"ignore_eos":true}' > a && has a '"finish_reason":"length"'
check "ignore_eos" $?
post /beta/completions '{"prompt":"def f(","suffix":"return x","max_tokens":3}' > a && has a '"text":' '"completion_tokens":3'
check "fill in the middle" $?

# ---- Chat ----
chat='"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Hello"}]}]'
post /v1/chat/completions "{$chat,\"max_tokens\":6,\"temperature\":0,\"logprobs\":true,\"top_logprobs\":2}" > a
has a '"object":"chat.completion"' '"role":"assistant"' '"content":' '"top_logprobs":[{"token":' '"bytes":[' '"finish_reason":"length"'
check "a chat" $?
curl -sN "$url/v1/chat/completions" -D head -d "{$chat,\"max_tokens\":6,\"temperature\":0,\"stream\":true,\"stream_options\":{\"include_usage\":true}}" > s
has head 'text/event-stream' && has s 'data: [DONE]' '"object":"chat.completion.chunk"' '"delta":{"role":"assistant"' '"choices":[],"usage":{' \
    '"finish_reason":"length"' && [ "$(tail -c 16 s | tr -d '\n')" = "data: [DONE]" ]
check "a stream" $?
post /v1/chat/completions "{$chat,\"max_tokens\":2,\"model\":\"deepseek-chat\"}" > a && has a '"model":"deepseek-chat"'
check "the model's name at DeepSeek" $?
post /v1/chat/completions "{$chat,\"max_tokens\":60,\"temperature\":1,\"seed\":2,\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":{\"type\":\"object\",\"properties\":{\"yes\":{\"type\":\"boolean\"}},\"required\":[\"yes\"],\"additionalProperties\":false}}}}" > a
has a '\"yes\"' '"finish_reason":"stop"'
check "an answer that follows a JSON schema" $?

# ---- Mistakes ----
status /v1/completions '{"prompt":"x","n":100000}' 400 && has error '"param":"n"'
check "too many answers: 400" $?
status /v1/completions '{"prompt":"x","model":"gpt-9"}' 404 && has error model_not_found
check "an unknown model: 404" $?
status /v1/completions "{\"prompt\":\"$(head -c 20000 text | tr '\n"' '  ')\"}" 400 && has error context_length_exceeded
check "a prompt longer than the context: 400" $?
status /v1/chat/completions '{"messages":[{"role":"robot","content":"x"}]}' 400 && has error 'messages[0].role'
check "an unknown role: 400" $?
status /v1/chat/completions "{$chat,\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":{\"not\":{}}}}}" 400
check "a schema keyword that is not supported: 400" $?
status /v1/completions '{"prompt":"x","logprobs":21}' 400 && status /v1/completions '{"prompt":' 400 && status /v1/completions '' 405 && status /nowhere '' 404
check "range, syntax, method, path" $?
head -c 17000000 /dev/zero | tr '\0' ' ' > big
[ "$(curl -s -o error -w '%{http_code}' "$url/v1/completions" --data-binary @big)" = 413 ]
check "a body too large: 413" $?
exec 3<>"/dev/tcp/127.0.0.1/${url##*:}" &&
    printf 'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{' >&3 &&
    read -r -t 10 line <&3 && [[ $line == *' 413 '* ]]
check "a body announced to be enormous: 413 at once" $?
exec 3>&-
curl -s -o error -H "X-Junk: $(head -c 100000 /dev/zero | tr '\0' 'a')" -w '%{http_code}' "$url/health" | grep -q '^4[0-9][0-9]$'
check "headers too large" $?

# ---- The rest ----
curl -s "$url/metrics" > a && has a 'minke_answer_tokens_total ' 'minke_time_to_first_token_seconds_bucket{le="+Inf"} ' \
    'minke_time_per_token_seconds_count ' 'minke_mtp_drafted_total{position="0"}' 'minke_requests_waiting 0' 'minke_cache_tokens ' &&
    ! grep -vE '^(# (HELP|TYPE) [a-z_]+ .*|[a-z_]+(\{[^}]*\})? -?[0-9.e+-]+)$' a
check "/metrics" $?
curl -s "$url/engine" > a && has a '"chat_style":"v3_0324"' '"cache_tokens_total":' '"expert_load":[[' '"sampling":{"temperature":' '"waiting":0'
check "/engine" $?
long='{"prompt":"The quick","max_tokens":1900,"n":128,"temperature":1,"ignore_eos":true}'
curl -s --max-time 1 "$url/v1/completions" -d "$long" > a
curl -sN --max-time 1 "$url/v1/completions" -d "${long%\}},\"stream\":true}" > b
for _ in $(seq 1 100); do
    curl -s "$url/engine" > a
    grep -q '"waiting":0,"running":0' a && break
    sleep 0.1
done
curl -s "$url/metrics" > c
has a '"waiting":0,"running":0' && has c 'minke_disconnects_total 2' && ! grep -q 'reason="cancelled"} 0' c && has b ': keep-alive' 'data: {'
check "clients that hang up are no longer computed for" $?
[ "$(grep -c '/v1/completions 200' messages)" -gt 10 ] && has messages 'serving model: context 2048 tokens'
check "the access log" $?
curl -sN "$url/v1/completions" -d '{"prompt":"The quick","max_tokens":200,"ignore_eos":true,"stream":true}' > s &
client=$!
sleep 0.3
kill -TERM "$server"
wait "$server"
ended=$?
wait "$client"
[ "$ended" -eq 0 ] && has s '"finish_reason":"length"' 'data: [DONE]'
check "SIGTERM: what runs is finished, exit status 0" $?

printf 'sk-one\nsk-two\n' > keys
start_server --api-key-file keys --threads 1 --cors https://example.org --log none --max-n 128 --reuse-ids --name small --no-mtp
status /v1/models '' 401 && has error invalid_api_key && [ "$(curl -s -o a -w '%{http_code}' "$url/health")" = 200 ] &&
    [ "$(curl -s -o a -w '%{http_code}' -H 'Authorization: Bearer sk-two' "$url/v1/models")" = 200 ] && has a '"id":"small"' &&
    [ "$(curl -s -o a -w '%{http_code}' -H 'Authorization: Bearer sk-tw' "$url/v1/models")" = 401 ]
check "API keys" $?
curl -s -D head -o /dev/null -X OPTIONS "$url/v1/completions" && has head ' 204 ' 'Access-Control-Allow-Origin: https://example.org'
check "CORS" $?
key() { curl -s -H 'Authorization: Bearer sk-one' "$url$1" -d "$2"; }
key /v1/chat/completions '{"messages":[{"role":"user","content":"Hello"}],"max_tokens":100,"temperature":1,"seed":3,
    "logit_bias":{"54":100,"74":100,"71":100,"259":100,"311":100,"305":100}}' > a
content=$(sed -n 's/.*"content":\("\([^"\\]\|\\.\)*"\),"refusal".*/\1/p' a)
key /v1/chat/completions "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"},{\"role\":\"assistant\",\"content\":$content},{\"role\":\"user\",\"content\":\"And?\"}],\"max_tokens\":2}" > b
hit=$(sed -n 's/.*"prompt_cache_hit_tokens":\([0-9]*\).*/\1/p' b)
[ "${hit:-0}" -ge 64 ]
check "the next turn of a conversation finds its own answer in the cache (${hit:-no} tokens)" $?
key /v1/completions "$long" > a &
client=$!
sleep 0.5
kill -TERM "$server"
sleep 0.3
kill -TERM "$server"
wait "$server"
ended=$?
wait "$client"
[ "$ended" -eq 0 ] && has a '"code":"cancelled"'
check "a second signal cancels what runs" $?
[ "$(wc -l < messages)" -eq 3 ]
check "a quiet log" $?
server=
"$MINKE" serve model --port 70000 2>messages
[ $? -eq 2 ] && [ "$(wc -l < messages)" -eq 1 ]
check "an impossible port: one line" $?
"$MINKE" serve model --host nonsense 2>messages
[ $? -eq 1 ] && has messages 'nonsense' && [ "$(wc -l < messages)" -eq 1 ]
check "an impossible address: one line" $?
exit $failed

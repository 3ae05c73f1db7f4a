-- The request of the other contestants, from the environment; the summary as one line of JSON.
wrk.method = "PATCH"
wrk.path = os.getenv("BENCH_PATH")
wrk.body = os.getenv("BENCH_BODY")
for _, name in ipairs({ "Accept", "Content-Type", "Authorization" }) do
  wrk.headers[name] = os.getenv("BENCH_" .. name)
end

function done(summary)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "errors": %d}\n',
    summary.requests,
    summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end

// The official client with a pool of promises. Reads a task as JSON from stdin, prints results as JSON.
"use strict";

const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const http = require("node:http");

const task = JSON.parse(readFileSync(0, "utf8"));
const { baseUrl, inFlight, warmUp, count, context, serverPid, ticks } = task;
const required = createRequire(task.modules);
const { RestAPIClient } = required("@cognigy/rest-api-client");

// The client has no setting for connections. Node keeps them open by default; this agent also keeps one
// for each request in flight, so that none is opened while it is measured.
const agent = new http.Agent({ keepAlive: true, maxSockets: inFlight, maxFreeSockets: inFlight });
createRequire(required.resolve("@cognigy/rest-api-client"))("axios").defaults.httpAgent = agent;

const client = new RestAPIClient({ baseUrl });
client.setCredentials({ type: "ApiKey", apiKey: "key" });

function serverCpu() {
  try {
    const stat = readFileSync(`/proc/${serverPid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / ticks;
  } catch {
    return 0;
  }
}

async function run(start, end) {
  let number = start;
  async function worker() {
    while (number < end) {
      const n = number++;
      const values = { bench: { ...context.bench, n } };
      await client.injectContext({ sessionId: `d${n}`, userId: "u", context: values });
    }
  }
  await Promise.all(Array.from({ length: inFlight }, worker));
}

(async () => {
  await run(0, warmUp);
  const server = serverCpu();
  const cpu = process.cpuUsage();
  const began = process.hrtime.bigint();
  await run(warmUp, warmUp + count);
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  const { user, system } = process.cpuUsage(cpu);
  agent.destroy();
  process.stdout.write(
    JSON.stringify({
      per_second: count / seconds,
      cpu_us: (user + system) / count,
      server_share: (serverCpu() - server) / seconds,
    }),
  );
})();

// Makes calls with the official client, as a JSON object on stdin says, and prints as JSON what became
// of each one.
"use strict";

const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");

const { modules, baseUrl, credentials, login, calls } = JSON.parse(readFileSync(0, "utf8"));
const { RestAPIClient } = createRequire(modules)("@cognigy/rest-api-client");

async function outcome(call) {
  try {
    return { value: (await call()) ?? null };
  } catch (error) {
    const { message, code, loggerstack } = error;
    return { error: error.constructor.name, message, code, traceId: loggerstack?.traceId };
  }
}

(async () => {
  const client = new RestAPIClient({ baseUrl });
  client.setCredentials(credentials);
  const outcomes = login ? [await outcome(() => client.login(login))] : [];
  for (const [name, args] of calls) {
    outcomes.push(await outcome(() => client[name](args)));
  }
  process.stdout.write(JSON.stringify(outcomes));
})();

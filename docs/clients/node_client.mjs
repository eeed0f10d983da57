// Sends a job to jobproxy with fetch, and prints its result: node node_client.mjs URL JOB
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

// Seconds: the proxy's --wait, and all attempts together.
const WAIT = 30;
const PATIENCE = 300;

class NoResult extends Error {}

/** Returns the result of a job, which is started once at most. */
async function runJob(url, job) {
  const key = randomUUID();
  // Where to ask for the result, once the job may run.
  let place = null;
  let problem = { detail: "There was no response.", started: "unknown" };
  const end = performance.now() + PATIENCE * 1000;
  while (performance.now() < end) {
    let response, body;
    try {
      const signal = AbortSignal.timeout((WAIT + 5) * 1000);
      if (place === null) {
        const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
        response = await fetch(url, { method: "POST", body: job, headers, signal });
      } else {
        response = await fetch(place, { headers: { Prefer: `wait=${WAIT}` }, signal });
      }
      body = Buffer.from(await response.arrayBuffer());
    } catch {
      // The job may run or not. With the same key it is not started again.
      await sleep(1000);
      continue;
    }
    if (response.status === 200) return body;
    if (response.status === 202) {
      place = new URL(response.headers.get("Location"), url);
      continue;
    }
    if (response.headers.get("Content-Type") !== "application/problem+json") {
      // Something between responds instead of jobproxy.
      await sleep(1000);
      continue;
    }
    problem = JSON.parse(body);
    const pause = response.headers.get("Retry-After");
    if (problem.started === "no" && pause !== null) {
      place = null;
    } else if (problem.started === "no" || [404, 409].includes(response.status)) {
      break;
    } else if (problem.instance !== undefined) {
      place = new URL(problem.instance, url);
    } else if (pause === null) {
      break;
    }
    await sleep(Math.min(Number(pause ?? 0), PATIENCE) * 1000);
  }
  throw new NoResult(JSON.stringify(problem));
}

try {
  process.stdout.write(await runJob(process.argv[2], process.argv[3]));
} catch (error) {
  if (!(error instanceof NoResult)) throw error;
  console.error(`no result: ${error.message}`);
  process.exitCode = 1;
}

// A gateway with Node's own http module, carefully written. It has no account limiter, no signed
// tokens and no strict parsing: only the path of a job.
'use strict';

const { randomBytes } = require('node:crypto');
const http = require('node:http');
const { parseArgs } = require('node:util');

const WAIT = 30_000;
const START_TIMEOUT = 10_000;
const MAX_STARTS = 256;

const { values: options } = parseArgs({
  options: {
    port: { type: 'string' },
    'callback-url': { type: 'string' },
    'job-server-url': { type: 'string' },
  },
});
const callbackUrl = options['callback-url'];
const jobServer = new URL(options['job-server-url']);
const agent = new http.Agent({ keepAlive: true, maxSockets: MAX_STARTS });
const waiting = new Map();

function readBody(stream) {
  return new Promise((resolve, reject) => {
    const chunks = [];
    stream.on('data', (chunk) => chunks.push(chunk));
    stream.on('end', () => resolve(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks)));
    stream.on('error', reject);
  });
}

function send(response, status, body) {
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(body),
  });
  response.end(body);
}

function start(body) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        agent,
        host: jobServer.hostname,
        port: jobServer.port,
        path: jobServer.pathname,
        method: 'POST',
        timeout: START_TIMEOUT,
        headers: {
          'Content-Type': 'application/json',
          'Content-Length': Buffer.byteLength(body),
        },
      },
      (response) => {
        // The connection is free for the next start request once the body has been read.
        readBody(response).then(() => {
          if (response.statusCode >= 200 && response.statusCode < 300) resolve();
          else reject(new Error(`the job server responded ${response.statusCode}`));
        }, reject);
      },
    );
    request.on('timeout', () => request.destroy(new Error('the job server does not respond')));
    request.on('error', reject);
    request.end(body);
  });
}

async function proxy(request, response) {
  let job;
  try {
    job = JSON.parse(await readBody(request));
  } catch {
    send(response, 400, '{"error":"the body is not JSON"}');
    return;
  }
  const token = randomBytes(16).toString('base64url');
  let timer;
  const result = new Promise((resolve) => {
    waiting.set(token, resolve);
    timer = setTimeout(resolve, WAIT, null);
  });
  try {
    await start(JSON.stringify({ ...job, wait: false, callback: `${callbackUrl}/${token}` }));
    const body = await result;
    if (body === null) send(response, 504, '{"error":"the job did not end in time"}');
    else send(response, 200, body);
  } catch {
    send(response, 502, '{"error":"the job could not be started"}');
  } finally {
    clearTimeout(timer);
    waiting.delete(token);
  }
}

async function callback(request, response, token) {
  const body = await readBody(request);
  const resolve = waiting.get(token);
  if (resolve === undefined) {
    send(response, 404, '{"error":"nobody waits for this job"}');
    return;
  }
  resolve(body);
  send(response, 200, '{"status":"accepted"}');
}

const server = http.createServer((request, response) => {
  let handling;
  if (request.method === 'POST' && request.url === '/proxy') {
    handling = proxy(request, response);
  } else if (request.method === 'POST' && request.url.startsWith('/callback/')) {
    handling = callback(request, response, request.url.slice('/callback/'.length));
  } else {
    send(response, 404, '{"error":"nothing is served here"}');
    return;
  }
  handling.catch(() => response.destroy());
});
// Job servers with a connection pool expect more than the default of 5 s.
server.keepAliveTimeout = 75_000;
server.listen({ port: Number(options.port), host: '127.0.0.1', backlog: 4096 });
process.on('SIGTERM', () => process.exit(0));

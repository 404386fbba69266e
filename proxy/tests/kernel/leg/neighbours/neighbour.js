// A client or a node in Node.js: `http` on libuv's epoll.
//
// neighbour.js node PATTERN      says where it listens, until stdin ends
// neighbour.js client PATTERN    reads a conversation a line (plan.rs), until stdin ends
'use strict';
const fs = require('fs');
const http = require('http');
const readline = require('readline');

const PATIENCE = 20_000;
const AT_A_TIME = 4;
const [mode, path] = process.argv.slice(2);
const pattern = fs.readFileSync(path);

// The node.

function answer(what, size, body, response) {
  switch (what) {
    case 'give':
      response.writeHead(200, { 'content-length': size });
      response.write(pattern.subarray(0, size / 3));
      return response.end(pattern.subarray(size / 3, size));
    case 'rest':
      response.write(pattern.subarray(0, size / 2));
      return response.end(pattern.subarray(size / 2, size));
    case 'cut':
      response.writeHead(200, { 'content-length': size });
      response.write(pattern.subarray(0, size / 2), () => response.socket?.resetAndDestroy());
      return response;
    default:
      response.writeHead(200, { 'content-length': body.length });
      return response.end(body);
  }
}

function node() {
  const server = http.createServer((request, response) => {
    const [, what, size] = request.url.split('/');
    const body = [];
    request.on('data', (piece) => body.push(piece));
    request.on('end', () => answer(what, Number(size), Buffer.concat(body), response));
    request.on('error', () => {});
  });
  server.keepAliveTimeout = 0;
  server.listen(0, '127.0.0.1', () => console.log(`listens on 127.0.0.1:${server.address().port}`));
  process.stdin.on('end', () => process.exit()).resume();
}

// The client.

const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time));

function ask(agent, method, target, size) {
  const headers = { host: 'a' };
  if (target.startsWith('/give')) headers.range = `bytes=0-${size - 1}`;
  const request = http.request({ agent, ...agent.options.to, method, path: target, headers });
  const response = new Promise((resolve, reject) => {
    request.on('response', resolve);
    request.on('error', reject);
  });
  response.catch(() => {});
  return { request, response };
}

async function write(request, size, piece) {
  for (let at = 0; at < size; at += piece) {
    const part = pattern.subarray(at, Math.min(at + piece, size));
    if (!request.write(part)) await new Promise((resolve) => request.once('drain', resolve));
  }
  request.end();
}

async function expect(coming, size, pause = 0) {
  const response = await coming;
  if (![200, 206].includes(response.statusCode)) throw new Error(`status ${response.statusCode}`);
  if (pause) await sleep(pause);
  const body = [];
  for await (const piece of response) body.push(piece);
  const whole = Buffer.concat(body);
  if (!whole.equals(pattern.subarray(0, size))) {
    throw new Error(`${whole.length} other bytes for ${size}`);
  }
}

// What came of an answer before it ended; `until` says when to break off.
async function begun(response, until) {
  const body = [];
  let size = 0;
  try {
    for await (const piece of response) {
      body.push(piece);
      size += piece.length;
      if (size >= until) break;
    }
  } catch (error) {
    if (error.code !== 'ECONNRESET') throw error;
  }
  const whole = Buffer.concat(body);
  if (!whole.equals(pattern.subarray(0, size))) throw new Error(`${size} other bytes in the middle`);
  return size;
}

const verbs = {
  async get(agent, size, pause) {
    const { request, response } = ask(agent, 'GET', `/give/${size}`, size);
    request.end();
    await expect(response, size, pause);
  },
  async rest(agent, size) {
    const { request, response } = ask(agent, 'GET', `/rest/${size}`);
    request.end();
    await expect(response, size);
  },
  async post(agent, size, piece) {
    const { request, response } = ask(agent, 'POST', '/echo');
    request.setHeader('content-length', size);
    await write(request, size, piece);
    await expect(response, size);
  },
  async chunked(agent, size, piece) {
    const { request, response } = ask(agent, 'POST', '/echo');
    await write(request, size, piece);
    await expect(response, size);
  },
  pause: (agent, time) => sleep(time),
  async half(agent, size) {
    const { request, response } = ask(agent, 'GET', `/give/${size}`, size);
    request.on('finish', () => request.socket.end());
    request.end();
    await expect(response, size);
  },
  async reset(agent, size) {
    const { request, response } = ask(agent, 'GET', `/give/${size}`, size);
    request.end();
    const answered = await response;
    answered.on('error', () => {});
    request.on('error', () => {});
    const { socket } = request;
    await begun(answered, size / 2);
    socket.resetAndDestroy();
  },
  async cut(agent, size) {
    const { request, response } = ask(agent, 'GET', `/cut/${size}`);
    request.end();
    let answered;
    try {
      answered = await response;
    } catch (error) {
      if (error.code === 'ECONNRESET') return;
      throw error;
    }
    if (answered.statusCode === 502) {
      answered.resume();
      return;
    }
    const count = await begun(answered, Infinity);
    if (count > size / 2) throw new Error(`${count} bytes of half of ${size}`);
  },
};

async function converse(line) {
  const [address, seed, ...steps] = line.split(' ');
  const [host, port] = address.split(':');
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1, to: { host, port } });
  const late = setTimeout(() => console.log(`failed ${seed} in time: ${line}`), PATIENCE);
  try {
    for (const step of steps) {
      const [verb, ...numbers] = step.split(':');
      await verbs[verb](agent, ...numbers.map(Number));
    }
    console.log(`done ${seed}`);
  } catch (error) {
    console.log(`failed ${seed} ${error.stack.replaceAll('\n', ' ')}`);
  }
  clearTimeout(late);
  agent.destroy();
}

function client() {
  const lines = [];
  let busy = 0;
  const work = async () => {
    busy += 1;
    while (lines.length) await converse(lines.shift());
    busy -= 1;
  };
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    lines.push(line);
    if (busy < AT_A_TIME) work();
  });
}

if (mode === 'node') node();
else client();

// A greeting at /, and at /health the release that this process runs.
const { readFileSync } = require('node:fs');
const { createServer } = require('node:http');
const { join } = require('node:path');

const { greeting } = require('greeting');

const release = readFileSync(join(__dirname, 'VERSION'), 'utf8').trim();

createServer((request, response) => {
  if (request.url === '/health') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ release }));
  } else {
    response.setHeader('content-type', 'text/html; charset=utf-8');
    response.end(`<!doctype html>\n<p>${greeting}, release ${release}\n`);
  }
}).listen(process.env.PORT || 3000, '127.0.0.1');

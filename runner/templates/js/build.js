// Makes my-step.wasm of step.js and what it imports.
import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const { component } = await componentize({
  sourcePath: 'main.js',
  witPath: 'wit',
  worldName: 'step-module',
  // A step asks through `pawl:step/http`, where credentials are; the runner has no `wasi:http`.
  disableFeatures: ['http', 'fetch-event'],
});
await writeFile('my-step.wasm', component);
console.log('my-step.wasm');

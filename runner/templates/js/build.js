// Builds my-step.wasm from step.js and its imports.
import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const { component } = await componentize({
  sourcePath: 'main.js',
  witPath: 'wit',
  worldName: 'step-module',
  // A step sends requests through `pawl:step/http`, which adds the credentials; the runner has no `wasi:http`.
  disableFeatures: ['http', 'fetch-event'],
});
await writeFile('my-step.wasm', component);
console.log('my-step.wasm');
